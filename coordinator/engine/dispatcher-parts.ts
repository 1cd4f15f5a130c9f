import type { EventRecord, EventType } from '../core/event.ts'
import type { Hold } from '../core/fleet.ts'
import type { JobId, JobRecord, WorkerId } from '../core/job.ts'
import type { Terms } from './new-job.ts'
import type { WorkerLink } from './worker-link.ts'

/** What the dispatcher needs of the outside; `now` is PostgreSQL's clock in milliseconds. */
export type DispatcherParts = {
  /** Who owns the jobs accepted here. */
  coordinator: string
  now(): number
  link: WorkerLink
  readRequest(job: JobId): Promise<string>
  newEvent(type: EventType, actor: string, details: Record<string, unknown>): EventRecord
  onStarted(record: JobRecord): void
  /** A job was started in a slot that another one's end had freed so many milliseconds before. */
  onDispatched(ms: number): void
  onFirstToken(record: JobRecord): void
  onEnded(record: JobRecord): void
  /** An attempt of the job has cost something. */
  onPaid(record: JobRecord, provider: string, micros: number): void
  /** The end, or the parking, of a job that has a callback is durable. */
  onEndStored(record: JobRecord): void
  onStale(): void
  /** What a stored job's policy, team and pins come to now. */
  termsOf(record: JobRecord): Terms
  /** Whose budget it is: of the policy that it named, or that its team has now. */
  policyOf(record: JobRecord): string | null
  /** A provider, or one of a worker's models, gets no work for a while, or again; `model` null: the whole provider. */
  onHeld(worker: WorkerId, model: string | null, hold: Hold | null): void
  onBreaker(worker: WorkerId, model: string, untilMs: number | null, why: string): void
  onWorkerState(worker: WorkerId, from: string, to: string): void
  onWorkerReplaced(worker: WorkerId): void
}
