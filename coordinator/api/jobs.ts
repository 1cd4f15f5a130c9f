import { decimal } from '../../proto/settings.ts'
import type { IncomingMessage } from 'node:http'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { validate as isUuid } from 'uuid'
import { badRequest, Fault, notFound } from '../core/fault.ts'
import { type AttemptRecord, isFinal, type JobId, type JobRecord, type JobStatus } from '../core/job.ts'
import type { LiveJob } from '../engine/live-job.ts'
import { checkCallbackUrl } from '../engine/outbound.ts'
import { type CallbackRecord, listOf } from '../store/callbacks.ts'
import { findJob, listJobs, readAttempts, readOutput } from '../store/jobs.ts'
import { findTeam } from '../store/teams.ts'
import { afterStored } from './after-stored.ts'
import { type Caller, requireOperator, scopeOf, seesTeam, teamsSeen } from './auth.ts'
import { objectBody, text } from './body.ts'
import type { ApiParts } from './health.ts'
import { JOB_ELSEWHERE, readEnded } from './idempotency.ts'
import { JobStream, readPlace } from './job-stream.ts'
import { readDecision } from './decisions.ts'
import { jobView } from './job-view.ts'
import { parseChatRequest, parseCompletionRequest } from './openai-request.ts'
import { cancelJob, releaseJob } from './parked.ts'
import { page, readCursor, readEnough, readLimit, readOneOf, readQuery, rfc3339 } from './paging.ts'
import { haveWebhookSecret } from './teams.ts'
import { isSettled } from './sse.ts'
import { ended, type Submission, submit } from './submit.ts'

type ById = { Params: { id: string } }

export function registerJobs(app: FastifyInstance, parts: ApiParts): void {
  app.get('/api/jobs', async (request) => {
    const query = readQuery(request.query, ['limit', 'cursor', 'status', 'model', 'team'])
    const limit = readLimit(query.limit)
    const status = readOneOf('status', query.status, STATUSES)
    // Of another team there is nothing to be seen, and the scope says so.
    const team = query.team === undefined ? undefined : ((await findTeam(parts.db, query.team))?.name ?? query.team)
    if (team !== undefined && !seesTeam(request.caller, team)) return page([], limit, String, scopeOf(request.caller))
    const teams = team === undefined ? teamsSeen(request.caller) : [team]
    const filter = { status, model: query.model ?? null, teams }
    // What was accepted in the same moment belongs to the list, although it is not on disk yet.
    await parts.dispatcher.settled()
    // Memory is newer than the rows that were asked for, and what it says otherwise of is left out.
    const records = await readEnough(readCursor(query.cursor), limit + 1, {
      read: async (before, count) =>
        (await listJobs(parts.db, { ...filter, before, limit: count })).map((record) => parts.dispatcher.find(record.id)?.record ?? record),
      fits: (record) => status === null || record.status === status,
    })
    const attempts = await attemptsOf(parts, records)
    const view = (record: JobRecord): unknown => jobView(record, attempts.get(record.id) ?? [], parts.dispatcher.waiting(record.id))
    return page(records, limit, view, scopeOf(request.caller))
  })

  app.post('/api/jobs', async (request, reply) => {
    const { id, view } = await submitted(parts, request)
    return reply
      .code(202)
      .headers({ location: `/api/jobs/${id}`, 'x-holdfast-job': id })
      .send(view)
  })

  app.get<ById>('/api/jobs/:id', async (request) => {
    const query = readQuery(request.query, ['wait_s'])
    const id = jobId(request.params.id)
    const waitMs = readWait(query.wait_s)
    const record = await getRecord(parts, request.caller, id)
    const live = parts.dispatcher.find(id)
    if (live !== undefined && waitMs > 0) await ended(parts, live, waitMs)
    else if (!isSettled(record.status) && waitMs > 0) await endedElsewhere(parts, id, waitMs, request.raw)
    return readJob(parts, request.caller, id)
  })

  app.get<ById>('/api/jobs/:id/stream', async (request, reply) => {
    readQuery(request.query, [])
    const id = jobId(request.params.id)
    const { 'last-event-id': lastEventId } = request.headers
    const place = readPlace(typeof lastEventId === 'string' ? lastEventId : undefined)
    const { team } = await getRecord(parts, request.caller, id)
    const live = parts.dispatcher.find(id) ?? (await readEnded(parts, id))
    reply.hijack()
    const mayRead = (): boolean => {
      const now = parts.keyring.present(request.caller)
      return now !== undefined && seesTeam(now, team)
    }
    new JobStream(parts.dispatcher, live, reply.raw, place, mayRead).open({ 'x-holdfast-job': id, 'x-request-id': request.id })
    return reply
  })

  app.get<ById>('/api/jobs/:id/decision', async (request) => {
    readQuery(request.query, [])
    const record = await getRecord(parts, request.caller, jobId(request.params.id))
    return readDecision(parts, record)
  })

  app.post<ById>('/api/jobs/:id/cancel', async (request) => {
    const id = jobId(request.params.id)
    await getRecord(parts, request.caller, id)
    await cancelJob(parts, request, id)
    return afterStored('The job was cancelled', () => readJob(parts, request.caller, id))
  })

  app.post<ById>('/api/jobs/:id/release', async (request) => {
    requireOperator(request.caller)
    const id = jobId(request.params.id)
    await getRecord(parts, request.caller, id)
    await releaseJob(parts, request, id)
    return afterStored('The job was released', () => readJob(parts, request.caller, id))
  })
}

