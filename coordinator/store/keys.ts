import type { EventRecord } from '../core/event.ts'
import type { Db, Query } from './db.ts'
import { insertEvent } from './events.ts'
import { milliseconds, millisecondsOrNull, numberOrNull, text, textOrNull } from './rows.ts'
import type { Role } from './users.ts'

export type KeyKind = 'bootstrap' | 'personal' | 'team' | 'worker' | 'intake'

export type KeyRecord = {
  id: string
  name: string
  kind: KeyKind
  /** Null: a personal key of somebody without a team, or a worker's. */
  team: string | null
  /** The user whose personal key it is, with the role and the teams as they are now. */
  owner: { id: string; email: string; role: Role; teams: string[]; archivedTeams: string[] } | null
  /** Null in these: all. */
  scopes: string[] | null
  models: string[] | null
  tiers: string[] | null
  requestsPerMinute: number | null
  spendMicrosPerDay: number | null
  hash: Buffer
  /** Of the key itself, so that people can tell which one they hold. */
  lastFour: string
  createdMs: number
  expiresMs: number | null
  revokedMs: number | null
  /** One worker may join with it, and then it is that worker's own. */
  singleUse: boolean
  spentBy: string | null
}

export async function activeKeys(db: Db): Promise<KeyRecord[]> {
  return (await db.query(`${SELECT} where k.revoked_at is null and (k.owner is null or u.archived_at is null)`)).map(parseKey)
}

/** The tiers that keys allow, by id, of those that do not allow all; revoked ones too. */
export async function tiersByKey(db: Db): Promise<Map<string, string[]>> {
  const rows = await db.query('select id, tiers from keys where tiers is not null')
  return new Map(rows.map((row) => [text(row.id), row.tiers as string[]]))
}

/** Newest first; `before` is the id the page starts behind. */
export async function listKeys(db: Db, filter: { before: string | null; limit: number }): Promise<KeyRecord[]> {
  const rows = await db.query(`${SELECT} where ($1::uuid is null or k.id < $1) order by k.id desc limit $2`, [filter.before, filter.limit])
  return rows.map(parseKey)
}

export async function findKey(db: Db, id: string): Promise<KeyRecord | undefined> {
  const row = await db.maybeOne(`${SELECT} where k.id = $1`, [id])
  return row === undefined ? undefined : parseKey(row)
}

export type NewKey = {
  id: string
  name: string
  kind: KeyKind
  team: string | null
  owner: string | null
  hash: Buffer
  lastFour: string
  expiresMs: number | null
  scopes: string[] | null
  models: string[] | null
  tiers: string[] | null
  requestsPerMinute: number | null
  spendMicrosPerDay: number | null
  singleUse?: boolean
}

/** Undefined when its team or its user does not exist or is archived. */
export async function saveKey(query: Query, key: NewKey): Promise<string | undefined> {
  const [row] = await query(
    `insert into keys (id, name, kind, team, owner, hash, last_four, expires_at, scopes, models, tiers, requests_per_minute, spend_micros_per_day, single_use)
     select $1, $2, $3, $4, $5, $6, $7, to_timestamp($8::float8 / 1000), $9, $10, $11, $12, $13, $14
      where ($4::text is null or exists (select 1 from teams t where t.name = $4 and t.archived_at is null))
        and ($5::uuid is null or exists (select 1 from users u where u.id = $5 and u.archived_at is null))
     returning id`,
    [
      key.id,
      key.name,
      key.kind,
      key.team,
      key.owner,
      key.hash,
      key.lastFour,
      key.expiresMs,
      key.scopes,
      key.models,
      key.tiers,
      key.requestsPerMinute,
      key.spendMicrosPerDay,
      key.singleUse === true,
    ],
  )
  return row === undefined ? undefined : text(row.id)
}

export type KeyChange = Pick<KeyRecord, 'name' | 'expiresMs' | 'scopes' | 'models' | 'tiers' | 'requestsPerMinute' | 'spendMicrosPerDay'>

/** Undefined when it was revoked meanwhile. */
export async function changeKey(query: Query, id: string, key: KeyChange): Promise<string | undefined> {
  const [row] = await query(
    `update keys set name = $2, expires_at = to_timestamp($3::float8 / 1000), scopes = $4, models = $5, tiers = $6,
            requests_per_minute = $7, spend_micros_per_day = $8
      where id = $1 and revoked_at is null and kind <> 'bootstrap' returning id`,
    [id, key.name, key.expiresMs, key.scopes, key.models, key.tiers, key.requestsPerMinute, key.spendMicrosPerDay],
  )
  return row === undefined ? undefined : text(row.id)
}

/** Undefined when another worker was faster, with another coordinator. */
export async function spendKey(db: Db, id: string, worker: string): Promise<string | undefined> {
  const row = await db.maybeOne(`update keys set spent_by = $2 where id = $1 and (spent_by is null or spent_by = $2) returning id`, [
    id,
    worker,
  ])
  return row === undefined ? undefined : text(row.id)
}

/** Undefined when it was revoked before, or is the bootstrap key, which only another one replaces. */
export async function revokeKey(query: Query, id: string): Promise<string | undefined> {
  const [row] = await query(
    `update keys set revoked_at = now() where id = $1 and revoked_at is null and kind <> 'bootstrap' returning id`,
    [id],
  )
  return row === undefined ? undefined : text(row.id)
}

/** Whether another bootstrap key is in force, which the given one would revoke. */
export async function hasOtherBootstrapKey(query: Query, hash: Buffer): Promise<boolean> {
  return (await query(`select from keys where kind = 'bootstrap' and revoked_at is null and hash <> $1`, [hash])).length > 0
}

/** Makes the given bootstrap key the only one, unless `refuse` throws. */
export async function saveBootstrapKey(
  db: Db,
  key: { id: string; teamId: string; hash: Buffer; lastFour: string },
  event: (type: 'key.created' | 'key.replaced') => EventRecord,
  refuse: (query: Query) => Promise<void>,
): Promise<void> {
  await db.transaction(async (query) => {
    // One after the other: of two that start at once the second sees what the first has written.
    await query('select pg_advisory_xact_lock($1)', [BOOTSTRAP_LOCK])
    await refuse(query)
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

const BOOTSTRAP_LOCK = 4_865_124

const SELECT = `select k.*, u.email as owner_email, u.role as owner_role, u.teams as owner_teams,
          array(select t.name from teams t where t.name = any(u.teams) and t.archived_at is not null) as owner_archived
     from keys k left join users u on u.id = k.owner`

function parseKey(row: Record<string, unknown>): KeyRecord {
  return {
    id: text(row.id),
    name: text(row.name),
    kind: text(row.kind) as KeyKind,
    team: textOrNull(row.team),
    owner:
      row.owner === null
        ? null
        : {
            id: text(row.owner),
            email: text(row.owner_email),
            role: text(row.owner_role) as Role,
            teams: row.owner_teams as string[],
            archivedTeams: row.owner_archived as string[],
          },
    scopes: row.scopes as string[] | null,
    models: row.models as string[] | null,
    tiers: row.tiers as string[] | null,
    requestsPerMinute: numberOrNull(row.requests_per_minute),
    spendMicrosPerDay: numberOrNull(row.spend_micros_per_day),
    hash: row.hash as Buffer,
    lastFour: text(row.last_four),
    createdMs: milliseconds(row.created_at),
    expiresMs: millisecondsOrNull(row.expires_at),
    revokedMs: millisecondsOrNull(row.revoked_at),
    singleUse: row.single_use === true,
    spentBy: textOrNull(row.spent_by),
  }
}
