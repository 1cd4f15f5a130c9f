import { afterAll, beforeAll, expect, test } from 'vitest'
import { type EventView, World } from './support/world.ts'

let world: World
beforeAll(async () => {
  world = await World.open()
  await world.coordinator()
  await world.worker('a', 'fake=fake:?slots=4&rate=200')
})
afterAll(() => world.close())

type Answer = { status: number; body: Record<string, unknown> & { error?: { code: string; param: string | null } } }

async function call(method: string, target: string, body?: unknown, key?: string): Promise<Answer> {
  const response = await world.request(method, target, body, key === undefined ? {} : { authorization: `Bearer ${key}` })
  return { status: response.status, body: (await response.json()) as Answer['body'] }
}

async function teamKey(team: string): Promise<{ id: string; key: string }> {
  await call('POST', '/api/teams', { name: team })
  const { status, body } = await call('POST', '/api/keys', { name: `${team}-app`, kind: 'team', team })
  expect(status).toBe(201)
  return body as { id: string; key: string }
}

const job = { model: 'fake', messages: [{ role: 'user', content: 'x' }], max_tokens: 3 }

test('a team is made, changed and listed; its webhook secret is shown once', async () => {
  const made = await call('POST', '/api/teams', { name: 'research', weight: 2, max_parallel: 3 })
  expect(made).toMatchObject({ status: 201, body: { name: 'research', weight: 2, max_parallel: 3, signs_callbacks: true } })
  expect(made.body.webhook_secret).toMatch(/^whsec_[A-Za-z0-9+/]{43}=$/)
  expect((await call('GET', '/api/teams/research')).body.webhook_secret).toBeUndefined()
  expect(await call('PATCH', '/api/teams/research', { max_parallel: null })).toMatchObject({
    status: 200,
    body: { weight: 2, max_parallel: null },
  })
  const rotated = await call('POST', '/api/teams/research/rotate_webhook_secret')
  expect(rotated.body.webhook_secret).not.toBe(made.body.webhook_secret)
  expect((await call('GET', '/api/teams')).body.data).toContainEqual(expect.objectContaining({ name: 'research' }))
  expect((await world.events('&type=team.created')).some((event) => event.details.team === 'research')).toBe(true)
})

test('a team key is shown once, works, is listed by its end, and is dead from the moment it is revoked', async () => {
  const { id, key } = await teamKey('apps')
  expect(key).toMatch(/^hf_team_/)
  expect((await call('POST', '/api/jobs', job, key)).status).toBe(202)
  const listed = await call('GET', `/api/keys/${id}`)
  expect(listed.body).toMatchObject({ kind: 'team', team: 'apps', ends_with: key.slice(-4), revoked_at: null })
  expect(JSON.stringify(listed.body)).not.toContain(key)
  expect((await call('POST', `/api/keys/${id}/revoke`)).status).toBe(200)
  expect(await call('POST', '/api/jobs', job, key)).toMatchObject({ status: 401, body: { error: { code: 'invalid_key' } } })
  const events = await world.events()
  expect(events.filter((event) => event.details.key === id).map((event) => event.type)).toEqual(['key.revoked', 'key.created'])
  expect(JSON.stringify(events)).not.toContain(key)
})

