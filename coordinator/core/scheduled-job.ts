import type { FleetWorker } from './fleet.ts'
import type { JobId, WorkerId } from './job.ts'
import type { Flow, Team } from './line.ts'

/** A job as the scheduler knows it, until its end. */
export type ScheduledJob = {
  readonly id: JobId
  /** The place in line, kept over every attempt: what comes back goes to the front. */
  readonly order: number
  readonly model: string
  readonly provider: string | null
  readonly team: Team<ScheduledJob>
  readonly rank: number
  readonly cost: number
  readonly maxWaitMs: number | null
  readonly maxRunMs: number | null
  /** Time spent in attempts that ended. */
  ranMs: number
  waitLimit: WaitLimit | null
  /** Set once text was delivered: only the same model file continues it. */
  sha256: string | null
  avoid: readonly WorkerId[]
  /** Where it stands in line; null while it does not. */
  flow: Flow<ScheduledJob> | null
  readonly prefix: readonly string[]
  phase: 'queued' | 'delayed' | 'running'
  /** Number of the current or last attempt; 0 before the first. */
  attempt: number
  /** The highest number that a worker greeted with. */
  numbersSpent: number
  /** Attempts in a row that failed without getting on. */
  strikes: number
  /** All that failed; a refusal is none. */
  failures: number
  /** Length of the answer so far, over all attempts. */
  tokens: number
  tokensAtStart: number
  startedMs: number
  progressedMs: number
  notBeforeMs: number
  worker: FleetWorker | null
}

/** When its wait is over; a place in a heap. */
export type WaitLimit = { job: ScheduledJob; atMs: number; heapIndex: number }
