import type { FleetWorker, ModelOffer } from './fleet.ts'
import type { Heap } from './heap.ts'
import type { WorkerId } from './job.ts'
import { TIERS } from './tiers.ts'

/** Where a job may run. */
export type RouteKey = {
  /** `auto`: any model that answers in words. */
  model: string
  /** A provider's name when the request was pinned to it. */
  provider: string | null
  /** How each tier stands to it at the moment (core/tiers.ts). */
  tiers: string
  /** Abilities that its model must have there. */
  needs: readonly string[]
  /** An account that pays for it is empty: nothing that costs money is open to it. */
  broke: boolean
  /** Set once text of an answer was delivered: only the same model file continues it. */
  sha256: string | null
  /** Workers on which the job already failed; used again only when nobody else serves the model. */
  avoid: readonly WorkerId[]
  /** Contexts of up to so many tokens were too small for it; used again only when there is no larger one. */
  outgrown: number
}

/** The jobs that may run on the same workers: a free slot looks at heads of flows and never at the jobs behind them. */
export class Route<F extends { heapIndex: number }> {
  readonly id: string
  readonly key: RouteKey
  /** Flows with a job that may start, per class in falling priority. */
  readonly ready: readonly Heap<F>[]
  readonly flows = new Map<string, F>()

  constructor(id: string, key: RouteKey, newHeap: () => Heap<F>) {
    this.id = id
    this.key = key
    this.ready = [newHeap(), newHeap(), newHeap()]
  }

  /** Some flow of it has a job that may start. */
  get isReady(): boolean {
    return this.ready.some((heap) => heap.size > 0)
  }
}

export function routeId(key: RouteKey): string {
  const { model, provider, tiers, needs, broke, sha256, avoid, outgrown } = key
  // Nearly every job is free to run anywhere.
  if (provider === null && sha256 === null && avoid.length === 0 && outgrown === 0 && tiers === 'occ' && needs.length === 0 && !broke)
    return model
  return [model, provider ?? '', tiers, needs.join(), broke ? 'broke' : '', sha256 ?? '', outgrown, ...[...avoid].sort()].join('\u0001')
}

export const AUTO = 'auto'

/** A model on a provider. */
export type Place = { worker: FleetWorker; model: string }

/** What places are judged by besides the key. */
export type Fleet = { workers(): Iterable<FleetWorker>; spentUntil(purse: string): number | null }

/** The places that may run the route's jobs, whether or not a slot is free there; the cheapest tier first. */
export function eligiblePlaces(key: RouteKey, fleet: Fleet): Place[] {
  const able: Place[] = []
  let there = false
  let offered = false
  for (const [index, tier] of TIERS.entries()) {
    const standing = key.tiers[index]
    if (standing === 'c' || standing === undefined) continue
    const open = standing === 'o' || (standing === 'f' && !there) || (standing === 'e' && !offered)
    const before = able.length
    let thereHere = false
    for (const worker of fleet.workers())
      for (const model of candidates(key.model, worker)) {
        const offer = worker.models.get(model)?.offer
        // Who could never run it keeps no other tier closed to it.
        if (offer === undefined || (offer.tier ?? 'gpu') !== tier || !isFit(key, worker, offer)) continue
        offered = true
        thereHere ||= worker.isThere(model)
        if (open && worker.serves(model) && !(offer.paid === true && key.broke)) able.push({ worker, model })
      }
    there ||= thereHere || able.length > before
  }
  const roomy = key.outgrown === 0 ? able : preferred(able, (place) => contextOf(place) > key.outgrown)
  return key.avoid.length === 0 ? roomy : preferred(roomy, ({ worker }) => !key.avoid.includes(worker.id))
}

function preferred(places: Place[], is: (place: Place) => boolean): Place[] {
  const found = places.filter(is)
  return found.length > 0 ? found : places
}

/** Tokens; without end where it is not known. */
export function contextOf({ worker, model }: Place): number {
  return worker.models.get(model)?.offer.contextTokens || Number.POSITIVE_INFINITY
}

/** The models of a worker that a job for `wanted` could mean. */
export function candidates(wanted: string, worker: FleetWorker): Iterable<string> {
  if (wanted !== AUTO || worker.models.has(AUTO)) return worker.models.has(wanted) ? [wanted] : []
  return [...worker.models.values()].filter(({ offer }) => speaks(offer.abilities)).map(({ offer }) => offer.name)
}

/** A model that only embeds or ranks is not one that `auto` may mean. */
export function speaks(abilities: readonly string[] | undefined): boolean {
  return abilities === undefined || abilities.includes('completions') || !(abilities.includes('embeddings') || abilities.includes('rerank'))
}

export type Choice = Place & { rule: 'prefix' | 'least_busy' }

/**
 * The place for the next attempt, in the first tier that has a free one: the worker that holds the longest prefix of the
 * conversation, unless it is so much busier than the idlest one that waiting for its batch costs more than computing the
 * prefix anew; else the idlest.
 */
export function choosePlace(free: Place[], prefix: readonly string[]): Choice | undefined {
  const first = free[0]
  if (first === undefined) return undefined
  const tier = tierOf(first)
  const places = free.filter((place) => tierOf(place) === tier)
  const idlest = leastBusy(places) ?? first
  for (let index = prefix.length - 1; index >= 0; index--) {
    const owners = places.filter(({ worker, model }) => worker.models.get(model)?.prefixes.has(prefix[index] ?? '') === true)
    const owner = leastBusy(owners)
    if (owner === undefined) continue
    return load(owner) <= load(idlest) + PREFIX_LOAD_MARGIN ? { ...owner, rule: 'prefix' } : { ...idlest, rule: 'least_busy' }
  }
  return { ...idlest, rule: 'least_busy' }
}

export function tierOf({ worker, model }: Place): 'gpu' | 'cli' | 'cloud' {
  return worker.models.get(model)?.offer.tier ?? 'gpu'
}

function leastBusy(places: Place[]): Place | undefined {
  let idlest: Place | undefined
  for (const place of places) if (idlest === undefined || load(place) < load(idlest)) idlest = place
  return idlest
}

// Half the slots of a worker: beyond that the shared batch slows the newcomer more than a cached prefix speeds it up.
const PREFIX_LOAD_MARGIN = 0.5

function load({ worker, model }: Place): number {
  if (worker.cloud !== null) return worker.occupied.size / Math.max(1, worker.cloud.maxParallel)
  return worker.busy(model) / Math.max(1, worker.models.get(model)?.offer.slots ?? 1)
}

/** Whether it is what the job asks for, be it there or not. */
export function isFit(key: RouteKey, worker: FleetWorker, offer: ModelOffer): boolean {
  if (key.provider !== null && key.provider !== worker.name) return false
  if (key.sha256 !== null && offer.sha256 !== key.sha256) return false
  // A model that only embeds or ranks has no words for anything else.
  if (!speaks(offer.abilities) && !key.needs.includes('embeddings') && !key.needs.includes('rerank')) return false
  return isAble(key.needs, offer.abilities)
}

export function isAble(needs: readonly string[], abilities: readonly string[] | undefined): boolean {
  for (const need of needs)
    if (abilities?.includes(need) !== true && !DO_ALSO[need]?.some((other) => abilities?.includes(other))) return false
  return true
}

/** What can be told how much to think can be told not to. */
const DO_ALSO: Record<string, readonly string[]> = { reasoning_none: ['reasoning_effort', 'reasoning_max_tokens'] }
