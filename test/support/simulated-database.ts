import type { StoredProgress } from '../../coordinator/store/jobs.ts'
import type { EventRecord } from '../../coordinator/core/event.ts'
import { Fault } from '../../coordinator/core/fault.ts'
import type { ModelOffer } from '../../coordinator/core/fleet.ts'
import { isFinal, type JobId, type JobRecord, type WorkerId } from '../../coordinator/core/job.ts'
import { type Batch, emptyBatch, type JobCompanions, type Progress, type Settled, type Writer } from '../../coordinator/store/writer.ts'
import { Soon } from './simulated-promise.ts'
import type { VirtualTime } from './simulated-time.ts'
import { Violation } from './simulated-violation.ts'

/** What survives every crash, with the guards of writer-sql.ts; it holds the ledger to "exactly one end per job". */
export class SimulatedDatabase {
  readonly jobs = new Map<JobId, JobRecord>()
  readonly requests = new Map<JobId, string>()
  readonly outputs = new Map<JobId, string>()
  readonly progress = new Map<JobId, Progress[]>()
  readonly attempts = new Set<string>()
  readonly ends = new Map<JobId, string>()
  readonly workers = new Map<WorkerId, { name: string; offers: ModelOffer[] }>()
  /** Jobs whose rows PostgreSQL refuses. */
  readonly refused = new Set<JobId>()
  down = false
  onChanged: (row: JobRecord) => void = () => {}

  commit(batch: Batch): void {
    for (const { record, request } of batch.jobs.values()) {
      if (this.refused.has(record.id)) continue
      if (request === null) this.#update(record)
      else this.#insert(record, request)
    }
    for (const { job, number } of batch.attempts) {
      const key = `${job}/${number}`
      if (this.attempts.has(key)) throw new Violation(`attempt ${key} is stored twice: PostgreSQL would refuse it`)
      this.attempts.add(key)
    }
    for (const event of batch.events) this.#happened(event)
    for (const { job, output } of batch.outputs) {
      if (this.outputs.has(job)) throw new Violation(`${job} has two outputs: PostgreSQL would refuse the second`)
      this.outputs.set(job, output)
    }
    for (const piece of batch.progress) {
      const pieces = this.progress.get(piece.job) ?? []
      if (pieces.some(({ firstToken }) => firstToken === piece.firstToken))
        throw new Violation(`the text of ${piece.job} from token ${piece.firstToken} is stored twice: PostgreSQL would refuse it`)
      this.progress.set(piece.job, [...pieces, piece])
    }
    for (const job of batch.cleared) this.progress.delete(job)
  }

  /** As readProgress of store/jobs.ts puts it together. */
  readProgress(job: JobId): StoredProgress | undefined {
    const pieces = [...(this.progress.get(job) ?? [])].sort((a, b) => a.firstToken - b.firstToken)
    if (pieces.length === 0) return undefined
    const known: StoredProgress = { tokenIds: [], text: '', extras: [] }
    for (const { firstToken, tokenIds, text } of pieces) {
      if (firstToken !== known.tokenIds.length) continue
      known.tokenIds.push(...tokenIds)
      known.text += text
    }
    return known
  }

  #insert(record: JobRecord, request: string): void {
    if (this.jobs.has(record.id)) throw new Violation(`${record.id} is inserted twice`)
    this.requests.set(record.id, request)
    this.#put(record)
  }

  #update(record: JobRecord): void {
    const row = this.jobs.get(record.id)
    if (row === undefined || row.version >= record.version) return
    if (row.owner !== record.owner && row.status !== 'parked') return
    if (isFinal(row.status)) throw new Violation(`${record.id} was ${row.status} and becomes ${record.status}`)
    this.#put(record)
  }

  #put(record: JobRecord): void {
    if (isFinal(record.status) !== (record.finishedMs !== null)) throw new Violation(`${record.id} breaks final_has_finish_time`)
    if ((record.status === 'failed' || record.status === 'parked') && record.error === null)
      throw new Violation(`${record.id} is ${record.status} without an error`)
    this.jobs.set(record.id, record)
    this.onChanged(record)
  }

  #happened({ type, job }: EventRecord): void {
    if (job === null || !ENDS.has(type)) return
    const before = this.ends.get(job as JobId)
    if (before !== undefined) throw new Violation(`${job} ended twice in the audit log: ${before}, then ${type}`)
    this.ends.set(job as JobId, type)
  }
}

