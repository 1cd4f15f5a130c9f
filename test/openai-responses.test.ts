import OpenAI from 'openai'
import type { ResponseStreamEvent, Tool } from 'openai/resources/responses/responses'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { RecentCuts } from '../coordinator/api/openai-responses-cuts.ts'
import { parseResponseRequest } from '../coordinator/api/openai-responses-request.ts'
import type { JobId } from '../coordinator/core/job.ts'
import { ADMIN_KEY, World } from './support/world.ts'

/** Responses, embeddings and rerank, with the official client against the fake. */

let world: World
let client: OpenAI

beforeAll(async () => {
  world = await World.open()
  await world.coordinator()
  await world.worker('a', 'fake=fake:?slots=16&rate=2000 slow=fake:?slots=4&rate=20 failing=fake:?fail_on=BOOM fatal=fake:?crash_on=BOOM')
  client = new OpenAI({ baseURL: `${world.url}/v1`, apiKey: ADMIN_KEY, maxRetries: 0 })
})
afterAll(() => world.close())

const schema = { type: 'object', properties: { city: { type: 'string' } }, required: ['city'], additionalProperties: false }
const weather: Tool = { type: 'function', name: 'weather', parameters: schema, strict: true }

test('a response has the official shape and can be read again', async () => {
  const made = await client.responses.create({
    model: 'fake',
    input: 'hello there',
    instructions: 'be brief',
    max_output_tokens: 6,
    temperature: 0,
    metadata: { a: 'b' },
  })
  expect(made).toMatchObject({
    object: 'response',
    status: 'incomplete',
    incomplete_details: { reason: 'max_output_tokens' },
    instructions: 'be brief',
    metadata: { a: 'b' },
    previous_response_id: null,
    output: [{ type: 'message', role: 'assistant', status: 'incomplete', content: [{ type: 'output_text', annotations: [] }] }],
    usage: { input_tokens: 4, output_tokens: 6, total_tokens: 10, input_tokens_details: { cached_tokens: 0 } },
  })
  expect(made.output_text.split(' ')).toHaveLength(6)
  const { output_text: _text, ...whole } = made
  expect(made.completed_at).toBeNull()
  const include = ['reasoning.encrypted_content' as const, 'message.output_text.logprobs' as const]
  expect(await client.responses.retrieve(made.id)).toMatchObject(whole)
  expect(await client.responses.retrieve(made.id, { include, include_obfuscation: false })).toMatchObject(whole)
  await expect(client.responses.retrieve(made.id, { include: ['file_search_call.results'] })).rejects.toMatchObject({
    status: 400,
    param: 'include',
  })
  expect((await world.job(made.id.slice('resp_'.length))).status).toBe('succeeded')
})

test('what nobody waits for is queued until it begins, and its first events know nothing of its end', async () => {
  const busy = await Promise.all(
    [1, 2, 3, 4].map(() => client.responses.create({ model: 'slow', input: 'x', max_output_tokens: 20, background: true })),
  )
  const events: ResponseStreamEvent[] = []
  const stream = await client.responses.create({ model: 'slow', input: 'y', max_output_tokens: 3, background: true, stream: true })
  let whileQueued: string | undefined
  for await (const event of stream) {
    events.push(event)
    if (event.type === 'response.queued') whileQueued = (await client.responses.retrieve(event.response.id)).status
  }
  expect(whileQueued).toBe('queued')
  const head = (told: ResponseStreamEvent[]): unknown[] =>
    told.slice(0, 3).map((event) => ('response' in event ? [event.type, event.sequence_number, event.response.status] : [event.type]))
  expect(head(events)).toEqual([
    ['response.created', 0, 'queued'],
    ['response.queued', 1, 'queued'],
    ['response.in_progress', 2, 'in_progress'],
  ])
  const [created] = events
  if (created?.type !== 'response.created') throw new Error('no beginning')
  const again: ResponseStreamEvent[] = []
  for await (const event of await client.responses.retrieve(created.response.id, { stream: true })) again.push(event)
  expect(again.slice(0, 3)).toEqual(events.slice(0, 3))
  expect(again.map(({ type }) => type)).toEqual(events.map(({ type }) => type))
  expect(events.at(-1)).toMatchObject({ response: { incomplete_details: { reason: 'max_output_tokens' } } })
  expect(created.response).toMatchObject({ error: null, incomplete_details: null, completed_at: null, usage: null })
  for (const { id } of busy) await client.responses.cancel(id)
})

