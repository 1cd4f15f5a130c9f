import { rmSync } from 'node:fs'
import path from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { addCloud, ended, enqueue, inState, refused, send } from './support/cloud.ts'
import { readJobStream } from './support/job-stream.ts'
import { chatStream, type Stream } from './support/stream.ts'
import { World } from './support/world.ts'

/** People send workers and clouds away, let others in, and see what is used of what they allowed. */

let world: World
beforeAll(async () => {
  world = await World.open()
  await world.coordinator()
  await world.worker('stays', 'fake=fake:?slots=8&rate=60')
})
afterAll(() => world.close())

type Page = { data: Record<string, unknown>[]; next: string | null }

async function eventsOf(worker: string): Promise<string[]> {
  return (await world.events()).filter((event) => event.worker === worker).map(({ type }) => type)
}

async function health(): Promise<string> {
  return JSON.stringify(((await world.get('/api/health')) as { problems: string[] }).problems)
}

async function as(role: string): Promise<Record<string, string>> {
  const email = `${role}@fleet.example`
  await send(world, 'POST', '/api/users', { email, role, teams: ['default'] })
  const { key } = await send(world, 'POST', '/api/keys', { name: role, kind: 'personal', user: email })
  return { authorization: `Bearer ${String(key)}` }
}

test('an idle worker that is stopped has drained, and is neither lost nor missed', async () => {
  const worker = await world.worker('idle', 'fake=fake:')
  worker.kill('SIGTERM')
  await worker.exited
  await world.until('it is away', async () => (await world.findWorker('idle'))?.state === 'offline')
  await world.until('it is told', async () => (await eventsOf('idle')).includes('worker.drained'))
  expect(await eventsOf('idle')).not.toContain('worker.lost')
  expect(await health()).not.toContain('idle')
})

test('an operator drains a worker: it finishes what it runs and goes, and may be put away until it comes back', async () => {
  const settings = 'own=fake:?slots=2&rate=60'
  const worker = await world.worker('goes', settings)
  const job = await enqueue(world, 'own', {}, { max_tokens: 90 })
  await world.until('it runs', async () => (await world.job(job)).status === 'running')
  expect(await refused(world, 'POST', '/api/workers/goes/drain', {}, await as('member'))).toMatchObject({ status: 403 })
  expect(await refused(world, 'DELETE', '/api/workers/goes')).toMatchObject({ status: 409, code: 'worker_needed' })
  // From this answer on it is sent nothing, whether or not it has heard of it.
  expect(await send(world, 'POST', '/api/workers/goes/drain', undefined, await as('operator'))).toMatchObject({ state: 'draining' })
  expect(await world.get('/api/workers/goes')).toMatchObject({ reason: 'drained by key:operator' })
  expect(await world.get('/api/providers/goes')).toMatchObject({ state: 'draining', reason: 'drained by key:operator' })
  await worker.exited
  expect([worker.ended?.code, (await world.job(job)).status]).toEqual([0, 'succeeded'])
  const drained = await world.until('it is told', async () =>
    (await world.events('&type=worker.drained')).find((event) => event.worker === 'goes'),
  )
  expect(drained.details).toMatchObject({ reason: 'drained by key:operator' })
  expect(await health()).not.toContain('goes')
  expect(await refused(world, 'POST', '/api/workers/goes/drain')).toMatchObject({ status: 409, code: 'worker_offline' })
  expect(await send(world, 'DELETE', '/api/workers/goes')).toMatchObject({ name: 'goes', archived: true })
  expect(await world.findWorker('goes')).toBeUndefined()
  expect(await (await world.request('GET', '/metrics')).text()).not.toContain('"goes"')
  expect((await world.request('GET', '/api/models/own')).status).toBe(404)
  await world.worker('goes', settings)
  expect(await world.get('/api/models/own')).toMatchObject({ name: 'own', providers: [{ provider: 'goes' }] })
})

