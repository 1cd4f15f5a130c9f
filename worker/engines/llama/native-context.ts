import type { Llama, LlamaContext, LlamaModel } from 'node-llama-cpp'
import { ALTERNATIVES_MAX, scaled } from './logprobs.ts'
import { type Chosen, NoTokenLeft } from './sequence.ts'

/**
 * llama.cpp's context and samplers, through the native doors that node-llama-cpp's own classes use. What is asked for in one turn
 * is one batch, and what is to be drawn behind it is queued with it: this process has one thread that computes, so a token is
 * drawn right after its batch, without a change of threads between.
 *
 *   one turn: compute, compute, …  ──▶  batch, draw, draw, …  (in this order, on the thread that computes)  ──▶  all answered
 *
 * Its own classes wait for the batch, take locks and settings anew for each token and only then draw: measured with SmolLM2 at
 * one stream 0.7 ms of 9 a token, with the built-in model half of all time.
 */
export class NativeContext {
  readonly #context: ContextDoor
  readonly #Sampler: SamplerDoor
  readonly #model: unknown
  /** Tells what is likeliest, and how likely. Both change nothing of what a model thinks. */
  readonly #greedy: NativeSampler
  readonly #likeliest: NativeSampler
  #asked: Asked[] = []

  /** Throws where node-llama-cpp is built differently than the version that this was written for. */
  constructor(llama: Llama, model: LlamaModel, context: LlamaContext) {
    if (process.env.UV_THREADPOOL_SIZE !== '1')
      throw new Error('this process must have UV_THREADPOOL_SIZE=1, so that what is queued is done in order')
    this.#context = opened(context, '_ctx', ['initBatch', 'addToBatch', 'decodeBatch', 'sampleToken']) as ContextDoor
    this.#Sampler = samplerDoor(llama)
    this.#model = opened(model, '_model', [])
    this.#greedy = this.sampler()
    this.#greedy.applyConfig({ temperature: 0 })
    this.#likeliest = this.sampler()
    this.#likeliest.applyConfig({ temperature: 1, topK: LIKELIEST_TOKENS, seed: 0 })
  }

  sampler(): NativeSampler {
    return new this.#Sampler(this.#model)
  }

