import type { FleetWorker } from './fleet.ts'
import type { Heap } from './heap.ts'
import type { WorkerId } from './job.ts'

/** Where a job may run. */
export type RouteKey = {
  model: string
  /** A provider's name when the request was pinned to it. */
  provider: string | null
  /** Set once text of an answer was delivered: only the same model file continues it. */
  sha256: string | null
  /** Workers on which the job already failed; used again only when nobody else serves the model. */
  avoid: readonly WorkerId[]
}

/** The jobs that may run on the same workers: a free slot looks at heads of flows and never at the jobs behind them. */
export class Route<F extends { heapIndex: number; account: object }> {
  readonly id: string
  readonly key: RouteKey
  /** Flows with a job that may start, per class in falling priority. */
  readonly ready: readonly Heap<F>[]
  readonly flows = new Map<F['account'], F>()

  constructor(id: string, key: RouteKey, newHeap: () => Heap<F>) {
    this.id = id
    this.key = key
    this.ready = [newHeap(), newHeap(), newHeap()]
  }
}

export function routeId(key: RouteKey): string {
  // Nearly every job is free to run anywhere.
  if (key.provider === null && key.sha256 === null && key.avoid.length === 0) return key.model
  return [key.model, key.provider ?? '', key.sha256 ?? '', ...[...key.avoid].sort()].join('\u0001')
}

/** The workers that may run the route's jobs, whether or not they have a slot free. */
export function eligibleWorkers(key: RouteKey, workers: Iterable<FleetWorker>): FleetWorker[] {
  const able: FleetWorker[] = []
  for (const worker of workers) if (couldRun(key, worker)) able.push(worker)
  if (key.avoid.length === 0) return able
  const preferred = able.filter((worker) => !key.avoid.includes(worker.id))
  return preferred.length > 0 ? preferred : able
}

export type Choice = { worker: FleetWorker; rule: 'prefix' | 'least_busy' }

/**
 * The worker for the next attempt: the one that holds the longest prefix of the conversation, unless it is so much
 * busier than the idlest one that waiting for its batch costs more than computing the prefix anew; else the idlest.
 */
export function chooseWorker(model: string, free: FleetWorker[], prefix: readonly string[]): Choice | undefined {
  const idlest = leastBusy(model, free)
  if (idlest === undefined) return undefined
  for (let index = prefix.length - 1; index >= 0; index--) {
    const owners = free.filter((worker) => worker.models.get(model)?.prefixes.has(prefix[index] ?? '') === true)
    const owner = leastBusy(model, owners)
    if (owner === undefined) continue
    return load(owner, model) <= load(idlest, model) + PREFIX_LOAD_MARGIN
      ? { worker: owner, rule: 'prefix' }
      : { worker: idlest, rule: 'least_busy' }
  }
  return { worker: idlest, rule: 'least_busy' }
}

function leastBusy(model: string, workers: FleetWorker[]): FleetWorker | undefined {
  let idlest: FleetWorker | undefined
  for (const worker of workers) if (idlest === undefined || load(worker, model) < load(idlest, model)) idlest = worker
  return idlest
}

// Half the slots of a worker: beyond that the shared batch slows the newcomer more than a cached prefix speeds it up.
const PREFIX_LOAD_MARGIN = 0.5

function load(worker: FleetWorker, model: string): number {
  return worker.busy(model) / Math.max(1, worker.models.get(model)?.offer.slots ?? 1)
}

function couldRun(key: RouteKey, worker: FleetWorker): boolean {
  if (!worker.serves(key.model)) return false
  if (key.provider !== null && key.provider !== worker.name) return false
  return key.sha256 === null || worker.models.get(key.model)?.offer.sha256 === key.sha256
}
