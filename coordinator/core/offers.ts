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

/** The tiers that any provider has ever offered the model in. */
export function offeringTiers(model: string, workers: Iterable<FleetWorker>): Set<Tier> {
  const tiers = new Set<Tier>()
  for (const worker of workers) {
    for (const { offer } of worker.models.values()) if (model === 'auto' || offer.name === model) tiers.add(offer.tier ?? 'gpu')
    if (tiers.size === TIERS.length) break
  }
  return tiers
}
