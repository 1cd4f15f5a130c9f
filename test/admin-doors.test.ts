import { afterAll, beforeAll, expect, test } from 'vitest'
import { addCloud, ended, enqueue, readJob, readProvider, refused, send } from './support/cloud.ts'
import { World } from './support/world.ts'

/** What admins may grant, what the ledger keeps of it, and what they are told. */

let world: World
let made = 0

beforeAll(async () => {
  world = await World.open()
  await world.coordinator()
  await world.worker('a', 'fake=fake:?slots=8&rate=20')
})
afterAll(() => world.close())

type Bearer = { authorization: string }
type Key = { id: string; as: Bearer }

async function newKey(fields: Record<string, unknown>, as: Bearer | Record<string, never> = {}): Promise<Key> {
  const { id, key } = await send(world, 'POST', '/api/keys', { name: `key-${++made}`, ...fields }, as)
  return { id: String(id), as: { authorization: `Bearer ${String(key)}` } }
}

async function newUser(role: string, teams: string[] = []): Promise<string> {
  const email = `user-${++made}@example.com`
  await send(world, 'POST', '/api/users', { email, name: 'Ann', role, teams })
  return email
}

const FAR = '2099-01-01T00:00:00Z'
const LATER = '2100-01-01T00:00:00Z'

test.each([
  ['scopes', { scopes: ['admin'] }, [{ scopes: null }, { scopes: ['admin', 'read'] }], { scopes: ['admin'] }],
  ['models', { models: ['fake', 'other'] }, [{ models: null }, { models: ['fake', 'third'] }], { models: ['fake'] }],
  ['tiers', { tiers: ['gpu'] }, [{ tiers: null }, { tiers: ['gpu', 'cloud'] }], { tiers: ['gpu'] }],
  ['expires_at', { expires_at: FAR }, [{ expires_at: null }, { expires_at: LATER }], { expires_at: FAR }],
  [
    'limits.requests_per_minute',
    { limits: { requests_per_minute: 50 } },
    [{ limits: null }, { limits: { requests_per_minute: 51 } }],
    { limits: { requests_per_minute: 50 } },
  ],
  [
    'limits.spend_micros_per_day',
    { limits: { spend_micros_per_day: 50 } },
    [{ limits: { spend_micros_per_day: null } }, { limits: { spend_micros_per_day: 51 } }],
    { limits: { spend_micros_per_day: 49 } },
  ],
])('an admin’s key with narrower %s grants no more, to itself or to another', async (param, own, wider, within) => {
  const user = await newUser('admin')
  const { id, as } = await newKey({ kind: 'personal', user, ...own })
  for (const wish of wider) {
    expect(await refused(world, 'PATCH', `/api/keys/${id}`, wish, as)).toMatchObject({ status: 403, code: 'forbidden', param })
    const another = { name: 'wide', kind: 'personal', user, ...own, ...wish }
    expect(await refused(world, 'POST', '/api/keys', another, as)).toMatchObject({ status: 403, code: 'forbidden', param })
  }
  expect(await refused(world, 'POST', '/api/keys', { name: 'wide', kind: 'team', team: 'default' }, as)).toMatchObject({ param })
  await newKey({ kind: 'personal', user, ...own, ...within }, as)
  // What it does not ask to change may be wider than it is.
  const wide = await newKey({ kind: 'team', team: 'default' })
  await send(world, 'PATCH', `/api/keys/${wide.id}`, { name: 'renamed' }, as)
  await send(world, 'PATCH', `/api/keys/${id}`, within, as)
})

