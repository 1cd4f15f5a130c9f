import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { addCloud, type Cloud, ended, enqueue, readJob, refused, SECRET, send } from './support/cloud.ts'
import { type Running, World } from './support/world.ts'

/** Who may do what: roles, kinds of keys and what a key is narrowed to, secrets, other names of models, and odd bodies. */

let world: World
let coordinator: Running
let cloud: Cloud

beforeAll(async () => {
  world = await World.open()
  coordinator = await world.coordinator()
  await world.worker('a', 'fake=fake:?slots=4 other=fake:?slots=4')
  cloud = await addCloud(world, { model: 'fake' })
  for (const name of ['red', 'blue']) await send(world, 'POST', '/api/teams', { name })
})
afterAll(() => world.close())

type Headers = Record<string, string>
type Key = { id: string; key: string; as: Headers }

async function newKey(settings: Record<string, unknown>, by: Headers = {}): Promise<Key> {
  const { id, key } = await send(world, 'POST', '/api/keys', { name: 'made', ...settings }, by)
  return { id: String(id), key: String(key), as: { authorization: `Bearer ${String(key)}` } }
}

function teamKey(settings: Record<string, unknown> = {}): Promise<Key> {
  return newKey({ kind: 'team', team: 'red', ...settings })
}

let people = 0
async function person(role: string, settings: Record<string, unknown> = {}): Promise<Key & { user: string; email: string }> {
  const email = `${role}-${++people}@example.com`
  const { id } = await send(world, 'POST', '/api/users', { email, role, teams: ['red'], ...settings })
  return { ...(await newKey({ kind: 'personal', user: email })), user: String(id), email }
}

const job = { model: 'fake', messages: [{ role: 'user', content: 'x' }], max_tokens: 3 }

async function status(method: string, path: string, body: unknown, as: Headers): Promise<number> {
  const response = await world.request(method, path, body, as)
  await response.arrayBuffer()
  return response.status
}

const CHANGES: [method: string, path: string, body: unknown][] = [
  ['POST', '/api/teams', { name: 'x' }],
  ['PATCH', '/api/teams/red', { weight: 2 }],
  ['POST', '/api/keys', { name: 'x', kind: 'team', team: 'red' }],
  ['POST', '/api/users', { email: 'x@example.com' }],
  ['PATCH', '/api/keys/01900000-0000-7000-8000-000000000000', { name: 'x' }],
  ['DELETE', '/api/keys/01900000-0000-7000-8000-000000000000', undefined],
  ['POST', '/api/workers/a/revoke', {}],
  ['POST', '/api/workers/invites', {}],
  ['DELETE', '/api/workers/a', undefined],
  ['PATCH', '/api/credentials/cloud-1-key', { name: 'x' }],
  ['DELETE', '/api/credentials/cloud-1-key', undefined],
  ['POST', '/api/providers', { name: 'x', tier: 'cloud' }],
  ['DELETE', '/api/providers/cloud-1', undefined],
  ['POST', '/api/credentials', { name: 'x', secret: 'x' }],
  ['POST', '/api/credentials/cloud-1-key/rotate', { secret: 'x' }],
  ['POST', '/api/credentials/cloud-1-key/revoke', {}],
  ['POST', '/api/policies', { name: 'x', tiers: { gpu: 'at_once' } }],
  ['PUT', '/api/models/aliases/x', { target: 'fake' }],
  ['DELETE', '/api/models/aliases/x', undefined],
]
const SECRETS = ['/api/keys', '/api/users', '/api/credentials', '/api/teams', '/api/credentials/cloud-1-key']