test('its events come numbered, in the documented order, and add up to the response', async () => {
  const body = { model: 'fake', input: 'x', reasoning: { effort: 'low' as const }, max_output_tokens: 8, temperature: 0 }
  const stream = client.responses.stream(body)
  const events: ResponseStreamEvent[] = []
  for await (const event of stream) events.push(event)
  const final = await stream.finalResponse()
  const plain = await client.responses.create(body)
  expect(final.output_text).toBe(plain.output_text)
  expect(final.output.map((item) => item.type)).toEqual(['reasoning', 'message'])
  expect(final.usage?.output_tokens_details.reasoning_tokens).toBe(4)
  expect(events.map((event) => event.sequence_number)).toEqual(events.map((_, index) => index))
  expect(events.map((event) => event.type).filter((type, index, all) => type !== all[index - 1])).toEqual([
    'response.created',
    'response.in_progress',
    'response.output_item.added',
    'response.content_part.added',
    'response.reasoning_text.delta',
    'response.reasoning_text.done',
    'response.content_part.done',
    'response.output_item.done',
    'response.output_item.added',
    'response.content_part.added',
    'response.output_text.delta',
    'response.output_text.done',
    'response.content_part.done',
    'response.output_item.done',
    'response.incomplete',
  ])
  const deltas = events.flatMap((event) => (event.type === 'response.output_text.delta' ? event.delta : []))
  expect(deltas.join('')).toBe(plain.output_text)
})

test('what Codex 0.171 says with every request is taken', async () => {
  const always = {
    model: 'fake',
    input: [
      { type: 'message', id: 'msg_1', role: 'developer', content: [{ type: 'input_text', text: 'You are a coding agent.' }] },
      { type: 'message', id: 'msg_2', role: 'user', content: [{ type: 'input_text', text: 'hello' }] },
    ],
    tools: [{ ...weather, strict: false }],
    tool_choice: 'auto',
    parallel_tool_calls: true,
    reasoning: { summary: 'auto' },
    store: false,
    include: ['reasoning.encrypted_content'],
    prompt_cache_key: 'k',
    client_metadata: { session_id: 's', turn_id: 't' },
    max_output_tokens: 4,
  }
  expect((await world.request('POST', '/v1/responses', always)).status).toBe(200)
  for (const [wish, param] of [
    [{ reasoning: { summary: 'detailed' } }, 'reasoning.summary'],
    [{ tools: [{ type: 'web_search' }] }, 'tools[0]'],
  ] as const) {
    const refused = await world.request('POST', '/v1/responses', { ...always, ...wish })
    expect([refused.status, ((await refused.json()) as { error: { param: string } }).error.param]).toEqual([400, param])
  }
})

test('a function is called, streamed, and its output goes back by reference to the response', async () => {
  const stream = client.responses.stream({ model: 'fake', input: 'call:weather', tools: [weather], temperature: 0 })
  let said = ''
  stream.on('response.function_call_arguments.delta', (event) => {
    said += event.delta
  })
  const called = await stream.finalResponse()
  const [call] = called.output
  if (call?.type !== 'function_call') throw new Error('no function was called')
  expect([call.name, call.status, called.status]).toEqual(['weather', 'completed', 'completed'])
  expect(said).toBe(call.arguments)
  expect(JSON.parse(said)).toEqual({ city: expect.any(String) as string })
  const output = { type: 'function_call_output' as const, call_id: call.call_id, output: 'sunny' }
  const answered = await client.responses.create({
    model: 'fake',
    previous_response_id: called.id,
    input: [output],
    tools: [weather],
    temperature: 0,
  })
  expect(answered).toMatchObject({ previous_response_id: called.id, output: [{ type: 'message' }] })
  const items = [{ role: 'user' as const, content: 'call:weather' }, call, output]
  const byItems = await client.responses.create({ model: 'fake', input: items, tools: [weather], temperature: 0 })
  expect(byItems.output_text).toBe(answered.output_text)
})