test('what a key and a provider may do stands in the events of their making and changing', async () => {
  const { id } = await newKey({ kind: 'team', team: 'default', scopes: ['read'], expires_at: FAR })
  await send(world, 'PATCH', `/api/keys/${id}`, { scopes: ['inference'], limits: { spend_micros_per_day: 5 } })
  const of = async (type: string, name: string, value: string): Promise<unknown> =>
    (await world.events(`&type=${type}`)).find(({ details }) => details[name] === value)?.details
  expect(await of('key.created', 'key', id)).toMatchObject({ scopes: ['read'], models: null, expires_at: '2099-01-01T00:00:00.000Z' })
  expect(await of('key.changed', 'key', id)).toMatchObject({ scopes: ['inference'], limits: { spend_micros_per_day: 5 } })
  const cloud = await addCloud(world)
  await send(world, 'PATCH', `/api/providers/${cloud.name}`, { limits: { spend_micros_per_day: 7 } })
  expect(await of('provider.changed', 'provider', cloud.name)).toMatchObject({
    limits: { spend_micros_per_day: 7, requests_per_minute: null },
    models: [{ name: cloud.model, output_micros_per_mtok: 4_000_000 }],
  })
})

test('a cloud that is archived is no worker that was lost', async () => {
  const cloud = await addCloud(world)
  await send(world, 'DELETE', `/api/providers/${cloud.name}`)
  await world.until('it is told', async () => (await world.events('&type=provider.archived')).length > 0)
  expect(await world.events('&type=worker.lost')).toEqual([])
})

test('a page in the place of an answer is the provider’s fault: it cools down, and no job is blamed', async () => {
  const cloud = await addCloud(world)
  for (const page of [200, 200, 200, 200]) cloud.upstream.plan({ page })
  const jobs = await Promise.all([1, 2].map(() => enqueue(world, cloud.model)))
  await world.until('it cools down', async () => {
    const { state, reason } = await readProvider(world, cloud.name)
    return state === 'cooling_down' && String(reason).includes('a web page in place of an answer')
  })
  for (const id of jobs) expect(await ended(world, id)).toMatchObject({ status: 'succeeded' })
})

test('a provider that says to be asked in a month is asked at once when somebody activates it', async () => {
  const cloud = await addCloud(world)
  cloud.upstream.plan({ refuse: { status: 429, retryAfterS: 99_999_999_999 } })
  const id = await enqueue(world, cloud.model)
  await world.until('it cools down', async () => (await readProvider(world, cloud.name)).state === 'cooling_down')
  await send(world, 'POST', `/api/providers/${cloud.name}/activate`)
  expect(await ended(world, id)).toMatchObject({ status: 'succeeded' })
  expect(await readProvider(world, cloud.name)).toMatchObject({ state: 'online' })
})

test('a spend limit that is reached is not lifted by activating its provider', async () => {
  const cloud = await addCloud(world, { limits: { spend_micros_per_day: 1 } })
  expect(await ended(world, await enqueue(world, cloud.model))).toMatchObject({ status: 'succeeded' })
  await world.until('it is spent', async () => (await readProvider(world, cloud.name)).state === 'over_quota')
  await send(world, 'POST', `/api/providers/${cloud.name}/activate`)
  expect(await readProvider(world, cloud.name)).toMatchObject({ state: 'over_quota' })
  const id = await enqueue(world, cloud.model)
  expect(await readJob(world, id)).toMatchObject({ status: 'queued', waiting: { reason: 'over_quota' } })
  await send(world, 'POST', `/api/jobs/${id}/cancel`)
  expect(cloud.upstream.generations).toHaveLength(1)
  await send(world, 'DELETE', `/api/providers/${cloud.name}`)
})

test('a job that may not go where its model is served says so, and is no fault of the fleet', async () => {
  const { as } = await newKey({ kind: 'team', team: 'default', tiers: ['cloud'] })
  const body = { model: 'fake', messages: [{ role: 'user', content: 'x' }] }
  const { id } = await send(world, 'POST', '/api/jobs', body, as)
  const { waiting } = (await readJob(world, id as never)) as unknown as { waiting: { reason: string; detail: string } }
  expect(waiting).toMatchObject({
    reason: 'no_provider_for_model',
    detail: expect.stringMatching(/tier that its policy, its key or its pin never opens: open to it is none/) as string,
  })
  expect(await world.get('/api/health')).toMatchObject({ ok: true, problems: [] })
  await send(world, 'POST', `/api/jobs/${String(id)}/cancel`)
})