describe('roles', () => {
  test.each([
    { role: 'viewer', makes: 403, releases: 403 },
    { role: 'member', makes: 202, releases: 403 },
    { role: 'approver', makes: 202, releases: 403 },
    { role: 'operator', makes: 202, releases: 409 },
  ])(
    'a $role sees jobs, changes nothing that is everybody’s, and makes or handles them as far as the role goes',
    async ({ role, makes, releases }) => {
      const { as } = await person(role)
      const id = await enqueue(world, 'fake', (await teamKey()).as)
      await ended(world, id)
      expect(await status('POST', '/api/jobs', job, as)).toBe(makes)
      expect(await status('POST', '/v1/chat/completions', job, as)).toBe(makes === 202 ? 200 : makes)
      expect(await status('GET', `/api/jobs/${id}`, undefined, as)).toBe(200)
      expect(await status('POST', `/api/jobs/${id}/release`, {}, as)).toBe(releases)
      for (const [method, path, body] of CHANGES) expect(await status(method, path, body, as), `${method} ${path}`).toBe(403)
      for (const path of SECRETS) expect(await status('GET', path, undefined, as), path).toBe(403)
    },
  )

  test('an operator releases the parked job of any team, whose jobs others do not see', async () => {
    const broken = await addCloud(world)
    broken.upstream.usual = { cutAfter: 0 }
    const parked = await enqueue(world, broken.model, (await newKey({ kind: 'team', team: 'blue' })).as)
    expect(await ended(world, parked)).toMatchObject({ status: 'parked' })
    const [operator, member] = [await person('operator'), await person('member')]
    expect(await status('GET', `/api/jobs/${parked}`, undefined, member.as)).toBe(404)
    expect(await status('POST', `/api/jobs/${parked}/release`, {}, operator.as)).toBe(200)
    const listed = await send(world, 'GET', '/api/jobs?team=blue', undefined, operator.as)
    expect(listed).toMatchObject({ scope: { teams: 'all' }, data: [{ id: parked }] })
    await world.until('it runs again', async () => (await readJob(world, parked)).attempts.length > 3)
  })

  test('asked at once, a parked job is released or cancelled once', async () => {
    const kept = { stallAfter: 0 }
    for (const asks of [
      ['release', 'release', 'release'],
      ['cancel', 'cancel', 'cancel'],
      ['release', 'cancel', 'release', 'cancel'],
    ]) {
      const broken = await addCloud(world)
      broken.upstream.usual = { cutAfter: 0 }
      const id = await enqueue(world, broken.model)
      expect(await ended(world, id)).toMatchObject({ status: 'parked' })
      broken.upstream.plan(kept, kept)
      const answers = await Promise.all(asks.map((ask) => status('POST', `/api/jobs/${id}/${ask}`, undefined, {})))
      const types = (await world.events(`&job=${id}`)).map(({ type }) => type)
      const count = (wanted: string): number => types.filter((type) => type === wanted).length
      const released = asks.filter((ask, index) => ask === 'release' && answers[index] === 200).length
      const cancelled = asks.filter((ask, index) => ask === 'cancel' && answers[index] === 200).length
      expect([count('job.released'), count('job.cancelled')]).toEqual([released, cancelled])
      expect(released).toBeLessThanOrEqual(1)
      expect(cancelled).toBe(asks.includes('cancel') ? 1 : 0)
      expect(answers.filter((answer) => answer !== 200)).toEqual(Array(asks.length - released - cancelled).fill(409))
      await status('POST', `/api/jobs/${id}/cancel`, undefined, {})
    }
  })

  test('who is in several teams sees the work of all of them, and who is in none sees nothing and makes nothing', async () => {
    const jobs = []
    for (const team of ['red', 'blue']) jobs.push(await enqueue(world, 'fake', (await newKey({ kind: 'team', team })).as))
    const both = await person('member', { teams: ['red', 'blue'] })
    for (const id of jobs) expect(await status('GET', `/api/jobs/${id}`, undefined, both.as)).toBe(200)
    const listed = await send(world, 'GET', '/api/jobs?team=blue&limit=1', undefined, both.as)
    expect(listed).toMatchObject({ scope: { teams: ['red', 'blue'] }, data: [{ id: jobs[1] }] })
    const nobody = await person('member', { teams: [] })
    expect(await send(world, 'GET', '/api/jobs', undefined, nobody.as)).toMatchObject({ scope: { teams: [] }, data: [] })
    expect(await status('GET', `/api/jobs/${jobs[0]}`, undefined, nobody.as)).toBe(404)
    expect(await status('POST', '/v1/chat/completions', job, nobody.as)).toBe(403)
  })

  test('an admin changes everything but owners', async () => {
    const [admin, owner] = [await person('admin'), await person('owner')]
    expect(await status('POST', '/api/teams', { name: 'by-admin' }, admin.as)).toBe(201)
    expect(await status('POST', '/api/credentials', { name: 'by-admin', secret: 'x' }, admin.as)).toBe(201)
    const forbidden = { status: 403, code: 'forbidden' }
    const by = (method: string, path: string, body?: unknown) => refused(world, method, path, body, admin.as)
    expect(await by('POST', '/api/users', { email: 'o@example.com', role: 'owner' })).toMatchObject(forbidden)
    expect(await by('PATCH', `/api/users/${admin.user}`, { role: 'owner' })).toMatchObject(forbidden)
    expect(await by('PATCH', `/api/users/${owner.user}`, { role: 'member' })).toMatchObject(forbidden)
    expect(await by('DELETE', `/api/users/${owner.user}`)).toMatchObject(forbidden)
    expect(await by('POST', '/api/keys', { name: 'x', kind: 'personal', user: owner.email })).toMatchObject(forbidden)
    expect(await by('POST', `/api/keys/${owner.id}/revoke`, {})).toMatchObject(forbidden)
    expect(await status('PATCH', `/api/users/${admin.user}`, { role: 'member' }, owner.as)).toBe(200)
    expect(await by('POST', '/api/teams', { name: 'no-more' })).toMatchObject(forbidden)
  })

  test('the keys of somebody who was archived die at once, and so do a team’s', async () => {
    const { as, user } = await person('member')
    expect(await status('POST', '/api/jobs', job, as)).toBe(202)
    await send(world, 'DELETE', `/api/users/${user}`)
    expect(await refused(world, 'POST', '/api/jobs', job, as)).toMatchObject({ status: 401, code: 'invalid_key' })
    expect(await refused(world, 'POST', '/api/keys', { name: 'x', kind: 'personal', user })).toMatchObject({
      status: 404,
      code: 'unknown_user',
    })
    await send(world, 'POST', '/api/teams', { name: 'short-lived' })
    const { as: team } = await teamKey({ team: 'short-lived' })
    const member = await person('member', { teams: ['short-lived'] })
    expect(await status('POST', '/api/jobs', job, member.as)).toBe(202)
    await send(world, 'DELETE', '/api/teams/short-lived')
    expect(await refused(world, 'POST', '/api/jobs', job, team)).toMatchObject({ status: 401, code: 'invalid_key' })
    // Nor by the key of somebody who was in it.
    expect(await refused(world, 'POST', '/api/jobs', job, member.as)).toMatchObject({ status: 403, code: 'forbidden' })
  })
})

