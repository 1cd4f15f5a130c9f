import type { JobId } from '../core/job.ts'
import type { Db } from './db.ts'
import { number, numberOrNull, text, textOrNull } from './rows.ts'

/** What one attempt has cost, and who is to be told of it in sums. */
export type Payment = {
  job: JobId
  attempt: number
  atMs: number
  provider: string
  team: string
  policy: string | null
  key: string | null
  micros: number
}

/** What was paid from one time until before another, by who asked, under which policy and to whom. */
export async function readSpending(db: Db, fromMs: number, untilMs: number): Promise<Spent[]> {
  const rows = await db.query(
    `select team, policy, key, provider, sum(micros) as micros from payments
      where at >= to_timestamp($1::float8 / 1000) and at < to_timestamp($2::float8 / 1000) group by team, policy, key, provider`,
    [fromMs, untilMs],
  )
  return rows.map((row) => ({
    team: String(row.team),
    policy: textOrNull(row.policy),
    key: textOrNull(row.key),
    provider: String(row.provider),
    micros: number(row.micros),
  }))
}

type Spent = { team: string; policy: string | null; key: string | null; provider: string; micros: number }

/**
 * How much keys may spend, and teams and policies that are archived, by kind and name: what was accepted under a key that is
 * revoked by now, or under them, may still wait, and has no more to spend for it.
 */
export async function limitsInForce(db: Db): Promise<LimitInForce[]> {
  const rows = await db.query(
    `select 'key' as kind, id::text as name, spend_micros_per_day as day, null::bigint as month from keys where spend_micros_per_day is not null
     union all
     (select distinct on (name) 'team', name, spend_micros_per_day, spend_micros_per_month from teams
       where archived_at is not null order by name, archived_at desc)
     union all
     (select distinct on (name) 'policy', name, spend_micros_per_day, null from policies
       where archived_at is not null order by name, archived_at desc)`,
  )
  return rows.map((row) => ({
    kind: text(row.kind) as LimitInForce['kind'],
    name: text(row.name),
    perDay: numberOrNull(row.day),
    perMonth: numberOrNull(row.month),
  }))
}

export type LimitInForce = { kind: 'key' | 'team' | 'policy'; name: string; perDay: number | null; perMonth: number | null }
