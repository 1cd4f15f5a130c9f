import {
  type ChunkMessage,
  dialLink,
  type FailedMessage,
  type FinishedMessage,
  type HostMessage,
  isSecondAddress,
  type LinkDialler,
  type ModelMessage,
  needsPerson,
  type OutputMessage,
  PROTOCOL_MAJOR,
  PROTOCOL_MINOR,
  type ToldByCoordinator,
  type WorkerEnd,
} from '../proto/link.ts'
import { randomUUID } from 'node:crypto'
import { FleetingMap } from '../proto/fleeting-map.ts'
import type { GenerationRequest } from '../proto/request.ts'
import { Attempt, attemptKey } from './attempts.ts'
import { requestOfAttempt } from './seeds.ts'
import type { Slots } from './slots.ts'

/**
 * The session with one coordinator: dials out, introduces the worker and what it still holds, runs what it is given and
 * sends what comes of it. When the connection breaks, generation goes on; the next greeting offers the output again.
 */
export class CoordinatorLink {
  readonly #address: string
  readonly #slots: Slots
  readonly #facts: WorkerFacts
  readonly #dialler: LinkDialler
  readonly #id = randomUUID()
  readonly #attempts = new FleetingMap<string, Attempt>()
  /** Those with something to send. */
  readonly #dirty = new FleetingMap<string, Attempt>()
  #end: WorkerEnd | undefined
  #welcomed = false
  #heartbeat: NodeJS.Timeout | undefined
  #heartbeats = 0
  #redial: NodeJS.Timeout | undefined
  #failures = 0
  /** Why there was no session, as it was said last, and when. */
  #saidWhy = ''
  #saidMs = 0
  #wasPersons = false
  /** Another of this worker's addresses has the session: that one is given time to be back when it breaks. */
  #isSecond = false
  /** Who greeted last. */
  coordinator: string | undefined
  #outputsSent = 0
  #outputsReceived = 0
  #flushing = false
  #closed = false
  #onQuiet: (() => void)[] = []
  /** There has been nobody for so long that nobody is waited for. */
  #isAlone = false
  #aloneTimer: NodeJS.Timeout | undefined

  constructor(address: string, token: string, slots: Slots, facts: WorkerFacts) {
    this.#address = address
    this.#slots = slots
    this.#facts = facts
    this.#dialler = dialLink(address, token)
  }

