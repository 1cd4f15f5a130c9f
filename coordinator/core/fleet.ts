import { FleetingMap } from '../../proto/fleeting-map.ts'
import { type Breaker, newBreaker } from './breaker.ts'
import { Cooldown, type Setback } from './cooldown.ts'
import type { JobId, Tier, WorkerId } from './job.ts'
import type { Quota } from './quota.ts'
import type { Death } from './shared-death.ts'

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
  /** Absent: gpu. */
  tier?: Tier
  /** Of proto/abilities.ts; absent in a row of an older version: it is told anew before anything is sent there. */
  abilities?: readonly string[]
  /** It cannot go on from token ids: a second attempt begins the answer anew. */
  startsOver?: boolean
  /** Its own quota is used up until then; null: it is not. */
  limitedUntilMs?: number | null
  /** It is down until a person changes something, such as a login: `detail` says what. */
  needsPerson?: boolean
  /** A call costs money, or may. */
  paid?: boolean
  /** How long it may be silent, where it has limits of its own. */
  firstTokenTimeoutMs?: number | null
  nextTokenTimeoutMs?: number | null
}

/**
 * Why a whole provider gets nothing: it said that it is asked too much, it cannot be reached, its quota is used up, its
 * credential is wrong (`parked`, until a person changes something), or a person wants it so (`draining`). `untilMs` null: nobody
 * knows. `onTrial`: nor did it say, so after that time it gets one job, and the hold ends when that goes well.
 */
export type Hold = {
  state: 'cooling_down' | 'offline' | 'over_quota' | 'parked' | 'draining'
  untilMs: number | null
  why: string
  onTrial?: boolean
}

/** Only a person ends it. */
function isForPeople(hold: Hold | null): boolean {
  return hold?.state === 'parked' || hold?.state === 'draining'
}

