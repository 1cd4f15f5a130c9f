import type { FleetWorker } from './fleet.ts'
import type { Waiting } from './job.ts'
import { eligibleWorkers, type RouteKey } from './routing.ts'

/** Why the jobs of a route and a team wait: the first of these that is true, from the fleet as it is now. */
export function whyWaits(nowMs: number, key: RouteKey, team: TeamState, workers: Iterable<FleetWorker>): Why {
  const all = [...workers]
  const eligible = eligibleWorkers(key, all)
  if (eligible.length > 0) {
    if (team.full) return { reason: 'team_limit', untilMs: null, detail: `team ${team.name} runs ${team.running}, its limit` }
    const untilMs = coolingUntil(nowMs, key.model, eligible)
    return { reason: untilMs === null ? 'all_slots_busy' : 'cooling_down', untilMs, detail: null }
  }
  for (const worker of all) {
    const named = key.provider === null || key.provider === worker.name
    const offer = worker.models.get(key.model)?.offer
    if (named && worker.state === 'online' && offer?.state === 'loading')
      return { reason: 'model_loading', untilMs: null, detail: offer.detail === '' ? null : offer.detail }
  }
  return { reason: 'no_provider_for_model', untilMs: null, detail: null }
}

/** What an estimate is made of; null while no answer of the model was seen, or nobody serves it. */
export function estimateBasis(key: RouteKey, meanServiceMs: number | undefined, workers: Iterable<FleetWorker>): Waiting['basis'] {
  if (meanServiceMs === undefined) return null
  let slots = 0
  for (const worker of eligibleWorkers(key, workers)) slots += worker.models.get(key.model)?.offer.slots ?? 0
  return slots === 0 ? null : { meanServiceMs: Math.round(meanServiceMs), slots }
}

type Why = Pick<Waiting, 'reason' | 'untilMs' | 'detail'>
type TeamState = { name: string; running: number; full: boolean }

/** When the first of them may be tried again; null unless all of them are cooling down. */
function coolingUntil(nowMs: number, model: string, workers: FleetWorker[]): number | null {
  let firstMs = Number.POSITIVE_INFINITY
  for (const worker of workers) {
    const untilMs = worker.cooling(model, nowMs)
    if (untilMs === null) return null
    firstMs = Math.min(firstMs, untilMs)
  }
  return firstMs
}
