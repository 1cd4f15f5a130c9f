import {
  type AttemptRecord,
  isFinal,
  type JobError,
  type JobId,
  type JobRecord,
  type JobStatus,
  type Priority,
  type WorkerId,
} from '../core/job.ts'
import type { Db, Query } from './db.ts'
import { milliseconds, millisecondsOrNull, number, numberOrNull, text, textOrNull } from './rows.ts'

/** Reads of jobs; all writes of them go through the writer, but for claims. */

export async function findJob(db: Db, id: JobId): Promise<JobRecord | undefined> {
  const row = await db.maybeOne('select * from jobs where id = $1', [id])
  return row === undefined ? undefined : parseJob(row)
}

/**
 * One of all who ask at once, at whatever coordinator, may act on a parked job as it is now. What it becomes is written with
 * the claim: whoever asks next, before the rest of it is on disk, does not find it parked.
 */
export async function claimParked(
  query: Query,
  { id, version }: JobRecord,
  owner: string,
  status: 'queued' | 'cancelled',
): Promise<boolean> {
  const rows = await query(
    `update jobs set version = version + 1, owner = $3, status = $4, finished_at = case when $4 = 'cancelled' then now() end,
        strikes = 0, failures = 0, error = case when $4 = 'cancelled' then error end
      where id = $1 and version = $2 and status = 'parked' returning id`,
    [id, version, owner, status],
  )
  return rows.length === 1
}

/** The same for so many parked rows of a batch at once. Answers them as they are now. */
export async function claimParkedRows(db: Db, batch: string, owner: string, limit: number): Promise<JobRecord[]> {
  const rows = await db.query(
    `with parked as (select id from jobs where batch = $1 and status = 'parked' order by id limit $3)
     update jobs set version = version + 1, owner = $2, status = 'cancelled', finished_at = now(), strikes = 0, failures = 0
      where id in (select id from parked) and status = 'parked' returning *`,
    [batch, owner, limit],
  )
  return rows.map(parseJob)
}

export type JobFilter = {
  status: JobStatus | null
  model: string | null
  teams: readonly string[] | null
  before: string | null
  limit: number
}

/** Newest first; `before` is the id the page starts behind. */
export async function listJobs(db: Db, filter: JobFilter): Promise<JobRecord[]> {
  // Said in these words it is found by the index of what has not ended, and not by reading all that has.
  const live = filter.status !== null && !isFinal(filter.status) ? 'and finished_at is null' : ''
  const rows = await db.list(
    `select * from jobs
      where ($1::uuid is null or id < $1) and ($2::text is null or status = $2) and ($3::text is null or model = $3 or served_model = $3)
        and ($5::text[] is null or team = any($5)) ${live}
      order by id desc limit $4`,
    [filter.before, filter.status, filter.model, filter.limit, filter.teams],
  )
  return rows.map(parseJob)
}

/** Those of the coordinator's jobs that have not ended. */
export async function ownedJobs(db: Db, coordinator: string): Promise<{ id: JobId; batch: string | null }[]> {
  const rows = await db.query(`select id, batch from jobs where finished_at is null and status in ('queued', 'running') and owner = $1`, [
    coordinator,
  ])
  return rows.map((row) => ({ id: text(row.id) as JobId, batch: textOrNull(row.batch) }))
}

/**
 * Makes the coordinator the owner of live jobs that have none, or whose owner is gone, or are lost to it: the oldest so many
 * behind the one that is named, in order. `last`: behind which to go on; null: there are no more.
 */
export async function adoptJobs(
  db: Db,
  coordinator: string,
  lost: readonly JobId[],
  { after, limit }: { after: JobId | null; limit: number },
): Promise<{ jobs: JobRecord[]; last: JobId | null }> {
  const isOrphan = `finished_at is null and status in ('queued', 'running')
    and (owner is null or not exists (select 1 from coordinators c where c.id = jobs.owner) or (owner = $1 and id = any($2)))`
  const found = await db.query(`select id from jobs where ${isOrphan} and ($3::uuid is null or id > $3) order by id limit $4`, [
    coordinator,
    lost,
    after,
    limit,
  ])
  const ids = found.map((row) => text(row.id) as JobId)
  if (ids.length === 0) return { jobs: [], last: null }
  // Another coordinator may look at the same moment: each is asked for once more, under its lock. What was ours keeps its version:
  // whoever takes it up here at this moment writes the next.
  const rows = await db.query(
    `with adopted as (
       update jobs set owner = $1, version = version + (owner is distinct from $1)::integer where id = any($3) and id between $4 and $5 and ${isOrphan} returning *)
     select * from adopted order by id`,
    [coordinator, lost, ids, ids[0], ids.at(-1)],
  )
  return { jobs: rows.map(parseJob), last: ids.length < limit ? null : (ids.at(-1) ?? null) }
}

/** Those of the jobs that a cancelled batch holds. */
export async function jobsOfCancelledBatches(db: Db, jobs: JobId[]): Promise<JobId[]> {
  const rows = await db.query(
    `select j.id from jobs j join batches b on b.id = j.batch where j.id = any($1) and b.cancelled_at is not null`,
    [jobs],
  )
  return rows.map((row) => text(row.id) as JobId)
}