/** Of a job that another coordinator runs only the row is seen here. */
async function endedElsewhere(parts: ApiParts, id: JobId, waitMs: number, caller: IncomingMessage): Promise<void> {
  const endMs = performance.now() + waitMs
  while (performance.now() < endMs && !caller.destroyed) {
    await new Promise((resolve) => setTimeout(resolve, Math.min(LOOK_EVERY_MS, endMs - performance.now())))
    const record = parts.dispatcher.find(id)?.record ?? (await findJob(parts.db, id))
    if (record === undefined || isSettled(record.status)) return
  }
}

const LOOK_EVERY_MS = 1_000

async function submitted(parts: ApiParts, request: FastifyRequest): Promise<{ id: JobId; view: Record<string, unknown> }> {
  const submission = await readSubmission(parts, request)
  try {
    const { live, stored } = await submit(parts, request, submission)
    await stored
    const { record } = live
    return { id: record.id, view: jobView(record, live.endedAttempts, parts.dispatcher.waiting(record.id)) }
  } catch (fault) {
    // Its idempotency key is of a job that another coordinator runs, which is all there is to be said.
    if (!(fault instanceof Fault) || fault.code !== JOB_ELSEWHERE) throw fault
    const id = fault.job as JobId
    return { id, view: await readJob(parts, request.caller, id) }
  }
}

/** The body of a chat completion or, with `prompt`, of a completion, and where to call back. */
async function readSubmission(parts: ApiParts, request: FastifyRequest): Promise<Submission> {
  const { callback_url: _, ...body } = objectBody(request.body)
  if (body.stream === true)
    throw badRequest('unsupported_parameter', 'A job is not streamed in the answer to its POST; read GET /api/jobs/{id}/stream.', 'stream')
  const completion = body.prompt !== undefined
  const submission: Submission = {
    type: completion ? 'completion' : 'chat',
    parsed: completion ? parseCompletionRequest(body) : parseChatRequest(body),
    detached: true,
  }
  const callbackUrl = text(objectBody(request.body), 'callback_url', 2_000)
  if (callbackUrl === null) return submission
  const url = checkCallbackUrl(callbackUrl)
  parts.outbound.checkAddress(url, 'callback_url')
  await haveWebhookSecret(parts, request.caller)
  return { ...submission, callbackUrl: url.href }
}

