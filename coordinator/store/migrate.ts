import { readdirSync, readFileSync } from 'node:fs'
import { Fault } from '../core/fault.ts'
import type { Db } from './db.ts'

/**
 * Brings the schema up to date: numbered files, forward only, each in one transaction, one coordinator at a time.
 * Answers the numbers applied now. A database that a newer Holdfast has migrated is refused.
 */
export async function migrate(db: Db): Promise<number[]> {
  const files = readdirSync(FOLDER)
    .filter((name) => /^\d{4}_\w+\.sql$/.test(name))
    .sort()
  return db.transaction(async (query) => {
    const [{ server_encoding: encoding } = {}] = await query('show server_encoding')
    if (encoding !== 'UTF8')
      throw new Fault(
        'database_encoding',
        `The database holds its texts as ${String(encoding)}, which has no room for all of them: make one with encoding 'UTF8'.`,
      )
    await query('select pg_advisory_xact_lock($1)', [MIGRATION_LOCK])
    await query(`create table if not exists holdfast_migrations (
      number integer primary key, name text not null, applied_at timestamptz not null default now())`)
    const applied = new Set((await query('select number from holdfast_migrations')).map((row) => Number(row.number)))
    const newest = Number(files.at(-1)?.slice(0, 4) ?? 0)
    const beyond = [...applied].find((number) => number > newest)
    if (beyond !== undefined)
      throw new Fault('database_too_new', `The database is at migration ${beyond}, this Holdfast knows ${newest}: start the newer version.`)
    const pending = files.filter((name) => !applied.has(Number(name.slice(0, 4))))
    for (const name of pending) {
      await query(readFileSync(new URL(name, FOLDER), 'utf8'))
      await query('insert into holdfast_migrations (number, name) values ($1, $2)', [Number(name.slice(0, 4)), name])
    }
    return pending.map((name) => Number(name.slice(0, 4)))
  })
}

/** Tells this database from every other, to whoever asks and for all its life: the microsecond of its first migration. */
export async function databaseId(db: Db): Promise<string> {
  const [row] = await db.query('select (extract(epoch from min(applied_at)) * 1000000)::bigint::text as id from holdfast_migrations')
  return String(row?.id)
}

/**
 * Makes sure that the history tables have a partition for today and the days ahead. Called at start and then every few
 * hours. Rows of a day without one are in the default partition, which is never dropped: after a long sleep of the host, or
 * a jump of its clock. They move into the day's partition when that is made.
 */
export async function ensurePartitions(db: Db, todayMs: number): Promise<void> {
  await readPartitions(db)
  for (let day = 0; day <= DAYS_AHEAD; day++) {
    const from = Math.floor(todayMs / DAY_MS) * DAY_MS + day * DAY_MS
    for (const table of PARTITIONED) await ensurePartition(db, table, from)
  }
}

async function ensurePartition(db: Db, table: string, fromMs: number): Promise<void> {
  const name = `${table}_${suffixOf(fromMs / DAY_MS)}`
  const [first, end] = [firstUuidOf(fromMs), firstUuidOf(fromMs + DAY_MS)]
  const key = table === 'jobs' || table === 'events' ? 'id' : 'job'
  if (partitions.has(name)) return
  await db.transaction(async (query) => {
    await query('select pg_advisory_xact_lock($1)', [MIGRATION_LOCK])
    // Read as a row: what PostgreSQL remembers of names may be older than what was waited for.
    if ((await query('select from pg_class where relname = $1 and pg_table_is_visible(oid)', [name])).length > 0) return
    // What the writer adds meanwhile waits for the partition, or it would land where no partition may be made any more.
    await query(`lock table ${table}_default in access exclusive mode`)
    const settings = Object.entries(table === 'jobs' ? KEPT_CLEAN : WRITTEN_ONCE).map(([setting, value]) => `${setting} = ${value}`)
    await query(`create table ${name} (like ${table} including all) with (${settings.join(', ')})`)
    await query(
      `with moved as (delete from ${table}_default where ${key} >= '${first}' and ${key} < '${end}' returning *) insert into ${name} select * from moved`,
    )
    await query(`alter table ${table} attach partition ${name} for values from ('${first}') to ('${end}')`)
  })
  partitions.add(name)
}

/** Also when one turns out to be gone: a day of the past was dropped. */
export async function readPartitions(db: Db): Promise<void> {
  const rows = await db.query('select inhrelid::regclass::text as name from pg_inherits where inhparent = any($1::regclass[])', [
    PARTITIONED,
  ])
  partitions.clear()
  for (const { name } of rows) partitions.add(String(name))
}

/** Those that were there when this process last looked. */
const partitions = new Set<string>()

/**
 * The table that holds the row of the id: its day's partition, or the whole where that is not known. An update that names the
 * whole opens every partition there is: with a year of them that took 10 ms, and 1 by name.
 */
export function partitionOf(table: string, id: string): string {
  const name = `${table}_${suffixOf(dayOf(id))}`
  return partitions.has(name) ? name : table
}

/** Days since 1970 of a UUIDv7. Rows that come together are nearly all of the same minute, which its first digits tell. */
export function dayOf(id: string): number {
  if (minute !== '' && id.startsWith(minute)) return dayOfMinute
  const digits = id.slice(0, 8)
  const day = Math.floor(Number.parseInt(digits + id.slice(9, 13), 16) / DAY_MS)
  const [first, last] = ['0000', 'ffff'].map((rest) => Math.floor(Number.parseInt(digits + rest, 16) / DAY_MS))
  // One that midnight falls into says nothing.
  if (first === last) [minute, dayOfMinute] = [digits, day]
  return day
}

let minute = ''
let dayOfMinute = 0

function suffixOf(day: number): string {
  let suffix = suffixes.get(day)
  if (suffix === undefined) {
    // Ids of nearly all jobs are of a few days.
    if (suffixes.size > SUFFIXES_MAX) suffixes.clear()
    suffix = new Date(Math.min(day, LAST_DAY) * DAY_MS).toISOString().slice(0, 10).replaceAll('-', '')
    suffixes.set(day, suffix)
  }
  return suffix
}

const suffixes = new Map<number, string>()
const SUFFIXES_MAX = 1_000
const LAST_DAY = Date.UTC(9999, 11, 31) / 86_400_000

/** The smallest UUIDv7 of a millisecond: its first 48 bits are the time. */
export function firstUuidOf(ms: number): string {
  const hex = Math.max(0, ms).toString(16).padStart(12, '0')
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-0000-0000-000000000000`
}

const FOLDER = new URL('migrations/', import.meta.url)
const PARTITIONED = ['jobs', 'job_requests', 'job_outputs', 'attempts', 'events']
// A day's partition begins empty and grows by the thousand: by PostgreSQL's own measure it would be vacuumed and sampled with every
// fifth of its rows, which took a sixteenth of both cores under load. No plan here hangs on how many rows there are, and rows that are
// written once leave nothing to clean up.
const WRITTEN_ONCE = {
  autovacuum_analyze_threshold: 100_000,
  autovacuum_analyze_scale_factor: 1,
  autovacuum_vacuum_insert_threshold: 1_000_000,
}
// Every end leaves a dead row behind, and its place in the index of live ones.
const KEPT_CLEAN = { ...WRITTEN_ONCE, autovacuum_vacuum_threshold: 50_000 }
const DAYS_AHEAD = 3
const DAY_MS = 86_400_000
const MIGRATION_LOCK = 4_865_123
