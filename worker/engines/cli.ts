import { createHash } from 'node:crypto'
import { accessSync, constants, statSync } from 'node:fs'
import path from 'node:path'
import type { GenerationRequest } from '../../proto/request.ts'
import type { CliAdapter, ToolWish } from './cli/adapter.ts'
import { claude } from './cli/claude.ts'
import { codex } from './cli/codex.ts'
import { cursor } from './cli/cursor.ts'
import { type Description, describedCli } from './cli/described.ts'
import { gemini } from './cli/gemini.ts'
import { CliJob, type JobEnd, type JobSettings } from './cli/job.ts'
import { clearLeftovers } from './cli/job-folder.ts'
import { Leash } from './cli/leash.ts'
import { opencode } from './cli/opencode.ts'
import { Login } from './login.ts'
import { Quota } from './quota.ts'
import type { Engine, EngineState, Generation, GenerationFailure, GenerationSink, StateListener } from './engine.ts'

const ADAPTERS = { claude, codex, gemini, cursor, opencode } as const

/** The agents that are known by name; `command` is one that the operator describes. */
export const CLI_KINDS = [...(Object.keys(ADAPTERS) as (keyof typeof ADAPTERS)[]), 'command'] as const
export type CliKind = (typeof CLI_KINDS)[number]

export type CliEngineOptions = {
  name: string
  kind: CliKind
  slots: number
  /** 0: not known. */
  contextTokens: number
  /** Program and its first arguments; empty: the adapter's program. */
  command: readonly string[]
  model?: string
  tools: ToolWish
  home?: string
  /** Names of variables that the program gets from the worker's environment. */
  env: readonly string[]
  description: Description
  log: { warn(message: string): void }
}

/**
 * Runs a command-line agent per job, as a user would on a terminal, but headless, without tools and in an empty folder.
 *
 *   ready ──program missing, login refused──▶ down ──looked at again, slowly──▶ ready, after a refused login for one job
 *
 * A limit that is used up is no fault: the engine stays ready and reports its quota.
 */
export function openCliEngine(options: CliEngineOptions, onState: StateListener): Engine {
  return new CliEngine(options, onState, process.env)
}

class CliEngine implements Engine {
  readonly #options: CliEngineOptions
  readonly #onState: StateListener
  readonly #settings: JobSettings
  readonly #jobs = new Map<CliJob, Promise<void>>()
  readonly #quota = new Quota()
  readonly #login = new Login()
  readonly #leash: Leash
  readonly #sha256: string
  readonly #missingVariables: string[]
  readonly #cleared: Promise<void>
  #trouble: string | undefined
  #lookAgain: NodeJS.Timeout | undefined
  #limitTimer: NodeJS.Timeout | undefined
  #closed = false

