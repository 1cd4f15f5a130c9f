import { INTERRUPTED, tooLong } from './attempt-errors.ts'
import {
  ATTEMPTS_EVER,
  blameOf,
  countAgainst,
  isForbidden,
  isOpenElsewhere,
  OUT_OF_CONTEXT,
  outgrownAt,
  tripFor,
  turnedAwayMs,
  yieldingMs,
} from './blame.ts'
import { placeInDeath } from './shared-death.ts'
import type { Board } from './board.ts'
import { type Breaker, reset } from './breaker.ts'
import type { Setback } from './cooldown.ts'
import type { FleetWorker } from './fleet.ts'
import { COST_MAX, type InputOf } from './inputs.ts'
import type { JobError } from './job.ts'
import { AUTO } from './routing.ts'
import type { ScheduledJob } from './scheduled-job.ts'
import { stallOf } from './silence.ts'

/** What is reported of attempts, and what becomes of their jobs: the end, or another attempt. */
export class Attempts {
  readonly #board: Board

  constructor(board: Board) {
    this.#board = board
  }

  progress(input: InputOf<'attempt-progressed'>): void {
    const job = this.#board.live(input)
    if (job === undefined) return
    if (job.tokens === 0 && input.tokens > 0) {
      // From here on only the same model file may continue this answer.
      job.sha256 = job.worker?.models.get(job.served)?.offer.sha256 ?? null
    }
    const grew = input.tokens > job.tokens
    if (grew) this.#prove(job, false)
    job.tokens = Math.max(job.tokens, input.tokens)
    job.isPatient = input.isPatient === true
    // One that says again and again that it lives, and brings nothing, is not waited for any longer than that.
    if (grew || !job.isPatient) job.progressedMs = this.#board.nowMs
  }

