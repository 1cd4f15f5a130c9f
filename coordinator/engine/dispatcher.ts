import assert from 'node:assert/strict'
import { CONTEXT_FULL, GIVEN_BACK, SPEND_LIMIT, tooLarge } from '../core/attempt-errors.ts'
import type { EventType } from '../core/event.ts'
import { Fault } from '../core/fault.ts'
import { type Decision, decisionDetails } from '../core/decision.ts'
import type { Setback } from '../core/cooldown.ts'
import type { CloudTerms, Hold, ModelOffer } from '../core/fleet.ts'
import { isFinal, type JobError, type JobId, type JobRecord, type Waiting, type WorkerId } from '../core/job.ts'
import type { Effect } from '../core/effects.ts'
import type { Input, TeamRules } from '../core/inputs.ts'
import type { QuotaLimits } from '../core/quota.ts'
import type { Scheduler } from '../core/scheduler.ts'
import type { StoredProgress } from '../store/jobs.ts'
import type { Writer } from '../store/writer.ts'
import { FleetingMap } from '../../proto/fleeting-map.ts'
import type { DispatcherParts } from './dispatcher-parts.ts'
import { delivered, LiveJob } from './live-job.ts'
import { accepted, type NewJob, newRecord, sameTerms, type Terms } from './new-job.ts'
import { type AttemptEnd, type AttemptOutput, isUntold } from './worker-link.ts'

/**
 * The one loop that acts on what the scheduler decides: it sends attempts to workers, keeps the records of live jobs,
 * hands every change to the writer together with its event, and tells followers. Everything happens in memory at once;
 * PostgreSQL follows in the writer's batches.
 */
export class Dispatcher {
  readonly #scheduler: Scheduler
  readonly #writer: Writer
  readonly #parts: DispatcherParts
  readonly #live = new FleetingMap<JobId, LiveJob>()
  readonly #workerNames = new Map<WorkerId, string>()
  /** Those whose answer has grown since the last checkpoint. */
  readonly #progressed = new FleetingMap<JobId, LiveJob>()
  readonly #queuedAndFollowed = new Set<LiveJob>()
  readonly #timers: NodeJS.Timeout[] = []
  #tickedMs = 0
  #actor = 'coordinator'
  /** What was asked for by whoever heard of an effect, and who asked; null while no effects are performed. */
  #meanwhile: { input: Input; actor: string }[] | null = null
  #stopped = false

  constructor(scheduler: Scheduler, writer: Writer, parts: DispatcherParts) {
    this.#scheduler = scheduler
    this.#writer = writer
    this.#parts = parts
  }

  start(): void {
    this.#timers.push(
      setInterval(() => this.tick(), TICK_MS),
      setInterval(() => this.checkpoint(), CHECKPOINT_MS),
      setInterval(() => this.#tellWaiting(), WAITING_NOTE_MS),
    )
  }

