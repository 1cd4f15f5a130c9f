import { EVENT_SEVERITY, type EventRecord } from '../core/event.ts'
import type { AttemptRecord, JobRecord } from '../core/job.ts'
import { binaryArray, binaryValue, type Element, type ElementType } from './binary-array.ts'
import { statementName } from './db.ts'
import { dayOf, partitionOf } from './migrate.ts'
import type { Payment } from './spending.ts'
import type { Batch, Progress } from './writer.ts'

/**
 * One statement for a whole batch: a common table expression per kind of row that the batch holds. Batches hold few
 * combinations of kinds, so each combination is one prepared statement, planned once. `before` is a batch that is surely stored
 * by the time this one is sent.
 */
export function statementFor(batch: Batch, before: Batch | null = null): Statement {
  const inserted: { record: JobRecord; request: string }[] = []
  const updated: JobRecord[] = []
  const ended: JobRecord[] = []
  const idempotent: Idempotent[] = []
  const callbacks: { record: JobRecord; id: string; url: string }[] = []
  for (const job of batch.jobs.values()) {
    const { record, request, along } = job
    job.told = LASTING.map(([, , value]) => value(record))
    const inRow = before?.jobs.get(record.id)?.told ?? record.inRow
    const endsOnly = request === null && inRow !== null && isSame(job.told, inRow)
    if (endsOnly) ended.push(record)
    else if (request === null) updated.push(record)
    else inserted.push({ record, request })
    if (along.idempotency !== undefined) idempotent.push({ record, ...along.idempotency })
    if (along.callback !== undefined) callbacks.push({ record, ...along.callback })
  }
  // Of larger batches there are too many combinations to plan each of them twice.
  const few = batch.jobs.size <= FEW_JOBS && batch.events.length <= 2 * FEW_JOBS
  const parts: Part[] = []
  for (const [day, rows] of byDay(inserted, ({ record }) => record.id)) {
    const records = rows.map((row) => row.record)
    const plain = records.every(isPlain)
    parts.push(insertPart(few, partitionOf('jobs', day), plain ? PLAIN_JOB : JOB, records, plain ? '-plain' : ''))
    parts.push(insertPart(few, partitionOf('job_requests', day), REQUEST, rows))
  }
  for (const [day, rows] of byDay(updated, (record) => record.id))
    parts.push(updatePart(few, 'changed', partitionOf('jobs', day), CHANGED_JOB, rows))
  for (const [day, rows] of byDay(ended, (record) => record.id))
    parts.push(updatePart(few, 'ended', partitionOf('jobs', day), ENDED_JOB, rows))
  if (idempotent.length > 0) parts.push(idempotencyPart(few, idempotent))
  if (callbacks.length > 0) parts.push(insertPart(few, 'callbacks', CALLBACK, callbacks))
  for (const [day, rows] of byDay(batch.attempts, (row) => row.job))
    parts.push(insertPart(few, partitionOf('attempts', day), ATTEMPT, rows))
  for (const [type, events] of batch.events.length < PARTED_EVENTS ? [['', batch.events] as const] : byType(batch.events))
    for (const [day, rows] of byDay(events, (row) => row.id)) parts.push(insertPart(few, partitionOf('events', day), EVENT, rows, type))
  if (batch.payments.length > 0) parts.push(insertPart(few, 'payments', PAYMENT, batch.payments))
  for (const [day, rows] of byDay(batch.outputs, (row) => row.job))
    parts.push(insertPart(few, partitionOf('job_outputs', day), OUTPUT, rows))
  if (batch.progress.length > 0) parts.push(progressPart(few, batch.progress))
  if (batch.cleared.length > 0)
    parts.push({
      key: 'cleared',
      types: ['uuid[]'],
      values: [binaryArray('uuid', batch.cleared, (job) => job)],
      sql: (p) => `delete from job_progress where job = any(${p[0]})`,
    })
  return assemble(parts)
}

/** `again` is for a batch that may be there already; looking for rows that are costs too much to do every time. */
export type Statement = { first: Prepared; again: Prepared; values: unknown[] }

