import { FleetWorker, type ModelOffer, type WorkerState } from './fleet.ts'
import type { JobError, JobId, Waiting, WaitingReason, WorkerId } from './job.ts'
import type { Ordered } from './ordered.ts'
import { PrefixOwners } from './prefixes.ts'
import { chooseWorker, eligibleWorkers, Route, type RouteKey, routeId } from './routing.ts'

/**
 * The scheduler: one deterministic state machine over jobs and workers. Input and time go in, effects come out; it does
 * no I/O and reads no clock. It mutates its own indexes, because copying a million waiting jobs per decision is no option.
 *
 *   a job is   queued    in the line of its route
 *              delayed   between two attempts, until its backoff is over
 *              running   one attempt on one worker; every report about it is fenced by (job, attempt, worker)
 *   and gone once it succeeded, failed, was cancelled or parked.
 *
 * What always holds between two inputs: no job waits while a worker eligible for it has a free slot; no worker holds
 * more attempts of a model than the slots it announced; a job has at most one attempt that is listened to.
 */
export class Scheduler {
  readonly #rules: SchedulerRules
  readonly #jobs = new Map<JobId, ScheduledJob>()
  readonly #workers = new Map<WorkerId, FleetWorker>()
  readonly #routesByModel = new Map<string, Map<string, Route<ScheduledJob>>>()
  readonly #delayed = new Set<ScheduledJob>()
  readonly #running = new Set<ScheduledJob>()
  readonly #prefixes = new PrefixOwners()
  readonly #serviceMsByModel = new Map<string, number>()
  #nextOrder = 1
  #waiting = 0
  #effects: Effect[] = []

  constructor(rules: SchedulerRules) {
    this.#rules = rules
  }

