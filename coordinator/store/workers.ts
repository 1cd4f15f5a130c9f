import type { ModelOffer, WorkerState } from '../core/fleet.ts'
import type { WorkerId } from '../core/job.ts'
import type { Db } from './db.ts'
import { milliseconds, text } from './rows.ts'

export type WorkerRecord = {
  id: WorkerId
  name: string
  state: WorkerState
  version: string
  models: ModelOffer[]
  host: Record<string, unknown>
  joinedMs: number
  seenMs: number
}

/** Workers that were not replaced by another machine of the same name. */
export async function listWorkers(db: Db): Promise<WorkerRecord[]> {
  const rows = await db.query('select * from workers where replaced_at is null order by name')
  return rows.map((row) => ({
    id: text(row.id) as WorkerId,
    name: text(row.name),
    state: text(row.state) as WorkerState,
    version: text(row.version),
    models: row.models as ModelOffer[],
    host: row.host as Record<string, unknown>,
    joinedMs: milliseconds(row.joined_at),
    seenMs: milliseconds(row.seen_at),
  }))
}

/** A machine that takes over a name ends the record of the one before; both in one transaction, or a name has two. */
export async function saveWorker(db: Db, worker: Omit<WorkerRecord, 'joinedMs' | 'seenMs'>): Promise<void> {
  await db.transaction(async (query) => {
    await query('update workers set replaced_at = now(), state = $3 where name = $1 and id <> $2 and replaced_at is null', [
      worker.name,
      worker.id,
      'offline',
    ])
    await query(
      `insert into workers (id, name, state, version, models, host) values ($1, $2, $3, $4, $5, $6)
       on conflict (id) do update set name = $2, state = $3, version = $4, models = $5, host = $6, seen_at = now(), replaced_at = null`,
      [worker.id, worker.name, worker.state, worker.version, JSON.stringify(worker.models), JSON.stringify(worker.host)],
    )
  })
}
