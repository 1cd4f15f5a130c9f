import type { Report } from '../../coordinator/core/inputs.ts'
import type { JobId, JobRecord, WorkerId } from '../../coordinator/core/job.ts'
import { Violation } from './simulated-violation.ts'

/** Watches what a coordinator says to its workers about their output: when they may forget it, and what they are to send. */
export class LinkJudge {
  /** Ends reported by their workers and not yet acknowledged. */
  readonly #ended = new Set<string>()
  readonly #asks = new Map<string, number>()

  reported(report: Report): void {
    this.#ended.add(endOf(report))
  }

  acknowledged(worker: WorkerId, job: JobId, attempt: number, row: JobRecord | undefined): void {
    if (!this.#ended.delete(endOf({ worker, job, attempt }))) return
    // A job that was never stored was never accepted: nobody was promised anything.
    if (row === undefined) return
    const stored = row.attempt > attempt || (row.attempt === attempt && row.status !== 'running')
    if (!stored) throw new Violation(`the end of attempt ${attempt} of ${job} is acknowledged and not stored`)
  }

  /** A worker that sends the wrong part each time would be asked for ever. */
  askedAgain(job: JobId, attempt: number, first: number): void {
    const key = `${job}/${attempt}/${first}`
    const times = (this.#asks.get(key) ?? 0) + 1
    this.#asks.set(key, times)
    if (times > ASKS_MAX) throw new Violation(`attempt ${attempt} of ${job} is asked ${times} times for its text from token ${first}`)
  }
}

function endOf({ job, attempt, worker }: Report): string {
  return `${job}/${attempt}/${worker}`
}

// Every reconnection asks once for each attempt, and once more where what was on its way came first.
const ASKS_MAX = 12