test('a revoked worker is cut off, what it ran goes on elsewhere, and its identity stays refused', async () => {
  const want = (await chatStream(world, 'fake', 'revoke', { max_tokens: 150 }).done).text
  const worker = await world.worker('bad', 'fake=fake:?slots=8&rate=60')
  const job = await enqueue(world, 'fake', { 'x-holdfast-priority': 'interactive' }, { max_tokens: 150, messages: say('revoke') })
  const at = (await world.until('it runs', async () => (await world.job(job)).worker)) ?? ''
  const other = at === 'bad' ? 'stays' : 'bad'
  // Whoever runs it is cut off; the other one must do.
  await readJobStream(world, job, undefined, 20)
  const approver = await as('approver')
  for (const door of ['workers', 'providers'])
    expect(await refused(world, 'POST', `/api/${door}/${at}/revoke`, {}, approver)).toMatchObject({ status: 403 })
  // A worker is a provider of its own name, and who is revoked already is not revoked anew.
  expect(await send(world, 'POST', `/api/providers/${at}/revoke`)).toMatchObject({ name: at, state: 'offline' })
  const { revoked_at } = await send(world, 'POST', `/api/workers/${at}/revoke`)
  expect(revoked_at).toEqual(expect.any(String))
  const whole = await readJobStream(world, job)
  expect(whole).toMatchObject({ text: want, finished: { status: 'succeeded' } })
  expect((await world.job(job)).worker).toBe(other)
  expect((await eventsOf(at)).filter((type) => type === 'worker.revoked')).toHaveLength(1)
  expect(await health()).not.toContain(at)
  await world.until('it was refused when it came back', async () => (await world.events('&type=worker.refused')).length > 0)
  expect((await world.findWorker(at))?.state).toBe('offline')
  if (at === 'bad') {
    await worker.stop()
    // With another identity it is another worker.
    rmSync(path.join(world.dir, 'bad', 'worker.id'))
    await world.worker('bad', 'fake=fake:?slots=8&rate=60')
  }
})

test('an invite lets one worker in, in time, and is that worker’s own from then on', async () => {
  const made = await send(world, 'POST', '/api/workers/invites', { name: 'rack 4' })
  const invited = { HOLDFAST_WORKER_TOKEN: String(made.token) }
  const first = await world.worker('invited', 'fake=fake:', invited)
  const key = await world.until('it is spent', async () => {
    const found = (await world.get(`/api/keys/${String(made.id)}`)) as { single_use: boolean; spent_by: string | null }
    return found.spent_by !== null && found
  })
  expect(key).toMatchObject({ single_use: true, spent_by: (await world.findWorker('invited'))?.id })
  const second = world.start('second', ['worker'], {
    HOLDFAST_DATA_DIR: path.join(world.dir, 'second'),
    HOLDFAST_WORKER_NAME: 'second',
    HOLDFAST_MODELS: 'fake=fake:',
    ...invited,
  })
  await world.until('it is told why not', () => second.output.includes('another worker has joined with'))
  await second.stop()
  await first.stop()
  await world.worker('invited', 'fake=fake:', invited)
  const soon = new Date(Date.now() + 1_500).toISOString()
  const late = await send(world, 'POST', '/api/workers/invites', { expires_at: soon })
  await world.until('it has expired', () => Date.now() > Date.parse(soon))
  const third = world.start('third', ['worker'], {
    HOLDFAST_DATA_DIR: path.join(world.dir, 'third'),
    HOLDFAST_WORKER_NAME: 'third',
    HOLDFAST_MODELS: 'fake=fake:',
    HOLDFAST_WORKER_TOKEN: String(late.token),
  })
  await world.until('it is refused', () => third.output.includes('token is missing or wrong'))
})

test('a drained cloud finishes its calls, takes nothing new, and goes on when it is activated', async () => {
  const cloud = await addCloud(world)
  cloud.upstream.usual = { delayMs: 1_500 }
  const running = await enqueue(world, cloud.model)
  await world.until('it runs', async () => (await world.job(running)).status === 'running')
  await send(world, 'POST', `/api/providers/${cloud.name}/drain`)
  expect(await inState(world, cloud.name, 'draining')).toMatchObject({ reason: 'drained by key:admin', until: null })
  const waiting = await enqueue(world, cloud.model)
  expect(await ended(world, running)).toMatchObject({ status: 'succeeded' })
  const { status, waiting: why } = await world.job(waiting)
  expect([status, why?.reason]).toEqual(['queued', 'paused'])
  expect(await health()).not.toContain(`provider ${cloud.name}`)
  await send(world, 'POST', `/api/providers/${cloud.name}/activate`)
  expect(await ended(world, waiting)).toMatchObject({ status: 'succeeded' })
  expect(await refused(world, 'POST', '/api/providers/stays/activate')).toMatchObject({ status: 409 })
  expect(await refused(world, 'POST', `/api/providers/${cloud.name}/revoke`)).toMatchObject({ status: 409, code: 'provider_is_cloud' })
})

