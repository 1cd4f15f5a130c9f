import { Heap } from './heap.ts'
import type { Tier } from './job.ts'
import type { ScheduledJob, WaitLimit } from './scheduled-job.ts'
import { nextOpening, standings } from './tiers.ts'

/** The clocks of all that wait: how long each has, until when it may, and when the next tier opens to it. */
export class Waits {
  readonly #limits = new Heap<WaitLimit>((a, b) => a.atMs < b.atMs)
  readonly #openings = new Heap<WaitLimit>((a, b) => a.atMs < b.atMs)
  count = 0

  /**
   * Every wait is limited by itself: a job that ran and lost its worker did not wait meanwhile. `alreadyMs` is what this
   * wait has lasted under a coordinator before this one.
   */
  begin(nowMs: number, job: ScheduledJob, alreadyMs = 0): void {
    this.count += 1
    job.waitingSinceMs = nowMs
    job.waitBeganMs = nowMs - alreadyMs
    if (job.maxWaitMs === null) return
    job.waitLimit = { job, atMs: nowMs + job.maxWaitMs - alreadyMs, heapIndex: -1 }
    this.#limits.add(job.waitLimit)
  }

  end(nowMs: number, job: ScheduledJob): void {
    this.count -= 1
    job.waitedMs += nowMs - job.waitingSinceMs
    job.lastWaitMs = nowMs - job.waitBeganMs
    if (job.opening !== null) this.#openings.remove(job.opening)
    job.opening = null
    if (job.waitLimit !== null) this.#limits.remove(job.waitLimit)
    job.waitLimit = null
  }

  /** How the tiers that offer its model stand to the job now, and when the next one opens. */
  judgeTiers(nowMs: number, job: ScheduledJob, offering: ReadonlySet<Tier>): void {
    const waitedMs = this.judgeStandings(nowMs, job, offering)
    if (job.opening !== null) this.#openings.remove(job.opening)
    job.opening = null
    const opensMs = nextOpening(job.patience, waitedMs, offering)
    if (opensMs === null) return
    job.opening = { job, atMs: nowMs + opensMs - waitedMs, heapIndex: -1 }
    this.#openings.add(job.opening)
  }

  /** The same of one that stands in no line. Answers how long it has waited. */
  judgeStandings(nowMs: number, job: ScheduledJob, offering: ReadonlySet<Tier>): number {
    const waitedMs = job.waitedMs + nowMs - job.waitingSinceMs
    job.tiers = standings(job.patience, waitedMs, offering)
    return waitedMs
  }

  /** A job to which a tier opens; judging its tiers anew takes it off this list. */
  opening(nowMs: number): ScheduledJob | undefined {
    return due(this.#openings, nowMs)
  }

  /** A job that has waited as long as it may; its end takes it off this list. */
  overdue(nowMs: number): ScheduledJob | undefined {
    return due(this.#limits, nowMs)
  }
}

function due(heap: Heap<WaitLimit>, nowMs: number): ScheduledJob | undefined {
  const first = heap.first()
  return first !== undefined && first.atMs <= nowMs ? first.job : undefined
}
