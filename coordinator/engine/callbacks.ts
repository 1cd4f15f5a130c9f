import { Webhook } from 'standardwebhooks'
import type { EventRecord, EventType } from '../core/event.ts'
import {
  type CallbackTry,
  type DueCallback,
  type Failure,
  findCallback,
  findDue,
  findWebhookSecret,
  makeDueWhereJobsEnded,
  settleDelivered,
  settleFailed,
  settleRetry,
  settleUntilEnd,
  takeDue,
} from '../store/callbacks.ts'
import type { Db } from '../store/db.ts'
import type { Outbound } from './outbound.ts'
import type { Timers } from './timers.ts'

/**
 * Tells callers that their jobs have ended, by Standard Webhooks: signed, at least once, the same `webhook-id` with every
 * try. A row says what is owed and when the next try is due; whoever delivers claims it first, so several coordinators
 * share the work. Lost wake-ups, outages and crashes all end in the same place: the sweep finds what is due.
 */
export class Callbacks {
  readonly #parts: CallbackParts
  readonly #ended: string[] = []
  readonly #line: (DueCallback & { receiver: string })[] = []
  /** In the line or at work here; a sweep meets them again. */
  readonly #known = new Set<string>()
  readonly #working = new Set<Promise<void>>()
  /** How many are at work for each receiver, and how many in the line. */
  readonly #workingFor = new Map<string, number>()
  readonly #waitingFor = new Map<string, number>()
  #marking = false
  #stopped = false

  constructor(parts: CallbackParts) {
    this.#parts = parts
  }