  /**
   * Computes tokens of a sequence from a position on, and draws behind the last ones of them: the last draw behind the last token, the one before
   * it behind the token before. Sequences join best when they are asked for in rising order. A rejection leaves the sequence
   * in no known state.
   */
  compute(sequence: number, position: number, tokens: readonly number[], draws: readonly Draw[]): Promise<Chosen[]> {
    if (this.#asked.length === 0) queueMicrotask(() => this.#begin())
    return new Promise((resolve, reject) => {
      this.#asked.push({ sequence, position, tokens, draws, resolve, reject })
    })
  }

  #begin(): void {
    const asked = this.#asked
    this.#asked = []
    try {
      this.#context.initBatch(asked.reduce((sum, { tokens }) => sum + tokens.length, 0))
      const places = asked.map((one) => this.#add(one))
      const computed = this.#context.decodeBatch()
      for (const [index, { draws, resolve, reject }] of asked.entries()) {
        const drawn = draws.map((draw, nth) => this.#draw(places[index]![nth]!, draw))
        settled(computed, drawn).then(resolve, reject)
      }
    } catch (error) {
      for (const { reject } of asked) reject(error)
    }
  }

  #add({ sequence, position, tokens, draws }: Asked): Uint32Array {
    const drawn = Uint32Array.from(draws, (_, nth) => tokens.length - draws.length + nth)
    return this.#context.addToBatch(sequence, position, Uint32Array.from(tokens), drawn)
  }

  async #draw(place: number, { sampler, wantsProbabilities }: Draw): Promise<Chosen> {
    if (!wantsProbabilities) return { token: chosenOf(await this.#context.sampleToken(place, sampler).catch(notChosen)) }
    // node-llama-cpp tells probabilities after temperature, penalties, grammar and the rest have changed them; asked about is
    // what the model thought.
    const asked = [
      this.#context.sampleToken(place, sampler).catch(notChosen),
      this.#context.sampleToken(place, this.#greedy, false, true),
      this.#context.sampleToken(place, this.#likeliest, true, false),
    ] as const
    await Promise.allSettled(asked)
    const [chosen, [, , firstProbability = 1], [, ratios = []]] = await Promise.all(asked)
    const token = chosenOf(chosen)
    const probabilities = scaled(ratios, firstProbability)
    if (probabilities.has(token)) return { token, probabilities }
    // Something unlikely was chosen or forced: only then the whole vocabulary is carried over.
    const [, all = []] = await this.#context.sampleToken(place, this.#greedy, true, false)
    return { token, probabilities: scaled(all, all[1] ?? 1) }
  }
}

/** How one token is drawn. The sampler is as it shall be when `compute` is called, and is left alone until it has answered. */
export type Draw = { sampler: NativeSampler; wantsProbabilities: boolean }

/** A setting that is absent is taken back. */
export interface NativeSampler {
  applyConfig(config: SamplerConfig): void
  dispose(): void
}

export type SamplerConfig = {
  temperature?: number
  topK?: number
  topP?: number
  minP?: number
  seed?: number
  repeatPenalty?: number
  repeatPenaltyMaxTokens?: number
  repeatPenaltyTokens?: Uint32Array
  tokenBiasKeys?: Uint32Array
  tokenBiasValues?: Float32Array
  grammarEvaluationState?: object
}

/** The native object that one of node-llama-cpp's classes keeps under this name, with these methods. */
export function opened(owner: object, name: string, methods: readonly string[]): object {
  const native: unknown = Reflect.get(owner, name)
  const missing = methods.find((method) => typeof Reflect.get(Object(native), method) !== 'function')
  if (native === undefined || native === null || missing !== undefined)
    throw new Error(
      `node-llama-cpp keeps its ${name}${missing === undefined ? '' : `.${missing}`} elsewhere now: install the version that package.json names`,
    )
  return native
}

export function samplerDoor(llama: Llama): SamplerDoor {
  const bindings = opened(llama, '_bindings', ['AddonSampler'])
  return opened(bindings, 'AddonSampler', ['acceptGrammarEvaluationStateToken']) as SamplerDoor
}

type SamplerDoor = {
  new (model: unknown): NativeSampler
  acceptGrammarEvaluationStateToken(state: object, token: number): void
}

interface ContextDoor {
  initBatch(tokens: number): void
  /** Returns for each token that is drawn behind where that is. */
  addToBatch(sequence: number, position: number, tokens: Uint32Array, drawn: Uint32Array): Uint32Array
  decodeBatch(): Promise<void>
  sampleToken(place: number, sampler: NativeSampler): Promise<number>
  /** Token, then pairs of token and probability, likeliest first, then the probability of the chosen one. */
  sampleToken(place: number, sampler: NativeSampler, probabilities: boolean, confidence: boolean): Promise<[number, number[]?, number?]>
}

type Asked = {
  sequence: number
  position: number
  tokens: readonly number[]
  draws: readonly Draw[]
  resolve: (drawn: Chosen[]) => void
  reject: (error: unknown) => void
}

/** All have ended when it answers, so that nothing is computed or changed under a draw. */
async function settled(computed: Promise<void>, drawn: Promise<Chosen>[]): Promise<Chosen[]> {
  await Promise.allSettled([computed, ...drawn])
  await computed
  return Promise.all(drawn)
}

function chosenOf(token: number): number {
  if (token === NOTHING_CHOSEN) throw new NoTokenLeft()
  return token
}

/** A grammar that takes nothing any more says so only by an error. */
function notChosen(error: unknown): never {
  throw error instanceof Error && error.message.startsWith('Failed to accept token in sampler') ? new NoTokenLeft() : error
}

const NOTHING_CHOSEN = -1

/** More than may be asked for, so that nearly every chosen token is among them. */
const LIKELIEST_TOKENS = 2 * ALTERNATIVES_MAX
