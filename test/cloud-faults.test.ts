import Anthropic from '@anthropic-ai/sdk'
import OpenAI, { APIError } from 'openai'
import { afterAll, beforeAll, expect, test } from 'vitest'
import {
  addCloud,
  type Cloud,
  type CloudSettings,
  ended,
  enqueue,
  inState,
  readJob,
  readProvider,
  refused,
  SECRET,
  send,
  waitsFor,
} from './support/cloud.ts'
import type { JobId } from '../coordinator/core/job.ts'
import { readProgress } from '../coordinator/store/jobs.ts'
import { readJobStream } from './support/job-stream.ts'
import { chatStream } from './support/stream.ts'
import { Upstream } from './support/upstream.ts'
import type { Play } from './support/upstream-play.ts'
import { freePorts } from './support/ports.ts'
import { ADMIN_KEY, type Running, World } from './support/world.ts'

/** What clouds do when they are not well, and what becomes of the jobs that are with them. */

let world: World
let coordinator: Running
let openai: OpenAI

beforeAll(async () => {
  world = await World.open()
  coordinator = await world.coordinator()
  openai = new OpenAI({ baseURL: `${world.url}/v1`, apiKey: ADMIN_KEY, maxRetries: 0 })
})
afterAll(() => world.close())

const messages = [{ role: 'user' as const, content: 'hello' }]
const USUAL = 'Hello from upstream.'

function ask(model: string): Promise<string | null | undefined> {
  return openai.chat.completions.create({ model, messages }).then(({ choices }) => choices[0]?.message.content)
}

type StateChange = { at: string; provider: string; details: { state: string; until: string } }

/** Two clouds of one model; the first is asked first. */
async function pair(settings: CloudSettings = {}): Promise<{ broken: Cloud; spare: Cloud; model: string }> {
  const broken = await addCloud(world, settings)
  const spare = await addCloud(world, { model: broken.model })
  spare.upstream.usual = { text: ['From', ' the', ' spare.'] }
  return { broken, spare, model: broken.model }
}

const SPARE = 'From the spare.'

test.concurrent.each([
  { says: 'Retry-After', play: { refuse: { status: 429, retryAfterS: 2 } }, kind: 'openai', state: 'cooling_down', leastMs: 1_500 },
  { says: 'nothing of when', play: { refuse: { status: 429 } }, kind: 'openai', state: 'cooling_down', leastMs: 800 },
  {
    says: 'the time in its own headers',
    play: { refuse: { status: 429 }, quota: { requestsLeft: 0, tokensLeft: 9, resetsInS: 2 } },
    kind: 'openai',
    state: 'cooling_down',
    leastMs: 1_000,
  },
  {
    says: 'the time in its own headers',
    play: { refuse: { status: 429 }, quota: { requestsLeft: 9, tokensLeft: 0, resetsInS: 2 } },
    kind: 'anthropic',
    state: 'cooling_down',
    leastMs: 1_000,
  },
  { says: 'that it is overloaded', play: { refuse: { status: 529 } }, kind: 'anthropic', state: 'cooling_down', leastMs: 800 },
] as const)('429 of $kind with $says parks the provider and not the job', async ({ play, kind, state, leastMs }) => {
  const cloud = await addCloud(world, { kind })
  cloud.upstream.plan(play)
  const first = await enqueue(world, cloud.model)
  await world.until('it is refused', async () => (await readJob(world, first)).attempts[0]?.error != null)
  const second = await enqueue(world, cloud.model)
  for (const id of [first, second]) expect(await ended(world, id)).toMatchObject({ status: 'succeeded', output: { text: USUAL } })
  const changes = (await world.events('&type=provider.state_changed')) as unknown as StateChange[]
  const held = changes.find(({ provider, details }) => provider === cloud.name && details.state === state)
  const untilMs = Date.parse(held?.details.until ?? '')
  expect(untilMs - Date.parse(held?.at ?? '')).toBeGreaterThan(leastMs)
  // Both waited it out: the one that was refused, and the one that came meanwhile.
  const [refusedThen, served] = (await readJob(world, first)).attempts
  expect(refusedThen).toMatchObject({ status: 'failed', error: { code: 'provider_rate_limited', provider_status: play.refuse.status } })
  const others = (await readJob(world, second)).attempts
  expect(others).toHaveLength(1)
  for (const attempt of [served, others[0]]) expect(Date.parse(attempt?.started_at ?? '')).toBeGreaterThanOrEqual(untilMs)
  expect(await readProvider(world, cloud.name)).toMatchObject({ state: 'online' })
})

