import { biasKeeper, latestTokens, REPEAT_PENALTY_TOKENS } from './biases.ts'
import type { NativeSampler, SamplerConfig } from './native-context.ts'
import type { Choice } from './sequence.ts'

/** Makes the samplers of one stream, and keeps them as they must be for its next tokens. */
export class Chooser {
  readonly #choice: Choice
  readonly #makeSampler: () => NativeSampler
  readonly #samplers: NativeSampler[] = []
  readonly #plain: SamplerConfig
  readonly #biases = new Map<number, number>()
  readonly #keepBiases: (() => void) | undefined

  constructor(choice: Choice, makeSampler: () => NativeSampler, endTokens: () => readonly number[]) {
    this.#choice = choice
    this.#makeSampler = makeSampler
    this.#keepBiases = biasKeeper(choice, this.#biases, endTokens)
    // What the caller leaves open is chosen as llama.cpp's own programs choose it.
    const { temperature = 0.8, topK = 40, topP = 0.95, minP = 0.05 } = choice.sampling
    this.#plain = { temperature, topK, topP, minP, seed: choice.seed }
  }

  /** Samplers for the next so many tokens: one, or with guesses one for each place. */
  ready(count: number): readonly NativeSampler[] {
    const isNew = this.#samplers.length === 0
    while (this.#samplers.length < count) this.#samplers.push(this.#makeSampler())
    const samplers = this.#samplers.slice(0, count)
    const { seedAt, answer } = this.#choice
    if (seedAt !== undefined)
      for (const [index, sampler] of samplers.entries()) sampler.applyConfig({ ...this.#plain, seed: seedAt(answer.length + index) })
    else if (isNew || this.#changes) for (const sampler of samplers) sampler.applyConfig(this.#config())
    return samplers
  }

  dispose(): void {
    for (const sampler of this.#samplers) sampler.dispose()
  }

  get #changes(): boolean {
    return this.#keepBiases !== undefined || this.#choice.grammar !== undefined || this.#repeatPenalty !== 1
  }

  get #repeatPenalty(): number {
    return this.#choice.sampling.repeatPenalty ?? 1
  }

  #config(): SamplerConfig {
    const config = { ...this.#plain }
    const grammarState = this.#choice.grammar?.()
    if (grammarState !== undefined) config.grammarEvaluationState = grammarState.native
    this.#keepBiases?.()
    if (this.#biases.size > 0) {
      config.tokenBiasKeys = Uint32Array.from(this.#biases.keys())
      config.tokenBiasValues = Float32Array.from(this.#biases.values())
    }
    if (this.#repeatPenalty !== 1) {
      config.repeatPenalty = this.#repeatPenalty
      config.repeatPenaltyMaxTokens = REPEAT_PENALTY_TOKENS
      config.repeatPenaltyTokens = Uint32Array.from(latestTokens(this.#choice))
    }
    return config
  }
}
