import type { Layer } from './fault.ts'

export type JobId = string & { readonly brand: 'JobId' }
export type WorkerId = string & { readonly brand: 'WorkerId' }

/**
 *             ┌────────────── requeue ──────────────┐
 *             ▼                                     │
 *  accept → queued ── start ──▶ running ── lost / failed, retryable
 *             │                   │  └── attempts exhausted ──▶ parked ── release ──▶ queued
 *             │                   ├── finished ──▶ succeeded
 *             │                   └── failed, not retryable ──▶ failed
 *             └── cancel (from queued, running, parked) ──▶ cancelled
 */
export type JobStatus = 'queued' | 'running' | 'succeeded' | 'failed' | 'cancelled' | 'parked'

/** Classes of jobs with reserved shares of the fleet, in falling order. */
export type Priority = 'interactive' | 'normal' | 'batch'

export type JobError = {
  code: string
  message: string
  layer: Layer
  retryable: boolean
  /** HTTP status or exit code of what the provider is. */
  providerStatus?: number
}

export type WaitingReason =
  | 'no_provider_for_model'
  | 'all_slots_busy'
  | 'model_loading'
  | 'over_quota'
  | 'cooling_down'
  | 'tier_not_open_yet'
  | 'team_limit'
  | 'paused'
  | 'retry_backoff'

/**
 * `position` counts from 1 among the jobs that wait for the same model. `estimateMs` is null while nothing was measured;
 * `basis` says what it was made from. `detail` is what the fleet says about the reason, such as how far a model has loaded.
 */
export type Waiting = {
  reason: WaitingReason
  position: number
  estimateMs: number | null
  untilMs: number | null
  basis: { meanServiceMs: number; slots: number } | null
  detail: string | null
}

/** As proto/answer.ts has it. */
type FinishReason = 'stop' | 'length' | 'tool_calls' | 'content_filter' | 'cancelled'

export function isFinal(status: JobStatus): boolean {
  return status === 'succeeded' || status === 'failed' || status === 'cancelled'
}

export type Tier = 'gpu' | 'cli' | 'cloud'

type JobType = 'chat' | 'completion' | 'embedding' | 'rerank'

/** A job's row. In memory while the job is live, where it is the newest truth; times in milliseconds of PostgreSQL's clock. */
export type JobRecord = {
  readonly id: JobId
  version: number
  status: JobStatus
  readonly type: JobType
  readonly team: string
  readonly model: string
  readonly pinnedProvider: string | null
  readonly pinnedTier: Tier | null
  /** The policy of patience it was accepted under, by name; null: the default one. */
  readonly policy: string | null
  /** The key that asked; null: none did, or it is not known any more. */
  readonly key: string | null
  /** Abilities of proto/abilities.ts that its model must have. */
  readonly needs: readonly string[]
  readonly priority: Priority
  /** Limits of one wait and of all running together; null: none. */
  readonly maxWaitMs: number | null
  readonly maxRunMs: number | null
  /** Estimated tokens of prompt and answer. */
  readonly cost: number
  readonly batch: string | null
  readonly rowKey: string | null
  /** The coordinator that runs it; null once it is nobody's. */
  owner: string | null
  strikes: number
  failures: number
  detached: boolean
  readonly seed: number
  readonly traceId: string
  readonly createdMs: number
  startedMs: number | null
  finishedMs: number | null
  attempt: number
  attemptStartedMs: number | null
  /** Tokens of the answer that earlier attempts had brought when this one began. */
  tokensBefore: number
  /** Its provider, which is a cloud where the tier says so. */
  worker: WorkerId | null
  workerName: string | null
  tier: Tier | null
  /** The model that its last attempt ran: where `auto` was asked for, what it came to mean. */
  servedModel: string | null
  modelSha256: string | null
  queueMs: number | null
  firstTokenMs: number | null
  promptTokens: number | null
  completionTokens: number | null
  cachedTokens: number | null
  costMicros: number
  finishReason: FinishReason | null
  error: JobError | null
  /** What its row surely holds besides what an end changes, in the writer's own form; null: not known. */
  inRow: readonly unknown[] | null
}

/** An attempt that ended. */
export type AttemptRecord = {
  job: JobId
  number: number
  status: 'succeeded' | 'failed' | 'lost' | 'refused' | 'cancelled'
  worker: WorkerId | null
  workerName: string | null
  tier: Tier | null
  startedMs: number
  finishedMs: number
  tokens: number
  error: JobError | null
  traceId: string
}
