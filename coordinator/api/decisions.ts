import type { JobRecord } from '../core/job.ts'
import { decisionDetails } from '../core/decision.ts'
import { listEvents } from '../store/events.ts'
import type { ApiParts } from './health.ts'
import { rfc3339 } from './paging.ts'

/**
 * Why a job went where it went. Every start of an attempt, and the end of one that waited too long, is an event that holds its
 * decision, so the record is as durable as the ledger; for a job that waits, what would be decided now comes first.
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
    .filter(({ details }) => details.rule !== undefined)
    .map(({ atMs, details }) => ({ at: rfc3339(atMs), ...decisionIn(details) }))
  const present = parts.scheduler.deliberation(parts.now(), record.id)
  if (present !== undefined) return { ...head, ...decisionDetails(present), history: made.toReversed() }
  const [last, ...earlier] = made
  if (last === undefined) return { ...head, rule: 'never_started', chosen: null, candidates: [], waited_ms: null, history: [] }
  return { ...head, ...last, history: earlier.toReversed() }
}

/** Without what else the event tells: of a job's acceptance, or of its end while it waited. */
function decisionIn(details: Record<string, unknown>): Record<string, unknown> {
  const { type: _type, model: _model, batch: _batch, code: _code, message: _message, attempts: _attempts, ...decision } = details
  return decision
}

// Attempts of one job end at thirty; each leaves a few events.
const EVENTS_MAX = 200
