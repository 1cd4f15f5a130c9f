import type { Db, Query } from './db.ts'
import { milliseconds, number, numberOrNull, text, textOrNull } from './rows.ts'

export type TeamRecord = {
  id: string
  name: string
  weight: number
  maxParallel: number | null
  policy: string | null
  spendMicrosPerDay: number | null
  spendMicrosPerMonth: number | null
  hasWebhookSecret: boolean
  createdMs: number
}

export type TeamRules = Pick<TeamRecord, 'weight' | 'maxParallel' | 'policy' | 'spendMicrosPerDay' | 'spendMicrosPerMonth'>

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
  team: TeamRules & { id: string; name: string; webhookSecret: Buffer },
): Promise<TeamRecord | undefined> {
  const [row] = await query(
    `insert into teams (id, name, weight, max_parallel, policy, spend_micros_per_day, spend_micros_per_month, webhook_secret)
     values ($1, $2, $3, $4, $5, $6, $7, $8)
     on conflict (name) do nothing returning *`,
    [team.id, team.name, team.weight, team.maxParallel, team.policy, team.spendMicrosPerDay, team.spendMicrosPerMonth, team.webhookSecret],
  )
  return row === undefined ? undefined : parseTeam(row)
}

export async function changeTeam(query: Query, id: string, rules: TeamRules): Promise<TeamRecord | undefined> {
  const [row] = await query(
    `update teams set weight = $2, max_parallel = $3, policy = $4, spend_micros_per_day = $5, spend_micros_per_month = $6
      where id = $1 and archived_at is null returning *`,
    [id, rules.weight, rules.maxParallel, rules.policy, rules.spendMicrosPerDay, rules.spendMicrosPerMonth],
  )
  return row === undefined ? undefined : parseTeam(row)
}

export async function setWebhookSecret(query: Query, id: string, sealed: Buffer): Promise<TeamRecord | undefined> {
  const [row] = await query('update teams set webhook_secret = $2 where id = $1 and archived_at is null returning *', [id, sealed])
  return row === undefined ? undefined : parseTeam(row)
}

/** Undefined when it has one already. */
export async function giveWebhookSecret(query: Query, name: string, sealed: Buffer): Promise<TeamRecord | undefined> {
  const [row] = await query(
    'update teams set webhook_secret = $2 where name = $1 and webhook_secret is null and archived_at is null returning *',
    [name, sealed],
  )
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
    policy: textOrNull(row.policy),
    spendMicrosPerDay: numberOrNull(row.spend_micros_per_day),
    spendMicrosPerMonth: numberOrNull(row.spend_micros_per_month),
    hasWebhookSecret: row.webhook_secret !== null,
    createdMs: milliseconds(row.created_at),
  }
}