describe('what a key is narrowed to', () => {
  test('scopes: reading, asking and changing are three things', async () => {
    const [read, inference] = [await teamKey({ scopes: ['read'] }), await teamKey({ scopes: ['inference'] })]
    const missing = { status: 403, code: 'missing_scope' }
    expect(await status('GET', '/api/jobs', undefined, read.as)).toBe(200)
    expect(await refused(world, 'POST', '/v1/chat/completions', job, read.as)).toMatchObject(missing)
    expect(await status('POST', '/v1/chat/completions', job, inference.as)).toBe(200)
    expect(await status('GET', '/v1/models', undefined, inference.as)).toBe(200)
    expect(await refused(world, 'GET', '/api/jobs', undefined, inference.as)).toMatchObject(missing)
    const owner = await newKey({ kind: 'personal', user: (await person('owner')).email, scopes: ['inference', 'read'] })
    expect(await refused(world, 'POST', '/api/teams', { name: 'x' }, owner.as)).toMatchObject(missing)
    const { as } = await teamKey({ scopes: ['admin'] })
    for (const door of ['/v1/files', '/v1/batches', '/v1/responses/resp_01900000-0000-7000-8000-000000000000'])
      expect(await refused(world, 'GET', door, undefined, as), door).toMatchObject(missing)
    expect(await status('GET', '/v1/models', undefined, as)).toBe(200)
    // A scope adds nothing to a role.
    const member = await newKey({ kind: 'personal', user: (await person('member')).email, scopes: ['admin'] })
    expect(await refused(world, 'POST', '/api/teams', { name: 'x' }, member.as)).toMatchObject({ status: 403, code: 'forbidden' })
  })

  test('a key that may only make jobs sees those of the team it makes them for, whoever holds it', async () => {
    const owner = await person('owner', { teams: ['red', 'blue'] })
    const narrow = await newKey({ kind: 'personal', user: owner.email, scopes: ['inference'] })
    const rows = (key: string): string => JSON.stringify({ custom_id: key, method: 'POST', url: '/v1/chat/completions', body: job })
    const made: Record<string, string> = {}
    for (const team of ['red', 'blue']) {
      const { as } = await newKey({ kind: 'team', team })
      const form = new FormData()
      form.set('purpose', 'batch')
      form.set('file', new Blob([rows(team)]), `${team}.jsonl`)
      const uploaded = await fetch(`${world.url}/v1/files`, { method: 'POST', headers: as, body: form })
      made[team] = ((await uploaded.json()) as { id: string }).id
    }
    expect(await status('GET', `/v1/files/${made.blue}/content`, undefined, owner.as)).toBe(200)
    expect(await status('GET', `/v1/files/${made.red}/content`, undefined, narrow.as)).toBe(200)
    expect(await status('GET', `/v1/files/${made.blue}/content`, undefined, narrow.as)).toBe(404)
    const listed = (await send(world, 'GET', '/v1/files', undefined, narrow.as)) as { data: { filename: string }[] }
    expect(listed.data.map(({ filename }) => filename)).not.toContain('blue.jsonl')
    const others = await enqueue(world, 'fake', (await newKey({ kind: 'team', team: 'blue' })).as)
    expect(await status('POST', `/api/jobs/${others}/cancel`, undefined, narrow.as)).toBe(404)
    // An operator in no team makes jobs of the default one, and sees those.
    const nowhere = await person('operator', { teams: [] })
    const only = await newKey({ kind: 'personal', user: nowhere.email, scopes: ['inference'] })
    const form = new FormData()
    form.set('purpose', 'batch')
    form.set('file', new Blob([rows('own')]), 'own.jsonl')
    const own = (await (await fetch(`${world.url}/v1/files`, { method: 'POST', headers: only.as, body: form })).json()) as { id: string }
    expect(await status('GET', `/v1/files/${own.id}/content`, undefined, only.as)).toBe(200)
    expect(await status('GET', `/v1/files/${made.blue}/content`, undefined, only.as)).toBe(404)
  })

  test('time: an expired key is refused as that', async () => {
    const expires = new Date(Date.now() + 2_000).toISOString()
    const { as, id } = await teamKey({ expires_at: expires })
    expect(await send(world, 'GET', `/api/keys/${id}`)).toMatchObject({ expires_at: expires })
    expect(await status('GET', '/v1/models', undefined, as)).toBe(200)
    await world.until('it expires', async () => (await status('GET', '/v1/models', undefined, as)) === 401)
    expect(await refused(world, 'GET', '/v1/models', undefined, as)).toMatchObject({ code: 'expired_key' })
  })

  test('models: only those are listed and answered, by the names that are allowed', async () => {
    await send(world, 'PUT', '/api/models/aliases/nick', { target: 'other' })
    const { as } = await teamKey({ models: ['fake', 'nick'] })
    const list = (await send(world, 'GET', '/v1/models', undefined, as)) as { data: { id: string }[] }
    expect(list.data.map(({ id }) => id)).toEqual(['fake', 'nick'])
    const inOther = await send(world, 'GET', '/v1/models', undefined, { ...as, 'anthropic-version': '2023-06-01' })
    expect(inOther).toMatchObject({ data: [{ id: 'fake' }, { id: 'nick' }], has_more: false })
    expect(await status('GET', '/v1/models/other', undefined, as)).toBe(404)
    for (const model of ['fake', 'nick']) expect(await status('POST', '/v1/chat/completions', { ...job, model }, as)).toBe(200)
    for (const model of ['other', 'auto', 'nobody'])
      expect(await refused(world, 'POST', '/v1/chat/completions', { ...job, model }, as)).toMatchObject({
        status: 403,
        code: 'model_not_allowed',
        param: 'model',
      })
    const rows = { model: 'other', rows: [{ row_key: '1', messages: job.messages }] }
    expect(await refused(world, 'POST', '/api/batches', rows, as)).toMatchObject({ status: 403, code: 'model_not_allowed' })
  })

  test('tiers: what is closed to a key stays closed to a pin', async () => {
    const { as } = await teamKey({ tiers: ['gpu'] })
    const closed = await refused(world, 'POST', '/api/jobs', job, { ...as, 'x-holdfast-tier': 'cloud' })
    expect(closed).toMatchObject({ status: 403, code: 'tier_never_opens', param: 'x-holdfast-tier' })
    expect(closed.message).toContain('the key "made"')
    expect(await refused(world, 'POST', '/api/jobs', job, { ...as, 'x-holdfast-provider': cloud.name })).toMatchObject({
      code: 'tier_never_opens',
    })
    expect(await ended(world, await enqueue(world, 'fake', as))).toMatchObject({ tier: 'gpu' })
  })

  test('requests a minute: what is beyond them is told when to come again, in both dialects', async () => {
    const [limited, free] = [await teamKey({ limits: { requests_per_minute: 2 } }), await teamKey()]
    for (let index = 0; index < 2; index++) expect(await status('POST', '/v1/chat/completions', job, limited.as)).toBe(200)
    const first = await refused(world, 'POST', '/v1/chat/completions', job, limited.as)
    expect(first).toMatchObject({ status: 429, code: 'rate_limit_exceeded' })
    expect(Number(first.retryAfter)).toBeGreaterThan(30)
    expect(Number(first.retryAfter)).toBeLessThanOrEqual(60)
    const other = await world.request('POST', '/v1/messages', job, { ...limited.as, 'anthropic-version': '2023-06-01' })
    expect([other.status, await other.json()]).toEqual([
      429,
      expect.objectContaining({ error: expect.objectContaining({ type: 'rate_limit_error' }) }),
    ])
    expect(await status('GET', '/api/jobs', undefined, limited.as)).toBe(200)
    expect(await status('POST', '/v1/chat/completions', job, free.as)).toBe(200)
    const several = await teamKey({ limits: { requests_per_minute: 3 } })
    const madeBy = async (as: Record<string, string>): Promise<number> =>
      ((await send(world, 'GET', '/api/jobs?limit=200', undefined, as)) as { data: unknown[] }).data.length
    const before = await madeBy(several.as)
    const many = (n: number) => refused(world, 'POST', '/v1/chat/completions', { ...job, n }, several.as)
    // All of them are counted, or none.
    expect(await many(4)).toMatchObject({ status: 400, param: 'n' })
    expect(await status('POST', '/v1/chat/completions', { ...job, n: 2 }, several.as)).toBe(200)
    expect(await many(2)).toMatchObject({ status: 429, code: 'rate_limit_exceeded' })
    expect(await status('POST', '/v1/chat/completions', job, several.as)).toBe(200)
    expect(await madeBy(several.as)).toBe(before + 3)
  })
})

