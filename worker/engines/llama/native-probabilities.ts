import { ALTERNATIVES_MAX, scaled } from './logprobs.ts'

type SampleToken = (
  logits: number,
  sampler: unknown,
  probabilities?: boolean,
  confidence?: boolean,
) => Promise<[number, number[]?, number?]>

/**
 * Stands between node-llama-cpp and its native choice of tokens.
 *
 * node-llama-cpp tells probabilities after temperature, penalties, grammar and the rest have changed them; asked about is
 * what the model thought. So a question for them is answered by samplers that change nothing, beside the one that chooses.
 * Where the library is built differently the model has no log probabilities; true: it has.
 */
export function addProbabilities(llama: object, model: object, context: object): boolean {
  const native = Reflect.get(context, '_ctx') as { sampleToken?: SampleToken } | undefined
  const Sampler = (Reflect.get(llama, '_bindings') as { AddonSampler?: NativeSamplerClass } | undefined)?.AddonSampler
  const { sampleToken } = native ?? {}
  if (native === undefined || sampleToken === undefined || Sampler === undefined) return false
  const sampler = (config: Record<string, number>): unknown => {
    const made = new Sampler(Reflect.get(model, '_model'))
    made.applyConfig(config)
    return made
  }
  const greedy = sampler({ temperature: 0 })
  const likeliest = sampler({ temperature: 1, topK: LIKELIEST_TOKENS, seed: 0 })
  const asChosen: SampleToken = async (logits, chooser, wantsProbabilities, wantsConfidence) => {
    if (wantsProbabilities !== true) return sampleToken.call(native, logits, chooser, wantsProbabilities, wantsConfidence)
    const chosen = (await sampleToken.call(native, logits, chooser)) as unknown as number
    const [, , firstProbability = 1] = await sampleToken.call(native, logits, greedy, false, true)
    const [, ratios = []] = await sampleToken.call(native, logits, likeliest, true, false)
    const probabilities = scaled(ratios, firstProbability)
    if (probabilities.has(chosen)) return [chosen, [...probabilities].flat()]
    // Something unlikely was chosen or forced: only then the whole vocabulary is carried over.
    const [, all = []] = await sampleToken.call(native, logits, greedy, true, false)
    return [chosen, all]
  }
  // The library hears of a choice that fails in none of its answers: the error would end the process, and with it everybody's
  // answer. This number is how it tells one of them that there was nothing to choose.
  const sampled: SampleToken = (...asked) =>
    asChosen(...asked).catch((error: unknown) => {
      const message = error instanceof Error ? error.message : String(error)
      trouble = message.startsWith('Failed to accept token in sampler') ? undefined : message
      return NOTHING_CHOSEN as unknown as [number]
    })
  Object.defineProperty(native, 'sampleToken', { value: sampled })
  return true
}

/** What is wrong with the model's computation, if that is why there was nothing to choose. Once. */
export function takeSamplingTrouble(): string | undefined {
  const taken = trouble
  trouble = undefined
  return taken
}

let trouble: string | undefined
const NOTHING_CHOSEN = -1

type NativeSamplerClass = new (model: unknown) => { applyConfig(config: Record<string, number>): void }

/** More than may be asked for, so that nearly every chosen token is among them. */
const LIKELIEST_TOKENS = 2 * ALTERNATIVES_MAX