test.concurrent('a provider that goes silent is left after its own time, and a slow one is not', async () => {
  const { broken, model } = await pair({ first_token_timeout_s: 1.5, next_token_timeout_s: 1.5 })
  broken.upstream.plan({ stallAfter: 0 })
  expect(await ask(model)).toBe(SPARE)
  expect(broken.upstream.generations[0]?.closedEarly).toBe(true)
  broken.upstream.plan({ stallAfter: 2 })
  expect((await chatStream(world, model, 'hello', {}, { 'x-holdfast-provider': broken.name }).done).error?.code).toBe('answer_interrupted')
  // Longer than both limits together, and never silent for as long as one of them.
  broken.upstream.usual = { paceMs: 700 }
  const pinned = { headers: { 'x-holdfast-provider': broken.name } }
  const slow = await openai.chat.completions.create({ model, messages }, pinned)
  expect(slow.choices[0]?.message.content).toBe(USUAL)
  expect(broken.upstream.generations).toHaveLength(3)
})

test.concurrent.each([
  {
    what: 'writes a call',
    play: { text: ['I look.'], toolCalls: [{ id: 'c', name: 'f', pieces: ['{}'] }], silence: { after: 1, ms: 2_000 } },
  },
  { what: 'says that it lives', play: { silence: { after: 2, ms: 2_000, pings: true } } },
] as const)('a provider that $what may be silent for as long as before a first token', async ({ play }) => {
  const cloud = await addCloud(world, { kind: 'anthropic', first_token_timeout_s: 20, next_token_timeout_s: 1 })
  cloud.upstream.plan(play as unknown as Play)
  expect((await ended(world, await enqueue(world, cloud.model))).attempts).toMatchObject([{ status: 'succeeded' }])
})

test.concurrent('a provider that only says that it lives is left after the time for a first token', async () => {
  const cloud = await addCloud(world, { kind: 'anthropic', first_token_timeout_s: 2, next_token_timeout_s: 1 })
  cloud.upstream.plan({ silence: { after: 2, ms: 20_000, pings: true } })
  const [first] = (await ended(world, await enqueue(world, cloud.model))).attempts
  expect(first?.error).toMatchObject({ code: 'next_token_timeout' })
})

test('an answer that is asked for at once may take longer than a token may', async () => {
  await using impatient = await World.open()
  await impatient.coordinator({ HOLDFAST_FIRST_TOKEN_TIMEOUT_S: '1', HOLDFAST_NEXT_TOKEN_TIMEOUT_S: '1' })
  const cloud = await addCloud(impatient)
  cloud.upstream.plan({ delayMs: 2_500 })
  const client = new OpenAI({ baseURL: `${impatient.url}/v1`, apiKey: ADMIN_KEY, maxRetries: 0 })
  const answer = await client.chat.completions.create({ model: cloud.model, messages })
  expect(answer.choices[0]?.message.content).toBe(USUAL)
  expect(cloud.upstream.generations).toHaveLength(1)
})

test('a model may have limits on silence of its own, at a cloud and at a worker', async () => {
  const cloud = await addCloud(world, { models: [{ name: 'soon', upstream: 'large', first_token_timeout_s: 1 }, { name: 'whenever' }] })
  const worker = await world.worker('soon-worker', 'soon-local=fake:?stall_on=STALL&first_token_timeout_s=1 slow=fake:?stall_on=STALL')
  expect(await readProvider(world, cloud.name)).toMatchObject({ models: [{ first_token_timeout_s: 1 }, { name: 'whenever' }] })
  cloud.upstream.plan({ stallAfter: 0 }, {}, { delayMs: 2_000 })
  expect(await ask('soon')).toBe(USUAL)
  expect(await ask('whenever')).toBe(USUAL)
  expect(cloud.upstream.generations).toHaveLength(3)
  const [stalled, slow] = [await enqueue(world, 'soon-local', {}, STALL), await enqueue(world, 'slow', {}, STALL)]
  await world.until('it is stalled', async () => {
    const [first] = (await readJob(world, stalled)).attempts
    return first?.error?.code === 'first_token_timeout'
  })
  expect(await readJob(world, slow)).toMatchObject({ status: 'running' })
  for (const id of [stalled, slow]) await world.request('POST', `/api/jobs/${id}/cancel`, {})
  await worker.stop()
})

