import type { JobId } from '../core/job.ts'
import type { Db, Query } from './db.ts'
import { textOrNull } from './rows.ts'

/** What a key made; exactly one of job, batch, file and made is set. Rows are written by the writer and with batches, files and what `recorded` makes. */
export type IdempotencyRow = { hash: Buffer; job: JobId | null; batch: string | null; file: string | null; made: string | null }

/** A key for what sets Holdfast up; `made` is the id of what is being made. */
export type SetUpClaim = { team: string; key: string; hash: Buffer; made: string }

/** Somebody else's transaction has claimed the key meanwhile. */
export class KeyTaken extends Error {}

export async function findIdempotencyKey(db: Db, team: string, key: string): Promise<IdempotencyRow | undefined> {
  const row = await db.maybeOne('select request_hash, job, batch, file, made from idempotency_keys where team = $1 and key = $2', [
    team,
    key,
  ])
  if (row === undefined) return undefined
  return {
    hash: row.request_hash as Buffer,
    job: textOrNull(row.job) as JobId | null,
    batch: textOrNull(row.batch),
    file: textOrNull(row.file),
    made: textOrNull(row.made),
  }
}

/** First in the transaction that makes the thing: of two at once the second waits here. */
export async function claimKey(query: Query, { team, key, hash, made }: SetUpClaim): Promise<void> {
  const claimed = await query(
    'insert into idempotency_keys (team, key, request_hash, made) values ($1, $2, $3, $4) on conflict do nothing returning made',
    [team, key, hash, made],
  )
  if (claimed.length === 0) throw new KeyTaken()
}

/** Nothing was made, and the key may be used for it later. */
export async function unclaimKey(query: Query, { team, key, made }: SetUpClaim): Promise<void> {
  await query('delete from idempotency_keys where team = $1 and key = $2 and made = $3', [team, key, made])
}

/** A repeat comes within minutes or hours; after a week a key may be used anew. */
export async function forgetOldKeys(db: Db): Promise<void> {
  await db.query(`delete from idempotency_keys where created_at < now() - interval '7 days'`)
}