test('the key of an intake opens none of these doors, and is told what it is', async () => {
  const { as } = await newKey({ kind: 'intake', team: 'red' })
  const told = await refused(world, 'GET', '/v1/models', undefined, as)
  expect(told).toMatchObject({ status: 401, code: 'invalid_key', message: expect.stringContaining('intake') as string })
})

test('a worker’s key lets workers join and opens no other door, until it is revoked', async () => {
  const { id, key, as } = await newKey({ kind: 'worker' })
  expect(await refused(world, 'GET', '/v1/models', undefined, as)).toMatchObject({ status: 401, code: 'invalid_key' })
  const joined = await world.worker('b', 'late=fake:', { HOLDFAST_WORKER_TOKEN: key })
  expect(await ended(world, await enqueue(world, 'late'))).toMatchObject({ worker: 'b' })
  await send(world, 'POST', `/api/keys/${id}/revoke`, {})
  // It is there, and is not listened to any more.
  await world.until('it is cut off', async () => (await world.findWorker('b'))?.state !== 'online')
  await joined.stop()
  const refusedWorker = world.start('c', ['worker'], {
    HOLDFAST_WORKER_TOKEN: key,
    HOLDFAST_WORKER_NAME: 'c',
    HOLDFAST_MODELS: 'late=fake:',
    HOLDFAST_DATA_DIR: `${world.dir}/c`,
  })
  await world.until('it is told', () => /token|key|unauthenticated/i.test(refusedWorker.output))
  expect(await world.findWorker('c')).toBeUndefined()
  await refusedWorker.stop()
})

