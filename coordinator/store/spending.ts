import type { JobId } from '../core/job.ts'
import type { Db } from './db.ts'
import { number, textOrNull } from './rows.ts'

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
