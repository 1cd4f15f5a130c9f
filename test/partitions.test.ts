import { expect, test } from 'vitest'
import { newId } from '../coordinator/ids.ts'
import { ensurePartitions, firstUuidOf, partitionOf } from '../coordinator/store/migrate.ts'
import { World } from './support/world.ts'

/** History of a day for which no partition was made in time: the host slept, or its clock jumped. */

test('rows of a day without a partition move into it, and a start meets no hindrance', async () => {
  await using world = await World.open()
  const coordinator = await world.coordinator()
  const db = world.database()
  const tomorrowMs = Date.now() + 86_400_000
  const name = `events_${new Date(tomorrowMs).toISOString().slice(0, 10).replaceAll('-', '')}`
  await db.query(`drop table ${name}`)
  const id = newId(tomorrowMs)
  await db.query("insert into events (id, at, severity, type, actor, details) values ($1, now(), 'info', 'job.accepted', 'test', '{}')", [
    id,
  ])
  expect(await db.maybeOne('select count(*)::int as rows from events_default')).toEqual({ rows: 1 })
  await coordinator.stop()
  await world.coordinator()
  expect(await db.maybeOne(`select count(*)::int as rows from ${name} where id = $1`, [id])).toEqual({ rows: 1 })
  expect(await db.maybeOne('select count(*)::int as rows from events_default')).toEqual({ rows: 0 })
  // Two coordinators that look at the same moment make one partition.
  await db.query(`drop table ${name}`)
  await Promise.all([ensurePartitions(db, Date.now()), ensurePartitions(db, Date.now())])
  expect(await db.maybeOne('select to_regclass($1)::text as made', [name])).toEqual({ made: name })
  await db.close()
})

test('the partition of an id is that of its day, to the millisecond, and the whole table where there is none', async () => {
  await using world = await World.open()
  await world.coordinator()
  const db = world.database()
  const midnightMs = Math.ceil(Date.now() / 86_400_000) * 86_400_000
  await ensurePartitions(db, midnightMs)
  const named = (ms: number): string => partitionOf('jobs', firstUuidOf(ms))
  const dayOf = (ms: number): string => `jobs_${new Date(ms).toISOString().slice(0, 10).replaceAll('-', '')}`
  expect([named(midnightMs - 1), named(midnightMs)]).toEqual([dayOf(midnightMs - 1), dayOf(midnightMs)])
  expect(partitionOf('jobs', 'ffffffff-ffff-7000-8000-000000000000')).toBe('jobs')
  expect(partitionOf('jobs', '00000000-0000-7000-8000-000000000000')).toBe('jobs')
  await db.close()
})