test('what was said before and behind calls is one turn, and what newer clients say of it is taken', async () => {
  const made = { ...call, type: 'function_call' as const }
  const output = { type: 'function_call_output' as const, call_id: 'c1', output: 'sunny' }
  const user = { role: 'user' as const, content: 'x' }
  const said = (content: string) => ({ role: 'assistant' as const, content, phase: 'commentary' as const })
  const ask = { model: 'fake', tools: [weather], temperature: 0 }
  const plain = await client.responses.create({ ...ask, input: [user, { role: 'assistant', content: 'I look.' }, made, output] })
  const direct = { caller: { type: 'direct' as const } }
  const parted = [user, said('I '), { ...made, ...direct, async: false }, said('look.'), { ...output, ...direct, name: 'weather' }]
  const allowed = { type: 'allowed_tools' as const, mode: 'auto' as const, tools: [{ type: 'function', name: 'weather' }] }
  const again = await client.responses.create({ ...ask, input: parted, instructions: '', tool_choice: allowed })
  expect([again.output_text, again.instructions]).toEqual([plain.output_text, null])
  const thought = (text: string, encrypted_content: string) => ({
    ...{ type: 'reasoning', summary: [], content: [{ type: 'reasoning_text', text }] },
    encrypted_content,
  })
  const read = parseResponseRequest({ model: 'fake', input: [user, thought('a', 's1'), made, thought('b', 's2'), output] })
  const toolCalls = [{ id: 'c1', name: 'weather', arguments: '{}' }]
  expect(read.input[1]).toEqual({ role: 'assistant', content: '', reasoning: 'ab', reasoningSignature: 's1 @1:s2', toolCalls })
})

test('a conversation goes on by reference as if it had been sent whole, and instructions are not inherited', async () => {
  const first = await client.responses.create({ model: 'fake', input: 'one', instructions: 'be kind', temperature: 0 })
  const second = await client.responses.create({ model: 'fake', input: 'two', previous_response_id: first.id, temperature: 0 })
  const whole = await client.responses.create({
    model: 'fake',
    input: [
      { role: 'user', content: 'one' },
      { role: 'assistant', content: first.output_text },
      { role: 'user', content: [{ type: 'input_text', text: 'two' }] },
    ],
    temperature: 0,
  })
  expect(second.output_text).toBe(whole.output_text)
  expect(second.instructions).toBeNull()
})

test('what is not stored cannot be read or gone on with', async () => {
  const { id } = await client.responses.create({ model: 'fake', input: 'x', store: false })
  await expect(client.responses.retrieve(id)).rejects.toMatchObject({ status: 404 })
  await expect(client.responses.create({ model: 'fake', input: 'y', previous_response_id: id })).rejects.toMatchObject({
    status: 400,
    code: 'previous_response_not_found',
    param: 'previous_response_id',
  })
})

test('one idempotency-key makes one response, one embedding, one ranking', async () => {
  const bodies = {
    '/v1/responses': { model: 'fake', input: 'x' },
    '/v1/embeddings': { model: 'fake', input: 'x' },
    '/v1/rerank': { model: 'fake', query: 'x', documents: ['x'] },
  }
  for (const [target, body] of Object.entries(bodies)) {
    const jobs = await Promise.all(
      [1, 2].map(async () =>
        (await world.request('POST', target, body, { 'idempotency-key': `key of ${target}` })).headers.get('x-holdfast-job'),
      ),
    )
    expect(jobs[0], target).toMatch(/^[0-9a-f-]{36}$/)
    expect(jobs[1], target).toBe(jobs[0])
  }
})

