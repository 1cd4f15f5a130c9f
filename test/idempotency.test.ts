import { createHash } from 'node:crypto'
import OpenAI, { toFile } from 'openai'
import { expect, test } from 'vitest'
import { chatStream } from './support/stream.ts'
import { ADMIN_KEY, type JobView, World } from './support/world.ts'

const chat = (content: string, extra: Record<string, unknown> = {}) => ({
  model: 'fake',
  messages: [{ role: 'user', content }],
  max_tokens: 10,
  ...extra,
})

test('one key is one job: at once, later, after a restart, and never with another body', async () => {
  await using world = await World.open()
  const coordinator = await world.coordinator()
  await world.worker('a', 'fake=fake:?slots=4&rate=100')
  const post = async (content: string, key: string): Promise<{ status: number; job: JobView & { error: { code: string } | null } }> => {
    const response = await world.request('POST', '/api/jobs', chat(content), { 'idempotency-key': key })
    return { status: response.status, job: (await response.json()) as JobView & { error: { code: string } | null } }
  }
  const twins = await Promise.all(Array.from({ length: 12 }, () => post('once', 'k-1')))
  expect(new Set(twins.map(({ status, job }) => `${status} ${job.id}`)).size).toBe(1)
  expect(await post('another', 'k-1')).toMatchObject({ status: 422, job: { error: { code: 'idempotency_key_reused' } } })
  await world.get(`/api/jobs/${twins[0]?.job.id}?wait_s=30`)
  coordinator.kill()
  await world.coordinator()
  expect((await post('once', 'k-1')).job.id).toBe(twins[0]?.job.id)
  expect((await post('once', 'k-2')).job.id).not.toBe(twins[0]?.job.id)
  expect(((await world.get('/api/jobs')) as { data: unknown[] }).data).toHaveLength(2)
})

test('while somebody else’s mistake is looked up, the right request is no mistake', async () => {
  await using world = await World.open()
  await world.coordinator()
  await world.worker('a', 'fake=fake:?slots=4')
  const post = (content: string, key: string): Promise<Response> =>
    world.request('POST', '/api/jobs', chat(content), { 'idempotency-key': key })
  const right = ((await (await post('right', 'k')).json()) as JobView).id
  const db = world.database()
  let unlock: () => void = () => {}
  const locked = new Promise<void>((resolve) => (unlock = resolve))
  const held = db.transaction(async (query) => {
    await query('lock table idempotency_keys in access exclusive mode')
    await locked
  })
  await world.until(
    'it is locked',
    async () => (await db.query(`select from pg_locks where mode = 'AccessExclusiveLock' and granted`)).length > 0,
  )
  const wrong = post('wrong', 'k')
  await world.until('the mistaken one is looked up', async () => (await db.query(`select from pg_locks where not granted`)).length > 0)
  const again = post('right', 'k')
  // It is there, and waits for nothing of its own.
  await new Promise((resolve) => setTimeout(resolve, 200))
  unlock()
  await held
  expect([(await wrong).status, (await again).status, ((await (await again).json()) as JobView).id]).toEqual([422, 202, right])
  await db.close()
  // Of two that are new it is the first one's key.
  const twins = await Promise.all(Array.from({ length: 20 }, (_, index) => post(index < 10 ? 'one' : 'other', 'new')))
  expect(new Set(twins.map(({ status }) => status))).toEqual(new Set([202, 422]))
  expect(((await world.get('/api/jobs')) as { data: unknown[] }).data).toHaveLength(2)
})

test('a completion repeated with its key gets the same answer, streamed or not', async () => {
  await using world = await World.open()
  await world.coordinator()
  await world.worker('a', 'fake=fake:?slots=4&rate=100')
  const headers = { 'idempotency-key': 'chat' }
  const first = await world.request('POST', '/v1/chat/completions', chat('x'), headers)
  const again = await world.request('POST', '/v1/chat/completions', chat('x'), headers)
  expect(again.headers.get('x-holdfast-job')).toBe(first.headers.get('x-holdfast-job'))
  expect(await again.json()).toEqual(await first.json())
  const streams = await Promise.all(
    Array.from({ length: 3 }, () => chatStream(world, 'fake', 's', { max_tokens: 40 }, { 'idempotency-key': 's' }).done),
  )
  expect(new Set(streams.map((stream) => stream.text)).size).toBe(1)
  expect(new Set(streams.map((stream) => stream.job)).size).toBe(1)
  const late = await chatStream(world, 'fake', 's', { max_tokens: 40 }, { 'idempotency-key': 's' }).done
  expect(late).toMatchObject({ text: streams[0]?.text, finish: 'length', done: true })
})

