import { randomUUID } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { setTimeout } from 'node:timers/promises'
import pg from 'pg'
import { expect, test } from 'vitest'
import { Db } from '../coordinator/store/db.ts'
import { EmbeddedPostgres } from '../coordinator/store/embedded.ts'
import { Lease } from '../coordinator/store/lease.ts'
import { migrate } from '../coordinator/store/migrate.ts'
import { postgresOf } from './bench/measure.ts'
import { type EventView, type Running, World } from './support/world.ts'

/** Two coordinators with data directories of their own over one PostgreSQL, which a third process brings. */
async function twoOverOne(): Promise<TwoOverOne> {
  const host = await World.open()
  const { pid } = await host.coordinator()
  const socket = path.join(host.dir, 'coordinator', 'postgres')
  const client = new pg.Client({ host: socket, user: 'holdfast', database: 'holdfast' })
  await client.connect()
  await client.query('create database shared')
  await client.end()
  const [first, second] = [await World.open(), await World.open()]
  const close = async (): Promise<void> => {
    for (const world of [first, second, host]) await world.close()
  }
  const url = `postgres://holdfast@/shared?host=${encodeURIComponent(socket)}`
  return { host, first, second, url, close, postgres: () => postgresOf(pid) }
}

type TwoOverOne = { host: World; first: World; second: World; url: string; close: () => Promise<void>; postgres: () => number[] }

const QUICK = { HOLDFAST_DEAD_AFTER_S: '2', HOLDFAST_HEARTBEAT_S: '0.5' }

test('what a dead coordinator owned is adopted by another when its lease runs out, and goes on from what was delivered', async () => {
  const { host, first, second, url, close } = await twoOverOne()
  try {
    await host.worker('undisturbed', 'fake=fake:')
    const undisturbed = await submit(host, 'long', 200)
    const want = await host.until('it is done', async () => (await host.job(undisturbed)).output?.text)
    const dead = await first.coordinator({ DATABASE_URL: url, ...QUICK })
    await second.coordinator({ DATABASE_URL: url, ...QUICK })
    const both = `127.0.0.1:${first.grpcPort},127.0.0.1:${second.grpcPort}`
    await first.worker('a', 'fake=fake:?slots=1&rate=20', { HOLDFAST_COORDINATOR: both })
    const [running, queued] = [await submit(first, 'long', 200), await submit(first, 'next', 5)]
    await first.until('it runs', async () => (await first.job(running)).status === 'running')
    dead.kill()
    await second.until('both have ended', async () => (await second.job(queued)).status === 'succeeded')
    const ended = await second.job(running)
    expect(ended).toMatchObject({ status: 'succeeded', usage: { completion_tokens: 200 }, output: { text: want } })
    // The worker never stopped: the attempt that ran is the attempt that ends.
    expect(ended.attempts).toHaveLength(1)
    expect((await second.events('&type=coordinator.lost')).length).toBe(1)
  } finally {
    await close()
  }
})

test('a coordinator that slept through its lease changes nothing that was adopted meanwhile, and ends', async () => {
  const { first, second, url, close } = await twoOverOne()
  try {
    const sleeper: Running = await first.coordinator({ DATABASE_URL: url, ...QUICK })
    const awake = await second.coordinator({ DATABASE_URL: url, ...QUICK })
    const waiting = await submitDetachedTo(first)
    const both = `127.0.0.1:${first.grpcPort},127.0.0.1:${second.grpcPort}`
    await first.worker('b', 'busy=fake:?slots=2&rate=20', { HOLDFAST_COORDINATOR: both })
    const [long, short] = [await submit(first, 'long', 2_000, 'busy'), await submit(first, 'short', 40, 'busy')]
    const runs = async (id: string): Promise<boolean> => (await first.job(id)).status === 'running'
    for (const id of [long, short]) await first.until('it runs', () => runs(id))
    // What runs goes on telling the sleeper, who reads all of it when it wakes.
    sleeper.kill('SIGSTOP')
    await second.until('adopted', () => awake.output.includes('Took up 3 jobs'))
    await second.until('the short one is done', async () => (await second.job(short)).status === 'succeeded')
    for (const id of [waiting, long]) expect((await second.request('POST', `/api/jobs/${id}/cancel`)).status).toBe(200)
    const look = (): Promise<unknown[]> => Promise.all([waiting, long, short].map((id) => second.job(id)))
    const told = async (): Promise<EventView[]> => (await second.events()).filter(({ job }) => job !== null)
    const [before, events] = [await look(), await told()]
    sleeper.kill('SIGCONT')
    await sleeper.exited
    expect(sleeper.output).toContain('lease ran out')
    expect(await look()).toEqual(before)
    expect(await told()).toEqual(events)
    expect(before).toMatchObject([{ status: 'cancelled' }, { status: 'cancelled' }, { status: 'succeeded', attempts: [{ number: 1 }] }])
  } finally {
    await close()
  }
})

