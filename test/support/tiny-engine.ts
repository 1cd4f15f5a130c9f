import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Answer as GrownAnswer } from '../../proto/answer.ts'
import type { GenerationRequest } from '../../proto/request.ts'
import type { Engine, EngineState, GenerationEnd, GenerationFailure, GenerationSink } from '../../worker/engines/engine.ts'
import { type LlamaEngineOptions, openLlamaEngine } from '../../worker/engines/llama.ts'
import { writeTinyModel } from '../../worker/tiny-model.ts'

/** A real engine with a real process over the built-in model. */
export type TinyEngine = Engine & {
  /** Resolves once the state is like this. */
  until(isSo: (state: EngineState) => boolean): Promise<EngineState>
  readonly logged: string[]
}

/** Resolves when it is ready, unless told not to wait. */
export async function openTiny(options: Partial<LlamaEngineOptions> & { wait?: boolean } = {}): Promise<TinyEngine> {
  const { wait = true, ...overrides } = options
  const waiting = new Set<() => void>()
  const logged: string[] = []
  const note = (message: string): void => void logged.push(message)
  const sizes = { slots: 4, contextTokens: 2048 }
  const log = { info: note, warn: note, error: note }
  const inner = openLlamaEngine({ name: 'toy', path: toyPath(), sha256: 'toy', ...sizes, log, ...overrides }, () =>
    waiting.forEach((look) => look()),
  )
  const engine: TinyEngine = {
    logged,
    state: () => inner.state(),
    generate: (...request) => inner.generate(...request),
    close: () => inner.close(),
    until: (isSo) =>
      new Promise((resolve) => {
        const look = (): void => {
          if (!isSo(inner.state())) return
          waiting.delete(look)
          resolve(inner.state())
        }
        waiting.add(look)
        look()
      }),
  }
  if (wait) await engine.until(({ phase }) => phase === 'ready')
  return engine
}

let toy: string | undefined

/** Written once per test process: training it takes a second. */
export function toyPath(): string {
  if (toy === undefined) {
    const folder = mkdtempSync(join(tmpdir(), 'holdfast-toy-'))
    process.once('exit', () => rmSync(folder, { recursive: true, force: true }))
    toy = join(folder, 'toy.gguf')
    writeTinyModel(toy)
  }
  return toy
}

export function chat(content: string): GenerationRequest['prompt'] {
  return { kind: 'chat', messages: [{ role: 'user', content }] }
}

/** `whole` is all of it: reasoning, calls and log probabilities beside the text. */
export type Answer = { ids: number[]; text: string; whole: GrownAnswer; end: GenerationEnd; cachedTokens: number }

class GenerationFailed extends Error {
  readonly failure: GenerationFailure

  constructor(failure: GenerationFailure) {
    super(failure.message)
    this.failure = failure
  }
}

export type Wish = Partial<Omit<GenerationRequest, 'prompt'>> & { continuation?: readonly number[] }

/** A generation that runs; `answer` rejects with `GenerationFailed`. */
export function begin(engine: Engine, prompt: GenerationRequest['prompt'], wish: Wish = {}, onPrefilled?: GenerationSink['prefilled']) {
  const { continuation = [], ...request } = wish
  const ids: number[] = []
  const whole = new GrownAnswer()
  let cached = 0
  const end = Promise.withResolvers<Answer>()
  const accepted = Promise.withResolvers<void>()
  const first = Promise.withResolvers<void>()
  const generation = engine.generate('test', { prompt, stop: [], sampling: { temperature: 0 }, seed: 1, ...request }, continuation, {
    accepted: (_promptTokens, cachedTokens) => {
      cached = cachedTokens
      accepted.resolve()
    },
    prefilled: (processed, total) => onPrefilled?.(processed, total),
    tokens: (more, piece, delta) => {
      ids.push(...more)
      whole.append(piece, delta)
      first.resolve()
    },
    finished: (finished) => {
      whole.append(finished.text, finished.delta)
      end.resolve({ ids, text: whole.text, whole, end: finished, cachedTokens: cached })
    },
    failed: (failure) => end.reject(new GenerationFailed(failure)),
  })
  return { answer: end.promise, accepted: accepted.promise, firstToken: first.promise, cancel: () => generation.cancel() }
}

export async function complete(engine: Engine, prompt: GenerationRequest['prompt'], wish: Wish = {}): Promise<Answer> {
  return begin(engine, prompt, wish).answer
}

/** The failure of a generation that must fail. */
export async function failureOf(answer: Promise<Answer>): Promise<GenerationFailure> {
  const outcome = await answer.catch((error: unknown) => error)
  if (outcome instanceof GenerationFailed) return outcome.failure
  throw new Error(`it did not fail: ${JSON.stringify(outcome)}`)
}
