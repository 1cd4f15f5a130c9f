import type { JobId, Waiting } from './job.ts'
import { eligiblePlaces, type Fleet, type RouteKey } from './routing.ts'
import type { ScheduledJob } from './scheduled-job.ts'
import type { ServiceTimes } from './service-times.ts'

export type Estimate = { ms: number; basis: NonNullable<Waiting['basis']> }

/**
 * When the job at a position would start, from what runs and what answers of the model took of late. `onlyTeam`: its team is
 * at its limit, and what others run does not matter. Null while no answer of the model was seen, or nobody serves it.
 */
export function estimateStart(
  nowMs: number,
  job: ScheduledJob,
  position: number,
  key: RouteKey,
  fleet: Fleet,
  known: { times: ServiceTimes; jobs: { get(id: JobId): ScheduledJob | undefined } },
  onlyTeam: boolean,
): Estimate | null {
  const meanMs = known.times.get(job.model)
  if (meanMs === undefined) return null
  let slots = 0
  const rests: number[] = []
  for (const { worker, model } of eligiblePlaces(key, fleet)) {
    slots += worker.models.get(model)?.offer.slots ?? 0
    for (const held of worker.occupied.values()) {
      if (held.model !== model) continue
      const running = known.jobs.get(held.job)
      // What was told to stop is about to.
      if (running === undefined || running.attempt !== held.attempt) rests.push(0)
      else if (!onlyTeam || running.team === job.team) rests.push(restOf(nowMs, running, known.times))
    }
  }
  if (slots === 0) return null
  if (onlyTeam) slots = Math.max(1, Math.min(slots, job.team.running))
  rests.sort((a, b) => a - b)
  while (rests.length < slots) rests.unshift(0)
  // Each slot that comes free takes the next in line, and one after another from then on.
  const ahead = position - 1
  const ms = Math.round((rests[ahead % slots] ?? 0) + Math.floor(ahead / slots) * meanMs)
  return { ms, basis: { meanServiceMs: Math.round(meanMs), slots } }
}

/** What a running answer has still before it: a share of the mean, as large as what was asked for. One that takes longer than that may take as long again. */
function restOf(nowMs: number, running: ScheduledJob, times: ServiceTimes): number {
  const elapsedMs = Math.max(0, nowMs - running.startedMs)
  const expectedMs = times.expected(running.model, running.cost)
  if (expectedMs === undefined) return 0
  if (expectedMs > elapsedMs) return expectedMs - elapsedMs
  const told = running.tokens - running.tokensAtStart
  const left = Math.max(0, running.cost - running.promptCost - running.tokens)
  return told > 0 ? Math.min(elapsedMs, (left * elapsedMs) / told) : elapsedMs
}