const STALL = { messages: [{ role: 'user', content: 'STALL' }] }

test.each([
  { play: { refuse: { status: 429, code: 'insufficient_quota' } }, kind: 'openai' },
  { play: { refuse: { status: 400, message: 'Your credit balance is too low to access the API.' } }, kind: 'anthropic' },
] as const)('a cloud of $kind that nobody has paid for is over its quota, and the work goes elsewhere', async ({ play, kind }) => {
  const { broken, spare, model } = await pair({ kind })
  broken.upstream.usual = play
  expect([await ask(model), await ask(model)]).toEqual([SPARE, SPARE])
  const { until } = await inState(world, broken.name, 'over_quota')
  expect(Date.parse(until ?? '')).toBeGreaterThan(Date.now() + 600_000)
  expect([broken.upstream.generations.length, spare.upstream.generations.length]).toEqual([1, 2])
})

test('a limit that an answer says is used up spares the next call', async () => {
  const { broken, model } = await pair()
  broken.upstream.plan({ quota: { requestsLeft: 0, tokensLeft: 100, resetsInS: 30 } })
  expect([await ask(model), await ask(model)]).toEqual([USUAL, SPARE])
  expect(await readProvider(world, broken.name)).toMatchObject({ state: 'over_quota' })
})

test('a refused credential parks the provider until it is rotated, and is written down nowhere', async () => {
  const cloud = await addCloud(world)
  cloud.upstream.key = `${SECRET}rotated`
  const job = await enqueue(world, cloud.model)
  const { reason, until } = await inState(world, cloud.name, 'parked')
  expect([reason, until]).toEqual([expect.stringContaining('credential was refused (401)') as string, null])
  expect((await waitsFor(world, job, 'paused')).waiting?.detail).toContain('credential')
  const calls = cloud.upstream.generations.length
  await send(world, 'PATCH', `/api/providers/${cloud.name}`, { max_parallel: 3 })
  expect(await readProvider(world, cloud.name)).toMatchObject({ state: 'parked', max_parallel: 3 })
  expect(cloud.upstream.generations).toHaveLength(calls)
  await send(world, 'POST', `/api/credentials/${cloud.credential}/rotate`, { secret: `${SECRET}rotated` })
  expect(await ended(world, job)).toMatchObject({ status: 'succeeded' })
  const told = JSON.stringify([
    await readJob(world, job),
    await world.get('/api/providers'),
    await world.events(),
    await world.get('/api/credentials'),
  ])
  expect(told).toContain('Incorrect API key provided: [secret]')
  expect(told + coordinator.output).not.toContain(SECRET)
})

test('a call that began with the old secret says nothing about the new one', async () => {
  const cloud = await addCloud(world)
  cloud.upstream.plan({ delayMs: 400, refuse: { status: 401 } })
  const job = await enqueue(world, cloud.model)
  await cloud.upstream.call(0)
  cloud.upstream.key = `${SECRET}new`
  await send(world, 'POST', `/api/credentials/${cloud.credential}/rotate`, { secret: `${SECRET}new` })
  expect(await ended(world, job)).toMatchObject({ status: 'succeeded' })
})

test('a revoked credential parks the provider at once', async () => {
  const cloud = await addCloud(world)
  await send(world, 'POST', `/api/credentials/${cloud.credential}/revoke`, {})
  expect(await readProvider(world, cloud.name)).toMatchObject({
    state: 'parked',
    reason: `its credential "${cloud.credential}" was revoked`,
  })
  await waitsFor(world, await enqueue(world, cloud.model), 'paused')
  expect(cloud.upstream.generations).toHaveLength(0)
})

test.each([500, 503, 404])('after %i another provider answers', async (status) => {
  const { broken, model } = await pair()
  broken.upstream.plan({ refuse: { status } })
  expect(await ask(model)).toBe(SPARE)
})

