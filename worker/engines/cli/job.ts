import type { AnswerDelta } from '../../../proto/answer.ts'
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as pause } from 'node:timers/promises'
import type { FinishReason } from '../../../proto/answer.ts'
import { type GenerationRequest, textsOf } from '../../../proto/request.ts'
import { UNTOLD_TOKEN } from '../../../proto/wire.ts'
import type { Generation, GenerationFailure, GenerationSink } from '../engine.ts'
import type { CliAdapter, CliEvent, CliReader, CliUsage, QuotaWindow, ToolWish } from './adapter.ts'
import { AnswerText, tokensOf } from './answer-text.ts'
import { failureOf } from './failures.ts'
import { JobFolder, markOf } from './job-folder.ts'
import { LastWords } from './last-words.ts'
import { endTree } from './process-tree.ts'
import { guarded, promptOf, unguarded } from './prompt.ts'

export type JobSettings = {
  /** Of the model, for people. */
  name: string
  adapter: CliAdapter
  command: readonly string[]
  model?: string
  tools: ToolWish
  /** Absent: the job's own working directory. */
  home?: string
  /** All that the program gets besides HOME, TMPDIR and what its adapter sets. */
  env: Record<string, string>
  /** Values that no message may show, by the name that stands in for them. */
  secrets: ReadonlyMap<string, string>
}

export type JobListener = {
  /** The folder that must go with the worker, and that it is gone. */
  begun(root: string): void
  removed(root: string): void
  quota(windows: QuotaWindow[]): void
  /** The program could not be started. */
  missing(why: string): void
  /** The folder is gone, the processes are, and the sink has heard the end. */
  ended(end: JobEnd): void
  warn(message: string): void
}

export type JobEnd = 'answered' | 'cancelled' | GenerationFailure

type Verdict = { finish: FinishReason } | { fail: GenerationFailure }

/**
 * One job: one program with all its processes in a private folder.
 *
 *   begin ─▶ folder, files, program ─▶ its output ─▶ verdict ─▶ processes ended ─▶ folder removed ─▶ the sink hears the end
 *                                        cancel ──────┘  the first verdict counts; an exit without one is judged by its code
 */
export class CliJob implements Generation {
  readonly #settings: JobSettings
  readonly #request: GenerationRequest
  readonly #sink: GenerationSink
  readonly #listener: JobListener
  readonly #reader: CliReader
  readonly #answer: AnswerText
  readonly #words: LastWords
  readonly #decided: Promise<void>
  #tellDecided: () => void = () => {}
  #verdict: Verdict | undefined
  #usage: CliUsage | undefined
  #promptBytes = 0
  #read = 0
  #line = ''
  #unreadable = 0

  constructor(settings: JobSettings, request: GenerationRequest, sink: GenerationSink, listener: JobListener) {
    this.#settings = settings
    this.#request = request
    this.#sink = sink
    this.#listener = listener
    this.#reader = settings.adapter.reader()
    this.#answer = new AnswerText(request)
    this.#words = new LastWords(settings.secrets)
    this.#decided = new Promise((resolve) => (this.#tellDecided = resolve))
    setImmediate(() => void this.#run())
  }

  cancel(): void {
    this.#decide({ finish: 'cancelled' })
  }

  fail(failure: GenerationFailure): void {
    this.#decide({ fail: failure })
  }

  async #run(): Promise<void> {
    try {
      if (this.#verdict === undefined) await this.#work(new JobFolder())
    } catch (error) {
      this.#decide({ fail: this.#failure({ message: `it could not be run: ${(error as Error).message}` }) })
    }
    this.#conclude(this.#verdict ?? { fail: this.#failure({ message: 'it ended without a verdict' }) })
  }

  async #work(folder: JobFolder): Promise<void> {
    this.#listener.begun(folder.root)
    try {
      const child = await this.#start(folder)
      if (child !== undefined) await this.#attend(child, markOf(folder.tmp))
    } finally {
      try {
        folder.remove()
      } finally {
        this.#listener.removed(folder.root)
      }
    }
  }

