import { createHash } from 'node:crypto'
import { type Ability, fitting } from '../../proto/abilities.ts'
import type { GenerationRequest } from '../../proto/request.ts'
import { Quota } from './quota.ts'
import type { Engine, EngineState, Generation, GenerationSink, StateListener } from './engine.ts'
import { Login } from './login.ts'
import { Exchange, type ExchangeEnd } from './openai/exchange.ts'
import { ABILITIES_OF, probe, type ServerFacts, type Upstream } from './openai/server.ts'

export type OpenAiEngineOptions = {
  name: string
  baseUrl: string
  /** The server's name of the model; absent: the only one that it has. */
  model?: string
  /** Name of the variable of the worker's environment that holds the server's key. */
  keyEnv?: string
  /** Absent: what the server says, or 8. */
  slots?: number
  contextTokens?: number
  /** Abilities that the operator vouches for, and such as the server does not have. */
  having: readonly Ability[]
  without: readonly Ability[]
  log: Record<'info' | 'warn', (message: string) => void>
}

/**
 * Serves a model that another server runs: vLLM, SGLang, TensorRT-LLM, llama-server, Ollama, or a gateway to many of them.
 *
 *   loading ──it answers, and has the model──▶ ready ──no connection, or two polls in vain──▶ down ──backoff──▶ ready …
 *
 * What runs is judged by its own connection; the poll notices what happens while nothing runs.
 */
export function openOpenAiEngine(options: OpenAiEngineOptions, onState: StateListener): Engine {
  return new OpenAiEngine(options, onState, process.env)
}

class OpenAiEngine implements Engine {
  readonly #options: OpenAiEngineOptions
  readonly #onState: StateListener
  readonly #upstream: Upstream
  readonly #running = new Set<Exchange>()
  readonly #abort = new AbortController()
  readonly #missingKey: boolean
  #phase: EngineState['phase'] = 'loading'
  #detail = 'asking the server'
  #facts: ServerFacts | undefined
  #failures = 0
  readonly #login = new Login()
  readonly #quota = new Quota()
  #needsPerson = false
  #timer: NodeJS.Timeout | undefined
  #asking: Promise<void> | undefined
  #closed = false

