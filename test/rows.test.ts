import { randomUUID } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { JobId, JobRecord, WorkerId } from '../coordinator/core/job.ts'
import { Db } from '../coordinator/store/db.ts'
import { EmbeddedPostgres } from '../coordinator/store/embedded.ts'
import { adoptJobs, claimParked, findJob } from '../coordinator/store/jobs.ts'
import { ensurePartitions, migrate } from '../coordinator/store/migrate.ts'
import { listWorkers, saveWorker, touchWorkers } from '../coordinator/store/workers.ts'
import { Writer } from '../coordinator/store/writer.ts'
import { record } from './support/records.ts'
import { unsoundRows } from './support/sound.ts'

let dir: string
let postgres: EmbeddedPostgres
let db: Db
const quiet = { info: () => {}, warn: () => {}, error: () => {}, debug: () => {} }

beforeAll(async () => {
  dir = mkdtempSync(path.join(os.tmpdir(), 'holdfast-rows-'))
  postgres = await EmbeddedPostgres.start(dir, quiet)
  db = new Db({ socketDir: postgres.socketDir })
  await migrate(db)
  await ensurePartitions(db, Date.now())
})
afterAll(async () => {
  await db.close()
  await postgres.stop()
  rmSync(dir, { recursive: true })
})

test('migrating again changes nothing', async () => {
  expect(await migrate(db)).toEqual([])
})

test('a day of history is vacuumed where there is something to clean up, and is not sampled all the time', async () => {
  const rows = await db.query(`select relname, reloptions from pg_class where relkind = 'r' and relname ~ '_20[0-9]{6}$'`)
  expect(rows.length).toBeGreaterThanOrEqual(20)
  for (const { relname, reloptions } of rows) {
    expect(reloptions, String(relname)).toContain('autovacuum_vacuum_insert_threshold=1000000')
    expect(String(reloptions).includes('autovacuum_vacuum_threshold'), String(relname)).toBe(String(relname).startsWith('jobs_2'))
  }
})

test('what nobody owns is adopted some at a time, the oldest first, each once', async () => {
  await db.query(`update jobs set status = 'cancelled', finished_at = now() where finished_at is null`)
  const writer = new Writer(db, { onFlush: () => {}, onDropped: (error) => expect.fail(String(error)) })
  const [me, installation] = [randomUUID(), randomUUID()]
  await db.query(`insert into coordinators (id, installation, version, lease_until) values ($1, $2, 'test', now())`, [me, installation])
  const orphans = Array.from({ length: 5 }, () => record())
  for (const one of orphans) await writer.insertJob({ ...one, owner: randomUUID() }, '{}')
  await writer.insertJob({ ...record(), owner: me }, '{}')
  const page = async (lost: JobId[], after: JobId | null): Promise<{ ids: JobId[]; last: JobId | null }> => {
    const { jobs, last } = await adoptJobs(db, me, lost, { after, limit: 2 })
    return { ids: jobs.map((one) => one.id), last }
  }
  const ids = orphans.map((one) => one.id)
  // Of those that were found, another coordinator may be a moment earlier with one.
  const query = db.query.bind(db)
  db.query = async (text, values) => {
    if (text.includes('with adopted')) await query('update jobs set owner = $1 where id = $2', [me, ids[1]])
    return query(text, values)
  }
  expect(await page([], null)).toEqual({ ids: ids.slice(0, 1), last: ids[1] })
  db.query = query
  expect(await page([], ids[1] as JobId)).toEqual({ ids: ids.slice(2, 4), last: ids[3] })
  expect(await page([], ids[3] as JobId)).toEqual({ ids: ids.slice(4), last: null })
  expect(await page([], null)).toEqual({ ids: [], last: null })
  // What it owns already and has lost is given once more.
  expect(await page([ids[0] as JobId], null)).toEqual({ ids: ids.slice(0, 1), last: null })
  await db.query('delete from coordinators where id = $1', [me])
  await writer.close()
})

test('who claims a parked job says at once what it becomes: nobody finds it parked before the rest of it is stored', async () => {
  const writer = new Writer(db, { onFlush: () => {}, onDropped: (error) => expect.fail(String(error)) })
  const [me, rival] = [randomUUID(), randomUUID()]
  for (const as of ['queued', 'cancelled'] as const) {
    const one = {
      ...record(),
      status: 'parked' as const,
      error: { layer: 'model', code: 'x', message: 'x', retryable: false } as JobRecord['error'],
    }
    await writer.insertJob(one, '{}')
    const claim = (by: string, version: number): Promise<boolean> =>
      db.transaction((query) => claimParked(query, { ...one, version }, by, as))
    // Who saw it before it was parked this time knows another job.
    expect(await claim(rival, one.version - 1)).toBe(false)
    expect(await claim(me, one.version)).toBe(true)
    const after = (await findJob(db, one.id)) as JobRecord
    expect(after).toMatchObject({ status: as, owner: me, version: one.version + 1 })
    expect(await claim(rival, after.version)).toBe(false)
    expect(await unsoundRows(db)).toEqual([])
    await db.query('delete from jobs where id = $1', [one.id])
  }
  await writer.close()
})

test('a worker that is here was seen now, and one that is not was seen when it was', async () => {
  const [here, gone] = [randomUUID(), randomUUID()] as [WorkerId, WorkerId]
  for (const id of [here, gone]) await saveWorker(db, { id, name: id, state: 'online', version: '1', models: [], host: {}, drained: false })
  await db.query(`update workers set seen_at = now() - interval '2 days' where id = any($1)`, [[here, gone]])
  await touchWorkers(db, [here])
  const ages = new Map((await listWorkers(db)).map(({ id, seenMs }) => [id, Date.now() - seenMs]))
  expect(ages.get(here)).toBeLessThan(60_000)
  expect(ages.get(gone)).toBeGreaterThan(86_400_000)
})
