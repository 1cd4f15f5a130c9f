import type { Patience } from '../core/tiers.ts'
import type { Db, Query } from './db.ts'
import { milliseconds, numberOrNull, text } from './rows.ts'

export type PolicyRecord = PolicySettings & { id: string; name: string; createdMs: number }
export type PolicySettings = { tiers: Patience; spendMicrosPerDay: number | null }

export async function activePolicies(db: Db): Promise<PolicyRecord[]> {
  return (await db.query('select * from policies where archived_at is null order by id desc')).map(parsePolicy)
}

/** When tiers opened under the policies that are archived, the latest of each name: what was accepted under one may still wait. */
export async function archivedTiers(db: Db): Promise<Map<string, Patience>> {
  const rows = await db.query(
    'select distinct on (name) name, tiers from policies where archived_at is not null order by name, archived_at desc',
  )
  return new Map(rows.map((row) => [text(row.name), row.tiers as Patience]))
}

export async function findPolicy(db: Db, idOrName: string): Promise<PolicyRecord | undefined> {
  const row = await db.maybeOne('select * from policies where archived_at is null and (id::text = $1 or name = $1)', [idOrName])
  return row === undefined ? undefined : parsePolicy(row)
}

/** Undefined when the name is taken. */
export async function savePolicy(query: Query, policy: PolicySettings & { id: string; name: string }): Promise<PolicyRecord | undefined> {
  const [row] = await query(
    `insert into policies (id, name, tiers, spend_micros_per_day) values ($1, $2, $3, $4)
     on conflict (name) where archived_at is null do nothing returning *`,
    [policy.id, policy.name, JSON.stringify(policy.tiers), policy.spendMicrosPerDay],
  )
  return row === undefined ? undefined : parsePolicy(row)
}

export async function changePolicy(query: Query, id: string, settings: PolicySettings): Promise<PolicyRecord | undefined> {
  const [row] = await query('update policies set tiers = $2, spend_micros_per_day = $3 where id = $1 and archived_at is null returning *', [
    id,
    JSON.stringify(settings.tiers),
    settings.spendMicrosPerDay,
  ])
  return row === undefined ? undefined : parsePolicy(row)
}

/** Refused, as undefined, while a team names it. */
export async function archivePolicy(query: Query, id: string): Promise<PolicyRecord | undefined> {
  const [row] = await query(
    `update policies p set archived_at = now() where id = $1 and archived_at is null
       and not exists (select 1 from teams t where t.policy = p.name and t.archived_at is null) returning *`,
    [id],
  )
  return row === undefined ? undefined : parsePolicy(row)
}

function parsePolicy(row: Record<string, unknown>): PolicyRecord {
  return {
    id: text(row.id),
    name: text(row.name),
    tiers: row.tiers as Patience,
    spendMicrosPerDay: numberOrNull(row.spend_micros_per_day),
    createdMs: milliseconds(row.created_at),
  }
}
