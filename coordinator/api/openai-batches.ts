import { createHash } from 'node:crypto'
import type { Readable } from 'node:stream'
import multipart from '@fastify/multipart'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { validate as isUuid } from 'uuid'
import { badRequest, Fault, notFound } from '../core/fault.ts'
import { LiveJob } from '../engine/live-job.ts'
import { newId } from '../ids.ts'
import { type BatchCounts, type BatchRecord, countRows, listBatches, readResults, type ResultRow } from '../store/batches.ts'
import { deleteFile, type FileRecord, findFile, listFiles, readFileContent, saveFile } from '../store/files.ts'
import { findIdempotencyKey } from '../store/idempotency.ts'
import { type Caller, seesTeam, teamsSeen } from './auth.ts'
import { acceptBatch, BATCH_BODY_BYTES, countAccepted, inRow, isDuplicate, type Row, repeatedBatch } from './batch-intake.ts'
import { cancelBatch, getBatch, jsonLines, parseLines, parseRowBody } from './batches.ts'
import { type Body, fieldsOf, isObject, required, text } from './body.ts'
import type { ApiParts } from './health.ts'
import { refuseOther } from './idempotency.ts'
import { answerBody } from './openai-answer.ts'
import { parseEmbeddingsRequest } from './openai-embeddings.ts'
import type { ParsedRequest } from './openai-request.ts'
import { readLimit, readOneOf, readQuery } from './paging.ts'
import { openAiError } from './server.ts'
import { cutWhenUnread } from './sse.ts'
import { faultOf } from './submit.ts'
import { isStorable } from './well-formed.ts'
import { readIdempotencyKey } from './wishes.ts'

type ById = { Params: { id: string } }

/** Files and batches of the OpenAI dialect. An output file is not stored: it is written from the rows when it is read. */
export function registerOpenAiBatches(app: FastifyInstance, parts: ApiParts): void {
  // In a room of its own: it has work to do before and after every request that it could be for.
  void app.register(async (room) => {
    await room.register(multipart, { limits: { fileSize: BATCH_BODY_BYTES, files: 1, fields: 10, fieldSize: 1_000 } })
    registerUpload(room, parts)
  })
  registerFiles(app, parts)

  app.post('/v1/batches', async (request) => {
    const fields = fieldsOf(request.body, ['input_file_id', 'endpoint', 'completion_window', 'metadata'])
    const endpoint = required(text(fields, 'endpoint', 100), 'endpoint')
    if (!ENDPOINTS.includes(endpoint))
      throw badRequest('unsupported_endpoint', `endpoint must be one of ${ENDPOINTS.join(', ')}.`, 'endpoint')
    if (fields.completion_window !== '24h') throw badRequest('out_of_range', 'completion_window must be "24h".', 'completion_window')
    // Its file may be deleted by then.
    const repeated = await repeatedBatch(parts, request)
    if (repeated !== undefined) return viewOf(parts, repeated)
    const inputFile = await getFile(parts, request.caller, required(text(fields, 'input_file_id', 100), 'input_file_id'))
    const lines = await parseLines((await readFileContent(parts.db, inputFile.id)) ?? Buffer.alloc(0))
    const batch = await acceptBatch(parts, request, {
      count: lines.length,
      row: (index) => readLine(lines[index], index, endpoint),
      endpoint,
      inputFile: inputFile.id,
      metadata: readMetadata(fields.metadata),
      maxWaitMs: WINDOW_MS,
    })
    return batchView(batch, await countAccepted(parts, batch))
  })

  app.get('/v1/batches', async (request) => {
    const query = readQuery(request.query, ['limit', 'after'])
    const limit = readLimit(query.limit ?? '20')
    const before = query.after === undefined ? null : uuidOf(query.after, 'batch_')
    const batches = await listBatches(parts.db, { teams: teamsSeen(request.caller), openAi: true, before, limit: limit + 1 })
    const counts = await countRows(
      parts.db,
      batches.map((batch) => batch.id),
    )
    return list(
      batches.slice(0, limit).map((batch) => batchView(batch, counts.get(batch.id))),
      batches.length > limit,
    )
  })

  app.get<ById>('/v1/batches/:id', async (request) =>
    viewOf(parts, await getBatch(parts, request.caller, uuidOf(request.params.id, 'batch_'))),
  )

  app.post<ById>('/v1/batches/:id/cancel', async (request) => {
    const batch = await getBatch(parts, request.caller, uuidOf(request.params.id, 'batch_'))
    await cancelBatch(parts, request, batch)
    return viewOf(parts, await getBatch(parts, request.caller, batch.id))
  })
}

