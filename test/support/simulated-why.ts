import type { FleetWorker } from '../../coordinator/core/fleet.ts'
import type { WaitingReason } from '../../coordinator/core/job.ts'
import type { WatchedJob } from './simulated-judge.ts'

/** Where a job may run and why it waits, worked out anew each time from the fleet as it stands, with no index and no memory. */

export function mayRunOn(job: WatchedJob, worker: FleetWorker, workers: Iterable<FleetWorker>): boolean {
  if (!isAble(job, worker)) return false
  if (!job.avoid.has(worker.id)) return true
  for (const other of workers) if (!job.avoid.has(other.id) && isAble(job, other)) return false
  return true
}

export function trueReason(nowMs: number, job: WatchedJob, teamIsFull: boolean, workers: Iterable<FleetWorker>): WaitingReason {
  const all = [...workers]
  const able = all.filter((worker) => mayRunOn(job, worker, all))
  if (able.length === 0) return all.some((worker) => isLoading(job, worker)) ? 'model_loading' : 'no_provider_for_model'
  if (teamIsFull) return 'team_limit'
  return able.every((worker) => isCooling(nowMs, job, worker)) ? 'cooling_down' : 'all_slots_busy'
}

/** In one line the earlier of two goes first; elsewhere classes, teams and workers decide. */
export function sameRoute(a: WatchedJob, b: WatchedJob): boolean {
  if (a.model !== b.model || a.provider !== b.provider || a.team !== b.team || a.rank !== b.rank) return false
  return a.sha256 === b.sha256 && a.avoid.size === b.avoid.size && [...a.avoid].every((worker) => b.avoid.has(worker))
}

function isAble(job: WatchedJob, worker: FleetWorker): boolean {
  const offer = worker.models.get(job.model)?.offer
  if (worker.state !== 'online' || offer === undefined || offer.state !== 'ready' || offer.slots === 0) return false
  if (job.provider !== null && job.provider !== worker.name) return false
  return job.sha256 === null || job.sha256 === offer.sha256
}

function isLoading(job: WatchedJob, worker: FleetWorker): boolean {
  if (job.provider !== null && job.provider !== worker.name) return false
  const offer = worker.models.get(job.model)?.offer
  if (worker.state !== 'online' || offer === undefined || offer.state === 'ready') return false
  return job.sha256 === null || offer.sha256 === '' || offer.sha256 === job.sha256
}

function isCooling(nowMs: number, job: WatchedJob, worker: FleetWorker): boolean {
  const breaker = worker.models.get(job.model)?.breaker
  return breaker !== undefined && breaker.openings > 0 && (breaker.trial !== null || breaker.openUntilMs > nowMs)
}