  apply(nowMs: number, input: Input): Effect[] {
    this.#effects = []
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
      case 'worker-known':
        this.#know(nowMs, input.worker, input.name).setOffers(input.offers.map((offer) => ({ ...offer, slots: 0, state: 'down' })))
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
        this.#fail(nowMs, input, input.error)
        break
      case 'time-passed':
        this.#passTime(nowMs)
        break
    }
    return this.#effects
  }

  get waitingCount(): number {
    return this.#waiting
  }

  get runningCount(): number {
    return this.#running.size
  }

  get workers(): Iterable<FleetWorker> {
    return this.#workers.values()
  }

  findWorker(id: WorkerId): FleetWorker | undefined {
    return this.#workers.get(id)
  }

  /** Every model that any worker ever offered, with the offers of those that are there. */
  knownModels(): Map<string, ModelOffer[]> {
    const known = new Map<string, ModelOffer[]>()
    for (const worker of this.#workers.values())
      for (const { offer } of worker.models.values()) known.set(offer.name, [...(known.get(offer.name) ?? []), offer])
    return known
  }

  /** Why the job waits; undefined when it does not. */
  waiting(nowMs: number, id: JobId): Waiting | undefined {
    const job = this.#jobs.get(id)
    if (job === undefined || job.phase === 'running') return undefined
    let position = 1
    for (const route of this.#routesByModel.get(job.model)?.values() ?? []) position += route.queue.countBefore(job.order)
    if (job.phase === 'delayed')
      return { reason: 'retry_backoff', position, estimateMs: Math.max(0, job.notBeforeMs - nowMs), untilMs: job.notBeforeMs }
    return { reason: this.#reason(job), position, estimateMs: this.#estimate(job, position), untilMs: null }
  }

  /** Every worker with why the job cannot start there now; null where it could. Undefined for a job that does not wait. */
  candidates(nowMs: number, id: JobId): { worker: string; whyNot: string | null }[] | undefined {
    const job = this.#jobs.get(id)
    if (job === undefined || job.phase === 'running') return undefined
    const eligible = new Set(eligibleWorkers(job, this.#workers.values()))
    return [...this.#workers.values()].map((worker) => {
      if (job.phase === 'delayed') return { worker: worker.name, whyNot: 'retry_backoff' }
      if (!eligible.has(worker)) return { worker: worker.name, whyNot: worker.serves(job.model) ? 'not_eligible' : 'does_not_serve_model' }
      return { worker: worker.name, whyNot: worker.free(job.model, nowMs) > 0 ? null : 'all_slots_busy' }
    })
  }

  /** How many wait, by model and reason; costs one look per route, not per job. */
  waitingByReason(): { model: string; reason: WaitingReason; count: number }[] {
    const rows: { model: string; reason: WaitingReason; count: number }[] = []
    for (const [model, routes] of this.#routesByModel)
      for (const route of routes.values()) rows.push({ model, reason: this.#reason(route.key), count: route.queue.size })
    if (this.#delayed.size > 0) {
      const byModel = new Map<string, number>()
      for (const job of this.#delayed) byModel.set(job.model, (byModel.get(job.model) ?? 0) + 1)
      for (const [model, count] of byModel) rows.push({ model, reason: 'retry_backoff', count })
    }
    return rows
  }

  // ── jobs ────────────────────────────────────────────────────────────────────────────────────────────────────────

  #accept(nowMs: number, accepted: AcceptedJob): void {
    const job = this.#enlist(accepted)
    const line = this.#joinLine(job)
    // With others already in line there is no slot free for this route: the invariant above.
    if (line.size === 1) this.#fill(nowMs, job.model)
  }

  #recover(nowMs: number, input: InputOf<'job-recovered'>): void {
    const job = this.#enlist(input.job)
    job.attempt = input.attempt
    job.tokens = input.tokens
    if (input.tokens > 0) job.sha256 = input.sha256
    if (input.worker === null) {
      this.#joinLine(job)
      this.#fill(nowMs, job.model)
      return
    }
    const worker = this.#know(nowMs, input.worker.id, input.worker.name)
    this.#run(nowMs, job, worker)
    worker.recovering = true
    worker.lostAtMs = nowMs + this.#rules.recoveryGraceMs
  }

  #enlist(accepted: AcceptedJob): ScheduledJob {
    const job: ScheduledJob = {
      id: accepted.id,
      order: this.#nextOrder++,
      model: accepted.model,
      provider: accepted.provider,
      sha256: null,
      avoid: NOBODY,
      route: null,
      prefix: accepted.prefix,
      phase: 'queued',
      attempt: 0,
      strikes: 0,
      failures: 0,
      tokens: 0,
      tokensAtStart: 0,
      startedMs: 0,
      progressedMs: 0,
      notBeforeMs: 0,
      worker: null,
    }
    this.#jobs.set(job.id, job)
    this.#waiting += 1
    return job
  }

  #cancel(nowMs: number, id: JobId): void {
    const job = this.#jobs.get(id)
    if (job === undefined) return
    if (job.phase === 'running' && job.worker !== null) {
      // The slot stays taken until the worker confirms, or a second job would be sent to a slot still at work.
      this.#emit({ kind: 'stop-attempt', job: id, attempt: job.attempt, worker: job.worker.id })
      this.#endAttempt(job, 'cancelled', null)
    }
    this.#forget(job)
    this.#emit({ kind: 'job-cancelled', job: id })
    this.#fill(nowMs, job.model)
  }

  #progress(nowMs: number, input: InputOf<'attempt-progressed'>): void {
    const job = this.#live(input)
    if (job === undefined) return
    if (job.tokens === 0 && input.tokens > 0) {
      // From here on only the same model file may continue this answer.
      job.sha256 = job.worker?.models.get(job.model)?.offer.sha256 ?? null
    }
    job.tokens = Math.max(job.tokens, input.tokens)
    job.progressedMs = nowMs
  }

  #finish(nowMs: number, input: InputOf<'attempt-finished'>): void {
    const job = this.#live(input)
    this.#vacate(input)
    if (job !== undefined) {
      this.#learnServiceTime(job.model, nowMs - job.startedMs)
      this.#endAttempt(job, 'succeeded', null)
      this.#forget(job)
      this.#emit({ kind: 'job-succeeded', job: job.id })
    }
    this.#fillWorker(nowMs, input.worker)
  }

  #fail(nowMs: number, report: Report, error: JobError): void {
    const job = this.#live(report)
    this.#vacate(report)
    if (job !== undefined) this.#endBadly(nowMs, job, 'failed', error)
    this.#fillWorker(nowMs, report.worker)
  }

  #refuse(nowMs: number, input: InputOf<'attempt-refused'>): void {
    const job = this.#live(input)
    this.#vacate(input)
    if (job !== undefined) {
      const offer = job.worker?.models.get(job.model)
      if (offer !== undefined) offer.refusedUntilMs = nowMs + this.#rules.refusalPauseMs
      this.#endAttempt(job, 'refused', null)
      this.#requeue(nowMs, job, `worker refused: ${input.reason}`, 0)
    }
    this.#fillWorker(nowMs, input.worker)
  }

  /** An attempt that did not bring the answer: again elsewhere, or the end of the job. */
  #endBadly(nowMs: number, job: ScheduledJob, status: 'failed' | 'lost', error: JobError): void {
    const worker = job.worker
    this.#endAttempt(job, status, error)
    if (!error.retryable) {
      this.#forget(job)
      this.#emit({ kind: 'job-failed', job: job.id, error })
      return
    }
    // A prompt that kills its worker would otherwise be handed to the next worker for ever. Three attempts in a row that
    // brought next to nothing separate bad luck from a bad prompt; after that a person looks. An attempt that got on
    // clears the count: a long answer on a fleet whose hosts die often is not poison.
    const progressed = job.tokens - job.tokensAtStart >= PROGRESS_TOKENS
    const blameless = error.code === 'worker_draining' || error.code === 'coordinator_restarted'
    if (!blameless) job.strikes = progressed ? 0 : job.strikes + 1
    job.failures += 1
    if (job.strikes >= this.#rules.attemptsMax || job.failures >= ATTEMPTS_EVER) {
      this.#forget(job)
      this.#emit({ kind: 'job-parked', job: job.id, error })
      return
    }
    if (worker !== null && !blameless && !job.avoid.includes(worker.id)) job.avoid = [...job.avoid, worker.id]
    this.#requeue(nowMs, job, error.code, job.strikes < 2 ? 0 : this.#rules.retryBackoffMs * 2 ** (job.strikes - 2))
  }

  #requeue(nowMs: number, job: ScheduledJob, why: string, delayMs: number): void {
    this.#emit({ kind: 'job-requeued', job: job.id, why })
    this.#waiting += 1
    if (delayMs > 0) {
      job.phase = 'delayed'
      job.notBeforeMs = nowMs + delayMs
      this.#delayed.add(job)
      return
    }
    this.#joinLine(job)
    this.#fill(nowMs, job.model)
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
      if (other !== worker && other.name === input.name && !other.connected) this.#remove(nowMs, other)
    worker.connected = true
    worker.draining = input.draining
    worker.lastHeardMs = nowMs
    worker.lostAtMs = null
    worker.setOffers(input.offers)
    this.#setState(worker, input.draining ? 'draining' : 'online')
    this.#reconcile(nowMs, worker, input.held)
    worker.recovering = false
    this.#fillWorker(nowMs, worker.id)
  }

  /** The greeting is the truth about what the worker still holds; what it does not name is gone. */
  #reconcile(nowMs: number, worker: FleetWorker, held: { job: JobId; attempt: number }[]): void {
    const heldAttempts = new Map(held.map((item) => [item.job, item.attempt]))
    for (const [id, { attempt }] of [...worker.occupied]) {
      const job = this.#jobs.get(id)
      const live = job !== undefined && job.worker === worker && job.attempt === attempt
      if (heldAttempts.get(id) === attempt) {
        if (!live) continue
        job.progressedMs = nowMs
        this.#emit({ kind: 'resume-attempt', job: id, attempt, worker: worker.id })
        heldAttempts.delete(id)
        continue
      }
      worker.vacate(id)
      if (live) this.#endBadly(nowMs, job, 'lost', worker.recovering ? COORDINATOR_RESTARTED : WORKER_RESTARTED)
    }
    for (const [id, attempt] of heldAttempts) this.#emit({ kind: 'stop-attempt', job: id, attempt, worker: worker.id })
  }

  #heard(nowMs: number, id: WorkerId, offers: ModelOffer[]): void {
    const worker = this.#workers.get(id)
    if (worker === undefined || !worker.connected) return
    worker.lastHeardMs = nowMs
    worker.setOffers(offers)
    this.#setState(worker, worker.draining ? 'draining' : 'online')
    this.#fillWorker(nowMs, id)
  }

  #drain(nowMs: number, id: WorkerId): void {
    const worker = this.#workers.get(id)
    if (worker === undefined || !worker.connected) return
    worker.draining = true
    worker.lastHeardMs = nowMs
    this.#setState(worker, 'draining')
    // Jobs that avoided the other workers may have nobody else now.
    this.#fillModels(nowMs, worker)
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
    this.#fillModels(nowMs, worker)
  }

  #lose(nowMs: number, worker: FleetWorker, error: JobError): void {
    worker.connected = false
    worker.lostAtMs = null
    worker.recovering = false
    for (const entry of worker.models.values()) entry.offer = { ...entry.offer, slots: 0 }
    this.#setState(worker, 'offline')
    for (const [id, { attempt }] of [...worker.occupied]) {
      worker.vacate(id)
      const job = this.#jobs.get(id)
      if (job?.worker === worker && job.attempt === attempt) this.#endBadly(nowMs, job, 'lost', error)
    }
    this.#fillModels(nowMs, worker)
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

  // ── time ────────────────────────────────────────────────────────────────────────────────────────────────────────

  #passTime(nowMs: number): void {
    for (const worker of this.#workers.values()) this.#judge(nowMs, worker)
    for (const job of this.#delayed) {
      if (job.notBeforeMs > nowMs) continue
      this.#delayed.delete(job)
      this.#joinLine(job)
    }
    for (const job of this.#running) this.#judgeSilence(nowMs, job)
    // Backoffs and the pause after a refusal end by time alone.
    for (const model of this.#routesByModel.keys()) this.#fill(nowMs, model)
  }

  #judge(nowMs: number, worker: FleetWorker): void {
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

  #judgeSilence(nowMs: number, job: ScheduledJob): void {
    if (job.worker === null || !job.worker.connected) return
    const first = job.tokens === job.tokensAtStart
    const limitMs = first ? this.#rules.firstTokenTimeoutMs : this.#rules.nextTokenTimeoutMs
    if (nowMs - job.progressedMs < limitMs) return
    const error = silent(first ? 'first_token_timeout' : 'next_token_timeout', limitMs)
    this.#emit({ kind: 'stop-attempt', job: job.id, attempt: job.attempt, worker: job.worker.id })
    this.#endBadly(nowMs, job, 'failed', error)
  }

  // ── placing ─────────────────────────────────────────────────────────────────────────────────────────────────────

  #fillWorker(nowMs: number, id: WorkerId): void {
    const worker = this.#workers.get(id)
    if (worker !== undefined) this.#fillModels(nowMs, worker)
  }

  #fillModels(nowMs: number, worker: FleetWorker): void {
    for (const model of worker.models.keys()) this.#fill(nowMs, model)
  }

  /** Starts waiting jobs of the model, oldest first, until no eligible slot is free. */
  #fill(nowMs: number, model: string): void {
    const routes = this.#routesByModel.get(model)
    if (routes === undefined) return
    const closed = new Set<Route<ScheduledJob>>()
    for (;;) {
      const route = oldest(routes.values(), closed)
      const job = route?.queue.first()
      if (route === undefined || job === undefined) return
      const free = eligibleWorkers(route.key, this.#workers.values()).filter((worker) => worker.free(model, nowMs) > 0)
      const choice = chooseWorker(model, free, this.#prefixes.ownerOf(model, job.prefix))
      if (choice === undefined) {
        closed.add(route)
        continue
      }
      this.#leaveLine(job)
      job.attempt += 1
      this.#run(nowMs, job, choice.worker)
      this.#emit({ kind: 'start-attempt', job: job.id, attempt: job.attempt, worker: choice.worker.id, rule: choice.rule })
    }
  }

  #run(nowMs: number, job: ScheduledJob, worker: FleetWorker): void {
    job.phase = 'running'
    job.worker = worker
    job.startedMs = nowMs
    job.progressedMs = nowMs
    job.tokensAtStart = job.tokens
    this.#waiting -= 1
    this.#running.add(job)
    worker.occupy(job.id, job.attempt, job.model)
    this.#prefixes.remember(job.model, job.prefix, worker.id)
  }

  #endAttempt(job: ScheduledJob, status: AttemptStatus, error: JobError | null): void {
    this.#emit({ kind: 'attempt-ended', job: job.id, attempt: job.attempt, status, error })
    this.#running.delete(job)
    job.worker = null
    job.phase = 'queued'
  }

  /** The job whose current attempt the report is about; anything else is stale, changes nothing and is counted. */
  #live(report: Report): ScheduledJob | undefined {
    const job = this.#jobs.get(report.job)
    if (job !== undefined && job.phase === 'running' && job.attempt === report.attempt && job.worker?.id === report.worker) return job
    const held = this.#workers.get(report.worker)?.occupied.get(report.job)
    if (held?.attempt !== report.attempt)
      this.#emit({ kind: 'stale-report', job: report.job, attempt: report.attempt, worker: report.worker })
    return undefined
  }

  #vacate(report: Report): void {
    const worker = this.#workers.get(report.worker)
    if (worker?.occupied.get(report.job)?.attempt === report.attempt) worker.vacate(report.job)
  }

  #forget(job: ScheduledJob): void {
    if (job.phase === 'delayed') {
      this.#delayed.delete(job)
      this.#waiting -= 1
    } else if (job.phase === 'queued' && this.#leaveLine(job)) {
      this.#waiting -= 1
    }
    this.#running.delete(job)
    this.#jobs.delete(job.id)
  }

  #joinLine(job: ScheduledJob): Ordered<ScheduledJob> {
    let routes = this.#routesByModel.get(job.model)
    if (routes === undefined) this.#routesByModel.set(job.model, (routes = new Map()))
    const id = routeId(job)
    let route = routes.get(id)
    if (route === undefined) {
      const { model, provider, sha256, avoid } = job
      routes.set(id, (route = new Route<ScheduledJob>(id, { model, provider, sha256, avoid })))
    }
    job.phase = 'queued'
    job.route = route
    route.queue.add(job)
    return route.queue
  }

  #leaveLine(job: ScheduledJob): boolean {
    const { route } = job
    job.route = null
    if (route === null || !route.queue.remove(job)) return false
    if (route.queue.size === 0) {
      const routes = this.#routesByModel.get(job.model)
      routes?.delete(route.id)
      if (routes?.size === 0) this.#routesByModel.delete(job.model)
    }
    return true
  }

  // ── saying why ──────────────────────────────────────────────────────────────────────────────────────────────────

  #reason(key: RouteKey): WaitingReason {
    if (eligibleWorkers(key, this.#workers.values()).length > 0) return 'all_slots_busy'
    for (const worker of this.#workers.values()) {
      const named = key.provider === null || key.provider === worker.name
      if (named && worker.state === 'online' && worker.models.get(key.model)?.offer.state === 'loading') return 'model_loading'
    }
    return 'no_provider_for_model'
  }

  #estimate(key: RouteKey, position: number): number | null {
    const serviceMs = this.#serviceMsByModel.get(key.model)
    if (serviceMs === undefined) return null
    let slots = 0
    for (const worker of eligibleWorkers(key, this.#workers.values())) slots += worker.models.get(key.model)?.offer.slots ?? 0
    return slots === 0 ? null : Math.round((position * serviceMs) / slots)
  }

  #learnServiceTime(model: string, tookMs: number): void {
    const known = this.#serviceMsByModel.get(model)
    this.#serviceMsByModel.set(model, known === undefined ? tookMs : known + (tookMs - known) * SERVICE_TIME_WEIGHT)
  }

  #emit(effect: Effect): void {
    this.#effects.push(effect)
  }
}

