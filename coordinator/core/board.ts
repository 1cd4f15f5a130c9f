import { FleetingMap } from '../../proto/fleeting-map.ts'
import { Contest } from './contest.ts'
import { outlasts } from './cooldown.ts'
import { explain, type Question } from './decision.ts'
import type { AttemptStatus, Effect } from './effects.ts'
import { FleetWorker, type Hold, type ModelOffer, type WorkerState } from './fleet.ts'
import type { AcceptedJob, Report, SchedulerRules } from './inputs.ts'
import type { JobError, JobId, WorkerId } from './job.ts'
import { Line, type Team } from './line.ts'
import { OfferingTiers } from './offers.ts'
import { AUTO, type Choice, type Fleet, type Place, type RouteKey, tierOf } from './routing.ts'
import { enlisted, type ScheduledJob } from './scheduled-job.ts'
import { ServiceTimes } from './service-times.ts'
import { settle } from './settle.ts'
import { sameTiers } from './tiers.ts'
import { Waits } from './waits.ts'

/**
 * What the scheduler knows of jobs, providers and teams, and the moves that keep all of its indexes true together. What an
 * input means is decided by `scheduler.ts`, `attempts.ts` and `membership.ts`; whatever they change, they change through here.
 */
export class Board {
  readonly rules: SchedulerRules
  readonly jobs = new FleetingMap<JobId, ScheduledJob>()
  /** Workers, and the clouds that the coordinator calls itself. */
  readonly workers = new Map<WorkerId, FleetWorker>()
  readonly lines = new Map<string, Line<ScheduledJob>>()
  /** Models whose line or slots changed in this input: filled when it has been taken in whole. */
  readonly unsettled = new Set<string>()
  readonly delayed = new Set<ScheduledJob>()
  /** Those that let others go first at a provider, and stand in line for the others. */
  readonly shunning = new Set<ScheduledJob>()
  readonly running = new FleetingMap<JobId, ScheduledJob>()
  readonly waits = new Waits()
  readonly serviceTimes = new ServiceTimes()
  readonly spentUntilMs = new Map<string, number>()
  readonly fleet: Fleet = {
    workers: () => this.workers.values(),
    spentUntil: (purse) => this.spentUntilMs.get(purse) ?? null,
  }
  /** The time of the input that is being taken in. */
  nowMs = 0
  readonly #teams = new Map<string, Team<ScheduledJob>>()
  readonly #contest = new Contest<ScheduledJob>()
  readonly #offering = new OfferingTiers(this.workers)
  #nextOrder = 1
  #effects: Effect[] = []

  constructor(rules: SchedulerRules) {
    this.rules = rules
  }

  begin(nowMs: number): void {
    this.nowMs = nowMs
    this.#effects = []
  }

  /** Starts whatever can start now that the input is taken in, and says all that came of it. */
  end(): Effect[] {
    if (this.unsettled.size > 0) this.#settle()
    return this.#effects
  }

  // ── jobs ────────────────────────────────────────────────────────────────────────────────────────────────────────