test('after a refused connection another provider answers, which then is asked first', async () => {
  const [port] = await freePorts(1)
  const { broken, spare, model } = await pair({ base_url: `http://127.0.0.1:${port}/v1` })
  const { data, response } = await openai.chat.completions.create({ model, messages }).withResponse()
  expect(data.choices[0]?.message.content).toBe(SPARE)
  const job = await readJob(world, response.headers.get('x-holdfast-job') ?? '')
  expect(job.attempts).toMatchObject([
    { provider: broken.name, status: 'failed', error: { code: 'provider_unreachable' } },
    { provider: spare.name, status: 'succeeded' },
  ])
})

test('a sole cloud that cannot be reached is offline, and its jobs wait until it can be', async () => {
  const [port = 0] = await freePorts(1)
  const cloud = await addCloud(world, { base_url: `http://127.0.0.1:${port}/v1` })
  const ids = [await enqueue(world, cloud.model), await enqueue(world, cloud.model)]
  const { reason, until } = await inState(world, cloud.name, 'offline')
  expect(reason).toContain('could not be reached')
  expect(Date.parse(until ?? '')).toBeGreaterThan(Date.now() - 1_500)
  expect((await waitsFor(world, ids[1] ?? '', 'cooling_down')).waiting?.detail).toContain('could not be reached')
  // Longer than three tries without a pause would take: nobody is parked.
  await world.until('it was tried three times', async () => {
    const jobs = await Promise.all(ids.map((id) => readJob(world, id)))
    return jobs.flatMap(({ attempts }) => attempts).length >= 3
  })
  const upstream = await Upstream.open(port)
  upstream.key = cloud.upstream.key
  for (const id of ids) expect(await ended(world, id)).toMatchObject({ status: 'succeeded' })
  expect(await readProvider(world, cloud.name)).toMatchObject({ state: 'online', reason: null, until: null })
  await upstream.close()
})

test.each([
  { what: '503', refuse: { status: 503 } },
  { what: '503 that says until when', refuse: { status: 503, retryAfterS: 3 } },
  { what: '500', refuse: { status: 500 } },
  { what: '404 of its model', refuse: { status: 404 } },
])('a sole cloud that answers $what keeps its jobs waiting, and no job is blamed', async ({ refuse }) => {
  const cloud = await addCloud(world)
  cloud.upstream.usual = { refuse }
  const id = await enqueue(world, cloud.model)
  const { waiting } = await waitsFor(world, id, 'cooling_down')
  if ('retryAfterS' in refuse) expect(Date.parse(waiting?.until ?? '')).toBeGreaterThan(Date.now() + 1_500)
  const { reason } = await inState(world, cloud.name, 'cooling_down')
  expect(reason).toContain(String(refuse.status))
  await world.until('it was tried more than three times', () => cloud.upstream.generations.length > ('retryAfterS' in refuse ? 1 : 3))
  expect(await readJob(world, id)).toMatchObject({ status: expect.stringMatching(/queued|running/) as string })
  cloud.upstream.usual = {}
  expect(await ended(world, id)).toMatchObject({ status: 'succeeded' })
  expect(await inState(world, cloud.name, 'online')).toMatchObject({ until: null })
})

test('403 about one model or one request is no matter of the credential: the job goes elsewhere, or ends', async () => {
  const { broken, spare, model } = await pair()
  broken.upstream.plan({ refuse: { status: 403, message: 'Your API key does not have access to model large' } })
  expect(await ask(model)).toBe(SPARE)
  expect(await readProvider(world, broken.name)).toMatchObject({ state: 'online' })
  broken.upstream.plan({ refuse: { status: 403, message: 'Your prompt was flagged by moderation' } })
  const flagged = await ended(world, await enqueue(world, model, { 'x-holdfast-provider': broken.name }))
  expect(flagged).toMatchObject({ status: 'failed', error: { code: 'provider_refused_request', provider_status: 403 } })
  spare.upstream.plan({ refuse: { status: 403, message: 'No access to the model' } })
  const alone = await ended(world, await enqueue(world, model, { 'x-holdfast-provider': spare.name }))
  expect(alone).toMatchObject({ status: 'failed', error: { code: 'provider_forbids', provider_status: 403 } })
  spare.upstream.plan({ refuse: { status: 403, message: 'Your account has been disabled.' } })
  await enqueue(world, model, { 'x-holdfast-provider': spare.name })
  expect((await inState(world, spare.name, 'parked')).reason).toContain('disabled')
})