test('of two callers of one job the one that leaves takes nothing from the other', async () => {
  await using world = await World.open()
  await world.coordinator()
  await world.worker('a', 'fake=fake:?slots=4&rate=50')
  const [one, two] = [0, 1].map(() => chatStream(world, 'fake', 'both', { max_tokens: 60 }, { 'idempotency-key': 'b' }))
  await world.until('both read', () => (one?.seen.deltas ?? 0) > 3 && (two?.seen.deltas ?? 0) > 3)
  one?.abort()
  expect(await two?.done).toMatchObject({ finish: 'length', usage: { completion_tokens: 60 } })
})

test('asked again, what was wished for may be gone: the answer is the same', async () => {
  await using world = await World.open()
  await world.coordinator()
  await world.worker('a', 'fake=fake:?slots=4&rate=1000')
  const made = async (method: string, target: string, body?: unknown, headers: Record<string, string> = {}): Promise<Response> => {
    const response = await world.request(method, target, body, headers)
    if (!response.ok) throw new Error(`${method} ${target}: ${response.status} ${await response.text()}`)
    return response
  }
  await made('POST', '/api/policies', { name: 'mine', tiers: { gpu: 'at_once' } })
  const wish = { 'idempotency-key': 'gone-policy', 'x-holdfast-policy': 'mine' }
  const first = await made('POST', '/v1/chat/completions', chat('x'), wish)
  await made('DELETE', '/api/policies/mine')
  const again = await made('POST', '/v1/chat/completions', chat('x'), wish)
  expect(again.headers.get('x-holdfast-job')).toBe(first.headers.get('x-holdfast-job'))

  const previous = ((await (await made('POST', '/v1/responses', { model: 'fake', input: 'a' })).json()) as { id: string }).id
  const further = { model: 'fake', input: 'b', previous_response_id: previous, instructions: 'be brief' }
  const key = { 'idempotency-key': 'gone-response' }
  const answer = (await (await made('POST', '/v1/responses', further, key)).json()) as object
  await made('DELETE', `/v1/responses/${previous}`)
  expect(await (await made('POST', '/v1/responses', further, key)).json()).toEqual(answer)

  const client = new OpenAI({ baseURL: `${world.url}/v1`, apiKey: ADMIN_KEY, maxRetries: 0 })
  const line = { custom_id: 'a', method: 'POST', url: '/v1/chat/completions', body: chat('x') }
  const file = await client.files.create({ file: await toFile(Buffer.from(JSON.stringify(line)), 'in.jsonl'), purpose: 'batch' })
  const wanted = { input_file_id: file.id, endpoint: '/v1/chat/completions', completion_window: '24h' } as const
  const one = await client.batches.create(wanted, { headers: { 'idempotency-key': 'gone-file' } })
  await client.files.delete(file.id)
  expect((await client.batches.create(wanted, { headers: { 'idempotency-key': 'gone-file' } })).id).toBe(one.id)
})

type Made = { id: string; error?: { code: string }; [secret: string]: unknown }

test('what sets Holdfast up is made once per key, and shown again as it was', async () => {
  await using world = await World.open()
  const coordinator = await world.coordinator()
  const post = async (path: string, body: unknown, key: string): Promise<{ status: number; made: Made }> => {
    const response = await world.request('POST', path, body, { 'idempotency-key': key })
    return { status: response.status, made: (await response.json()) as Made }
  }
  const wanted: [path: string, body: Record<string, unknown>, shown?: string][] = [
    ['/api/teams', { name: 'red' }, 'webhook_secret'],
    ['/api/keys', { name: 'k', kind: 'team', team: 'red' }, 'key'],
    ['/api/workers/invites', { name: 'w' }, 'token'],
    ['/api/users', { email: 'ann@example.com', teams: ['red'] }],
    ['/api/policies', { name: 'p', tiers: { gpu: 'at_once' } }],
    ['/api/credentials', { name: 'c', secret: 'sk-of-a-cloud' }],
    ['/api/providers', { name: 'cloud', tier: 'cloud', kind: 'openai', base_url: 'http://127.0.0.1:9/v1', credential: 'c' }],
  ]
  const first = new Map<string, Made>()
  for (const [path, body, shown] of wanted) {
    const twins = await Promise.all(Array.from({ length: 6 }, () => post(path, body, `set up ${path}`)))
    expect(
      new Set(twins.map(({ status, made }) => `${status} ${made.id} ${shown === undefined ? '' : String(made[shown])}`)).size,
      path,
    ).toBe(1)
    expect(twins[0]?.status, path).toBe(201)
    first.set(path, twins[0]?.made as Made)
    expect(await post(path, { ...body, name: 'another' }, `set up ${path}`)).toMatchObject({
      status: 422,
      made: { error: { code: 'idempotency_key_reused' } },
    })
  }
  const events = (await world.events()).map(({ type }) => type)
  expect(events.filter((type) => type === 'team.created')).toHaveLength(1)
  expect(events.filter((type) => type === 'credential.created')).toHaveLength(1)
  coordinator.kill()
  await world.coordinator()
  for (const [path, body, shown] of wanted) {
    const { status, made } = await post(path, body, `set up ${path}`)
    expect([status, made.id], path).toEqual([201, first.get(path)?.id])
    if (shown !== undefined) expect(made[shown], path).toBe(first.get(path)?.[shown])
  }
  const asked = await world.request('GET', '/v1/models', undefined, { authorization: `Bearer ${String(first.get('/api/keys')?.key)}` })
  expect(asked.status).toBe(200)
  const another = await post('/api/keys', { name: 'k', kind: 'team', team: 'red' }, 'another')
  expect(another.made.key).not.toBe(first.get('/api/keys')?.key)
  // What stands in the database tells nothing about the secret that was in a body.
  const [row] = await world.database().query(`select request_hash from idempotency_keys where key = 'set up /api/credentials'`)
  const body = JSON.stringify({ name: 'c', secret: 'sk-of-a-cloud' })
  const plain = createHash('sha256').update(`POST /api/credentials\n${body}`).digest()
  expect(row?.request_hash).toBeInstanceOf(Buffer)
  expect(plain.equals(row?.request_hash as Buffer)).toBe(false)
})

