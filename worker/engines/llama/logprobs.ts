import type { TokenLogprob } from '../../../proto/answer.ts'

/** What a caller may ask for at most; the model process computes so many of each token that is asked about. */
export const ALTERNATIVES_MAX = 20

/** One token of an answer with its alternatives, the likeliest first. */
export function logprobOf(
  token: number,
  probabilities: ReadonlyMap<number, number>,
  alternatives: number,
  bytesOf: (token: number) => Uint8Array,
): TokenLogprob {
  const likeliest = [...probabilities].sort(([, left], [, right]) => right - left).slice(0, alternatives)
  return {
    ...entry(token, probabilities.get(token) ?? 0, bytesOf),
    top_logprobs: likeliest.map(([id, probability]) => entry(id, probability, bytesOf)),
  }
}

/** Stands for a probability of nothing, as OpenAI writes it: JSON has no infinity. */
const LEAST = -9999

function entry(token: number, probability: number, bytesOf: (token: number) => Uint8Array): Omit<TokenLogprob, 'top_logprobs'> {
  const bytes = bytesOf(token)
  const logprob = probability > 0 ? Math.min(0, Math.log(probability)) : LEAST
  return { token: Buffer.from(bytes).toString('utf8'), logprob, bytes: [...bytes] }
}

/**
 * Of all tokens' probabilities only the likeliest are needed, and carrying a whole vocabulary over from native code costs
 * more than computing the token did. So: the likeliest token's true probability, and the others by their ratio to it.
 */
export function scaled(likeliest: readonly number[], firstProbability: number): Map<number, number> {
  const probabilities = new Map<number, number>()
  const scale = firstProbability / (likeliest[1] ?? 1)
  for (let place = 0; place + 1 < likeliest.length; place += 2) probabilities.set(likeliest[place]!, likeliest[place + 1]! * scale)
  return probabilities
}