  enlist(accepted: AcceptedJob): ScheduledJob {
    const job = enlisted(accepted, this.#nextOrder++, this.team(accepted.team))
    this.jobs.set(job.id, job)
    return job
  }

  /** The job whose current attempt the report is about; anything else is stale, changes nothing and is counted. */
  live(report: Report): ScheduledJob | undefined {
    const job = this.jobs.get(report.job)
    if (job !== undefined && job.phase === 'running' && job.attempt === report.attempt && job.worker?.id === report.worker) return job
    if (this.workers.get(report.worker)?.holds(report.job, report.attempt) !== true)
      this.emit({ kind: 'stale-report', job: report.job, attempt: report.attempt, worker: report.worker })
    return undefined
  }

  /** How the tiers stand to a job that is delayed, by now. */
  judgeDelayed(job: ScheduledJob): void {
    this.waits.judgeStandings(this.nowMs, job, this.#offering.of(job.model))
  }

  /** It stands in line, until its time, for everybody but the provider at which it lets others go first. */
  joinOthers(job: ScheduledJob): void {
    this.shunning.add(job)
    this.joinLine(job)
  }

  /** Its time there is over. */
  joinAll(job: ScheduledJob): void {
    this.shunning.delete(job)
    if (job.flow === null) return
    this.lineOf(job.model).remove(job)
    this.joinLine(job)
  }

  joinLine(job: ScheduledJob): void {
    job.phase = 'queued'
    this.waits.judgeTiers(this.nowMs, job, this.#offering.of(job.model))
    // With others already in line there is no slot free for this route: the invariant above.
    if (this.lineOf(job.model).add(job, this.keyOf(job), job.team)) this.unsettled.add(job.model)
  }

  lineOf(model: string): Line<ScheduledJob> {
    let line = this.lines.get(model)
    if (line === undefined) this.lines.set(model, (line = new Line(model, this.#offering.of(model))))
    return line
  }

  /** It ends with an attempt that brought no answer: it is charged for what that took, in place of what was estimated. */
  dismiss(job: ScheduledJob): void {
    this.lineOf(job.model).adjust(job, job.team, job.spent - job.cost)
    this.forget(job)
  }

  forget(job: ScheduledJob): void {
    if (job.phase === 'delayed') this.delayed.delete(job)
    this.shunning.delete(job)
    if (job.phase === 'delayed' || job.flow !== null) this.waits.end(this.nowMs, job)
    this.lines.get(job.model)?.remove(job)
    this.running.delete(job.id)
    this.jobs.delete(job.id)
  }

  // ── attempts ────────────────────────────────────────────────────────────────────────────────────────────────────

  run(job: ScheduledJob, { worker, model }: Place): void {
    this.waits.end(this.nowMs, job)
    job.phase = 'running'
    job.worker = worker
    job.served = model
    job.startsOver = worker.models.get(model)?.offer.startsOver === true
    job.startedMs = this.nowMs
    job.progressedMs = this.nowMs
    job.isPatient = false
    job.tokensAtStart = job.tokens
    this.running.set(job.id, job)
    worker.occupy(job.id, job.attempt, model, this.nowMs, job.cost)
    this.remember(worker, job)
    job.team.running += 1
    this.judgeTeam(job.team)
  }

  remember(worker: FleetWorker, job: ScheduledJob | undefined): void {
    // A cloud never says what it holds, so nothing would ever be forgotten.
    if (job === undefined || job.prefix.length === 0 || worker.cloud !== null) return
    const held = worker.models.get(job.served)?.prefixes
    for (const name of job.prefix) held?.add(name)
  }

  endAttempt(job: ScheduledJob, status: AttemptStatus, error: JobError | null): void {
    this.emit({ kind: 'attempt-ended', job: job.id, attempt: job.attempt, status, error })
    // Whatever became of it, a trial that ended without a verdict must not keep its provider closed.
    const breaker = job.worker?.models.get(job.served)?.breaker
    if (breaker?.trial === job.id) breaker.trial = null
    job.spent = isUnread(job, status, error) ? 0 : spentBy(job)
    if (status !== 'succeeded') job.worker?.quota?.correct(this.nowMs, job.startedMs, job.spent - job.cost)
    this.running.delete(job.id)
    job.ranMs += this.nowMs - job.startedMs
    job.worker = null
    job.phase = 'queued'
    job.team.running -= 1
    this.judgeTeam(job.team)
  }

  vacate(report: Report): void {
    this.workers.get(report.worker)?.vacate(report.job, report.attempt)
  }

  // ── providers ───────────────────────────────────────────────────────────────────────────────────────────────────

  know(id: WorkerId, name: string): FleetWorker {
    let worker = this.workers.get(id)
    if (worker === undefined) {
      worker = new FleetWorker(id, name, this.nowMs)
      this.workers.set(id, worker)
    }
    worker.name = name
    return worker
  }

  setState(worker: FleetWorker, to: WorkerState): void {
    const from = worker.state
    if (from === to) return
    worker.state = to
    this.emit({ kind: 'worker-state-changed', worker: worker.id, from, to })
  }

  /** Whoever waits for a model that is now offered in another tier stands to the tiers in another way. */
  setOffers(worker: FleetWorker, offers: ModelOffer[]): void {
    const before = worker.offering
    worker.setOffers(offers)
    if (worker.offering === before) return
    this.#offering.clear()
    for (const [model, line] of this.lines) {
      const tiers = this.#offering.of(model)
      if (line.waiting === 0 || sameTiers(tiers, line.offering)) continue
      line.offering = tiers
      for (const job of line.jobs()) {
        line.remove(job)
        this.joinLine(job)
      }
    }
  }

  /** Of the whole provider, or, where a worker says it of itself, of one of its models. */
  hold(id: WorkerId, model: string | null, hold: Hold | null): void {
    const provider = this.workers.get(id)
    if (provider === undefined || (hold === null && provider.hold === null)) return
    if (hold !== null && !outlasts(hold, provider.hold, this.nowMs)) return
    const ofModel = provider.cloud === null && hold !== null
    if (ofModel && (model === null || !provider.holdModel(model, hold))) return
    if (!ofModel) provider.hold = hold
    this.emit({ kind: 'provider-held', worker: id, model: ofModel ? model : null, hold })
    this.fillModels(provider)
  }

  // ── teams ───────────────────────────────────────────────────────────────────────────────────────────────────────

  team(name: string): Team<ScheduledJob> {
    let team = this.#teams.get(name)
    if (team === undefined) {
      team = { name, weight: 1, maxParallel: null, running: 0, full: false, lines: new Set() }
      this.#teams.set(name, team)
    }
    return team
  }

  judgeTeam(team: Team<ScheduledJob>): void {
    const full = team.maxParallel !== null && team.running >= team.maxParallel
    if (full === team.full) return
    team.full = full
    for (const line of team.lines) {
      line.setFull(team, full)
      if (!full) this.unsettled.add(line.model)
    }
  }

  // ── placing ─────────────────────────────────────────────────────────────────────────────────────────────────────

  keyOf({ model, provider, tiers, needs, purses, sha256, avoid: failedAt, outgrown, delayedAt, notBeforeMs }: ScheduledJob): RouteKey {
    const avoid = delayedAt !== null && notBeforeMs > this.nowMs ? [...failedAt, delayedAt.id] : failedAt
    return { model, provider, tiers, needs, sha256, avoid, outgrown, broke: purses.some(this.isSpent) }
  }

  questionOf(job: ScheduledJob): Question {
    const waitedMs = job.waitedMs + this.nowMs - job.waitingSinceMs
    const { patience, prefix, team, phase } = job
    return { key: this.keyOf(job), patience, prefix, waitedMs, teamFull: team.full, delayed: phase === 'delayed' }
  }

  fillWorker(id: WorkerId): void {
    const worker = this.workers.get(id)
    if (worker !== undefined) this.fillModels(worker)
  }

  fillModels(worker: FleetWorker): void {
    for (const model of worker.models.keys()) this.unsettled.add(model)
    if (this.lines.has(AUTO)) this.unsettled.add(AUTO)
  }

  #settle(): void {
    const lines: Line<ScheduledJob>[] = []
    for (const model of this.unsettled) {
      const line = this.lines.get(model)
      if (line !== undefined && line.waiting > 0) lines.push(line)
    }
    this.unsettled.clear()
    settle(this.nowMs, lines, this.fleet, this.#contest, (job, choice, eligible) => this.#start(job, choice, eligible))
  }

  #start(job: ScheduledJob, place: Choice, eligible: readonly Place[]): void {
    const decision = explain(this.nowMs, this.questionOf(job), this.fleet, eligible, place)
    const line = this.lineOf(job.model)
    line.remove(job)
    line.charge(job, job.team)
    job.attempt = Math.max(job.attempt, job.numbersSpent) + 1
    this.run(job, place)
    const { worker, model } = place
    this.emit({ kind: 'start-attempt', job: job.id, attempt: job.attempt, worker: worker.id, model, tier: tierOf(place), decision })
  }

  emit(effect: Effect): void {
    this.#effects.push(effect)
  }

  readonly isSpent = (purse: string): boolean => this.spentUntilMs.has(purse)
}

/** The tokens of its current attempt: its prompt may have been computed to the last of them. */
function spentBy({ promptCost, tokens, tokensAtStart }: ScheduledJob): number {
  return promptCost + Math.max(0, tokens - tokensAtStart)
}

/** Nothing was computed for it: the provider said so, or was never asked. */
function isUnread({ tokens, tokensAtStart }: ScheduledJob, status: AttemptStatus, error: JobError | null): boolean {
  if (tokens > tokensAtStart) return false
  return status === 'refused' || error?.providerStatus !== undefined || isRefusal(error) || UNASKED.has(error?.code ?? '')
}

/** Of what its caller asked for, before it was read; that nothing may come next shows when all of it was. */
function isRefusal(error: JobError | null): boolean {
  return error?.layer === 'ingress' && error.code !== 'no_token_left'
}

const UNASKED = new Set(['provider_unreachable', 'provider_lacks_model', 'request_unreadable'])
