import type { Contest } from './contest.ts'
import type { Flow, Line } from './line.ts'
import { candidates, type Choice, choosePlace, eligiblePlaces, type Fleet, isFit, type Place, type Route } from './routing.ts'
import type { ScheduledJob } from './scheduled-job.ts'

type Start = (job: ScheduledJob, choice: Choice, eligible: readonly Place[]) => void

/** The routes of a line on which a slot is free, with all their places. */
type OpenRoutes = Map<Route<Flow<ScheduledJob>>, Place[]>

/**
 * Starts waiting jobs until no eligible slot is free. Within a line the line's own order decides; where several lines want
 * the same slots, of a cloud or for `auto`, they compete. Each route is looked at once, and then only those with a free slot.
 */
export function settle(
  nowMs: number,
  lines: readonly Line<ScheduledJob>[],
  fleet: Fleet,
  contest: Contest<ScheduledJob>,
  start: Start,
): void {
  const open = new Map<Line<ScheduledJob>, OpenRoutes>()
  for (const line of lines) {
    const routes = openRoutes(nowMs, line, fleet)
    if (routes.size > 0) open.set(line, routes)
  }
  while (open.size > 0) {
    const candidates: ScheduledJob[] = []
    for (const [line, routes] of open) {
      const next = nextOf(nowMs, line, routes)
      if (next === undefined) open.delete(line)
      else candidates.push(next)
    }
    const job = contest.winner(candidates)
    if (job === undefined) return
    const eligible = placesOf(job, open)
    const choice = choosePlace(free(nowMs, eligible), job.prefix)
    if (choice === undefined) return
    start(job, choice, eligible)
  }
}

function openRoutes(nowMs: number, line: Line<ScheduledJob>, fleet: Fleet): OpenRoutes {
  const open: OpenRoutes = new Map()
  // Where all slots are taken, and mostly they are, no route needs to be looked at; else only those that fit a free one.
  const places = freePlaces(nowMs, line.model, fleet)
  if (places.length === 0) return open
  for (const route of line.routes) {
    if (!route.isReady || !places.some((place) => fits(route, place))) continue
    const eligible = eligiblePlaces(route.key, fleet)
    if (free(nowMs, eligible).length > 0) open.set(route, eligible)
  }
  return open
}

function freePlaces(nowMs: number, model: string, fleet: Fleet): Place[] {
  const places: Place[] = []
  for (const worker of fleet.workers())
    for (const name of candidates(model, worker)) if (worker.free(name, nowMs) > 0) places.push({ worker, model: name })
  return places
}

function fits({ key }: Route<Flow<ScheduledJob>>, { worker, model }: Place): boolean {
  const offer = worker.models.get(model)?.offer
  return offer !== undefined && isFit(key, worker, offer)
}

/** Whose turn it is in the line, of those who find a slot: what was started a moment ago may have taken the last one. */
function nextOf(nowMs: number, line: Line<ScheduledJob>, routes: OpenRoutes): ScheduledJob | undefined {
  for (let next = line.next(routes.keys()); next !== undefined; next = line.next(routes.keys())) {
    const { route } = next.flow as Flow<ScheduledJob>
    if (free(nowMs, routes.get(route) ?? []).length > 0) return next
    routes.delete(route)
  }
  return undefined
}

function placesOf(job: ScheduledJob, open: ReadonlyMap<Line<ScheduledJob>, OpenRoutes>): Place[] {
  const { route } = job.flow as Flow<ScheduledJob>
  for (const routes of open.values()) {
    const places = routes.get(route)
    if (places !== undefined) return places
  }
  return []
}

function free(nowMs: number, places: readonly Place[]): Place[] {
  return places.filter(({ worker, model }) => worker.free(model, nowMs) > 0)
}