test('what JSON can say and PostgreSQL cannot is gone on with unchanged', async () => {
  const input = 'nul \u0000 and lone \ud800 surrogate'
  const first = await client.responses.create({ model: 'fake', input, temperature: 0 })
  const next = await client.responses.create({ model: 'fake', input: 'y', previous_response_id: first.id, temperature: 0 })
  const items = [
    { role: 'user' as const, content: input },
    { role: 'assistant' as const, content: first.output_text },
    { role: 'user' as const, content: 'y' },
  ]
  expect((await client.responses.create({ model: 'fake', input: items, temperature: 0 })).output_text).toBe(next.output_text)
})

test("another team's response is not there", async () => {
  const { id } = await client.responses.create({ model: 'fake', input: 'x' })
  await world.request('POST', '/api/teams', { name: 'others' })
  const { key } = (await (await world.request('POST', '/api/keys', { name: 'k', kind: 'team', team: 'others' })).json()) as { key: string }
  const stranger = new OpenAI({ baseURL: `${world.url}/v1`, apiKey: key, maxRetries: 0 })
  await expect(stranger.responses.retrieve(id)).rejects.toMatchObject({ status: 404 })
  await expect(stranger.responses.create({ model: 'fake', input: 'y', previous_response_id: id })).rejects.toMatchObject({ status: 400 })
})

test('a response that is parked is cancelled, and then deleted', async () => {
  const made = await client.responses.create({ model: 'fatal', input: 'BOOM', background: true })
  await world.until('it is parked', async () => (await world.job(made.id.slice('resp_'.length))).status === 'parked')
  await expect(client.responses.delete(made.id)).rejects.toMatchObject({ status: 409 })
  expect(await client.responses.cancel(made.id)).toMatchObject({ status: 'cancelled' })
  await client.responses.delete(made.id)
})

test('a response in the background answers at once, is polled, and can be cancelled', async () => {
  const made = await client.responses.create({ model: 'slow', input: 'x', background: true, max_output_tokens: 3 })
  expect(['queued', 'in_progress']).toContain(made.status)
  expect(made.output).toEqual([])
  const done = await world.until('it is done', async () => {
    const found = await client.responses.retrieve(made.id)
    return found.status === 'incomplete' && found
  })
  expect(done.output_text.split(' ')).toHaveLength(3)
  const long = await client.responses.create({ model: 'slow', input: 'x', background: true, max_output_tokens: 10_000 })
  expect(await client.responses.cancel(long.id)).toMatchObject({ id: long.id, status: 'cancelled' })
  await world.until('it stays cancelled', async () => (await client.responses.retrieve(long.id)).status === 'cancelled')
  expect(await client.responses.cancel(made.id)).toMatchObject({ status: 'incomplete' })
})

test('a response in the background can be followed while it is made, and read as events when it is done', async () => {
  const made = await client.responses.create({ model: 'slow', input: 'x', background: true, max_output_tokens: 12, temperature: 0 })
  const texts = async (): Promise<string> => {
    let text = ''
    for await (const event of await client.responses.retrieve(made.id, { stream: true }))
      if (event.type === 'response.output_text.delta') text += event.delta
      else if (event.type === 'response.incomplete') expect(event.response.id).toBe(made.id)
    return text
  }
  const [live, other] = await Promise.all([texts(), texts()])
  const done = await client.responses.retrieve(made.id)
  expect([live, other, await texts()]).toEqual([done.output_text, done.output_text, done.output_text])
})