const ENDPOINTS = ['/v1/chat/completions', '/v1/completions', '/v1/embeddings']
// The dialect's promise: what has not begun within a day ends with an error.
const WINDOW_MS = 86_400_000

function registerUpload(app: FastifyInstance, parts: ApiParts): void {
  app.post('/v1/files', { bodyLimit: BATCH_BODY_BYTES + 1_000_000 }, async (request) => {
    if (!request.isMultipart()) throw badRequest('invalid_body', 'Send the file as multipart/form-data with purpose and file.')
    const { fields, file } = await readForm(request)
    for (const name of Object.keys(fields))
      if (name !== 'purpose') throw badRequest('unsupported_parameter', `${name.slice(0, 100)} is not supported here.`, name.slice(0, 100))
    if (fields.purpose !== 'batch') throw badRequest('unsupported_purpose', 'purpose must be "batch".', 'purpose')
    if (file === undefined) throw badRequest('missing_field', 'file is missing.', 'file')
    if (!isStorable(file.name)) throw badRequest('invalid_text', 'The name of the file holds a NUL or half a character.', 'file')
    return fileView(await keepFile(parts, request, { ...file, name: file.name.slice(0, 255) }))
  })
}

function registerFiles(app: FastifyInstance, parts: ApiParts): void {
  app.get('/v1/files', async (request) => {
    const query = readQuery(request.query, ['limit', 'after', 'purpose', 'order'])
    const order = readOneOf('order', query.order, ['asc', 'desc']) ?? 'desc'
    if (query.purpose !== undefined && query.purpose !== 'batch') return list([], false)
    const limit = readLimit(query.limit, FILES_LISTED_MAX)
    const after = query.after === undefined ? null : uuidOf(query.after, 'file-')
    const files = await listFiles(parts.db, { teams: teamsSeen(request.caller), after, order, limit: limit + 1 })
    return list(files.slice(0, limit).map(fileView), files.length > limit)
  })

  app.get<ById>('/v1/files/:id', async (request) => {
    const made = await madeFile(parts, request.caller, request.params.id)
    if (made === undefined) return fileView(await getFile(parts, request.caller, request.params.id))
    const { batch, kind } = made
    return {
      ...fileFrame(request.params.id, batch.createdMs),
      bytes: await lengthOf(madeContent(parts, made)),
      filename: `batch_${batch.id}_${kind}.jsonl`,
      purpose: 'batch_output',
    }
  })

  app.get<ById>('/v1/files/:id/content', async (request, reply) => {
    cutWhenUnread(reply.raw)
    const made = await madeFile(parts, request.caller, request.params.id)
    if (made !== undefined) return reply.type('application/jsonl').send(madeContent(parts, made))
    const file = await getFile(parts, request.caller, request.params.id)
    return reply.type('application/octet-stream').send(await readFileContent(parts.db, file.id))
  })

  app.delete<ById>('/v1/files/:id', async (request) => {
    if ((await madeFile(parts, request.caller, request.params.id)) !== undefined)
      throw new Fault('file_is_made', 'This file is written from the jobs of its batch whenever it is read: there is nothing to delete.', {
        status: 409,
      })
    const file = await getFile(parts, request.caller, request.params.id)
    await deleteFile(parts.db, file.id)
    return { id: request.params.id, object: 'file', deleted: true }
  })
}

/** As the dialect has it. */
const FILES_LISTED_MAX = 10_000

type Form = { fields: Record<string, string>; file: { name: string; content: Buffer } | undefined }