test('a changed credential lifts what the old one had used up', async () => {
  const cloud = await addCloud(world)
  cloud.upstream.plan({ refuse: { status: 429, code: 'insufficient_quota' } })
  const job = await enqueue(world, cloud.model)
  await inState(world, cloud.name, 'over_quota')
  await send(world, 'POST', `/api/credentials/${cloud.credential}/rotate`, { secret: `${SECRET}${cloud.name}` })
  expect(await ended(world, job)).toMatchObject({ status: 'succeeded' })
})

test('a cloud whose models are named is not asked for its list', async () => {
  const named = await addCloud(world)
  expect(await ask(named.model)).toBe(USUAL)
  const listed = await addCloud(world, { models: undefined })
  await world.until('it is asked for its list', () => listed.upstream.calls.some(({ path }) => path === '/v1/models'))
  expect(named.upstream.calls.filter(({ path }) => path === '/v1/models')).toEqual([])
  await send(world, 'DELETE', `/api/providers/${listed.name}`)
})

test('what a provider calls a bad request is one: told in both dialects with its status, and not tried again', async () => {
  const { broken, spare, model } = await pair()
  const play = { refuse: { status: 400, message: 'messages[0] is too odd' } }
  broken.upstream.plan(play, play)
  const error = await openai.chat.completions.create({ model, messages }).catch((cause: unknown) => cause)
  expect(error).toBeInstanceOf(APIError)
  const told = { code: 'provider_refused_request', provider_status: 400, retryable: false, layer: 'ingress' }
  expect(error).toMatchObject({ status: 400, error: told })
  expect(String(error)).toContain('messages[0] is too odd')
  const anthropic = new Anthropic({ baseURL: world.url, apiKey: ADMIN_KEY, maxRetries: 0 })
  const other = await anthropic.messages.create({ model, messages, max_tokens: 5 }).catch((cause: unknown) => cause)
  expect(other).toMatchObject({ status: 400, error: { error: { type: 'invalid_request_error', ...told } } })
  const tooLong = "This model's maximum context length is 8192 tokens."
  broken.upstream.plan({ refuse: { status: 400, message: tooLong } })
  const long = await openai.chat.completions.create({ model, messages }).catch((cause: unknown) => cause)
  expect(long).toMatchObject({ status: 400, code: 'context_length_exceeded', error: { ...told, code: 'context_length_exceeded' } })
  expect([broken.upstream.generations.length, spare.upstream.generations.length]).toEqual([3, 0])
})

test.each<{ what: string; kind: 'openai' | 'anthropic'; play: Play }>([
  { what: 'breaks after its last word but one', kind: 'openai', play: { cutAtEnd: true } },
  { what: 'comes as one body', kind: 'openai', play: { isWhole: true } },
  { what: 'comes as one body', kind: 'anthropic', play: { isWhole: true } },
  { what: 'comes as one body behind a mark of its byte order', kind: 'openai', play: { isMarked: true } },
  { what: 'calls its events JSON', kind: 'openai', play: { isCalledJson: true } },
])('a stream of $kind that $what is a whole answer', async ({ kind, play }) => {
  const cloud = await addCloud(world, { kind })
  cloud.upstream.plan(play)
  const seen = await chatStream(world, cloud.model, 'hello').done
  expect([seen.text, seen.error, seen.finish]).toEqual([USUAL, null, 'stop'])
  expect((await ended(world, seen.job)).cost_micros).toBe(11 + 5 * 4)
})