test('a PostgreSQL that was frozen for longer than the lease costs no coordinator its place', async () => {
  const { first, second, url, close, postgres } = await twoOverOne()
  try {
    const both = [await first.coordinator({ DATABASE_URL: url, ...QUICK }), await second.coordinator({ DATABASE_URL: url, ...QUICK })]
    const frozen = postgres()
    for (const pid of frozen) process.kill(pid, 'SIGSTOP')
    await setTimeout(6_000)
    for (const pid of frozen) process.kill(pid, 'SIGCONT')
    // Longer than whoever would have been given up needs to find that out.
    await setTimeout(4_000)
    for (const world of [first, second]) await world.until('it is ready', async () => (await fetch(`${world.url}/readyz`)).ok)
    expect(both.map(({ ended }) => ended)).toEqual([null, null])
    expect(await first.events('&type=coordinator.lost')).toEqual([])
  } finally {
    await close()
  }
})

test('what is asked of a job at a coordinator that does not run it is answered truly, and a parked one is acted on once', async () => {
  const { first, second, url, close } = await twoOverOne()
  try {
    await first.coordinator({ DATABASE_URL: url, HOLDFAST_MASTER_KEY: MASTER_KEY })
    await second.coordinator({ DATABASE_URL: url, HOLDFAST_MASTER_KEY: MASTER_KEY })
    const third = first.start('third', ['coordinator'], {
      DATABASE_URL: url,
      HOLDFAST_DATA_DIR: path.join(first.dir, 'third'),
      HOLDFAST_ADMIN_KEY: '',
    })
    await third.exited
    expect([third.ended?.code, third.output]).toEqual([1, expect.stringContaining('give each the same HOLDFAST_ADMIN_KEY')])
    await first.request('POST', '/api/credentials', { name: 'c', secret: 'x' })
    const own = { DATABASE_URL: url, HOLDFAST_ADMIN_KEY: `hf_admin_${'x'.repeat(32)}` }
    const other = first.start('other', ['coordinator'], { ...own, HOLDFAST_DATA_DIR: path.join(first.dir, 'other') })
    await other.exited
    expect([other.ended?.code, other.output]).toEqual([1, expect.stringContaining('than that of HOLDFAST_ADMIN_KEY')])
    // One that cannot open the secrets of the others stores none that they could not.
    await using blind = await World.open()
    const running = await blind.coordinator({ DATABASE_URL: url, HOLDFAST_MASTER_KEY: 'y'.repeat(32) })
    expect(running.output).toContain('The master key is another')
    const sealing = await blind.request('POST', '/api/credentials', { name: 'd', secret: 'x' })
    expect([sealing.status, await sealing.json()]).toMatchObject([503, { error: { code: 'master_key_differs' } }])
    await running.stop()
    const key = (await (await first.request('POST', '/api/keys', { name: 'k', kind: 'team', team: 'default' })).json()) as {
      id: string
      key: string
    }
    const asKey = async (world: World): Promise<number> =>
      (await fetch(`${world.url}/v1/models`, { headers: { authorization: `Bearer ${key.key}` } })).status
    await second.until('the key is known here too', async () => (await asKey(second)) === 200)
    await first.request('POST', `/api/keys/${key.id}/revoke`, {})
    const revokedAt = performance.now()
    await second.until('it is revoked here too', async () => (await asKey(second)) === 401)
    // Told, and not found by the look that comes every five seconds.
    expect([await asKey(first), performance.now() - revokedAt < 2_500]).toEqual([401, true])
    const both = `127.0.0.1:${first.grpcPort},127.0.0.1:${second.grpcPort}`
    await first.worker('a', 'fake=fake:?slots=2&rate=20&crash_on=POISON', { HOLDFAST_COORDINATOR: both })
    const body = { model: 'fake', messages: [{ role: 'user', content: 'x' }], max_tokens: 60 }
    const once = { 'idempotency-key': 'one' }
    const { id } = (await (await first.request('POST', '/api/jobs', body, once)).json()) as { id: string }
    const again = await second.request('POST', '/api/jobs', body, once)
    expect([again.status, ((await again.json()) as { id: string }).id]).toEqual([202, id])
    const cancelled = await second.request('POST', `/api/jobs/${id}/cancel`)
    expect([cancelled.status, ((await cancelled.json()) as { error: unknown }).error]).toEqual([
      409,
      expect.objectContaining({ code: 'job_elsewhere', retryable: true }),
    ])
    expect(await second.get(`/api/jobs/${id}?wait_s=30`)).toMatchObject({ status: 'succeeded' })
    const parked = await submit(first, 'POISON', 5)
    await first.until('it is parked', async () => (await first.job(parked)).status === 'parked')
    await second.until('everybody can see it', async () => (await second.job(parked)).status === 'parked')
    const answers = await Promise.all([first, second].map((world) => world.request('POST', `/api/jobs/${parked}/release`)))
    expect(answers.map(({ status }) => status).toSorted((left, right) => left - right)).toEqual([200, 409])
    expect(await first.events(`&job=${parked}&type=job.released`)).toHaveLength(1)
  } finally {
    await close()
  }
})