test('every limit says what is used of it and when it is whole again, to whom it concerns', async () => {
  const cloud = await addCloud(world, { limits: { requests_per_minute: 50, spend_micros_per_day: 1_000_000 } })
  await send(world, 'POST', '/api/teams', { name: 'thrifty', spend_micros_per_month: 5_000 })
  const { id, key } = await send(world, 'POST', '/api/keys', {
    ...{ name: 'slow', kind: 'team', team: 'thrifty' },
    limits: { requests_per_minute: 3 },
  })
  const own = { authorization: `Bearer ${String(key)}` }
  await ended(world, await enqueue(world, cloud.model, own))
  const rows = async (headers?: Record<string, string>): Promise<string[]> =>
    ((await send(world, 'GET', '/api/quotas?limit=200', undefined, headers)) as unknown as Page).data.map(
      ({ kind, name, limit, allowed, used, remaining, resets_at: at }) =>
        [kind, name, limit, allowed, limit === 'requests_per_minute' ? used : Number(used) > 0, Number(remaining) > 0, at !== null].join(
          ' ',
        ),
    )
  const mine = [
    `provider ${cloud.name} requests_per_minute 50 1 true true`,
    `provider ${cloud.name} spend_micros_per_day 1000000 true true true`,
    'team thrifty spend_micros_per_month 5000 true true true',
    'key slow requests_per_minute 3 1 true true',
  ]
  expect(await rows()).toEqual(expect.arrayContaining(mine))
  expect((await rows(own)).filter((row) => /^(team|key)/.test(row))).toEqual(mine.slice(2).toReversed())
  await send(world, 'PATCH', `/api/keys/${String(id)}`, { limits: { requests_per_minute: 90 }, name: 'quick', scopes: ['read'] })
  expect(await rows()).toContain('key quick requests_per_minute 90 1 true true')
})

test('a key is changed as far as it may be, and its deletion is its revocation', async () => {
  const { id, key } = await send(world, 'POST', '/api/keys', { name: 'wide', kind: 'team', team: 'default', models: ['fake'] })
  const own = { authorization: `Bearer ${String(key)}` }
  await send(world, 'PATCH', `/api/keys/${String(id)}`, { scopes: ['read'], models: null })
  expect(await send(world, 'GET', `/api/keys/${String(id)}`)).toMatchObject({ name: 'wide', scopes: ['read'], models: null })
  expect(await refused(world, 'POST', '/api/jobs', { model: 'fake', messages: say('x') }, own)).toMatchObject({ code: 'missing_scope' })
  expect(await refused(world, 'PATCH', `/api/keys/${String(id)}`, { team: 'x' })).toMatchObject({ status: 400, param: 'team' })
  const bootstrap = ((await world.get('/api/keys?limit=200')) as Page).data.find(({ kind }) => kind === 'bootstrap')
  expect(await refused(world, 'PATCH', `/api/keys/${String(bootstrap?.id)}`, { name: 'x' })).toMatchObject({ status: 409 })
  expect(await send(world, 'DELETE', `/api/keys/${String(id)}`)).toMatchObject({ revoked_at: expect.any(String) })
  expect(await refused(world, 'GET', '/api/jobs', undefined, own)).toMatchObject({ status: 401 })
  expect(await refused(world, 'PATCH', `/api/keys/${String(id)}`, { name: 'x' })).toMatchObject({ status: 409, code: 'key_revoked' })
})

test('a credential is renamed with its providers, and goes when none is called with it', async () => {
  const cloud = await addCloud(world)
  await send(world, 'POST', '/api/credentials', { name: 'taken', secret: 'x' })
  expect(await refused(world, 'PATCH', `/api/credentials/${cloud.credential}`, { name: 'taken' })).toMatchObject({ code: 'name_taken' })
  await send(world, 'PATCH', `/api/credentials/${cloud.credential}`, { name: 'renamed' })
  expect(await world.get(`/api/providers/${cloud.name}`)).toMatchObject({ credential: 'renamed' })
  expect(await ended(world, await enqueue(world, cloud.model))).toMatchObject({ status: 'succeeded' })
  expect(await refused(world, 'DELETE', '/api/credentials/renamed')).toMatchObject({ status: 409, code: 'credential_in_use' })
  await send(world, 'DELETE', `/api/providers/${cloud.name}`)
  await send(world, 'DELETE', '/api/credentials/renamed')
  expect(await refused(world, 'GET', '/api/credentials/renamed')).toMatchObject({ status: 404 })
})

