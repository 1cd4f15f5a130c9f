import { setImmediate as nextTurn, setTimeout } from 'node:timers/promises'
import type { FastifyRequest } from 'fastify'
import { badRequest, Fault } from '../core/fault.ts'
import type { JobRecord } from '../core/job.ts'
import { cancelRows } from '../engine/batch-cancels.ts'
import { newRecord } from '../engine/new-job.ts'
import { newId } from '../ids.ts'
import {
  type BatchCounts,
  type BatchRecord,
  countRows,
  findBatch,
  type NewBatch,
  type NewRow,
  NO_ROWS,
  saveBatch,
} from '../store/batches.ts'
import { findIdempotencyKey } from '../store/idempotency.ts'
import type { ApiParts } from './health.ts'
import { hashOf, refuseOther } from './idempotency.ts'
import type { ParsedRequest } from './openai-request.ts'
import { newJob, refuseWhenFull } from './submit.ts'
import { Turn } from './turn.ts'
import { readIdempotencyKey, readWishes, type Wishes } from './wishes.ts'

/** One row before it is a job. */
export type Row = { rowKey: string; type: JobRecord['type']; parsed: ParsedRequest }

export type BatchIntake = {
  /** How many there are, and each of them parsed; a bad one throws and names its place. */
  count: number
  row(index: number): Row
  endpoint: string | null
  inputFile: string | null
  metadata: Record<string, string> | null
  maxWaitMs: number | null
}

/**
 * Accepts a batch whole or not at all: every row is checked, then all are stored in one transaction, then they join the
 * line. A batch that was repeated with its idempotency key is found again instead.
 */
export async function acceptBatch(parts: ApiParts, request: FastifyRequest, intake: BatchIntake): Promise<BatchRecord> {
  const claim = await claimOf(parts, request)
  if (claim !== undefined && 'known' in claim) return claim.known
  refuseCount(parts, intake.count)
  parts.keyring.count(request.caller)
  const { coming } = parts
  let rows = intake.count
  coming.rows += rows
  try {
    return await store(parts, request, intake, claim, () => {
      // One in doubt may line up long after its caller was told so.
      if (rows === 0) return
      rows -= 1
      coming.rows -= 1
    })
  } finally {
    coming.rows -= rows
    rows = 0
  }
}

async function store(
  parts: ApiParts,
  request: FastifyRequest,
  intake: BatchIntake,
  claim: Claim | undefined,
  onLinedUp: () => void,
): Promise<BatchRecord> {
  const { team, actor } = request.caller
  const wishes = readWishes(parts, request)
  // A batch is nobody's urgent wish unless it says so.
  if (request.headers['x-holdfast-priority'] === undefined) wishes.priority = 'batch'
  wishes.maxWaitMs ??= intake.maxWaitMs
  const id = newId()
  const { endpoint, inputFile, metadata } = intake
  const rows = await prepare(parts, request, intake, id, wishes)
  const batch: NewBatch = { id, team, rows: rows.length, endpoint, inputFile, metadata, traceId: wishes.traceId, ...claim }
  let saved: BatchRecord
  const { batches } = parts.coming
  const isHere = (): boolean => batches.delete(id)
  batches.add(id)
  try {
    const event = parts.newEvent('batch.accepted', actor, { batch: id, rows: rows.length, team })
    saved = await saveBatch(parts.db, batch, event, inPieces(rows))
  } catch (error) {
    if (!isLost(error)) isHere()
    // Sent twice at once: the other one was a moment earlier.
    const again = isDuplicate(error) ? await claimOf(parts, request) : undefined
    if (again !== undefined && 'known' in again) return again.known
    if (!isLost(error)) throw error
    const lined = lineUpIfStored(parts, id, rows, actor, onLinedUp).finally(isHere)
    const accepted = await Promise.race([lined, setTimeout(IN_DOUBT_MS, 'in doubt' as const)])
    if (accepted === undefined) {
      // What the network carries late after all is ours, and in nobody's line.
      for (const afterMs of LANDS_LATE_MS) void setTimeout(afterMs, undefined, { ref: false }).then(() => parts.doubtOwned())
      throw error
    }
    if (accepted === 'in doubt') throw inDoubt(id)
    return accepted
  }
  return lineUp(parts, saved, rows, actor, onLinedUp).finally(isHere)
}

async function lineUp(parts: ApiParts, batch: BatchRecord, rows: NewRow[], actor: string, onLinedUp: () => void): Promise<BatchRecord> {
  for (const [index, { record, promptCost, request: prompt }] of rows.entries()) {
    parts.dispatcher.takeUp(record, prompt, promptCost)
    onLinedUp()
    if (index % ROWS_A_TURN === ROWS_A_TURN - 1) await nextTurn()
  }
  // Whoever cancelled it meanwhile could only stop the rows that were taken up by then.
  const asked = findWhenThere(parts, batch.id).then(async (found) => {
    if (found !== undefined && found.cancelledMs !== null) await cancelRows(parts.dispatcher, new Set([batch.id]), actor)
    return found
  })
  // It is accepted, whether PostgreSQL can be asked again or not.
  return (await Promise.race([asked, setTimeout(ASK_AGAIN_MS, batch, { ref: false })])) ?? batch
}

/** What was accepted just now; where PostgreSQL went away since, all of it waits, as far as is known. */
export async function countAccepted(parts: ApiParts, batch: BatchRecord): Promise<BatchCounts> {
  try {
    return (await countRows(parts.db, [batch.id])).get(batch.id) ?? NO_ROWS
  } catch (error) {
    if (!isLost(error)) throw error
    return { ...NO_ROWS, queued: batch.rows }
  }
}

