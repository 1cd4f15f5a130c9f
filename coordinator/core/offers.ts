import type { FleetWorker, ModelOffer } from './fleet.ts'
import type { Tier } from './job.ts'
import { TIERS } from './tiers.ts'

/** What anybody ever offered under the name; costs one look per provider. */
export function offersOf(model: string, workers: Iterable<FleetWorker>): ModelOffer[] {
  const offers: ModelOffer[] = []
  for (const { models } of workers) {
    const entry = models.get(model)
    if (entry !== undefined) offers.push(entry.offer)
  }
  return offers
}

/** Every model that any provider ever offered. */
export function allOffers(workers: Iterable<FleetWorker>): ModelOffer[] {
  return [...workers].flatMap(({ models }) => [...models.values()].map(({ offer }) => offer))
}

/** The tiers in which models were ever offered: the others need no look and no waiting for. Kept until something is offered anew. */
export class OfferingTiers {
  readonly #workers: { values(): Iterable<FleetWorker> }
  readonly #byModel = new Map<string, ReadonlySet<Tier>>()

  constructor(workers: { values(): Iterable<FleetWorker> }) {
    this.#workers = workers
  }

  of(model: string): ReadonlySet<Tier> {
    let tiers = this.#byModel.get(model)
    if (tiers === undefined) this.#byModel.set(model, (tiers = offeringTiers(model, this.#workers.values())))
    return tiers
  }

  clear(): void {
    this.#byModel.clear()
  }
}

function offeringTiers(model: string, workers: Iterable<FleetWorker>): Set<Tier> {
  const tiers = new Set<Tier>()
  for (const worker of workers) {
    for (const { offer } of worker.models.values()) if (model === 'auto' || offer.name === model) tiers.add(offer.tier ?? 'gpu')
    if (tiers.size === TIERS.length) break
  }
  return tiers
}
