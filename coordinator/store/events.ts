import { EVENT_SEVERITY, type EventRecord, type EventType, type Severity } from '../core/event.ts'
import type { Db, Query } from './db.ts'
import { claimKey, type SetUpClaim, unclaimKey } from './idempotency.ts'
import { firstUuidOf } from './migrate.ts'
import { milliseconds, text, textOrNull } from './rows.ts'
import { emptyBatch } from './writer.ts'
import { statementFor } from './writer-sql.ts'

/**
 * Makes a change and writes its event in one transaction, so that neither is ever there without the other. A change that
 * answers undefined changed nothing, and leaves no event and no claim.
 */
export async function recorded<T>(
  db: Db,
  change: (query: Query) => Promise<T | undefined>,
  event: (changed: T) => EventRecord,
  claim?: SetUpClaim,
): Promise<T | undefined> {
  return db.transaction(async (query) => {
    if (claim !== undefined) await claimKey(query, claim)
    const changed = await change(query)
    if (changed === undefined) {
      if (claim !== undefined) await unclaimKey(query, claim)
      return undefined
    }
    await insertEvent(query, event(changed))
    return changed
  })
}

/** In the transaction of what it tells of. */
export async function insertEvent(query: Query, event: EventRecord): Promise<void> {
  const { first, values } = statementFor({ ...emptyBatch(), events: [event] })
  await query(first.text, values)
  query.events?.push(event)
}

export type EventFilter = {
  severity: Severity | null
  type: string | null
  /** Events of one job share its trace: the only index that history needs. */
  traceId: string | null
  job: string | null
  /** Null: of all teams, and what belongs to none. */
  teams: readonly string[] | null
  before: string | null
  limit: number
}

export type StoredEvent = EventRecord & { severity: Severity }

/** Newest first. */
export async function listEvents(db: Db, filter: EventFilter): Promise<StoredEvent[]> {
  const rows = await db.list(
    `select * from events
      where ($1::uuid is null or id < $1) and ($2::text is null or severity = $2) and ($3::text is null or type = $3)
        and ($4::uuid is null or trace_id = $4) and ($5::uuid is null or job = $5) and ($7::text[] is null or team = any($7))
      order by id desc limit $6`,
    [filter.before, filter.severity, filter.type, filter.traceId, filter.job, filter.limit, filter.teams],
  )
  return rows.map(parseEvent)
}

/** The id of the newest event, if there is one. */
export async function newestEvent(db: Db): Promise<string | undefined> {
  const row = await db.maybeOne('select id from events order by id desc limit 1')
  return row === undefined ? undefined : text(row.id)
}

/** Oldest first: what came after an event. */
export async function eventsAfter(db: Db, after: string, filter: EventFollow, limit: number): Promise<StoredEvent[]> {
  const rows = await db.list(
    `select * from events
      where id > $1 and ($2::text is null or severity = $2) and ($3::text is null or type = $3) and ($4::text[] is null or team = any($4))
      order by id limit $5`,
    [after, filter.severity, filter.type, filter.teams, limit],
  )
  return rows.map(parseEvent)
}

/** What was written since then while another coordinator was there to write; alone, there is nothing to look for. */
export async function eventsBesideOthers(db: Db, coordinator: string, sinceMs: number, limit: number): Promise<StoredEvent[]> {
  const rows = await db.query(
    `select * from events where id > $1 and exists (select from coordinators where id <> $2) order by id desc limit $3`,
    [firstUuidOf(sinceMs), coordinator, limit],
  )
  return rows.map(parseEvent).toReversed()
}

/** Which events somebody follows; null: all. */
export type EventFollow = Pick<EventFilter, 'severity' | 'type' | 'teams'>

export function severityOf(event: EventRecord): StoredEvent {
  return { ...event, severity: EVENT_SEVERITY[event.type] }
}

function parseEvent(row: Record<string, unknown>): StoredEvent {
  return {
    id: text(row.id),
    atMs: milliseconds(row.at),
    severity: text(row.severity) as Severity,
    type: text(row.type) as EventType,
    actor: text(row.actor),
    team: textOrNull(row.team),
    job: textOrNull(row.job),
    provider: textOrNull(row.provider),
    worker: textOrNull(row.worker),
    traceId: textOrNull(row.trace_id),
    details: row.details as Record<string, unknown>,
  }
}