test('a worker that takes the name of a cloud is refused, for requests are pinned by name', async () => {
  const namesake = world.start('d', ['worker'], {
    HOLDFAST_WORKER_NAME: cloud.name,
    HOLDFAST_MODELS: 'late=fake:',
    HOLDFAST_DATA_DIR: `${world.dir}/d`,
  })
  await world.until('it is told', () => namesake.output.includes('A cloud provider is named'))
  expect(await world.findWorker(cloud.name)).toBeUndefined()
  await namesake.stop()
})

test('secrets and keys are shown once at most, and stand in no list, event, error or log', async () => {
  const hidden = `${SECRET}hidden`
  const made = await send(world, 'POST', '/api/credentials', { name: 'hidden', secret: hidden })
  const rotated = await send(world, 'POST', '/api/credentials/hidden/rotate', { secret: `${hidden}-2` })
  expect([made.version, rotated.version]).toEqual([1, 2])
  const provider = await send(world, 'POST', '/api/providers', {
    name: 'hiding',
    tier: 'cloud',
    kind: 'openai',
    base_url: 'http://127.0.0.1:9/v1',
    credential: 'hidden',
    models: [{ name: 'hidden' }],
  })
  const { key, as } = await teamKey()
  const errors = [
    await refused(world, 'POST', '/api/credentials', { name: 'hidden', secret: hidden }),
    await refused(world, 'POST', '/api/credentials', { name: 'odd name', secret: hidden }),
    await refused(world, 'POST', '/api/credentials', { name: 'x', secret: [hidden] }),
    await refused(world, 'POST', '/api/credentials', { name: 'x', secrets: hidden, secret: hidden }),
    await refused(world, 'POST', '/api/providers', {
      name: 'y',
      tier: 'cloud',
      kind: 'openai',
      base_url: `https://user:${hidden}@example.com`,
    }),
    await refused(world, 'POST', '/api/teams', { name: 'x' }, as),
  ]
  const revoked = await send(world, 'POST', '/api/credentials/hidden/revoke', {})
  expect(revoked.revoked_at).not.toBeNull()
  const told: unknown[] = [made, rotated, provider, errors, revoked, await world.events()]
  for (const path of ['credentials', 'credentials/hidden', 'providers', 'providers/hiding', 'keys', 'users', 'health', 'models'])
    told.push(await world.get(`/api/${path}`))
  for (const secret of [hidden, key]) expect(JSON.stringify(told) + coordinator.output).not.toContain(secret)
  expect((await world.events('&type=credential.rotated')).some(({ details }) => details.name === 'hidden')).toBe(true)
  const db = world.database()
  const rows = await db.query('select * from credentials')
  await db.close()
  expect(rows.some((row) => Object.values(row).some((value) => Buffer.isBuffer(value) && value.includes(hidden)))).toBe(false)
})