export type SchedulerRules = {
  suspectAfterMs: number
  deadAfterMs: number
  /** How long a worker whose stream closed may take to come back before its attempts run elsewhere. */
  returnGraceMs: number
  /** The same after the coordinator's own start, when every worker has to find it again. */
  recoveryGraceMs: number
  firstTokenTimeoutMs: number
  nextTokenTimeoutMs: number
  attemptsMax: number
  retryBackoffMs: number
  refusalPauseMs: number
}

export type AcceptedJob = {
  id: JobId
  model: string
  /** A provider's name when the request is pinned to it. */
  provider: string | null
  /** Hashes of the conversation's growing prefixes, shortest first. */
  prefix: readonly string[]
}

type Report = { job: JobId; attempt: number; worker: WorkerId }

export type Input =
  | { kind: 'job-accepted'; job: AcceptedJob }
  | {
      kind: 'job-recovered'
      job: AcceptedJob
      attempt: number
      /** The worker that ran it when the last coordinator died; null: it was queued. */
      worker: { id: WorkerId; name: string } | null
      tokens: number
      sha256: string | null
    }
  | { kind: 'job-cancelled'; job: JobId }
  | { kind: 'worker-known'; worker: WorkerId; name: string; offers: ModelOffer[] }
  | {
      kind: 'worker-connected'
      worker: WorkerId
      name: string
      offers: ModelOffer[]
      held: { job: JobId; attempt: number }[]
      draining: boolean
    }
  | { kind: 'worker-reported'; worker: WorkerId; offers: ModelOffer[] }
  | { kind: 'worker-draining'; worker: WorkerId }
  | { kind: 'worker-disconnected'; worker: WorkerId }
  /** `tokens` is the length of the answer so far. */
  | ({ kind: 'attempt-progressed'; tokens: number } & Report)
  | ({ kind: 'attempt-refused'; reason: string } & Report)
  | ({ kind: 'attempt-finished' } & Report)
  | ({ kind: 'attempt-failed'; error: JobError } & Report)
  | { kind: 'time-passed' }