test('a stream of a job ends with its reader’s key', async () => {
  const { id: key, as } = await newKey({ kind: 'team', team: 'default' })
  const body = { model: 'fake', messages: [{ role: 'user', content: 'x' }], max_tokens: 100 }
  const { id } = await send(world, 'POST', '/api/jobs', body, as)
  const response = await world.request('GET', `/api/jobs/${String(id)}/stream`, undefined, as)
  await send(world, 'POST', `/api/keys/${key}/revoke`, {})
  const text = await response.text()
  expect(text).toContain('"code":"invalid_key"')
  expect(text).not.toContain('event: finished')
  await send(world, 'POST', `/api/jobs/${String(id)}/cancel`)
})

test('a refusal names the role that is needed, and a holder without a team as such', async () => {
  const viewer = await newKey({ kind: 'personal', user: await newUser('viewer') })
  const message = async (path: string): Promise<string> => (await refused(world, 'POST', path, {}, viewer.as)).message
  const { as } = await newKey({ kind: 'team', team: 'default' })
  expect((await refused(world, 'POST', '/api/workers/a/drain', {}, as)).message).toContain("needs an operator's or admin's key")
  expect((await refused(world, 'POST', '/api/teams', { name: 't' }, as)).message).toContain("team default; this needs an admin's key")
  expect(await message('/api/teams')).toContain('a viewer without a team')
})

const REFUSED: [door: string, body: Record<string, unknown>, param: string][] = [
  ['POST /api/keys', { name: 'x', kind: 'team', team: 'default', scopes: [] }, 'scopes'],
  ['POST /api/teams', { name: '01a22f85-0000-7000-8000-000000000000' }, 'name'],
  ['POST /api/policies', { name: '01a22f85-0000-7000-8000-000000000000', tiers: { gpu: 'at_once' } }, 'name'],
  [
    'POST /api/providers',
    { name: 'x', tier: 'cloud', kind: 'openai', base_url: 'http://127.0.0.1:1', models: [{ name: 'auto' }] },
    'models[0].name',
  ],
  ['PATCH /api/teams/default', { weight: null }, 'weight'],
]
test.each(REFUSED)('%s with %j is refused for its %s', async (door, body, param) => {
  const [method = '', path = ''] = door.split(' ')
  expect(await refused(world, method, path, body)).toMatchObject({ status: 400, param })
})

test('null is no name and no role', async () => {
  const email = await newUser('member', ['default'])
  for (const name of ['name', 'role'])
    expect(await refused(world, 'PATCH', `/api/users/${email}`, { [name]: null })).toMatchObject({ status: 400, param: name })
})

test('jobs of a team are found by its id too', async () => {
  const { id } = await send(world, 'POST', '/api/teams', { name: 'found' })
  const { as } = await newKey({ kind: 'team', team: 'found' })
  await send(world, 'POST', '/v1/chat/completions', { model: 'fake', messages: [{ role: 'user', content: 'x' }], max_tokens: 1 }, as)
  for (const team of ['found', String(id)]) expect(await world.get(`/api/jobs?team=${team}`)).toMatchObject({ data: [{ team: 'found' }] })
  expect(await world.request('GET', `/api/jobs?team=${String(id)}`, undefined, as).then((response) => response.json())).toMatchObject({
    data: [{ team: 'found' }],
  })
})

test('commands say which setting is wrong, and names that are none', async () => {
  const run = async (args: string[], env: Record<string, string> = {}): Promise<[number | null | undefined, string]> => {
    const running = world.start('cli', args, env)
    await running.exited
    return [running.ended?.code, running.output]
  }
  const migrated = await run(['migrate'], { DATABASE_URL: 'postgres://nobody:wrong@127.0.0.1:9/none' })
  expect(migrated).toEqual([1, expect.stringMatching(/DATABASE_URL: PostgreSQL cannot be reached: .*ECONNREFUSED/)])
  expect(await run(['jobs', '..'])).toEqual([2, expect.stringContaining('Nothing is named ".."')])
})
