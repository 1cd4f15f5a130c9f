import type { EventRecord } from '../core/event.ts'
import type { AttemptRecord, JobId, JobRecord } from '../core/job.ts'
import { Fault } from '../core/fault.ts'
import { type Db, isMissing, isUnavailable, mayPass, type Session } from './db.ts'
import { readPartitions } from './migrate.ts'
import type { Payment } from './spending.ts'
import { type Statement, statementFor } from './writer-sql.ts'

type WriterListeners = {
  onFlush: (tookMs: number, rows: number) => void
  onDropped: (error: unknown, what: string) => void
  /** Null while the jobs are surely ours; else a promise of whether they still are. */
  stillOurs?: () => Promise<boolean> | null
}

/**
 * The one writer of the hot tables. One statement in flight; whatever is asked meanwhile gathers and goes as the next, so a
 * thousand jobs a second share a few hundred commits, and what is about a job becomes durable in the order in which it was asked.
 * (A second connection beside it would overlap what is built here with what PostgreSQL executes; measured, two smaller statements
 * cost more than that brings.) Only acceptance is waited for; what nobody waits for rides along. Rows are read from their records when
 * the statement is made: a job accepted and finished within one batch is written once, finished.
 *
 * Every row is safe to send twice (ids are ours, versions only grow), so after a broken connection the same batch is
 * simply sent again until PostgreSQL has it. Nothing is dropped and nothing is applied twice.
 */
export class Writer {
  readonly #db: Db
  readonly #onFlush: (tookMs: number, rows: number) => void
  readonly #onDropped: (error: unknown, what: string) => void
  readonly #stillOurs: () => Promise<boolean> | null
  #gathering = emptyBatch()
  /** Until whoever waited for it is told. */
  #onTheWay: Batch | null = null
  /** PostgreSQL is at it, and nothing speaks against its being stored as it was sent. */
  #isUnderWay = false
  /** The next statement was made, or is about to be, while that one is under way. */
  #looksAhead = false
  #session: Session | undefined
  #day = 0
  #flushing = false
  #scheduled = false
  #lazily: NodeJS.Timeout | undefined
  /** Somebody waits for what gathers. */
  #urgent = false
  #closed = false

  constructor(db: Db, listeners: WriterListeners) {
    this.#db = db
    this.#onFlush = listeners.onFlush
    this.#onDropped = listeners.onDropped
    this.#stillOurs = listeners.stillOurs ?? (() => null)
  }

