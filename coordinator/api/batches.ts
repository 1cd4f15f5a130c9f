import { Readable } from 'node:stream'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { validate as isUuid } from 'uuid'
import { badRequest, Fault, notFound } from '../core/fault.ts'
import {
  type BatchCounts,
  type BatchRecord,
  countRows,
  findBatch,
  listBatches,
  markCancelled,
  NO_ROWS,
  readResults,
  type ResultRow,
} from '../store/batches.ts'
import { recorded } from '../store/events.ts'
import { type Caller, scopeOf, seesTeam, teamsSeen } from './auth.ts'
import { acceptBatch, BATCH_BODY_BYTES, countAccepted, inRow, type Row, ROWS_MAX } from './batch-intake.ts'
import { type Body, fieldsOf, isObject, required, text } from './body.ts'
import type { ApiParts } from './health.ts'
import { errorView, usageView } from './job-view.ts'
import { parseChatRequest, parseCompletionRequest } from './openai-request.ts'
import { cutWhenUnread } from './sse.ts'
import { Turn } from './turn.ts'
import { isDeeper, manyValues, NESTING_MAX, VALUES_MAX } from './well-formed.ts'
import { page, readCursor, readLimit, readQuery, rfc3339 } from './paging.ts'

type ById = { Params: { id: string } }

/** Many jobs under one id: rows in, as JSON or JSONL, and their results out as JSONL. */
export function registerBatches(app: FastifyInstance, parts: ApiParts): void {
  app.addContentTypeParser(
    ['application/x-ndjson', 'application/jsonl', 'application/x-jsonlines'],
    { parseAs: 'buffer' },
    async (request: FastifyRequest, body: Buffer) => {
      if (request.routeOptions.url !== BATCHES)
        throw new Fault('unsupported_media_type', `Only ${BATCHES} takes lines. Send the body as application/json.`, { status: 415 })
      return parseLines(body)
    },
  )

  app.post(BATCHES, { bodyLimit: BATCH_BODY_BYTES }, async (request, reply) => {
    const { model = null } = readQuery(request.query, ['model'])
    const { rows, model: named } = rowsOf(request.body)
    const batch = await acceptBatch(parts, request, {
      count: rows.length,
      row: (index) => readRow(rows[index], index, named ?? model),
      endpoint: null,
      inputFile: null,
      metadata: null,
      maxWaitMs: null,
    })
    return reply
      .code(202)
      .header('location', `/api/batches/${batch.id}`)
      .send(batchView(batch, await countAccepted(parts, batch)))
  })

  app.get('/api/batches', async (request) => {
    const query = readQuery(request.query, ['limit', 'cursor'])
    const limit = readLimit(query.limit)
    const batches = await listBatches(parts.db, {
      teams: teamsSeen(request.caller),
      openAi: null,
      before: readCursor(query.cursor),
      limit: limit + 1,
    })
    const counts = await countRows(
      parts.db,
      batches.map((batch) => batch.id),
    )
    return page(batches, limit, (batch) => batchView(batch, counts.get(batch.id)), scopeOf(request.caller))
  })

  app.get<ById>('/api/batches/:id', async (request) => viewOf(parts, await getBatch(parts, request.caller, request.params.id)))

  app.get<ById>('/api/batches/:id/results', async (request, reply) => {
    const batch = await getBatch(parts, request.caller, request.params.id)
    cutWhenUnread(reply.raw)
    return reply.type('application/x-ndjson').send(jsonLines(readResults(parts.db, batch.id), resultView))
  })

  app.post<ById>('/api/batches/:id/cancel', async (request) => {
    const batch = await getBatch(parts, request.caller, request.params.id)
    await cancelBatch(parts, request, batch)
    return viewOf(parts, await getBatch(parts, request.caller, batch.id))
  })
}

/** What has ended stays as it is. */
export async function cancelBatch(parts: ApiParts, request: FastifyRequest, batch: BatchRecord): Promise<void> {
  const marked = await recorded(
    parts.db,
    (query) => markCancelled(query, batch.id),
    (id) => parts.newEvent('batch.cancelled', request.caller.actor, { batch: id }),
  )
  // Of two cancels at once one marks it, and the other finds it marked.
  if (marked === undefined && (await findBatch(parts.db, batch.id))?.cancelledMs === null)
    throw new Fault('batch_is_final', 'The batch is completed already and cannot be cancelled.', { status: 409 })
  await parts.batchCancels.cancel(new Set([batch.id]), request.caller.actor)
  parts.tellOthers()
  await parts.stored()
}

/** What another team's is is not there. */
export async function getBatch(parts: ApiParts, caller: Caller, id: string): Promise<BatchRecord> {
  const batch = isUuid(id) ? await findBatch(parts.db, id) : undefined
  if (batch === undefined || !seesTeam(caller, batch.team)) throw notFound(`There is no batch ${id.slice(0, 100)}.`)
  return batch
}