  constructor(options: OpenAiEngineOptions, onState: StateListener, worker: NodeJS.ProcessEnv) {
    this.#options = options
    this.#onState = onState
    const key = options.keyEnv === undefined ? undefined : worker[options.keyEnv]
    this.#missingKey = options.keyEnv !== undefined && (key === undefined || key === '')
    const { baseUrl, model } = options
    this.#upstream = {
      baseUrl,
      name: options.name,
      ...(model === undefined ? {} : { model }),
      ...(key === undefined || key === '' ? {} : { key }),
    }
    if (this.#missingKey) {
      this.#phase = 'down'
      this.#needsPerson = true
      this.#detail = `its option key_env names ${options.keyEnv}, which the worker's environment does not have; set it and start the worker again`
      options.log.warn(`model ${options.name} is down: ${this.#detail}`)
    } else this.#ask()
  }

  state(): EngineState {
    const { name, model = '', slots, contextTokens } = this.#options
    const facts = this.#facts
    const quota = this.#quota.state(Date.now())
    return {
      phase: this.#phase,
      detail: this.#detail,
      slots: this.#phase === 'ready' ? (this.#login.isOnTrial ? 1 : (slots ?? facts?.slots ?? DEFAULT_SLOTS)) : 0,
      contextTokens: contextTokens ?? facts?.contextTokens ?? 0,
      maxTokenBytes: 0,
      sha256: createHash('sha256')
        .update(JSON.stringify(['openai', model === '' ? (facts?.model ?? name) : model]))
        .digest('hex'),
      sizeBytes: 0,
      restarts: 0,
      abilities: this.#abilities,
      startsOver: true,
      needsPerson: this.#phase === 'down' ? this.#needsPerson : this.#login.isOnTrial,
      ...(quota === undefined ? {} : { quota }),
    }
  }

  get #abilities(): Ability[] {
    const { having, without } = this.#options
    const known = this.#facts?.abilities ?? ABILITIES_OF.other
    return [...new Set([...known, ...having])].filter((ability) => !without.includes(ability))
  }

  generate(_key: string, request: GenerationRequest, _continuation: readonly number[], sink: GenerationSink): Generation {
    const facts = this.#facts
    if (this.#phase !== 'ready' || facts === undefined) {
      const message = `the model ${this.#options.name} is ${this.#phase}: ${this.#detail}`
      queueMicrotask(() => sink.failed({ layer: 'provider', code: 'model_not_ready', message, retryable: true }))
      return { cancel: () => {} }
    }
    const begunMs = Date.now()
    const exchange = new Exchange(this.#upstream, facts, fitting(request, this.#abilities), sink, {
      ended: (end) => {
        this.#running.delete(exchange)
        this.#learn(end, begunMs)
      },
    })
    this.#running.add(exchange)
    return exchange
  }

  async close(): Promise<void> {
    this.#closed = true
    this.#phase = 'down'
    this.#detail = 'closed'
    clearTimeout(this.#timer)
    this.#abort.abort()
    const message = `the worker closed the model ${this.#options.name}`
    for (const exchange of this.#running) exchange.fail({ layer: 'provider', code: 'engine_closed', message, retryable: true })
    await this.#asking
  }

  #learn(end: ExchangeEnd, begunMs: number): void {
    if (this.#closed || end === 'cancelled') return
    if (end === 'answered') {
      this.#failures = 0
      if (!this.#login.isOnTrial && this.#quota.state(Date.now()) === undefined) return
      this.#login.served(begunMs)
      this.#quota.served(begunMs)
      this.#onState()
    } else if (end.retryAtMs !== undefined) {
      this.#quota.limitUntil(end.retryAtMs, Date.now())
      this.#onState()
      if (end.code === 'upstream_unwell') this.#ask()
    }
    // Its list may be read without a key: whether it lets us in is only told by a job.
    else if (end.code === 'upstream_not_authenticated') {
      this.#needsPerson = true
      this.#change('down', end.message)
      this.#later(this.#login.refused(Date.now()))
    }
    // Nobody is there: nothing may come until somebody is.
    else if (end.code === 'upstream_unreachable') {
      this.#needsPerson = false
      this.#change('down', end.message)
      this.#later(FIRST_WAIT_MS)
    }
    // It may be dying, or may serve something else by now; the poll knows.
    else if (end.layer === 'provider') this.#ask()
  }

  /** One question at a time; its answer sets the time of the next. */
  #ask(): void {
    if (this.#closed || this.#missingKey || this.#asking !== undefined) return
    clearTimeout(this.#timer)
    this.#asking = probe(this.#upstream, this.#abort.signal).then((found) => {
      this.#asking = undefined
      if (this.#closed) return
      const outMs = this.#login.waitMs(Date.now())
      if (outMs > 0) return this.#later(outMs)
      if (found.kind === 'serves') {
        this.#failures = 0
        this.#serves(found.facts)
      } else {
        this.#failures += 1
        // A server under load may miss one question.
        const isPatient = found.kind === 'unreachable' && this.#phase === 'ready' && this.#failures < POLLS_MISSED_MAX
        if (!isPatient) this.#needsPerson = found.kind === 'unfit'
        if (!isPatient) this.#change(found.kind === 'loading' ? 'loading' : 'down', found.why)
      }
      this.#later(found.kind === 'serves' ? POLL_EVERY_MS : Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** Math.min(this.#failures, 10)))
    })
  }

  #serves({ isPartial, ...told }: ServerFacts): void {
    const { name, baseUrl, log } = this.#options
    const known = this.#facts
    const isKnown = isPartial === true && known?.model === told.model && known.kind === told.kind
    const facts = isKnown ? known : told
    const changed = JSON.stringify(facts) !== JSON.stringify(this.#facts)
    this.#facts = facts
    if (changed) log.info(`model ${name} is served by ${baseUrl} as ${facts.model}`)
    this.#change('ready', `${facts.model} at ${baseUrl}`, changed)
  }

  #change(phase: EngineState['phase'], detail: string, changed = false): void {
    if (phase === this.#phase && detail === this.#detail && !changed) return
    if (phase === 'down' && this.#phase !== 'down') this.#options.log.warn(`model ${this.#options.name} is down: ${detail}`)
    this.#phase = phase
    this.#detail = detail
    this.#onState()
  }

  #later(waitMs: number): void {
    if (this.#closed) return
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => this.#ask(), waitMs).unref()
  }
}

const DEFAULT_SLOTS = 8
const POLL_EVERY_MS = 10_000
const POLLS_MISSED_MAX = 2
const FIRST_WAIT_MS = 500
const LONGEST_WAIT_MS = 30_000
