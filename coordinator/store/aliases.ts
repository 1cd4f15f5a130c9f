import type { Db, Query } from './db.ts'
import { milliseconds, text } from './rows.ts'

/** Another name for a model, or for another alias. */
export type AliasRecord = { name: string; target: string; createdMs: number }

export async function allAliases(db: Db): Promise<AliasRecord[]> {
  const rows = await db.query('select * from model_aliases order by name')
  return rows.map((row) => ({ name: text(row.name), target: text(row.target), createdMs: milliseconds(row.created_at) }))
}

/** Two people may each close half of a circle: the table is locked, and `check` sees what is there when this is written. */
export async function saveAlias(
  query: Query,
  alias: { name: string; target: string },
  check: (known: Map<string, string>) => void,
): Promise<{ name: string; target: string }> {
  await query('lock table model_aliases in share row exclusive mode')
  const rows = await query('select name, target from model_aliases')
  check(new Map(rows.map((row) => [text(row.name), text(row.target)])))
  await query('insert into model_aliases (name, target) values ($1, $2) on conflict (name) do update set target = $2', [
    alias.name,
    alias.target,
  ])
  return alias
}

export async function removeAlias(query: Query, name: string): Promise<string | undefined> {
  const [row] = await query('delete from model_aliases where name = $1 returning name', [name])
  return row === undefined ? undefined : text(row.name)
}