test('a clock that jumps makes nobody late, whoever misses renewals is given up, and one that could not renew asks before it speaks', async () => {
  const dir = mkdtempSync(path.join(os.tmpdir(), 'holdfast-lease-'))
  const postgres = await EmbeddedPostgres.start(dir, { info: () => {}, warn: () => {}, error: () => {}, debug: () => {} })
  const db = new Db({ socketDir: postgres.socketDir })
  const lost: string[] = []
  const leases = ['a', 'b'].map(
    (installation) =>
      new Lease(
        db,
        { coordinator: randomUUID(), installation, leaseMs: LEASE_MS },
        { onLost: ({ why }) => lost.push(why), onProblem: (text) => expect.fail(text) },
      ),
  )
  const [one, other] = leases as [Lease, Lease]
  try {
    await migrate(db)
    for (const lease of leases) {
      await lease.lock()
      await lease.begin('test')
    }
    // Who looked before PostgreSQL was up for so long gives nobody up.
    await setTimeout(LEASE_MS)
    const jump = `update coordinators set lease_until = now() - interval '1 minute'`
    await db.query(jump)
    expect((await one.expireOthers()).expired).toEqual([])
    const dead = randomUUID()
    await db.query(`insert into coordinators (id, installation, version, lease_until) values ($1, 'dead', 'test', now())`, [dead])
    expect((await one.expireOthers()).expired).toEqual([])
    await setTimeout(LEASE_MS)
    expect(await one.expireOthers()).toEqual({ expired: [dead], left: true })
    expect([lost, other.stillOurs()]).toEqual([[], null])
    // Of PostgreSQL's clock set back the leases of before end far away; who renews is known by that, and who does not too.
    const behind = randomUUID()
    await db.query(
      `insert into coordinators (id, installation, version, lease_until) values ($1, 'b4', 'test', now() + interval '1 hour')`,
      [behind],
    )
    expect((await one.expireOthers()).expired).toEqual([])
    await setTimeout(LEASE_MS * 1.2)
    expect((await one.expireOthers()).expired).toEqual([])
    await setTimeout(LEASE_MS)
    expect((await one.expireOthers()).expired).toEqual([behind])

    const holder = new pg.Client({ host: postgres.socketDir, user: 'holdfast', database: 'holdfast' })
    await holder.connect()
    await holder.query('begin; lock table coordinators in exclusive mode')
    await setTimeout(LEASE_MS * 1.5)
    await holder.query('delete from coordinators where id = $1', [other.id])
    const answers = [one.stillOurs(), other.stillOurs()]
    await holder.query('commit')
    await holder.end()
    expect([await answers[0], await answers[1]]).toEqual([true, false])
    expect(lost).toEqual([expect.stringContaining('its lease ran out')])
    expect([one.stillOurs(), await other.stillOurs()]).toEqual([null, false])
  } finally {
    for (const lease of leases) await lease.release()
    await db.close()
    await postgres.stop()
    rmSync(dir, { recursive: true })
  }
})

const LEASE_MS = 1_500
const MASTER_KEY = 'hf_master_of_these_tests_0123456789'

/** A job that waits: its worker left. */
async function submitDetachedTo(world: World): Promise<string> {
  const worker = await world.worker('a', 'fake=fake:')
  await worker.stop()
  return submit(world, 'waits', 5)
}

async function submit(world: World, content: string, maxTokens: number, model = 'fake'): Promise<string> {
  const body = { model, messages: [{ role: 'user', content }], max_tokens: maxTokens, seed: 1 }
  const response = await world.request('POST', '/api/jobs', body)
  expect(response.status).toBe(202)
  return ((await response.json()) as { id: string }).id
}
