import type { EventRecord } from '../core/event.ts'
import type { JobId, JobRecord, JobStatus } from '../core/job.ts'
import type { Db, Query } from './db.ts'
import { parseJob } from './jobs.ts'
import { milliseconds, millisecondsOrNull, number, text, textOrNull } from './rows.ts'
import { insertEvent } from './events.ts'
import { emptyBatch } from './writer.ts'
import { statementFor } from './writer-sql.ts'

export type BatchRecord = {
  id: string
  team: string
  rows: number
  /** Set on a batch of the OpenAI dialect. */
  endpoint: string | null
  inputFile: string | null
  metadata: Record<string, string> | null
  traceId: string
  createdMs: number
  cancelledMs: number | null
}

export type NewBatch = Omit<BatchRecord, 'createdMs' | 'cancelledMs'> & { idempotency?: { key: string; hash: Buffer } }
export type NewRow = { record: JobRecord; promptCost: number; request: string; event: EventRecord }

/** All of it or nothing: rows are written in pieces, so that no statement is huge, inside one transaction. */
export async function saveBatch(db: Db, batch: NewBatch, accepted: EventRecord, pieces: AsyncIterable<NewRow[]>): Promise<BatchRecord> {
  return db.longTransaction(async (query) => {
    const [row] = await query(
      `insert into batches (id, team, rows, endpoint, input_file, metadata, trace_id) values ($1, $2, $3, $4, $5, $6, $7) returning *`,
      [
        batch.id,
        batch.team,
        batch.rows,
        batch.endpoint,
        batch.inputFile,
        batch.metadata === null ? null : JSON.stringify(batch.metadata),
        batch.traceId,
      ],
    )
    if (batch.idempotency !== undefined)
      await query('insert into idempotency_keys (team, key, request_hash, batch) values ($1, $2, $3, $4)', [
        batch.team,
        batch.idempotency.key,
        batch.idempotency.hash,
        batch.id,
      ])
    await insertEvent(query, accepted)
    for await (const rows of pieces) {
      const { first, values } = statementFor({
        ...emptyBatch(),
        jobs: new Map(rows.map(({ record, request }) => [record.id, { record, request, along: {}, settled: [] }])),
        events: rows.map((row) => row.event),
      })
      await query(first.text, values)
      for (const row of rows) query.events?.push(row.event)
    }
    return parseBatch(row ?? {})
  })
}

export async function findBatch(db: Db, id: string): Promise<BatchRecord | undefined> {
  const row = await db.maybeOne('select * from batches where id = $1', [id])
  return row === undefined ? undefined : parseBatch(row)
}

/** Newest first; `teams` null: of all. */
export async function listBatches(
  db: Db,
  filter: { teams: readonly string[] | null; openAi: boolean | null; before: string | null; limit: number },
): Promise<BatchRecord[]> {
  const rows = await db.list(
    `select * from batches
      where ($1::uuid is null or id < $1) and ($2::text[] is null or team = any($2)) and ($3::boolean is null or (endpoint is not null) = $3)
      order by id desc limit $4`,
    [filter.before, filter.teams, filter.openAi, filter.limit],
  )
  return rows.map(parseBatch)
}

/** Undefined when it was cancelled before, or all of it has ended. */
export async function markCancelled(query: Query, id: string): Promise<string | undefined> {
  const [row] = await query(
    `update batches set cancelled_at = now() where id = $1 and cancelled_at is null
        and exists (select from jobs where batch = $1 and status in ('queued', 'running', 'parked')) returning id`,
    [id],
  )
  return row === undefined ? undefined : text(row.id)
}

/** Those that whoever was away for a moment may not have heard of. */
export async function recentlyCancelled(db: Db): Promise<string[]> {
  return (await db.query(`select id from batches where cancelled_at > now() - interval '1 hour'`)).map((row) => text(row.id))
}

export type BatchCounts = Record<JobStatus, number> & { lastFinishedMs: number | null }

export const NO_ROWS: BatchCounts = { queued: 0, running: 0, succeeded: 0, failed: 0, cancelled: 0, parked: 0, lastFinishedMs: null }

/** Counts the rows of these batches, by their index: at most 100,000 each. */
export async function countRows(db: Db, batches: string[]): Promise<Map<string, BatchCounts>> {
  const counts = new Map<string, BatchCounts>()
  for (const id of batches) counts.set(id, { ...NO_ROWS })
  // A parked row has no end yet, and nothing more comes by itself.
  const count = `select batch, status, count(*) as count, max(case status when 'parked' then attempt_started_at else finished_at end) as last
    from jobs where batch = any($1) group by batch, status`
  // One is found by its index, and whoever has just handed it in must not wait for those who look through history.
  const rows = await (batches.length === 1 ? db.query(count, [batches]) : db.list(count, [batches]))
  for (const row of rows) {
    const found = counts.get(text(row.batch))
    if (found === undefined) continue
    found[text(row.status) as JobStatus] = number(row.count)
    const last = millisecondsOrNull(row.last)
    if (last !== null) found.lastFinishedMs = Math.max(found.lastFinishedMs ?? 0, last)
  }
  return counts
}

export type ResultRow = { record: JobRecord; output: Record<string, unknown> | null }

/** The rows that ended, in the order they were given, a page at a time. */
export async function* readResults(db: Db, batch: string): AsyncGenerator<ResultRow[]> {
  let after: JobId | null = null
  for (;;) {
    const rows = await db.query(
      `select j.*, o.output from jobs j left join job_outputs o on o.job = j.id
        where j.batch = $1 and ($2::uuid is null or j.id > $2) order by j.id limit ${RESULTS_PAGE}`,
      [batch, after],
    )
    const page = rows.map((row) => ({ record: parseJob(row), output: (row.output ?? null) as Record<string, unknown> | null }))
    const last = page.at(-1)
    if (last === undefined) return
    after = last.record.id
    yield page.filter(({ record }) => record.status !== 'queued' && record.status !== 'running')
    if (page.length < RESULTS_PAGE) return
  }
}

const RESULTS_PAGE = 500

function parseBatch(row: Record<string, unknown>): BatchRecord {
  return {
    id: text(row.id),
    team: text(row.team),
    rows: number(row.rows),
    endpoint: textOrNull(row.endpoint),
    inputFile: textOrNull(row.input_file),
    metadata: (row.metadata ?? null) as Record<string, string> | null,
    traceId: text(row.trace_id),
    createdMs: milliseconds(row.created_at),
    cancelledMs: millisecondsOrNull(row.cancelled_at),
  }
}
