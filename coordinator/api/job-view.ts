import { AUTO } from '../core/routing.ts'
import type { AttemptRecord, JobError, JobRecord, Waiting } from '../core/job.ts'
import { rfc3339 } from './paging.ts'

/** The model that an answer names: as it was asked for, and where that was left open, the one that answers. */
export function answeringModel({ model, servedModel }: JobRecord): string {
  return model === AUTO ? (servedModel ?? model) : model
}

/** A job as the contract shows it. `output` is undefined in lists, where payloads are not read. */
export function jobView(
  record: JobRecord,
  attempts: AttemptRecord[],
  waiting: Waiting | undefined,
  output?: unknown,
): Record<string, unknown> {
  return {
    id: record.id,
    status: record.status,
    type: record.type,
    created_at: rfc3339(record.createdMs),
    started_at: rfc3339(record.startedMs),
    finished_at: rfc3339(record.finishedMs),
    model: record.servedModel ?? record.model,
    requested_model: record.model,
    provider: record.workerName,
    worker: record.tier === 'cloud' ? null : record.workerName,
    tier: record.tier,
    attempts: attemptViews(record, attempts),
    waiting: waiting === undefined ? null : waitingView(waiting),
    usage: usageView(record),
    cost_micros: record.costMicros,
    queue_ms: record.queueMs,
    time_to_first_token_ms: record.firstTokenMs,
    ...(output === undefined ? {} : { output }),
    finish_reason: record.finishReason,
    error: errorView(record.error),
    policy: record.policy,
    priority: record.priority,
    max_wait_ms: record.maxWaitMs,
    max_run_ms: record.maxRunMs,
    batch: record.batch,
    row_key: record.rowKey,
    team: record.team,
    seed: record.seed,
    thread: null,
    run: null,
    step: null,
    trace_id: record.traceId.replaceAll('-', ''),
  }
}

export function errorView(error: JobError | null): Record<string, unknown> | null {
  if (error === null) return null
  const { providerStatus, ...said } = error
  return { ...said, provider_status: providerStatus ?? null }
}

export function usageView(record: JobRecord): Record<string, unknown> | null {
  if (record.promptTokens === null && record.completionTokens === null) return null
  const prompt = record.promptTokens ?? 0
  const completion = record.completionTokens ?? 0
  return {
    prompt_tokens: prompt,
    completion_tokens: completion,
    total_tokens: prompt + completion,
    prompt_tokens_details: { cached_tokens: record.cachedTokens ?? 0 },
  }
}

export function waitingView(waiting: Waiting): Record<string, unknown> {
  const { reason, position, estimateMs, untilMs, basis, detail } = waiting
  return {
    reason,
    position,
    estimate_ms: estimateMs,
    until: rfc3339(untilMs),
    // What the estimate was made from: the jobs ahead of it, and what the model takes for one in each of so many slots.
    basis: basis === null ? null : { jobs_ahead: position - 1, mean_service_ms: basis.meanServiceMs, slots: basis.slots },
    detail,
  }
}

/** Attempts that another followed or that failed, and the one that runs or ended the job, which stands in the record. */
function attemptViews(record: JobRecord, ended: AttemptRecord[]): Record<string, unknown>[] {
  const views = ended.map((attempt) => ({
    number: attempt.number,
    worker: attempt.tier === 'cloud' ? null : attempt.workerName,
    provider: attempt.workerName,
    tier: attempt.tier,
    status: attempt.status as string,
    started_at: rfc3339(attempt.startedMs),
    finished_at: rfc3339(attempt.finishedMs),
    tokens: attempt.tokens as number | null,
    error: errorView(attempt.error),
  }))
  const told = record.status === 'running' || record.status === 'succeeded' || record.status === 'cancelled'
  if (told && record.attempt > 0 && !ended.some((attempt) => attempt.number === record.attempt))
    views.push({
      number: record.attempt,
      worker: record.tier === 'cloud' ? null : record.workerName,
      provider: record.workerName,
      tier: record.tier,
      status: record.status,
      started_at: rfc3339(record.attemptStartedMs),
      finished_at: rfc3339(record.finishedMs),
      tokens: record.completionTokens === null ? null : Math.max(0, record.completionTokens - record.tokensBefore),
      error: null,
    })
  return views
}