test('a stream is taken up behind any of its events, while it is made and after, with nothing missing or twice', async () => {
  const reasoning = { effort: 'low' as const }
  const shown = { top_logprobs: 2, include: ['message.output_text.logprobs' as const] }
  const body = { model: 'slow', input: 'resume', background: true, reasoning, max_output_tokens: 24, temperature: 0, ...shown }
  const { id } = await client.responses.create(body)
  const read = async (after?: number, leaveAfter = Number.POSITIVE_INFINITY): Promise<ResponseStreamEvent[]> => {
    const events: ResponseStreamEvent[] = []
    const from = after === undefined ? {} : { starting_after: after }
    for await (const event of await client.responses.retrieve(id, { stream: true, ...from })) {
      events.push(event)
      if (events.length >= leaveAfter) break
    }
    return events
  }
  const along = read()
  const early = await read(undefined, 9)
  const late = await read(8)
  const whole = await along
  const textOf = (events: ResponseStreamEvent[]): string =>
    events.map((event) => (event.type === 'response.output_text.delta' ? event.delta : '')).join('')
  const logprobsOf = (events: ResponseStreamEvent[]): unknown[][] =>
    events.flatMap((event) => (event.type === 'response.output_text.delta' ? [event.logprobs] : []))
  expect(textOf([...early, ...late])).toBe((await client.responses.retrieve(id)).output_text)
  expect([...early, ...late].map((event) => event.sequence_number)).toEqual(whole.map((_, index) => index))
  for (const after of [0, 5, whole.length - 3, whole.length - 1]) {
    const rest = await read(after)
    expect(rest.map(({ type, sequence_number }) => [type, sequence_number])).toEqual(
      whole.slice(after + 1).map(({ type, sequence_number }) => [type, sequence_number]),
    )
    expect(textOf(rest)).toBe(textOf(whole.slice(after + 1)))
    expect(logprobsOf(rest)).toEqual(logprobsOf(whole.slice(after + 1)))
  }
  expect(logprobsOf(whole).filter((logprobs) => logprobs.length > 0).length).toBeGreaterThan(3)
  await expect(read(whole.length + 3)).rejects.toThrow(`the last event of this response is number ${whole.length - 1}`)
  const unread = await client.responses.create({ model: 'fake', input: 'x', temperature: 0 })
  const forgotten = client.responses.retrieve(unread.id, { stream: true, starting_after: 7 })
  await expect(forgotten).rejects.toMatchObject({ status: 409, code: 'stream_forgotten' })
  const unstreamed = await world.request('GET', `/v1/responses/${id}?starting_after=1`)
  expect(unstreamed.status).toBe(400)
})

test('of an answer that others may have read before a restart, or elsewhere, no number is taken for one of this cutting', () => {
  const cuts = new RecentCuts()
  const [before, since] = ['1', '3'] as JobId[] as [JobId, JobId]
  cuts.begin(since)
  for (const job of [before, since]) cuts.of(job).end('text', 0, 5)
  expect([cuts.find(before), cuts.find(since)]).toEqual([undefined, cuts.of(since)])
})

test('where an answer was cut first is not made up when it is not known any more', () => {
  const cuts = new RecentCuts()
  const [first, second] = ['1', '2'] as JobId[] as [JobId, JobId]
  for (const job of [first, second]) cuts.begin(job)
  cuts.of(first).end('text', 0, 5)
  expect([cuts.of(first).end('text', 0, 9), cuts.find(first) !== undefined]).toEqual([5, true])
  // Others fill the memory, and what is oldest goes while its reader goes on.
  for (let index = 0; index < 1_000_001; index++) cuts.of(second).end('text', index, index + 1)
  expect(cuts.find(first)).toBeUndefined()
  cuts.of(first).end('text', 1, 9)
  expect(cuts.find(first)).toBeUndefined()
  cuts.forget(first)
  // Nor by whoever reads it from its beginning.
  cuts.of(first).end('text', 0, 9)
  expect(cuts.find(first)).toBeUndefined()
})

