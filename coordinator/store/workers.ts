import type { ModelOffer, WorkerState } from '../core/fleet.ts'
import type { WorkerId } from '../core/job.ts'
import type { Db, Query } from './db.ts'
import { milliseconds, millisecondsOrNull, text } from './rows.ts'

export type WorkerRecord = {
  id: WorkerId
  name: string
  state: WorkerState
  version: string
  models: ModelOffer[]
  host: Record<string, unknown>
  joinedMs: number
  seenMs: number
  /** It said goodbye before it went. */
  drained: boolean
  revokedMs: number | null
}

/** Workers that were not replaced by another machine of the same name, nor put away. */
export async function listWorkers(db: Db): Promise<WorkerRecord[]> {
  const rows = await db.query('select * from workers where replaced_at is null and archived_at is null order by name')
  return rows.map((row) => ({
    id: text(row.id) as WorkerId,
    name: text(row.name),
    state: text(row.state) as WorkerState,
    version: text(row.version),
    models: row.models as ModelOffer[],
    host: row.host as Record<string, unknown>,
    joinedMs: milliseconds(row.joined_at),
    seenMs: milliseconds(row.seen_at),
    drained: row.drained === true,
    revokedMs: millisecondsOrNull(row.revoked_at),
  }))
}

/** A machine that takes over a name ends the record of the one before; both in one transaction, or a name has two. */
export async function saveWorker(db: Db, worker: Omit<WorkerRecord, 'joinedMs' | 'seenMs' | 'revokedMs'>): Promise<void> {
  await db.transaction(async (query) => {
    await query('update workers set replaced_at = now(), state = $3 where name = $1 and id <> $2 and replaced_at is null', [
      worker.name,
      worker.id,
      'offline',
    ])
    await query(
      `insert into workers (id, name, state, version, models, host, drained) values ($1, $2, $3, $4, $5, $6, $7)
       on conflict (id) do update set name = $2, state = $3, version = $4, models = $5, host = $6, drained = $7,
         seen_at = now(), replaced_at = null, archived_at = null`,
      [worker.id, worker.name, worker.state, worker.version, JSON.stringify(worker.models), JSON.stringify(worker.host), worker.drained],
    )
  })
}

/** They are here now: how long one has been gone is reckoned from then, also by a coordinator that starts later. */
export async function touchWorkers(db: Db, ids: readonly WorkerId[]): Promise<void> {
  if (ids.length > 0) await db.query('update workers set seen_at = now() where id = any($1)', [ids])
}

/** Of all there ever were: an identity stays refused however its row is shown. */
export async function revokedWorkers(db: Db): Promise<string[]> {
  return (await db.query('select id from workers where revoked_at is not null')).map((row) => text(row.id))
}

/** Undefined when it was revoked before. */
export async function revokeWorker(query: Query, id: WorkerId): Promise<WorkerId | undefined> {
  const [row] = await query('update workers set revoked_at = now() where id = $1 and revoked_at is null returning id', [id])
  return row === undefined ? undefined : (text(row.id) as WorkerId)
}

export async function archiveWorker(query: Query, id: WorkerId): Promise<WorkerId | undefined> {
  const [row] = await query('update workers set archived_at = now() where id = $1 and archived_at is null returning id', [id])
  return row === undefined ? undefined : (text(row.id) as WorkerId)
}