  open(): void {
    if (this.#closed) return
    const end = this.#dialler.open()
    this.#end = end
    this.#outputsSent = 0
    this.#outputsReceived = 0
    end.on('data', (told: ToldByCoordinator) => {
      if (this.#end === end) this.#hear(told)
    })
    end.on('error', (error: Error & { code?: number; details?: string }) => this.#broken(end, error.code, error.details ?? error.message))
    end.on('end', () => this.#broken(end, undefined, 'closed by the coordinator'))
    const { id, name, session, version } = this.#facts
    const held = [...this.#attempts.values()].map((attempt) => ({ job: attempt.job, attempt: attempt.number }))
    end.write({
      hello: {
        protocolMajor: PROTOCOL_MAJOR,
        protocolMinor: PROTOCOL_MINOR,
        worker: id,
        name,
        session,
        version,
        host: this.#facts.host(),
        models: this.#facts.models(),
        held,
        draining: this.#slots.draining,
        link: this.#id,
      },
    })
  }

  get connected(): boolean {
    return this.#welcomed
  }

  /** Tells the coordinator at once what the models offer now. */
  report(): void {
    if (this.#welcomed) this.#beat()
  }

  drain(): void {
    if (this.#welcomed) this.#end?.write({ draining: {} })
  }

  /** The coordinator knows this worker by another address, and nothing of what is held here: it runs elsewhere, or will. */
  abandon(): void {
    for (const key of [...this.#attempts.keys()]) this.#forget(key)
  }

  /** Nothing is held any more, or there is nobody to hand it to. */
  get isQuiet(): boolean {
    return this.#attempts.size === 0 || this.#isAlone
  }

  /** Resolves when it is. A coordinator that restarts is waited for: what was computed is handed to it when it is back. */
  async quiet(): Promise<void> {
    if (this.isQuiet) return
    if (!this.#welcomed) this.#waitAlone()
    await new Promise<void>((resolve) => this.#onQuiet.push(resolve))
  }

  #waitAlone(): void {
    this.#aloneTimer ??= setTimeout(() => {
      this.#isAlone = true
      this.#nowQuiet()
    }, ALONE_MS)
  }

  #nowQuiet(): void {
    for (const resolve of this.#onQuiet.splice(0)) resolve()
  }

  /** Gives back what still runs: another worker goes on from the next token. */
  handBack(): void {
    for (const attempt of [...this.#attempts.values()]) {
      if (attempt.ended) continue
      attempt.fail({
        layer: 'provider',
        code: 'worker_draining',
        message: 'The worker was stopped and gave the job back.',
        retryable: true,
      })
      attempt.generation?.cancel()
      this.#dirty.set(attempt.key, attempt)
    }
    this.#flush()
  }

  /** Resolves when the coordinator has heard all that was said, or is not there to hear it. */
  async close(): Promise<void> {
    this.#closed = true
    clearTimeout(this.#redial)
    clearTimeout(this.#aloneTimer)
    clearInterval(this.#heartbeat)
    const end = this.#end
    if (end !== undefined && this.#welcomed) await farewell(end)
    this.#dialler.close()
  }

  #hear(told: ToldByCoordinator): void {
    if (told.welcome) this.#welcome(told.welcome)
    else if (told.starts) for (const start of told.starts.attempts) this.#start(start)
    else if (told.start) this.#start(told.start)
    else if (told.cancel) this.#cancel(told.cancel.job, told.cancel.attempt)
    else if (told.acknowledge) for (const { job, attempt } of told.acknowledge.attempts) this.#forget(attemptKey(job, attempt))
    else if (told.resume) this.#resume(told.resume.job, told.resume.attempt, told.resume.first)
    else if (told.received) this.#received(told.received.outputs)
    else if (told.drain) this.#facts.onDrain()
  }

  #welcome({ coordinator, heartbeatIntervalMs }: NonNullable<ToldByCoordinator['welcome']>): void {
    this.#welcomed = true
    this.#isSecond = false
    this.coordinator = coordinator
    this.#facts.onWelcomed(this, coordinator)
    this.#isAlone = false
    clearTimeout(this.#aloneTimer)
    this.#aloneTimer = undefined
    this.#failures = 0
    this.#facts.log.info(`Connected to the coordinator at ${this.#address}.`)
    clearInterval(this.#heartbeat)
    this.#heartbeat = setInterval(() => this.#beat(), Math.max(100, heartbeatIntervalMs))
    // Models may have changed between the greeting and now.
    this.#beat()
    this.#facts.onConnected()
  }

  #beat(): void {
    this.#heartbeats += 1
    this.#end?.write({ heartbeat: { count: this.#heartbeats, models: this.#facts.models(), host: this.#facts.host() } })
  }

  #start(start: NonNullable<ToldByCoordinator['start']>): void {
    // Two attempts under one name could not be told apart by anyone.
    const held = this.#attempts.has(attemptKey(start.job, start.attempt))
    const refusal = held ? 'attempt_held' : this.#slots.refusal(start.model)
    if (refusal !== undefined) {
      this.#end?.write({ refused: { job: start.job, attempt: start.attempt, reason: refusal } })
      return
    }
    const attempt = new Attempt(start.job, start.attempt, start.model, start.continuation.length)
    this.#hold(attempt)
    const changed = (): void => attempt.onChanged()
    attempt.generation = this.#slots.generate(
      start.model,
      attempt.key,
      requestOfAttempt(JSON.parse(start.request) as GenerationRequest, start.attempt, start.continuation.length),
      start.continuation,
      {
        accepted: (promptTokens, cachedTokens) => attempt.accept(promptTokens, cachedTokens),
        prefilled: (processed, total) => {
          if (attempt.ended) return
          attempt.prefill(processed, total)
          changed()
        },
        tokens: (ids, text, delta) => {
          // A job handed back goes on elsewhere from what was sent: nothing may be added to it here.
          if (attempt.ended) return
          attempt.add(ids, text, delta)
          changed()
        },
        finished: (end) => {
          attempt.finish(end)
          changed()
        },
        failed: (failure) => {
          attempt.fail(failure)
          changed()
        },
      },
    )
  }

  #cancel(job: string, number: number): void {
    const attempt = this.#attempts.get(attemptKey(job, number))
    if (attempt === undefined) {
      // Confirm all the same, or the coordinator would hold the slot as taken.
      const failed = {
        job,
        attempt: number,
        layer: 'provider',
        code: 'unknown_attempt',
        message: 'The worker does not hold this attempt.',
        retryable: true,
      }
      this.#end?.write({ output: { failed: [failed] } })
      return
    }
    attempt.unwanted = true
    if (attempt.ended) {
      attempt.rewind(0)
      this.#changed(attempt)
    } else attempt.generation?.cancel()
  }

  #resume(job: string, number: number, first: number): void {
    const key = attemptKey(job, number)
    const attempt = this.#attempts.get(key) ?? this.#takeOver(key)
    if (attempt === undefined) {
      const message = 'The worker does not hold this attempt.'
      this.#end?.write({
        output: { failed: [{ job, attempt: number, layer: 'provider', code: 'attempt_unknown', message, retryable: true }] },
      })
      return
    }
    attempt.rewind(first)
    this.#changed(attempt)
  }

  #hold(attempt: Attempt): void {
    this.#attempts.set(attempt.key, attempt)
    attempt.onChanged = () => this.#changed(attempt)
  }

  /** A coordinator that adopted the job of another one asks for an attempt that the other one started. */
  #takeOver(key: string): Attempt | undefined {
    const attempt = this.#facts.giveUp(key)
    if (attempt !== undefined) this.#hold(attempt)
    return attempt
  }

  /** Lets go of an attempt that another coordinator owns now. */
  giveUp(key: string): Attempt | undefined {
    const attempt = this.#attempts.get(key)
    if (attempt === undefined) return undefined
    this.#letGo(attempt)
    return attempt
  }

  #letGo(attempt: Attempt): void {
    this.#dirty.delete(attempt.key)
    this.#attempts.delete(attempt.key)
    if (this.#attempts.size === 0) this.#nowQuiet()
  }

  #received(outputs: number): void {
    this.#outputsReceived = outputs
    this.#soon()
  }

  #changed(attempt: Attempt): void {
    this.#dirty.set(attempt.key, attempt)
    this.#soon()
  }

  #soon(): void {
    if (this.#flushing) return
    this.#flushing = true
    // What the engines produce in one turn of the event loop, for all jobs, leaves in one message.
    setImmediate(() => {
      this.#flushing = false
      this.#flush()
    })
  }

  #flush(): void {
    const end = this.#end
    if (end === undefined || !this.#welcomed) return
    // gRPC queues without bound; beyond the window output waits here and leaves later in larger chunks.
    while (this.#dirty.size > 0 && this.#outputsSent - this.#outputsReceived < OUTPUTS_ON_THE_WAY) {
      end.write({ output: this.#takeOutput() })
      this.#outputsSent += 1
    }
  }

  #takeOutput(): OutputMessage {
    const chunks: ChunkMessage[] = []
    const finished: FinishedMessage[] = []
    const failed: FailedMessage[] = []
    let size = 0
    for (const attempt of this.#dirty.values()) {
      // A message has a largest size; what does not fit leaves in the next.
      if (size > OUTPUT_CHARS_MAX) break
      // Of what nobody wants only the end is news: it says that the slot is free.
      if (attempt.unwanted) attempt.skipToEnd()
      const chunk = attempt.takeChunk()
      if (chunk !== undefined) chunks.push(chunk)
      size += chunk === undefined ? 0 : sizeOf(chunk)
      // Two large pieces would not go into one message.
      const last = size > OUTPUT_CHARS_MAX ? undefined : attempt.takeEnd()
      if (last !== undefined && 'finished' in last) {
        finished.push(last.finished)
        size += sizeOf(last.finished)
      }
      if (last !== undefined && 'failed' in last) failed.push(last.failed)
      if (attempt.unwanted && last !== undefined) this.#forget(attempt.key)
      else if (!attempt.hasMore) this.#dirty.delete(attempt.key)
    }
    return { chunks, finished, failed }
  }

  #forget(key: string): void {
    const attempt = this.#attempts.get(key)
    if (attempt === undefined) return
    attempt.generation?.cancel()
    this.#letGo(attempt)
  }

  #broken(end: WorkerEnd, code: number | undefined, why: string): void {
    if (this.#end !== end) return
    this.#end = undefined
    clearInterval(this.#heartbeat)
    const was = this.#welcomed
    this.#welcomed = false
    if (this.#onQuiet.length > 0) this.#waitAlone()
    if (this.#closed) return
    const person = needsPerson(code) || isSecondAddress(code)
    if (isSecondAddress(code)) {
      this.#isSecond = true
      this.abandon()
    }
    const delayMs = this.#isSecond
      ? REDIAL_SECOND_MS
      : person
        ? REDIAL_PERSON_MS
        : Math.min(REDIAL_MAX_MS, REDIAL_MIN_MS * 2 ** Math.min(this.#failures, 10))
    // Said once per outage, not once per try; what a person has to change is said again now and then.
    const isNews = person ? why !== this.#saidWhy || performance.now() - this.#saidMs > SAY_AGAIN_MS : this.#failures === 0
    const isOther = person !== this.#wasPersons
    this.#wasPersons = person
    if (was || isNews || isOther) {
      this.#facts.log.warn(`No session with the coordinator at ${this.#address}: ${why.replace(/\.$/, '')}. Trying again.`)
      this.#saidWhy = why
      this.#saidMs = performance.now()
    }
    this.#failures += 1
    // Jitter keeps a fleet from coming back in step.
    this.#redial = setTimeout(() => this.open(), delayMs * (0.5 + Math.random()))
  }
}

function sizeOf({ text = '', delta = '' }: { text?: string; delta?: string }): number {
  return text.length + delta.length
}

/** Closing the channel throws away what is not sent yet; that the coordinator ends its side too says that it has it all. */
function farewell(end: WorkerEnd): Promise<void> {
  return new Promise((resolve) => {
    const late = setTimeout(resolve, FAREWELL_MS)
    const heard = (): void => {
      clearTimeout(late)
      resolve()
    }
    end.on('end', heard)
    end.on('error', heard)
    end.end()
  })
}

export type WorkerFacts = {
  id: string
  name: string
  session: string
  version: string
  log: { info(text: string): void; warn(text: string): void }
  models(): ModelMessage[]
  host(): HostMessage
  onDrain(): void
  onConnected(): void
  /** This session has greeted that coordinator. */
  onWelcomed(link: CoordinatorLink, coordinator: string): void
  /** The attempt from whichever session holds it; that one lets go of it. */
  giveUp(key: string): Attempt | undefined
}

// A message holds 64 MiB (proto/link.ts) and a piece at most 48 (worker/attempts.ts): even in three bytes a character this fits.
const OUTPUT_CHARS_MAX = 4 * 1024 * 1024
// With receipts every 32 messages (coordinator/link.ts) the window never closes on a coordinator that keeps up.
const OUTPUTS_ON_THE_WAY = 256
// A coordinator that is frozen or cut off must not hold up the end.
const FAREWELL_MS = 1_000
// A restart takes one that is watched over a few seconds; beyond that whoever stops this worker waits in vain.
const ALONE_MS = 8_000
const REDIAL_MIN_MS = 50
const REDIAL_MAX_MS = 2_000
const REDIAL_PERSON_MS = 10_000
// With the jitter at least half of it, and far longer than the first takes to be back.
const REDIAL_SECOND_MS = 40_000
const SAY_AGAIN_MS = 600_000