test('what a response was made from is listed as items, in pages and either order', async () => {
  const first = await client.responses.create({
    ...{ model: 'fake', instructions: 'be brief', temperature: 0 },
    input: [
      { role: 'user', content: [{ type: 'input_text', text: 'look' }] },
      { type: 'function_call', call_id: 'c1', name: 'find', arguments: '{}' },
      { type: 'function_call_output', call_id: 'c1', output: 'found' },
    ],
  })
  const next = await client.responses.create({ model: 'fake', previous_response_id: first.id, input: 'and then?', temperature: 0 })
  const items: { id?: string | null; type?: string }[] = []
  for await (const item of client.responses.inputItems.list(next.id, { order: 'asc', limit: 2 })) items.push(item)
  expect(items).toMatchObject([
    { type: 'message', role: 'user', content: [{ type: 'input_text', text: 'look' }] },
    { type: 'function_call', call_id: 'c1', name: 'find' },
    { type: 'function_call_output', call_id: 'c1', output: 'found' },
    { type: 'message', role: 'assistant', content: [{ type: 'output_text', text: first.output_text }] },
    { type: 'message', role: 'user', content: [{ type: 'input_text', text: 'and then?' }] },
  ])
  const newest = await client.responses.inputItems.list(next.id, { limit: 1, include: ['reasoning.encrypted_content'] })
  expect(newest.data.map(({ id }) => id)).toEqual([items.at(-1)?.id])
  await expect(client.responses.inputItems.list(next.id, { after: 'msg_nowhere' })).rejects.toMatchObject({ status: 404 })
  const unknown = client.responses.inputItems.list(next.id, { include: ['file_search_call.results'] })
  await expect(unknown).rejects.toMatchObject({ status: 400, param: 'include' })
  await expect(client.responses.inputItems.list(next.id, { limit: 101 })).rejects.toMatchObject({ status: 400, param: 'limit' })
})

test('a deleted response is gone, with what it asked and answered', async () => {
  const key = { headers: { 'idempotency-key': 'deleted' } }
  const body = { model: 'fake', input: 'forget me', temperature: 0 }
  const made = await client.responses.create(body, key)
  await client.responses.delete(made.id)
  await expect(client.responses.retrieve(made.id)).rejects.toMatchObject({ status: 404 })
  await expect(client.responses.delete(made.id)).rejects.toMatchObject({ status: 404 })
  await expect(client.responses.create({ ...body, previous_response_id: made.id })).rejects.toMatchObject({ status: 400 })
  expect(await world.job(made.id.slice('resp_'.length))).toMatchObject({ status: 'succeeded', output: null })
  const again = await client.responses.create(body, key)
  expect([again.id === made.id, again.output_text]).toEqual([false, made.output_text])
  const running = await client.responses.create({ model: 'slow', input: 'x', background: true, max_output_tokens: 50 })
  await expect(client.responses.delete(running.id)).rejects.toMatchObject({ status: 409, code: 'response_in_progress' })
  await client.responses.cancel(running.id)
  await client.responses.delete(running.id)
})

test('text.format gives parsed output, and log probabilities come where they were asked for', async () => {
  const parsed = await client.responses.parse({
    model: 'fake',
    input: 'x',
    text: { format: { type: 'json_schema', name: 'place', schema, strict: true } },
  })
  expect(parsed.output_parsed).toEqual({ city: expect.any(String) as string })
  const spoken = await client.responses.create({
    model: 'fake',
    input: 'x',
    include: ['message.output_text.logprobs'],
    top_logprobs: 2,
    max_output_tokens: 4,
  })
  const [message] = spoken.output
  const part = message?.type === 'message' ? message.content[0] : undefined
  expect(part?.type === 'output_text' && part.logprobs?.length).toBe(4)
})

test('a response that fails is an error, and in a stream a failed response', async () => {
  await expect(client.responses.create({ model: 'failing', input: 'BOOM' })).rejects.toMatchObject({
    status: 502,
    code: 'generation_failed',
  })
  const events: ResponseStreamEvent[] = []
  for await (const event of await client.responses.create({ model: 'failing', input: 'BOOM', stream: true })) events.push(event)
  expect(events.at(-1)).toMatchObject({ type: 'response.failed', response: { status: 'failed', error: { code: 'generation_failed' } } })
})

