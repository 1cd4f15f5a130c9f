import type { GenerationRequest } from '../../proto/request.ts'
import { Fault } from '../core/fault.ts'
import type { AcceptedJob } from '../core/inputs.ts'
import type { JobId, JobRecord, Priority, Tier } from '../core/job.ts'
import { type Patience, TIERS } from '../core/tiers.ts'
import type { JobCompanions } from '../store/writer.ts'

export type NewJob = {
  id: JobId
  type: JobRecord['type']
  team: string
  actor: string
  model: string
  pinnedProvider: string | null
  pinnedTier: Tier | null
  policy: string | null
  key: string | null
  terms: Terms
  needs: readonly string[]
  /** Its answer is read while it grows: an engine that cannot continue it must not begin it anew. */
  restartless: boolean
  /** Somebody may read it while it grows; else a cloud is asked for all of it at once, which costs both sides less. */
  streamed: boolean
  detached: boolean
  traceId: string
  priority: Priority
  maxWaitMs: number | null
  maxRunMs: number | null
  /** Estimated tokens of prompt and answer, and of those the prompt's. */
  cost: number
  promptCost: number
  /** The GenerationRequest of proto/request.ts as JSON. */
  request: string
  generation?: GenerationRequest
  seed: number
  prefix: readonly string[]
  batch?: string
  rowKey?: string
  along?: JobCompanions
}

/** What a job's policy, team and pins come to: when tiers open to it, and who pays. */
export type Terms = { patience: Patience; purses: readonly string[] }

export function sameTerms(left: Terms, right: Terms): boolean {
  return TIERS.every((tier) => left.patience[tier] === right.patience[tier]) && left.purses.join() === right.purses.join()
}

/** The record as the scheduler is to know it. */
export function accepted(
  record: JobRecord,
  known: { prefix: readonly string[]; promptCost: number },
  terms: Terms,
  restartable: boolean,
  waitedMs: number,
): AcceptedJob {
  const { id, model, pinnedProvider: provider, needs, team, priority, cost, maxWaitMs, maxRunMs } = record
  return { id, model, provider, ...terms, needs, restartable, waitedMs, team, priority, cost, maxWaitMs, maxRunMs, ...known }
}

export function newRecord(job: NewJob, nowMs: number, owner: string): JobRecord {
  return {
    id: job.id,
    version: 1,
    status: 'queued',
    type: job.type,
    team: job.team,
    model: job.model,
    pinnedProvider: job.pinnedProvider,
    pinnedTier: job.pinnedTier,
    policy: job.policy,
    key: job.key,
    needs: job.needs,
    priority: job.priority,
    maxWaitMs: job.maxWaitMs,
    maxRunMs: job.maxRunMs,
    cost: job.cost,
    batch: job.batch ?? null,
    rowKey: job.rowKey ?? null,
    owner,
    strikes: 0,
    failures: 0,
    detached: job.detached,
    seed: job.seed,
    traceId: job.traceId,
    createdMs: nowMs,
    startedMs: null,
    finishedMs: null,
    attempt: 0,
    attemptStartedMs: null,
    tokensBefore: 0,
    worker: null,
    workerName: null,
    tier: null,
    servedModel: null,
    modelSha256: null,
    queueMs: null,
    firstTokenMs: null,
    promptTokens: null,
    completionTokens: null,
    cachedTokens: null,
    costMicros: 0,
    finishReason: null,
    error: null,
    inRow: null,
  }
}

/** Cancelling what is final or unknown is refused in words a caller can act on. */
export function notCancellable(record: JobRecord): Fault {
  return new Fault('job_is_final', `The job is ${record.status} already and cannot be cancelled.`, { status: 409, job: record.id })
}
