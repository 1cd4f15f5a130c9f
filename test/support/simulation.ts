import type { Setback } from '../../coordinator/core/cooldown.ts'
import type { ModelOffer } from '../../coordinator/core/fleet.ts'
import { FREE } from './free-terms.ts'
import type { JobError, JobId, WorkerId } from '../../coordinator/core/job.ts'
import type { Effect } from '../../coordinator/core/effects.ts'
import type { AcceptedJob, Input, SchedulerRules } from '../../coordinator/core/inputs.ts'
import { Scheduler } from '../../coordinator/core/scheduler.ts'

export const RULES: SchedulerRules = {
  suspectAfterMs: 10_000,
  deadAfterMs: 15_000,
  returnGraceMs: 800,
  recoveryGraceMs: 5_000,
  firstTokenTimeoutMs: 300_000,
  nextTokenTimeoutMs: 60_000,
  attemptsMax: 3,
  retryBackoffMs: 1_000,
  refusalPauseMs: 500,
  breakerFailures: 5,
  breakerOpenMs: 5_000,
  breakerMaxMs: 60_000,
}

/** A job as a caller without wishes submits it. */
export function plainJob(job: string, wishes: Partial<AcceptedJob> = {}): AcceptedJob {
  const plain = {
    model: 'm',
    provider: null,
    team: 'default',
    priority: 'normal' as const,
    cost: 100,
    promptCost: 0,
    maxWaitMs: null,
    maxRunMs: null,
  }
  const free = { ...FREE.terms, needs: [], restartable: true, waitedMs: 0 }
  return { ...plain, ...free, prefix: [], ...wishes, id: job as JobId }
}

/**
 * The scheduler under a hand-driven clock. Every effect is kept, and after every input the invariants are checked: no
 * slot is oversold, no job has two attempts that are listened to, nothing waits beside a free slot that it may have.
 */
export class SchedulerWorld {
  readonly scheduler: Scheduler
  readonly effects: Effect[] = []
  readonly live = new Map<JobId, { attempt: number; worker: WorkerId; model: string }>()
  readonly outcomes = new Map<JobId, string[]>()
  readonly #teamOf = new Map<JobId, string>()
  readonly limits = new Map<string, number | null>()
  readonly #models = new Map<JobId, { model: string; provider: string | null }>()
  /** The most slots each worker ever offered of each model; slots that shrink under running attempts are no oversale. */
  readonly mostSlots = new Map<string, number>()
  nowMs = 1_000_000

  constructor(rules: Partial<SchedulerRules> = {}) {
    this.scheduler = new Scheduler({ ...RULES, ...rules })
  }

  apply(input: Input): Effect[] {
    if (input.kind === 'job-recovered' && input.worker !== null) this.#offered(input.worker.id, { [input.job.model]: 1 })
    const effects = this.scheduler.apply(this.nowMs, input)
    for (const effect of effects) this.#note(effect)
    this.effects.push(...effects)
    this.#check()
    return effects
  }

  pass(ms: number): void {
    const endMs = this.nowMs + ms
    while (this.nowMs < endMs) {
      this.nowMs = Math.min(endMs, this.nowMs + 200)
      this.apply({ kind: 'time-passed' })
    }
  }

