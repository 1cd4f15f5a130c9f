import path from 'node:path'
import pg from 'pg'
import { expect, test } from 'vitest'
import { type Running, World } from './support/world.ts'

/** Two coordinators with data directories of their own over one PostgreSQL, which a third process brings. */
async function twoOverOne(): Promise<{ first: World; second: World; url: string; close: () => Promise<void> }> {
  const host = await World.open()
  await host.coordinator()
  const socket = path.join(host.dir, 'coordinator', 'postgres')
  const client = new pg.Client({ host: socket, user: 'holdfast', database: 'holdfast' })
  await client.connect()
  await client.query('create database shared')
  await client.end()
  const [first, second] = [await World.open(), await World.open()]
  const close = async (): Promise<void> => {
    for (const world of [first, second, host]) await world.close()
  }
  return { first, second, url: `postgres://holdfast@/shared?host=${encodeURIComponent(socket)}`, close }
}

const QUICK = { HOLDFAST_DEAD_AFTER_S: '2', HOLDFAST_HEARTBEAT_S: '0.5' }

test('what a dead coordinator owned is adopted by another when its lease runs out, and goes on from what was delivered', async () => {
  const { first, second, url, close } = await twoOverOne()
  try {
    const dead = await first.coordinator({ DATABASE_URL: url, ...QUICK })
    await second.coordinator({ DATABASE_URL: url, ...QUICK })
    const both = `127.0.0.1:${first.grpcPort},127.0.0.1:${second.grpcPort}`
    await first.worker('a', 'fake=fake:?slots=1&rate=20', { HOLDFAST_COORDINATOR: both })
    const [running, queued] = [await submit(first, 'long', 200), await submit(first, 'next', 5)]
    await first.until('it runs', async () => (await first.job(running)).status === 'running')
    dead.kill()
    await second.until('both have ended', async () => (await second.job(queued)).status === 'succeeded')
    const ended = await second.job(running)
    expect(ended).toMatchObject({ status: 'succeeded', usage: { completion_tokens: 200 } })
    expect((await second.events('&type=coordinator.lost')).length).toBe(1)
  } finally {
    await close()
  }
})

test('a coordinator that slept through its lease changes nothing that was adopted meanwhile, and ends', async () => {
  const { first, second, url, close } = await twoOverOne()
  try {
    const sleeper: Running = await first.coordinator({ DATABASE_URL: url, ...QUICK })
    await second.coordinator({ DATABASE_URL: url, ...QUICK })
    const id = await submitDetachedTo(first)
    sleeper.kill('SIGSTOP')
    await second.until('adopted', async () => (await second.job(id)).waiting !== null)
    const cancelled = await second.request('POST', `/api/jobs/${id}/cancel`)
    expect(cancelled.status).toBe(200)
    sleeper.kill('SIGCONT')
    await sleeper.exited
    expect(sleeper.output).toContain('lease ran out')
    expect((await second.job(id)).status).toBe('cancelled')
  } finally {
    await close()
  }
})

/** A job that waits: its worker left. */
async function submitDetachedTo(world: World): Promise<string> {
  const worker = await world.worker('a', 'fake=fake:')
  await worker.stop()
  return submit(world, 'waits', 5)
}

async function submit(world: World, content: string, maxTokens: number): Promise<string> {
  const body = { model: 'fake', messages: [{ role: 'user', content }], max_tokens: maxTokens }
  const response = await world.request('POST', '/api/jobs', body)
  expect(response.status).toBe(202)
  return ((await response.json()) as { id: string }).id
}
