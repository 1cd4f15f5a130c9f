import type { Decision } from './decision.ts'
import type { Hold, WorkerState } from './fleet.ts'
import type { JobError, JobId, Tier, WorkerId } from './job.ts'

/** Everything the scheduler can ask for; the dispatcher does it. */
export type Effect =
  | { kind: 'start-attempt'; job: JobId; attempt: number; worker: WorkerId; model: string; tier: Tier; decision: Decision }
  | { kind: 'resume-attempt'; job: JobId; attempt: number; worker: WorkerId }
  | { kind: 'stop-attempt'; job: JobId; attempt: number; worker: WorkerId }
  | { kind: 'attempt-ended'; job: JobId; attempt: number; status: AttemptStatus; error: JobError | null }
  | { kind: 'job-requeued'; job: JobId; why: string; strikes: number; failures: number; backoffMs: number }
  | { kind: 'job-succeeded'; job: JobId }
  /** `waited`: what kept it waiting to the end. */
  | { kind: 'job-failed'; job: JobId; error: JobError; waited?: Decision }
  | { kind: 'job-cancelled'; job: JobId }
  | { kind: 'job-parked'; job: JobId; error: JobError }
  | { kind: 'worker-state-changed'; worker: WorkerId; from: WorkerState; to: WorkerState }
  /** Until when a model on a worker gets no work; null: it is in use again. */
  | { kind: 'breaker-changed'; worker: WorkerId; model: string; untilMs: number | null; why: string }
  /** What was delivered is void: the answer begins anew. */
  | { kind: 'discard-answer'; job: JobId }
  | { kind: 'provider-held'; worker: WorkerId; model: string | null; hold: Hold | null }
  | { kind: 'worker-replaced'; worker: WorkerId }
  | { kind: 'drop-worker'; worker: WorkerId }
  | { kind: 'stale-report'; job: JobId; attempt: number; worker: WorkerId }

export type AttemptStatus = 'succeeded' | 'failed' | 'lost' | 'refused' | 'cancelled'
