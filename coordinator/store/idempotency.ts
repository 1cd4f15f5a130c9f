import type { JobId } from '../core/job.ts'
import type { Db } from './db.ts'
import { textOrNull } from './rows.ts'

/** What a key made; exactly one of job, batch and file is set. Rows are written by the writer and with batches and files. */
export type IdempotencyRow = { hash: Buffer; job: JobId | null; batch: string | null; file: string | null }

export async function findIdempotencyKey(db: Db, team: string, key: string): Promise<IdempotencyRow | undefined> {
  const row = await db.maybeOne('select request_hash, job, batch, file from idempotency_keys where team = $1 and key = $2', [team, key])
  if (row === undefined) return undefined
  return {
    hash: row.request_hash as Buffer,
    job: textOrNull(row.job) as JobId | null,
    batch: textOrNull(row.batch),
    file: textOrNull(row.file),
  }
}

/** A repeat comes within minutes or hours; after a week a key may be used anew. */
export async function forgetOldKeys(db: Db): Promise<void> {
  await db.query(`delete from idempotency_keys where created_at < now() - interval '7 days'`)
}
