import type { Db } from './db.ts'
import { milliseconds, number, text } from './rows.ts'

export type FileRecord = { id: string; team: string; name: string; purpose: string; bytes: number; createdMs: number }

const FACTS = 'id, team, name, purpose, bytes, created_at'

/** With its idempotency key, or not at all. */
export async function saveFile(
  db: Db,
  file: { id: string; team: string; name: string; purpose: string; content: Buffer },
  idempotency: { key: string; hash: Buffer } | undefined,
): Promise<FileRecord> {
  return db.transaction(async (query) => {
    const [row] = await query(
      `insert into files (id, team, name, purpose, bytes, content) values ($1, $2, $3, $4, $5, $6) returning ${FACTS}`,
      [file.id, file.team, file.name, file.purpose, file.content.length, file.content],
    )
    if (idempotency !== undefined)
      await query('insert into idempotency_keys (team, key, request_hash, file) values ($1, $2, $3, $4)', [
        file.team,
        idempotency.key,
        idempotency.hash,
        file.id,
      ])
    return parseFile(row ?? {})
  })
}

export async function findFile(db: Db, id: string): Promise<FileRecord | undefined> {
  const row = await db.maybeOne(`select ${FACTS} from files where id = $1`, [id])
  return row === undefined ? undefined : parseFile(row)
}

export async function readFileContent(db: Db, id: string): Promise<Buffer | undefined> {
  const row = await db.maybeOne('select content from files where id = $1', [id])
  return row === undefined ? undefined : (row.content as Buffer)
}

/** By age, behind the one that is named; `teams` null: of all. */
export async function listFiles(
  db: Db,
  { teams, after, order, limit }: { teams: readonly string[] | null; after: string | null; order: 'asc' | 'desc'; limit: number },
): Promise<FileRecord[]> {
  const rows = await db.query(
    `select ${FACTS} from files
     where ($1::uuid is null or id ${order === 'asc' ? '>' : '<'} $1) and ($2::text[] is null or team = any($2))
     order by id ${order} limit $3`,
    [after, teams, limit],
  )
  return rows.map(parseFile)
}

export async function deleteFile(db: Db, id: string): Promise<void> {
  await db.query('delete from files where id = $1', [id])
}

function parseFile(row: Record<string, unknown>): FileRecord {
  return {
    id: text(row.id),
    team: text(row.team),
    name: text(row.name),
    purpose: text(row.purpose),
    bytes: number(row.bytes),
    createdMs: milliseconds(row.created_at),
  }
}
