import {
  COORDINATOR_RESTARTED,
  INTERRUPTED,
  PROVIDER_REMOVED,
  tooLong,
  waitedTooLong,
  WORKER_LOST,
  WORKER_RESTARTED,
  WORKER_SILENT,
} from './attempt-errors.ts'
import { ATTEMPTS_EVER, blameOf, countAgainst, isForbidden, tripFor, yieldingMs } from './blame.ts'
import { type Breaker, reset } from './breaker.ts'
import { outlasts } from './cooldown.ts'
import type { AttemptStatus, Effect } from './effects.ts'
import { decide, type Decision, explain, type Question } from './decision.ts'
import { FleetWorker, type Hold, SPENT, type ModelOffer, type WorkerState } from './fleet.ts'
import type { AcceptedJob, Input, InputOf, Report, SchedulerRules, TeamRules } from './inputs.ts'
import type { JobError, JobId, Waiting, WaitingReason, WorkerId } from './job.ts'
import { Contest } from './contest.ts'
import { Line, type Team } from './line.ts'
import { OfferingTiers } from './offers.ts'
import { Quota } from './quota.ts'
import { AUTO, type Choice, type Fleet, type Place, type RouteKey, tierOf } from './routing.ts'
import { enlisted, type ScheduledJob } from './scheduled-job.ts'
import { ServiceTimes } from './service-times.ts'
import { settle } from './settle.ts'
import { forgivePause, stallOf } from './silence.ts'
import { type Patience, sameTiers } from './tiers.ts'
import { Waits } from './waits.ts'
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
  readonly #rules: SchedulerRules
  readonly #jobs = new Map<JobId, ScheduledJob>()
  readonly #workers = new Map<WorkerId, FleetWorker>()
  readonly #teams = new Map<string, Team<ScheduledJob>>()
  readonly #lines = new Map<string, Line<ScheduledJob>>()
  /** Models whose line or slots changed in this input: filled when it has been taken in whole. */
  readonly #unsettled = new Set<string>()
  readonly #contest = new Contest<ScheduledJob>()
  readonly #delayed = new Set<ScheduledJob>()
  readonly #waits = new Waits()
  readonly #running = new Set<ScheduledJob>()
  readonly #serviceTimes = new ServiceTimes()
  readonly #offering = new OfferingTiers(this.#workers)
  readonly #spentUntilMs = new Map<string, number>()
  readonly #fleet: Fleet = {
    workers: () => this.#workers.values(),
    spentUntil: (purse) => this.#spentUntilMs.get(purse) ?? null,
  }
  #nowMs = 0
  #nextOrder = 1
  #effects: Effect[] = []

  constructor(rules: SchedulerRules) {
    this.#rules = rules
  }

  apply(nowMs: number, input: Input): Effect[] {
    this.#effects = []
    this.#nowMs = nowMs
    switch (input.kind) {
      case 'job-accepted':
        this.#accept(nowMs, input.job)
        break
      case 'job-recovered':
        this.#recover(nowMs, input)
        break
      case 'job-cancelled':
        this.#cancel(nowMs, input.job)
        break
      case 'service-time-known':
        this.#serviceTimes.begin(input.model, input.meanMs)
        break
      case 'worker-known': {
        const worker = this.#know(nowMs, input.worker, input.name)
        const offers = input.offers.map((offer): ModelOffer => ({ ...offer, slots: 0, state: 'down' }))
        if (input.wasOnline === true) worker.expectBack(nowMs + this.#rules.recoveryGraceMs)
        this.#setOffers(worker, offers)
        break
      }
      case 'provider-set':
        this.#setProvider(nowMs, input)
        break
      case 'provider-removed':
        this.#removeProvider(nowMs, input.worker)
        break
      case 'provider-held':
        if (input.hold === null) this.#workers.get(input.worker)?.forgive()
        this.#hold(input.worker, null, input.hold)
        this.#fillWorker(input.worker)
        break
      case 'purse-set':
        this.#setPurse(input.purse, input.spentUntilMs)
        break
      case 'worker-connected':
        this.#connect(nowMs, input)
        break
      case 'worker-reported':
        this.#heard(nowMs, input.worker, input.offers)
        break
      case 'worker-draining':
        this.#drain(nowMs, input.worker)
        break
      case 'worker-disconnected':
        this.#disconnect(nowMs, input.worker)
        break
      case 'attempt-progressed':
        this.#progress(nowMs, input)
        break
      case 'attempt-refused':
        this.#refuse(nowMs, input)
        break
      case 'attempt-finished':
        this.#finish(nowMs, input)
        break
      case 'attempt-failed':
        this.#fail(nowMs, input)
        break
      case 'terms-set':
        for (const { job, patience, purses } of input.jobs) this.#setTerms(job, patience, purses)
        break
      case 'team-set':
        this.#setTeam(input.team)
        break
      case 'paused':
        forgivePause(nowMs, input.ms, this.#workers.values(), this.#running)
        break
      case 'time-passed':
        this.#passTime(nowMs)
        break
    }
    if (this.#unsettled.size > 0) this.#settle(nowMs)
    return this.#effects
  }

  get waitingCount(): number {
    return this.#waits.count
  }

  get runningCount(): number {
    return this.#running.size
  }

  get workers(): Iterable<FleetWorker> {
    return [...this.#workers.values()].filter((worker) => worker.cloud === null)
  }

  /** Workers, and the clouds that the coordinator calls itself. */
  get providers(): Iterable<FleetWorker> {
    return this.#workers.values()
  }

  findWorker(id: WorkerId): FleetWorker | undefined {
    return this.#workers.get(id)
  }

  /** Why the job waits; undefined when it does not. */
  waiting(nowMs: number, id: JobId): Waiting | undefined {
    this.#nowMs = nowMs
    const job = this.#jobs.get(id)
    if (job === undefined || job.phase === 'running') return undefined
    return waitingOf(nowMs, job, this.#keyOf(job), this.#lines.get(job.model), this.#serviceTimes.get(job.model), this.#fleet)
  }

  /** What would be decided now for a job that waits; undefined for any other. */
  deliberation(nowMs: number, id: JobId): Decision | undefined {
    this.#nowMs = nowMs
    const job = this.#jobs.get(id)
    return job === undefined || job.phase === 'running' ? undefined : decide(nowMs, this.#questionOf(nowMs, job), this.#fleet)
  }

  /** How many wait, by model and reason; costs one look per flow, not per job. */
  waitingByReason(nowMs: number): { model: string; reason: WaitingReason; count: number }[] {
    this.#nowMs = nowMs
    return countWaiting(nowMs, this.#lines, this.#delayed, this.#fleet)
  }

  // ── jobs ────────────────────────────────────────────────────────────────────────────────────────────────────────

  #accept(nowMs: number, accepted: AcceptedJob): void {
    const job = this.#enlist(accepted)
    this.#waits.begin(nowMs, job)
    this.#joinLine(job)
  }

  #recover(nowMs: number, input: InputOf<'job-recovered'>): void {
    const job = this.#enlist(input.job)
    job.attempt = input.attempt
    job.tokens = input.tokens
    job.strikes = input.strikes
    job.failures = input.failures
    if (input.tokens > 0) job.sha256 = input.sha256
    job.startsOver = input.startsOver === true
    job.served = input.served ?? job.model
    job.ranMs = input.ranMs ?? 0
    this.#waits.begin(nowMs, job, job.waitedMs)
    if (input.worker === null) {
      this.#joinLine(job)
      return
    }
    const worker = this.#know(nowMs, input.worker.id, input.worker.name)
    this.#run(nowMs, job, { worker, model: job.served })
    // Its provider may not have said yet what it offers.
    job.startsOver ||= input.startsOver === true
    this.#lineOf(job.model).charge(job, job.team)
    if (worker.connected) {
      // It is here already: the job was adopted while this coordinator ran. If the worker holds the attempt, it goes on.
      this.#emit({ kind: 'resume-attempt', job: job.id, attempt: job.attempt, worker: worker.id })
      return
    }
    worker.expectBack(nowMs + this.#rules.recoveryGraceMs)
  }

  #enlist(accepted: AcceptedJob): ScheduledJob {
    const job = enlisted(accepted, this.#nextOrder++, this.#team(accepted.team))
    this.#jobs.set(job.id, job)
    return job
  }

  /** Where an attempt of it runs, that goes on: what is new holds from its next wait on. */
  #setTerms(id: JobId, patience: Patience, purses: readonly string[]): void {
    const job = this.#jobs.get(id)
    if (job === undefined) return
    // It stands where its old purses put it.
    this.#lineOf(job.model).remove(job)
    Object.assign(job, { patience, purses })
    if (job.phase === 'queued') this.#joinLine(job)
  }

  #cancel(nowMs: number, id: JobId): void {
    const job = this.#jobs.get(id)
    if (job === undefined) return
    if (job.phase === 'running' && job.worker !== null) {
      // The slot stays taken until the worker confirms, or a second job would be sent to a slot still at work.
      this.#emit({ kind: 'stop-attempt', job: id, attempt: job.attempt, worker: job.worker.id })
      this.#endAttempt(nowMs, job, 'cancelled', null)
    }
    this.#forget(job)
    this.#emit({ kind: 'job-cancelled', job: id })
    this.#unsettled.add(job.model)
  }

  #progress(nowMs: number, input: InputOf<'attempt-progressed'>): void {
    const job = this.#live(input)
    if (job === undefined) return
    if (job.tokens === 0 && input.tokens > 0) {
      // From here on only the same model file may continue this answer.
      job.sha256 = job.worker?.models.get(job.served)?.offer.sha256 ?? null
    }
    if (input.tokens > job.tokens) this.#prove(job)
    job.tokens = Math.max(job.tokens, input.tokens)
    job.progressedMs = nowMs
  }

  #finish(nowMs: number, input: InputOf<'attempt-finished'>): void {
    const job = this.#live(input)
    this.#vacate(input)
    if (job !== undefined) {
      this.#serviceTimes.learn(job.model, nowMs - job.startedMs)
      this.#prove(job)
      if (job.worker !== null) this.#tellBreaker(job.worker, job.served, 'succeeded', reset)
      job.worker?.quota?.correct(nowMs, job.startedMs, input.cost - job.cost)
      this.#lineOf(job.model).adjust(job, job.team, input.cost - job.cost)
      this.#endAttempt(nowMs, job, 'succeeded', null)
      this.#forget(job)
      this.#emit({ kind: 'job-succeeded', job: job.id })
    }
    this.#fillWorker(input.worker)
  }

  #fail(nowMs: number, report: InputOf<'attempt-failed'>): void {
    const job = this.#live(report)
    const worker = this.#workers.get(report.worker)
    const hold = report.hold && worker?.holdAfter(report.hold, report, nowMs)
    if (hold != null) this.#hold(report.worker, worker?.modelOf(report) ?? null, hold)
    this.#vacate(report)
    if (job !== undefined && report.hold !== undefined) this.#giveBack(nowMs, job, report.error)
    else if (job !== undefined) this.#endBadly(nowMs, job, 'failed', report.error)
    this.#fillWorker(report.worker)
  }

  /** It gets on: a provider that was on trial is well again. */
  #prove({ worker, startedMs }: ScheduledJob): void {
    if (worker?.cooldown.proves(startedMs) === true && worker.hold?.onTrial === true) this.#hold(worker.id, null, null)
  }

  /** The provider could not take it: that is no failure of the job, which waits until somebody can. */
  #giveBack(nowMs: number, job: ScheduledJob, error: JobError): void {
    this.#endAttempt(nowMs, job, 'failed', error)
    if (this.#startsAnew(job, job.startsOver, INTERRUPTED)) this.#requeue(nowMs, job, error.code, 0)
  }

  /**
   * What an engine that cannot continue has begun is void, and so is an answer that is not what was asked for. False when
   * somebody may have read it: then the job has ended, for two texts are never mixed.
   */
  #startsAnew(job: ScheduledJob, isVoid: boolean, end: JobError): boolean {
    if (!isVoid || job.tokens === 0) return true
    if (!job.restartable) {
      this.#forget(job)
      this.#emit({ kind: 'job-failed', job: job.id, error: end })
      return false
    }
    job.tokens = 0
    job.sha256 = null
    this.#emit({ kind: 'discard-answer', job: job.id })
    return true
  }

  #refuse(nowMs: number, input: InputOf<'attempt-refused'>): void {
    const job = this.#live(input)
    this.#vacate(input)
    if (job !== undefined) {
      const offer = job.worker?.models.get(job.served)
      if (offer !== undefined) {
        // That somebody may not pay is no reason to leave the provider alone.
        if (input.purses === undefined) offer.refusedUntilMs = nowMs + this.#rules.refusalPauseMs
        if (offer.breaker.trial === job.id) offer.breaker.trial = null
      }
      this.#endAttempt(nowMs, job, 'refused', null)
      if (input.purses !== undefined) job.purses = input.purses
      this.#requeue(nowMs, job, `worker refused: ${input.reason}`, 0)
    }
    this.#fillWorker(input.worker)
  }

  /** An attempt that did not bring the answer: again elsewhere, or the end of the job. */
  #endBadly(nowMs: number, job: ScheduledJob, status: 'failed' | 'lost', error: JobError): void {
    const worker = job.worker
    // Who answers, with whatever status, is there.
    if (error.providerStatus !== undefined) this.#prove(job)
    const blame = blameOf(job, worker, error, this.#rules)
    if (worker !== null && status === 'failed' && error.retryable && error.layer !== 'routing' && blame.breaker !== null)
      this.#tellBreaker(worker, job.served, error.code, (breaker) => tripFor(breaker, nowMs, job, worker.id, blame, error))
    this.#endAttempt(nowMs, job, status, error)
    if (!error.retryable || isForbidden(this.#keyOf(job), worker, error, this.#fleet)) {
      this.#forget(job)
      this.#emit({ kind: 'job-failed', job: job.id, error: { ...error, retryable: false } })
      return
    }
    countAgainst(job, worker, blame)
    if (!this.#startsAnew(job, blame.isVoid || job.startsOver, blame.isVoid ? error : INTERRUPTED)) return
    if (job.strikes >= this.#rules.attemptsMax || job.failures >= ATTEMPTS_EVER) {
      this.#forget(job)
      this.#emit({ kind: blame.isVoid ? 'job-failed' : 'job-parked', job: job.id, error })
      return
    }
    const yieldMs = blame.yields && worker !== null ? yieldingMs(nowMs, this.#keyOf(job), job.served, worker, this.#fleet) : 0
    job.delayedBy = yieldMs > 0 ? 'cooling_down' : 'retry_backoff'
    const backoffMs = job.strikes < 2 ? 0 : this.#rules.retryBackoffMs * 2 ** (job.strikes - 2)
    this.#requeue(nowMs, job, error.code, Math.max(backoffMs, yieldMs))
  }

  #requeue(nowMs: number, job: ScheduledJob, why: string, delayMs: number): void {
    this.#emit({ kind: 'job-requeued', job: job.id, why, strikes: job.strikes, failures: job.failures })
    this.#lineOf(job.model).adjust(job, job.team, -job.cost)
    this.#waits.begin(nowMs, job)
    if (delayMs > 0) {
      job.phase = 'delayed'
      job.notBeforeMs = nowMs + delayMs
      this.#delayed.add(job)
      return
    }
    this.#joinLine(job)
  }

  #tellBreaker(worker: FleetWorker, model: string, why: string, change: (breaker: Breaker) => boolean): void {
    const breaker = worker.models.get(model)?.breaker
    if (breaker === undefined || !change(breaker)) return
    const untilMs = breaker.openings > 0 ? breaker.openUntilMs : null
    this.#emit({ kind: 'breaker-changed', worker: worker.id, model, untilMs, why })
  }

  // ── teams ───────────────────────────────────────────────────────────────────────────────────────────────────────

  #setTeam({ name, weight, maxParallel }: TeamRules): void {
    const team = this.#team(name)
    team.weight = weight
    team.maxParallel = maxParallel
    this.#judgeTeam(team)
  }

  #team(name: string): Team<ScheduledJob> {
    let team = this.#teams.get(name)
    if (team === undefined) {
      team = { name, weight: 1, maxParallel: null, running: 0, full: false, lines: new Set() }
      this.#teams.set(name, team)
    }
    return team
  }

  #judgeTeam(team: Team<ScheduledJob>): void {
    const full = team.maxParallel !== null && team.running >= team.maxParallel
    if (full === team.full) return
    team.full = full
    for (const line of team.lines) {
      line.setFull(team, full)
      if (!full) this.#unsettled.add(line.model)
    }
  }

  // ── workers ─────────────────────────────────────────────────────────────────────────────────────────────────────

  #know(nowMs: number, id: WorkerId, name: string): FleetWorker {
    let worker = this.#workers.get(id)
    if (worker === undefined) {
      worker = new FleetWorker(id, name, nowMs)
      this.#workers.set(id, worker)
    }
    worker.name = name
    return worker
  }

  #connect(nowMs: number, input: InputOf<'worker-connected'>): void {
    const worker = this.#know(nowMs, input.worker, input.name)
    // A new machine under an old name replaces the old one, which is gone: names are what people pin requests to.
    for (const other of this.#workers.values())
      if (other !== worker && other.name === input.name && !other.connected && other.cloud === null) this.#remove(nowMs, other)
    worker.connected = true
    worker.draining = input.draining
    worker.lastHeardMs = nowMs
    worker.lostAtMs = null
    this.#setOffers(worker, input.offers)
    this.#setState(worker, input.draining ? 'draining' : 'online')
    this.#reconcile(nowMs, worker, input.held)
    worker.recovering = false
    this.#fillWorker(worker.id)
  }

  /** The greeting is the truth about what the worker still holds; what it does not name is gone. */
  #reconcile(nowMs: number, worker: FleetWorker, held: { job: JobId; attempt: number }[]): void {
    const unclaimed = new Map(held.map((item) => [`${item.job}/${item.attempt}`, item]))
    for (const [key, { job: id, attempt }] of [...worker.occupied]) {
      const job = this.#jobs.get(id)
      const live = job !== undefined && job.worker === worker && job.attempt === attempt
      if (unclaimed.has(key)) {
        if (!live) continue
        job.progressedMs = nowMs
        this.#emit({ kind: 'resume-attempt', job: id, attempt, worker: worker.id })
        unclaimed.delete(key)
        continue
      }
      worker.vacate(id, attempt)
      if (live) this.#endBadly(nowMs, job, 'lost', worker.recovering ? COORDINATOR_RESTARTED : WORKER_RESTARTED)
    }
    for (const { job: id, attempt } of unclaimed.values()) {
      // A coordinator that died before it stored the start: the number is spent all the same, or two attempts would share it.
      const job = this.#jobs.get(id)
      if (job !== undefined) job.numbersSpent = Math.max(job.numbersSpent, attempt)
      this.#emit({ kind: 'stop-attempt', job: id, attempt, worker: worker.id })
    }
  }

  #heard(nowMs: number, id: WorkerId, offers: ModelOffer[]): void {
    const worker = this.#workers.get(id)
    if (worker === undefined || !worker.connected) return
    worker.lastHeardMs = nowMs
    this.#setOffers(worker, offers)
    // What was started since the worker looked is not in what it said.
    for (const { job } of worker.occupied.values()) this.#remember(worker, this.#jobs.get(job))
    this.#setState(worker, worker.draining ? 'draining' : 'online')
    this.#fillWorker(id)
  }

  #drain(nowMs: number, id: WorkerId): void {
    const worker = this.#workers.get(id)
    if (worker === undefined || !worker.connected) return
    worker.draining = true
    worker.lastHeardMs = nowMs
    this.#setState(worker, 'draining')
    // Jobs that avoided the other workers may have nobody else now.
    this.#fillModels(worker)
  }

  #disconnect(nowMs: number, id: WorkerId): void {
    const worker = this.#workers.get(id)
    if (worker === undefined || !worker.connected) return
    worker.connected = false
    if (worker.occupied.size === 0) {
      this.#lose(nowMs, worker, WORKER_LOST)
      return
    }
    worker.lostAtMs = nowMs + this.#rules.returnGraceMs
    this.#setState(worker, 'suspect')
    this.#fillModels(worker)
  }

  #lose(nowMs: number, worker: FleetWorker, error: JobError): void {
    worker.connected = false
    worker.lostAtMs = null
    worker.recovering = false
    for (const entry of worker.models.values()) {
      entry.offer = { ...entry.offer, slots: 0 }
      entry.prefixes.clear()
    }
    this.#setState(worker, 'offline')
    for (const { job: id, attempt } of [...worker.occupied.values()]) {
      worker.vacate(id, attempt)
      const job = this.#jobs.get(id)
      if (job?.worker === worker && job.attempt === attempt) this.#endBadly(nowMs, job, 'lost', error)
    }
    this.#fillModels(worker)
  }

  #remove(nowMs: number, worker: FleetWorker): void {
    this.#lose(nowMs, worker, WORKER_LOST)
    this.#workers.delete(worker.id)
    this.#emit({ kind: 'worker-replaced', worker: worker.id })
  }

  #setState(worker: FleetWorker, to: WorkerState): void {
    const from = worker.state
    if (from === to) return
    worker.state = to
    this.#emit({ kind: 'worker-state-changed', worker: worker.id, from, to })
  }

  // ── providers that the coordinator calls itself ─────────────────────────────────────────────────────────────────

  #setProvider(nowMs: number, { worker: id, name, offers, terms, quota }: InputOf<'provider-set'>): void {
    const provider = this.#know(nowMs, id, name)
    provider.cloud = terms
    provider.connected = true
    if (provider.quota === null) provider.quota = new Quota(quota)
    else provider.quota.limits = quota
    provider.spentUntilMs = this.#spentUntilMs.get(provider.purse) ?? null
    this.#setOffers(provider, offers)
    this.#setState(provider, 'online')
    this.#fillModels(provider)
  }

  #removeProvider(nowMs: number, id: WorkerId): void {
    const provider = this.#workers.get(id)
    if (provider === undefined || (provider.cloud === null && provider.connected)) return
    for (const { job, attempt } of provider.occupied.values()) this.#emit({ kind: 'stop-attempt', job, attempt, worker: id })
    this.#lose(nowMs, provider, PROVIDER_REMOVED)
    this.#setOffers(provider, [])
    this.#workers.delete(id)
  }

  /** A provider's own purse closes that provider; anybody else's, what is paid to those who pay from it. */
  #setPurse(purse: string, spentUntilMs: number | null): void {
    if (spentUntilMs === null) this.#spentUntilMs.delete(purse)
    else this.#spentUntilMs.set(purse, spentUntilMs)
    for (const provider of this.#workers.values()) {
      if (provider.cloud === null || provider.purse !== purse) continue
      provider.spentUntilMs = spentUntilMs
      const hold = spentUntilMs === null ? null : { state: 'over_quota' as const, untilMs: spentUntilMs, why: SPENT }
      this.#emit({ kind: 'provider-held', worker: provider.id, model: null, hold })
    }
    for (const line of this.#lines.values()) line.judgePurse(purse, this.#isSpent)
    for (const model of this.#lines.keys()) this.#unsettled.add(model)
  }

  /** Of the whole provider, or, where a worker says it of itself, of one of its models. */
  #hold(id: WorkerId, model: string | null, hold: Hold | null): void {
    const provider = this.#workers.get(id)
    if (provider === undefined || (hold === null && provider.hold === null)) return
    if (hold !== null && !outlasts(hold, provider.hold, this.#nowMs)) return
    const ofModel = provider.cloud === null && hold !== null
    if (ofModel && (model === null || !provider.holdModel(model, hold))) return
    if (!ofModel) provider.hold = hold
    this.#emit({ kind: 'provider-held', worker: id, model: ofModel ? model : null, hold })
    this.#fillModels(provider)
  }

  // ── time ────────────────────────────────────────────────────────────────────────────────────────────────────────

  #passTime(nowMs: number): void {
    for (const [purse, untilMs] of this.#spentUntilMs) if (untilMs <= nowMs) this.#setPurse(purse, null)
    for (const worker of this.#workers.values()) this.#judge(nowMs, worker)
    for (const job of this.#delayed) {
      if (job.notBeforeMs > nowMs) continue
      this.#delayed.delete(job)
      this.#joinLine(job)
    }
    for (const job of this.#running) this.#judgeRunning(nowMs, job)
    for (let job = this.#waits.opening(nowMs); job !== undefined; job = this.#waits.opening(nowMs)) {
      this.#lineOf(job.model).remove(job)
      this.#joinLine(job)
    }
    for (let job = this.#waits.overdue(nowMs); job !== undefined; job = this.#waits.overdue(nowMs)) this.#giveUpWaiting(nowMs, job)
    // Backoffs, open breakers and the pause after a refusal end by time alone.
    for (const model of this.#lines.keys()) this.#unsettled.add(model)
  }

  #giveUpWaiting(nowMs: number, job: ScheduledJob): void {
    const { reason } = this.waiting(nowMs, job.id) ?? { reason: 'all_slots_busy' }
    this.#forget(job)
    this.#emit({ kind: 'job-failed', job: job.id, error: waitedTooLong(job.maxWaitMs ?? 0, reason) })
  }

  #judge(nowMs: number, worker: FleetWorker): void {
    if (worker.hold?.untilMs != null && worker.hold.untilMs <= nowMs && worker.hold.onTrial !== true) this.#hold(worker.id, null, null)
    // Whether a cloud is there is known by calling it.
    if (worker.cloud !== null) return
    if (!worker.connected) {
      if (worker.lostAtMs !== null && nowMs >= worker.lostAtMs)
        this.#lose(nowMs, worker, worker.recovering ? COORDINATOR_RESTARTED : WORKER_LOST)
      return
    }
    const silentMs = nowMs - worker.lastHeardMs
    if (silentMs >= this.#rules.deadAfterMs) {
      this.#emit({ kind: 'drop-worker', worker: worker.id })
      this.#lose(nowMs, worker, WORKER_SILENT)
    } else if (silentMs >= this.#rules.suspectAfterMs && worker.state === 'online') {
      this.#setState(worker, 'suspect')
    }
  }

  #judgeRunning(nowMs: number, job: ScheduledJob): void {
    if (job.worker === null) return
    if (job.maxRunMs !== null && job.ranMs + nowMs - job.startedMs >= job.maxRunMs) {
      this.#stopWith(nowMs, job, tooLong(job.maxRunMs))
      return
    }
    if (!job.worker.connected) return
    const stall = stallOf(nowMs, job, job.worker, this.#rules)
    if (stall !== null) this.#stopWith(nowMs, job, stall)
  }

  #stopWith(nowMs: number, job: ScheduledJob, error: JobError): void {
    if (job.worker !== null) this.#emit({ kind: 'stop-attempt', job: job.id, attempt: job.attempt, worker: job.worker.id })
    this.#endBadly(nowMs, job, 'failed', error)
  }

  // ── placing ─────────────────────────────────────────────────────────────────────────────────────────────────────

  #fillWorker(id: WorkerId): void {
    const worker = this.#workers.get(id)
    if (worker !== undefined) this.#fillModels(worker)
  }

  #fillModels(worker: FleetWorker): void {
    for (const model of worker.models.keys()) this.#unsettled.add(model)
    if (this.#lines.has(AUTO)) this.#unsettled.add(AUTO)
  }

  #settle(nowMs: number): void {
    const lines: Line<ScheduledJob>[] = []
    for (const model of this.#unsettled) {
      const line = this.#lines.get(model)
      if (line !== undefined && line.waiting > 0) lines.push(line)
    }
    this.#unsettled.clear()
    settle(nowMs, lines, this.#fleet, this.#contest, (job, choice, eligible) => this.#start(nowMs, job, choice, eligible))
  }

  #start(nowMs: number, job: ScheduledJob, place: Choice, eligible: readonly Place[]): void {
    const decision = explain(nowMs, this.#questionOf(nowMs, job), this.#fleet, eligible, place)
    const line = this.#lineOf(job.model)
    line.remove(job)
    line.charge(job, job.team)
    job.attempt = Math.max(job.attempt, job.numbersSpent) + 1
    this.#run(nowMs, job, place)
    const { worker, model } = place
    this.#emit({ kind: 'start-attempt', job: job.id, attempt: job.attempt, worker: worker.id, model, tier: tierOf(place), decision })
  }

  #questionOf(nowMs: number, job: ScheduledJob): Question {
    const waitedMs = job.waitedMs + nowMs - job.waitingSinceMs
    const { patience, prefix, team, phase } = job
    return { key: this.#keyOf(job), patience, prefix, waitedMs, teamFull: team.full, delayed: phase === 'delayed' }
  }

  #keyOf({ model, provider, tiers, needs, purses, sha256, avoid }: ScheduledJob): RouteKey {
    return { model, provider, tiers, needs, sha256, avoid, broke: purses.some(this.#isSpent) }
  }

  readonly #isSpent = (purse: string): boolean => this.#spentUntilMs.has(purse)

  #run(nowMs: number, job: ScheduledJob, { worker, model }: Place): void {
    this.#waits.end(this.#nowMs, job)
    job.phase = 'running'
    job.worker = worker
    job.served = model
    job.startsOver = worker.models.get(model)?.offer.startsOver === true
    job.startedMs = nowMs
    job.progressedMs = nowMs
    job.tokensAtStart = job.tokens
    this.#running.add(job)
    worker.occupy(job.id, job.attempt, model, nowMs, job.cost)
    this.#remember(worker, job)
    job.team.running += 1
    this.#judgeTeam(job.team)
  }

  #remember(worker: FleetWorker, job: ScheduledJob | undefined): void {
    // A cloud never says what it holds, so nothing would ever be forgotten.
    if (job === undefined || job.prefix.length === 0 || worker.cloud !== null) return
    const held = worker.models.get(job.served)?.prefixes
    for (const name of job.prefix) held?.add(name)
  }

  #endAttempt(nowMs: number, job: ScheduledJob, status: AttemptStatus, error: JobError | null): void {
    this.#emit({ kind: 'attempt-ended', job: job.id, attempt: job.attempt, status, error })
    // Whatever became of it, a trial that ended without a verdict must not keep its provider closed.
    const breaker = job.worker?.models.get(job.served)?.breaker
    if (breaker?.trial === job.id) breaker.trial = null
    this.#running.delete(job)
    job.ranMs += nowMs - job.startedMs
    job.worker = null
    job.phase = 'queued'
    job.team.running -= 1
    this.#judgeTeam(job.team)
  }

  /** The job whose current attempt the report is about; anything else is stale, changes nothing and is counted. */
  #live(report: Report): ScheduledJob | undefined {
    const job = this.#jobs.get(report.job)
    if (job !== undefined && job.phase === 'running' && job.attempt === report.attempt && job.worker?.id === report.worker) return job
    if (this.#workers.get(report.worker)?.holds(report.job, report.attempt) !== true)
      this.#emit({ kind: 'stale-report', job: report.job, attempt: report.attempt, worker: report.worker })
    return undefined
  }

  #vacate(report: Report): void {
    this.#workers.get(report.worker)?.vacate(report.job, report.attempt)
  }

  #forget(job: ScheduledJob): void {
    if (job.phase === 'delayed') this.#delayed.delete(job)
    if (job.phase === 'delayed' || job.flow !== null) this.#waits.end(this.#nowMs, job)
    this.#lines.get(job.model)?.remove(job)
    this.#running.delete(job)
    this.#jobs.delete(job.id)
  }

  #joinLine(job: ScheduledJob): void {
    job.phase = 'queued'
    this.#waits.judgeTiers(this.#nowMs, job, this.#offering.of(job.model))
    // With others already in line there is no slot free for this route: the invariant above.
    if (this.#lineOf(job.model).add(job, this.#keyOf(job), job.team)) this.#unsettled.add(job.model)
  }

  #lineOf(model: string): Line<ScheduledJob> {
    let line = this.#lines.get(model)
    if (line === undefined) this.#lines.set(model, (line = new Line(model, this.#offering.of(model))))
    return line
  }

  /** Whoever waits for a model that is now offered in another tier stands to the tiers in another way. */
  #setOffers(worker: FleetWorker, offers: ModelOffer[]): void {
    const before = worker.offering
    worker.setOffers(offers)
    if (worker.offering === before) return
    this.#offering.clear()
    for (const [model, line] of this.#lines) {
      const tiers = this.#offering.of(model)
      if (line.waiting === 0 || sameTiers(tiers, line.offering)) continue
      line.offering = tiers
      for (const job of line.jobs()) {
        line.remove(job)
        this.#joinLine(job)
      }
    }
  }

  #emit(effect: Effect): void {
    this.#effects.push(effect)
  }
}