async function readForm(request: FastifyRequest): Promise<Form> {
  const form: Form = { fields: {}, file: undefined }
  try {
    for await (const part of request.parts()) {
      // A part may come without a name, whatever the type says.
      if (part.type === 'file') form.file = { name: part.filename ?? 'file', content: await part.toBuffer() }
      else form.fields[part.fieldname] = String(part.value)
    }
  } catch (cause) {
    // What exceeds a limit says so by a status; the parser of forms only says what it stumbled over.
    if ((cause as { statusCode?: unknown }).statusCode !== undefined) throw cause
    throw badRequest(
      'invalid_multipart',
      `The body is not a whole multipart form: ${cause instanceof Error ? cause.message : String(cause)}.`,
    )
  }
  return form
}

/** Repeated with its idempotency key, it is the file that was kept then. */
async function keepFile(parts: ApiParts, request: FastifyRequest, file: { name: string; content: Buffer }): Promise<FileRecord> {
  const { team } = request.caller
  const key = readIdempotencyKey(request)
  const made = { id: newId(), team, purpose: 'batch', ...file }
  if (key === undefined) return saveFile(parts.db, made, undefined)
  const hash = createHash('sha256').update(`file\n${file.name}\n`).update(file.content).digest()
  const known = await keptFile(parts, team, key, hash)
  if (known !== undefined) return known
  return saveFile(parts.db, made, { key, hash }).catch(async (error: unknown) => {
    // Sent twice at once: the other one was a moment earlier.
    const winner = isDuplicate(error) ? await keptFile(parts, team, key, hash) : undefined
    if (winner === undefined) throw error
    return winner
  })
}

async function keptFile(parts: ApiParts, team: string, key: string, hash: Buffer): Promise<FileRecord | undefined> {
  const row = await findIdempotencyKey(parts.db, team, key)
  if (row === undefined) return undefined
  refuseOther(row.hash, hash)
  const known = row.file === null ? undefined : await findFile(parts.db, row.file)
  if (known === undefined) throw notFound('The file of this idempotency-key was deleted. Use a new key to send it again.')
  return known
}

type MadeFile = { batch: BatchRecord; kind: 'output' | 'error' }

/** The batch that an output or error file is written from; undefined for a file that was uploaded. */
async function madeFile(parts: ApiParts, caller: Caller, id: string): Promise<MadeFile | undefined> {
  const [, kind, batch] = /^file-(output|error)-(.+)$/.exec(id) ?? []
  if (kind === undefined || batch === undefined) return undefined
  return { batch: await getBatch(parts, caller, batch), kind: kind as 'output' | 'error' }
}

function madeContent(parts: ApiParts, { batch, kind }: MadeFile): Readable {
  return jsonLines(only(readResults(parts.db, batch.id), kind), outputLine)
}

async function lengthOf(content: Readable): Promise<number> {
  let bytes = 0
  for await (const part of content as AsyncIterable<Buffer | string>) bytes += Buffer.byteLength(part)
  return bytes
}

async function* only(pages: AsyncIterable<ResultRow[]>, kind: 'output' | 'error'): AsyncGenerator<ResultRow[]> {
  for await (const rows of pages) yield rows.filter(({ record }) => (record.status === 'succeeded') === (kind === 'output'))
}

function outputLine({ record, output }: ResultRow): Record<string, unknown> {
  const succeeded = record.status === 'succeeded'
  const live = LiveJob.ended(record, output)
  const fault = succeeded ? null : faultOf(record)
  return {
    id: `batch_req_${record.id}`,
    custom_id: record.rowKey,
    response: { status_code: fault?.status ?? 200, request_id: record.id, body: fault === null ? answerBody(live) : openAiError(fault) },
    // That is for rows without a response; what went wrong stands in the body.
    error: null,
  }
}

async function getFile(parts: ApiParts, caller: Caller, id: string): Promise<FileRecord> {
  const file = await findFile(parts.db, uuidOf(id, 'file-'))
  if (file === undefined || !seesTeam(caller, file.team)) throw notFound(`There is no file ${id.slice(0, 100)}.`)
  return file
}

function uuidOf(id: string, prefix: string): string {
  const uuid = id.startsWith(prefix) ? id.slice(prefix.length) : ''
  if (!isUuid(uuid)) throw notFound(`There is no ${prefix.slice(0, -1)} ${id.slice(0, 100)}.`)
  return uuid
}

