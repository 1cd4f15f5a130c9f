import type { FastifyInstance } from 'fastify'
import { badRequest } from '../core/fault.ts'
import type { Severity } from '../core/event.ts'
import type { JobId } from '../core/job.ts'
import { listEvents } from '../store/events.ts'
import { findJob } from '../store/jobs.ts'
import { mayRead, scopeOf, teamsSeen } from './auth.ts'
import { EventStream, readLastEventId } from './event-stream.ts'
import { eventView } from './event-view.ts'
import type { ApiParts } from './health.ts'
import { page, readCursor, readLimit, readOneOf, readQuery } from './paging.ts'

export function registerEvents(app: FastifyInstance, parts: ApiParts): void {
  app.get('/api/events', async (request) => {
    const query = readQuery(request.query, ['limit', 'cursor', 'severity', 'type', 'job', 'trace_id'])
    const limit = readLimit(query.limit)
    const filter = {
      severity: readOneOf('severity', query.severity, SEVERITIES),
      type: query.type ?? null,
      job: uuidOf('job', query.job),
      traceId: uuidOf('trace_id', query.trace_id),
      teams: teamsSeen(request.caller),
      before: readCursor(query.cursor),
      limit: limit + 1,
    }
    if (filter.job !== null && filter.traceId === null) filter.traceId = await traceOf(parts, filter.job as JobId)
    return page(await listEvents(parts.db, filter), limit, eventView, scopeOf(request.caller))
  })

  app.get('/api/events/stream', async (request, reply) => {
    const query = readQuery(request.query, ['severity', 'type'])
    const after = readLastEventId(request.headers['last-event-id'])
    const follow = {
      severity: readOneOf('severity', query.severity, SEVERITIES),
      type: query.type ?? null,
      teams: teamsSeen(request.caller),
    }
    const teamsNow = (): readonly string[] | null | undefined => {
      const caller = parts.keyring.present(request.caller)
      return caller === undefined || !mayRead(caller) ? undefined : teamsSeen(caller)
    }
    reply.hijack()
    new EventStream({ db: parts.db, feed: parts.feed, teamsNow, log: parts.log }, follow, reply.raw).open(after, {
      'x-request-id': request.id,
    })
    return reply
  })
}

const SEVERITIES: readonly Severity[] = ['debug', 'info', 'warning', 'error']

function uuidOf(name: string, value: string | undefined): string | null {
  if (value === undefined) return null
  const dashed = /^[0-9a-f]{32}$/i.test(value) ? value.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5') : value
  if (!TRACE_OR_ID.test(dashed)) throw badRequest('invalid_id', `${name} must be an id.`, name)
  return dashed.toLowerCase()
}

// A trace is whatever its caller drew, and need not be a UUID of any version.
const TRACE_OR_ID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i

/** A job's events are found by its trace, which is indexed. */
async function traceOf(parts: ApiParts, job: JobId): Promise<string | null> {
  return (parts.dispatcher.find(job)?.record ?? (await findJob(parts.db, job)))?.traceId ?? null
}