type Prepared = { name: string; text: string }

type Part = { key: string; types: string[]; values: unknown[]; sql: (parameters: string[], onConflict: string) => string }

type Column<T> = [name: string, type: ElementType, value: (row: T) => Element]

const statements = new Map<string, { first: Prepared; again: Prepared }>()
const STATEMENTS_MAX = 500

function assemble(parts: Part[]): Statement {
  const key = parts.map((part) => part.key).join()
  let prepared = statements.get(key)
  if (prepared === undefined) {
    prepared = { first: prepare(parts, ''), again: prepare(parts, ' on conflict do nothing') }
    // They name days: those of the past are not needed again.
    if (statements.size >= STATEMENTS_MAX) statements.clear()
    statements.set(key, prepared)
  }
  return { ...prepared, values: parts.flatMap((part) => part.values) }
}

/** The last part is the statement itself, not one that it is with: so there is no row that PostgreSQL would have to make and describe. */
function prepare(parts: Part[], onConflict: string): Prepared {
  let number = 0
  const clauses = parts.map((part) => {
    const parameters = part.types.map((type) => `$${++number}::${type}`)
    return { name: part.key.replaceAll('-', '_'), sql: part.sql(parameters, onConflict) }
  })
  const last = clauses.pop()
  const before = clauses.map(({ name, sql }) => `${name} as (${sql})`).join(', ')
  const text = `${before === '' ? '' : `with ${before} `}${last?.sql}`
  return { name: statementName(text), text }
}

/** Most jobs are new and wish for nothing: what they all leave empty is not sent. */
function isPlain(record: JobRecord): boolean {
  if (record.needs.length > 0 || record.costMicros > 0 || record.tokensBefore > 0 || record.strikes > 0 || record.failures > 0) return false
  for (const field of MOSTLY_NULL) if (record[field] !== null) return false
  return true
}

function insertPart<T>(few: boolean, table: string, columns: Column<T>[], rows: readonly T[], kind = ''): Part {
  const { form, types, values, select } = given(columns, rows, few)
  return {
    key: `new-${table}${kind}${form}`,
    types,
    values,
    sql: (parameters, onConflict) =>
      `insert into ${table} (${columns.map(([name]) => name).join(', ')}) ${select(parameters)}${onConflict}`,
  }
}

/** Sent again, a key is there already for the same job, or it is another's, which must be told. */
function idempotencyPart(few: boolean, rows: readonly Idempotent[]): Part {
  const part = insertPart(few, 'idempotency_keys', IDEMPOTENCY, rows)
  const { select } = given(IDEMPOTENCY, rows, few)
  return {
    ...part,
    sql: (parameters, onConflict) =>
      onConflict === ''
        ? part.sql(parameters, '')
        : `insert into idempotency_keys (team, key, request_hash, job) select * from (${select(parameters)}) x
             where not exists (select from idempotency_keys k where k.team = x.team and k.key = x.key and k.job = x.job)`,
  }
}

/**
 * A record only ever replaces an older version of itself, so a batch sent twice, or late, changes nothing; and only its
 * owner writes a job, so a coordinator that slept through its lease does not either. A parked job is anybody's.
 */
function updatePart(few: boolean, what: string, table: string, columns: Column<JobRecord>[], rows: readonly JobRecord[]): Part {
  const { form, types, values, select } = given(columns, rows, few)
  return {
    key: `${what}-${table}${form}`,
    types,
    values,
    sql: (parameters) => `update ${table} j set ${columns
      .filter(([name]) => name !== 'id')
      .map(([name]) => `${name} = x.${name}`)
      .join(', ')}
      from (${select(parameters)}) x where j.id = x.id and j.version < x.version and (j.owner = x.owner or j.status = 'parked')`,
  }
}

/** Most changes are the end of an attempt of which all else is in the row: that is not said again. */
function isSame(told: readonly unknown[], inRow: readonly unknown[]): boolean {
  return told.every((value, index) => value === inRow[index])
}