test('every list comes in pages, also those that are held in memory', async () => {
  for (const name of ['one', 'two']) {
    await send(world, 'PUT', `/api/models/aliases/${name}`, { target: 'fake' })
    await send(world, 'POST', '/api/policies', { name, tiers: { gpu: 'at_once' } })
  }
  for (const list of ['providers', 'policies', 'models', 'models/aliases', 'workers', 'quotas']) {
    const whole = (await world.get(`/api/${list}?limit=200`)) as Page
    const paged: unknown[] = []
    let cursor = ''
    do {
      const page = (await world.get(`/api/${list}?limit=1${cursor}`)) as Page
      expect([list, page.data.length]).toEqual([list, 1])
      paged.push(...page.data.map(({ name, limit }) => [name, limit]))
      cursor = page.next === null ? '' : `&cursor=${page.next}`
    } while (cursor !== '')
    expect([list, paged]).toEqual([list, whole.data.map(({ name, limit }) => [name, limit])])
    expect(paged.length).toBeGreaterThan(1)
    expect(await refused(world, 'GET', `/api/${list}?cursor=!`)).toMatchObject({ status: 400, param: 'cursor' })
  }
  const names = async (list: string): Promise<unknown[]> => ((await world.get(`/api/${list}`)) as Page).data.map(({ name }) => name)
  expect((await names('models/aliases')).slice(0, 2)).toEqual(['two', 'one'])
  expect((await names('policies')).slice(0, 2)).toEqual(['two', 'one'])
  const clouds = [await addCloud(world), await addCloud(world)]
  expect((await names('providers')).slice(0, 2)).toEqual(clouds.map(({ name }) => name).toReversed())
})

function say(content: string): { role: string; content: string }[] {
  return [{ role: 'user', content }]
}

test('a worker that drains waits for a coordinator that restarts, and hands over what it has', async () => {
  await using own = await World.open()
  const coordinator = await own.coordinator()
  const worker = await own.worker('drains', 'fake=fake:?slots=1&rate=20')
  const stream = chatStream(own, 'fake', 'long', { max_tokens: 100 })
  await own.until('it streams', () => stream.seen.deltas > 5)
  coordinator.kill()
  await stream.done.catch(() => {})
  worker.kill('SIGTERM')
  await own.coordinator()
  await worker.exited
  expect(worker.ended).toEqual({ code: 0, signal: null })
  const job = await own.job(stream.seen.job)
  expect(job).toMatchObject({ status: 'succeeded', usage: { completion_tokens: 100 } })
  expect(job.attempts).toHaveLength(1)
})

test('of workers with contexts of several sizes the larger one takes what the smaller one cannot hold', async () => {
  await using own = await World.open()
  await own.coordinator()
  await own.worker('large', 'tiny=builtin:tiny?slots=1&context=1024')
  const ask = { max_tokens: 500, min_tokens: 500, seed: 1 }
  const want = await chatStream(own, 'tiny', 'Tell me about the queue.', ask).done
  await own.worker('small', 'tiny=builtin:tiny?slots=1&context=128')
  const prompt = 'long '.repeat(150)
  const tooLong = await own.request('POST', '/v1/chat/completions', {
    model: 'tiny',
    messages: [{ role: 'user', content: 'long '.repeat(500) }],
  })
  expect(tooLong.status).toBe(400)
  expect(await tooLong.text()).toContain('1024')
  // With the large one taken it begins at the small one, and goes on from there.
  const takeLarge = async (): Promise<Stream> => {
    const stream = chatStream(own, 'tiny', 'x', { max_tokens: 900, min_tokens: 900 })
    await own.until('the large one is taken', async () => (await own.job(stream.seen.job)).worker === 'large')
    return stream
  }
  const first = await takeLarge()
  const long = await chatStream(own, 'tiny', prompt, { max_tokens: 2 }).done
  expect([long.status, long.usage?.completion_tokens]).toEqual([200, 2])
  expect((await own.job(long.job)).attempts.map(({ worker, error }) => [worker, error?.code])).toEqual([
    ['small', 'context_length_exceeded'],
    ['large', undefined],
  ])
  await first.done
  const blocker = await takeLarge()
  const seen = await chatStream(own, 'tiny', 'Tell me about the queue.', ask).done
  expect([seen.text, seen.usage?.completion_tokens, seen.error]).toEqual([want.text, 500, null])
  const { attempts } = await own.job(seen.job)
  expect(attempts.map(({ worker, error }) => [worker, error?.code])).toEqual([
    ['small', 'context_full'],
    ['large', undefined],
  ])
  await blocker.done
})