const call = { type: 'function_call', call_id: 'c1', name: 'weather', arguments: '{}' }

const BAD: [what: string, body: object, code: string, param: string][] = [
  ['no input', { input: undefined }, 'invalid_input', 'input'],
  ['an item nobody knows', { input: [{ type: 'computer_call' }] }, 'unsupported_parameter', 'input[0].type'],
  ['a wrong role', { input: [{ role: 'king', content: 'x' }] }, 'invalid_input', 'input[0].role'],
  [
    'an output without its call',
    { input: [{ type: 'function_call_output', call_id: 'c', output: 'x' }] },
    'invalid_messages',
    'input.call_id',
  ],
  ['a tool of the cloud', { tools: [{ type: 'web_search' }] }, 'unsupported_parameter', 'tools[0]'],
  ['truncation', { truncation: 'auto' }, 'unsupported_parameter', 'truncation'],
  ['something to include that is no name', { include: [{ toString: 1 }] }, 'unsupported_parameter', 'include'],
  ['a phase nobody knows', { input: [{ role: 'assistant', content: 'x', phase: 'last' }] }, 'out_of_range', 'input[0].phase'],
  [
    'a call by code of the provider',
    { input: [{ ...call, caller: { type: 'program', caller_id: 'p' } }] },
    'unsupported_parameter',
    'input[0].caller',
  ],
  ['a call that need not be answered', { input: [{ ...call, async: true }] }, 'unsupported_parameter', 'input[0].async'],
  ['a tool of a namespace', { input: [{ ...call, namespace: 'n' }] }, 'unknown_parameter', 'input[0].namespace'],
  [
    'a choice among other tools',
    { tools: [weather], tool_choice: { type: 'allowed_tools', mode: 'auto', tools: [{ type: 'mcp', server_label: 's' }] } },
    'unsupported_parameter',
    'tool_choice',
  ],
  ['something to include nobody has', { include: ['file_search_call.results'] }, 'unsupported_parameter', 'include'],
  ['a background that is not stored', { background: true, store: false }, 'out_of_range', 'store'],
  ['a conversation object', { conversation: 'conv_1' }, 'unsupported_parameter', 'conversation'],
  ['a previous one that never was', { previous_response_id: 'resp_x' }, 'previous_response_not_found', 'previous_response_id'],
  [
    'an image by file',
    { input: [{ role: 'user', content: [{ type: 'input_image', file_id: 'f' }] }] },
    'unsupported_parameter',
    'input[0].content[0].file_id',
  ],
  [
    'a broken schema',
    { text: { format: { type: 'json_schema', name: 's', schema: { type: 'obj' } } } },
    'invalid_schema',
    'text.format.schema',
  ],
  ['verbosity', { text: { verbosity: 'low' } }, 'unsupported_parameter', 'text.verbosity'],
  ['an unknown parameter', { frob: 1 }, 'unknown_parameter', 'frob'],
]

describe('each is refused with its own code and parameter', () => {
  test.each(BAD)('%s', async (_what, body, code, param) => {
    await refused('/v1/responses', { model: 'fake', input: 'x', ...body }, code, param)
  })
})