  finish(input: InputOf<'attempt-finished'>): void {
    const job = this.#board.live(input)
    this.#board.vacate(input)
    if (job !== undefined) {
      this.#board.serviceTimes.learn(job.model, this.#board.nowMs - job.startedMs, job.cost)
      this.#prove(job, true)
      if (job.worker !== null) this.#tellBreaker(job.worker, job.served, 'succeeded', reset)
      const cost = Math.min(COST_MAX, input.cost)
      job.worker?.quota?.correct(this.#board.nowMs, job.startedMs, cost - job.cost)
      this.#board.lineOf(job.model).adjust(job, job.team, cost - job.cost)
      this.#board.endAttempt(job, 'succeeded', null)
      this.#board.forget(job)
      this.#board.emit({ kind: 'job-succeeded', job: job.id })
    }
    this.#board.fillWorker(input.worker)
  }

  fail(report: InputOf<'attempt-failed'>): void {
    const job = this.#board.live(report)
    const worker = this.#board.workers.get(report.worker)
    const brokeOff = job !== undefined && job.tokens > job.tokensAtStart
    const hold = report.hold && worker?.holdAfter(report.hold, report, brokeOff, this.#board.nowMs)
    if (hold != null) this.#board.hold(report.worker, worker?.modelOf(report) ?? null, hold)
    this.#board.vacate(report)
    if (job !== undefined && report.hold !== undefined) this.#giveBack(job, report.error, report.hold)
    else if (job !== undefined) this.endBadly(job, 'failed', report.error)
    this.#board.fillWorker(report.worker)
  }

  refuse(input: InputOf<'attempt-refused'>): void {
    const job = this.#board.live(input)
    this.#board.vacate(input)
    if (job !== undefined) {
      const offer = job.worker?.models.get(job.served)
      if (offer !== undefined) {
        // That somebody may not pay is no reason to leave the provider alone.
        if (input.purses === undefined) offer.refusedUntilMs = this.#board.nowMs + this.#board.rules.refusalPauseMs
        if (offer.breaker.trial === job.id) offer.breaker.trial = null
      }
      this.#board.endAttempt(job, 'refused', null)
      if (input.purses !== undefined) job.purses = input.purses
      this.#requeue(job, `worker refused: ${input.reason}`, 0, job.lastWaitMs)
    }
    this.#board.fillWorker(input.worker)
  }

  /** Whoever lets others go first at one provider may stand in line for another. */
  isWanted(job: ScheduledJob): boolean {
    if (job.delayedAt === null || job.backoffUntilMs > this.#board.nowMs) return false
    this.#board.judgeDelayed(job)
    return this.#isOpenElsewhere(job, job.delayedAt)
  }

  #isOpenElsewhere(job: ScheduledJob, worker: FleetWorker): boolean {
    return isOpenElsewhere(this.#board.nowMs, this.#board.keyOf(job), worker, this.#board.fleet)
  }

  /** So many tokens, of the prompt and its answer, fill the context where it runs, and it could go on where there is a larger one. */
  canGrow(job: ScheduledJob, tokens: number): boolean {
    const offer = job.worker?.models.get(job.served)?.offer
    if (job.worker === null || offer === undefined || job.startsOver) return false
    return offer.contextTokens > 0 && tokens >= offer.contextTokens && this.#outgrown(job, job.worker) !== null
  }

  #outgrown(job: ScheduledJob, worker: FleetWorker): number | null {
    return outgrownAt(this.#board.nowMs, this.#board.keyOf(job), { worker, model: job.served }, this.#board.fleet)
  }

  #areWaitedFor(worker: FleetWorker): boolean {
    for (const [model, line] of this.#board.lines) if (line.waiting > 0 && (model === AUTO || worker.models.has(model))) return true
    return false
  }

  judgeRunning(job: ScheduledJob): void {
    if (job.worker === null) return
    if (job.maxRunMs !== null && job.ranMs + this.#board.nowMs - job.startedMs >= job.maxRunMs) {
      this.#stopWith(job, tooLong(job.maxRunMs))
      return
    }
    if (!job.worker.connected) return
    const stall = stallOf(this.#board.nowMs, job, job.worker, this.#board.rules)
    if (stall !== null) this.#stopWith(job, stall)
  }

  stop(report: InputOf<'attempt-stopped'>): void {
    const job = this.#board.live(report)
    if (job !== undefined) this.#stopWith(job, report.error)
  }

  #stopWith(job: ScheduledJob, error: JobError): void {
    if (job.worker !== null) this.#board.emit({ kind: 'stop-attempt', job: job.id, attempt: job.attempt, worker: job.worker.id })
    this.endBadly(job, 'failed', error)
  }

  /** An attempt that did not bring the answer: again elsewhere, or the end of the job. */
  endBadly(job: ScheduledJob, status: 'failed' | 'lost', error: JobError): void {
    const worker = job.worker
    // Who answers, with whatever status, is there.
    if (error.providerStatus !== undefined) this.#prove(job, false)
    const outgrown = worker === null || !OUT_OF_CONTEXT.has(error.code) ? null : this.#outgrown(job, worker)
    if (worker !== null && outgrown !== null) {
      // It served as well as it can.
      this.#tellBreaker(worker, job.served, 'succeeded', reset)
      this.#board.endAttempt(job, status, error)
      job.outgrown = outgrown
      this.#requeue(job, error.code, 0)
      return
    }
    const blame = blameOf(job, worker, error, this.#board.rules)
    if (worker !== null && status === 'failed' && error.retryable && error.layer !== 'routing' && blame.breaker !== null)
      this.#tellBreaker(worker, job.served, error.code, (breaker) => tripFor(breaker, this.#board.nowMs, job, worker.id, blame, error))
    const place = placeInDeath(this.#board.nowMs, job, worker, error, this.#board.jobs)
    this.#board.endAttempt(job, status, error)
    if (!error.retryable || isForbidden({ ...this.#board.keyOf(job), avoid: job.avoid }, worker, error, this.#board.fleet)) {
      this.#board.dismiss(job)
      this.#board.emit({ kind: 'job-failed', job: job.id, error: { ...error, retryable: false } })
      return
    }
    countAgainst(job, worker, blame)
    if (!this.#startsAnew(job, blame.isVoid || job.startsOver, blame.isVoid ? error : INTERRUPTED)) return
    const { attemptsMax, retryBackoffMs } = this.#board.rules
    if (job.strikes >= attemptsMax * (place === null ? 1 : IN_COMPANY) || job.failures >= ATTEMPTS_EVER) {
      this.#board.dismiss(job)
      this.#board.emit({ kind: blame.isVoid ? 'job-failed' : 'job-parked', job: job.id, error })
      return
    }
    const backoffMs =
      job.strikes < 2 ? 0 : retryBackoffMs * 2 ** Math.min(job.strikes - 2, DOUBLINGS_MAX) * (1 + ((place ?? 0) % PLACES) / 2)
    const yieldMs = blame.yields && worker !== null ? yieldingMs(this.#board.nowMs, job.served, worker) : 0
    job.delayedBy = yieldMs > 0 ? 'cooling_down' : 'retry_backoff'
    job.delayedWhy = yieldMs > 0 ? error.message : null
    job.delayedAt = yieldMs > 0 ? worker : null
    job.backoffUntilMs = this.#board.nowMs + backoffMs
    this.#requeue(job, error.code, Math.max(backoffMs, yieldMs))
  }

  /**
   * The provider could not take it: that is no failure of the job, which waits until somebody can. Where it is not said until
   * when, others go first: what one job meets there every time would keep the provider from everybody.
   */
  #giveBack(job: ScheduledJob, error: JobError, { untilMs, why }: Setback): void {
    const { worker } = job
    this.#board.endAttempt(job, 'failed', error)
    // What it began is paid for, again and again.
    if (job.tokens > job.tokensAtStart) job.failures += 1
    if (!this.#startsAnew(job, job.startsOver, INTERRUPTED)) return
    if (job.failures >= ATTEMPTS_EVER) {
      this.#board.dismiss(job)
      this.#board.emit({ kind: 'job-parked', job: job.id, error })
      return
    }
    const isTold = worker === null || untilMs !== 'untold'
    const delayMs = isTold ? 0 : turnedAwayMs(this.#board.nowMs, job, worker, error, this.#areWaitedFor(worker))
    job.delayedBy = 'cooling_down'
    job.delayedWhy = why
    job.delayedAt = delayMs > 0 ? worker : null
    this.#requeue(job, error.code, delayMs, job.lastWaitMs)
  }

  /**
   * What an engine that cannot continue has begun is void, and so is an answer that is not what was asked for. False when
   * somebody may have read it: then the job has ended, for two texts are never mixed.
   */
  #startsAnew(job: ScheduledJob, isVoid: boolean, end: JobError): boolean {
    if (!isVoid || job.tokens === 0) return true
    if (!job.restartable) {
      this.#board.dismiss(job)
      this.#board.emit({ kind: 'job-failed', job: job.id, error: end })
      return false
    }
    job.tokens = 0
    job.sha256 = null
    this.#board.emit({ kind: 'discard-answer', job: job.id })
    return true
  }

  /** `waitedMs`: in the wait that goes on, because it was turned away. */
  #requeue(job: ScheduledJob, why: string, delayMs: number, waitedMs = 0): void {
    const { strikes, failures, backoffUntilMs } = job
    const backoffMs = Math.max(0, backoffUntilMs - this.#board.nowMs)
    this.#board.emit({ kind: 'job-requeued', job: job.id, why, strikes, failures, backoffMs })
    this.#board.lineOf(job.model).adjust(job, job.team, -job.cost)
    this.#board.waits.begin(this.#board.nowMs, job, waitedMs)
    if (delayMs > 0) {
      job.notBeforeMs = this.#board.nowMs + delayMs
      if (this.isWanted(job)) {
        this.#board.joinOthers(job)
        return
      }
      job.phase = 'delayed'
      this.#board.delayed.add(job)
      return
    }
    this.#board.joinLine(job)
  }

  /** It gets on: a provider that was on trial is well again. */
  #prove({ worker, startedMs }: ScheduledJob, isWhole: boolean): void {
    if (worker?.cooldown.proves(startedMs, isWhole) === true && worker.hold?.onTrial === true) this.#board.hold(worker.id, null, null)
  }

  #tellBreaker(worker: FleetWorker, model: string, why: string, change: (breaker: Breaker) => boolean): void {
    const breaker = worker.models.get(model)?.breaker
    if (breaker === undefined || !change(breaker)) return
    const untilMs = breaker.openings > 0 ? breaker.openUntilMs : null
    this.#board.emit({ kind: 'breaker-changed', worker: worker.id, model, untilMs, why })
  }
}

// So many times as often may a job die that never dies alone: what kills it may be any of them.
const IN_COMPANY = 3
const DOUBLINGS_MAX = 4
// Of more than these some come together again, and fewer the next time.
const PLACES = 8
