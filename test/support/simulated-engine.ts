import type { GenerationRequest } from '../../proto/request.ts'
import type { Engine, EngineState, Generation, GenerationSink } from '../../worker/engines/engine.ts'
import type { Chance } from './simulated-time.ts'
import { Violation } from './simulated-violation.ts'

/** What a prompt does to the model: its text in a request. */
export type Prompt = 'plain' | 'poison' | 'bad'

/**
 * Every token that any engine made, and after which one. An answer in which each token follows the one it was made after is
 * one answer, however many attempts it took; one put together from two is not.
 */
export class TokenBook {
  readonly #before = new Map<number, number>()
  #noise = 0
  /** True: two generations of one request differ, as on a GPU whose batches differ. */
  readonly noisy: boolean

  constructor(noisy: boolean) {
    this.noisy = noisy
  }

  /** Makes what a new generation's tokens depend on beside seed and place. */
  newNoise(): number {
    return this.noisy ? ++this.#noise : 0
  }

  make(seed: number, place: number, noise: number, before: number): number {
    let id = Math.imul(seed ^ 0x9e37_79b9, 0x85eb_ca6b) ^ Math.imul(place + 1, 0xc2b2_ae35) ^ Math.imul(noise, 0x27d4_eb2f)
    id = Math.imul(id ^ (id >>> 15), 0x2c1b_3c6d)
    id = (id ^ (id >>> 13)) >>> 1
    this.#before.set(id, before)
    return id
  }

  check(job: string, tokenIds: readonly number[]): void {
    for (const [place, id] of tokenIds.entries())
      if (this.#before.get(id) !== (place === 0 ? FIRST : tokenIds[place - 1]))
        throw new Violation(`${job}: token ${place} of its answer does not belong behind the one before it`)
  }
}

export const FIRST = -1

/** One character a token, so that a character lost or doubled is one token lost or doubled. */
export function textOf(tokenIds: readonly number[]): string {
  let text = ''
  for (const id of tokenIds) text += String.fromCharCode(97 + (id % 26))
  return text
}

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

/** How many tokens' text may be shown: one in seven waits for the next one. */
function releasable(ids: readonly number[]): number {
  let count = ids.length
  while (count > 0 && (ids[count - 1] as number) % 7 === 0) count -= 1
  return count
}

export const PROMPT_TOKENS = 10
const POISON_AT = 3
