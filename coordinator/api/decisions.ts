import type { JobRecord } from '../core/job.ts'
import { decisionDetails } from '../core/decision.ts'
import { listEvents } from '../store/events.ts'
import type { ApiParts } from './health.ts'
import { rfc3339 } from './paging.ts'

/**
 * Why a job went where it went. Every start of an attempt is an event that holds its decision, so the record is as durable
 * as the ledger; for a job that waits, what would be decided now comes first.
 */
export async function readDecision(parts: ApiParts, record: JobRecord): Promise<Record<string, unknown>> {
  if (parts.dispatcher.find(record.id) !== undefined) await parts.stored()
  const head = { job: record.id, policy: record.policy ?? 'default', pinned: { tier: record.pinnedTier, provider: record.pinnedProvider } }
  const events = await listEvents(parts.db, {
    severity: null,
    type: null,
    traceId: record.traceId,
    job: record.id,
    teams: null,
    before: null,
    limit: EVENTS_MAX,
  })
  const made = events
    .filter(({ type, details }) => (type === 'job.started' || type === 'job.accepted') && details.attempt !== undefined)
    .map(({ atMs, details: { type: _type, model: _model, batch: _batch, ...decision } }) => ({ at: rfc3339(atMs), ...decision }))
  const present = parts.scheduler.deliberation(parts.now(), record.id)
  if (present !== undefined) return { ...head, ...decisionDetails(present), history: made.toReversed() }
  const [last, ...earlier] = made
  if (last === undefined) return { ...head, rule: 'never_started', chosen: null, candidates: [], waited_ms: null, history: [] }
  return { ...head, ...last, history: earlier.toReversed() }
}

// Attempts of one job end at thirty; each leaves a few events.
const EVENTS_MAX = 200