function readWait(value: string | undefined): number {
  if (value === undefined) return 0
  const seconds = decimal(value)
  if (!(seconds >= 0 && seconds <= WAIT_S_MAX))
    throw badRequest('out_of_range', `wait_s must be seconds from 0 to ${WAIT_S_MAX}.`, 'wait_s')
  return seconds * 1000
}

// Proxies on the way close what is silent for longer.
const WAIT_S_MAX = 300

const STATUSES: readonly JobStatus[] = ['queued', 'running', 'succeeded', 'failed', 'cancelled', 'parked']

function jobId(text: string): JobId {
  if (!isUuid(text)) throw noSuchJob(text)
  return text.toLowerCase() as JobId
}

function noSuchJob(id: string): Error {
  return notFound(`There is no job ${id.slice(0, 100)}.`)
}

/** Memory first: it is newer than PostgreSQL while a job lives. What is another team's is not there. */
async function getRecord(parts: ApiParts, caller: Caller, id: JobId): Promise<JobRecord> {
  const record = parts.dispatcher.find(id)?.record ?? (await findJob(parts.db, id))
  if (record === undefined || !seesTeam(caller, record.team)) throw noSuchJob(id)
  return record
}

async function readJob(parts: ApiParts, caller: Caller, id: JobId): Promise<Record<string, unknown>> {
  await getRecord(parts, caller, id)
  const callback = (await listOf(parts.db, id)).at(-1)
  return { ...(await viewJob(parts, id)), callback: callback === undefined ? null : callbackView(callback) }
}

/** The job with its attempts and, once nothing more comes by itself, its output; undefined when there is none. */
export async function viewJob(parts: ApiParts, id: JobId): Promise<Record<string, unknown> | undefined> {
  const live = parts.dispatcher.find(id)
  const record = live?.record ?? (await findJob(parts.db, id))
  if (record === undefined) return undefined
  for (;;) {
    const { version } = record
    const attempts = (await attemptsOf(parts, [record])).get(id) ?? []
    const output = await outputOf(parts, record, live)
    // What a live job went through while PostgreSQL was asked is not in what it answered.
    if (record.version === version) return jobView(record, attempts, parts.dispatcher.waiting(id), output)
  }
}

/** Of a parked job it is what was delivered so far: a release goes on from there. */
async function outputOf(parts: ApiParts, record: JobRecord, live: LiveJob | undefined): Promise<unknown> {
  if (isFinal(record.status)) return live !== undefined ? live.output() : readOutput(parts.db, record.id)
  if (record.status !== 'parked') return null
  const parked = live ?? (await readEnded(parts, record.id))
  return parked.tokenIds.length === 0 ? null : parked.output()
}

/** Stored attempts, and those that ended but are not stored yet. */
async function attemptsOf(parts: ApiParts, records: JobRecord[]): Promise<Map<JobId, AttemptRecord[]>> {
  const byJob = new Map<JobId, AttemptRecord[]>()
  const add = (attempt: AttemptRecord): void => {
    const known = byJob.get(attempt.job) ?? []
    if (!known.some((other) => other.number === attempt.number)) byJob.set(attempt.job, [...known, attempt])
  }
  // They may be stored, and forgotten here, while PostgreSQL is asked.
  const lives = records.map((record) => parts.dispatcher.find(record.id))
  for (const attempt of await readAttempts(
    parts.db,
    records.map((record) => record.id),
  ))
    add(attempt)
  for (const live of lives) for (const attempt of live?.endedAttempts ?? []) add(attempt)
  return byJob
}

/** How far the message to the caller has come; the address alone is not repeated, it may be as good as a password. */
function callbackView(callback: CallbackRecord): Record<string, unknown> {
  return {
    state: callback.state,
    attempts: callback.attempts,
    due_at: rfc3339(callback.dueMs),
    delivered_at: rfc3339(callback.deliveredMs),
    last_status: callback.lastStatus,
    last_error: callback.lastError,
  }
}
