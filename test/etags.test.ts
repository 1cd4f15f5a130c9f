import { afterAll, beforeAll, expect, test } from 'vitest'
import { World } from './support/world.ts'

let world: World

beforeAll(async () => {
  world = await World.open()
  await world.coordinator()
  await world.worker('a', 'fake=fake:?slots=1')
})
afterAll(() => world.close())

test('every single thing has a tag, and is a 304 without a body to who holds it', async () => {
  const messages = [{ role: 'user', content: 'x' }]
  const secret = { name: 'cloud-key', secret: 'a-secret-of-the-cloud' }
  await make('/api/credentials', secret)
  await make('/api/policies', { name: 'local', tiers: { gpu: 'at_once' } })
  const made: Record<string, string> = {
    teams: (await make('/api/teams', { name: 'red' })).id,
    users: (await make('/api/users', { email: 'ann@example.com' })).id,
    keys: (await make('/api/keys', { name: 'k', kind: 'team', team: 'red' })).id,
    jobs: (await make('/api/jobs', { model: 'fake', messages, max_tokens: 2 })).id,
    batches: (await make('/api/batches', { model: 'fake', rows: [{ row_key: 'a', messages, max_tokens: 2 }] })).id,
    credentials: 'cloud-key',
    policies: 'local',
    providers: (
      await make('/api/providers', {
        name: 'far',
        tier: 'cloud',
        kind: 'openai',
        base_url: 'http://127.0.0.1:9/v1',
        models: [{ name: 'm' }],
      })
    ).id,
  }
  await world.until('the job has ended', async () => (await world.job(made.jobs ?? '')).status === 'succeeded')
  await world.until(
    'the batch has ended',
    async () => ((await world.get(`/api/batches/${made.batches}`)) as { status: string }).status === 'completed',
  )
  for (const [noun, id] of Object.entries(made)) {
    const first = await world.request('GET', `/api/${noun}/${id}`)
    const tag = first.headers.get('etag') ?? ''
    expect(tag, noun).toMatch(/^W\/"([\w-]{22}\.)?[\w-]{22}"$/)
    const again = await world.request('GET', `/api/${noun}/${id}`, undefined, { 'if-none-match': `"other", ${tag}` })
    expect([noun, again.status, await again.text(), again.headers.get('etag')]).toEqual([noun, 304, '', tag])
    expect((await world.request('GET', `/api/${noun}/${id}`, undefined, { 'if-none-match': '"other"' })).status).toBe(200)
  }
  expect((await world.request('GET', '/api/workers/a')).headers.get('etag')).toMatch(/^W\//)
})

test('what has changed has another tag, and what is not there has none', async () => {
  const before = (await world.request('GET', '/api/teams/red')).headers.get('etag') ?? ''
  await world.request('PATCH', '/api/teams/red', { weight: 3 })
  const after = await world.request('GET', '/api/teams/red', undefined, { 'if-none-match': before })
  expect(after.status).toBe(200)
  expect(after.headers.get('etag')).not.toBe(before)
  const missing = await world.request('GET', '/api/teams/blue', undefined, { 'if-none-match': '*' })
  expect([missing.status, missing.headers.get('etag')]).toEqual([404, null])
})

test('whoever changes what they saw is told when somebody else was faster, of several at once all but one', async () => {
  await make('/api/teams', { name: 'green' })
  const path = '/api/teams/green'
  const seen = (await world.request('GET', path)).headers.get('etag') ?? ''
  const all = await Promise.all([2, 3, 4, 5].map((weight) => world.request('PATCH', path, { weight }, { 'if-match': seen })))
  expect(all.map(({ status }) => status).sort((left, right) => left - right)).toEqual([200, 412, 412, 412])
  const late = all.find(({ status }) => status === 412)
  expect(await late?.json()).toMatchObject({ error: { code: 'changed_meanwhile', param: 'if-match' } })
  expect((await world.request('DELETE', path, undefined, { 'if-match': seen })).status).toBe(412)
  expect((await world.request('PATCH', path, { weight: 6 })).status).toBe(200)
  const now = (await world.request('GET', path)).headers.get('etag') ?? ''
  expect((await world.request('DELETE', path, undefined, { 'if-match': `"other", ${now}` })).status).toBe(200)
  expect((await world.request('PATCH', path, { weight: 7 }, { 'if-match': '*' })).status).toBe(404)
})

test('what happens by itself is no change, and who may not look cannot say how it was', async () => {
  const provider = { name: 'busy', tier: 'cloud', kind: 'openai', base_url: 'http://127.0.0.1:9/v1', models: [{ name: 'm' }] }
  await make('/api/providers', provider)
  const path = '/api/providers/busy'
  const seen = (await world.request('GET', path)).headers.get('etag') ?? ''
  await world.request('POST', `${path}/drain`)
  expect((await world.request('GET', path)).headers.get('etag')).not.toBe(seen)
  expect((await world.request('PATCH', path, { max_parallel: 3 }, { 'if-match': seen })).status).toBe(200)
  expect((await world.request('PATCH', path, { max_parallel: 4 }, { 'if-match': seen })).status).toBe(412)
  // What is found at a provider whose models nobody set is no change either.
  await make('/api/providers', { ...provider, name: 'finds', models: undefined })
  expect(await (await world.request('GET', '/api/providers/finds')).json()).toMatchObject({ models: [], discovered: [] })
  const found = (await world.request('GET', '/api/providers/finds')).headers.get('etag') ?? ''
  const priced = { models: [{ name: 'm', input_micros_per_mtok: 3, output_micros_per_mtok: 9 }] }
  expect((await world.request('PATCH', '/api/providers/finds', priced, { 'if-match': found })).status).toBe(200)
  expect((await world.request('PATCH', '/api/providers/finds', { models: [{ name: 'm' }] }, { 'if-match': found })).status).toBe(412)
  const { key } = (await make('/api/keys', { name: 'blind', kind: 'personal', user: 'ann@example.com', scopes: ['admin'] })) as unknown as {
    key: string
  }
  await world.request('PATCH', '/api/users/ann@example.com', { role: 'admin' })
  const blind = await world.request('PATCH', path, { max_parallel: 5 }, { 'if-match': seen, authorization: `Bearer ${key}` })
  expect([blind.status, ((await blind.json()) as { error: { code: string } }).error.code]).toEqual([403, 'missing_scope'])
})

test('where If-Match would have no effect it is refused', async () => {
  const refused = await world.request('POST', '/api/teams', { name: 'grey' }, { 'if-match': '*' })
  expect(await refused.json()).toMatchObject({ error: { code: 'unsupported_header', param: 'if-match' } })
  expect((await world.request('GET', '/api/teams/grey')).status).toBe(404)
})

async function make(target: string, body: unknown): Promise<{ id: string }> {
  const response = await world.request('POST', target, body)
  if (!response.ok) throw new Error(`POST ${target}: ${response.status} ${await response.text()}`)
  return (await response.json()) as { id: string }
}
