import { BLAMELESS } from '../../coordinator/core/attempt-errors.ts'
import type { Effect } from '../../coordinator/core/effects.ts'
import type { AcceptedJob, Input, SchedulerRules } from '../../coordinator/core/inputs.ts'
import type { JobId, WorkerId } from '../../coordinator/core/job.ts'
import { PRIORITIES } from '../../coordinator/core/line.ts'
import type { Scheduler } from '../../coordinator/core/scheduler.ts'
import { LinkJudge } from './simulated-link-judge.ts'
import { checkShare, type Served, served } from './simulated-share.ts'
import { Violation } from './simulated-violation.ts'
import { mayRunOn, sameRoute, trueReason } from './simulated-why.ts'

/**
 * Watches one scheduler from outside. It keeps its own account of every job and team from inputs and effects alone, in the
 * plainest way, and holds the scheduler to it after every input.
 */
export class SimulatedJudge {
  readonly jobs = new Map<JobId, WatchedJob>()
  readonly waiting = new Set<WatchedJob>()
  readonly teams = new Map<string, WatchedTeam>()
  readonly link = new LinkJudge()
  readonly #rules: SchedulerRules
  readonly #heardMs = new Map<WorkerId, number>()
  /** Workers that came with attempts nobody knows: until those stop, such a worker has fewer slots than it says. */
  readonly #burdened = new Set<WorkerId>()
  /** Attempts told to stop, as job and worker. */
  readonly #draining = new Set<WorkerId>()
  readonly #refusedMs = new Map<string, number>()
  /** Shares are judged only where nothing else decides: no deaths, no limits, no pins. */
  sharesCount = false
  readonly #served: Served = served()
  #scheduler: Scheduler | undefined
  /** When time was last judged: what time alone ends has ended for the scheduler by then, not before. */
  #tickMs = 0
  #orders = 0
  #asked = 0

  constructor(rules: SchedulerRules) {
    this.#rules = rules
  }

  watch(scheduler: Scheduler): void {
    this.#scheduler = scheduler
  }

  judge(nowMs: number, input: Input, effects: Effect[]): void {
    this.#take(nowMs, input)
    this.#checkFence(input, effects)
    this.#checkStops(input, effects)
    for (const effect of effects) this.#follow(nowMs, input, effect)
    if (input.kind === 'attempt-progressed') return
    this.#checkIdleSlots()
    if (input.kind === 'time-passed') this.#checkTime(nowMs)
  }

  // ── inputs ──────────────────────────────────────────────────────────────────────────────────────────────────────

  #take(nowMs: number, input: Input): void {
    switch (input.kind) {
      case 'job-accepted':
        this.#add(nowMs, input.job, 0)
        break
      case 'job-recovered':
        this.#recover(nowMs, input)
        break
      case 'team-set':
        Object.assign(this.#team(input.team.name), { limit: input.team.maxParallel })
        break
      case 'worker-connected':
        this.#heardMs.set(input.worker, nowMs)
        this.#burdened.delete(input.worker)
        if (input.draining) this.#draining.add(input.worker)
        else this.#draining.delete(input.worker)
        for (const { job, attempt } of input.held) this.#greeted(nowMs, input.worker, job, attempt)
        break
      case 'attempt-finished':
      case 'attempt-failed':
        break
      case 'worker-draining':
        this.#draining.add(input.worker)
        this.#heardMs.set(input.worker, nowMs)
        break
      case 'worker-reported':
        this.#heardMs.set(input.worker, nowMs)
        break
      case 'attempt-progressed':
        this.#grow(nowMs, input)
        break
      case 'paused':
        for (const [worker, heardMs] of this.#heardMs) this.#heardMs.set(worker, Math.min(nowMs, heardMs + input.ms))
        for (const job of this.jobs.values()) job.progressedMs = Math.min(nowMs, job.progressedMs + input.ms)
        break
      case 'time-passed':
        this.#tickMs = nowMs
        for (const job of this.waiting) if (job.phase === 'delayed' && nowMs >= job.notBeforeMs) job.phase = 'waiting'
        break
      case 'attempt-refused':
        if (input.reason === 'full' && this.#runs(input) && !this.#burdened.has(input.worker))
          throw new Violation(`${input.worker} was given ${input.job} beyond its slots`)
        if (this.#runs(input)) this.#refusedMs.set(`${input.worker}/${this.#get(input.job).model}`, nowMs)
        break
      default:
    }
  }

  #add(nowMs: number, job: AcceptedJob, attempt: number): WatchedJob {
    if (this.jobs.has(job.id)) throw new Violation(`${job.id} is known already`)
    const rank = PRIORITIES.indexOf(job.priority)
    const watched: WatchedJob = {
      ...job,
      team: this.#team(job.team),
      rank,
      order: this.#orders++,
      phase: 'waiting',
      attempt,
      worker: null,
      sha256: null,
      avoid: new Set(),
      sinceMs: nowMs,
      notBeforeMs: 0,
      ranMs: 0,
      startedMs: 0,
      progressedMs: 0,
      tokens: 0,
      tokensAtStart: 0,
    }
    this.jobs.set(job.id, watched)
    this.waiting.add(watched)
    return watched
  }

  #recover(nowMs: number, input: Extract<Input, { kind: 'job-recovered' }>): void {
    const job = this.#add(nowMs, input.job, input.attempt)
    job.tokens = input.tokens
    if (input.tokens > 0) job.sha256 = input.sha256
    // A death of the coordinator is no reason to wait longer than was asked for.
    if (input.worker === null) job.sinceMs = nowMs - input.job.waitedMs
    else this.#run(nowMs, job, input.worker.id)
  }

  #greeted(nowMs: number, worker: WorkerId, id: JobId, attempt: number): void {
    const job = this.jobs.get(id)
    if (job?.phase === 'running' && job.worker === worker && job.attempt === attempt) job.progressedMs = nowMs
    else this.#burdened.add(worker)
  }

