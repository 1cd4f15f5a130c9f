import { type Breaker, newBreaker } from './breaker.ts'
import type { JobId, WorkerId } from './job.ts'

/**
 *               heard from                 silent for suspectAfterMs
 *   offline ───────────────▶ online ◀──────────────────────────▶ suspect
 *      ▲                        │ drain                             │
 *      │                        ▼                                   │
 *      ├──── closed, grace ── draining                              │
 *      └──── silent for deadAfterMs, or closed and grace over ──────┘
 *
 * Only `online` gets work. `suspect` keeps what it runs; `offline` has lost it.
 */
export type WorkerState = 'online' | 'suspect' | 'draining' | 'offline'

/** What a worker says about one of its models, in the greeting and in every heartbeat. */
export type ModelOffer = {
  name: string
  engine: string
  state: 'loading' | 'ready' | 'down'
  detail: string
  /** 0 unless ready: a worker whose model process died offers nothing. */
  slots: number
  contextTokens: number
  maxTokenBytes: number
  sha256: string
  /** Names of the conversation prefixes that its slots hold; absent: the worker does not say. */
  prefixes?: readonly string[]
}

export type FleetModel = {
  offer: ModelOffer
  /** After a refusal nothing is sent here until then, so that a full worker is not asked in a loop. */
  refusedUntilMs: number
  breaker: Breaker
  /** What it is believed to hold: what it said last, and what was started there since. A wrong belief costs time only. */
  prefixes: Set<string>
}

/** A job may hold two slots at once: an attempt that was told to stop keeps its own until the worker confirms. */
type Occupation = { job: JobId; attempt: number; model: string }

function occupationKey(job: JobId, attempt: number): string {
  return `${job}/${attempt}`
}

export class FleetWorker {
  readonly id: WorkerId
  name: string
  state: WorkerState = 'offline'
  connected = false
  draining = false
  lastHeardMs: number
  /** When the attempts of a worker that is not connected count as lost; null while nothing is at stake. */
  lostAtMs: number | null = null
  /** True while its attempts come from before the coordinator's start: losing those is nobody's fault. */
  recovering = false
  readonly models = new Map<string, FleetModel>()
  /** Attempts that hold a slot here, those told to stop included until the worker confirms. */
  readonly occupied = new Map<string, Occupation>()
  readonly #busyByModel = new Map<string, number>()

  constructor(id: WorkerId, name: string, nowMs: number) {
    this.id = id
    this.name = name
    this.lastHeardMs = nowMs
  }

  busy(model: string): number {
    return this.#busyByModel.get(model) ?? 0
  }

  /** Slots that a new attempt may take now; 0 whenever the worker may not be given work. */
  free(model: string, nowMs: number): number {
    const entry = this.models.get(model)
    if (entry === undefined || !this.serves(model) || entry.refusedUntilMs > nowMs) return 0
    const slots = Math.max(0, entry.offer.slots - this.busy(model))
    if (entry.breaker.openings === 0) return slots
    return entry.breaker.openUntilMs <= nowMs && entry.breaker.trial === null ? Math.min(1, slots) : 0
  }

  /** Until when the model's breaker keeps work away; null when it does not. A trial that runs counts as not yet. */
  cooling(model: string, nowMs: number): number | null {
    const breaker = this.models.get(model)?.breaker
    if (breaker === undefined || breaker.openings === 0) return null
    if (breaker.trial !== null) return nowMs
    return breaker.openUntilMs > nowMs ? breaker.openUntilMs : null
  }

  serves(model: string): boolean {
    return this.state === 'online' && (this.models.get(model)?.offer.slots ?? 0) > 0
  }

  occupy(job: JobId, attempt: number, model: string): void {
    this.occupied.set(occupationKey(job, attempt), { job, attempt, model })
    this.#busyByModel.set(model, this.busy(model) + 1)
    const breaker = this.models.get(model)?.breaker
    if (breaker !== undefined && breaker.openings > 0) breaker.trial ??= job
  }

  holds(job: JobId, attempt: number): boolean {
    return this.occupied.has(occupationKey(job, attempt))
  }

  /** Does nothing when the attempt holds no slot here. */
  vacate(job: JobId, attempt: number): void {
    const key = occupationKey(job, attempt)
    const held = this.occupied.get(key)
    if (held === undefined) return
    this.occupied.delete(key)
    this.#busyByModel.set(held.model, this.busy(held.model) - 1)
  }

  /** Takes the offers of a greeting or heartbeat as they are; a model no longer named is no longer served. */
  setOffers(offers: ModelOffer[]): void {
    for (const name of this.models.keys()) if (!offers.some((offer) => offer.name === name)) this.models.delete(name)
    for (const offer of offers) {
      const known = this.models.get(offer.name)
      if (known === undefined)
        this.models.set(offer.name, { offer, refusedUntilMs: 0, breaker: newBreaker(), prefixes: new Set(offer.prefixes) })
      else {
        known.offer = offer
        if (offer.prefixes !== undefined) known.prefixes = new Set(offer.prefixes)
      }
    }
  }
}
