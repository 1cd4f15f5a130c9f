import type { EventRecord } from '../core/event.ts'
import type { Db, Query } from './db.ts'
import { insertEvent } from './events.ts'
import { milliseconds, millisecondsOrNull, text } from './rows.ts'

export type KeyRecord = {
  id: string
  name: string
  kind: string
  team: string
  hash: Buffer
  /** Of the key itself, so that people can tell which one they hold. */
  lastFour: string
  createdMs: number
  expiresMs: number | null
  revokedMs: number | null
}

export async function activeKeys(db: Db): Promise<KeyRecord[]> {
  return (await db.query('select * from keys where revoked_at is null')).map(parseKey)
}

/** Newest first; `before` is the id the page starts behind. */
export async function listKeys(db: Db, filter: { before: string | null; limit: number }): Promise<KeyRecord[]> {
  const rows = await db.query('select * from keys where ($1::uuid is null or id < $1) order by id desc limit $2', [
    filter.before,
    filter.limit,
  ])
  return rows.map(parseKey)
}

export async function findKey(db: Db, id: string): Promise<KeyRecord | undefined> {
  const row = await db.maybeOne('select * from keys where id = $1', [id])
  return row === undefined ? undefined : parseKey(row)
}

/** Undefined when the team does not exist or is archived. */
export async function saveKey(
  query: Query,
  key: { id: string; name: string; kind: string; team: string; hash: Buffer; lastFour: string; expiresMs: number | null },
): Promise<KeyRecord | undefined> {
  const [row] = await query(
    `insert into keys (id, name, kind, team, hash, last_four, expires_at)
     select $1, $2, $3, t.name, $5, $6, to_timestamp($7::float8 / 1000) from teams t where t.name = $4 and t.archived_at is null
     returning *`,
    [key.id, key.name, key.kind, key.team, key.hash, key.lastFour, key.expiresMs],
  )
  return row === undefined ? undefined : parseKey(row)
}

/** Undefined when it was revoked before, or is the bootstrap key, which only another one replaces. */
export async function revokeKey(query: Query, id: string): Promise<KeyRecord | undefined> {
  const [row] = await query(`update keys set revoked_at = now() where id = $1 and revoked_at is null and kind <> 'bootstrap' returning *`, [
    id,
  ])
  return row === undefined ? undefined : parseKey(row)
}

/** Makes the given bootstrap key the only one. */
export async function saveBootstrapKey(
  db: Db,
  key: { id: string; teamId: string; hash: Buffer; lastFour: string },
  event: (type: 'key.created' | 'key.replaced') => EventRecord,
): Promise<void> {
  await db.transaction(async (query) => {
    await query(`insert into teams (id, name) values ($1, 'default') on conflict (name) do nothing`, [key.teamId])
    const replaced = await query(
      `update keys set revoked_at = now() where kind = 'bootstrap' and revoked_at is null and hash <> $1 returning id`,
      [key.hash],
    )
    const created = await query(
      `insert into keys (id, name, kind, team, hash, last_four) values ($1, 'admin', 'bootstrap', 'default', $2, $3)
       on conflict (hash) do update set revoked_at = null where keys.revoked_at is not null returning id`,
      [key.id, key.hash, key.lastFour],
    )
    if (replaced.length > 0) await insertEvent(query, event('key.replaced'))
    if (created.length > 0) await insertEvent(query, event('key.created'))
  })
}

function parseKey(row: Record<string, unknown>): KeyRecord {
  return {
    id: text(row.id),
    name: text(row.name),
    kind: text(row.kind),
    team: text(row.team),
    hash: row.hash as Buffer,
    lastFour: text(row.last_four),
    createdMs: milliseconds(row.created_at),
    expiresMs: millisecondsOrNull(row.expires_at),
    revokedMs: millisecondsOrNull(row.revoked_at),
  }
}