test('a team sees its own jobs and nobody else’s, and changes nothing that is everybody’s', async () => {
  const [one, two] = [await teamKey('one'), await teamKey('two')]
  const mine = (await call('POST', '/api/jobs', job, one.key)).body.id as string
  expect((await call('GET', `/api/jobs/${mine}`, undefined, one.key)).body.team).toBe('one')
  for (const [method, target] of [
    ['GET', `/api/jobs/${mine}`],
    ['GET', `/api/jobs/${mine}/stream`],
    ['POST', `/api/jobs/${mine}/cancel`],
  ] as const)
    expect((await call(method, target, undefined, two.key)).status, target).toBe(404)
  const empty = await call('GET', '/api/jobs', undefined, two.key)
  expect(empty.body).toMatchObject({ data: [], scope: { teams: ['two'] } })
  // Of itself it sees how it was set up.
  const seen = (await call('GET', '/api/events', undefined, two.key)).body as { data: EventView[]; scope: unknown }
  expect(seen.scope).toEqual({ teams: ['two'] })
  expect(seen.data.map(({ type, team }) => [type, team])).toEqual([
    ['key.created', 'two'],
    ['team.created', 'two'],
  ])
  expect((await call('GET', '/api/events', undefined, one.key)).body.data).toContainEqual(expect.objectContaining({ job: mine }))
  for (const [method, target, body] of [
    ['POST', '/api/teams', { name: 'x' }],
    ['GET', '/api/teams', undefined],
    ['POST', '/api/keys', { name: 'x', kind: 'team', team: 'one' }],
    ['GET', '/api/keys', undefined],
    ['POST', `/api/jobs/${mine}/release`, undefined],
  ] as const)
    expect(await call(method, target, body, one.key), target).toMatchObject({ status: 403, body: { error: { code: 'forbidden' } } })
})

test('an archived team takes its keys with it', async () => {
  const { key } = await teamKey('leaving')
  expect((await call('DELETE', '/api/teams/leaving')).status).toBe(200)
  expect((await call('POST', '/api/jobs', job, key)).status).toBe(401)
  expect((await call('POST', '/api/teams', { name: 'leaving' })).body.error).toMatchObject({ code: 'name_taken' })
})

test('what cannot be a team or a key is refused by name', async () => {
  const refused: [string, string, unknown, number, string | null][] = [
    ['POST', '/api/teams', {}, 400, 'name'],
    ['POST', '/api/teams', { name: 'a b' }, 400, 'name'],
    ['POST', '/api/teams', { name: 'x', weight: 0 }, 400, 'weight'],
    ['POST', '/api/teams', { name: 'x', max_parallel: 0.5 }, 400, 'max_parallel'],
    ['POST', '/api/teams', { name: 'x', wieght: 2 }, 400, 'wieght'],
    ['POST', '/api/teams', { name: 'default' }, 409, 'name'],
    ['DELETE', '/api/teams/default', undefined, 409, null],
    ['POST', '/api/keys', { name: 'x', kind: 'team', team: 'nobody' }, 404, 'team'],
    ['POST', '/api/keys', { name: 'x', kind: 'root', team: 'default' }, 400, 'kind'],
    ['POST', '/api/keys', { name: 'x', kind: 'team', team: 'default', expires_at: 'soon' }, 400, 'expires_at'],
    ['POST', '/api/keys', { name: 'x', kind: 'team', team: 'default', expires_at: '2001-01-01T00:00:00Z' }, 400, 'expires_at'],
    ['POST', '/api/keys', { name: 'x', kind: 'team' }, 400, 'team'],
  ]
  for (const [method, target, body, status, param] of refused) {
    const answer = await call(method, target, body)
    expect({ status: answer.status, param: answer.body.error?.param }, JSON.stringify(body)).toEqual({ status, param })
  }
  const { data } = (await call('GET', '/api/keys')).body as { data: { id: string; kind: string }[] }
  const bootstrap = data.find((key) => key.kind === 'bootstrap')?.id
  expect((await call('POST', `/api/keys/${bootstrap}/revoke`)).status).toBe(409)
})

test('an expired key is told so', async () => {
  const expires_at = new Date(Date.now() + 1_200).toISOString()
  const { key } = (await call('POST', '/api/keys', { name: 'brief', kind: 'team', team: 'default', expires_at })).body as { key: string }
  expect((await call('GET', '/v1/models', undefined, key)).status).toBe(200)
  await world.until('expired', async () => (await call('GET', '/v1/models', undefined, key)).body.error?.code === 'expired_key')
})

test('200 wrong keys at once cost nobody anything that lasts', async () => {
  const refusals = await Promise.all(Array.from({ length: 200 }, (_, index) => call('GET', '/api/jobs', undefined, `wrong-${index}`)))
  expect(refusals.every(({ status }) => status === 401)).toBe(true)
  expect((await call('GET', '/api/jobs')).status).toBe(200)
})