/** The two kinds that nearly every job has, and all others: within each of the two there is less to tell. */
function byType(events: readonly EventRecord[]): Iterable<[kind: string, events: readonly EventRecord[]]> {
  const kinds: [string, EventRecord[]][] = [
    ['-accepted', []],
    ['-succeeded', []],
    ['', []],
  ]
  for (const event of events) kinds[event.type === 'job.accepted' ? 0 : event.type === 'job.succeeded' ? 1 : 2]?.[1].push(event)
  return kinds.filter(([, rows]) => rows.length > 0)
}

/**
 * Rows as parameters, and the select that makes rows of them again: an array per column and a list of `unnest`, where one
 * `unnest` over all of them would copy every array into a table of its own first; with forty columns that was half of what a
 * small statement cost. A single row, which is all that one caller makes at a time, is values by themselves: a sixth less. And
 * where the rows are of one kind, such as those of one model that one worker serves, what they have in common is said once.
 */
function given<T>(columns: Column<T>[], rows: readonly T[], few: boolean): Given {
  const [only] = rows
  const one = few && rows.length === 1 && only !== undefined
  const alike = !one && areAlike(columns, rows)
  const isSingle = ([name]: Column<T>): boolean => one || (alike && COMMON.has(name))
  return {
    form: one ? '-one' : alike ? '-alike' : '',
    types: columns.map((column) => (isSingle(column) ? column[1] : `${column[1]}[]`)),
    values: columns.map((column) => {
      const [, type, value] = column
      return isSingle(column) ? binaryValue(type, value(rows[0] as T)) : binaryArray(type, rows, value)
    }),
    select: (parameters) =>
      `select ${columns.map((column, index) => `${isSingle(column) ? parameters[index] : `unnest(${parameters[index]})`} as ${column[0]}`).join(', ')}`,
  }
}

function areAlike<T>(columns: Column<T>[], rows: readonly T[]): boolean {
  const [first, ...others] = rows
  if (first === undefined) return false
  let some = false
  for (const [name, , value] of columns) {
    if (!COMMON.has(name)) continue
    some = true
    const common = value(first)
    for (const other of others) if (value(other) !== common) return false
  }
  return some
}

// Of these columns.
const COMMON = new Set(
  'version status type team model key priority owner detached attempt worker worker_name tier served_model model_sha256 finish_reason severity actor provider'.split(
    ' ',
  ),
)

type Given = { form: string; types: string[]; values: unknown[]; select: (parameters: string[]) => string }

// One caller after another: the end of a job travels with the beginning of the next.
const FEW_JOBS = 2
// Of fewer it costs more to plan for another kind than there is to gain.
const PARTED_EVENTS = 32

/**
 * The rows of each day, under an id of that day; nearly always it is one. Statements name the partition of the day: to find
 * it for each row, or to open all of them, costs PostgreSQL more than to write the row.
 */
function byDay<T>(rows: readonly T[], idOf: (row: T) => string): Iterable<[id: string, rows: readonly T[]]> {
  const [first] = rows
  if (first === undefined) return []
  const day = dayOf(idOf(first))
  if (rows.every((row) => dayOf(idOf(row)) === day)) return [[idOf(first), rows]]
  const days = new Map<number, [string, T[]]>()
  for (const row of rows) {
    const id = idOf(row)
    const others = days.get(dayOf(id))
    if (others === undefined) days.set(dayOf(id), [id, [row]])
    else others[1].push(row)
  }
  return days.values()
}

/** Arrays of unequal length do not fit in unnest: token ids travel as text and are parsed there. */
function progressPart(few: boolean, rows: readonly Progress[]): Part {
  const { form, types, values, select } = given(PROGRESS, rows, few)
  return {
    key: `new-progress${form}`,
    types,
    values,
    sql: (parameters, onConflict) => `insert into job_progress (job, first_token, token_ids, text, extra)
      select job, first_token, token_ids::integer[], text, extra from (${select(parameters)}) x${onConflict}`,
  }
}

