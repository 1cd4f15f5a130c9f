import type { Db, Query } from './db.ts'
import { milliseconds, text } from './rows.ts'

export const ROLES = ['owner', 'admin', 'operator', 'approver', 'member', 'viewer'] as const
export type Role = (typeof ROLES)[number]

export type UserRecord = UserSettings & { id: string; createdMs: number }
export type UserSettings = { email: string; name: string; role: Role; teams: string[] }

export async function listUsers(db: Db, filter: { before: string | null; limit: number }): Promise<UserRecord[]> {
  const rows = await db.query('select * from users where archived_at is null and ($1::uuid is null or id < $1) order by id desc limit $2', [
    filter.before,
    filter.limit,
  ])
  return rows.map(parseUser)
}

export async function findUser(db: Db, idOrEmail: string): Promise<UserRecord | undefined> {
  const row = await db.maybeOne('select * from users where archived_at is null and (id::text = $1 or lower(email) = lower($1))', [
    idOrEmail,
  ])
  return row === undefined ? undefined : parseUser(row)
}

/** Undefined when the address is taken. */
export async function saveUser(query: Query, user: UserSettings & { id: string }): Promise<UserRecord | undefined> {
  const [row] = await query(
    `insert into users (id, email, name, role, teams) values ($1, $2, $3, $4, $5)
     on conflict (lower(email)) where archived_at is null do nothing returning *`,
    [user.id, user.email, user.name, user.role, user.teams],
  )
  return row === undefined ? undefined : parseUser(row)
}

export async function changeUser(query: Query, id: string, user: UserSettings): Promise<UserRecord | undefined> {
  const [row] = await query('update users set name = $2, role = $3, teams = $4 where id = $1 and archived_at is null returning *', [
    id,
    user.name,
    user.role,
    user.teams,
  ])
  return row === undefined ? undefined : parseUser(row)
}

/** The user's keys end with the user. */
export async function archiveUser(query: Query, id: string): Promise<UserRecord | undefined> {
  const [row] = await query('update users set archived_at = now() where id = $1 and archived_at is null returning *', [id])
  if (row === undefined) return undefined
  await query('update keys set revoked_at = now() where owner = $1 and revoked_at is null', [id])
  return parseUser(row)
}

function parseUser(row: Record<string, unknown>): UserRecord {
  return {
    id: text(row.id),
    email: text(row.email),
    name: text(row.name),
    role: text(row.role) as Role,
    teams: row.teams as string[],
    createdMs: milliseconds(row.created_at),
  }
}