/** What only providers have that the coordinator calls itself. */
export type CloudTerms = {
  /** Calls at once, over all its models. */
  maxParallel: number
  firstTokenTimeoutMs: number | null
  nextTokenTimeoutMs: number | null
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
type Occupation = { job: JobId; attempt: number; model: string; startedMs: number; tokens: number }

export function occupationKey(job: JobId, attempt: number): string {
  return `${job}/${attempt}`
}

export const SPENT = 'its spend limit is reached'

/** One provider: a worker, or a cloud that the coordinator calls (then `cloud` is set, and it counts as always connected). */
export class FleetWorker {
  readonly id: WorkerId
  name: string
  state: WorkerState = 'offline'
  connected = false
  draining = false
  lastHeardMs: number
  /** When the attempts of a worker that is not connected count as lost; null while nothing is at stake. */
  lostAtMs: number | null = null
  /** True while it is looked for after the coordinator's start: what it ran is lost by nobody's fault, and it is not gone. */
  recovering = false
  readonly models = new Map<string, FleetModel>()
  cloud: CloudTerms | null = null
  quota: Quota | null = null
  hold: Hold | null = null
  readonly cooldown = new Cooldown()
  /** The last time that what it ran died. */
  death: Death | null = null
  /** What may be spent on it is spent until then. */
  spentUntilMs: number | null = null
  /** Attempts that hold a slot here, those told to stop included until the worker confirms. */
  readonly occupied = new FleetingMap<string, Occupation>()
  readonly #busyByModel = new Map<string, number>()

  constructor(id: WorkerId, name: string, nowMs: number) {
    this.id = id
    this.name = name
    this.lastHeardMs = nowMs
  }

  /** The account that what is paid to it is booked on. */
  get purse(): string {
    return `provider:${this.name}`
  }

  busy(model: string): number {
    return this.#busyByModel.get(model) ?? 0
  }

  /** Slots that a new attempt may take now; 0 whenever the worker may not be given work. */
  free(model: string, nowMs: number): number {
    const entry = this.models.get(model)
    if (entry === undefined || !this.serves(model) || entry.refusedUntilMs > nowMs || this.holding(model, nowMs) !== null) return 0
    const slots = Math.max(0, this.cloud === null ? entry.offer.slots - this.busy(model) : this.cloud.maxParallel - this.occupied.size)
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

  /** What keeps work away from the model now, whatever its slots: a hold, a quota of ours, or its own. */
  holding(model: string, nowMs: number): Hold | null {
    if (this.hold !== null && (this.hold.untilMs === null || this.hold.untilMs > nowMs)) return this.hold
    if (this.hold?.onTrial === true && this.cooldown.trial !== null) return this.hold
    const offer = this.models.get(model)?.offer
    if (offer?.paid === true && this.spentUntilMs !== null && this.spentUntilMs > nowMs)
      return { state: 'over_quota', untilMs: this.spentUntilMs, why: SPENT }
    const limitedUntilMs = offer?.limitedUntilMs ?? null
    if (limitedUntilMs !== null && limitedUntilMs > nowMs)
      return { state: 'over_quota', untilMs: limitedUntilMs, why: 'its own quota is used up' }
    const usedUntilMs = this.quota?.usedUntil(nowMs) ?? null
    return usedUntilMs === null ? null : { state: 'over_quota', untilMs: usedUntilMs, why: 'its limit per minute is reached' }
  }

  serves(model: string): boolean {
    return this.state === 'online' && (this.models.get(model)?.offer.slots ?? 0) > 0
  }

  /** It may be busy, silent for a moment or loading, but it is not gone: a policy that waits for "offline" waits on. */
  isThere(model: string): boolean {
    const offer = this.models.get(model)?.offer
    if (offer === undefined || isForPeople(this.hold) || this.hold?.state === 'offline') return false
    if (this.recovering) return true
    return (this.state === 'online' || this.state === 'suspect') && (offer.slots > 0 || offer.state === 'loading')
  }

  /** It has to find the coordinator again, and has so long. */
  expectBack(untilMs: number): void {
    this.recovering = true
    this.lostAtMs = untilMs
  }

  occupy(job: JobId, attempt: number, model: string, nowMs: number, tokens: number): void {
    this.quota?.take(nowMs, tokens)
    this.occupied.set(occupationKey(job, attempt), { job, attempt, model, startedMs: nowMs, tokens })
    this.#busyByModel.set(model, this.busy(model) + 1)
    const breaker = this.models.get(model)?.breaker
    if (breaker !== undefined && breaker.openings > 0) breaker.trial ??= job
    if (this.hold?.onTrial === true) this.cooldown.trial ??= job
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
    if (this.cooldown.trial === job) this.cooldown.trial = null
  }

  /** Until it says anew how the model is. False when it does not have it. */
  holdModel(model: string, { state, untilMs, why }: Hold): boolean {
    const entry = this.models.get(model)
    if (entry === undefined) return false
    const { offer } = entry
    entry.offer =
      state === 'parked'
        ? { ...offer, state: 'down', slots: 0, detail: why, needsPerson: true }
        : { ...offer, limitedUntilMs: Math.max(untilMs ?? 0, offer.limitedUntilMs ?? 0) }
    return true
  }

  modelOf({ job, attempt }: { job: JobId; attempt: number }): string | null {
    return this.occupied.get(occupationKey(job, attempt))?.model ?? null
  }

  /** What keeps work away after an attempt's setback; null: nothing new. */
  holdAfter(setback: Setback, { job, attempt }: { job: JobId; attempt: number }, brokeOff: boolean, nowMs: number): Hold | null {
    return this.cooldown.holdOf(setback, this.occupied.get(occupationKey(job, attempt))?.startedMs ?? 0, brokeOff, nowMs)
  }

  /** What went wrong with it as it was set before says nothing any more. */
  forgive(): void {
    this.cooldown.reset()
    for (const entry of this.models.values()) entry.breaker = { ...newBreaker(), answers: entry.breaker.answers }
  }

  /** Its models and their tiers, as one text to compare. */
  offering = ''

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
    this.offering = offers.map((offer) => `${offer.name} ${offer.tier ?? 'gpu'}`).join('\n')
  }
}