type InputOf<K extends Input['kind']> = Extract<Input, { kind: K }>

export type AttemptStatus = 'succeeded' | 'failed' | 'lost' | 'refused' | 'cancelled'

export type Effect =
  | { kind: 'start-attempt'; job: JobId; attempt: number; worker: WorkerId; rule: 'prefix' | 'least_busy' }
  | { kind: 'resume-attempt'; job: JobId; attempt: number; worker: WorkerId }
  | { kind: 'stop-attempt'; job: JobId; attempt: number; worker: WorkerId }
  | { kind: 'attempt-ended'; job: JobId; attempt: number; status: AttemptStatus; error: JobError | null }
  | { kind: 'job-requeued'; job: JobId; why: string }
  | { kind: 'job-succeeded'; job: JobId }
  | { kind: 'job-failed'; job: JobId; error: JobError }
  | { kind: 'job-cancelled'; job: JobId }
  | { kind: 'job-parked'; job: JobId; error: JobError }
  | { kind: 'worker-state-changed'; worker: WorkerId; from: WorkerState; to: WorkerState }
  | { kind: 'worker-replaced'; worker: WorkerId }
  | { kind: 'drop-worker'; worker: WorkerId }
  | { kind: 'stale-report'; job: JobId; attempt: number; worker: WorkerId }

