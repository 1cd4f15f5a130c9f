import { EventEmitter } from 'node:events'
import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { EventStream } from '../coordinator/api/event-stream.ts'
import { SseSink } from '../coordinator/api/sse.ts'
import { EventFeed } from '../coordinator/engine/event-feed.ts'
import { newId } from '../coordinator/ids.ts'
import type { Db } from '../coordinator/store/db.ts'
import { readEvents, type SseEvent } from './support/sse.ts'
import { ADMIN_KEY, World } from './support/world.ts'

let world: World
/** Opened first, because what it waits for comes every 15 seconds. */
let revoked: Reader

beforeAll(async () => {
  world = await World.open()
  await world.coordinator()
  await world.worker('a', 'fake=fake:?slots=4')
  const key = await teamKey('gone')
  revoked = await follow('', { authorization: `Bearer ${key.key}` })
  await made('POST', `/api/keys/${key.id}/revoke`)
})
afterAll(() => world.close())

const chat = { model: 'fake', messages: [{ role: 'user', content: 'x' }], max_tokens: 2 }

test('events come as they are written, under their ids, with the filters of the list', async () => {
  await using all = await follow('')
  await using teams = await follow('?type=team.created&severity=info')
  await made('POST', '/api/teams', { name: 'live' })
  const { id: job } = await made('POST', '/api/jobs', chat)
  const succeeded = await all.until(({ event, data }) => event === 'job.succeeded' && data?.includes(job) === true)
  const accepted = all.seen.findIndex(({ event }) => event === 'job.accepted')
  expect(accepted).toBeGreaterThanOrEqual(0)
  expect(all.seen.indexOf(succeeded)).toBeGreaterThan(accepted)
  const listed = await world.events()
  expect(listed.map(({ id }) => id)).toContain(succeeded.id)
  expect(listed.find(({ id }) => id === succeeded.id)).toEqual(JSON.parse(succeeded.data ?? ''))
  await teams.until(({ event }) => event === 'team.created')
  expect(teams.seen.map(({ event }) => event)).toEqual(['team.created'])
})

test('who comes back with the last event id gets all that came since, once, and then what is new', async () => {
  for (const name of ['one', 'two', 'three']) await made('POST', '/api/teams', { name })
  const listed = (await world.events('&type=team.created')).toReversed()
  await using reader = await follow('?type=team.created', { 'last-event-id': listed[0]?.id ?? '' })
  await made('POST', '/api/teams', { name: 'four' })
  await reader.until(({ data }) => data?.includes('"four"') === true)
  const after = (await world.events('&type=team.created')).toReversed().slice(1)
  expect(reader.seen.map(({ id }) => id)).toEqual(after.map(({ id }) => id))
})

test('a team sees its own events only, and odd questions are refused', async () => {
  const { key } = await teamKey('mine')
  await using mine = await follow('', { authorization: `Bearer ${key}` })
  await made('POST', '/api/jobs', chat)
  const { id } = await made('POST', '/api/jobs', chat, key)
  await mine.until(({ data }) => data?.includes(id) === true)
  expect(mine.seen.every(({ data }) => (JSON.parse(data ?? '') as { team: string }).team === 'mine')).toBe(true)
  for (const [query, headers, code] of [
    ['?severity=loud', {}, 'out_of_range'],
    ['?colour=red', {}, 'unknown_parameter'],
    ['', { 'last-event-id': '12' }, 'invalid_last_event_id'],
  ] as const) {
    const response = await world.request('GET', `/api/events/stream${query}`, undefined, headers)
    expect(await response.json()).toMatchObject({ error: { code } })
  }
})

test('what another coordinator on the same PostgreSQL writes is heard too', async () => {
  await using second = await World.open()
  const socket = path.join(world.dir, 'coordinator', 'postgres')
  await second.coordinator({
    DATABASE_URL: `postgres://holdfast@/holdfast?host=${encodeURIComponent(socket)}`,
    HOLDFAST_MASTER_KEY: readFileSync(path.join(world.dir, 'coordinator', 'master.key'), 'utf8').trim(),
  })
  await using reader = await follow('?type=team.created')
  await second.request('POST', '/api/teams', { name: 'elsewhere' })
  await reader.until(({ data }) => data?.includes('"elsewhere"') === true)
  expect(reader.seen).toHaveLength(1)
})

test('what another writes by a clock that is ahead is told once', async () => {
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval', 'performance'] })
  try {
    const beganMs = Date.now()
    const now = (): number => beganMs + performance.now()
    const early = { ...record(), id: newId(now() + 40_000), created_at: new Date() }
    const db = { query: async (_text: string, [after]: [string]) => (early.id > after ? [early] : []) } as unknown as Db
    const feed = new EventFeed({ db, coordinator: 'me', now, onProblem: (text) => expect.fail(text) })
    const heard: string[] = []
    feed.listen((events) => heard.push(...events.map(({ id }) => id)))
    await vi.advanceTimersByTimeAsync(120_000)
    expect(heard).toEqual([early.id])
    feed.stop()
  } finally {
    vi.useRealTimers()
  }
})