  #grow(nowMs: number, input: Extract<Input, { kind: 'attempt-progressed' }>): void {
    const job = this.jobs.get(input.job)
    if (job === undefined || !this.#runs(input)) return
    if (job.tokens === 0) job.sha256 = this.#scheduler?.findWorker(input.worker)?.models.get(job.model)?.offer.sha256 ?? null
    job.tokens = input.tokens
    job.progressedMs = nowMs
  }

  #team(name: string): WatchedTeam {
    let team = this.teams.get(name)
    if (team === undefined) this.teams.set(name, (team = { name, limit: null, running: 0 }))
    return team
  }

  // ── effects ─────────────────────────────────────────────────────────────────────────────────────────────────────

  #follow(nowMs: number, input: Input, effect: Effect): void {
    switch (effect.kind) {
      case 'start-attempt':
        this.#start(nowMs, effect)
        break
      case 'attempt-ended':
        this.#ended(nowMs, input, effect)
        break
      case 'job-requeued':
        this.#requeued(nowMs, this.#get(effect.job), effect)
        break
      case 'job-succeeded':
      case 'job-failed':
      case 'job-cancelled':
      case 'job-parked':
        if (effect.kind === 'job-succeeded' && input.kind === 'attempt-finished')
          this.#checkTrust(input.worker, this.#get(effect.job).model)
        this.#gone(nowMs, effect)
        break
      default:
    }
  }

  #start(nowMs: number, effect: Extract<Effect, { kind: 'start-attempt' }>): void {
    const job = this.#get(effect.job)
    const worker = this.#scheduler?.findWorker(effect.worker)
    if (worker === undefined) throw new Violation(`${job.id} starts on a worker nobody knows`)
    if (job.phase !== 'waiting') throw new Violation(`${job.id} starts and is ${job.phase}: two live attempts`)
    if (effect.attempt <= job.attempt) throw new Violation(`attempt ${effect.attempt} of ${job.id} follows ${job.attempt}`)
    if (!mayRunOn(job, worker, this.#workers)) throw new Violation(`${job.id} may not run on ${worker.name}`)
    const silentMs = this.#tickMs - (this.#heardMs.get(worker.id) ?? 0)
    if (silentMs >= this.#rules.suspectAfterMs) throw new Violation(`${job.id} starts on ${worker.name}, silent for ${silentMs} ms`)
    if (this.#draining.has(worker.id)) throw new Violation(`${job.id} starts on ${worker.name}, which is draining`)
    if (nowMs - (this.#refusedMs.get(`${worker.id}/${job.model}`) ?? 0) < this.#rules.refusalPauseMs)
      throw new Violation(`${job.id} starts on ${worker.name}, which has only just refused one`)
    const offered = worker.models.get(job.model)?.offer.slots ?? 0
    if (worker.busy(job.model) > offered) throw new Violation(`${worker.name} has ${offered} slots and ${worker.busy(job.model)} attempts`)
    for (const other of this.waiting)
      if (other.order < job.order && other.phase === 'waiting' && sameRoute(other, job))
        throw new Violation(`${job.id} starts before ${other.id}, which stands before it in the same line`)
    if (this.sharesCount) checkShare(this.#served, job, this.waiting)
    job.attempt = effect.attempt
    this.#run(nowMs, job, effect.worker)
    if (job.team.limit !== null && job.team.running > job.team.limit)
      throw new Violation(`team ${job.team.name} runs ${job.team.running}, its limit is ${job.team.limit}`)
  }

  #run(nowMs: number, job: WatchedJob, worker: WorkerId): void {
    this.waiting.delete(job)
    Object.assign(job, { phase: 'running', worker, startedMs: nowMs, progressedMs: nowMs, tokensAtStart: job.tokens })
    job.team.running += 1
  }

  #ended(nowMs: number, input: Input, effect: Extract<Effect, { kind: 'attempt-ended' }>): void {
    const job = this.#get(effect.job)
    if (job.phase !== 'running' || job.attempt !== effect.attempt)
      throw new Violation(`attempt ${effect.attempt} of ${job.id} ends, and ${job.phase} is attempt ${job.attempt}`)
    if ((input.kind === 'attempt-finished' || input.kind === 'attempt-failed') && input.job === job.id) this.link.reported(input)
    const { error } = effect
    if (job.worker !== null && error !== null && error.retryable && !BLAMELESS.has(error.code)) job.avoid.add(job.worker)
    job.ranMs += nowMs - job.startedMs
    job.worker = null
    job.phase = 'waiting'
    // One that was turned away has not run: its wait goes on.
    const isTurnedAway =
      effect.status === 'refused' || (input.kind === 'attempt-failed' && input.job === job.id && input.hold !== undefined)
    job.sinceMs = isTurnedAway ? nowMs - (job.startedMs - job.sinceMs) : nowMs
    job.team.running -= 1
    this.waiting.add(job)
  }

  #requeued(nowMs: number, job: WatchedJob, { strikes, why, backoffMs }: Extract<Effect, { kind: 'job-requeued' }>): void {
    const refused = why.startsWith('worker refused')
    if (refused || strikes < 2) return
    job.phase = 'delayed'
    job.notBeforeMs = nowMs + backoffMs
    // Those that died together come back one after another.
    const places = backoffMs / (this.#rules.retryBackoffMs * 2 ** Math.min(strikes - 2, 4))
    if (!Number.isInteger(places * 2) || places < 1 || places > 4.5)
      throw new Violation(`${job.id} comes back after ${backoffMs} ms, having died ${strikes} times`)
  }

  #gone(nowMs: number, effect: Extract<Effect, { kind: 'job-succeeded' | 'job-failed' | 'job-cancelled' | 'job-parked' }>): void {
    const job = this.#get(effect.job)
    if (effect.kind === 'job-failed' && effect.error.code === 'max_wait_exceeded' && nowMs - job.sinceMs < (job.maxWaitMs ?? Infinity))
      throw new Violation(`${job.id} is said to have waited ${job.maxWaitMs} ms and has waited ${nowMs - job.sinceMs}`)
    this.jobs.delete(job.id)
    this.waiting.delete(job)
  }

  #get(id: JobId): WatchedJob {
    const job = this.jobs.get(id)
    if (job === undefined) throw new Violation(`something happens to ${id}, which has ended or never was`)
    return job
  }

  // ── what always holds ───────────────────────────────────────────────────────────────────────────────────────────

  /** A report about anything but the running attempt of its worker must not touch the job. */
  #checkFence(input: Input, effects: Effect[]): void {
    if (input.kind !== 'attempt-finished' && input.kind !== 'attempt-failed' && input.kind !== 'attempt-refused') return
    if (this.#runs(input)) return
    if (effects.some((effect) => effect.kind === 'attempt-ended' && effect.job === input.job))
      throw new Violation(`a report about attempt ${input.attempt} of ${input.job} on ${input.worker} is believed; it is not what runs`)
  }

  /** A model that has just brought an answer is in use in full. */
  #checkTrust(id: WorkerId, model: string): void {
    const entry = this.#scheduler?.findWorker(id)?.models.get(model)
    if (entry !== undefined && entry.breaker.openings > 0) throw new Violation(`${model} brings answers and is kept from work`)
  }

  #runs(report: { job: JobId; attempt: number; worker: WorkerId }): boolean {
    const job = this.jobs.get(report.job)
    return job?.phase === 'running' && job.attempt === report.attempt && job.worker === report.worker
  }

  /** Whom the scheduler gives up by itself must be told, or it works on for nobody. */
  #checkStops(input: Input, effects: Effect[]): void {
    for (const effect of effects) {
      if (effect.kind !== 'attempt-ended' || (effect.status !== 'cancelled' && input.kind !== 'time-passed')) continue
      const { job, attempt } = effect
      const told = effects.some((other) => other.kind === 'stop-attempt' && other.job === job && other.attempt === attempt)
      if (!told && effect.status !== 'lost') throw new Violation(`attempt ${attempt} of ${job} is given up, and its worker is not told`)
    }
  }

  #checkIdleSlots(): void {
    if (this.waiting.size === 0) return
    for (const worker of this.#workers)
      for (const model of worker.models.keys()) {
        if (worker.free(model, this.#tickMs) === 0) continue
        for (const job of this.waiting)
          if (job.model === model && job.phase === 'waiting' && !isFull(job.team) && mayRunOn(job, worker, this.#workers))
            throw new Violation(`${job.id} waits although ${worker.name} has a free slot for it`)
      }
  }

  #checkTime(nowMs: number): void {
    for (const job of this.jobs.values()) this.#checkLimits(nowMs, job)
    for (const worker of this.#workers) {
      const silentMs = nowMs - (this.#heardMs.get(worker.id) ?? nowMs)
      if (worker.connected && silentMs >= this.#rules.deadAfterMs) throw new Violation(`${worker.name} is silent and not found dead`)
    }
    const asked = [...this.waiting]
    const job = asked[this.#asked++ % Math.max(1, asked.length)]
    if (job !== undefined) this.#checkReason(nowMs, job)
  }

  #checkLimits(nowMs: number, job: WatchedJob): void {
    // Who starts in this very moment is judged in the next.
    if (job.phase === 'running' && job.startedMs === nowMs) return
    if (job.phase !== 'running') {
      if (job.maxWaitMs !== null && nowMs - job.sinceMs >= job.maxWaitMs) throw new Violation(`${job.id} waits longer than it may`)
      return
    }
    if (job.maxRunMs !== null && job.ranMs + nowMs - job.startedMs >= job.maxRunMs) throw new Violation(`${job.id} runs longer than it may`)
    const limitMs = job.tokens === job.tokensAtStart ? this.#rules.firstTokenTimeoutMs : this.#rules.nextTokenTimeoutMs
    const connected = job.worker !== null && this.#scheduler?.findWorker(job.worker)?.connected === true
    if (connected && nowMs - job.progressedMs >= limitMs) throw new Violation(`${job.id} brings no token and is left where it is`)
  }

  #checkReason(nowMs: number, job: WatchedJob): void {
    const said = this.#scheduler?.waiting(nowMs, job.id)
    const reason = job.phase === 'delayed' ? 'retry_backoff' : trueReason(nowMs, job, isFull(job.team), this.#workers)
    if (said?.reason !== reason) throw new Violation(`${job.id} is said to wait because ${said?.reason}; the truth is ${reason}`)
    if (said.position < 1 || said.position > this.waiting.size) throw new Violation(`${job.id} is said to be at place ${said.position}`)
  }

  get #workers(): Iterable<WatchedWorker> {
    return this.#scheduler?.workers ?? []
  }
}

type WatchedWorker = ReturnType<Scheduler['findWorker']> & {}
type WatchedTeam = { readonly name: string; limit: number | null; running: number }

export type WatchedJob = Omit<AcceptedJob, 'team'> & {
  readonly team: WatchedTeam
  readonly rank: number
  readonly order: number
  phase: 'waiting' | 'delayed' | 'running'
  attempt: number
  worker: WorkerId | null
  sha256: string | null
  readonly avoid: Set<WorkerId>
  sinceMs: number
  notBeforeMs: number
  ranMs: number
  startedMs: number
  progressedMs: number
  tokens: number
  tokensAtStart: number
}

function isFull(team: WatchedTeam): boolean {
  return team.limit !== null && team.running >= team.limit
}
