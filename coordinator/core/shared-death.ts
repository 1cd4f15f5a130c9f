import { broughtNothing } from './blame.ts'
import type { FleetWorker } from './fleet.ts'
import type { JobError, JobId } from './job.ts'
import type { ScheduledJob } from './scheduled-job.ts'

/** What a model's process, or a whole worker, took down with it. */
export type Death = { atMs: number; suspects: number; told: number }

/**
 * Of those that die together, one may have killed the others. Which one shows when they run apart: so a job that has died before
 * is no case for a person as long as another such job dies with it, and they start again one after another. Answers its place
 * among them; null: it died alone, or of something else.
 */
export function placeInDeath(
  nowMs: number,
  job: ScheduledJob,
  worker: FleetWorker | null,
  { code }: JobError,
  jobs: { get(id: JobId): ScheduledJob | undefined },
): number | null {
  if (worker === null || worker.cloud !== null || !DEATHS.has(code) || !isSuspect(job)) return null
  // They are told one by one: the first finds the others still there.
  if (worker.death === null || nowMs - worker.death.atMs > ONE_DEATH_MS) {
    let suspects = 1
    for (const held of worker.occupied.values()) {
      const other = jobs.get(held.job)
      const dies = code !== 'model_process_died' || held.model === job.served
      if (dies && other !== undefined && other !== job && other.worker === worker && isSuspect(other)) suspects += 1
    }
    worker.death = { atMs: nowMs, suspects, told: 0 }
  }
  return worker.death.suspects === 1 ? null : worker.death.told++
}

/** It has died before, with nothing to show for it, as now. */
function isSuspect(job: ScheduledJob): boolean {
  return job.strikes > 0 && broughtNothing(job)
}

const DEATHS = new Set(['model_process_died', 'worker_lost', 'worker_silent', 'worker_restarted'])
// Reports of one death come within one message.
const ONE_DEATH_MS = 100