const JOB: Column<JobRecord>[] = [
  ['id', 'uuid', (r) => r.id],
  ['version', 'integer', (r) => r.version],
  ['status', 'text', (r) => r.status],
  ['type', 'text', (r) => r.type],
  ['team', 'text', (r) => r.team],
  ['model', 'text', (r) => r.model],
  ['pinned_provider', 'text', (r) => r.pinnedProvider],
  ['pinned_tier', 'text', (r) => r.pinnedTier],
  ['policy', 'text', (r) => r.policy],
  ['key', 'uuid', (r) => r.key],
  ['needs', 'text', (r) => (r.needs.length === 0 ? null : r.needs.join())],
  ['priority', 'text', (r) => r.priority],
  ['max_wait_ms', 'bigint', (r) => r.maxWaitMs],
  ['max_run_ms', 'bigint', (r) => r.maxRunMs],
  ['cost', 'integer', (r) => r.cost],
  ['batch', 'uuid', (r) => r.batch],
  ['row_key', 'text', (r) => r.rowKey],
  ['owner', 'uuid', (r) => r.owner],
  ['strikes', 'integer', (r) => r.strikes],
  ['failures', 'integer', (r) => r.failures],
  ['detached', 'boolean', (r) => r.detached],
  ['seed', 'bigint', (r) => r.seed],
  ['trace_id', 'uuid', (r) => r.traceId],
  ['created_at', 'timestamptz', (r) => r.createdMs],
  ['started_at', 'timestamptz', (r) => r.startedMs],
  ['finished_at', 'timestamptz', (r) => r.finishedMs],
  ['attempt', 'integer', (r) => r.attempt],
  ['attempt_started_at', 'timestamptz', (r) => r.attemptStartedMs],
  ['tokens_before', 'integer', (r) => r.tokensBefore],
  ['worker', 'uuid', (r) => r.worker],
  ['worker_name', 'text', (r) => r.workerName],
  ['tier', 'text', (r) => r.tier],
  ['served_model', 'text', (r) => r.servedModel],
  ['model_sha256', 'text', (r) => r.modelSha256],
  ['queue_ms', 'integer', (r) => inInteger(r.queueMs)],
  ['first_token_ms', 'integer', (r) => inInteger(r.firstTokenMs)],
  ['prompt_tokens', 'integer', (r) => r.promptTokens],
  ['completion_tokens', 'integer', (r) => r.completionTokens],
  ['cached_tokens', 'integer', (r) => r.cachedTokens],
  ['cost_micros', 'bigint', (r) => r.costMicros],
  ['finish_reason', 'text', (r) => r.finishReason],
  ['error', 'json', (r) => json(r.error)],
]

const MOSTLY_NULL = [
  'pinnedProvider',
  'pinnedTier',
  'policy',
  'maxWaitMs',
  'maxRunMs',
  'batch',
  'rowKey',
  'finishedMs',
  'firstTokenMs',
  'promptTokens',
  'completionTokens',
  'cachedTokens',
  'finishReason',
  'error',
] as const satisfies readonly (keyof JobRecord)[]

const LEFT_OUT = new Set(
  'pinned_provider pinned_tier policy max_wait_ms max_run_ms batch row_key finished_at first_token_ms prompt_tokens completion_tokens cached_tokens finish_reason error needs cost_micros tokens_before strikes failures'.split(
    ' ',
  ),
)
const PLAIN_JOB = JOB.filter(([name]) => !LEFT_OUT.has(name))

const CHANGING = new Set(
  'version status strikes failures detached started_at finished_at attempt attempt_started_at tokens_before worker worker_name tier served_model model_sha256 queue_ms first_token_ms prompt_tokens completion_tokens cached_tokens cost_micros finish_reason error'.split(
    ' ',
  ),
)

type Idempotent = { record: JobRecord; key: string; hash: Buffer }

const CHANGED_JOB = JOB.filter(([name]) => name === 'id' || name === 'owner' || CHANGING.has(name))

const ENDING = new Set(
  'id owner version status finished_at first_token_ms prompt_tokens completion_tokens cached_tokens finish_reason'.split(' '),
)
const ENDED_JOB = JOB.filter(([name]) => ENDING.has(name))

