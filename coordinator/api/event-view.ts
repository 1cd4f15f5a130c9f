import type { StoredEvent } from '../store/events.ts'
import { rfc3339 } from './paging.ts'

export function eventView(event: StoredEvent): Record<string, unknown> {
  return {
    id: event.id,
    at: rfc3339(event.atMs),
    severity: event.severity,
    type: event.type,
    actor: event.actor,
    team: event.team,
    job: event.job,
    run: null,
    thread: null,
    provider: event.provider,
    worker: event.worker,
    trace_id: event.traceId?.replaceAll('-', '') ?? null,
    details: event.details,
  }
}