test('an error in place of a stream says what it would say with its own status', async () => {
  const { broken, model } = await pair()
  broken.upstream.plan({ isWhole: true, refuse: { status: 200, code: 'insufficient_quota' } })
  const { data, response } = await openai.chat.completions.create({ model, messages }).withResponse()
  expect(data.choices[0]?.message.content).toBe(SPARE)
  expect(await ended(world, response.headers.get('x-holdfast-job') ?? '')).toMatchObject({ cost_micros: 11 + 3 * 4 })
  await inState(world, broken.name, 'over_quota')
  await send(world, 'POST', `/api/credentials/${broken.credential}/rotate`, { secret: `${SECRET}${broken.name}` })
  broken.upstream.plan({ isWhole: true, refuse: { status: 200, code: 'invalid_api_key', message: `Wrong: ${SECRET}${broken.name}` } })
  expect(await ask(model)).toBe(SPARE)
  expect((await inState(world, broken.name, 'parked')).reason).toContain('Wrong: [secret]')
})

test('cached tokens have their own price, and what was told of a call that breaks off is what it has cost', async () => {
  const prices = {
    ...{ input_micros_per_mtok: 2_000_000, output_micros_per_mtok: 4_000_000 },
    ...{ cached_input_micros_per_mtok: 1_000_000, cache_write_input_micros_per_mtok: 3_000_000 },
  }
  const cloud = await addCloud(world, { kind: 'anthropic', models: [{ name: 'cached', upstream: 'large', ...prices }] })
  expect(await readProvider(world, cloud.name)).toMatchObject({ models: [prices] })
  expect(await ended(world, await enqueue(world, 'cached'))).toMatchObject({ cost_micros: 7 * 2 + 4 + 5 * 4 })
  cloud.upstream.plan({ cache: { read: 4, written: 5 } })
  expect(await ended(world, await enqueue(world, 'cached'))).toMatchObject({ cost_micros: 7 * 2 + 4 + 5 * 3 + 5 * 4 })
  cloud.upstream.plan({ cutAfter: 2 })
  const seen = await chatStream(world, 'cached', 'hello').done
  expect(await ended(world, seen.job)).toMatchObject({ status: 'failed', cost_micros: 7 * 2 + 4 + 2 * 4 })
})

test('a stream that is cut before its first token runs elsewhere, unseen', async () => {
  const { broken, model } = await pair()
  broken.upstream.plan({ cutAfter: 0 })
  const seen = await chatStream(world, model, 'hello').done
  expect([seen.text, seen.error, seen.finish]).toEqual([SPARE, null, 'stop'])
})

test.each([
  { how: 'is cut', play: { cutAfter: 2 } },
  { how: 'breaks with an error', play: { failAfter: 2 } },
  { how: 'turns into something that is no JSON', play: { garbleAfter: 2 } },
])('a stream that $how after tokens ends with an error, and nothing is said twice', async ({ play }) => {
  const { broken, spare, model } = await pair()
  broken.upstream.plan(play)
  const seen = await chatStream(world, model, 'hello').done
  expect([seen.text, seen.finish, seen.done, seen.error?.code]).toEqual(['Hello from', null, false, 'answer_interrupted'])
  expect(spare.upstream.generations).toHaveLength(0)
  // What was made has been paid for: two tokens of the prompt and two of the answer.
  expect(await ended(world, seen.job)).toMatchObject({ status: 'failed', cost_micros: 2 + 2 * 4 })
})

test.each([
  { how: 'is cut', play: { cutAfter: 2 } },
  { how: 'is no JSON', play: { garbleAfter: 2 } },
])('an answer that nobody reads yet and that $how begins anew, and is one whole answer', async ({ play }) => {
  const { broken, spare, model } = await pair()
  broken.upstream.plan(play)
  expect(await ask(model)).toBe(SPARE)
  // The same where it is collected for later, and so was streamed from the cloud.
  broken.upstream.plan(play)
  spare.upstream.plan({ text: ['Again,', ' whole.'], delayMs: 50 })
  const job = await ended(world, await enqueue(world, model, { 'x-holdfast-provider': broken.name }))
  expect(job).toMatchObject({ status: 'succeeded', output: { text: USUAL } })
  // What the first brought is void.
  expect(job.attempts).toMatchObject([{ tokens: 2 }, { tokens: job.usage?.completion_tokens }])
})

test('without usage the answer is estimated and still has its price', async () => {
  const cloud = await addCloud(world)
  cloud.upstream.usual = { usage: 'missing' }
  for (const stream of [true, false]) {
    const job = await ended(world, await enqueue(world, cloud.model, {}, {}))
    expect(job, `stream ${stream}`).toMatchObject({ usage: { prompt_tokens: 2, completion_tokens: 5 }, cost_micros: 2 + 5 * 4 })
  }
})