/** How long the answers of each model took, in the mean of the latest jobs. */
export async function recentServiceTimes(db: Db): Promise<{ model: string; meanMs: number }[]> {
  const rows = await db.query(
    `select model, avg(extract(epoch from finished_at - started_at) * 1000) as mean_ms
       from (select * from jobs order by id desc limit $1) recent
      where status = 'succeeded' and started_at is not null group by model`,
    [RECENT_JOBS],
  )
  return rows.map((row) => ({ model: text(row.model), meanMs: Number(row.mean_ms) }))
}

const RECENT_JOBS = 5_000

/** What was asked and answered is gone, and a key that named it is free; that there was a job stays. Undefined when it is gone. */
export async function forgetPayload(query: Query, id: JobId): Promise<JobId | undefined> {
  const [row] = await query('delete from job_requests where job = $1 returning job', [id])
  if (row === undefined) return undefined
  await query('delete from job_outputs where job = $1', [id])
  await query('delete from idempotency_keys where job = $1', [id])
  return id
}

export async function readRequest(db: Db, id: JobId): Promise<string | undefined> {
  const row = await db.maybeOne('select request::text from job_requests where job = $1', [id])
  return row === undefined ? undefined : text(row.request)
}

export async function readOutput(db: Db, id: JobId): Promise<unknown> {
  const row = await db.maybeOne('select output from job_outputs where job = $1', [id])
  return row?.output ?? null
}

/** `extras` are what was released besides text, in order. */
export type StoredProgress = { tokenIds: number[]; text: string; extras: unknown[] }

/** What was delivered of jobs that have not ended, put together from its pieces. */
export async function readProgress(db: Db, jobs: JobId[]): Promise<Map<JobId, StoredProgress>> {
  const rows = await db.query(
    'select job, first_token, token_ids, text, extra from job_progress where job = any($1) order by job, first_token',
    [jobs],
  )
  const found = new Map<JobId, StoredProgress>()
  for (const row of rows) {
    const id = text(row.job) as JobId
    const known = found.get(id) ?? { tokenIds: [], text: '', extras: [] }
    // A hole would put words together that never stood together: what comes after it does not count.
    if (number(row.first_token) !== known.tokenIds.length) continue
    // One by one: arguments of a call are bounded by the stack, and a row holds whatever came in a second.
    for (const token of row.token_ids as number[]) known.tokenIds.push(token)
    known.text += text(row.text)
    if (Array.isArray(row.extra)) for (const extra of row.extra as unknown[]) known.extras.push(extra)
    found.set(id, known)
  }
  return found
}

export async function readAttempts(db: Db, jobs: JobId[]): Promise<AttemptRecord[]> {
  if (jobs.length === 0) return []
  const rows = await db.query('select * from attempts where job = any($1) order by job, number', [jobs])
  return rows.map((row) => ({
    job: text(row.job) as JobId,
    number: number(row.number),
    status: text(row.status) as AttemptRecord['status'],
    worker: textOrNull(row.worker) as WorkerId | null,
    workerName: textOrNull(row.worker_name),
    tier: textOrNull(row.tier) as AttemptRecord['tier'],
    startedMs: milliseconds(row.started_at),
    finishedMs: milliseconds(row.finished_at),
    tokens: number(row.tokens),
    error: (row.error ?? null) as JobError | null,
    traceId: text(row.trace_id),
  }))
}

export function parseJob(row: Record<string, unknown>): JobRecord {
  return {
    id: text(row.id) as JobId,
    version: number(row.version),
    status: text(row.status) as JobStatus,
    type: text(row.type) as JobRecord['type'],
    team: text(row.team),
    model: text(row.model),
    pinnedProvider: textOrNull(row.pinned_provider),
    pinnedTier: textOrNull(row.pinned_tier) as JobRecord['tier'],
    policy: textOrNull(row.policy),
    key: textOrNull(row.key),
    needs: textOrNull(row.needs)?.split(',') ?? [],
    priority: text(row.priority) as Priority,
    maxWaitMs: numberOrNull(row.max_wait_ms),
    maxRunMs: numberOrNull(row.max_run_ms),
    cost: number(row.cost),
    batch: textOrNull(row.batch),
    rowKey: textOrNull(row.row_key),
    owner: textOrNull(row.owner),
    strikes: number(row.strikes),
    failures: number(row.failures),
    detached: row.detached === true,
    seed: number(row.seed),
    traceId: text(row.trace_id),
    createdMs: milliseconds(row.created_at),
    startedMs: millisecondsOrNull(row.started_at),
    finishedMs: millisecondsOrNull(row.finished_at),
    attempt: number(row.attempt),
    attemptStartedMs: millisecondsOrNull(row.attempt_started_at),
    tokensBefore: number(row.tokens_before),
    worker: textOrNull(row.worker) as WorkerId | null,
    workerName: textOrNull(row.worker_name),
    tier: textOrNull(row.tier) as JobRecord['tier'],
    servedModel: textOrNull(row.served_model),
    modelSha256: textOrNull(row.model_sha256),
    queueMs: numberOrNull(row.queue_ms),
    firstTokenMs: numberOrNull(row.first_token_ms),
    promptTokens: numberOrNull(row.prompt_tokens),
    completionTokens: numberOrNull(row.completion_tokens),
    cachedTokens: numberOrNull(row.cached_tokens),
    costMicros: number(row.cost_micros),
    finishReason: textOrNull(row.finish_reason) as JobRecord['finishReason'],
    error: (row.error ?? null) as JobError | null,
    inRow: null,
  }
}
