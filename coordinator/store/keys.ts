import type { Db } from './db.ts'
import { text } from './rows.ts'

export type KeyRecord = { id: string; name: string; kind: string; team: string; hash: Buffer }

export async function activeKeys(db: Db): Promise<KeyRecord[]> {
  const rows = await db.query('select id, name, kind, team, hash from keys where revoked_at is null')
  return rows.map((row) => ({
    id: text(row.id),
    name: text(row.name),
    kind: text(row.kind),
    team: text(row.team),
    hash: row.hash as Buffer,
  }))
}

/**
 * Makes the given bootstrap key the only one. Answers whether it was new, and whether it took the place of another:
 * both are events.
 */
export async function saveBootstrapKey(
  db: Db,
  key: { id: string; teamId: string; hash: Buffer },
): Promise<{ created: boolean; replaced: boolean }> {
  return db.transaction(async (query) => {
    await query(`insert into teams (id, name) values ($1, 'default') on conflict (name) do nothing`, [key.teamId])
    const replaced = await query(
      `update keys set revoked_at = now() where kind = 'bootstrap' and revoked_at is null and hash <> $1 returning id`,
      [key.hash],
    )
    const created = await query(
      `insert into keys (id, name, kind, team, hash) values ($1, 'admin', 'bootstrap', 'default', $2)
       on conflict (hash) do update set revoked_at = null where keys.revoked_at is not null returning id`,
      [key.id, key.hash],
    )
    return { created: created.length > 0, replaced: replaced.length > 0 }
  })
}