test('a count that no model can have reached does not keep a job from its end', async () => {
  const cloud = await addCloud(world)
  cloud.upstream.plan({ usage: 'impossible' })
  const { id } = await ended(world, await enqueue(world, cloud.model))
  const db = world.database()
  await world.until('its end is stored', async () => {
    const row = await db.maybeOne('select status, prompt_tokens from jobs where id = $1', [id])
    return row?.status === 'succeeded' && row.prompt_tokens === 2_147_483_647
  })
  await db.close()
  // A cloud is a provider and no worker.
  const told = (await world.events(`&job=${id}`)).filter(({ type }) => type === 'job.succeeded')
  expect(told).toMatchObject([{ provider: cloud.name, worker: null }])
})

test('a request that is larger than a limit holds is no matter of waiting', async () => {
  const cloud = await addCloud(world)
  const message = 'Request too large for gpt in organization x on tokens per min (TPM): Limit 10000, Requested 20000.'
  cloud.upstream.plan({ refuse: { status: 429, message } })
  expect(await ended(world, await enqueue(world, cloud.model))).toMatchObject({ status: 'failed', error: { code: 'provider_forbids' } })
  expect(await ask(cloud.model)).toBe(USUAL)
  const { broken, spare, model } = await pair()
  broken.upstream.plan({ refuse: { status: 429, message } })
  expect(await ended(world, await enqueue(world, model))).toMatchObject({ status: 'succeeded', provider: spare.name })
})

test('who hangs up, or cancels, closes the call to the cloud, and pays for what was made', async () => {
  const cloud = await addCloud(world, { max_parallel: 1 })
  const play = { text: Array.from({ length: 500 }, () => 'word '), paceMs: 20 }
  cloud.upstream.plan(play, play, { ...play, delayMs: 60_000 })
  const left = chatStream(world, cloud.model, 'hello')
  await world.until('it speaks', () => left.seen.deltas > 2)
  left.abort()
  await cloud.upstream.generations[0]?.closed
  expect(cloud.upstream.generations[0]?.closedEarly).toBe(true)
  expect((await ended(world, left.seen.job)).cost_micros).toBeGreaterThanOrEqual(2 + 3 * 4)

  const cancelled = await enqueue(world, cloud.model)
  await world.until('it runs', async () => cloud.upstream.generations.length === 2)
  await send(world, 'POST', `/api/jobs/${cancelled}/cancel`, {})
  await cloud.upstream.generations[1]?.closed
  expect(await ended(world, cancelled)).toMatchObject({ status: 'cancelled' })

  const unread = new AbortController()
  const waiting = openai.chat.completions.create({ model: cloud.model, messages }, { signal: unread.signal }).catch(() => 'gone')
  await world.until('it is asked', () => cloud.upstream.generations.length === 3)
  unread.abort()
  expect(await waiting).toBe('gone')
  await cloud.upstream.generations[2]?.closed
  await inState(world, cloud.name, 'online')
})

test('max_parallel and requests_per_minute are kept to the call', async () => {
  const cloud = await addCloud(world, { max_parallel: 2, limits: { requests_per_minute: 3 } })
  cloud.upstream.usual = { stallAfter: 0 }
  const ids: string[] = []
  for (let index = 0; index < 4; index++) ids.push(await enqueue(world, cloud.model))
  await inState(world, cloud.name, 'busy')
  expect((await readJob(world, ids[2] ?? '')).waiting?.reason).toBe('all_slots_busy')
  await world.until('two are asked', () => cloud.upstream.generations.length === 2)
  await send(world, 'POST', `/api/jobs/${ids[0]}/cancel`, {})
  await world.until('a third is asked', () => cloud.upstream.generations.length === 3)
  await send(world, 'POST', `/api/jobs/${ids[1]}/cancel`, {})
  const { waiting } = await waitsFor(world, ids[3] ?? '', 'over_quota')
  expect(Date.parse(waiting?.until ?? '') - Date.now()).toBeGreaterThan(20_000)
  expect(cloud.upstream.generations).toHaveLength(3)
  for (const id of ids.slice(2)) await send(world, 'POST', `/api/jobs/${id}/cancel`, {})
})

