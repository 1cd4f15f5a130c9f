import type { GenerationRequest } from '../../proto/request.ts'
import type { Engine, EngineState, Generation, GenerationSink } from '../../worker/engines/engine.ts'
import type { Chance } from './simulated-time.ts'
import { FIRST, releasable, textOf, type TokenBook } from './simulated-tokens.ts'
import { Violation } from './simulated-violation.ts'

/** What a prompt does to the model: its text in a request. */
export type Prompt = 'plain' | 'poison' | 'bad'

/** A model process: it makes tokens in virtual time, crashes, loads again, and dies of poison. */
export class SimulatedEngine implements Engine {
  readonly #chance: Chance
  readonly #book: TokenBook
  readonly #slots: number
  readonly #sha256: string
  readonly #onState: () => void
  readonly #running = new Set<SimulatedGeneration>()
  #phase: EngineState['phase'] = 'ready'
  #restarts = 0

  constructor(chance: Chance, book: TokenBook, slots: number, sha256: string, onState: () => void) {
    this.#chance = chance
    this.#book = book
    this.#slots = slots
    this.#sha256 = sha256
    this.#onState = onState
  }

  state(): EngineState {
    const ready = this.#phase === 'ready'
    return {
      phase: this.#phase,
      detail: ready ? '' : `start ${this.#restarts}`,
      slots: ready ? this.#slots : 0,
      contextTokens: 0,
      maxTokenBytes: 1,
      sha256: this.#sha256,
      sizeBytes: 0,
      restarts: this.#restarts,
      abilities: [],
    }
  }

  generate(_key: string, request: GenerationRequest, continuation: readonly number[], sink: GenerationSink): Generation {
    if (this.#running.size >= this.#slots) throw new Violation('a model runs more generations than it has slots')
    const generation = new SimulatedGeneration(this.#chance, this.#book, request, continuation, sink, {
      onEnd: () => this.#running.delete(generation),
      onPoison: () => this.crash(),
    })
    this.#running.add(generation)
    generation.begin()
    return generation
  }

  crash(): void {
    if (this.#phase !== 'ready') return
    this.#phase = 'down'
    this.#restarts += 1
    const failure = { layer: 'model' as const, code: 'model_process_died', message: 'It crashed.', retryable: true }
    for (const generation of [...this.#running]) generation.fail(failure)
    this.#onState()
    setTimeout(() => this.#enter('loading'), this.#chance.between(50, 800))
  }

  stall(ms: number): void {
    for (const generation of this.#running) generation.stall(ms)
  }

  async close(): Promise<void> {}

  #enter(phase: 'loading' | 'ready'): void {
    this.#phase = phase
    this.#onState()
    if (phase === 'loading') setTimeout(() => this.#enter('ready'), this.#chance.between(100, 2_500))
  }
}

class SimulatedGeneration implements Generation {
  readonly #chance: Chance
  readonly #book: TokenBook
  readonly #request: GenerationRequest
  readonly #sink: GenerationSink
  readonly #hooks: { onEnd: () => void; onPoison: () => void }
  readonly #ids: number[]
  readonly #noise: number
  readonly #prompt: Prompt
  /** Tokens whose text is out; the last ones may be held back, like half a character. */
  #released: number
  #pauseMs = 0
  #over = false

  constructor(
    chance: Chance,
    book: TokenBook,
    request: GenerationRequest,
    continuation: readonly number[],
    sink: GenerationSink,
    hooks: { onEnd: () => void; onPoison: () => void },
  ) {
    this.#chance = chance
    this.#book = book
    this.#request = request
    this.#sink = sink
    this.#hooks = hooks
    this.#ids = [...continuation]
    this.#released = releasable(this.#ids)
    this.#noise = book.newNoise()
    this.#prompt = (request.prompt.kind === 'text' ? request.prompt.text : 'plain') as Prompt
    book.check('a continuation', this.#ids)
  }

  begin(): void {
    setTimeout(
      () => {
        if (this.#over) return
        if (this.#prompt === 'bad') {
          this.fail({ layer: 'ingress', code: 'prompt_too_long', message: 'The prompt does not fit.', retryable: false })
          return
        }
        this.#sink.accepted(PROMPT_TOKENS, 0)
        this.#step()
      },
      this.#chance.between(5, 200),
    )
  }

  cancel(): void {
    setTimeout(() => this.#finish('cancelled'), this.#chance.between(0, 40))
  }

  stall(ms: number): void {
    this.#pauseMs += ms
  }

  fail(failure: Parameters<GenerationSink['failed']>[0]): void {
    if (this.#over) return
    this.#over = true
    this.#hooks.onEnd()
    this.#sink.failed(failure)
  }

  #step(): void {
    if (this.#over) return
    if (this.#pauseMs > 0) {
      setTimeout(() => this.#step(), this.#pauseMs)
      this.#pauseMs = 0
      return
    }
    if (this.#prompt === 'poison' && this.#ids.length >= POISON_AT) {
      this.#hooks.onPoison()
      return
    }
    const most = this.#request.maxTokens ?? 1
    const made: number[] = []
    for (let count = this.#chance.between(1, 5); count > 0 && this.#ids.length < most; count--) {
      const id = this.#book.make(this.#request.seed, this.#ids.length, this.#noise, this.#ids.at(-1) ?? FIRST)
      this.#ids.push(id)
      made.push(id)
    }
    if (made.length > 0) this.#sink.tokens(made, this.#release(releasable(this.#ids)))
    if (this.#ids.length >= most) this.#finish('length')
    else setTimeout(() => this.#step(), this.#chance.between(40, 400))
  }

  #release(to: number): string {
    const text = textOf(this.#ids.slice(this.#released, to))
    this.#released = to
    return text
  }

  #finish(reason: 'length' | 'cancelled'): void {
    if (this.#over) return
    this.#over = true
    this.#hooks.onEnd()
    const text = reason === 'cancelled' ? '' : this.#release(this.#ids.length)
    this.#sink.finished({ reason, text, promptTokens: PROMPT_TOKENS, completionTokens: this.#ids.length, cachedTokens: 0 })
  }
}

export const PROMPT_TOKENS = 10
const POISON_AT = 3
