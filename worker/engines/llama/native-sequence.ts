import type { LlamaContextSequence } from 'node-llama-cpp'
import { Chooser } from './chooser.ts'
import type { NativeContext, NativeSampler } from './native-context.ts'
import type { Choice, Chosen, Drawn, Sequence, TokenSource } from './sequence.ts'

/** What a sequence asks of its model. */
export type SequenceModel = { endsGeneration(token: number): boolean; endTokens(): readonly number[] }

/**
 * One sequence of a context. node-llama-cpp's own object cuts, saves and loads what it holds; tokens are computed and drawn past it, and
 * it is told of them.
 */
export class NativeSequence implements Sequence {
  readonly id: number
  readonly cutsAnywhere: boolean
  readonly #sequence: LlamaContextSequence
  readonly #context: NativeContext
  readonly #model: SequenceModel

  /** Throws where node-llama-cpp is built differently than the version that this was written for. */
  constructor(id: number, sequence: LlamaContextSequence, context: NativeContext, model: SequenceModel) {
    if (!Array.isArray(Reflect.get(sequence, '_contextTokens')) || typeof Reflect.get(sequence, '_nextTokenIndex') !== 'number')
      throw new Error('node-llama-cpp keeps what a sequence holds elsewhere now: install the version that package.json names')
    this.id = id
    this.#sequence = sequence
    this.cutsAnywhere = !sequence.needsCheckpoints
    this.#context = context
    this.#model = model
  }

  held(): readonly number[] {
    return this.#sequence.contextTokens
  }

  async prefill(tokens: readonly number[]): Promise<void> {
    await this.#compute(tokens, [], false)
  }

  decode(tokens: readonly number[], choice: Choice): TokenSource {
    const chooser = new Chooser(
      choice,
      () => this.#context.sampler(),
      () => this.#model.endTokens(),
    )
    let pending = tokens
    return {
      next: async (guess) => {
        const sure = this.#sequence.nextTokenIndex + pending.length
        const drawn = await this.#compute([...pending, ...guess], chooser.ready(guess.length + 1), choice.wantsProbabilities)
        const { chosen, ended } = this.#asFarAsTrue(guess, drawn)
        if (guess.length > 0) await this.keep(sure + Math.max(0, chosen.length - 1))
        pending = chosen.slice(-1).map(({ token }) => token)
        return { chosen, ended }
      },
      close: async () => chooser.dispose(),
    }
  }

  async #compute(tokens: readonly number[], samplers: readonly NativeSampler[], wantsProbabilities: boolean): Promise<Chosen[]> {
    const position = this.#sequence.nextTokenIndex
    // Noted before it is there: where it fails, what is thrown away is all that may be there.
    noteTokens(this.#sequence, tokens)
    const draws = samplers.map((sampler) => ({ sampler, wantsProbabilities }))
    const drawn = await this.#context.compute(this.id, position, tokens, draws)
    if (!this.cutsAnywhere && position + tokens.length - this.#sequence.lastCheckpointIndex > CHECKPOINT_EVERY_TOKENS)
      await this.#sequence.takeCheckpoint()
    return drawn
  }

  /** Of the tokens drawn behind a token and its guess, those behind what came true. */
  #asFarAsTrue(guess: readonly number[], drawn: readonly Chosen[]): Drawn {
    const chosen: Chosen[] = []
    for (const [index, one] of drawn.entries()) {
      if (this.#model.endsGeneration(one.token)) return { chosen, ended: true }
      chosen.push(one)
      if (guess[index] !== one.token) break
    }
    return { chosen, ended: false }
  }

  async keep(length: number): Promise<number> {
    const held = this.#sequence.nextTokenIndex
    if (length >= held) return held
    const start = this.cutsAnywhere ? length : this.#checkpointBefore(length)
    await this.#sequence.eraseContextTokenRanges([{ start, end: held }])
    return start
  }

  /** Where else it is cut, node-llama-cpp computes all that is kept anew at once, and everybody's next token waits for that. */
  #checkpointBefore(length: number): number {
    const kept = length - this.#sequence.getRestoreToPrefixIndexEvaluationSize(length - 1)
    // Without any it says: all but the first token.
    return kept > 1 ? kept : 0
  }

  async save(file: string): Promise<number> {
    const { fileSize } = await this.#sequence.saveStateToFile(file)
    return fileSize
  }

  async load(file: string): Promise<void> {
    // A load that fails forgets what the sequence held, and llama.cpp does not: every later answer in this slot would fail.
    await this.keep(0)
    // The risk is a file of another model; these files are this process's own, in a folder nobody else can write to.
    await this.#sequence.loadStateFromFile(file, { acceptRisk: true })
  }
}

/** As often as node-llama-cpp does it by itself. */
const CHECKPOINT_EVERY_TOKENS = 8192

/** Adds to what node-llama-cpp's object knows of itself. */
function noteTokens(sequence: LlamaContextSequence, tokens: readonly number[]): void {
  const held = Reflect.get(sequence, '_contextTokens') as number[]
  held.push(...tokens)
  Reflect.set(sequence, '_nextTokenIndex', held.length)
}