const ENDS = new Set(['job.succeeded', 'job.failed', 'job.cancelled'])

/**
 * The Writer's public face. One batch is on its way at a time and is durable after a while; while the database is down it
 * waits. A crash loses what gathers, and of the batch on its way nobody knows.
 */
export class SimulatedWriter {
  readonly #database: SimulatedDatabase
  readonly #time: VirtualTime
  #gathering = emptyBatch()
  #flying: Batch | null = null
  #due = false

  constructor(database: SimulatedDatabase, time: VirtualTime) {
    this.#database = database
    this.#time = time
  }

  insertJob(record: JobRecord, request: string, along: JobCompanions = {}): Promise<void> {
    const stored = new Soon<void>()
    const settled: Settled = (error) => (error === null ? stored.resolve() : stored.reject(error))
    this.#gathering.jobs.set(record.id, { record, request, along, settled: [settled] })
    this.#soon()
    return stored.asPromise()
  }

  updateJob(record: JobRecord, settled?: Settled): void {
    const gathered = this.#gathering.jobs.get(record.id)
    const more = settled === undefined ? [] : [settled]
    if (gathered === undefined) this.#gathering.jobs.set(record.id, { record, request: null, along: {}, settled: more })
    else gathered.settled.push(...more)
    this.#soon()
  }

  addAttempt(attempt: Parameters<Writer['addAttempt']>[0]): void {
    this.#gathering.attempts.push(attempt)
    this.#soon()
  }

  addEvent(event: EventRecord): void {
    this.#gathering.events.push(event)
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

  /** It is told whole records only. */
  doubt(): void {}

  clearProgress(job: JobId): void {
    this.#gathering.progress = this.#gathering.progress.filter((progress) => progress.job !== job)
    this.#gathering.cleared.push(job)
    this.#soon()
  }

  get backlog(): number {
    return this.#gathering.jobs.size
  }

  get idle(): boolean {
    return this.#flying === null && !this.#due
  }

  /** The process ends; PostgreSQL may have the batch on its way all the same. */
  crash(): void {
    if (this.#flying !== null && !this.#database.down && this.#time.chance.maybe(0.5)) this.#database.commit(this.#flying)
    this.#flying = null
  }

  #soon(): void {
    if (this.#due || this.#flying !== null) return
    this.#due = true
    this.#time.after(this.#time.chance.between(1, 5), () => this.#send())
  }

  /** Rows are what their records say at the moment the statement is made. */
  #send(): void {
    this.#due = false
    const batch = this.#gathering
    this.#gathering = emptyBatch()
    for (const job of batch.jobs.values()) job.record = { ...job.record }
    this.#flying = batch
    this.#time.after(this.#time.chance.maybe(0.05) ? 400 : this.#time.chance.between(1, 10), () => this.#store(batch))
  }

  #store(batch: Batch): void {
    if (this.#database.down) {
      this.#time.after(50, () => this.#store(batch))
      return
    }
    this.#database.commit(batch)
    this.#flying = null
    if (this.#gathering.jobs.size + this.#gathering.events.length + this.#gathering.progress.length > 0) this.#soon()
    for (const [id, { settled }] of batch.jobs) {
      const refused = this.#database.refused.has(id) ? new Fault('not_stored', 'PostgreSQL refused the job.', { job: id }) : null
      for (const settle of settled) settle(refused)
    }
  }
}
