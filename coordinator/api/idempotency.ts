import type { FastifyRequest } from 'fastify'
import { Fault } from '../core/fault.ts'
import type { JobId } from '../core/job.ts'
import { LiveJob, type Output } from '../engine/live-job.ts'
import { sha256 } from '../secrets.ts'
import { findIdempotencyKey } from '../store/idempotency.ts'
import { findJob, readOutput, readProgress } from '../store/jobs.ts'
import type { ApiParts } from './health.ts'
import { readIdempotencyKey } from './wishes.ts'

type Accepted = { live: LiveJob; stored: Promise<void> }
/** What is being stored right now, by team and key. */
export type PendingKeys = Map<string, { hash: Buffer; accepted: Promise<Accepted> }>
type Claim = { key: string; hash: Buffer }

/**
 * One key, one job. Requests that come while the first is being stored find it in memory, later ones in PostgreSQL, where
 * the key is stored in the job's own statement; if two coordinators try at once, PostgreSQL lets one of them through.
 */
export async function once(parts: ApiParts, request: FastifyRequest, key: string, accept: (claim: Claim) => Accepted): Promise<Accepted> {
  const claim = { key, hash: hashOf(request) }
  const name = `${request.caller.team}\u0001${key}`
  const others = parts.pendingKeys
  const pending = others.get(name)
  if (pending !== undefined) {
    if (!pending.hash.equals(claim.hash)) {
      // Whose key it is shows when that one is stored: it may be refused, such as for a key that is ours.
      const isTheirs = await pending.accepted
        .then(({ stored }) => stored)
        .then(
          () => true,
          () => false,
        )
      if (isTheirs) throw otherBody()
      return once(parts, request, key, accept)
    }
    const { live, stored } = await pending.accepted
    live.callers += 1
    return { live, stored }
  }
  const accepted = findOrAccept(parts, request, claim, accept)
  others.set(name, { hash: claim.hash, accepted })
  const forget = (): void => {
    others.delete(name)
  }
  void accepted.then(({ stored }) => stored).then(forget, forget)
  return accepted
}

async function findOrAccept(parts: ApiParts, request: FastifyRequest, claim: Claim, accept: (claim: Claim) => Accepted): Promise<Accepted> {
  const known = await findKnown(parts, request, claim)
  if (known !== undefined) return known
  const { live, stored } = accept(claim)
  const refused = await stored.then(
    () => undefined,
    (error: unknown) => error,
  )
  if (refused === undefined) return { live, stored }
  // Another coordinator may have been a moment earlier with the same key.
  const winner = await findKnown(parts, request, claim)
  if (winner === undefined) throw refused
  return winner
}

async function findKnown(parts: ApiParts, request: FastifyRequest, { key, hash }: Claim): Promise<Accepted | undefined> {
  const row = await findIdempotencyKey(parts.db, request.caller.team, key)
  if (row === undefined) return undefined
  refuseOther(row.hash, hash)
  if (row.job === null) throw otherBody()
  const live = parts.dispatcher.find(row.job) ?? (await readEnded(parts, row.job))
  live.callers += 1
  return { live, stored: Promise.resolve() }
}

/** The job that the same request made before, with the same key. */
export async function repeatedJob(parts: ApiParts, request: FastifyRequest): Promise<JobId | undefined> {
  const key = readIdempotencyKey(request)
  const row = key === undefined ? undefined : await findIdempotencyKey(parts.db, request.caller.team, key)
  return row?.hash.equals(hashOf(request)) === true ? (row.job ?? undefined) : undefined
}

/** A job that lives nowhere any more, as one that can be followed: everything is there at once. */
export async function readEnded(parts: ApiParts, id: JobId): Promise<LiveJob> {
  const record = await findJob(parts.db, id)
  if (record === undefined) throw new Fault('not_found', `There is no job ${id} any more.`, { status: 404 })
  if (record.status === 'queued' || record.status === 'running') throw jobElsewhere(id)
  if (record.status === 'parked') return LiveJob.parked(record, (await readProgress(parts.db, [id])).get(id))
  return LiveJob.ended(record, (await readOutput(parts.db, id)) as Partial<Output> | null)
}

/** Of all that says what is wanted: door, query, wishes and body. */
export const JOB_ELSEWHERE = 'job_elsewhere'

export function jobElsewhere(id: JobId): Fault {
  return new Fault(JOB_ELSEWHERE, 'The job is being run by another coordinator; ask that one, or again when the job has ended.', {
    status: 409,
    layer: 'routing',
    retryable: true,
    retryAfterS: 5,
    job: id,
  })
}

export function hashOf({ method, routeOptions, query, headers, body }: FastifyRequest): Buffer {
  const said = [...Object.entries(query as object), ...Object.entries(headers).filter(([name]) => name.startsWith('x-holdfast-'))]
  const wishes = said.length === 0 ? '' : `${JSON.stringify(said.sort(([left], [right]) => (left < right ? -1 : 1)))}\n`
  return sha256(`${method} ${routeOptions.url ?? ''}\n${wishes}${JSON.stringify(body)}`)
}

export function refuseOther(known: Buffer, given: Buffer): void {
  if (!known.equals(given)) throw otherBody()
}

function otherBody(): Fault {
  return new Fault('idempotency_key_reused', 'This idempotency-key was used with another request. Use a new key for a new request.', {
    status: 422,
    param: 'idempotency-key',
  })
}