test('a key whose thing was not made is free, and one whose thing is gone says so', async () => {
  await using world = await World.open()
  await world.coordinator()
  const post = (key: string) => world.request('POST', '/api/credentials', { name: 'c', secret: 's' }, { 'idempotency-key': key })
  expect((await post('one')).status).toBe(201)
  expect((await post('two')).status).toBe(409)
  expect((await world.request('DELETE', '/api/credentials/c')).status).toBe(200)
  expect((await post('one')).status).toBe(404)
  expect((await post('two')).status).toBe(201)
  for (const [method, path] of [
    ['POST', '/api/credentials/c/rotate'],
    ['PATCH', '/api/teams/default'],
    ['GET', '/api/keys'],
  ] as const) {
    const refused = await world.request(method, path, method === 'GET' ? undefined : { weight: 2 }, { 'idempotency-key': 'x' })
    expect([refused.status, ((await refused.json()) as Made).error?.code], path).toEqual([400, 'unsupported_header'])
  }
})

test('a key of an owner is shown again to owners only', async () => {
  await using world = await World.open()
  await world.coordinator()
  const make = async (path: string, body: unknown, headers: Record<string, string> = {}): Promise<Made> =>
    (await (await world.request('POST', path, body, headers)).json()) as Made
  await make('/api/users', { email: 'ann@example.com', role: 'owner', teams: ['default'] })
  await make('/api/users', { email: 'bob@example.com', role: 'admin', teams: ['default'] })
  const bob = await make('/api/keys', { name: 'bob', kind: 'personal', user: 'bob@example.com' })
  const wanted = { name: 'ann', kind: 'personal', user: 'ann@example.com' }
  const ann = await make('/api/keys', wanted, { 'idempotency-key': 'ann' })
  expect(ann.key).toMatch(/^hf_personal_/)
  const asBob = { 'idempotency-key': 'ann', authorization: `Bearer ${String(bob.key)}` }
  expect(await make('/api/keys', wanted, asBob)).toMatchObject({ error: { code: 'forbidden' } })
})

test('what is not in force any more is not shown again as if it were', async () => {
  await using world = await World.open()
  await world.coordinator()
  const post = async (path: string, body: unknown): Promise<{ status: number; made: Made }> => {
    const response = await world.request('POST', path, body, { 'idempotency-key': `again ${path}` })
    return { status: response.status, made: (await response.json()) as Made }
  }
  const team = await post('/api/teams', { name: 'red' })
  expect(team.made.webhook_secret).toMatch(/^whsec_/)
  expect((await post('/api/teams', { name: 'red' })).made.webhook_secret).toBe(team.made.webhook_secret)
  expect((await world.request('POST', '/api/teams/red/rotate_webhook_secret')).status).toBe(200)
  expect(await post('/api/teams', { name: 'red' })).toMatchObject({ status: 201, made: { id: team.made.id, webhook_secret: null } })
  const invite = await post('/api/workers/invites', { name: 'w' })
  expect((await world.request('POST', `/api/keys/${invite.made.id}/revoke`)).status).toBe(200)
  expect(await post('/api/workers/invites', { name: 'w' })).toMatchObject({ status: 404 })
})
