import type { Db } from './db.ts'
import { number, textOrNull } from './rows.ts'

/** What was paid since a time, by who asked, under which policy and to whom. Reads the index of paid jobs only. */
export async function readSpending(db: Db, sinceMs: number): Promise<Spent[]> {
  const rows = await db.query(
    `select team, policy, key, worker_name, sum(cost_micros) as micros from jobs
      where cost_micros > 0 and id >= $1 group by team, policy, key, worker_name`,
    [firstIdOf(sinceMs)],
  )
  return rows.map((row) => ({
    team: String(row.team),
    policy: textOrNull(row.policy),
    key: textOrNull(row.key),
    provider: textOrNull(row.worker_name),
    micros: number(row.micros),
  }))
}

export type Spent = { team: string; policy: string | null; key: string | null; provider: string | null; micros: number }

/** The smallest UUIDv7 of a millisecond: the first 48 bits are the time. */
function firstIdOf(ms: number): string {
  const hex = Math.max(0, Math.floor(ms)).toString(16).padStart(12, '0')
  return `${hex.slice(0, 8)}-${hex.slice(8)}-7000-8000-000000000000`
}
