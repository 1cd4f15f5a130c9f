import { waitedTooLong } from './attempt-errors.ts'
import { Attempts } from './attempts.ts'
import { Board } from './board.ts'
import { decide, type Decision } from './decision.ts'
import type { Effect } from './effects.ts'
import type { FleetWorker } from './fleet.ts'
import type { AcceptedJob, Input, InputOf, SchedulerRules, TeamRules } from './inputs.ts'
import type { JobId, Waiting, WaitingReason, WorkerId } from './job.ts'
import { Membership } from './membership.ts'
import type { ScheduledJob } from './scheduled-job.ts'
import { forgivePause } from './silence.ts'
import type { Patience } from './tiers.ts'
import { countWaiting, waitingOf } from './waiting.ts'

/**
 * The scheduler: one deterministic state machine over jobs and workers. Input and time go in, effects come out; it does
 * no I/O and reads no clock. It mutates its own indexes, because copying a million waiting jobs per decision is no option.
 *
 *   a job is   queued    in the line of its model (line.ts says who is next)
 *              delayed   between two attempts, until its backoff is over
 *              running   one attempt on one worker; every report about it is fenced by (job, attempt, worker)
 *   and gone once it succeeded, failed, was cancelled or parked.
 *
 * What always holds between two inputs: no job waits while a worker eligible for it has a free slot and its team is below
 * its limit; no worker holds more attempts of a model than the slots it announced; a job has at most one attempt that is
 * listened to; no team runs more than its limit.
 */
export class Scheduler {
  readonly #board: Board
  readonly #attempts: Attempts
  readonly #membership: Membership

  constructor(rules: SchedulerRules) {
    this.#board = new Board(rules)
    this.#attempts = new Attempts(this.#board)
    this.#membership = new Membership(this.#board, this.#attempts)
  }

