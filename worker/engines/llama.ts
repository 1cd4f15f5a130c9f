import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { accessSync, constants, mkdtempSync, readdirSync, readFileSync, rmSync, statfsSync, writeFileSync } from 'node:fs'
import { hostname, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { GenerationRequest } from '../../proto/request.ts'
import type { Engine, EngineState, Generation, GenerationFailure, GenerationSink, StateListener } from './engine.ts'
import { expectedAbilities, type Purpose } from './llama/abilities.ts'
import { Watchdog } from './llama/watchdog.ts'
import type { FromProcess, GenerationNews, LogLevel, ModelFacts, ModelSettings, ToProcess } from './llama/protocol.ts'

export type LlamaEngineOptions = {
  /** For people, in logs and states. */
  name: string
  /** A GGUF file. */
  path: string
  sha256: string
  /** What it is by now: a file may be replaced while its process is down. Rejects where it is not to be served. Absent: what it was. */
  identify?: () => Promise<string>
  /** Jobs at once; absent: 4. */
  slots?: number
  /** Per slot; absent: what the model was trained on, at most 4,096. */
  contextTokens?: number
  /** Absent: all cores, or one for a tiny model. */
  threads?: number
  /** Absent: as many as fit. */
  gpuLayers?: number
  /** What comes next is guessed from the prompt and the answer, where that pays; absent: nothing is guessed. */
  speculation?: 'lookup'
  /** What the model is served for; absent: generating text. */
  purpose?: Purpose
  /** For embeddings: vectors may be cut short; absent: judged by the model's name. */
  matryoshka?: boolean
  log: EngineLog
}

type EngineLog = Record<'info' | 'warn' | 'error', (message: string) => void> & { debug?: (message: string) => void }

/**
 * Serves a GGUF model by a process of its own, so that a crash in native code or on a GPU ends that process only:
 *
 *   loading ──ready──▶ ready ──process died──▶ down ──backoff──▶ loading …
 *      └──────cannot load──────────────────────▶ down ──slow backoff──▶ loading …
 */
export function openLlamaEngine(options: LlamaEngineOptions, onState: StateListener): Engine {
  return new LlamaEngine(options, onState)
}

class LlamaEngine implements Engine {
  readonly #options: LlamaEngineOptions
  readonly #onState: StateListener
  readonly #generations = new Map<number, GenerationSink>()
  #nextId = 1
  #process: ModelProcess | undefined
  #restartTimer: NodeJS.Timeout | undefined
  #steadyTimer: NodeJS.Timeout | undefined
  #watchdog: Watchdog | undefined
  /** While it loads: whether it says anything. */
  #stopLooking: () => void = () => {}
  #failures = 0
  #closed = false
  #state: EngineState

  constructor(options: LlamaEngineOptions, onState: StateListener) {
    this.#options = options
    this.#onState = onState
    const abilities = expectedAbilities(options.purpose ?? 'generate')
    this.#state = { ...DOWN, phase: 'loading', detail: 'starting', sha256: options.sha256, sizeBytes: 0, restarts: 0, abilities }
    this.#spawn()
  }

  state(): EngineState {
    return this.#state
  }

  generate(_key: string, request: GenerationRequest, continuation: readonly number[], sink: GenerationSink): Generation {
    const id = this.#nextId++
    const target = this.#process
    if (target === undefined || this.#state.phase !== 'ready') {
      queueMicrotask(() => sink.failed(notReady(this.#options.name, this.#state)))
      return { cancel: () => {} }
    }
    this.#generations.set(id, sink)
    target.tell({ kind: 'start', id, request, continuation })
    return {
      cancel: () => {
        if (!this.#generations.has(id)) return
        this.#watchdog?.stopping(id)
        target.tell({ kind: 'cancel', id })
      },
    }
  }

  async close(): Promise<void> {
    this.#closed = true
    this.#stopLooking()
    clearTimeout(this.#restartTimer)
    clearTimeout(this.#steadyTimer)
    this.#watchdog?.close()
    await this.#process?.end()
    this.#failAll({ layer: 'model', code: 'engine_closed', message: `the worker closed the model ${this.#options.name}`, retryable: true })
  }

  #spawn(): void {
    const { name, log } = this.#options
    let unloadable: string | undefined
    let heardMs = performance.now()
    const listener: ProcessListener = {
      told: (message) => {
        heardMs = performance.now()
        this.#watchdog?.heard()
        if (message.kind === 'alive') return
        if (message.kind === 'news') this.#pass(message.news)
        else if (message.kind === 'ready') this.#ready(message.model)
        else if (message.kind === 'loading') this.#change({ detail: `loading ${message.percent} %` })
        else if (message.kind === 'unloadable') unloadable = message.message
        else LOGS[message.level](log, `model ${name}: ${message.message}`)
      },
      died: (reason) => this.#died(unloadable === undefined ? { kind: 'died', reason } : { kind: 'unloadable', reason: unloadable }),
    }
    const loading = setInterval(() => {
      if (performance.now() - heardMs > LOADING_SILENT_MS)
        this.#process?.kill(`it said nothing for ${LOADING_SILENT_MS / 1000} s while it loaded`)
    }, LOADING_LOOK_MS)
    this.#stopLooking = () => clearInterval(loading)
    try {
      this.#process = new ModelProcess(this.#options, listener)
    } catch (error) {
      // No memory, no process, a full /dev/shm: one model waits for better times, the others serve on.
      this.#died({ kind: 'died', reason: `its process could not be started: ${(error as Error).message}` })
    }
  }

  #ready({ slots, contextTokens, maxTokenBytes, sizeBytes, detail, abilities }: ModelFacts): void {
    this.#options.log.info(`model ${this.#options.name} is ready: ${slots} slots of ${contextTokens} tokens, ${detail}`)
    const target = this.#process
    this.#stopLooking()
    this.#watchdog = new Watchdog({
      now: () => performance.now(),
      ask: () => target?.tell({ kind: 'ask' }),
      onDead: (why) => target?.kill(why),
    })
    this.#change({ phase: 'ready', detail, slots, contextTokens, maxTokenBytes, sizeBytes, abilities })
    this.#steadyTimer = setTimeout(() => (this.#failures = 0), STEADY_AFTER_MS).unref()
  }

  #pass(news: GenerationNews[]): void {
    for (const one of news) {
      const sink = this.#generations.get(one.id)
      if (sink === undefined) continue
      if (one.finished !== undefined || one.failed !== undefined) {
        this.#generations.delete(one.id)
        this.#watchdog?.stopped(one.id)
      }
      if (one.accepted !== undefined) sink.accepted(one.accepted.promptTokens, one.accepted.cachedTokens)
      if (one.prefilled !== undefined) sink.prefilled?.(one.prefilled.processed, one.prefilled.total)
      if (one.tokens !== undefined) sink.tokens(one.tokens.ids, one.tokens.text, one.tokens.delta)
      if (one.finished !== undefined) {
        // A model that serves was restarted well: what kills it next, a prompt or the host, is another matter.
        this.#failures = 0
        sink.finished(one.finished)
      } else if (one.failed !== undefined) sink.failed(one.failed)
    }
  }

  #died(death: Death): void {
    this.#process = undefined
    this.#stopLooking()
    clearTimeout(this.#steadyTimer)
    this.#watchdog?.close()
    this.#watchdog = undefined
    if (this.#closed) return
    const waitMs = restartDelayMs(death.kind, this.#failures++, Math.random())
    this.#options.log.error(`model ${this.#options.name}: ${death.reason}; restarts in ${seconds(waitMs)}`)
    this.#change({ ...DOWN, detail: `restarts in ${seconds(waitMs)}: ${death.reason}` })
    this.#failAll({
      layer: 'model',
      code: 'model_process_died',
      message: `the process of model ${this.#options.name} died: ${death.reason}`,
      retryable: true,
    })
    this.#restartTimer = setTimeout(() => this.#restart(), waitMs)
  }

  #restart(): void {
    this.#change({ phase: 'loading', detail: 'starting again', restarts: this.#state.restarts + 1 })
    const { name, sha256, identify, log } = this.#options
    if (identify === undefined) return this.#spawn()
    identify().then(
      (now) => {
        if (this.#closed) return
        if (now !== (this.#state.sha256 || sha256))
          log.warn(`model ${name}: its file has changed; what is served from now on has SHA-256 ${now}`)
        this.#change({ sha256: now })
        this.#spawn()
      },
      (error: unknown) => this.#died({ kind: 'unloadable', reason: (error as Error).message }),
    )
  }

  #failAll(failure: GenerationFailure): void {
    const sinks = [...this.#generations.values()]
    this.#generations.clear()
    for (const sink of sinks) sink.failed(failure)
  }

  #change(change: Partial<EngineState>): void {
    this.#state = { ...this.#state, ...change }
    this.#onState()
  }
}

/** Abilities stay: a model that restarts is waited for by requests that need them. */
const DOWN = { phase: 'down', slots: 0, contextTokens: 0, maxTokenBytes: 0 } as const

// Between two of its words lies the reading of a part of a file, perhaps over a network.
const LOADING_SILENT_MS = 300_000
const LOADING_LOOK_MS = 10_000

/** A process that has served this long did not die of what killed the one before it. */
const STEADY_AFTER_MS = 60_000

const LOGS: Record<LogLevel, (log: EngineLog, message: string) => void> = {
  debug: (log, message) => log.debug?.(message),
  info: (log, message) => log.info(message),
  warn: (log, message) => log.warn(message),
  error: (log, message) => log.error(message),
}

function notReady(name: string, { phase, detail }: EngineState): GenerationFailure {
  return { layer: 'model', code: 'model_not_ready', message: `the model ${name} is ${phase}: ${detail}`, retryable: true }
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`
}

type Death = { kind: 'died' | 'unloadable'; reason: string }

/** A crash may be chance and is retried at once; a file that cannot be loaded changes only when someone changes it. */
const BACKOFF = { died: { firstMs: 250, mostMs: 30_000 }, unloadable: { firstMs: 5_000, mostMs: 60_000 } }

/** Doubles with every failure in a row, plus or minus a quarter by chance (0 … 1), so that many workers do not load in step. */
export function restartDelayMs(kind: Death['kind'], failuresBefore: number, chance: number): number {
  const { firstMs, mostMs } = BACKOFF[kind]
  return Math.min(mostMs, firstMs * 2 ** Math.min(failuresBefore, 20)) * (0.75 + chance / 2)
}

type ProcessListener = { told: (message: FromProcess) => void; died: (reason: string) => void }

/** One run of a model's process, from its start to its death. */
class ModelProcess {
  readonly #child: ChildProcess
  readonly #gone: Promise<void>
  readonly #prefixFolder: string
  #lastWords = ''
  /** Why it was ended by its worker. */
  #killedFor: string | undefined
  #giveUp: (reason: string) => void = () => {}

  constructor(options: LlamaEngineOptions, listener: ProcessListener) {
    this.#prefixFolder = makePrefixFolder()
    try {
      this.#child = this.#begin(options)
    } catch (error) {
      rmSync(this.#prefixFolder, { recursive: true, force: true })
      throw error
    }
    this.#child.stderr
      ?.setEncoding('utf8')
      .on('data', (text: string) => (this.#lastWords = (this.#lastWords + text).slice(-LAST_WORDS_LENGTH)))
    this.#child.on('message', (message: FromProcess) => listener.told(message))
    const givenUp = new Promise<string>((resolve) => (this.#giveUp = resolve))
    this.#gone = Promise.race([this.#death(), givenUp]).then((reason) => {
      rmSync(this.#prefixFolder, { recursive: true, force: true })
      listener.died(reason)
    })
  }

  #begin(options: LlamaEngineOptions): ChildProcess {
    const settings = modelSettings(options, this.#prefixFolder)
    const child = fork(fileURLToPath(new URL('llama-process.ts', import.meta.url)), [], {
      execArgv: [],
      env: processEnvironment(process.env),
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    })
    // At the limit of open files there is no process, and its error comes a moment later.
    child.on('error', () => {})
    if (child.pid === undefined) throw new Error('the host let no process begin')
    try {
      writeFileSync(join(this.#prefixFolder, PID_FILE), String(child.pid))
    } catch (error) {
      child.kill('SIGKILL')
      throw error
    }
    child.send({ kind: 'open', settings } satisfies ToProcess, () => {})
    return child
  }

  /** What is told to a process that is just dying is lost; its death is heard next and answers for it. */
  tell(message: ToProcess): void {
    if (this.#child.connected) this.#child.send(message, () => {})
  }

  /** For one that does not listen any more. A driver that hangs keeps a process even from dying: then it is gone as far as anybody here goes. */
  kill(why: string): void {
    this.#killedFor = why
    this.#child.kill('SIGKILL')
    setTimeout(() => this.#giveUp(`its process cannot be ended, because ${why}`), GONE_WITHIN_MS).unref()
  }

  /** Cutting the line is the order to end; resolves when the process is gone. */
  async end(): Promise<void> {
    if (this.#child.connected) this.#child.disconnect()
    const killTimer = setTimeout(() => this.kill('it did not end in time'), END_WITHIN_MS)
    await this.#gone
    clearTimeout(killTimer)
  }

  /** Waits for the last words too. Node's own `close` event does not come when this side cut the line. */
  async #death(): Promise<string> {
    const wordsEnded = this.#child.stderr === null ? undefined : once(this.#child.stderr, 'close')
    try {
      const [code, signal] = (await once(this.#child, 'exit')) as [number | null, NodeJS.Signals | null]
      await wordsEnded
      return this.#reason(code, signal)
    } catch (error) {
      return `its process could not start: ${(error as Error).message}`
    }
  }

  #reason(code: number | null, signal: NodeJS.Signals | null): string {
    if (this.#killedFor !== undefined) return `its process was killed because ${this.#killedFor}`
    const how = signal === null ? `exited with code ${code}` : `was ended by ${signal}`
    const words = this.#lastWords.trim().split('\n').slice(-LAST_WORDS_LINES).join(' | ')
    return words === '' ? `its process ${how}` : `its process ${how} (${words})`
  }
}

const END_WITHIN_MS = 1_000
const GONE_WITHIN_MS = 5_000
const LAST_WORDS_LENGTH = 4_000
const LAST_WORDS_LINES = 3

/**
 * Only what finding libraries and GPUs needs: a model's process parses files and prompts of strangers in native code and
 * has no business with the worker's token.
 */
const ENVIRONMENT = /^(PATH|HOME|LANG|TMPDIR|TEMP|TMP|SystemRoot|(LD|DYLD)_LIBRARY_PATH|(CUDA|NVIDIA|HIP|ROCR|GPU|VK|GGML|OMP)_\w+)$/i

function processEnvironment(from: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const allowed = Object.fromEntries(Object.entries(from).filter(([name]) => ENVIRONMENT.test(name)))
  // One thread in libuv's pool computes everything, so that it stays on its core: up to 1.5 times the speed of one stream.
  return { ...allowed, UV_THREADPOOL_SIZE: '1' }
}

function modelSettings(options: LlamaEngineOptions, prefixFolder: string): ModelSettings {
  const { path, purpose = 'generate', slots, contextTokens, threads, gpuLayers, speculation, matryoshka } = options
  return {
    path,
    purpose,
    prefixFolder,
    prefixBytesMax: prefixBytesMax(prefixFolder),
    ...(slots === undefined ? {} : { slots }),
    ...(contextTokens === undefined ? {} : { contextTokens }),
    ...(threads === undefined ? {} : { threads }),
    ...(gpuLayers === undefined ? {} : { gpuLayers }),
    ...(speculation === undefined ? {} : { speculation }),
    ...(matryoshka === undefined ? {} : { matryoshka }),
  }
}

const PREFIX_BYTES_MAX = 512 * 2 ** 20

/** At most half of what is free: /dev/shm is memory, and 64 MB small in a container that nobody tuned. */
function prefixBytesMax(folder: string): number {
  const { bavail, bsize } = statfsSync(folder)
  return Math.min(PREFIX_BYTES_MAX, (bavail * bsize) / 2)
}

const PREFIX_FOLDER = `holdfast-prefixes-${hostname()}-`

/** A private folder (mode 0700) in memory where the host has one. Folders of workers that were killed are removed first. */
function makePrefixFolder(): string {
  const base = ['/dev/shm', tmpdir()].find(isWritable) ?? tmpdir()
  for (const name of readdirSync(base)) {
    const owner = name.startsWith(PREFIX_FOLDER) ? Number.parseInt(name.slice(PREFIX_FOLDER.length), 10) : undefined
    if (owner === undefined || isAlive(owner)) continue
    endOrphan(join(base, name))
    rmSync(join(base, name), { recursive: true, force: true })
  }
  return mkdtempSync(join(base, `${PREFIX_FOLDER}${process.pid}-`))
}

const PID_FILE = 'pid'

/** A process that was frozen when its worker was killed could not end itself, and holds the memory of a GPU. */
function endOrphan(folder: string): void {
  try {
    const pid = Number(readFileSync(join(folder, PID_FILE), 'utf8'))
    // The number may be another process's by now.
    if (readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('llama-process')) process.kill(pid, 'SIGKILL')
  } catch {
    // It has ended, as nearly always, or is not ours to end.
  }
}

function isWritable(folder: string): boolean {
  try {
    accessSync(folder, constants.W_OK)
    return true
  } catch {
    return false
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}