  constructor(options: CliEngineOptions, onState: StateListener, worker: NodeJS.ProcessEnv) {
    this.#options = options
    this.#onState = onState
    this.#settings = settingsOf(options, worker)
    this.#leash = new Leash((message) => options.log.warn(message))
    this.#missingVariables = options.env.filter((name) => worker[name] === undefined)
    const { kind, model = '', tools } = options
    this.#sha256 = createHash('sha256')
      .update(JSON.stringify(['cli', kind, this.#settings.command, model, tools]))
      .digest('hex')
    const warn = (error: Error): void =>
      options.log.warn(`what a killed worker left of its command-line agents could not be cleared: ${error.message}`)
    this.#cleared = clearLeftovers(warn).catch(warn)
    const { adapter, home } = this.#settings
    const advice = home === undefined ? undefined : adapter.adviceFor?.(home)
    if (advice !== undefined) options.log.warn(`model ${options.name}: ${advice}`)
    this.#look()
  }

  state(): EngineState {
    const ready = this.#trouble === undefined && !this.#closed
    const quota = this.#quota.state(Date.now())
    return {
      phase: ready ? 'ready' : 'down',
      detail: this.#trouble ?? '',
      slots: ready ? (this.#login.isOnTrial ? 1 : this.#options.slots) : 0,
      contextTokens: this.#options.contextTokens,
      maxTokenBytes: 0,
      sha256: this.#sha256,
      sizeBytes: 0,
      restarts: 0,
      abilities: [],
      tier: 'cli',
      startsOver: true,
      needsPerson: this.#trouble !== undefined || this.#login.isOnTrial,
      ...(quota === undefined ? {} : { quota }),
    }
  }

  generate(_key: string, request: GenerationRequest, _continuation: readonly number[], sink: GenerationSink): Generation {
    const refusal = this.#refusal(request)
    if (refusal !== undefined) {
      queueMicrotask(() => sink.failed(refusal))
      return { cancel: () => {} }
    }
    const begunMs = Date.now()
    let tellEnded: () => void = () => {}
    const ended = new Promise<void>((resolve) => (tellEnded = resolve))
    const job = new CliJob(this.#settings, request, sink, {
      begun: (root) => this.#leash.hold(root),
      removed: (root) => this.#leash.release(root),
      quota: (windows) => {
        this.#quota.note(windows, Date.now())
        this.#quotaChanged()
      },
      missing: (why) => this.#down(`${why}. Install the program, or name it by the option command=…`, LOOK_EVERY_MS),
      warn: (message) => this.#options.log.warn(message),
      ended: (end) => {
        this.#jobs.delete(job)
        this.#learn(end, begunMs)
        tellEnded()
      },
    })
    this.#jobs.set(job, ended)
    return job
  }

  async close(): Promise<void> {
    this.#closed = true
    clearTimeout(this.#lookAgain)
    clearTimeout(this.#limitTimer)
    const message = `the worker closed the model ${this.#options.name}`
    for (const job of this.#jobs.keys()) job.fail({ layer: 'provider', code: 'engine_closed', message, retryable: true })
    await Promise.all([this.#cleared, ...this.#jobs.values()])
    this.#leash.close()
  }

  #refusal({ sampling }: GenerationRequest): GenerationFailure | undefined {
    const { name } = this.#options
    if (this.#closed || this.#trouble !== undefined)
      return { layer: 'provider', code: 'model_not_ready', message: `${name} is down: ${this.#trouble ?? 'closed'}`, retryable: true }
    const parameter = sampling.temperature !== undefined ? 'temperature' : sampling.topP !== undefined ? 'top_p' : undefined
    if (parameter === undefined) return undefined
    const message = `${name} is a command-line agent, which has no ${parameter}: leave the parameter out, or ask another model.`
    return { layer: 'ingress', code: 'unsupported_parameter', message, retryable: false }
  }

  #learn(end: JobEnd, begunMs: number): void {
    if (end === 'cancelled') return
    const wasOnTrial = this.#login.isOnTrial
    if (end === 'answered' || end.code !== 'cli_not_authenticated') this.#login.served(begunMs)
    if (end === 'answered') this.#quota.served(begunMs)
    else if (end.code === 'rate_limited' && end.retryAtMs !== undefined) this.#quota.limitUntil(end.retryAtMs, Date.now())
    // The next job would fail for the same reason: let them wait, or go elsewhere, until a person did something.
    else if (end.code === 'cli_not_authenticated') this.#down(end.message, this.#login.refused(Date.now()))
    else if (!wasOnTrial) return
    this.#quotaChanged()
  }

  /** Tells what is known, and once more when the limit ends. */
  #quotaChanged(): void {
    if (this.#closed) return
    clearTimeout(this.#limitTimer)
    const untilMs = this.#quota.state(Date.now())?.limitedUntilMs
    if (untilMs !== undefined && untilMs !== null) {
      const waitMs = Math.min(TIMER_MAX_MS, untilMs - Date.now() + 1)
      this.#limitTimer = setTimeout(() => this.#quotaChanged(), waitMs).unref()
    }
    this.#onState()
  }

  #down(trouble: string, waitMs: number): void {
    if (this.#closed) return
    this.#say(trouble)
    this.#trouble = trouble
    clearTimeout(this.#lookAgain)
    this.#lookAgain = setTimeout(() => this.#look(), waitMs).unref()
    this.#onState()
  }

  /** A login cannot be tried without spending something: the next job tries it. */
  #look(): void {
    const before = this.#trouble
    const trouble = this.#missing()
    this.#say(trouble)
    this.#trouble = trouble
    if (this.#trouble !== undefined) this.#lookAgain = setTimeout(() => this.#look(), LOOK_EVERY_MS).unref()
    if (this.#trouble !== before) this.#onState()
  }

  /** Once, and not with every look. */
  #say(trouble: string | undefined): void {
    if (trouble === undefined || trouble === this.#trouble) return
    this.#options.log.warn(`model ${this.#options.name} is down: ${trouble}`)
  }

  #missing(): string | undefined {
    if (this.#missingVariables.length > 0)
      return `its option env names ${this.#missingVariables.join(' and ')}, which the worker's environment does not have; set it and start the worker again`
    const [program = ''] = this.#settings.command
    if (isProgram(program, this.#settings.env.PATH ?? '')) return undefined
    return `there is no program "${program}" in the worker's PATH: install it, or name it by the option command=…`
  }
}

const LOOK_EVERY_MS = 30_000
// What a timer can hold.
const TIMER_MAX_MS = 2 ** 31 - 1

function settingsOf(options: CliEngineOptions, worker: NodeJS.ProcessEnv): JobSettings {
  const { name, kind, model, tools, home, description } = options
  const adapter: CliAdapter = kind === 'command' ? describedCli(description) : ADAPTERS[kind]
  const copied = Object.fromEntries(
    options.env.flatMap((variable) => (worker[variable] === undefined ? [] : [[variable, worker[variable]]])),
  )
  return {
    name,
    adapter,
    command: options.command.length === 0 ? [adapter.program] : options.command,
    tools,
    // The times that it tells are read in this zone.
    env: { PATH: worker.PATH ?? '', LANG: worker.LANG ?? 'C.UTF-8', ...(worker.TZ === undefined ? {} : { TZ: worker.TZ }), ...copied },
    // A short value is no secret, and taking every "1" out of a message would make it unreadable.
    secrets: new Map(Object.entries(copied).filter(([, value]) => value.length >= SECRET_LENGTH_MIN)),
    ...(model === undefined ? {} : { model }),
    ...(home === undefined ? {} : { home }),
  }
}

const SECRET_LENGTH_MIN = 6

function isProgram(program: string, pathVariable: string): boolean {
  const places = program.includes('/') ? [program] : pathVariable.split(path.delimiter).map((folder) => path.join(folder, program))
  return places.some((place) => {
    try {
      accessSync(place, constants.X_OK)
      return statSync(place).isFile()
    } catch {
      return false
    }
  })
}