test('no secret that is written while the master key is changed is lost, and none that no header holds is taken', async () => {
  const rotate = () => world.request('POST', '/api/credentials/rotate_master_key', {})
  const writes = (round: number) =>
    Array.from({ length: 12 }, (_, index) => world.request('POST', '/api/credentials', { name: `while-${round}-${index}`, secret: 'x' }))
  for (let round = 0; round < 3; round++) {
    const [rotated, ...written] = await Promise.all([rotate(), ...writes(round)])
    expect(rotated?.status).toBe(200)
    for (const { status } of written) expect([201, 503]).toContain(status)
  }
  // It opens every one of them.
  expect((await rotate()).status).toBe(200)
  for (const secret of ['line\nbreak', 'typo’graphic', '   '])
    expect(await refused(world, 'POST', '/api/credentials', { name: 'odd', secret })).toMatchObject({ status: 400, param: 'secret' })
})

test('an alias is followed, also through another, and never in a circle', async () => {
  const set = (name: string, target: string) => send(world, 'PUT', `/api/models/aliases/${name}`, { target })
  await set('second', 'other')
  await set('first', 'second')
  const body = { ...job, model: 'first' }
  const answer = await send(world, 'POST', '/v1/chat/completions', body)
  expect(answer.choices).toEqual((await send(world, 'POST', '/v1/chat/completions', { ...body, model: 'other' })).choices ?? [])
  expect(((await world.get('/api/models')) as { data: unknown[] }).data).toContainEqual(
    expect.objectContaining({ name: 'first', alias_of: 'other' }),
  )
  for (const [name, target] of [
    ['second', 'first'],
    ['second', 'second'],
    ['third', 'third'],
  ])
    expect(await refused(world, 'PUT', `/api/models/aliases/${name}`, { target })).toMatchObject({
      status: 400,
      code: 'alias_cycle',
      param: 'target',
    })
  await set('third', 'nowhere')
  const listed = (await send(world, 'GET', '/v1/models')) as { data: { id: string }[] }
  const names = listed.data.map(({ id }) => id)
  expect(names).toContain('second')
  expect(names).not.toContain('third')
  expect(await refused(world, 'POST', '/v1/chat/completions', { ...job, model: 'third' })).toMatchObject({
    status: 404,
    message: `There is no model "third": it is another name for "nowhere", which nobody has offered. There are: ${names.join(', ')}.`,
  })
  await set('first', 'fake')
  expect(await ended(world, await enqueue(world, 'first'))).toMatchObject({ model: 'fake' })
  await send(world, 'DELETE', '/api/models/aliases/first')
  expect(await refused(world, 'POST', '/v1/chat/completions', body)).toMatchObject({ status: 404, code: 'model_not_found', param: 'model' })
  expect(await refused(world, 'DELETE', '/api/models/aliases/first')).toMatchObject({ status: 404 })
})

