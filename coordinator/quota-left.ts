import type { FleetWorker } from './core/fleet.ts'
import type { Purses } from './engine/purses.ts'
import type { FleetFacts } from './fleet-facts.ts'

/**
 * What is left of the tightest limit of a provider, 0 to 1: a minute's, what may be spent on it in a day or a month, or a
 * subscription's windows as a worker's command-line agent tells them. Null where nothing is limited, or told.
 */
export function quotaLeft(provider: FleetWorker, facts: FleetFacts, purses: Purses, nowMs: number): number | null {
  const told = (facts.find(provider.id)?.models ?? []).filter((model) => model.hasQuota).map((model) => model.quotaRatio)
  const known = [provider.quota?.remaining(nowMs) ?? null, purses.remaining(provider.purse)].filter((ratio) => ratio !== null)
  const all = [...told, ...known]
  return all.length === 0 ? null : Math.min(...all)
}