export function jsonLines(pages: AsyncIterable<ResultRow[]>, view: (row: ResultRow) => unknown): Readable {
  const texts = async function* (): AsyncGenerator<string> {
    for await (const rows of pages) if (rows.length > 0) yield rows.map((row) => `${JSON.stringify(view(row))}\n`).join('')
  }
  return Readable.from(texts())
}

/** A list made of lines is marked as such: it has no model of its own beside it. */
function rowsOf(body: unknown): { rows: unknown[]; model: string | null } {
  if (Array.isArray(body)) return { rows: body, model: null }
  const fields = fieldsOf(body, ['model', 'rows'])
  if (!Array.isArray(fields.rows)) throw badRequest('invalid_rows', 'rows must be a list of rows.', 'rows')
  return { rows: fields.rows, model: text(fields, 'model', 200) }
}

/** As editors write them: with a mark of their byte order or without, and with empty lines. Others are served meanwhile. */
export async function parseLines(body: Buffer): Promise<unknown[]> {
  const rows: unknown[] = []
  const turn = new Turn()
  for (let begin = 0, number = 1; begin < body.length; number++) {
    if (number > LINES_MAX || rows.length > ROWS_MAX)
      throw badRequest('invalid_rows', `A batch may hold at most ${ROWS_MAX} rows, in ${LINES_MAX} lines.`, 'rows')
    const found = body.indexOf(0x0a, begin)
    const end = found < 0 ? body.length : found
    const row = parseLine(body.subarray(begin, end), number)
    if (row !== undefined) rows.push(row)
    begin = end + 1
    if (turn.isOver) await turn.next()
  }
  return rows
}

/** Undefined for an empty one. */
function parseLine(line: Buffer, number: number): unknown {
  let text: string
  try {
    text = UTF8.decode(line)
  } catch {
    throw badRequest('invalid_text', `Line ${number} is not UTF-8.`, 'rows')
  }
  if (text.trim() === '') return undefined
  if (manyValues(text, VALUES_MAX) !== null)
    throw badRequest('too_many_values', `Line ${number} holds more than ${VALUES_MAX} values.`, 'rows')
  let row: unknown
  try {
    row = JSON.parse(text)
  } catch {
    throw badRequest('invalid_json', `Line ${number} is not valid JSON.`, 'rows')
  }
  if (isDeeper(row)) throw badRequest('nested_too_deep', `Line ${number} is nested more than ${NESTING_MAX} levels deep.`, 'rows')
  return row
}

const UTF8 = new TextDecoder('utf-8', { fatal: true })
const LINES_MAX = 2 * ROWS_MAX
const BATCHES = '/api/batches'

function readRow(value: unknown, index: number, model: string | null): Row {
  return inRow(index, () => {
    if (!isObject(value)) throw badRequest('invalid_rows', 'must be an object with row_key and messages.')
    const { row_key: _, ...body } = value
    const rowKey = required(text(value, 'row_key', 256), 'row_key')
    return { rowKey, ...parseRowBody(model === null ? body : { model, ...body }) }
  })
}

export function parseRowBody(body: Body): Omit<Row, 'rowKey'> {
  if (body.stream === true) throw badRequest('unsupported_parameter', 'stream: a row of a batch is not streamed.', 'stream')
  return body.prompt === undefined
    ? { type: 'chat', parsed: parseChatRequest(body) }
    : { type: 'completion', parsed: parseCompletionRequest(body) }
}

async function viewOf(parts: ApiParts, batch: BatchRecord): Promise<Record<string, unknown>> {
  return batchView(batch, (await countRows(parts.db, [batch.id])).get(batch.id))
}

function batchView(batch: BatchRecord, counts: BatchCounts | undefined): Record<string, unknown> {
  const { lastFinishedMs, ...byStatus } = counts ?? NO_ROWS
  const unfinished = byStatus.queued + byStatus.running
  return {
    id: batch.id,
    team: batch.team,
    status:
      unfinished > 0 ? (batch.cancelledMs === null ? 'running' : 'cancelling') : batch.cancelledMs === null ? 'completed' : 'cancelled',
    rows: batch.rows,
    counts: { total: batch.rows, ...byStatus },
    created_at: rfc3339(batch.createdMs),
    finished_at: unfinished > 0 ? null : rfc3339(lastFinishedMs),
    cancelled_at: rfc3339(batch.cancelledMs),
    results_url: `/api/batches/${batch.id}/results`,
  }
}

function resultView({ record, output }: ResultRow): Record<string, unknown> {
  const { rowKey, id, status, error } = record
  return { row_key: rowKey, job: id, status, output, usage: usageView(record), error: errorView(error) }
}