  /** From here on nothing is decided any more: callers that a shutdown cuts off must not cancel their jobs, but are told. */
  stop(): void {
    if (this.#stopped) return
    this.#stopped = true
    for (const timer of this.#timers) clearInterval(timer)
    this.checkpoint()
    for (const live of this.#live.values()) live.stopped()
  }

  /** Judges deaths, stalls, limits and backoffs as of now. */
  tick(): void {
    // Frozen, or its host suspended: the clock ran on, and nothing was heard.
    const nowMs = this.#parts.now()
    const missedMs = this.#tickedMs === 0 ? 0 : nowMs - this.#tickedMs - TICK_MS
    this.#tickedMs = nowMs
    if (missedMs > PAUSE_MS) this.#apply({ kind: 'paused', ms: missedMs })
    this.#apply({ kind: 'time-passed' })
  }

  // ── jobs ────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** `stored` resolves once the job is durable: nothing may be answered before. */
  accept(job: NewJob): { live: LiveJob; stored: Promise<void> } {
    const record = newRecord(job, this.#parts.now(), this.#parts.coordinator)
    const live = new LiveJob(record, job.request)
    live.hasCallback = job.along?.callback !== undefined
    live.streamed = job.streamed
    live.terms = job.terms
    live.generation = job.generation
    this.#live.set(record.id, live)
    const inserted = this.#writer.insertJob(record, job.request, job.along).then(() => live.wasStored(this.#scheduler.waitingCount))
    const stored = inserted.catch((error: unknown) => {
      // A row that PostgreSQL refuses was never accepted: whatever runs for it stops, its caller is told, and no row of it stays.
      live.unstorable = true
      // Of an answer that is complete already the worker keeps what nobody will ever store.
      if (record.status === 'succeeded' && record.worker !== null) this.#parts.link.acknowledge(record.worker, record.id, record.attempt)
      this.#apply({ kind: 'job-cancelled', job: record.id })
      this.#live.delete(record.id)
      throw error
    })
    const { prefix, promptCost, terms, streamed } = job
    this.#apply({ kind: 'job-accepted', job: { ...accepted(record, { prefix, promptCost }, terms, !job.restartless, 0), streamed } })
    // A job that found a slot at once is accepted and started by one event: nearly every job does.
    const started = record.attempt === 1 && live.decision !== null ? { attempt: 1, ...decisionDetails(live.decision) } : {}
    this.#event('job.accepted', live, job.actor, { type: record.type, model: record.model, ...started })
    live.announced = true
    live.generation = undefined
    return { live, stored }
  }

  /** False when the job is not live here: final already, or unknown. */
  cancel(id: JobId, actor: string): boolean {
    const live = this.#live.get(id)
    if (this.#stopped || live === undefined || isFinal(live.record.status) || live.record.status === 'parked') return false
    this.#apply({ kind: 'job-cancelled', job: id }, actor)
    return true
  }

  /** A parked job is nobody's work any more; its row says all there is. */
  cancelParked(record: JobRecord, progress: StoredProgress | undefined, actor: string, hasCallback: boolean): LiveJob {
    record.owner = this.#parts.coordinator
    const live = new LiveJob(record, null, delivered(progress))
    live.hasCallback = hasCallback
    this.#live.set(record.id, live)
    this.#end(live, 'cancelled', 'job.cancelled', actor, {})
    return live
  }

  /** A person gives a parked job its attempts anew; it goes on from what was delivered. A look for jobs that nobody has may have taken it up by now. */
  release(record: JobRecord, progress: StoredProgress | undefined, actor: string, hasCallback: boolean): void {
    if ((this.#live.get(record.id)?.record.status ?? 'parked') !== 'parked') return
    const anew = { status: 'queued', error: null, strikes: 0, failures: 0 } as const
    Object.assign(record, anew, { owner: this.#parts.coordinator })
    const live = this.#takeUp(record, progress)
    live.hasCallback = hasCallback
    this.#changed(live)
    this.#event('job.released', live, actor, { after_attempts: record.attempt })
    this.#line(live, null)
  }

  /** Resolves when whoever was let in before this can be found in PostgreSQL, or after a second in which it could not be reached. */
  async settled(): Promise<void> {
    let late: NodeJS.Timeout | undefined
    const enough = new Promise<void>((resolve) => (late = setTimeout(resolve, SETTLED_MS)))
    await Promise.race([this.#writer.accepted(), enough])
    clearTimeout(late)
  }

  /** Resolves when what is known of the job by now is in PostgreSQL: an answer about it then outlives this process. */
  async durable(id: JobId): Promise<void> {
    const live = this.#live.get(id)
    if (live === undefined || live.unstorable) return
    await new Promise<void>((resolve, reject) =>
      this.#writer.updateJob(live.record, (error) => (error === null ? resolve() : reject(error))),
    )
  }

  find(id: JobId): LiveJob | undefined {
    return this.#live.get(id)
  }

  /** Live jobs are newer here than in PostgreSQL. */
  get liveJobs(): Iterable<LiveJob> {
    return this.#live.values()
  }

  waiting(id: JobId): Waiting | undefined {
    return this.#scheduler.waiting(this.#parts.now(), id)
  }

  /** The follower hears of every change; in a queue it hears why it waits, now and every few seconds. */
  announceWaiting(live: LiveJob): void {
    if (live.record.status !== 'queued') return
    this.#queuedAndFollowed.add(live)
    const waiting = this.waiting(live.record.id)
    if (waiting !== undefined) live.waits(waiting)
  }

  setTeam(team: TeamRules): void {
    this.#apply({ kind: 'team-set', team })
  }

  /** Policies, keys or limits have changed: whoever waits is under what they say now. Costs one look per live job. */
  judgeTerms(): void {
    const alike = new Map<string, Terms>()
    const jobs: { job: JobId; patience: Terms['patience']; purses: Terms['purses'] }[] = []
    for (const live of this.#live.values()) {
      const { id, policy, team, pinnedTier, pinnedProvider, key } = live.record
      const name = JSON.stringify([policy, team, pinnedTier, pinnedProvider, key])
      let terms = alike.get(name)
      if (terms === undefined) alike.set(name, (terms = this.#parts.termsOf(live.record)))
      if (live.terms === null || sameTerms(live.terms, terms)) continue
      live.terms = terms
      jobs.push({ job: id, ...terms })
    }
    if (jobs.length > 0) this.#apply({ kind: 'terms-set', jobs })
  }

  knowServiceTime(model: string, meanMs: number): void {
    this.#apply({ kind: 'service-time-known', model, meanMs })
  }

  /** A row of a batch, stored already, joins the line. */
  takeUp(record: JobRecord, request: string, promptCost: number): void {
    if (this.#live.has(record.id)) return
    const live = this.#takeUp(record, undefined)
    live.request = request
    live.unload(this.#scheduler.waitingCount)
    this.#line(live, null, 0, promptCost)
  }

  /** Takes up a job that another coordinator left behind. */
  recover(record: JobRecord, progress: StoredProgress | undefined, hasCallback: boolean, ranBeforeMs = 0): void {
    const known = this.#live.get(record.id)
    if (known !== undefined) {
      // Adopted anew, its row is younger than what is known of it here: what is written next has to be younger still.
      known.record.version = Math.max(known.record.version, record.version)
      this.#writer.doubt(known.record)
      return
    }
    const live = this.#takeUp(record, progress)
    live.hasCallback = hasCallback
    const worker = record.status === 'running' && record.worker !== null ? { id: record.worker, name: record.workerName ?? '' } : null
    if (worker !== null) this.#workerNames.set(worker.id, worker.name)
    this.#line(live, worker, ranBeforeMs)
  }

  #takeUp(record: JobRecord, progress: StoredProgress | undefined): LiveJob {
    const live = new LiveJob(record, null, delivered(progress))
    live.announced = true
    live.isStored = true
    this.#live.set(record.id, live)
    return live
  }

  /** `ranBeforeMs`: in attempts that ended under a coordinator before this one; `promptCost`: known from a worker, or not any more. */
  #line(live: LiveJob, worker: { id: WorkerId; name: string } | null, ranBeforeMs = 0, promptCost?: number): void {
    const { record, tokenIds } = live
    live.terms = this.#parts.termsOf(record)
    const nowMs = this.#parts.now()
    // Of a job that ran and went back to the line it is not known since when it stands there.
    const waitedMs = record.status === 'queued' && record.attempt === 0 ? nowMs - record.createdMs : 0
    const ranMs = worker === null || record.attemptStartedMs === null ? 0 : nowMs - record.attemptStartedMs
    this.#apply({
      kind: 'job-recovered',
      job: accepted(
        record,
        { prefix: [], promptCost: Math.min(promptCost ?? record.promptTokens ?? record.cost, record.cost) },
        live.terms,
        true,
        waitedMs,
      ),
      ranMs: ranBeforeMs + ranMs,
      attempt: record.attempt,
      worker,
      tokens: tokenIds.length,
      sha256: record.modelSha256,
      served: record.servedModel,
      strikes: record.strikes,
      failures: record.failures,
      startsOver: isUntold(record.tier, tokenIds),
    })
  }

  // ── providers that the coordinator calls itself ─────────────────────────────────────────────────────────────────

  setProvider(provider: { id: WorkerId; name: string; offers: ModelOffer[]; terms: CloudTerms; quota: QuotaLimits }): void {
    const { id: worker, name, offers, terms, quota } = provider
    this.#workerNames.set(worker, name)
    this.#apply({ kind: 'provider-set', worker, name, offers, terms, quota })
  }

  removeProvider(worker: WorkerId): void {
    this.#apply({ kind: 'provider-removed', worker })
  }

  holdProvider(worker: WorkerId, hold: Hold | null): void {
    this.#apply({ kind: 'provider-held', worker, hold })
  }

  setPurse(purse: string, spentUntilMs: number | null): void {
    this.#apply({ kind: 'purse-set', purse, spentUntilMs })
  }

  // ── what workers say ────────────────────────────────────────────────────────────────────────────────────────────

  knowWorker(id: WorkerId, name: string, offers: ModelOffer[], wasOnline = false): void {
    this.#workerNames.set(id, name)
    this.#apply({ kind: 'worker-known', worker: id, name, offers, wasOnline })
  }

  workerConnected(worker: WorkerId, name: string, offers: ModelOffer[], held: { job: JobId; attempt: number }[], draining: boolean): void {
    this.#workerNames.set(worker, name)
    this.#apply({ kind: 'worker-connected', worker, name, offers, held, draining })
  }

  workerReported(worker: WorkerId, offers: ModelOffer[]): void {
    this.#apply({ kind: 'worker-reported', worker, offers })
  }

  workerDraining(worker: WorkerId): void {
    this.#apply({ kind: 'worker-draining', worker })
  }

  workerDisconnected(worker: WorkerId): void {
    this.#apply({ kind: 'worker-disconnected', worker })
  }

  attemptGrew(worker: WorkerId, chunk: AttemptOutput): void {
    if (this.#stopped) return
    const live = this.#current(worker, chunk)
    if (live === undefined) {
      this.#parts.onStale()
      return
    }
    const { job, attempt, isPatient = false } = chunk
    // A long prompt that is getting on is no stall: the first token's time begins anew.
    if (live.prefills(chunk.promptProcessed ?? 0, chunk.promptTokens) || (isPatient && chunk.tokenIds.length === 0))
      this.#apply({ kind: 'attempt-progressed', job, attempt, worker, tokens: live.tokenIds.length, isPatient })
    if (chunk.first + chunk.tokenIds.length <= live.tokenIds.length) return
    if (chunk.first !== live.tokenIds.length) {
      // A hole, or an overlap whose text cannot be cut at a token: ask again from where we stand.
      this.#parts.link.resume(worker, chunk.job, chunk.attempt, live.tokenIds.length)
      return
    }
    if (live.chars > ANSWER_CHARS_MAX) {
      this.#apply({ kind: 'attempt-stopped', job: chunk.job, attempt: chunk.attempt, worker, error: tooLarge(ANSWER_CHARS_MAX) })
      return
    }
    if (chunk.promptTokens > 0) {
      live.record.promptTokens = chunk.promptTokens
      live.record.cachedTokens = chunk.cachedTokens
    }
    if (live.record.firstTokenMs === null && live.tokenIds.length === 0) {
      live.record.firstTokenMs = Math.round(this.#parts.now() - live.record.createdMs)
      this.#parts.onFirstToken(live.record)
    }
    live.append(chunk.tokenIds, chunk.text, chunk.deltas)
    this.#progressed.set(job, live)
    this.#apply({ kind: 'attempt-progressed', job, attempt, worker, tokens: live.tokenIds.length, isPatient })
  }

  attemptFinished(worker: WorkerId, end: AttemptEnd): void {
    if (this.#stopped) return
    const live = this.#current(worker, end)
    if (live !== undefined && end.finishReason === 'cancelled') {
      this.attemptFailed(worker, end, GIVEN_BACK)
      return
    }
    if (live !== undefined && end.tokens !== live.tokenIds.length) {
      this.#parts.link.resume(worker, end.job, end.attempt, live.tokenIds.length)
      return
    }
    if (live !== undefined && end.finishReason === 'length' && this.#scheduler.canGrow(end.job, end.promptTokens + end.completionTokens)) {
      this.attemptFailed(worker, end, CONTEXT_FULL)
      return
    }
    if (live !== undefined) {
      live.record.finishReason = end.finishReason
      live.record.promptTokens = end.promptTokens
      live.record.completionTokens = end.completionTokens
      live.record.cachedTokens = end.cachedTokens
      if (end.costMicros !== undefined) this.#pay(live, worker, end, end.costMicros)
      live.workerMs = end.totalMs
      live.stopSequence = end.stopSequence ?? null
      live.reasoningTokens = end.reasoningTokens ?? null
      live.cacheWriteTokens = end.cacheWriteTokens ?? 0
      if (end.text !== '' || end.deltas !== undefined) live.append([], end.text, end.deltas)
    }
    this.#apply({ kind: 'attempt-finished', job: end.job, attempt: end.attempt, worker, cost: end.promptTokens + end.completionTokens })
    this.#acknowledge(worker, end)
  }

  /** With a hold it was the provider that could take no more. */
  attemptFailed(worker: WorkerId, report: { job: JobId; attempt: number }, error: JobError, hold?: Setback): void {
    if (this.#stopped) return
    const { job, attempt } = report
    this.#apply({ kind: 'attempt-failed', job, attempt, worker, error, ...(hold === undefined ? {} : { hold }) })
    this.#acknowledge(worker, report)
  }

  attemptRefused(worker: WorkerId, report: { job: JobId; attempt: number; reason: string }): void {
    const live = this.#live.get(report.job)
    // A limit that was set while it waited is known to whoever makes the call, and has to be known to the line.
    const isUnpaid = report.reason === SPEND_LIMIT && this.#scheduler.findWorker(worker)?.cloud != null
    const purses = isUnpaid && live !== undefined ? { purses: this.#parts.termsOf(live.record).purses } : {}
    this.#apply({ kind: 'attempt-refused', ...report, ...purses, worker })
  }

  /** What a call that was broken off has cost nevertheless. */
  attemptCost(worker: WorkerId, report: { job: JobId; attempt: number }, costMicros: number): void {
    const live = this.#live.get(report.job)
    if (this.#stopped || live === undefined || costMicros === 0) return
    this.#pay(live, worker, report, costMicros)
    this.#changed(live)
  }

  /** Booked on the provider of the attempt, whoever brings the job to its end. */
  #pay({ record }: LiveJob, worker: WorkerId, { job, attempt }: { job: JobId; attempt: number }, micros: number): void {
    if (micros === 0) return
    record.costMicros += micros
    const { team, key } = record
    const policy = this.#parts.policyOf(record)
    const provider = this.#workerNames.get(worker) ?? worker
    this.#parts.onPaid(record, provider, micros)
    this.#writer.addPayment({ job, attempt, atMs: this.#parts.now(), provider, team, policy, key, micros })
  }

  /**
   * The worker may forget an attempt once its end is durable, and at once what never ended here: nobody listens to it. An end
   * that is told twice may still be on its way to disk from the first time.
   */
  #acknowledge(worker: WorkerId, { job, attempt }: { job: JobId; attempt: number }): void {
    const tell = (): void => this.#parts.link.acknowledge(worker, job, attempt)
    const live = this.#live.get(job)
    if (live === undefined || !live.hasEnded(attempt, worker)) tell()
    else
      this.#writer.updateJob(live.record, (error) => {
        if (error === null) tell()
      })
  }

  #current(worker: WorkerId, report: { job: JobId; attempt: number }): LiveJob | undefined {
    const live = this.#live.get(report.job)
    const record = live?.record
    return record?.status === 'running' && record.attempt === report.attempt && record.worker === worker ? live : undefined
  }

  // ── acting ──────────────────────────────────────────────────────────────────────────────────────────────────────

  /** All that one input has led to is done before the next is looked at: who hears of an end may cancel what is to start. */
  #apply(input: Input, actor = 'coordinator'): void {
    if (this.#meanwhile !== null) {
      this.#meanwhile.push({ input, actor })
      return
    }
    const asked = (this.#meanwhile = [{ input, actor }])
    const failures: unknown[] = []
    for (let next = asked.shift(); next !== undefined; next = asked.shift())
      try {
        this.#decide(next.input, next.actor)
      } catch (error) {
        failures.push(error)
      }
    this.#meanwhile = null
    if (failures.length > 0) throw failures[0]
  }

  #decide(input: Input, actor: string): void {
    if (this.#stopped) return
    this.#actor = actor
    const freesSlot = input.kind === 'attempt-finished' || input.kind === 'attempt-failed'
    const beganMs = freesSlot ? performance.now() : 0
    for (const effect of this.#scheduler.apply(this.#parts.now(), input)) {
      this.#perform(effect)
      if (freesSlot && effect.kind === 'start-attempt') this.#parts.onDispatched(performance.now() - beganMs)
    }
  }

  #perform(effect: Effect): void {
    switch (effect.kind) {
      case 'start-attempt':
        this.#startAttempt(effect)
        break
      case 'resume-attempt':
        this.#parts.link.resume(effect.worker, effect.job, effect.attempt, this.#get(effect.job).tokenIds.length)
        break
      case 'stop-attempt':
        this.#stopAttempt(effect)
        break
      case 'attempt-ended':
        this.#endAttempt(effect)
        break
      case 'job-requeued':
        this.#requeue(effect)
        break
      case 'job-succeeded':
        this.#end(this.#get(effect.job), 'succeeded', 'job.succeeded', 'coordinator', {})
        break
      case 'job-failed':
        this.#endBadly(this.#get(effect.job), 'failed', effect.error, effect.waited)
        break
      case 'job-parked':
        this.#endBadly(this.#get(effect.job), 'parked', effect.error)
        break
      case 'job-cancelled':
        this.#end(this.#get(effect.job), 'cancelled', 'job.cancelled', this.#actor, {})
        break
      case 'worker-state-changed':
        this.#parts.onWorkerState(effect.worker, effect.from, effect.to)
        break
      case 'breaker-changed':
        this.#parts.onBreaker(effect.worker, effect.model, effect.untilMs, effect.why)
        break
      case 'discard-answer':
        this.#discard(this.#get(effect.job))
        break
      case 'provider-held':
        this.#parts.onHeld(effect.worker, effect.model, effect.hold)
        break
      case 'worker-replaced':
        this.#parts.onWorkerReplaced(effect.worker)
        break
      case 'drop-worker':
        this.#parts.link.drop(effect.worker)
        break
      case 'stale-report':
        this.#parts.onStale()
        break
    }
  }

  /** A worker that greets with an attempt whose end is here and not on disk yet must keep it: it may be the only one. */
  #stopAttempt({ worker, job, attempt }: Extract<Effect, { kind: 'stop-attempt' }>): void {
    const live = this.#live.get(job)
    const ended = live?.record.status === 'succeeded' && live.record.attempt === attempt && live.record.worker === worker
    if (ended) this.#parts.link.resume(worker, job, attempt, live.tokenIds.length)
    else this.#parts.link.cancel(worker, job, attempt)
  }

  #startAttempt(effect: Extract<Effect, { kind: 'start-attempt' }>): void {
    const live = this.#get(effect.job)
    const { record } = live
    const nowMs = this.#parts.now()
    record.status = 'running'
    record.attempt = effect.attempt
    record.attemptStartedMs = nowMs
    record.worker = effect.worker
    record.tier = effect.tier
    record.servedModel = effect.model
    const provider = this.#scheduler.findWorker(effect.worker)
    record.workerName = provider?.name ?? null
    record.modelSha256 = provider?.models.get(effect.model)?.offer.sha256 ?? null
    if (record.startedMs === null) {
      record.startedMs = nowMs
      record.queueMs = Math.round(nowMs - record.createdMs)
      this.#parts.onStarted(record)
    }
    live.decision = effect.decision
    record.tokensBefore = live.tokenIds.length
    live.prefill = null
    this.#queuedAndFollowed.delete(live)
    this.#changed(live)
    // The attempt begins behind this text: a coordinator that takes it over must know as much, or could never join the two.
    this.#storeProgress(live)
    if (live.announced)
      this.#event('job.started', live, 'coordinator', {
        attempt: effect.attempt,
        ...decisionDetails(effect.decision),
        continued_tokens: live.tokenIds.length,
      })
    this.#send(live)
    live.changed()
  }

  #send(live: LiveJob): void {
    if (this.#stopped) return
    const { id, attempt, worker, model: asked, servedModel } = live.record
    const model = servedModel ?? asked
    assert(worker !== null, 'a running job has a worker')
    if (live.request !== null) {
      const seedGiven = live.record.needs.includes('seed')
      const { request, generation, tokenIds: continuation, streamed: stream } = live
      const start = { job: id, attempt, model, request, continuation, stream, seedGiven }
      this.#parts.link.start(worker, generation === undefined ? start : { ...start, generation })
      live.unload(this.#scheduler.waitingCount)
      return
    }
    void this.#parts.readRequest(id).then(
      (request) => {
        live.request = request
        // Meanwhile the attempt may have been cancelled or lost, and another one started.
        if (this.#current(worker, { job: id, attempt }) === live) this.#send(live)
        else live.unload(this.#scheduler.waitingCount)
      },
      (cause: unknown) => {
        if (cause instanceof Fault && cause.retryable) {
          // PostgreSQL is away: nobody's fault, and the slot is worth keeping for the moment that takes.
          setTimeout(() => {
            if (this.#current(worker, { job: id, attempt }) === live) this.#send(live)
          }, REQUEST_RETRY_MS)
          return
        }
        const message = `The prompt could not be read back: ${cause instanceof Error ? cause.message : String(cause)}`
        this.attemptFailed(worker, { job: id, attempt }, { code: 'request_unreadable', message, layer: 'routing', retryable: false })
      },
    )
  }

  #endAttempt(effect: Extract<Effect, { kind: 'attempt-ended' }>): void {
    // An attempt that brought its job to its end is told by the job's own row; only the others need one.
    if (effect.status === 'succeeded' || effect.status === 'cancelled') return
    const live = this.#get(effect.job)
    const ended = live.endAttempt(effect, this.#parts.now())
    if (!live.unstorable) this.#writer.addAttempt(ended)
    if (effect.status === 'refused') this.#event('attempt.refused', live, `worker:${ended.workerName}`, { attempt: effect.attempt })
  }

  #requeue({ job, why, strikes, failures, backoffMs }: Extract<Effect, { kind: 'job-requeued' }>): void {
    const live = this.#get(job)
    live.record.status = 'queued'
    live.record.strikes = strikes
    live.record.failures = failures
    this.#changed(live)
    this.#event('job.requeued', live, 'coordinator', {
      why,
      attempt: live.record.attempt,
      delivered_tokens: live.tokenIds.length,
      ...(backoffMs > 0 ? { backoff_ms: backoffMs } : {}),
    })
    live.changed()
    if (live.followed) this.announceWaiting(live)
  }

  /** Nobody may have read it; what a checkpoint holds of it would be joined to the next answer. */
  #discard(live: LiveJob): void {
    if (live.storedTokens > 0) this.#writer.clearProgress(live.record.id)
    this.#progressed.delete(live.record.id)
    live.discard()
  }

  #endBadly(live: LiveJob, status: 'failed' | 'parked', error: JobError, waited?: Decision): void {
    live.record.error = error
    const details = { code: error.code, message: error.message, ...(waited === undefined ? {} : decisionDetails(waited)) }
    this.#end(live, status, status === 'failed' ? 'job.failed' : 'job.parked', 'coordinator', details)
  }

  #end(live: LiveJob, status: JobRecord['status'], type: EventType, actor: string, details: Record<string, unknown>): void {
    const { record } = live
    record.status = status
    if (isFinal(status)) record.finishedMs = this.#parts.now()
    if (status === 'cancelled') record.finishReason = 'cancelled'
    if (status !== 'succeeded' || record.completionTokens === null) record.completionTokens = live.tokenIds.length
    this.#queuedAndFollowed.delete(live)
    if (!isFinal(status)) this.#storeProgress(live)
    this.#progressed.delete(live.record.id)
    if (isFinal(status) && !live.unstorable) {
      this.#writer.addOutput(record.id, JSON.stringify(live.output()))
      if (live.storedTokens > 0) this.#writer.clearProgress(record.id)
    }
    this.#event(type, live, actor, { ...details, attempts: record.attempt })
    this.#changed(live, (error) => {
      // From here on PostgreSQL knows all of it.
      if (error !== null || this.#live.get(record.id) !== live) return
      this.#live.delete(record.id)
      if (live.hasCallback) this.#parts.onEndStored(record)
    })
    this.#parts.onEnded(record)
    live.ended()
  }

  #changed(live: LiveJob, settled?: (error: Error | null) => void): void {
    live.record.version += 1
    if (!live.unstorable) this.#writer.updateJob(live.record, settled)
  }

  #event(type: EventType, live: LiveJob, actor: string, details: Record<string, unknown>): void {
    const { record } = live
    if (live.unstorable) return
    this.#writer.addEvent({
      ...this.#parts.newEvent(type, actor, details),
      team: record.team,
      job: record.id,
      provider: record.workerName,
      // A cloud is a provider and no worker.
      worker: record.tier === 'cloud' ? null : record.workerName,
      traceId: record.traceId,
    })
  }

  #get(id: JobId): LiveJob {
    const live = this.#live.get(id)
    assert(live !== undefined, `the scheduler knows job ${id}, the dispatcher does not`)
    return live
  }

  // ── now and then ────────────────────────────────────────────────────────────────────────────────────────────────

  /** Bounds what a death of everything that knows the text can cost to about a second of it. */
  checkpoint(): void {
    for (const live of this.#progressed.values()) this.#storeProgress(live)
    this.#progressed.clear()
  }

  #storeProgress(live: LiveJob): void {
    const tokenIds = live.tokenIds.slice(live.storedTokens)
    if (tokenIds.length === 0 || live.unstorable) return
    if (live.storedTokens === 0 && live.record.firstTokenMs !== null) this.#changed(live)
    const extra = live.unstored.length === 0 ? null : JSON.stringify(live.unstored)
    const text = live.text.slice(live.storedChars)
    this.#writer.addProgress({ job: live.record.id, firstToken: live.storedTokens, tokenIds, text, extra })
    live.unstored = []
    live.storedTokens = live.tokenIds.length
    live.storedChars = live.text.length
  }

  #tellWaiting(): void {
    for (const live of this.#queuedAndFollowed) {
      const waiting = live.followed ? this.waiting(live.record.id) : undefined
      if (waiting === undefined) this.#queuedAndFollowed.delete(live)
      else live.waits(waiting)
    }
  }
}

// Deaths, stalls and backoffs are judged this often; all of them are measured in seconds.
const TICK_MS = 200
// A turn of the event loop never takes that long.
const PAUSE_MS = 2_000
const CHECKPOINT_MS = 1_000
const SETTLED_MS = 1_000
const REQUEST_RETRY_MS = 250
// The contract promises a note at least every five seconds.
const WAITING_NOTE_MS = 2_000
// Sixteen times what any model says.
const ANSWER_CHARS_MAX = 64 * 1_024 * 1_024
