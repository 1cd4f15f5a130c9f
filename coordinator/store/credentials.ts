import type { Db, Query } from './db.ts'
import { milliseconds, millisecondsOrNull, number, text } from './rows.ts'

/** What a provider is called with. The secret itself is sealed, and only opened to be used. */
export type CredentialRecord = {
  id: string
  name: string
  sealed: Buffer
  version: number
  createdMs: number
  rotatedMs: number | null
  revokedMs: number | null
}

/** Newest first. */
export async function listCredentials(db: Db, filter: { before: string | null; limit: number }): Promise<CredentialRecord[]> {
  const rows = await db.query('select * from credentials where ($1::uuid is null or id < $1) order by id desc limit $2', [
    filter.before,
    filter.limit,
  ])
  return rows.map(parseCredential)
}

export async function allCredentials(db: Db): Promise<CredentialRecord[]> {
  return (await db.query('select * from credentials')).map(parseCredential)
}

export async function findCredential(db: Db, idOrName: string): Promise<CredentialRecord | undefined> {
  const row = await db.maybeOne('select * from credentials where id::text = $1 or name = $1', [idOrName])
  return row === undefined ? undefined : parseCredential(row)
}

/** Undefined when the name is taken. */
export async function saveCredential(
  query: Query,
  credential: { id: string; name: string; sealed: Buffer },
): Promise<CredentialRecord | undefined> {
  const [row] = await query('insert into credentials (id, name, sealed) values ($1, $2, $3) on conflict (name) do nothing returning *', [
    credential.id,
    credential.name,
    credential.sealed,
  ])
  return row === undefined ? undefined : parseCredential(row)
}

/** A new secret under the same name; a revoked one is in force again. */
export async function rotateCredential(query: Query, id: string, sealed: Buffer): Promise<CredentialRecord | undefined> {
  const [row] = await query(
    `update credentials set sealed = $2, version = version + 1, rotated_at = now(), revoked_at = null where id = $1 returning *`,
    [id, sealed],
  )
  return row === undefined ? undefined : parseCredential(row)
}

/** Undefined when it was revoked before. */
export async function revokeCredential(query: Query, id: string): Promise<CredentialRecord | undefined> {
  const [row] = await query(
    `update credentials set revoked_at = now(), version = version + 1 where id = $1 and revoked_at is null returning *`,
    [id],
  )
  return row === undefined ? undefined : parseCredential(row)
}

/** Its providers know it by the new name too, and are read anew. Undefined when the name is taken. */
export async function renameCredential(query: Query, id: string, name: string): Promise<CredentialRecord | undefined> {
  const [row] = await query(
    'update credentials set name = $2 where id = $1 and not exists (select 1 from credentials c where c.name = $2) returning *',
    [id, name],
  )
  if (row === undefined) return undefined
  await query('update providers set version = version + 1 where credential = $1', [name])
  return parseCredential(row)
}

/** The secret is gone for good. Undefined while a provider is called with it. */
export async function removeCredential(query: Query, id: string): Promise<string | undefined> {
  await query(
    'update providers set credential = null where archived_at is not null and credential = (select name from credentials where id = $1)',
    [id],
  )
  const [row] = await query(
    `delete from credentials c where id = $1 and not exists (select 1 from providers p where p.credential = c.name) returning id`,
    [id],
  )
  return row === undefined ? undefined : text(row.id)
}

/** Some sealed secret; undefined while there is none. */
export async function anySealed(db: Db): Promise<Buffer | undefined> {
  const row = await db.maybeOne(
    `(select sealed from credentials limit 1) union all (select webhook_secret from teams where webhook_secret is not null limit 1) limit 1`,
  )
  return row === undefined ? undefined : (row.sealed as Buffer)
}

/**
 * How the envelopes that there are begin, so many bytes of each kind. Until the transaction ends no other may change them
 * all, so that what is sealed in it is sealed like the others.
 */
export async function marksOfEnvelopes(query: Query, bytes: number): Promise<Buffer[]> {
  await query('select pg_advisory_xact_lock_shared($1)', [ENVELOPES_LOCK])
  const rows = await query(
    `select distinct substr(sealed, 1, $1) as mark
       from (select sealed from credentials union all select webhook_secret from teams where webhook_secret is not null) as all_of_them`,
    [bytes],
  )
  return rows.map((row) => row.mark as Buffer)
}

const ENVELOPES_LOCK = 48_652

/** Every sealed secret, with the means to write it back sealed anew: for a new master key. All of them or none. */
export async function resealAll(db: Db, reseal: (sealed: Buffer) => Buffer): Promise<number> {
  return db.transaction(async (query) => {
    await query('select pg_advisory_xact_lock($1)', [ENVELOPES_LOCK])
    const credentials = await query('select id, sealed from credentials for update')
    for (const { id, sealed } of credentials)
      await query('update credentials set sealed = $2 where id = $1', [id, reseal(sealed as Buffer)])
    const teams = await query('select id, webhook_secret from teams where webhook_secret is not null for update')
    for (const { id, webhook_secret: sealed } of teams)
      await query('update teams set webhook_secret = $2 where id = $1', [id, reseal(sealed as Buffer)])
    return credentials.length + teams.length
  })
}

function parseCredential(row: Record<string, unknown>): CredentialRecord {
  return {
    id: text(row.id),
    name: text(row.name),
    sealed: row.sealed as Buffer,
    version: number(row.version),
    createdMs: milliseconds(row.created_at),
    rotatedMs: millisecondsOrNull(row.rotated_at),
    revokedMs: millisecondsOrNull(row.revoked_at),
  }
}
