import type { FleetWorker, Hold, ModelOffer } from './fleet.ts'
import { estimateStart } from './estimate.ts'
import type { JobId, Waiting, WaitingReason } from './job.ts'
import type { Line } from './line.ts'
import type { ScheduledJob } from './scheduled-job.ts'
import type { ServiceTimes } from './service-times.ts'
import { AUTO, candidates, eligiblePlaces, type Fleet, isFit, type Place, type RouteKey } from './routing.ts'
import { TIERS } from './tiers.ts'

/** Why a job waits, its place in its line, and an estimate where there is something to make one from. */
export function waitingOf(
  nowMs: number,
  job: ScheduledJob,
  key: RouteKey,
  line: Line<ScheduledJob> | undefined,
  known: { times: ServiceTimes; jobs: { get(id: JobId): ScheduledJob | undefined } },
  fleet: Fleet,
): Waiting {
  if (job.phase === 'delayed') {
    const estimateMs = Math.max(0, job.notBeforeMs - nowMs)
    return { reason: job.delayedBy, position: 1, estimateMs, untilMs: job.notBeforeMs, basis: null, detail: job.delayedWhy }
  }
  const position = line?.position(job) ?? 1
  const why = whyWaits(nowMs, key, job, job.team, fleet, job.opening?.atMs ?? null)
  const restMs = Math.max(0, (why.untilMs ?? nowMs) - nowMs)
  const isBusy = why.reason === 'all_slots_busy' || why.reason === 'team_limit'
  // Nobody knows when a person unpauses it, or a model has loaded.
  if (!isBusy && why.untilMs === null) return { ...why, position, estimateMs: null, basis: null }
  const start = estimateStart(nowMs, job, position, key, fleet, known, why.reason === 'team_limit')
  // Until when is known, without an answer ever seen: not before that.
  if (start === null) return { ...why, position, estimateMs: restMs > 0 ? restMs : null, basis: null }
  return { ...why, position, estimateMs: start.ms + restMs, basis: start.basis }
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
        if (flow.jobs.size === 0) continue
        const { reason } = whyWaits(nowMs, route.key, flow, flow.account.team, fleet, flow.jobs.first()?.opening?.atMs ?? null)
        counts.set(reason, (counts.get(reason) ?? 0) + flow.jobs.size)
      }
    for (const [reason, count] of counts) rows.push({ model, reason, count })
  }
  for (const reason of ['retry_backoff', 'cooling_down'] as const) {
    const counts = new Map<string, number>()
    for (const { model, delayedBy } of delayed) if (delayedBy === reason) counts.set(model, (counts.get(model) ?? 0) + 1)
    for (const [model, count] of counts) rows.push({ model, reason, count })
  }
  return rows
}

/**
 * Why the jobs of a route and a team wait: the first of these that is true, from the fleet as it is now. `opensMs` is when
 * the next tier opens for the job by waiting; null: none does.
 */
function whyWaits(nowMs: number, key: RouteKey, payer: Payer, team: TeamState, fleet: Fleet, opensMs: number | null): Why {
  const eligible = eligiblePlaces(key, fleet)
  if (eligible.length > 0) {
    if (team.full) return { reason: 'team_limit', untilMs: null, detail: `team ${team.name} runs ${team.running}, its limit` }
    return whyNoneIsFree(nowMs, eligible)
  }
  const coming = comingOffer(key, fleet)
  if (coming !== null) {
    const detail = coming.detail === '' ? null : coming.detail
    return { reason: coming.needsPerson === true ? 'paused' : 'model_loading', untilMs: null, detail }
  }
  const spent = spentPurse(key, payer, fleet)
  if (spent !== null) return { reason: 'over_quota', untilMs: fleet.spentUntil(spent), detail: `the spend limit of ${spent} is reached` }
  if (opensMs !== null && opensToSomebody(key, fleet)) return { reason: 'tier_not_open_yet', untilMs: opensMs, detail: null }
  return { reason: 'no_provider_for_model', untilMs: null, detail: whyNobody(key, fleet) }
}

/** An answer that was begun goes on with the model file that it began with, whatever else opens. */
function opensToSomebody(key: RouteKey, fleet: Fleet): boolean {
  return key.sha256 === null || eligiblePlaces({ ...key, tiers: 'ooo' }, fleet).length > 0
}

function whyNobody(key: RouteKey, fleet: Fleet): string | null {
  const { provider, sha256, tiers } = key
  if (provider !== null) return `it is pinned to ${provider}, which is not there`
  if (tiers.includes('c') && eligiblePlaces({ ...key, tiers: 'ooo' }, fleet).length > 0) {
    const open = TIERS.filter((_, index) => tiers[index] !== 'c')
    return `whoever serves it is in a tier that its policy, its key or its pin never opens: open to it is ${open.join(', ') || 'none'}`
  }
  return sha256 === null ? null : 'what was said of its answer can only be gone on from with the same model file'
}

type Why = Pick<Waiting, 'reason' | 'untilMs' | 'detail'>
type Payer = { purses: readonly string[] }
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
  const reason = first.state === 'offline' ? 'cooling_down' : first.state
  return { reason, untilMs: first.untilMs, detail: first.why === '' ? null : first.why }
}

function coolingHold(worker: FleetWorker, model: string, nowMs: number): Hold | null {
  const untilMs = worker.cooling(model, nowMs)
  return untilMs === null ? null : { state: 'cooling_down', untilMs, why: worker.models.get(model)?.breaker.why ?? '' }
}

/** The model is on its way: its worker loads it, starts its process again or waits for a person, and a tier that may be used has it. */
function comingOffer(key: RouteKey, fleet: Fleet): ModelOffer | null {
  let restarting: ModelOffer | null = null
  for (const worker of fleet.workers()) {
    if (worker.state !== 'online') continue
    for (const model of candidates(key.model, worker)) {
      const offer = worker.models.get(model)?.offer
      // Which file it is may be known only once it is loaded.
      const wanted = offer?.sha256 === '' ? { ...key, sha256: null } : key
      if (offer === undefined || !isFit(wanted, worker, offer) || key.tiers[TIERS.indexOf(offer.tier ?? 'gpu')] === 'c') continue
      if (offer.state === 'loading') return offer
      if (offer.state === 'down') restarting ??= offer
    }
  }
  return restarting
}

/** The empty purse without which somebody could run it. */
function spentPurse(key: RouteKey, { purses }: Payer, fleet: Fleet): string | null {
  const spent = purses.find((purse) => fleet.spentUntil(purse) !== null)
  if (spent === undefined) return null
  const paid = (worker: FleetWorker): boolean =>
    [...worker.models.values()].some(({ offer }) => offer.paid === true && (key.model === AUTO || offer.name === key.model))
  return [...fleet.workers()].some(paid) ? spent : null
}