async function findWhenThere(parts: ApiParts, id: string): Promise<BatchRecord | undefined> {
  for (;;) {
    const found = await findOrAway(parts, id)
    if (found !== 'away') return found
    await setTimeout(ASK_AGAIN_MS)
  }
}

function findOrAway(parts: ApiParts, id: string): Promise<BatchRecord | undefined | 'away'> {
  return findBatch(parts.db, id).catch((error: unknown) => {
    if (!isLost(error)) throw error
    return 'away' as const
  })
}

/**
 * PostgreSQL went away while it was asked to keep a batch, and may have kept it: the rows would be ours and in nobody's line.
 * Asked as long as it takes; a commit that is on its way when the connection breaks may land a moment later.
 */
async function lineUpIfStored(
  parts: ApiParts,
  id: string,
  rows: NewRow[],
  actor: string,
  onLinedUp: () => void,
): Promise<BatchRecord | undefined> {
  for (let missing = 0; missing < 3; ) {
    await setTimeout(ASK_AGAIN_MS)
    const found = await findOrAway(parts, id)
    if (found === undefined) missing += 1
    else if (found !== 'away') return lineUp(parts, found, rows, actor, onLinedUp)
  }
  return undefined
}

function isLost(error: unknown): boolean {
  return error instanceof Fault && error.code === 'database_unavailable'
}

function inDoubt(id: string): Fault {
  return new Fault(
    'batch_in_doubt',
    `PostgreSQL went away while the batch was being stored, and it cannot be said yet whether it has it. Look for ${id} later, or send the batch again with the same idempotency-key.`,
    { status: 503, retryable: true, retryAfterS: 5 },
  )
}

const ASK_AGAIN_MS = 300
const IN_DOUBT_MS = 10_000
// A lost packet is sent again after ever longer pauses.
const LANDS_LATE_MS = [0, 15_000, 60_000, 300_000]

/** The batch that the same request made before, with the same key. */
export async function repeatedBatch(parts: ApiParts, request: FastifyRequest): Promise<BatchRecord | undefined> {
  const claim = await claimOf(parts, request)
  return claim !== undefined && 'known' in claim ? claim.known : undefined
}

type Claim = { idempotency: { key: string; hash: Buffer } }

async function claimOf(parts: ApiParts, request: FastifyRequest): Promise<Claim | { known: BatchRecord } | undefined> {
  const key = readIdempotencyKey(request)
  if (key === undefined) return undefined
  const hash = hashOf(request)
  const row = await findIdempotencyKey(parts.db, request.caller.team, key)
  if (row === undefined) return { idempotency: { key, hash } }
  refuseOther(row.hash, hash)
  const known = row.batch === null ? undefined : await findBatch(parts.db, row.batch)
  if (known === undefined) throw new Fault('not_found', 'The batch of this idempotency-key is not there any more.', { status: 404 })
  return { known }
}

/** Of a unique index: what was to be stored is there already. */
export function isDuplicate(error: unknown): boolean {
  return (error as { code?: string } | null)?.code === '23505'
}

function refuseCount(parts: ApiParts, count: number): void {
  if (count === 0) throw badRequest('invalid_rows', 'A batch must hold at least one row.', 'rows')
  if (count > ROWS_MAX) throw badRequest('invalid_rows', `A batch may hold at most ${ROWS_MAX} rows, not ${count}.`, 'rows')
  if (count > parts.queueLimit)
    throw badRequest(
      'invalid_rows',
      `A batch may hold no more rows than may wait here, ${parts.queueLimit} (HOLDFAST_QUEUE_LIMIT).`,
      'rows',
    )
  refuseWhenFull(parts, count)
}

async function prepare(parts: ApiParts, request: FastifyRequest, intake: BatchIntake, batch: string, wishes: Wishes): Promise<NewRow[]> {
  const rows: NewRow[] = []
  const seen = new Set<string>()
  const keyName = intake.endpoint === null ? 'row_key' : 'custom_id'
  const turn = new Turn()
  for (let index = 0; index < intake.count; index++) {
    const { rowKey, type, parsed } = intake.row(index)
    if (seen.has(rowKey)) throw badRequest('duplicate_row_key', `Row ${index + 1}: "${rowKey}" names an earlier row too.`, keyName)
    seen.add(rowKey)
    const job = { ...inRow(index, () => newJob(parts, request, { type, parsed, detached: true }, wishes)), batch, rowKey }
    const record = newRecord(job, parts.now(), parts.coordinator)
    const event = parts.newEvent('job.accepted', request.caller.actor, { type, model: record.model, batch })
    rows.push({
      record,
      promptCost: job.promptCost,
      request: job.request,
      event: { ...event, team: record.team, job: record.id, traceId: record.traceId },
    })
    if (turn.isOver) await turn.next()
  }
  return rows
}

/** A fault says which row it is about. */
export function inRow<T>(index: number, read: () => T): T {
  try {
    return read()
  } catch (error) {
    if (!(error instanceof Fault)) throw error
    throw new Fault(error.code, `Row ${index + 1}: ${error.message}`, {
      status: error.status,
      layer: error.layer,
      param: error.param === null ? `rows[${index}]` : `rows[${index}].${error.param}`,
    })
  }
}

async function* inPieces(rows: NewRow[]): AsyncGenerator<NewRow[]> {
  for (let index = 0; index < rows.length; index += ROWS_A_STATEMENT) yield rows.slice(index, index + ROWS_A_STATEMENT)
}

export const BATCH_BODY_BYTES = 128 * 1024 * 1024
export const ROWS_MAX = 100_000
const ROWS_A_TURN = 200
const ROWS_A_STATEMENT = 500