  /** Resolves when the job is durable, with all that comes with it; rejects when PostgreSQL refuses one of its rows. */
  insertJob(record: JobRecord, request: string, along: JobCompanions = {}): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#gathering.jobs.set(record.id, { record, request, along, settled: [(error) => (error === null ? resolve() : reject(error))] })
      this.#now()
    })
  }

  /** The record's present state, whatever changed; `settled` hears when it is durable. */
  updateJob(record: JobRecord, settled?: Settled): void {
    const gathered = this.#gathering.jobs.get(record.id)
    if (gathered === undefined)
      this.#gathering.jobs.set(record.id, { record, request: null, along: {}, settled: settled === undefined ? [] : [settled] })
    else if (settled !== undefined) gathered.settled.push(settled)
    this.#soon()
  }

  /** Somebody else has written its row meanwhile: whatever is said of it next is said in full. */
  doubt(record: JobRecord): void {
    record.inRow = null
    const onTheWay = this.#onTheWay?.jobs.get(record.id)
    if (onTheWay !== undefined) onTheWay.told = null
    this.#gathering.statement = null
  }

  addAttempt(attempt: AttemptRecord): void {
    this.#gathering.attempts.push(attempt)
    this.#soon()
  }

  addEvent(event: EventRecord): void {
    this.#gathering.events.push(event)
    this.#soon()
  }

  addPayment(payment: Payment): void {
    this.#gathering.payments.push(payment)
    this.#soon()
  }

  addOutput(job: JobId, output: string): void {
    this.#gathering.outputs.push({ job, output })
    this.#soon()
  }

  addProgress(progress: Progress): void {
    this.#gathering.progress.push(progress)
    this.#soon()
  }

  clearProgress(job: JobId): void {
    // One statement sees one snapshot: its delete would miss what its insert adds.
    this.#gathering.progress = this.#gathering.progress.filter((progress) => progress.job !== job)
    this.#gathering.cleared.push(job)
    this.#soon()
  }

  /** Rows asked for and not yet on their way. */
  get backlog(): number {
    return rowsIn(this.#gathering)
  }

  /** Resolves when every job asked for so far is stored or refused; what nobody waits for may still be on its way. */
  async accepted(): Promise<void> {
    // The one that gathers leaves behind the one that is on its way.
    const last = [this.#gathering, this.#onTheWay].find((batch) => batch !== null && hasNew(batch))
    if (last) await new Promise<void>((resolve) => last.sent.push(resolve))
  }

  /** Resolves when everything asked so far is durable. Of what is asked meanwhile it does not wait: under load there is no end of that. */
  async drained(): Promise<void> {
    const gathers = rowsIn(this.#gathering) > 0
    // The one that gathers leaves behind the one that is on its way.
    const last = gathers ? this.#gathering : this.#onTheWay
    if (last === null) return
    const done = new Promise<void>((resolve) => last.sent.push(resolve))
    if (gathers) this.#now()
    await done
  }

  async close(): Promise<void> {
    while (this.#onTheWay !== null || rowsIn(this.#gathering) > 0) await this.drained()
    this.#closed = true
    await this.#session?.end()
  }

  /** Nobody waits for these rows: they go with the next that somebody waits for, by themselves in a moment, or when they are many. */
  #soon(): void {
    this.#changed()
    if (this.#flushing || this.#scheduled) return
    if (rowsIn(this.#gathering) >= WORTH_ROWS) return this.#now()
    if (this.#lazily !== undefined) return
    this.#lazily = setTimeout(() => this.#now(), LAZY_MS)
  }

  #now(): void {
    this.#changed()
    this.#urgent = true
    clearTimeout(this.#lazily)
    this.#lazily = undefined
    if (this.#flushing || this.#scheduled) return
    this.#scheduled = true
    void endOfTurn().then(() => {
      this.#scheduled = false
      return this.#flushAll()
    })
  }

  #changed(): void {
    this.#gathering.statement = null
    if (this.#isUnderWay && !this.#looksAhead) void this.#lookAhead()
  }

  /**
   * The statement of what gathers, made while PostgreSQL is at the one before and would wait for it else. Not while something comes
   * turn by turn, and once: what comes then all the same makes it worthless.
   */
  async #lookAhead(): Promise<void> {
    this.#looksAhead = true
    const onTheWay = this.#onTheWay
    const isStill = (): boolean => this.#isUnderWay && this.#onTheWay === onTheWay
    for (let before = 0, calm = 0; isStill() && calm < CALM_TURNS; ) {
      calm = before === rowsIn(this.#gathering) ? calm + 1 : 0
      before = rowsIn(this.#gathering)
      await endOfTurn()
    }
    const batch = this.#gathering
    if (!isStill() || !this.#urgent || batch.jobs.size < WORTH_LOOKING_AHEAD) return
    try {
      batch.statement = statementFor(batch, onTheWay)
    } catch {
      // It will be said when its turn has come.
    }
  }

  /** What is on its way is not stored as it was sent, or nobody knows: so is what was made ahead not right. */
  #cannotCountOnIt(): void {
    this.#isUnderWay = false
    this.#gathering.statement = null
  }

  /**
   * PostgreSQL and this process work at the same time: whoever waited for a batch is told while the next one is on its way. And where
   * little or nothing has gathered for a next one, some of them are told first, because what these ask for will be in it: batches are
   * best of one size.
   */
  async #flushAll(): Promise<void> {
    this.#flushing = true
    let untold: Untold = { jobs: 0, settlers: [] }
    while (this.#urgent || untold.settlers.length > 0) {
      const { jobs, settlers } = untold
      const gathered = this.#gathering.jobs.size
      const isLopsided = jobs >= WORTH_HALVING && jobs > LOPSIDED * gathered
      if (!this.#urgent || isLopsided) {
        const share = isLopsided ? (jobs - gathered) / 2 / jobs : 1
        for (const settle of settlers.splice(0, Math.ceil(settlers.length * share))) settle(null)
        await endOfTurn()
      }
      const flushed = this.#urgent ? this.#flush() : null
      for (const settle of settlers) settle(null)
      untold = (await flushed) ?? { jobs: 0, settlers: [] }
    }
    this.#flushing = false
    if (rowsIn(this.#gathering) > 0) this.#soon()
  }

  /** What has gathered is on its way when this returns; resolves to those who are to be told that it is stored. */
  async #flush(): Promise<Untold> {
    const batch = this.#gathering
    this.#gathering = emptyBatch()
    this.#onTheWay = batch
    this.#urgent = false
    this.#looksAhead = false
    const sent = (): void => {
      if (this.#onTheWay === batch) this.#onTheWay = null
      for (const resolve of batch.sent) resolve()
    }
    const ours = this.#stillOurs()
    if (ours !== null && !(await ours)) leaveToOthers(batch)
    if (rowsIn(batch) === 0) return { jobs: 0, settlers: [sent] }
    const began = performance.now()
    try {
      this.#isUnderWay = true
      await this.#send(batch)
      this.#isUnderWay = false
    } catch (error) {
      this.#cannotCountOnIt()
      await this.#flushOneByOne(batch, error)
      return { jobs: 0, settlers: [sent] }
    }
    this.#onFlush(performance.now() - began, rowsIn(batch))
    return { jobs: batch.jobs.size, settlers: [...this.#settlers(batch), sent] }
  }

  /** Sends until PostgreSQL takes it, through its restarts and full disks; throws only what it has against these rows. */
  async #send(batch: Batch, isDoubtful = false): Promise<void> {
    let statement = batch.statement ?? statementFor(batch)
    for (let attempt = 0; ; attempt++) {
      let isSent = false
      try {
        if (this.#day !== today()) await this.#beginDay()
        this.#session ??= await this.#connect()
        isSent = true
        // What was sent when the connection broke may have been stored all the same; what was refused was not.
        const { name, text } = isDoubtful ? statement.again : statement.first
        await this.#session.run(name, text, statement.values)
        this.#db.markDown(false)
        this.#db.markRefused(this, null)
        // What was there already was not written over.
        for (const { record, told = null } of batch.jobs.values()) record.inRow = isDoubtful ? null : told
        return
      } catch (error) {
        this.#cannotCountOnIt()
        // A connection that cannot be opened says nothing about the rows, whatever it says.
        if ((isSent && !mayPass(error)) || this.#closed) {
          this.#db.markRefused(this, null)
          throw error
        }
        isDoubtful ||= isSent && isUnavailable(error)
        if (isUnavailable(error)) this.#db.markDown(true)
        else this.#db.markRefused(this, (error as Error).message)
        const broken = this.#session
        this.#session = undefined
        await broken?.end()
        await new Promise((resolve) => setTimeout(resolve, Math.min(1_000, 20 * 2 ** Math.min(attempt, 6))))
        if (isMissing(error)) statement = await this.#withoutDropped(batch)
        // That may have taken longer than anybody waits for this process.
        if ((await this.#stillOurs()) ?? true) continue
        leaveToOthers(batch)
        if (rowsIn(batch) === 0) return
        statement = statementFor(batch)
      }
    }
  }

  /** A day was dropped and something about one of its jobs came after all: it goes through the whole table, like a day that never was. */
  async #withoutDropped(batch: Batch): Promise<Statement> {
    // What cannot be asked now is asked after the next attempt.
    await readPartitions(this.#db).catch(() => {})
    return statementFor(batch)
  }

  /** Statements name the partitions of their day, and PostgreSQL keeps the plan of each as long as the connection lives. */
  async #beginDay(): Promise<void> {
    this.#day = today()
    const yesterdays = this.#session
    this.#session = undefined
    await yesterdays?.end()
  }

  async #connect(): Promise<Session> {
    const session = await this.#db.dedicated(() => {
      if (this.#session === session) this.#session = undefined
    }, STATEMENT_LATE_MS)
    // A plan first made on an empty table would keep scanning it whole when it is not empty any more.
    for (const setting of [
      'enable_seqscan = off',
      'enable_hashjoin = off',
      'enable_mergejoin = off',
      'plan_cache_mode = force_generic_plan',
    ])
      await session.run(undefined, `set ${setting}`, [])
    return session
  }

  /** One bad row fails its batch: then each row goes alone, the good ones are kept and the bad one is told. */
  async #flushOneByOne(batch: Batch, cause: unknown): Promise<void> {
    const singles = split(batch)
    if (singles.length <= 1) {
      for (const [job, { request }] of batch.jobs) if (request !== null) this.#forget(job, new Set())
      this.#refuse(batch, cause)
      return
    }
    const refused = new Set<string>()
    for (const single of singles) {
      if (isAbout(single, refused)) continue
      try {
        // Of what one by one is there already, such as by a coordinator that had the job before, nothing is refused.
        await this.#send(single, true)
        for (const settle of this.#settlers(single)) settle(null)
      } catch (error) {
        for (const [job, { request }] of single.jobs) if (request !== null) this.#forget(job, refused)
        this.#refuse(single, error)
      }
    }
  }

  /** A job that was never accepted leaves no events, and no output, behind. */
  #forget(job: string, refused: Set<string>): void {
    refused.add(job)
    const batch = this.#gathering
    batch.jobs.delete(job as JobId)
    batch.attempts = batch.attempts.filter((attempt) => attempt.job !== job)
    batch.events = batch.events.filter((event) => event.job !== job)
    batch.outputs = batch.outputs.filter((output) => output.job !== job)
    batch.progress = batch.progress.filter((progress) => progress.job !== job)
  }

  #settlers(batch: Batch): Settled[] {
    const settlers = [...batch.jobs.values()].flatMap(({ settled }) => settled)
    if (batch.events.length > 0) settlers.push(() => this.#db.onEvents(batch.events))
    return settlers
  }

  /** Told as refused to whoever waits. */
  #refuse(batch: Batch, cause: unknown): void {
    for (const [id, job] of batch.jobs)
      for (const settle of job.settled)
        settle(new Fault('not_stored', 'PostgreSQL refused the job: it was not accepted.', { status: 500, job: id, cause }))
    this.#onDropped(cause, describe(batch))
  }
}

/**
 * The end of this turn of the event loop: what arrives together is written together. And behind all that this turn has still
 * to do: calls to workers and clouds leave first, because whoever they go to takes longer than PostgreSQL.
 */
function endOfTurn(): Promise<void> {
  return new Promise((resolve) => queueMicrotask(() => process.nextTick(() => void setImmediate(resolve))))
}

function today(): number {
  return Math.floor(Date.now() / 86_400_000)
}

// Fewer are told together: two statements cost more than waiting for one another.
const WORTH_HALVING = 32
// So many times as many have been stored as are to be.
const LOPSIDED = 3

// Of fewer there was nothing to gain.
const WORTH_LOOKING_AHEAD = 8

// What one turn has begun, such as a job that a worker answers at once, is often asked for in the one after the next.
const CALM_TURNS = 2

// Below this many rows a statement's own price, here and in PostgreSQL, is above that of its rows.
const WORTH_ROWS = 32

// Long enough for the end of one job to share the commit of the next one's beginning, which halves the commits of a single
// caller; far below the second that checkpoints are apart.
const LAZY_MS = 2

// Sent again on another connection: what the network lost is not waited for, and what was only late is not stored twice.
const STATEMENT_LATE_MS = 20_000

/** Rows that a job brings along, durable with it or not at all. */
export type JobCompanions = {
  idempotency?: { key: string; hash: Buffer }
  callback?: { id: string; url: string }
}

export type Settled = (error: Error | null) => void
/** Those who wait for a batch that is stored, job by job. */
type Untold = { jobs: number; settlers: Settled[] }
/** `extra` is the JSON of what the tokens released besides text; null: nothing. */
export type Progress = { job: JobId; firstToken: number; tokenIds: number[]; text: string; extra: string | null }

export type Batch = {
  /** `request` is null for a job that exists already; `told`: what its row holds once the statement is stored. */
  jobs: Map<
    JobId,
    { record: JobRecord; request: string | null; along: JobCompanions; settled: Settled[]; told?: readonly unknown[] | null }
  >
  attempts: AttemptRecord[]
  events: EventRecord[]
  payments: Payment[]
  outputs: { job: JobId; output: string }[]
  progress: Progress[]
  cleared: JobId[]
  /** Made ahead, of all that is in it; null: not made, or something has changed since. */
  statement: Statement | null
  /** Hear when all of it is in PostgreSQL, or was refused. */
  sent: (() => void)[]
}

export function emptyBatch(): Batch {
  return { jobs: new Map(), attempts: [], events: [], payments: [], outputs: [], progress: [], cleared: [], statement: null, sent: [] }
}

function rowsIn(batch: Batch): number {
  const { jobs, attempts, events, payments, outputs, progress, cleared } = batch
  return jobs.size + attempts.length + events.length + payments.length + outputs.length + progress.length + cleared.length
}

function hasNew({ jobs }: Batch): boolean {
  for (const { request } of jobs.values()) if (request !== null) return true
  return false
}

/**
 * Of a batch whose jobs another coordinator has taken over: what this one knows of them is not told any more, but for what they
 * have cost. What was never stored is nobody's yet: all of it is, and goes on elsewhere.
 */
function leaveToOthers(batch: Batch): void {
  batch.statement = null
  const isNew = ({ job }: { job: string | null }): boolean => job === null || batch.jobs.has(job as JobId)
  for (const [id, { request, settled }] of batch.jobs) {
    if (request !== null) continue
    batch.jobs.delete(id)
    for (const settle of settled)
      settle(new Fault('job_elsewhere', 'Another coordinator has taken the job over.', { status: 503, job: id, retryable: true }))
  }
  batch.attempts = batch.attempts.filter(isNew)
  batch.events = batch.events.filter(isNew)
  batch.outputs = batch.outputs.filter(isNew)
  batch.progress = batch.progress.filter(isNew)
  batch.cleared = []
}

/** The end of a job stays together with what it answered: told as durable, both are. */
function split(batch: Batch): Batch[] {
  const singles: Batch[] = []
  const outputs = Map.groupBy(batch.outputs, ({ job }) => job)
  for (const [id, job] of batch.jobs) {
    singles.push({ ...emptyBatch(), jobs: new Map([[id, job]]), outputs: outputs.get(id) ?? [] })
    outputs.delete(id)
  }
  for (const alone of outputs.values()) singles.push({ ...emptyBatch(), outputs: alone })
  for (const attempt of batch.attempts) singles.push({ ...emptyBatch(), attempts: [attempt] })
  for (const event of batch.events) singles.push({ ...emptyBatch(), events: [event] })
  for (const payment of batch.payments) singles.push({ ...emptyBatch(), payments: [payment] })
  // What is cleared is what was there before.
  for (const cleared of batch.cleared) singles.push({ ...emptyBatch(), cleared: [cleared] })
  for (const progress of batch.progress) singles.push({ ...emptyBatch(), progress: [progress] })
  return singles
}

/** Whether a batch of one row is about one of the jobs. */
function isAbout({ attempts, events, outputs, progress }: Batch, jobs: ReadonlySet<string>): boolean {
  const about = attempts[0]?.job ?? events[0]?.job ?? outputs[0]?.job ?? progress[0]?.job
  return about !== undefined && jobs.has(about)
}

function describe(batch: Batch): string {
  const parts = [...batch.jobs.keys()].map((id) => `job ${id}`)
  for (const event of batch.events) parts.push(`event ${event.type} ${event.id}`)
  for (const attempt of batch.attempts) parts.push(`attempt ${attempt.number} of ${attempt.job}`)
  for (const { job, attempt } of batch.payments) parts.push(`payment of attempt ${attempt} of ${job}`)
  for (const { job } of batch.outputs) parts.push(`output of ${job}`)
  for (const { job } of batch.progress) parts.push(`progress of ${job}`)
  return parts.join(', ')
}