test('embeddings come as numbers or as base64, of one length, in order, and the same each time', async () => {
  const input = ['the quick fox', 'the slow fox', 'nothing alike']
  const floats = await client.embeddings.create({ model: 'fake', input, encoding_format: 'float' })
  // The official client asks for base64 by itself and decodes it.
  const decoded = await client.embeddings.create({ model: 'fake', input })
  expect(decoded.data).toEqual(floats.data)
  expect(floats.usage).toEqual({ prompt_tokens: 8, total_tokens: 8 })
  const raw = await client.embeddings.create({ model: 'fake', input: input[0] ?? '', encoding_format: 'base64' })
  const bytes = Buffer.from(raw.data[0]?.embedding as unknown as string, 'base64')
  expect(Array.from({ length: 32 }, (_, place) => bytes.readFloatLE(place * 4))).toEqual(floats.data[0]?.embedding)
  const dot = (one: number, other: number): number =>
    (floats.data[one]?.embedding ?? []).reduce((sum, value, place) => sum + value * (floats.data[other]?.embedding[place] ?? 0), 0)
  expect(dot(0, 0)).toBeCloseTo(1, 5)
  expect(dot(0, 1)).toBeGreaterThan(dot(0, 2))
  const short = await client.embeddings.create({ model: 'fake', input: 'x', dimensions: 8 })
  expect(short.data[0]?.embedding).toHaveLength(8)
})

test('rerank sorts documents by what they have in common with the query', async () => {
  const documents = ['about the sea', { text: 'a red fox ran' }, 'the fox']
  const ask = { model: 'fake', query: 'the red fox', documents, top_n: 2, return_documents: true }
  const response = await world.request('POST', '/v1/rerank', ask)
  const { results, usage } = (await response.json()) as {
    results: { index: number; relevance_score: number; document: unknown }[]
    usage: object
  }
  expect(results).toEqual([
    { index: 1, relevance_score: 0.6667, document: { text: 'a red fox ran' } },
    { index: 2, relevance_score: 0.6667, document: { text: 'the fox' } },
  ])
  expect(usage).toEqual({ prompt_tokens: 12, total_tokens: 12 })
})

test('embeddings and rerank refuse by name', async () => {
  await refused('/v1/embeddings', { model: 'fake', input: [1, 2] }, 'unsupported_parameter', 'input')
  await refused('/v1/embeddings', { model: 'fake', input: [[1, 2]] }, 'unsupported_parameter', 'input')
  await refused('/v1/embeddings', { model: 'fake', input: [] }, 'invalid_input', 'input')
  await refused('/v1/embeddings', { model: 'fake', input: 'x', encoding_format: 'hex' }, 'out_of_range', 'encoding_format')
  await refused('/v1/embeddings', { model: 'fake', input: 'x', dimensions: 0 }, 'out_of_range', 'dimensions')
  await refused('/v1/embeddings', { model: 'fake', input: 'x', stream: true }, 'unknown_parameter', 'stream')
  await refused('/v1/rerank', { model: 'fake', documents: ['x'] }, 'missing_field', 'query')
  await refused('/v1/rerank', { model: 'fake', query: 'x', documents: [] }, 'invalid_documents', 'documents')
  await refused('/v1/rerank', { model: 'fake', query: 'x', documents: [''] }, 'invalid_documents', 'documents[0]')
  await refused('/v1/rerank', { model: 'fake', query: 'x', documents: ['x'], top_n: 0 }, 'out_of_range', 'top_n')
})

test('a batch of embeddings is run like one of chats', async () => {
  const line = JSON.stringify({ custom_id: 'a', method: 'POST', url: '/v1/embeddings', body: { model: 'fake', input: ['x', 'y'] } })
  const file = await client.files.create({ file: new File([line], 'rows.jsonl'), purpose: 'batch' })
  const made = await client.batches.create({ input_file_id: file.id, endpoint: '/v1/embeddings', completion_window: '24h' })
  const done = await world.until('the batch is done', async () => {
    const found = await client.batches.retrieve(made.id)
    return found.status === 'completed' && found
  })
  const output = JSON.parse(await (await client.files.content(done.output_file_id ?? '')).text()) as {
    response: { body: { data: unknown[] } }
  }
  expect(output.response.body.data).toHaveLength(2)
})

async function refused(target: string, body: object, code: string, param: string): Promise<void> {
  const response = await world.request('POST', target, body)
  const { error } = (await response.json()) as { error: { code: string; param: string; message: string } }
  expect([response.status, error.code, error.param], error.message).toEqual([400, code, param])
}