function readLine(value: unknown, index: number, endpoint: string): Row {
  return inRow(index, () => {
    if (!isObject(value)) throw badRequest('invalid_rows', 'must be an object with custom_id, method, url and body.')
    const { body } = fieldsOf(value, ['custom_id', 'method', 'url', 'body'])
    if (value.method !== 'POST') throw badRequest('out_of_range', 'method must be "POST".', 'method')
    if (value.url !== endpoint) throw badRequest('out_of_range', `url must be ${endpoint}, the batch's endpoint.`, 'url')
    if (!isObject(body)) throw badRequest('invalid_rows', 'body must be the body of a request.', 'body')
    const rowKey = required(text(value, 'custom_id', 256), 'custom_id')
    if (endpoint === '/v1/embeddings') return { rowKey, type: 'embedding', parsed: parseEmbeddingsRow(body) }
    const row = parseRowBody(body)
    if ((row.type === 'chat') !== (endpoint === '/v1/chat/completions'))
      throw badRequest('invalid_rows', `body does not fit ${endpoint}.`, 'body')
    return { rowKey, ...row }
  })
}

/** The output file is written from rows, which do not say in what form their vectors were wanted. */
function parseEmbeddingsRow(body: Body): ParsedRequest {
  const { base64, ...parsed } = parseEmbeddingsRequest(body)
  if (base64) throw badRequest('unsupported_parameter', 'encoding_format in a batch must be float.', 'encoding_format')
  return parsed
}

function readMetadata(value: unknown): Record<string, string> | null {
  if (value === undefined || value === null) return null
  const entries = isObject(value) ? Object.entries(value) : []
  if (
    !isObject(value) ||
    entries.length > 16 ||
    entries.some(([name, text]) => name.length > 64 || typeof text !== 'string' || text.length > 512)
  )
    throw new Fault('invalid_metadata', 'metadata may hold 16 texts of at most 512 characters, under names of at most 64.', {
      status: 400,
      param: 'metadata',
    })
  return value as Record<string, string>
}

async function viewOf(parts: ApiParts, batch: BatchRecord): Promise<Body> {
  return batchView(batch, (await countRows(parts.db, [batch.id])).get(batch.id))
}

function batchView(batch: BatchRecord, counts: BatchCounts | undefined): Body {
  const completed = counts?.succeeded ?? 0
  const failed = (counts?.failed ?? 0) + (counts?.cancelled ?? 0) + (counts?.parked ?? 0)
  const done = completed + failed >= batch.rows
  const seconds = (ms: number | null): number | null => (ms === null ? null : Math.floor(ms / 1000))
  return {
    id: `batch_${batch.id}`,
    object: 'batch',
    endpoint: batch.endpoint,
    errors: null,
    input_file_id: batch.inputFile === null ? null : `file-${batch.inputFile}`,
    completion_window: '24h',
    status: batch.cancelledMs === null ? (done ? 'completed' : 'in_progress') : done ? 'cancelled' : 'cancelling',
    output_file_id: done && completed > 0 ? `file-output-${batch.id}` : null,
    error_file_id: done && failed > 0 ? `file-error-${batch.id}` : null,
    created_at: seconds(batch.createdMs),
    in_progress_at: seconds(batch.createdMs),
    expires_at: seconds(batch.createdMs + WINDOW_MS),
    completed_at: done && batch.cancelledMs === null ? seconds(counts?.lastFinishedMs ?? null) : null,
    cancelled_at: done ? seconds(batch.cancelledMs) : null,
    request_counts: { total: batch.rows, completed, failed },
    metadata: batch.metadata,
  }
}

function fileFrame(id: string, createdMs: number): Body {
  return { id, object: 'file', created_at: Math.floor(createdMs / 1000), status: 'processed' }
}

function fileView(file: FileRecord): Body {
  return { ...fileFrame(`file-${file.id}`, file.createdMs), bytes: file.bytes, filename: file.name, purpose: file.purpose }
}

function list(data: Body[], hasMore: boolean): Body {
  return { object: 'list', data, first_id: data[0]?.id ?? null, last_id: data.at(-1)?.id ?? null, has_more: hasMore }
}
