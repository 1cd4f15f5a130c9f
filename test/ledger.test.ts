import path from 'node:path'
import pg from 'pg'
import { expect, test } from 'vitest'
import { chatStream } from './support/stream.ts'
import { World } from './support/world.ts'

test('every change of job, worker, model and key is an event, written with the change, with its ids', async () => {
  await using world = await World.open()
  const coordinator = await world.coordinator()
  const a = await world.worker('a', 'fake=fake:?slots=1&rate=200&crash_on=CRASH')
  const { seen } = chatStream(world, 'fake', 'first', { max_tokens: 5 })
  await world.until('done', () => seen.done)
  const cancelled = chatStream(world, 'fake', 'second', { max_tokens: 5_000 })
  await world.until('streams', () => cancelled.seen.deltas > 1)
  cancelled.abort()
  await world.until('cancelled', async () => (await world.job(cancelled.seen.job)).status === 'cancelled')
  await chatStream(world, 'fake', 'CRASH', { max_tokens: 5 }).done
  await a.stop()
  await world.until('drained', async () => (await world.events('&type=worker.drained')).length === 1)
  const events = await world.events()
  const types = new Set(events.map((event) => event.type))
  for (const type of [
    'coordinator.started',
    'key.created',
    'worker.joined',
    'model.loaded',
    'model.crashed',
    'worker.drain_started',
    'job.accepted',
    'job.started',
    'job.succeeded',
    'job.cancelled',
    'job.requeued',
    'job.parked',
  ])
    expect(types, type).toContain(type)
  const ofFirst = events.filter((event) => event.job === seen.job)
  expect(ofFirst.map((event) => event.type)).toEqual(['job.succeeded', 'job.accepted'])
  expect(new Set(ofFirst.map((event) => event.trace_id)).size).toBe(1)
  expect(ofFirst.find((event) => event.type === 'job.accepted')).toMatchObject({
    worker: 'a',
    details: { attempt: 1, rule: 'at_once/least_busy' },
  })
  const errors = await world.events('&severity=error')
  expect(errors.map(({ type, severity }) => `${severity} ${type}`)).toContain('error job.parked')
  expect(errors.filter(({ severity }) => severity !== 'error')).toEqual([])
  expect(JSON.stringify(events)).not.toContain('first')
  await coordinator.stop()
  await world.coordinator()
  expect(await world.events('&type=coordinator.stopped')).toHaveLength(1)
})

test('what is set up is there with its event or not at all', async () => {
  await using world = await World.open()
  await world.coordinator()
  const db = world.database()
  await db.query(`create function refuse() returns trigger language plpgsql as $$ begin raise 'no events today'; end $$;
    create trigger refuse before insert on events for each row execute function refuse()`)
  const things: [string, object][] = [
    ['/api/teams', { name: 'blue' }],
    ['/api/keys', { name: 'other', kind: 'worker' }],
    ['/api/users', { email: 'ann@example.com' }],
    ['/api/credentials', { name: 'mine', secret: 'x' }],
    ['/api/policies', { name: 'local', tiers: { gpu: 'at_once' } }],
  ]
  const count = async (target: string): Promise<number> => ((await world.get(target)) as { data: unknown[] }).data.length
  for (const [target, body] of things) {
    const before = await count(target)
    expect((await world.request('POST', target, body)).status, target).toBe(500)
    expect(await count(target), target).toBe(before)
  }
  await db.query('drop trigger refuse on events')
  await db.close()
  for (const [target, body] of things) expect((await world.request('POST', target, body)).status, target).toBe(201)
})

test('pages of jobs and events run through all of them, newest first, each once', async () => {
  await using world = await World.open()
  await world.coordinator()
  await world.worker('a', 'fake=fake:?slots=8')
  for (let index = 0; index < 23; index++) await chatStream(world, 'fake', `${index}`, { max_tokens: 1 }).done
  const seen: string[] = []
  let cursor = ''
  do {
    const page = (await world.get(`/api/jobs?limit=10${cursor}`)) as { data: { id: string }[]; next: string | null }
    seen.push(...page.data.map((job) => job.id))
    cursor = page.next === null ? '' : `&cursor=${page.next}`
  } while (cursor !== '')
  expect(seen).toHaveLength(23)
  expect(new Set(seen).size).toBe(23)
  expect(seen).toEqual([...seen].sort().toReversed())
})

test('the database refuses rows that cannot be', async () => {
  await using world = await World.open()
  await world.coordinator()
  const client = new pg.Client({ host: path.join(world.dir, 'coordinator', 'postgres'), user: 'holdfast', database: 'holdfast' })
  await client.connect()
  const base = `insert into jobs (id, version, type, team, model, detached, seed, trace_id, created_at`
  const values = `values (gen_random_uuid(), 1, 'chat', 'default', 'm', false, 1, gen_random_uuid(), now()`
  for (const status of ['succeeded', 'failed', 'cancelled', 'odd'])
    await expect(client.query(`${base}, status) ${values}, '${status}')`), status).rejects.toThrow(/status_is_true/)
  for (const status of ['queued', 'running', 'parked'])
    await expect(client.query(`${base}, status, finished_at) ${values}, '${status}', now())`), status).rejects.toThrow(/status_is_true/)
  await client.query(`${base}, status) ${values}, 'queued')`)
  const today = (await client.query(`select count(*) from pg_class where relname ~ '^(jobs|events)_\\d{8}$'`)).rows[0]
  expect(Number(today.count)).toBe(8)
  await client.end()
})

test('DATABASE_URL replaces the embedded server, and two coordinators do not share one data directory', async () => {
  await using host = await World.open()
  await host.coordinator()
  const socket = path.join(host.dir, 'coordinator', 'postgres')
  const url = `postgres://holdfast@/other?host=${encodeURIComponent(socket)}`
  const client = new pg.Client({ host: socket, user: 'holdfast', database: 'holdfast' })
  await client.connect()
  await client.query('create database other')
  await client.end()
  await using world = await World.open()
  await world.coordinator({ DATABASE_URL: url })
  await world.worker('a', 'fake=fake:')
  expect((await chatStream(world, 'fake', 'x').done).usage?.completion_tokens).toBe(16)
  await using rival = await World.open()
  const second = rival.start('rival', ['coordinator'], { DATABASE_URL: url, HOLDFAST_DATA_DIR: path.join(world.dir, 'coordinator') })
  await second.exited
  expect(second.ended?.code).toBe(1)
  expect(second.output).toContain('Another coordinator runs from this data directory')
  const unreachable = rival.start('unreachable', ['coordinator'], {
    DATABASE_URL: 'postgres://nobody@127.0.0.1:1/none',
    HOLDFAST_DATA_DIR: path.join(rival.dir, 'none'),
  })
  await unreachable.exited
  expect(unreachable.output).toMatch(/DATABASE_URL: PostgreSQL cannot be reached/)
  expect(unreachable.output).not.toMatch(/\bat .*\.ts:\d+/)
  // What every test here ends with sees that database too.
  const db = world.database()
  const odd = `('ffffffff-0000-7000-8000-000000000000', now(), 'info', 'no dot', 'test', '{}')`
  await db.query(`insert into events (id, at, severity, type, actor, details) values ${odd}`)
  await expect(world.close()).rejects.toThrow('no dot is info')
  await db.query(`delete from events where type = 'no dot'`)
  await db.close()
})