/** What may change, and does not with an end. */
const LASTING = CHANGED_JOB.filter(([name]) => !ENDING.has(name) || name === 'owner')

const IDEMPOTENCY: Column<Idempotent>[] = [
  ['team', 'text', (r) => r.record.team],
  ['key', 'text', (r) => r.key],
  ['request_hash', 'bytea', (r) => r.hash],
  ['job', 'uuid', (r) => r.record.id],
]

const CALLBACK: Column<{ record: JobRecord; id: string; url: string }>[] = [
  ['id', 'uuid', (r) => r.id],
  ['job', 'uuid', (r) => r.record.id],
  ['team', 'text', (r) => r.record.team],
  ['url', 'text', (r) => r.url],
  ['trace_id', 'uuid', (r) => r.record.traceId],
]

const REQUEST: Column<{ record: JobRecord; request: string }>[] = [
  ['job', 'uuid', (r) => r.record.id],
  ['request', 'json', (r) => r.request],
]

const OUTPUT: Column<{ job: string; output: string }>[] = [
  ['job', 'uuid', (r) => r.job],
  ['output', 'json', (r) => r.output],
]

const ATTEMPT: Column<AttemptRecord>[] = [
  ['job', 'uuid', (r) => r.job],
  ['number', 'integer', (r) => r.number],
  ['status', 'text', (r) => r.status],
  ['worker', 'uuid', (r) => r.worker],
  ['worker_name', 'text', (r) => r.workerName],
  ['tier', 'text', (r) => r.tier],
  ['started_at', 'timestamptz', (r) => r.startedMs],
  ['finished_at', 'timestamptz', (r) => r.finishedMs],
  ['tokens', 'integer', (r) => r.tokens],
  ['error', 'json', (r) => json(r.error)],
  ['trace_id', 'uuid', (r) => r.traceId],
]

const EVENT: Column<EventRecord>[] = [
  ['id', 'uuid', (r) => r.id],
  ['at', 'timestamptz', (r) => r.atMs],
  ['severity', 'text', (r) => EVENT_SEVERITY[r.type]],
  ['type', 'text', (r) => r.type],
  ['actor', 'text', (r) => storable(r.actor)],
  ['team', 'text', (r) => r.team],
  ['job', 'uuid', (r) => r.job],
  ['provider', 'text', (r) => r.provider],
  ['worker', 'text', (r) => r.worker],
  ['trace_id', 'uuid', (r) => r.traceId],
  ['details', 'json', (r) => json(r.details)],
]

const PAYMENT: Column<Payment>[] = [
  ['job', 'uuid', (r) => r.job],
  ['attempt', 'integer', (r) => r.attempt],
  ['at', 'timestamptz', (r) => r.atMs],
  ['provider', 'text', (r) => r.provider],
  ['team', 'text', (r) => r.team],
  ['policy', 'text', (r) => r.policy],
  ['key', 'uuid', (r) => r.key],
  ['micros', 'bigint', (r) => r.micros],
]

const PROGRESS: Column<Progress>[] = [
  ['job', 'uuid', (r) => r.job],
  ['first_token', 'integer', (r) => r.firstToken],
  ['token_ids', 'text', (r) => `{${r.tokenIds.join()}}`],
  ['text', 'text', (r) => storable(r.text)],
  ['extra', 'json', (r) => r.extra],
]

function json(value: unknown): string | null {
  return value === null ? null : JSON.stringify(value)
}

/** A job may wait for longer than the 24.8 days of milliseconds that an integer holds; its times tell how long exactly. */
function inInteger(ms: number | null): number | null {
  return ms === null ? null : Math.min(ms, INTEGER_MAX)
}

const INTEGER_MAX = 2_147_483_647

/** PostgreSQL text holds no NUL and no half surrogate. JSON columns need no such care: JSON.stringify escapes both. */
function storable(text: string): string {
  return text.includes('\u0000') || !text.isWellFormed() ? text.replaceAll('\u0000', '\uFFFD').toWellFormed() : text
}