type ScheduledJob = {
  readonly id: JobId
  /** The place in line, kept over every attempt: what comes back goes to the front. */
  readonly order: number
  readonly model: string
  readonly provider: string | null
  /** Set once text was delivered: only the same model file continues it. */
  sha256: string | null
  avoid: readonly WorkerId[]
  /** The line it stands in; null while it does not wait. */
  route: Route<ScheduledJob> | null
  readonly prefix: readonly string[]
  phase: 'queued' | 'delayed' | 'running'
  /** Number of the current or last attempt; 0 before the first. */
  attempt: number
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

const NOBODY: readonly WorkerId[] = []

function oldest(routes: Iterable<Route<ScheduledJob>>, closed: Set<Route<ScheduledJob>>): Route<ScheduledJob> | undefined {
  let found: Route<ScheduledJob> | undefined
  for (const route of routes) {
    if (closed.has(route)) continue
    if (found === undefined || (route.queue.first()?.order ?? 0) < (found.queue.first()?.order ?? 0)) found = route
  }
  return found
}

// Fewer new tokens than this and an attempt brought next to nothing.
const PROGRESS_TOKENS = 8
// Whatever a job achieves between its deaths, this many of them are a case for a person.
const ATTEMPTS_EVER = 30
// Recent answers weigh more: a model's load changes within minutes.
const SERVICE_TIME_WEIGHT = 0.1

function lost(code: string, message: string): JobError {
  return { code, message, layer: 'provider', retryable: true }
}

const WORKER_LOST = lost('worker_lost', 'The connection to the worker closed and it did not come back in time.')
const WORKER_SILENT = lost('worker_silent', 'The worker sent no heartbeat within the dead time.')
const WORKER_RESTARTED = lost('worker_restarted', 'The worker came back without the attempt: its process had died.')
const COORDINATOR_RESTARTED = lost(
  'coordinator_restarted',
  'After a restart of the coordinator the worker did not offer the attempt again.',
)

function silent(code: string, limitMs: number): JobError {
  return lost(code, `The worker produced no token for ${Math.round(limitMs / 1000)} s.`)
}