  async #start(folder: JobFolder): Promise<ChildProcessWithoutNullStreams | undefined> {
    const { adapter, command, model, tools, home, env } = this.#settings
    const asked = promptOf(this.#request.prompt)
    const prompt = adapter.takesPlainText === true ? asked : guarded(asked)
    const wish = { prompt, tools, filesDir: folder.files, ...(model === undefined ? {} : { model }) }
    const launch = adapter.launch(wish)
    folder.write(folder.files, launch.files ?? {})
    folder.write(folder.work, launch.workFiles ?? {})
    const [program = '', ...first] = command
    const child = spawn(program, [...first, ...launch.args], {
      cwd: folder.work,
      env: { ...env, ...launch.env, HOME: home ?? folder.work, TMPDIR: folder.tmp },
      // Its own session and group, so that all of it can be ended together.
      detached: true,
      stdio: ['pipe', 'pipe', 'pipe'],
    })
    try {
      await once(child, 'spawn')
    } catch (error) {
      const { message: why, code = '' } = error as NodeJS.ErrnoException
      const isMissing = MISSING.has(code)
      // At a limit of processes or open files nothing is wrong with the program.
      if (isMissing) this.#listener.missing(why)
      const fail = { layer: 'provider' as const, message: this.#words.redact(why), retryable: true }
      this.#decide({ fail: { ...fail, code: isMissing ? 'cli_not_found' : 'cli_failed' } })
      return undefined
    }
    this.#promptBytes = textsOf(this.#request.prompt).reduce((sum, text) => sum + Buffer.byteLength(text), 0)
    this.#sink.accepted(tokensOf(this.#promptBytes), 0)
    // A program that does not read its input to the end is judged by what it answers, not by that.
    child.stdin.on('error', () => {})
    child.stdin.end(launch.stdin)
    return child
  }

  /** Resolves when all processes are gone and all their output was read. */
  async #attend(child: ChildProcessWithoutNullStreams, mark: string): Promise<void> {
    const closed = new Promise<void>((resolve) => child.once('close', () => resolve()))
    const exited = new Promise<[number | null, NodeJS.Signals | null]>((resolve) =>
      child.once('exit', (code, signal) => resolve([code, signal])),
    )
    child.stderr.setEncoding('utf8').on('data', (text: string) => this.#words.add(text))
    child.stdout.setEncoding('utf8').on('data', (text: string) => this.#hear(text))
    await Promise.race([exited, this.#decided])
    // One that has said its last word may still put its things away.
    if (this.#isWhole()) await Promise.race([exited, pause(PUT_AWAY_MS, undefined, { ref: false })])
    const isGone = await endTree({ pid: child.pid, mark }, GRACE_MS)
    if (!isGone) this.#listener.warn(`a process of a job of ${this.#settings.name} could not be ended (its group is ${child.pid})`)
    // A process that could not be ended may keep the pipes open for ever.
    await Promise.race([closed, pause(isGone ? CLOSE_WITHIN_MS : 0, undefined, { ref: false })])
    child.stdout.destroy()
    child.stderr.destroy()
    if (this.#line !== '') this.#hear('\n')
    if (this.#verdict !== undefined) return
    const [code, signal] = await exited
    this.#decide(this.#verdictOfExit(code, signal))
  }

  /** It ended its answer by itself: nothing has to be stopped. */
  #isWhole(): boolean {
    return (
      this.#verdict !== undefined && 'finish' in this.#verdict && this.#verdict.finish !== 'cancelled' && this.#answer.end === undefined
    )
  }

  #hear(text: string): void {
    this.#read += text.length
    if (this.#read > OUTPUT_LENGTH_MAX) {
      const message = `it wrote more than ${OUTPUT_LENGTH_MAX} characters`
      this.#decide({ fail: { ...this.#failure({ message }), code: 'cli_output_too_large', retryable: false } })
    }
    if (this.#verdict !== undefined) return
    if (this.#reader.format === 'text') {
      this.#take(this.#reader.read(text, Date.now()))
      return
    }
    if (!text.includes('\n')) {
      this.#line += text
      return
    }
    const lines = (this.#line + text).split('\n')
    this.#line = lines.pop() ?? ''
    for (const line of lines) this.#hearLine(line.trim())
  }

  #hearLine(line: string): void {
    if (line === '') return
    const value = parsed(line)
    if (value !== undefined) {
      this.#take(this.#reader.read(value, Date.now()))
      return
    }
    // Some print a warning among their events; only an answer that never ends makes it matter.
    this.#unreadable += 1
    this.#words.add(`${line}\n`)
  }

  #take(events: CliEvent[]): void {
    for (const event of events) {
      if (this.#verdict !== undefined && event.kind !== 'quota') continue
      if (event.kind === 'text') this.#show(this.#answer.add(unguarded(event.text)), undefined)
      else if (event.kind === 'reasoning') this.#show('', this.#answer.addReasoning(unguarded(event.text)))
      else if (event.kind === 'usage') this.#usage = event
      else if (event.kind === 'quota') this.#listener.quota(event.windows)
      else if (event.kind === 'ended') this.#decide({ finish: event.reason })
      else this.#decide({ fail: this.#failure(event.trouble) })
    }
  }

  #show(text: string, delta: AnswerDelta | undefined): void {
    if (text !== '' || (delta?.reasoning ?? '') !== '') this.#sink.tokens([UNTOLD_TOKEN], text, delta)
    const { end } = this.#answer
    if (end !== undefined) this.#decide({ finish: end })
  }

  #verdictOfExit(code: number | null, signal: NodeJS.Signals | null): Verdict {
    const said = this.#words.text
    const how = signal === null ? `its program exited with code ${code}` : `its program was ended by ${signal}`
    const message = said === '' ? how : `${how}: ${said}`
    if (code !== 0) {
      const trouble = this.#reader.exit?.(code ?? 0) ?? { message }
      const failure = this.#failure({ ...trouble, message: trouble.message === message ? message : `${trouble.message}: ${said}` })
      return { fail: code === null ? failure : { providerStatus: code, ...failure } }
    }
    if (this.#reader.endsByExit === true && this.#answer.begun) return { finish: 'stop' }
    if (this.#unreadable > 0)
      return { fail: { ...this.#failure({ message: `it wrote what cannot be read: ${said}` }), code: 'cli_bad_output' } }
    const silent = this.#answer.begun ? 'its program exited before the end of its answer' : 'its program exited without an answer'
    return { fail: { ...this.#failure({ message: said === '' ? silent : `${silent}: ${said}` }), code: 'cli_no_answer' } }
  }

  #failure(trouble: Parameters<typeof failureOf>[0]): GenerationFailure {
    const { name, adapter } = this.#settings
    const message = this.#words.redact(trouble.message)
    return failureOf({ ...trouble, message }, { name, login: adapter.login }, Date.now())
  }

  #decide(verdict: Verdict): void {
    this.#verdict ??= verdict
    this.#tellDecided()
  }

  #conclude(verdict: Verdict): void {
    if ('fail' in verdict) this.#sink.failed(verdict.fail)
    else this.#finish(verdict.finish)
    this.#listener.ended('fail' in verdict ? verdict.fail : verdict.finish === 'cancelled' ? 'cancelled' : 'answered')
  }

  #finish(reason: FinishReason): void {
    const { stopSequence } = this.#answer
    // Where the program tells no usage, four bytes are taken for a token.
    const usage = this.#usage ?? {
      promptTokens: tokensOf(this.#promptBytes),
      completionTokens: this.#answer.tokens,
      cachedTokens: 0,
      reasoningTokens: this.#answer.reasoningTokens,
    }
    this.#sink.finished({
      reason,
      text: this.#answer.rest(),
      promptTokens: usage.promptTokens,
      completionTokens: usage.completionTokens,
      cachedTokens: usage.cachedTokens,
      ...(stopSequence === undefined ? {} : { stopSequence }),
      ...(usage.reasoningTokens === 0 ? {} : { reasoningTokens: usage.reasoningTokens }),
    })
  }
}

const MISSING = new Set(['ENOENT', 'EACCES', 'ENOTDIR', 'ENOEXEC'])
// A client that went away gets its slot back within a second, forced ending included.
const GRACE_MS = 400
const PUT_AWAY_MS = 3_000
const CLOSE_WITHIN_MS = 1_000
// Far beyond any answer; a line that never ends counts too.
const OUTPUT_LENGTH_MAX = 64 * 1024 * 1024

function parsed(line: string): unknown {
  try {
    return JSON.parse(line) as unknown
  } catch {
    return undefined
  }
}