  #offered(worker: string, models: Record<string, number>): void {
    for (const [model, slots] of Object.entries(models)) {
      const key = `${worker}/${model}`
      this.mostSlots.set(key, Math.max(slots, this.mostSlots.get(key) ?? 0))
    }
  }

  connect(worker: string, models: Record<string, number>, held: { job: string; attempt: number }[] = []): void {
    this.#offered(worker, models)
    this.apply({
      kind: 'worker-connected',
      worker: worker as WorkerId,
      name: worker,
      offers: Object.entries(models).map(([name, slots]) => offer(name, slots)),
      held: held.map(({ job, attempt }) => ({ job: job as JobId, attempt })),
      draining: false,
    })
  }

  report(worker: string, models: Record<string, number>): void {
    this.#offered(worker, models)
    this.apply({
      kind: 'worker-reported',
      worker: worker as WorkerId,
      offers: Object.entries(models).map(([name, slots]) => offer(name, slots)),
    })
  }

  enqueue(job: string, wishes: Partial<AcceptedJob> = {}): void {
    const accepted = plainJob(job, wishes)
    this.#models.set(accepted.id, { model: accepted.model, provider: accepted.provider })
    this.#teamOf.set(accepted.id, accepted.team)
    this.apply({ kind: 'job-accepted', job: accepted })
  }

  setTeam(name: string, maxParallel: number | null, weight = 1): void {
    this.limits.set(name, maxParallel)
    this.apply({ kind: 'team-set', team: { name, weight, maxParallel } })
  }

  progress(job: string, tokens: number, isPatient = false): void {
    const { attempt, worker } = this.#liveOf(job)
    this.apply({ kind: 'attempt-progressed', job: job as JobId, attempt, worker, tokens, isPatient })
  }

  finish(job: string, cost = 100): void {
    const { attempt, worker } = this.#liveOf(job)
    this.apply({ kind: 'attempt-finished', job: job as JobId, attempt, worker, cost })
  }

  fail(job: string, error: Partial<JobError> = {}, hold?: Setback): void {
    const { attempt, worker } = this.#liveOf(job)
    this.apply({
      kind: 'attempt-failed',
      job: job as JobId,
      attempt,
      worker,
      error: { code: 'model_process_died', message: 'x', layer: 'model', retryable: true, ...error },
      ...(hold === undefined ? {} : { hold }),
    })
  }

  startedOn(worker: string): string[] {
    return this.effects
      .filter((effect) => effect.kind === 'start-attempt' && effect.worker === worker)
      .map((effect) => ('job' in effect ? effect.job : ''))
  }

  kinds(job: string): string[] {
    return this.effects.filter((effect) => 'job' in effect && effect.job === job).map((effect) => effect.kind)
  }

  #liveOf(job: string): { attempt: number; worker: WorkerId } {
    const found = this.live.get(job as JobId)
    if (found === undefined) throw new Error(`${job} does not run`)
    return found
  }

  #note(effect: Effect): void {
    if (effect.kind === 'start-attempt') {
      if (this.live.has(effect.job)) throw new Error(`${effect.job} has two live attempts`)
      this.live.set(effect.job, { attempt: effect.attempt, worker: effect.worker, model: this.#models.get(effect.job)?.model ?? 'm' })
    }
    if (effect.kind === 'attempt-ended') this.live.delete(effect.job)
    if (['job-succeeded', 'job-failed', 'job-cancelled', 'job-parked'].includes(effect.kind) && 'job' in effect)
      this.outcomes.set(effect.job, [...(this.outcomes.get(effect.job) ?? []), effect.kind])
  }

  #check(): void {
    for (const worker of this.scheduler.workers) {
      const held = new Map<string, number>()
      for (const { model } of worker.occupied.values()) held.set(model, (held.get(model) ?? 0) + 1)
      for (const [model, count] of held) {
        if (count !== worker.busy(model)) throw new Error(`${worker.name} miscounts its slots of ${model}`)
        if (count > (this.mostSlots.get(`${worker.id}/${model}`) ?? 0))
          throw new Error(`${worker.name} has more attempts of ${model} than it ever had slots`)
      }
    }
    for (const [job, outcomes] of this.outcomes)
      if (outcomes.length > 1) throw new Error(`${job} ended ${outcomes.length} times: ${outcomes.join()}`)
    for (const job of this.#models.keys()) {
      if (this.outcomes.has(job)) continue
      const free = this.scheduler.deliberation(this.nowMs, job)?.chosen
      if (typeof free === 'string') throw new Error(`${job} waits although ${free} has a free slot for it`)
    }
  }
}

export function offer(name: string, slots: number, sha256 = 'sha'): ModelOffer {
  return { name, engine: 'fake', state: slots > 0 ? 'ready' : 'down', detail: '', slots, contextTokens: 0, maxTokenBytes: 0, sha256 }
}
