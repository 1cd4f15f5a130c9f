import { silent } from './attempt-errors.ts'
import type { FleetWorker } from './fleet.ts'
import type { SchedulerRules } from './inputs.ts'
import type { JobError } from './job.ts'
import type { ScheduledJob } from './scheduled-job.ts'

/** Why the attempt counts as stalled by now; null: it does not. */
export function stallOf(nowMs: number, job: ScheduledJob, worker: FleetWorker, rules: SchedulerRules): JobError | null {
  const isFirst = job.tokens === job.tokensAtStart
  const limitMs = silenceLimitMs(job, worker, isFirst, rules)
  if (nowMs - job.progressedMs >= limitMs) return silent(isFirst ? 'first_token_timeout' : 'next_token_timeout', limitMs)
  return null
}

/** What was said while this process stood still is about to be read: nobody is judged by that time. */
export function forgivePause(nowMs: number, ms: number, workers: Iterable<FleetWorker>, running: Iterable<ScheduledJob>): void {
  for (const worker of workers) {
    worker.lastHeardMs = Math.min(nowMs, worker.lastHeardMs + ms)
    if (worker.lostAtMs !== null) worker.lostAtMs += ms
  }
  for (const job of running) job.progressedMs = Math.min(nowMs, job.progressedMs + ms)
}

/**
 * How long an attempt may be silent: by its model's own limit, else its provider's, else the general one. A cloud that was asked
 * for all of an answer at once says nothing until the whole is there, which no limit on tokens can judge: unless a limit was set
 * for it there, such a call has an hour. A provider that was heard to live, though it brought nothing, or that is writing a call of
 * a tool, is waited for as long as for a first token: arguments may come all at once.
 */
function silenceLimitMs(job: ScheduledJob, worker: FleetWorker, isFirst: boolean, rules: SchedulerRules): number {
  const offer = worker.models.get(job.served)?.offer
  const first = offer?.firstTokenTimeoutMs ?? worker.cloud?.firstTokenTimeoutMs ?? null
  const next = offer?.nextTokenTimeoutMs ?? worker.cloud?.nextTokenTimeoutMs ?? null
  if (worker.cloud !== null && !job.streamed && first === null && next === null) return WHOLE_ANSWER_MS
  const firstMs = first ?? rules.firstTokenTimeoutMs
  const nextMs = next ?? rules.nextTokenTimeoutMs
  if (isFirst) return firstMs
  return job.isPatient ? Math.max(firstMs, nextMs) : nextMs
}

const WHOLE_ANSWER_MS = 3_600_000