  apply(nowMs: number, input: Input): Effect[] {
    this.#board.begin(nowMs)
    switch (input.kind) {
      case 'job-accepted':
        this.#accept(input.job)
        break
      case 'job-recovered':
        this.#recover(input)
        break
      case 'job-cancelled':
        this.#cancel(input.job)
        break
      case 'service-time-known':
        this.#board.serviceTimes.begin(input.model, input.meanMs)
        break
      case 'worker-known':
        this.#membership.know(input)
        break
      case 'provider-set':
        this.#membership.setProvider(input)
        break
      case 'provider-removed':
        this.#membership.removeProvider(input.worker)
        break
      case 'provider-held':
        if (input.hold === null) this.#board.workers.get(input.worker)?.forgive()
        this.#board.hold(input.worker, null, input.hold)
        this.#board.fillWorker(input.worker)
        break
      case 'purse-set':
        this.#membership.setPurse(input.purse, input.spentUntilMs)
        break
      case 'worker-connected':
        this.#membership.connect(input)
        break
      case 'worker-reported':
        this.#membership.heard(input.worker, input.offers)
        break
      case 'worker-draining':
        this.#membership.drain(input.worker)
        break
      case 'worker-disconnected':
        this.#membership.disconnect(input.worker)
        break
      case 'attempt-progressed':
        this.#attempts.progress(input)
        break
      case 'attempt-refused':
        this.#attempts.refuse(input)
        break
      case 'attempt-finished':
        this.#attempts.finish(input)
        break
      case 'attempt-failed':
        this.#attempts.fail(input)
        break
      case 'attempt-stopped':
        this.#attempts.stop(input)
        break
      case 'terms-set':
        for (const { job, patience, purses } of input.jobs) this.#setTerms(job, patience, purses)
        break
      case 'team-set':
        this.#setTeam(input.team)
        break
      case 'paused':
        forgivePause(nowMs, input.ms, this.#board.workers.values(), this.#board.running.values())
        break
      case 'time-passed':
        this.#passTime()
        break
    }
    return this.#board.end()
  }

  get waitingCount(): number {
    return this.#board.waits.count
  }

  get runningCount(): number {
    return this.#board.running.size
  }

  get workers(): Iterable<FleetWorker> {
    return [...this.#board.workers.values()].filter((worker) => worker.cloud === null)
  }

  /** Workers, and the clouds that the coordinator calls itself. */
  get providers(): Iterable<FleetWorker> {
    return this.#board.workers.values()
  }

  findWorker(id: WorkerId): FleetWorker | undefined {
    return this.#board.workers.get(id)
  }

  /** Why the job waits; undefined when it does not. */
  waiting(nowMs: number, id: JobId): Waiting | undefined {
    this.#board.nowMs = nowMs
    const job = this.#board.jobs.get(id)
    if (job === undefined || job.phase === 'running') return undefined
    return waitingOf(
      nowMs,
      job,
      this.#board.keyOf(job),
      this.#board.lines.get(job.model),
      { times: this.#board.serviceTimes, jobs: this.#board.jobs },
      this.#board.fleet,
    )
  }

  /** What would be decided now for a job that waits; undefined for any other. */
  deliberation(nowMs: number, id: JobId): Decision | undefined {
    this.#board.nowMs = nowMs
    const job = this.#board.jobs.get(id)
    return job === undefined || job.phase === 'running' ? undefined : decide(nowMs, this.#board.questionOf(job), this.#board.fleet)
  }

  /** Whether an answer that has filled the context at its worker, with so many tokens, could go on at another. */
  canGrow(id: JobId, tokens: number): boolean {
    const job = this.#board.jobs.get(id)
    return job !== undefined && this.#attempts.canGrow(job, tokens)
  }

  /** How many wait, by model and reason; costs one look per flow, not per job. */
  waitingByReason(nowMs: number): { model: string; reason: WaitingReason; count: number }[] {
    this.#board.nowMs = nowMs
    return countWaiting(nowMs, this.#board.lines, this.#board.delayed, this.#board.fleet)
  }

  // ── jobs ────────────────────────────────────────────────────────────────────────────────────────────────────────

  #accept(accepted: AcceptedJob): void {
    const job = this.#board.enlist(accepted)
    this.#board.waits.begin(this.#board.nowMs, job)
    this.#board.joinLine(job)
  }

  #recover(input: InputOf<'job-recovered'>): void {
    const job = this.#board.enlist(input.job)
    job.attempt = input.attempt
    job.tokens = input.tokens
    job.strikes = input.strikes
    job.failures = input.failures
    if (input.tokens > 0) job.sha256 = input.sha256
    job.startsOver = input.startsOver === true
    job.served = input.served ?? job.model
    job.ranMs = input.ranMs ?? 0
    this.#board.waits.begin(this.#board.nowMs, job, job.waitedMs)
    if (input.worker === null) {
      this.#board.joinLine(job)
      return
    }
    const worker = this.#board.know(input.worker.id, input.worker.name)
    this.#board.run(job, { worker, model: job.served })
    // Its provider may not have said yet what it offers.
    job.startsOver ||= input.startsOver === true
    this.#board.lineOf(job.model).charge(job, job.team)
    if (worker.connected) {
      // It is here already: the job was adopted while this coordinator ran. If the worker holds the attempt, it goes on.
      this.#board.emit({ kind: 'resume-attempt', job: job.id, attempt: job.attempt, worker: worker.id })
      return
    }
    worker.expectBack(this.#board.nowMs + this.#board.rules.recoveryGraceMs)
  }

  /** Where an attempt of it runs, that goes on: what is new holds from its next wait on. */
  #setTerms(id: JobId, patience: Patience, purses: readonly string[]): void {
    const job = this.#board.jobs.get(id)
    if (job === undefined) return
    // It stands where its old purses put it.
    this.#board.lineOf(job.model).remove(job)
    Object.assign(job, { patience, purses })
    if (job.phase === 'queued') this.#board.joinLine(job)
  }

  #cancel(id: JobId): void {
    const job = this.#board.jobs.get(id)
    if (job === undefined) return
    if (job.phase === 'running' && job.worker !== null) {
      // The slot stays taken until the worker confirms, or a second job would be sent to a slot still at work.
      this.#board.emit({ kind: 'stop-attempt', job: id, attempt: job.attempt, worker: job.worker.id })
      this.#board.endAttempt(job, 'cancelled', null)
      this.#board.dismiss(job)
    } else this.#board.forget(job)
    this.#board.emit({ kind: 'job-cancelled', job: id })
    this.#board.unsettled.add(job.model)
  }

  #setTeam({ name, weight, maxParallel }: TeamRules): void {
    const team = this.#board.team(name)
    team.weight = weight
    team.maxParallel = maxParallel
    this.#board.judgeTeam(team)
  }

  #passTime(): void {
    const board = this.#board
    const { nowMs, waits } = board
    for (const [purse, untilMs] of board.spentUntilMs) if (untilMs <= nowMs) this.#membership.setPurse(purse, null)
    for (const worker of board.workers.values()) this.#membership.judge(worker)
    for (const job of board.delayed) {
      const isDue = job.notBeforeMs <= nowMs
      if (!isDue && !this.#attempts.isWanted(job)) continue
      board.delayed.delete(job)
      if (isDue) board.joinLine(job)
      else board.joinOthers(job)
    }
    for (const job of board.shunning) if (job.notBeforeMs <= nowMs) board.joinAll(job)
    for (const job of board.running.values()) this.#attempts.judgeRunning(job)
    for (let job = waits.opening(nowMs); job !== undefined; job = waits.opening(nowMs)) {
      board.lineOf(job.model).remove(job)
      board.joinLine(job)
    }
    let given = 0
    for (let job = waits.overdue(nowMs); job !== undefined; job = waits.overdue(nowMs)) this.#giveUpWaiting(job, given++ < EXPLAINED_A_TICK)
    // Backoffs, open breakers and the pause after a refusal end by time alone.
    for (const model of board.lines.keys()) board.unsettled.add(model)
  }

  #giveUpWaiting(job: ScheduledJob, isExplained: boolean): void {
    const { reason } = this.waiting(this.#board.nowMs, job.id) ?? { reason: 'all_slots_busy' }
    const waited = isExplained ? { waited: decide(this.#board.nowMs, this.#board.questionOf(job), this.#board.fleet) } : {}
    this.#board.forget(job)
    this.#board.emit({ kind: 'job-failed', job: job.id, error: waitedTooLong(job.maxWaitMs ?? 0, reason), ...waited })
  }
}

// Of many thousands whose time is up together, each decision would be as large as a row of the fleet.
const EXPLAINED_A_TICK = 100