const provider = { name: 'p', tier: 'cloud', kind: 'openai', base_url: 'http://127.0.0.1:9/v1' }
const BAD: [door: string, body: unknown, status: number, code: string, param: string | null][] = [
  ['POST /api/providers', [], 400, 'invalid_body', null],
  ['POST /api/providers', { ...provider, name: undefined }, 400, 'missing_field', 'name'],
  ['POST /api/providers', { ...provider, name: '../x' }, 400, 'invalid_name', 'name'],
  ['POST /api/providers', { ...provider, name: 'a' }, 409, 'name_taken', 'name'],
  ['POST /api/providers', { ...provider, name: 'cloud-1' }, 409, 'name_taken', 'name'],
  ['POST /api/providers', { ...provider, tier: 'gpu' }, 400, 'unsupported_tier', 'tier'],
  ['POST /api/providers', { ...provider, tier: 'sky' }, 400, 'out_of_range', 'tier'],
  ['POST /api/providers', { ...provider, kind: 'other' }, 400, 'out_of_range', 'kind'],
  ['POST /api/providers', { ...provider, base_url: 'ftp://x' }, 400, 'invalid_url', 'base_url'],
  ['POST /api/providers', { ...provider, base_url: 'http://x/?key=1' }, 400, 'invalid_url', 'base_url'],
  ['POST /api/providers', { ...provider, credential: 'nobody' }, 400, 'unknown_credential', 'credential'],
  ['POST /api/providers', { ...provider, models: [] }, 400, 'invalid_models', 'models'],
  ['POST /api/providers', { ...provider, models: ['m'] }, 400, 'invalid_models', 'models[0]'],
  ['POST /api/providers', { ...provider, models: [{ upstream: 'm' }] }, 400, 'missing_field', 'models[0].name'],
  ['POST /api/providers', { ...provider, models: [{ name: 'm', price: 1 }] }, 400, 'unknown_parameter', 'models[0].price'],
  [
    'POST /api/providers',
    { ...provider, models: [{ name: 'm', input_micros_per_mtok: -1 }] },
    400,
    'out_of_range',
    'models[0].input_micros_per_mtok',
  ],
  ['POST /api/providers', { ...provider, models: [{ name: 'm', abilities: ['fly'] }] }, 400, 'out_of_range', 'models[0].abilities'],
  ['POST /api/providers', { ...provider, models: [{ name: 'm' }, { name: 'm' }] }, 400, 'duplicate_model', 'models'],
  ['POST /api/providers', { ...provider, max_parallel: 0 }, 400, 'out_of_range', 'max_parallel'],
  ['POST /api/providers', { ...provider, limits: 5 }, 400, 'invalid_body', 'limits'],
  ['POST /api/providers', { ...provider, limits: { requests: 1 } }, 400, 'unknown_parameter', 'limits.requests'],
  ['POST /api/providers', { ...provider, limits: { requests_per_minute: 0.5 } }, 400, 'out_of_range', 'limits.requests_per_minute'],
  ['POST /api/providers', { ...provider, limits: { spend_micros_per_day: 5 } }, 400, 'limit_without_prices', 'limits'],
  ['POST /api/providers', { ...provider, first_token_timeout_s: 0 }, 400, 'out_of_range', 'first_token_timeout_s'],
  ['PATCH /api/providers/cloud-1', { name: 'x' }, 400, 'unchangeable', 'name'],
  ['PATCH /api/providers/cloud-1', { kind: null }, 400, 'missing_field', 'kind'],
  ['PATCH /api/providers/a', { max_parallel: 1 }, 409, 'provider_is_worker', null],
  ['PATCH /api/providers/nobody', { max_parallel: 1 }, 404, 'not_found', null],
  ['POST /api/credentials', { name: 'x' }, 400, 'missing_field', 'secret'],
  ['POST /api/credentials', { name: 'x', secret: 'x'.repeat(20_000) }, 400, 'invalid_type', 'secret'],
  ['POST /api/credentials/nobody/rotate', { secret: 'x' }, 404, 'not_found', null],
  ['POST /api/policies', { name: 'x y', tiers: { gpu: 'at_once' } }, 400, 'invalid_name', 'name'],
  ['POST /api/policies', { name: 'x', tiers: { gpu: 'at_once' }, spend_micros_per_day: -1 }, 400, 'out_of_range', 'spend_micros_per_day'],
  ['POST /api/users', { email: 'nobody' }, 400, 'invalid_email', 'email'],
  ['POST /api/users', { email: 'n@example.com', role: 'king' }, 400, 'out_of_range', 'role'],
  ['POST /api/users', { email: 'n@example.com', teams: ['nobody'] }, 400, 'unknown_team', 'teams'],
  ['POST /api/users', { email: 'n@example.com', teams: 'red' }, 400, 'invalid_type', 'teams'],
  ['POST /api/keys', { name: 'x', kind: 'team', team: 'red', expires_at: '2087-02-30T00:00:00Z' }, 400, 'out_of_range', 'expires_at'],
  ['POST /api/keys', { name: 'x', kind: 'team', team: 'red', expires_at: '2087-01-01T00:00:00' }, 400, 'out_of_range', 'expires_at'],
  ['POST /api/keys', { name: 'x' }, 400, 'missing_field', 'kind'],
  ['POST /api/keys', { kind: 'team', team: 'red' }, 400, 'missing_field', 'name'],
  ['POST /api/keys', { name: 'x', kind: 'team' }, 400, 'missing_field', 'team'],
  ['POST /api/keys', { name: 'x', kind: 'team', team: 'nobody' }, 404, 'unknown_team', 'team'],
  ['POST /api/keys', { name: 'x', kind: 'team', team: 'red', user: 'u' }, 400, 'invalid_holder', 'user'],
  ['POST /api/keys', { name: 'x', kind: 'personal', team: 'red' }, 400, 'invalid_holder', 'team'],
  ['POST /api/keys', { name: 'x', kind: 'personal', user: 'nobody' }, 404, 'unknown_user', 'user'],
  ['POST /api/keys', { name: 'x', kind: 'worker', user: 'nobody' }, 400, 'invalid_holder', 'user'],
  ['POST /api/keys', { name: 'x', kind: 'team', team: 'red', scopes: ['fly'] }, 400, 'out_of_range', 'scopes'],
  ['POST /api/keys', { name: 'x', kind: 'team', team: 'red', tiers: ['sky'] }, 400, 'out_of_range', 'tiers'],
  ['POST /api/keys', { name: 'x', kind: 'team', team: 'red', models: [5] }, 400, 'invalid_type', 'models'],
  ['POST /api/keys', { name: 'x', kind: 'team', team: 'red', expires_at: '2001-01-01T00:00:00Z' }, 400, 'out_of_range', 'expires_at'],
  ['POST /api/keys', { name: 'x', kind: 'team', team: 'red', expires_at: 'soon' }, 400, 'out_of_range', 'expires_at'],
  [
    'POST /api/keys',
    { name: 'x', kind: 'team', team: 'red', limits: { requests_per_minute: 0 } },
    400,
    'out_of_range',
    'limits.requests_per_minute',
  ],
  ['POST /api/keys', { name: 'x', kind: 'team', team: 'red', limits: { tokens: 1 } }, 400, 'unknown_parameter', 'limits.tokens'],
  ['POST /api/keys', { name: 'x', kind: 'worker', models: ['fake'] }, 400, 'invalid_holder', 'models'],
  ['PUT /api/models/aliases/x', {}, 400, 'missing_field', 'target'],
  ['PUT /api/models/aliases/x', { target: 'fake', weight: 1 }, 400, 'unknown_parameter', 'weight'],
  ['PUT /api/models/aliases/%20x', { target: 'fake' }, 400, 'invalid_name', 'name'],
]

test.each(BAD)('%s with %j is refused: %i %s, by the name of what is wrong: %s', async (door, body, expected, code, param) => {
  const [method = '', path = ''] = door.split(' ')
  expect(await refused(world, method, path, body)).toMatchObject({ status: expected, code, param })
})
