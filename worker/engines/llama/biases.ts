import type { Choice } from './sequence.ts'

/**
 * Keeps a stream's table of biases as it must be for its next token: the caller's, the frequency and presence penalties
 * as OpenAI means them (over the whole answer so far and not over the prompt; llama.cpp's own have one window for all
 * three penalties, so these two are written as biases), no end before the fewest tokens, and what is dictated. Undefined
 * where the stream never needs one.
 */
export function biasKeeper(choice: Choice, table: Map<number, number>, endTokens: () => readonly number[]): (() => void) | undefined {
  const { sampling, dictated, mustGoOn } = choice
  const { frequencyPenalty = 0, presencePenalty = 0, logitBias = {} } = sampling
  const fixed = Object.entries(logitBias).map(([token, logit]) => [Number(token), logit] as const)
  const penalises = frequencyPenalty !== 0 || presencePenalty !== 0
  if (fixed.length === 0 && !penalises && dictated === undefined && mustGoOn === undefined) return undefined
  const wished = new Map(fixed)
  const counts = new Map<number, number>()
  let counted = 0
  let special = false
  for (const [token, logit] of fixed) table.set(token, logit)
  const penalise = (): void => {
    for (; counted < choice.answer.length; counted++) {
      const token = choice.answer[counted]!
      const count = (counts.get(token) ?? 0) + 1
      counts.set(token, count)
      wished.set(token, (wished.get(token) ?? 0) - frequencyPenalty - (count === 1 ? presencePenalty : 0))
      table.set(token, wished.get(token)!)
    }
  }
  return () => {
    if (special) {
      table.clear()
      for (const [token, logit] of wished) table.set(token, logit)
      special = false
    }
    if (penalises) penalise()
    if (mustGoOn?.() === true) {
      special = true
      for (const token of endTokens()) table.set(token, Number.NEGATIVE_INFINITY)
    }
    const next = dictated?.()
    if (next === undefined) return
    special = true
    table.set(next, DICTATES)
  }
}

/** More than any model's logits differ by, and far below what a float cannot hold. */
const DICTATES = 1e6

/** How many of the latest tokens `repeatPenalty` looks at, the prompt's included, as in llama.cpp. */
export const REPEAT_PENALTY_TOKENS = 64

/** What `repeatPenalty` is about. */
export function latestTokens({ prompt, answer }: Choice): number[] {
  const fromAnswer = answer.slice(-REPEAT_PENALTY_TOKENS)
  const fromPrompt = fromAnswer.length < REPEAT_PENALTY_TOKENS ? prompt.slice(fromAnswer.length - REPEAT_PENALTY_TOKENS) : []
  return [...fromPrompt, ...fromAnswer]
}