  start(): void {
    this.#parts.timers.handle(KIND, async (id, version) => {
      const due = await findCallback(this.#parts.db, id, version)
      if (due !== undefined) this.#offer(due)
    })
    this.#parts.timers.sweep(KIND, SWEEP_MS, () => this.#sweep())
  }

  /** To be called when the end is in the database. Jobs that end while a statement is in flight share the next. */
  jobEnded(job: string): void {
    this.#ended.push(job)
    if (!this.#marking) void this.#markEnded()
  }

  /** Starts nothing more and gives tries at work a moment; what they leave undone is due again when their claim ends. */
  async stop(): Promise<void> {
    this.#stopped = true
    let timer: NodeJS.Timeout | undefined
    const late = new Promise((resolve) => (timer = setTimeout(resolve, STOP_MS)))
    await Promise.race([Promise.allSettled(this.#working), late])
    clearTimeout(timer)
  }

  async #markEnded(): Promise<void> {
    this.#marking = true
    while (this.#ended.length > 0 && !this.#stopped) {
      const jobs = this.#ended.splice(0, LINE_MAX)
      // What fails here stays `waiting`, which is where the sweep looks.
      const due = await makeDueWhereJobsEnded(this.#parts.db, jobs).catch((error: unknown) => this.#tell(error))
      for (const one of due ?? []) this.#offer(one)
    }
    this.#marking = false
  }

  async #sweep(): Promise<void> {
    await makeDueWhereJobsEnded(this.#parts.db)
    for (const due of await findDue(this.#parts.db, LINE_MAX, LINE_OF_ONE_MAX)) this.#offer(due)
  }

  #offer(due: DueCallback): void {
    const name = `${due.id}-${due.version}`
    const receiver = receiverOf(due)
    if (this.#stopped || this.#known.has(name) || this.#line.length >= LINE_MAX) return
    // What one receiver has too many of is left to the sweep.
    if ((this.#waitingFor.get(receiver) ?? 0) >= LINE_OF_ONE_MAX) return
    this.#known.add(name)
    this.#line.push({ ...due, receiver })
    count(this.#waitingFor, receiver, 1)
    this.#startNext()
  }

  #startNext(): void {
    while (this.#working.size < PARALLEL_MAX && !this.#stopped) {
      const place = this.#nextPlace()
      const [due] = place < 0 ? [] : this.#line.splice(place, 1)
      if (due === undefined) return
      const { receiver } = due
      count(this.#waitingFor, receiver, -1)
      count(this.#workingFor, receiver, 1)
      const work = this.#deliver(due)
        .catch((error: unknown) => this.#tell(error))
        .finally(() => {
          this.#working.delete(work)
          count(this.#workingFor, receiver, -1)
          this.#known.delete(`${due.id}-${due.version}`)
          this.#startNext()
        })
      this.#working.add(work)
    }
  }

  /** The longest waiting of those whose receiver has the fewest at work: a silent one gets no place before one that answers. */
  #nextPlace(): number {
    let best = -1
    let fewest = PARALLEL_OF_ONE_MAX
    for (const [place, waiting] of this.#line.entries()) {
      const atWork = this.#workingFor.get(waiting.receiver) ?? 0
      if (atWork >= fewest) continue
      best = place
      fewest = atWork
      if (atWork === 0) break
    }
    return best
  }

  async #deliver(due: DueCallback): Promise<void> {
    const { db, body } = this.#parts
    const tried = await takeDue(db, due, CLAIM_MS)
    if (tried === undefined) return
    const job = (await body(tried.job)) as JobView | null | undefined
    if (job === null || job === undefined) return this.#giveUp(tried, { status: null, error: 'The job is no longer stored.' })
    if (!ENDS.has(job.status)) return settleUntilEnd(db, tried)
    const secret = await findWebhookSecret(db, tried.team)
    if (secret === undefined) return this.#giveUp(tried, { status: null, error: `Team ${tried.team} has no webhook secret to sign with.` })
    const answer = await this.#post(tried, job, secret)
    if (answer.error === null) return settleDelivered(db, tried, answer.status)
    return answer.status === GONE ? this.#giveUp(tried, answer) : this.#tryAgain(tried, answer)
  }

  async #post(tried: CallbackTry, job: JobView, sealedSecret: Buffer): Promise<Failure | { status: number; error: null }> {
    const { now, outbound, vault } = this.#parts
    try {
      const at = new Date(now())
      const body = JSON.stringify({ type: `job.${job.status}`, timestamp: job.finished_at ?? at.toISOString(), data: job })
      const headers = {
        'content-type': 'application/json',
        'user-agent': 'holdfast',
        'webhook-id': tried.id,
        'webhook-timestamp': String(Math.floor(at.getTime() / 1000)),
        'webhook-signature': new Webhook(vault.open(sealedSecret)).sign(tried.id, at, body),
      }
      const { status } = await outbound.post(tried.url, headers, body, POST_TIMEOUT_MS)
      return status >= 200 && status < 300 ? { status, error: null } : { status, error: `The receiver answered ${status}.` }
    } catch (error) {
      return { status: null, error: error instanceof Error ? error.message : String(error) }
    }
  }

  async #tryAgain(tried: CallbackTry, failure: Failure): Promise<void> {
    const { db, now, random, timers, retryAfterMs = RETRY_AFTER_MS } = this.#parts
    const delayMs = retryAfterMs[tried.attempts - 1]
    if (delayMs === undefined) return this.#giveUp(tried, failure)
    const dueMs = await settleRetry(db, tried, failure, Math.round(delayMs * (1 + JITTER * random())))
    // Woken a breath before its time by a clock that is ahead, it would be left to the sweep.
    if (dueMs !== undefined) timers.wake(KIND, tried.id, tried.attempts, dueMs + CLOCKS_DIFFER_MS, now())
  }

  async #giveUp(tried: CallbackTry, failure: Failure): Promise<void> {
    const { addEvent, db, newEvent } = this.#parts
    if (!(await settleFailed(db, tried, failure))) return
    // The host alone: the rest of such an address is often as good as a password.
    const host = URL.parse(tried.url)?.host ?? null
    const event = newEvent('callback.failed', 'coordinator', { callback: tried.id, host, attempts: tried.attempts, ...failure })
    addEvent(Object.assign(event, { team: tried.team, job: tried.job, traceId: tried.traceId }))
  }

  #tell(error: unknown): void {
    if (!this.#stopped) this.#parts.onProblem(`A callback was put off: ${error instanceof Error ? error.message : String(error)}`)
  }
}

export type CallbackParts = {
  db: Db
  timers: Pick<Timers, 'handle' | 'wake' | 'sweep'>
  outbound: Pick<Outbound, 'post'>
  vault: { open(sealed: Buffer): string }
  /** The job as the API shows it; null or undefined when it is no longer stored. */
  body: (job: string) => Promise<unknown>
  newEvent: (type: EventType, actor: string, details: Record<string, unknown>) => EventRecord
  addEvent: (event: EventRecord) => void
  /** PostgreSQL's time. */
  now: () => number
  /** From 0 up to 1. */
  random: () => number
  onProblem: (message: string) => void
  retryAfterMs?: readonly number[]
}

/** One that does not answer must not hold back the others: they are told apart by their hosts. */
function receiverOf({ url }: DueCallback): string {
  return URL.parse(url)?.host ?? ''
}

function count(counts: Map<string, number>, name: string, by: 1 | -1): void {
  const now = (counts.get(name) ?? 0) + by
  if (now === 0) counts.delete(name)
  else counts.set(name, now)
}

type JobView = { status: string; finished_at?: string | null }

const KIND = 'callback'
const ENDS = new Set(['succeeded', 'failed', 'cancelled', 'parked'])
const GONE = 410
const SWEEP_MS = 15_000
const POST_TIMEOUT_MS = 15_000
// Longer than a try can take, so that nobody takes it up while it is at work.
const CLAIM_MS = 60_000
const STOP_MS = 2_000
const PARALLEL_MAX = 16
const PARALLEL_OF_ONE_MAX = 4
const LINE_MAX = 5_000
const LINE_OF_ONE_MAX = 500
const CLOCKS_DIFFER_MS = 20
const JITTER = 0.1
const [SECOND, MINUTE, HOUR] = [1_000, 60_000, 3_600_000]
// The schedule that Standard Webhooks recommends: ten tries within three days and a half.
const RETRY_AFTER_MS = [5 * SECOND, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR] as const
