import { setImmediate as nextTurn } from 'node:timers/promises'
import type { EventType } from '../core/event.ts'
import type { JobId, JobRecord } from '../core/job.ts'
import { waitingCallbacks } from '../store/callbacks.ts'
import type { Db } from '../store/db.ts'
import { adoptJobs, jobsOfCancelledBatches, ownedJobs, readAttempts, readProgress } from '../store/jobs.ts'
import type { Lease } from '../store/lease.ts'
import type { Dispatcher } from './dispatcher.ts'

/** Takes up jobs that nobody owns: what the last process of this coordinator left, and what others left when they died. */
export class Adoption {
  readonly #parts: AdoptionParts
  #timer: NodeJS.Timeout | undefined
  #looking: Promise<void> | undefined
  /** The last look broke off, if there was one: jobs may be ours in PostgreSQL, and in nobody's hands. */
  #inDoubt = true
  #doubts = 0
  #lookedMs = 0
  #stopped = false

  constructor(parts: AdoptionParts) {
    this.#parts = parts
  }

  async adopt(): Promise<void> {
    const inDoubt = this.#inDoubt
    this.#inDoubt = true
    const doubts = this.#doubts
    this.#lookedMs = performance.now()
    await this.#adopt(inDoubt)
    // What came up meanwhile is for the next look.
    this.#inDoubt = doubts !== this.#doubts
  }

  /** A job may be ours in PostgreSQL without anybody here knowing: the answer was lost. */
  doubt(): void {
    this.#doubts += 1
    this.#inDoubt = true
  }

  async #adopt(inDoubt: boolean): Promise<void> {
    const { db, lease, dispatcher, comingBatches, log } = this.#parts
    const owned = inDoubt ? await ownedJobs(db, lease.id) : []
    const isLost = ({ id, batch }: { id: JobId; batch: string | null }): boolean =>
      dispatcher.find(id) === undefined && (batch === null || !comingBatches.has(batch))
    const lost = owned.filter(isLost).map(({ id }) => id)
    let count = 0
    let after: JobId | null = null
    do {
      const { jobs, last }: { jobs: JobRecord[]; last: JobId | null } = await adoptJobs(db, lease.id, lost, { after, limit: JOBS_AT_ONCE })
      if (jobs.length > 0) await this.#takeUp(jobs)
      count += jobs.length
      after = last
      // Others are served meanwhile.
      await nextTurn()
    } while (after !== null && !this.#stopped)
    if (count > 0) log.info(`Took up ${count} jobs that had no coordinator any more.`)
  }

  async #takeUp(jobs: JobRecord[]): Promise<void> {
    const { db, dispatcher } = this.#parts
    const ids = jobs.map((job) => job.id)
    const progress = await readProgress(db, ids)
    const called = await waitingCallbacks(db, ids)
    const limited = jobs.filter((job) => job.maxRunMs !== null).map((job) => job.id)
    const ranMs = new Map<JobId, number>()
    for (const { job, startedMs, finishedMs } of await readAttempts(db, limited))
      ranMs.set(job, (ranMs.get(job) ?? 0) + finishedMs - startedMs)
    const cancelled = await jobsOfCancelledBatches(db, ids)
    for (const record of jobs) dispatcher.recover(record, progress.get(record.id), called.has(record.id), ranMs.get(record.id))
    // A cancel that was begun before is carried out.
    for (const id of cancelled) dispatcher.cancel(id, 'coordinator')
  }

  /** Looks every few seconds, and reads anew what another coordinator may have changed. */
  start(reload: () => Promise<void>): void {
    this.#timer = setInterval(() => {
      if (this.#looking !== undefined || this.#parts.db.down) return
      this.#looking = this.#look(reload)
        .catch((error: unknown) => {
          if (!this.#parts.db.down) this.#parts.log.warn(`Jobs without a coordinator could not be looked for: ${String(error)}`)
        })
        .finally(() => {
          this.#looking = undefined
        })
    }, LOOK_EVERY_MS)
  }

  async stop(): Promise<void> {
    this.#stopped = true
    clearInterval(this.#timer)
    await this.#looking
  }

  async #look(reload: () => Promise<void>): Promise<void> {
    const { expired, left } = await this.#parts.lease.expireOthers()
    for (const coordinator of expired) this.#parts.addEvent('coordinator.lost', 'coordinator', { coordinator })
    // Looking reads all that waits, and where nobody went there is nothing to find; now and then it is done all the same.
    if (this.#inDoubt || left || performance.now() - this.#lookedMs > LOOK_ANYWAY_MS) await this.adopt()
    await reload()
  }
}

type AdoptionParts = {
  db: Db
  lease: Lease
  dispatcher: Dispatcher
  /** Whoever has them stored takes up their rows. */
  comingBatches: ReadonlySet<string>
  log: { info(text: string): void; warn(text: string): void }
  addEvent(type: EventType, actor: string, details: Record<string, unknown>): void
}

const LOOK_EVERY_MS = 5_000
const LOOK_ANYWAY_MS = 60_000
// A million at once would be one statement of minutes, and a turn of seconds.
const JOBS_AT_ONCE = 2_000