test('a provider that is taken away while it works gives its job to another, and its name to the next', async () => {
  const { broken, spare, model } = await pair()
  broken.upstream.plan({ stallAfter: 1 })
  const job = await enqueue(world, model)
  await world.until('it is asked', () => broken.upstream.generations.length === 1)
  await send(world, 'DELETE', `/api/providers/${broken.name}`)
  expect(await ended(world, job)).toMatchObject({ status: 'succeeded', provider: spare.name, output: { text: SPARE } })
  expect(broken.upstream.generations[0]?.closedEarly).toBe(true)
  expect(await refused(world, 'GET', `/api/providers/${broken.name}`)).toMatchObject({ status: 404 })
  const again = {
    name: broken.name,
    tier: 'cloud',
    kind: 'openai',
    base_url: `${broken.upstream.url}/v1`,
    credential: broken.credential,
    models: [{ name: 'again' }],
  }
  await send(world, 'POST', '/api/providers', again)
  expect(await ask('again')).toBe(USUAL)
})

test('a job that strikes out after it had begun is parked, and runs whole when it is released', async () => {
  const cloud = await addCloud(world)
  const cut = { cutAfter: 2 }
  cloud.upstream.plan(cut, cut, cut)
  const id = await enqueue(world, cloud.model)
  expect(await ended(world, id)).toMatchObject({ status: 'parked', error: { code: 'provider_cut_answer' } })
  expect((await readJob(world, id)).attempts).toHaveLength(3)
  await send(world, 'POST', `/api/jobs/${id}/release`, {})
  expect(await ended(world, id)).toMatchObject({ status: 'succeeded', output: { text: USUAL } })
})

test('a call that ran when the coordinator was killed is made again, whole, by the next one', async () => {
  const named = await addCloud(world)
  const listed = await addCloud(world, { models: undefined })
  await world.until('its models are listed', async () => (await readProvider(world, listed.name)).models.length === 2)
  const stalls = { text: ['Lost', ' words.', ' never.'], stallAfter: 2 }
  named.upstream.plan(stalls)
  listed.upstream.plan(stalls)
  const ids = [await enqueue(world, named.model), await enqueue(world, 'small')] as JobId[]
  for (const id of ids)
    expect(await readJobStream(world, id, undefined, 1)).toMatchObject({ text: expect.stringContaining('Lost') as string })
  // What was said by then is checkpointed, which the next coordinator must not go on from.
  const db = world.database()
  await world.until('it is stored', async () => (await readProgress(db, ids)).size === 2)
  await db.close()
  // It does not know at first what the one that lists its models offers.
  listed.upstream.listDelayMs = 1_000
  coordinator.kill()
  await coordinator.exited
  coordinator = await world.coordinator()
  for (const id of ids) {
    const job = await ended(world, id)
    expect(job).toMatchObject({ status: 'succeeded', output: { text: USUAL } })
    expect(job.attempts).toMatchObject([{ error: { code: 'coordinator_restarted' } }, { status: 'succeeded' }])
  }
})

test('what a call has cost that a stop breaks off is booked, and the job goes on after the next start', async () => {
  const cloud = await addCloud(world)
  await coordinator.stop()
  coordinator = await world.coordinator({ HOLDFAST_DRAIN_TIMEOUT_S: '0' })
  cloud.upstream.plan({ text: ['Said', ' and', ' lost.'], stallAfter: 2 })
  const id = await enqueue(world, cloud.model)
  expect(await readJobStream(world, id, undefined, 1)).toMatchObject({ text: expect.stringContaining('Said') as string })
  await coordinator.stop()
  coordinator = await world.coordinator()
  expect(await ended(world, id)).toMatchObject({ status: 'succeeded', output: { text: USUAL } })
  const db = world.database()
  const paid = await db.query('select attempt, micros from payments where job = $1 order by attempt', [id])
  await db.close()
  expect(paid.map(({ attempt, micros }) => [attempt, Number(micros)])).toEqual([
    [1, expect.any(Number)],
    [2, 11 + 5 * 4],
  ])
  expect(Number(paid[0]?.micros)).toBeGreaterThanOrEqual(2 + 4)
})
