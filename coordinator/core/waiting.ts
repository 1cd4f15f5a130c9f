import type { FleetWorker, Hold } from './fleet.ts'
import type { Waiting, WaitingReason } from './job.ts'
import type { Line } from './line.ts'
import type { ScheduledJob } from './scheduled-job.ts'
import { AUTO, eligiblePlaces, type Fleet, type Place, type RouteKey } from './routing.ts'

/** Why a job waits, its place in its line, and an estimate where there is something to make one from. */
export function waitingOf(
  nowMs: number,
  job: ScheduledJob,
  line: Line<ScheduledJob> | undefined,
  meanServiceMs: number | undefined,
  fleet: Fleet,
): Waiting {
  if (job.phase === 'delayed') {
    const estimateMs = Math.max(0, job.notBeforeMs - nowMs)
    return { reason: 'retry_backoff', position: 1, estimateMs, untilMs: job.notBeforeMs, basis: null, detail: null }
  }
  const position = line?.position(job) ?? 1
  const why = whyWaits(nowMs, job, job.team, fleet, job.opening?.atMs ?? null)
  const basis = estimateBasis(job, meanServiceMs, fleet)
  const restMs = Math.max(0, (why.untilMs ?? nowMs) - nowMs)
  const estimateMs = basis === null ? null : Math.round((position * basis.meanServiceMs) / basis.slots) + restMs
  return { ...why, position, estimateMs, basis }
}

/** How many wait, by model and reason: one look per flow, not per job. */
export function countWaiting(
  nowMs: number,
  lines: ReadonlyMap<string, Line<ScheduledJob>>,
  delayed: ReadonlySet<ScheduledJob>,
  fleet: Fleet,
): { model: string; reason: WaitingReason; count: number }[] {
  const rows: { model: string; reason: WaitingReason; count: number }[] = []
  for (const [model, line] of lines) {
    const counts = new Map<WaitingReason, number>()
    for (const route of line.routes)
      for (const flow of route.flows.values()) {
        const { reason } = whyWaits(nowMs, route.key, flow.account.team, fleet, flow.jobs.first()?.opening?.atMs ?? null)
        counts.set(reason, (counts.get(reason) ?? 0) + flow.jobs.size)
      }
    for (const [reason, count] of counts) rows.push({ model, reason, count })
  }
  const delayedByModel = new Map<string, number>()
  for (const { model } of delayed) delayedByModel.set(model, (delayedByModel.get(model) ?? 0) + 1)
  for (const [model, count] of delayedByModel) rows.push({ model, reason: 'retry_backoff', count })
  return rows
}

/**
 * Why the jobs of a route and a team wait: the first of these that is true, from the fleet as it is now. `opensMs` is when
 * the next tier opens for the job by waiting; null: none does.
 */
function whyWaits(nowMs: number, key: RouteKey, team: TeamState, fleet: Fleet, opensMs: number | null): Why {
  const eligible = eligiblePlaces(key, fleet)
  if (eligible.length > 0) {
    if (team.full) return { reason: 'team_limit', untilMs: null, detail: `team ${team.name} runs ${team.running}, its limit` }
    return whyNoneIsFree(nowMs, eligible)
  }
  for (const worker of fleet.workers()) {
    const named = key.provider === null || key.provider === worker.name
    const offer = worker.models.get(key.model)?.offer
    if (named && worker.state === 'online' && offer?.state === 'loading')
      return { reason: 'model_loading', untilMs: null, detail: offer.detail === '' ? null : offer.detail }
  }
  const spent = spentPurse(key, fleet)
  if (spent !== null) return { reason: 'over_quota', untilMs: fleet.spentUntil(spent), detail: `the spend limit of ${spent} is reached` }
  if (opensMs !== null) return { reason: 'tier_not_open_yet', untilMs: opensMs, detail: null }
  return { reason: 'no_provider_for_model', untilMs: null, detail: null }
}

/** What an estimate is made of; null while no answer of the model was seen, or nobody serves it. */
function estimateBasis(key: RouteKey, meanServiceMs: number | undefined, fleet: Fleet): Waiting['basis'] {
  if (meanServiceMs === undefined) return null
  let slots = 0
  for (const { worker, model } of eligiblePlaces(key, fleet)) slots += worker.models.get(model)?.offer.slots ?? 0
  return slots === 0 ? null : { meanServiceMs: Math.round(meanServiceMs), slots }
}

type Why = Pick<Waiting, 'reason' | 'untilMs' | 'detail'>
type TeamState = { name: string; running: number; full: boolean }

/** Held and cooling providers are the reason only when all of them are: then the first of them to come back says until when. */
function whyNoneIsFree(nowMs: number, eligible: Place[]): Why {
  let first: (Hold & { at: number }) | null = null
  for (const { worker, model } of eligible) {
    const hold = worker.holding(model, nowMs) ?? coolingHold(worker, model, nowMs)
    if (hold === null) return { reason: 'all_slots_busy', untilMs: null, detail: null }
    const at = hold.untilMs ?? Number.POSITIVE_INFINITY
    if (first === null || at < first.at) first = { ...hold, at }
  }
  if (first === null) return { reason: 'all_slots_busy', untilMs: null, detail: null }
  if (first.state === 'parked' || first.state === 'draining') return { reason: 'paused', untilMs: null, detail: first.why }
  return { reason: first.state, untilMs: first.untilMs, detail: first.why === '' ? null : first.why }
}

function coolingHold(worker: FleetWorker, model: string, nowMs: number): Hold | null {
  const untilMs = worker.cooling(model, nowMs)
  return untilMs === null ? null : { state: 'cooling_down', untilMs, why: '' }
}

/** The empty purse without which somebody could run it. */
function spentPurse(key: RouteKey, fleet: Fleet): string | null {
  const spent = key.purses.find((purse) => fleet.isSpent(purse))
  if (spent === undefined) return null
  const paid = (worker: FleetWorker): boolean =>
    [...worker.models.values()].some(({ offer }) => offer.paid === true && (key.model === AUTO || offer.name === key.model))
  return [...fleet.workers()].some(paid) ? spent : null
}