test('a reader who may see less by now is told so, at the first event that is not meant for them', async () => {
  await made('POST', '/api/teams', { name: 'theirs' })
  const user = await made('POST', '/api/users', { email: 'op@example.com', role: 'operator', teams: ['theirs'] })
  const { key } = await made('POST', '/api/keys', { name: 'op', kind: 'personal', user: user.id })
  await using reader = await follow('', { authorization: `Bearer ${key}` })
  await made('PATCH', `/api/users/${user.id}`, { role: 'member' })
  await made('POST', '/api/teams', { name: 'not-theirs' })
  const error = await reader.until(({ event }) => event === 'error')
  expect(JSON.parse(error.data ?? '')).toMatchObject({ error: { code: 'scope_changed', retryable: true } })
  expect(reader.seen.some(({ data }) => data?.includes('not-theirs') === true)).toBe(false)
})

test('a reader whose key is revoked is told and left', async () => {
  const error = await revoked.until(({ event }) => event === 'error')
  expect(JSON.parse(error.data ?? '')).toMatchObject({ error: { code: 'invalid_key' } })
})

test('a reader whose socket is full misses nothing: it catches up from PostgreSQL when there is room', async () => {
  const stored = Array.from({ length: 1_200 }, () => record())
  const written: string[] = []
  let full = true
  const response = Object.assign(new EventEmitter(), {
    writeHead: () => {},
    flushHeaders: () => {},
    setTimeout: () => {},
    end: () => {},
    write: (text: string) => {
      written.push(text)
      return !full
    },
  })
  const db = {
    list: async (_sql: string, [after, , , , limit]: [string, null, null, null, number]) =>
      stored.filter(({ id }) => id > after).slice(0, limit),
  } as unknown as Db
  const feed = { listen: (listener: typeof hear) => ((hear = listener), () => {}) } as unknown as EventFeed
  let hear: (events: unknown[]) => void = () => {}
  const stream = new EventStream(
    { db, feed, teamsNow: () => null, log: { error: () => {} } },
    { severity: null, type: null, teams: null },
    response as unknown as ServerResponse,
  )
  stream.open(null, {})
  hear(stored.slice(0, 1))
  hear(stored.slice(1))
  expect(idsIn(written)).toHaveLength(1)
  full = false
  response.emit('drain')
  await world.until('it has caught up', () => idsIn(written).length === 1_200)
  hear(stored.slice(-3))
  expect(idsIn(written)).toEqual(stored.map(({ id }) => id))
  // Full again, and while it catches up for the second time, what the first time has told comes as new.
  stored.push(...Array.from({ length: 5 }, () => record()))
  full = true
  hear(stored.slice(-5, -4))
  hear(stored.slice(-4))
  full = false
  response.emit('drain')
  hear(stored.slice(1_190, 1_200))
  await world.until('it has caught up again', () => idsIn(written).length >= 1_205)
  expect(idsIn(written)).toEqual(stored.map(({ id }) => id))
  response.emit('close')
})

test('nothing is said behind the end, though the socket is full and stays open', async () => {
  let sink: SseSink | undefined
  const server = createServer((_request, response) => {
    sink = new SseSink(response, { onRoom: () => {}, onClosed: () => {} })
    sink.open({})
    sink.end('first')
    sink.write('second')
    sink.end('third')
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const answer = await fetch(`http://127.0.0.1:${(server.address() as AddressInfo).port}`)
  expect(await answer.text()).toBe('first')
  server.close()
})

type Reader = AsyncDisposable & { seen: SseEvent[]; until(isSo: (event: SseEvent) => boolean): Promise<SseEvent> }

async function follow(query: string, headers: Record<string, string> = {}): Promise<Reader> {
  const controller = new AbortController()
  const response = await world.request('GET', `/api/events/stream${query}`, undefined, headers, controller.signal)
  if (!response.ok || response.body === null) throw new Error(`event stream: ${response.status} ${await response.text()}`)
  const seen: SseEvent[] = []
  const reading = (async () => {
    for await (const event of readEvents(response.body!)) if (event.data !== undefined) seen.push(event)
  })()
  reading.catch(() => {})
  return {
    seen,
    until: (isSo) => world.until('the event', () => seen.find(isSo)),
    [Symbol.asyncDispose]: async () => controller.abort(),
  }
}

async function made(method: string, target: string, body?: unknown, key: string = ADMIN_KEY): Promise<Made> {
  const response = await world.request(method, target, body, { authorization: `Bearer ${key}` })
  if (!response.ok) throw new Error(`${method} ${target}: ${response.status} ${await response.text()}`)
  return (await response.json()) as Made
}

type Made = { id: string; key: string }

async function teamKey(team: string): Promise<Made> {
  await made('POST', '/api/teams', { name: team })
  return made('POST', '/api/keys', { name: `${team}-app`, kind: 'team', team })
}

function record() {
  return { id: newId(), at: new Date(), atMs: Date.now(), severity: 'info', type: 'team.created', actor: 'a', details: {} }
}

function idsIn(written: string[]): string[] {
  return [...written.join('').matchAll(/^id: (.+)$/gm)].map((match) => match[1] ?? '')
}
