import type { Db, Query } from './db.ts'
import { milliseconds, number, numberOrNull, text } from './rows.ts'

export type TeamRecord = {
  id: string
  name: string
  weight: number
  maxParallel: number | null
  hasWebhookSecret: boolean
  createdMs: number
}

/** Newest first; archived ones are not shown. */
export async function listTeams(db: Db, filter: { before: string | null; limit: number }): Promise<TeamRecord[]> {
  const rows = await db.query('select * from teams where archived_at is null and ($1::uuid is null or id < $1) order by id desc limit $2', [
    filter.before,
    filter.limit,
  ])
  return rows.map(parseTeam)
}

export async function allTeams(db: Db): Promise<TeamRecord[]> {
  return (await db.query('select * from teams where archived_at is null')).map(parseTeam)
}

export async function findTeam(db: Db, idOrName: string): Promise<TeamRecord | undefined> {
  const row = await db.maybeOne('select * from teams where archived_at is null and (id::text = $1 or name = $1)', [idOrName])
  return row === undefined ? undefined : parseTeam(row)
}

/** Undefined when the name is taken, also by an archived team: old rows still speak of it. */
export async function saveTeam(
  query: Query,
  team: { id: string; name: string; weight: number; maxParallel: number | null; webhookSecret: Buffer },
): Promise<TeamRecord | undefined> {
  const [row] = await query(
    `insert into teams (id, name, weight, max_parallel, webhook_secret) values ($1, $2, $3, $4, $5)
     on conflict (name) do nothing returning *`,
    [team.id, team.name, team.weight, team.maxParallel, team.webhookSecret],
  )
  return row === undefined ? undefined : parseTeam(row)
}

export async function changeTeam(
  query: Query,
  id: string,
  change: { weight: number; maxParallel: number | null },
): Promise<TeamRecord | undefined> {
  const [row] = await query('update teams set weight = $2, max_parallel = $3 where id = $1 and archived_at is null returning *', [
    id,
    change.weight,
    change.maxParallel,
  ])
  return row === undefined ? undefined : parseTeam(row)
}

export async function setWebhookSecret(query: Query, id: string, sealed: Buffer): Promise<TeamRecord | undefined> {
  const [row] = await query('update teams set webhook_secret = $2 where id = $1 and archived_at is null returning *', [id, sealed])
  return row === undefined ? undefined : parseTeam(row)
}

/** Its keys end with it. */
export async function archiveTeam(query: Query, id: string): Promise<TeamRecord | undefined> {
  const [row] = await query('update teams set archived_at = now() where id = $1 and archived_at is null returning *', [id])
  if (row === undefined) return undefined
  await query('update keys set revoked_at = now() where team = $1 and revoked_at is null', [row.name])
  return parseTeam(row)
}

function parseTeam(row: Record<string, unknown>): TeamRecord {
  return {
    id: text(row.id),
    name: text(row.name),
    weight: number(row.weight),
    maxParallel: numberOrNull(row.max_parallel),
    hasWebhookSecret: row.webhook_secret !== null,
    createdMs: milliseconds(row.created_at),
  }
}
