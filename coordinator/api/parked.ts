import type { FastifyRequest } from 'fastify'
import { Fault } from '../core/fault.ts'
import type { JobId, JobRecord } from '../core/job.ts'
import { notCancellable } from '../engine/new-job.ts'
import { newId } from '../ids.ts'
import { findBatch } from '../store/batches.ts'
import { oweAgain } from '../store/callbacks.ts'
import { claimParked, findJob, readProgress } from '../store/jobs.ts'
import type { ApiParts } from './health.ts'
import { jobElsewhere } from './idempotency.ts'

/** What people decide about jobs: to cancel one, live or parked, and to release one that is parked. Whether the caller may was asked before. */

/** Resolves when that is in PostgreSQL; throws a Fault where it cannot be. */
export async function cancelJob(parts: ApiParts, request: FastifyRequest, id: JobId): Promise<void> {
  if (!parts.dispatcher.cancel(id, request.caller.actor)) await inTurn(id, () => cancelParked(parts, request, id))
  await parts.dispatcher.durable(id)
}

export async function releaseJob(parts: ApiParts, request: FastifyRequest, id: JobId): Promise<void> {
  await inTurn(id, () => release(parts, request, id))
  await parts.dispatcher.durable(id)
}

async function cancelParked(parts: ApiParts, request: FastifyRequest, id: JobId): Promise<void> {
  // Released meanwhile.
  if (parts.dispatcher.cancel(id, request.caller.actor)) return
  await parkedIsStored(parts, id)
  const record = await getRecord(parts, id)
  if (record.status === 'queued' || record.status === 'running') throw jobElsewhere(id)
  if (record.status !== 'parked') throw notCancellable(record)
  const progress = (await readProgress(parts.db, [id])).get(id)
  const hasCallback = await claim(parts, record, 'cancelled')
  parts.dispatcher.cancelParked(record, progress, request.caller.actor, hasCallback)
}

async function release(parts: ApiParts, request: FastifyRequest, id: JobId): Promise<void> {
  await parkedIsStored(parts, id)
  const record = await getRecord(parts, id)
  if (record.status !== 'parked') throw notParked(record)
  if (record.batch !== null && ((await findBatch(parts.db, record.batch))?.cancelledMs ?? null) !== null)
    throw new Fault('batch_cancelled', 'The batch of this job was cancelled, and its rows with it.', { status: 409, job: id })
  const progress = (await readProgress(parts.db, [id])).get(id)
  const hasCallback = await claim(parts, record, 'queued')
  parts.dispatcher.release(record, progress, request.caller.actor, hasCallback)
}

/** Memory first: it is newer than PostgreSQL while a job lives. */
async function getRecord(parts: ApiParts, id: JobId): Promise<JobRecord> {
  const record = parts.dispatcher.find(id)?.record ?? (await findJob(parts.db, id))
  if (record === undefined) throw new Fault('not_found', `There is no job ${id} any more.`, { status: 404 })
  return record
}

/** Throws when somebody else was a moment earlier, at another coordinator. Answers whether its caller is to be told of the next end. */
async function claim(parts: ApiParts, record: JobRecord, as: 'queued' | 'cancelled'): Promise<boolean> {
  const hasCallback = await parts.db
    .transaction(async (query) =>
      (await claimParked(query, record, parts.coordinator, as)) ? oweAgain(query, record.id, newId()) : undefined,
    )
    .catch((error: unknown) => {
      parts.doubtOwned()
      throw error
    })
  if (hasCallback === undefined) throw notParked({ ...record, status: 'queued' })
  record.version += 1
  return hasCallback
}

function notParked({ id, status }: JobRecord): Fault {
  return new Fault('job_not_parked', `The job is ${status}; only a parked one can be released.`, { status: 409, job: id })
}

/** One that was parked a moment ago is on its way to its row, and is taken up from there. */
async function parkedIsStored(parts: ApiParts, id: JobId): Promise<void> {
  if (parts.dispatcher.find(id)?.record.status === 'parked') await parts.stored()
}

const turns = new Map<JobId, Promise<void>>()

/** What people want of a parked job is looked up before it is done: of several who ask at once, each finds what the one before has done. */
async function inTurn(id: JobId, act: () => Promise<void>): Promise<void> {
  const before = turns.get(id) ?? Promise.resolve()
  // How it went for the one before is told to that one.
  const turn = before.then(act, act)
  turns.set(id, turn)
  try {
    await turn
  } finally {
    if (turns.get(id) === turn) turns.delete(id)
  }
}
