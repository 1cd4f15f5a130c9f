import type { FastifyInstance } from 'fastify'
import { validate as isUuid } from 'uuid'
import { Fault, notFound } from '../core/fault.ts'
import { type AttemptRecord, isFinal, type JobId, type JobRecord, type JobStatus } from '../core/job.ts'
import { notCancellable } from '../engine/dispatcher.ts'
import { findJob, listJobs, readAttempts, readOutput, readProgress } from '../store/jobs.ts'
import type { ApiParts } from './health.ts'
import { jobView } from './job-view.ts'
import { page, readCursor, readLimit, readOneOf, readQuery } from './paging.ts'

export function registerJobs(app: FastifyInstance, parts: ApiParts): void {
  app.get('/api/jobs', async (request) => {
    const query = readQuery(request.query, ['limit', 'cursor', 'status', 'model'])
    const limit = readLimit(query.limit)
    const status = readOneOf('status', query.status, STATUSES)
    const stored = await listJobs(parts.db, { status, model: query.model ?? null, before: readCursor(query.cursor), limit: limit + 1 })
    const records = stored
      .map((record) => parts.dispatcher.find(record.id)?.record ?? record)
      .filter((record) => status === null || record.status === status)
    const attempts = await attemptsOf(parts, records)
    return page(records, limit, (record) => jobView(record, attempts.get(record.id) ?? [], parts.dispatcher.waiting(record.id)))
  })

  app.get<{ Params: { id: string } }>('/api/jobs/:id', async (request) => {
    readQuery(request.query, [])
    return readJob(parts, jobId(request.params.id))
  })

  app.post<{ Params: { id: string } }>('/api/jobs/:id/cancel', async (request) => {
    const id = jobId(request.params.id)
    if (!parts.dispatcher.cancel(id, request.caller.actor)) {
      const record = parts.dispatcher.find(id)?.record ?? (await findJob(parts.db, id))
      if (record === undefined) throw noSuchJob(id)
      if (record.status !== 'parked') throw notCancellable(record)
      parts.dispatcher.cancelParked(record, request.caller.actor)
    }
    return readJob(parts, id)
  })

  app.post<{ Params: { id: string } }>('/api/jobs/:id/release', async (request) => {
    const id = jobId(request.params.id)
    const record = parts.dispatcher.find(id)?.record ?? (await findJob(parts.db, id))
    if (record === undefined) throw noSuchJob(id)
    if (record.status !== 'parked')
      throw new Fault('job_not_parked', `The job is ${record.status}; only a parked one can be released.`, { status: 409, job: id })
    const progress = (await readProgress(parts.db, id)).get(id)
    // Asked twice at once, the second finds it live again.
    if (parts.dispatcher.find(id) === undefined) parts.dispatcher.release(record, progress, request.caller.actor)
    return readJob(parts, id)
  })
}

const STATUSES: readonly JobStatus[] = ['queued', 'running', 'succeeded', 'failed', 'cancelled', 'parked']

function jobId(text: string): JobId {
  if (!isUuid(text)) throw noSuchJob(text)
  return text.toLowerCase() as JobId
}

function noSuchJob(id: string): Error {
  return notFound(`There is no job ${id.slice(0, 100)}.`)
}

/** Memory first: it is newer than PostgreSQL while a job lives. */
async function readJob(parts: ApiParts, id: JobId): Promise<Record<string, unknown>> {
  const live = parts.dispatcher.find(id)
  const record = live?.record ?? (await findJob(parts.db, id))
  if (record === undefined) throw noSuchJob(id)
  const attempts = (await attemptsOf(parts, [record])).get(id) ?? []
  const output = live !== undefined ? { text: live.text, finish_reason: record.finishReason } : await readOutput(parts.db, id)
  return jobView(record, attempts, parts.dispatcher.waiting(id), isFinal(record.status) ? output : null)
}

/** Stored attempts, and those that ended but are not stored yet. */
async function attemptsOf(parts: ApiParts, records: JobRecord[]): Promise<Map<JobId, AttemptRecord[]>> {
  const byJob = new Map<JobId, AttemptRecord[]>()
  const add = (attempt: AttemptRecord): void => {
    const known = byJob.get(attempt.job) ?? []
    if (!known.some((other) => other.number === attempt.number)) byJob.set(attempt.job, [...known, attempt])
  }
  const unstored = records.flatMap((record) => parts.dispatcher.find(record.id)?.endedAttempts ?? [])
  for (const attempt of await readAttempts(
    parts.db,
    records.map((record) => record.id),
  ))
    add(attempt)
  for (const attempt of unstored) add(attempt)
  return byJob
}
