import Anthropic, { APIError } from '@anthropic-ai/sdk'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { readEvents } from './support/sse.ts'
import { chatStream } from './support/stream.ts'
import { ADMIN_KEY, World } from './support/world.ts'

let world: World
let client: Anthropic

beforeAll(async () => {
  world = await World.open()
  await world.coordinator()
  await world.worker(
    'a',
    'fake=fake:?slots=8&rate=400 plain=fake:?without=reasoning_effort,reasoning_max_tokens single=fake:?slots=1&rate=50 quick=fake: failing=fake:?fail_on=BOOM late=fake:?fail_on=BOOM',
  )
  client = new Anthropic({ baseURL: world.url, apiKey: ADMIN_KEY, maxRetries: 0 })
})
afterAll(() => world.close())

const messages: Anthropic.MessageParam[] = [{ role: 'user', content: 'hello there' }]
const ask = { model: 'fake', max_tokens: 12, messages, temperature: 0 }
const weather: Anthropic.Tool = {
  name: 'weather',
  description: 'Tells the weather',
  input_schema: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
}

test('a message has the official shape, true usage and a true reason to stop', async () => {
  const { data, response } = await client.messages.create(ask).withResponse()
  expect(data).toMatchObject({ type: 'message', role: 'assistant', model: 'fake', stop_reason: 'max_tokens', stop_sequence: null })
  expect(data.id).toMatch(/^msg_/)
  expect(textOf(data).split(' ')).toHaveLength(12)
  expect(data.usage).toMatchObject({ input_tokens: 2, output_tokens: 12, cache_read_input_tokens: 0 })
  expect(response.headers.get('request-id')).toBe(response.headers.get('x-request-id'))
  const job = await world.job(response.headers.get('x-holdfast-job') ?? '')
  expect(job).toMatchObject({ status: 'succeeded', worker: 'a', output: { text: textOf(data) } })
})

test('what Claude Code 2.1 says with every request keeps it from no model', async () => {
  const always = {
    ...ask,
    model: 'plain',
    system: [{ type: 'text' as const, text: 'You are an agent.', cache_control: { type: 'ephemeral' as const } }],
    messages: [...messages, { role: 'system', content: 'Available agent types: none.' }],
    tools: [weather],
    thinking: { type: 'adaptive' },
    context_management: { edits: [{ type: 'clear_thinking_20251015', keep: 'all' }] },
    output_config: { effort: 'high' },
    metadata: { user_id: '{"device_id":"d"}' },
  }
  const headers = { 'anthropic-version': '2023-06-01', 'anthropic-beta': 'context-management-2025-06-27,effort-2025-11-24' }
  const tell = async (body: object): Promise<[number, string | null]> => {
    const response = await world.request('POST', '/v1/messages?beta=true', body, headers)
    const { error } = (await response.json()) as { error?: { message: string } }
    return [response.status, error === undefined ? null : (/[a-z_.]+(?= is not supported)/.exec(error.message)?.[0] ?? error.message)]
  }
  expect(await tell(always)).toEqual([200, null])
  expect(await tell({ ...always, output_config: { effort: 'low' } })).toEqual([400, 'output_config.effort'])
  const clearing = [{ type: 'clear_thinking_20251015', keep: { type: 'thinking_turns', value: 1 } }, { type: 'clear_tool_uses_20250919' }]
  for (const edit of clearing) expect(await tell({ ...always, context_management: { edits: [edit] } })).toEqual([400, 'context_management'])
})

test('it is the message of the OpenAI dialect in other words', async () => {
  const mine = await client.messages.create({ ...ask, system: [{ type: 'text', text: 'Be brief.' }] })
  const other = await world.request('POST', '/v1/chat/completions', {
    model: 'fake',
    temperature: 0,
    max_tokens: 12,
    messages: [{ role: 'system', content: 'Be brief.' }, ...messages],
  })
  const body = (await other.json()) as { choices: { message: { content: string } }[] }
  expect(textOf(mine)).toBe(body.choices[0]?.message.content)
})

test('the streamed message is the plain one', async () => {
  const plain = await client.messages.create(ask)
  const stream = client.messages.stream(ask)
  let text = ''
  stream.on('text', (part) => {
    text += part
  })
  const final = await stream.finalMessage()
  expect(text).toBe(textOf(plain))
  expect(final).toMatchObject({ stop_reason: 'max_tokens', stop_sequence: null, content: [{ type: 'text', text }] })
  expect(final.usage).toMatchObject({ input_tokens: 2, output_tokens: 12 })
})

test('a message begins with how long its prompt is, also when it had to wait', async () => {
  for (let round = 0; round < 5; round++) {
    // More than there are slots.
    const streams = Array.from({ length: 12 }, () => eventsOf({ ...ask, stream: true }))
    for (const events of await Promise.all(streams)) {
      const [first] = events
      expect([first?.event, first?.data]).toEqual(['message_start', expect.objectContaining({ type: 'message_start' })])
      expect(first?.data).toMatchObject({ message: { usage: { input_tokens: 2 } } })
    }
  }
})

test('the events of a stream come in their order, each under its name', async () => {
  const events = await eventsOf({ ...ask, stream: true })
  const names = events.map((event) => event.event)
  expect(names.slice(0, 3)).toEqual(['message_start', 'ping', 'content_block_start'])
  expect(names.slice(-3)).toEqual(['content_block_stop', 'message_delta', 'message_stop'])
  expect(new Set(names.slice(3, -3))).toEqual(new Set(['content_block_delta']))
  for (const { event, data } of events) expect(data.type).toBe(event)
  expect(events[0]?.data).toMatchObject({ message: { content: [], stop_reason: null, usage: { output_tokens: 0 } } })
  expect(events.at(-2)?.data).toMatchObject({ delta: { stop_reason: 'max_tokens', stop_sequence: null }, usage: { output_tokens: 12 } })
})

test('a stop sequence ends the message and is named', async () => {
  const words = textOf(await client.messages.create(ask)).split(' ')
  const stop = `${words[4]} ${words[5]}`
  const stopped = await client.messages.create({ ...ask, stop_sequences: ['never said', stop] })
  expect(stopped).toMatchObject({ stop_reason: 'stop_sequence', stop_sequence: stop })
  expect(textOf(stopped)).toBe(`${words.slice(0, 4).join(' ')} `)
  const streamed = await client.messages.stream({ ...ask, stop_sequences: [stop] }).finalMessage()
  expect(streamed).toMatchObject({ stop_reason: 'stop_sequence', stop_sequence: stop })
})

test('a tool is called, streamed and not, and the conversation goes on with its result', async () => {
  const request = { ...ask, max_tokens: 100, tools: [weather], tool_choice: { type: 'any' as const } }
  const plain = await client.messages.create(request)
  const [call] = plain.content.filter((block) => block.type === 'tool_use')
  expect(plain.stop_reason).toBe('tool_use')
  expect(call).toMatchObject({ name: 'weather', input: { city: expect.any(String) as string } })
  const pieces: string[] = []
  const stream = client.messages.stream(request)
  stream.on('inputJson', (part) => pieces.push(part))
  const streamed = await stream.finalMessage()
  expect(streamed.content.map(({ type }) => type)).toEqual(plain.content.map(({ type }) => type))
  expect(streamed.content.find((block) => block.type === 'tool_use')?.input).toEqual(call?.input)
  expect(pieces.length).toBeGreaterThanOrEqual(1)
  const next = await client.messages.create({
    ...ask,
    tools: [weather],
    tool_choice: { type: 'none' },
    messages: [
      ...messages,
      { role: 'assistant', content: plain.content },
      { role: 'user', content: [{ type: 'tool_result', tool_use_id: call?.id ?? '', content: [{ type: 'text', text: 'rain' }] }] },
    ],
  })
  expect(next.stop_reason).toBe('max_tokens')
})

test('a tool may have a name of 128 characters', async () => {
  const name = 'n'.repeat(128)
  const request = { ...ask, max_tokens: 100, tools: [{ ...weather, name }], tool_choice: { type: 'tool' as const, name } }
  expect((await client.messages.create(request)).content).toMatchObject([{ type: 'tool_use', name }])
})

test('thinking is a block of its own before the text', async () => {
  const request = { ...ask, model: 'quick', max_tokens: 2_000, thinking: { type: 'enabled' as const, budget_tokens: 1_024 } }
  const plain = await client.messages.create(request)
  expect(plain.content.map(({ type }) => type)).toEqual(['thinking', 'text'])
  const streamed = await client.messages.stream(request).finalMessage()
  expect(streamed.content).toEqual(plain.content)
  expect(plain.usage.output_tokens_details?.thinking_tokens).toBeGreaterThan(0)
})

test('an answer can be made to fit a schema', async () => {
  const schema = { type: 'object', properties: { fit: { enum: ['good', 'bad'] } }, required: ['fit'], additionalProperties: false }
  const answer = await client.messages.create({ ...ask, max_tokens: 200, output_config: { format: { type: 'json_schema', schema } } })
  expect(JSON.parse(textOf(answer))).toEqual({ fit: expect.stringMatching(/^(good|bad)$/) as string })
})

test('a stream that waits says why in comments, and keeps the client awake', async () => {
  const busy = chatStream(world, 'single', 'long', { max_tokens: 40 })
  await world.until('the slot is taken', () => busy.seen.deltas > 0)
  const comments: string[] = []
  const pings: string[] = []
  const response = await world.request('POST', '/v1/messages', { ...ask, model: 'single', max_tokens: 2, stream: true })
  for await (const event of readEvents(response.body as ReadableStream<Uint8Array>)) {
    if (event.comment !== undefined) comments.push(event.comment)
    if (event.event === 'ping' && comments.length > 0) pings.push(event.data ?? '')
  }
  expect(comments[0]).toMatch(/^waiting reason=all_slots_busy position=1/)
  expect(pings.length).toBeGreaterThan(0)
  await busy.done
})

test('a client that leaves in the middle of its stream frees the slot', async () => {
  const stream = client.messages.stream({ ...ask, model: 'single', max_tokens: 100_000 })
  // Leaving on purpose is no failure.
  stream.on('abort', () => {})
  const { response } = await stream.withResponse()
  const job = response.headers.get('x-holdfast-job') ?? ''
  await world.until('it speaks', async () => (await world.job(job)).status === 'running')
  stream.abort()
  await world.until('it is cancelled', async () => (await world.job(job)).status === 'cancelled')
  expect(await client.messages.create({ ...ask, model: 'single', max_tokens: 1 })).toMatchObject({ stop_reason: 'max_tokens' })
})

test('tokens are estimated from what would be read', async () => {
  const count = async (extra: Partial<Anthropic.MessageCountTokensParams>) =>
    (await client.messages.countTokens({ model: 'fake', messages, ...extra })).input_tokens
  const plain = await count({})
  expect(plain).toBeGreaterThanOrEqual(1)
  expect(await count({ system: 'Be very brief indeed.' })).toBeGreaterThan(plain)
  expect(await count({ tools: [weather] })).toBeGreaterThan(plain)
  const image = { type: 'image' as const, source: { type: 'url' as const, url: 'https://example.com/a.png' } }
  expect(await count({ messages: [{ role: 'user', content: [image] }] })).toBeGreaterThan(1_000)
  await expect(client.messages.countTokens({ model: 'nope', messages })).rejects.toMatchObject({ status: 404, type: 'not_found_error' })
})

test('models are listed in the dialect of the asking client, page by page', async () => {
  const found: string[] = []
  for await (const model of client.models.list({ limit: 2 })) found.push(model.id)
  expect(found).toEqual(['failing', 'fake', 'late', 'plain', 'quick', 'single'])
  const last = await client.models.list({ before_id: 'plain', limit: 1 })
  expect(last.data).toMatchObject([{ type: 'model', id: 'late', display_name: 'late' }])
  expect(await client.models.retrieve('fake')).toMatchObject({ type: 'model', id: 'fake' })
  await expect(client.models.retrieve('nope')).rejects.toBeInstanceOf(Anthropic.NotFoundError)
  expect((await client.models.list({ lifecycle: ['active', 'retired'] })).data).toHaveLength(found.length)
  expect((await client.models.list({ lifecycle: ['retired'] })).data).toEqual([])
  const asAnthropic = { 'anthropic-version': '2023-06-01' }
  for (const [query, status] of [
    ['beta=true', 200],
    ['lifecycle=active', 200],
    ['lifecycle=old', 400],
  ] as const)
    expect((await world.request('GET', `/v1/models?${query}`, undefined, asAnthropic)).status).toBe(status)
  const plain = (await world.get('/v1/models')) as { object: string }
  expect(plain.object).toBe('list')
})

test('errors reach the client as its own error classes, with type, code and request id', async () => {
  const unknown = await failure(client.messages.create({ ...ask, model: 'nope' }))
  expect(unknown).toBeInstanceOf(Anthropic.NotFoundError)
  expect(unknown).toMatchObject({ status: 404, type: 'not_found_error', requestID: expect.any(String) as string })
  expect(unknown.error).toMatchObject({ type: 'error', error: { code: 'model_not_found', param: 'model' }, request_id: unknown.requestID })
  const keyless = new Anthropic({ baseURL: world.url, apiKey: 'wrong-key-wrong-key', maxRetries: 0 })
  expect(await failure(keyless.messages.create(ask))).toMatchObject({ status: 401, type: 'authentication_error' })
  expect(await failure(keyless.models.list())).toBeInstanceOf(Anthropic.AuthenticationError)
  const lost = await world.request('POST', '/v1/messages/batches', {})
  expect(await lost.json()).toMatchObject({ type: 'error', error: { type: 'not_found_error' } })
})

test.each<[string, Record<string, unknown>, string, RegExp]>([
  ['no max_tokens', { max_tokens: undefined }, 'missing_field', /max_tokens/],
  ['an assistant first', { messages: [{ role: 'assistant', content: 'hi' }] }, 'invalid_messages', /first message/],
  ['a stranger', { messages: [{ role: 'king', content: 'hi' }] }, 'invalid_messages', /user, assistant or system/],
  ['no messages', { messages: [] }, 'invalid_messages', /at least one/],
  [
    'a result without a call',
    { messages: [{ role: 'user', content: [{ type: 'tool_result', tool_use_id: 'x', content: 'y' }] }] },
    'invalid_messages',
    /no open call/,
  ],
  [
    'a call without a result',
    { messages: [...messages, { role: 'assistant', content: [{ type: 'tool_use', id: 'x', name: 'f', input: {} }] }, ...messages] },
    'invalid_messages',
    /tool_result for each/,
  ],
  ['a misspelt member', { max_token: 5 }, 'unknown_parameter', /max_token/],
  [
    'a misspelt member of a block',
    { messages: [{ role: 'user', content: [{ type: 'text', text: 'x', cached: 1 }] }] },
    'unknown_parameter',
    /cached/,
  ],
  ['a temperature beyond the dialect', { temperature: 1.5 }, 'out_of_range', /temperature/],
  ['a budget beyond the answer', { thinking: { type: 'enabled', budget_tokens: 2_000 } }, 'out_of_range', /budget_tokens/],
  ['a choice among no tools', { tool_choice: { type: 'any' } }, 'invalid_tool_choice', /tools/],
  ['a tool without a schema', { tools: [{ name: 'f' }] }, 'invalid_schema', /input_schema/],
  [
    'an image that is none',
    { messages: [{ role: 'user', content: [{ type: 'image', source: { type: 'base64', media_type: 'text/plain', data: 'AA' } }] }] },
    'invalid_image',
    /png/,
  ],
  [
    'an image of no type',
    { messages: [{ role: 'user', content: [{ type: 'image', source: { type: 'base64', media_type: { toString: 1 }, data: 'AA' } }] }] },
    'invalid_messages',
    /source\.media_type/,
  ],
  [
    'a block of no type',
    { messages: [{ role: 'user', content: [{ type: { toString: 1 } }] }] },
    'invalid_messages',
    /content\[0\]\.type \{"toString":1\} is not known/,
  ],
  ['a name too long', { tools: [{ ...weather, name: 'n'.repeat(129) }] }, 'invalid_tools', /128/],
  ['a budget of nothing', { thinking: { type: 'enabled', budget_tokens: 10 } }, 'out_of_range', /^thinking\.budget_tokens/],
  ['an answer of nothing', { max_tokens: 0 }, 'out_of_range', /at least 1/],
  ['stop sequences as a text', { stop_sequences: 'END' }, 'invalid_stop', /list/],
])('a request with %s is refused by name', async (_what, extra, code, message) => {
  const response = await world.request('POST', '/v1/messages', { ...ask, ...extra })
  expect(response.status).toBe(400)
  expect(await response.json()).toMatchObject({
    type: 'error',
    error: { type: 'invalid_request_error', code, message: expect.stringMatching(message) as string },
  })
})

test('what only the dialect itself can honour is refused where nobody speaks it, and what changes nothing is not', async () => {
  const document = { type: 'document' as const, source: { type: 'text' as const, media_type: 'text/plain' as const, data: 'x' } }
  const refused = await failure(client.messages.create({ ...ask, messages: [{ role: 'user', content: [document] }] }))
  expect(refused).toMatchObject({ status: 400, type: 'invalid_request_error' })
  expect(refused.error).toMatchObject({ error: { code: 'unsupported_parameter' } })
  const elsewhere = await world.request('POST', '/v1/messages', { ...ask, inference_geo: 'eu' })
  expect([elsewhere.status, await elsewhere.json()]).toMatchObject([400, { error: { code: 'unsupported_parameter' } }])
  const marked = { type: 'text' as const, text: 'hello there', cache_control: { type: 'ephemeral' as const } }
  const plain = await client.messages.create(ask)
  expect(textOf(await client.messages.create({ ...ask, messages: [{ role: 'user', content: [marked] }] }))).toBe(textOf(plain))
})

test('an engine that fails gives an error that names the job, plain and in a stream', async () => {
  const boom = { ...ask, model: 'failing', messages: [{ role: 'user' as const, content: 'BOOM' }] }
  const plain = await failure(client.messages.create(boom))
  expect(plain).toMatchObject({ status: 502, type: 'api_error' })
  const { job } = (plain.error as { error: { job: string } }).error
  expect((await world.job(job)).status).toBe('failed')
  const streamed = await failure(client.messages.stream(boom).finalMessage())
  expect(streamed.error).toMatchObject({ type: 'error', error: { type: 'api_error', code: 'generation_failed' } })
})

test('a client that repeats failures by itself does not submit an ended job again', async () => {
  const repeating = new Anthropic({ baseURL: world.url, apiKey: ADMIN_KEY })
  const boom = { ...ask, model: 'late', messages: [{ role: 'user' as const, content: 'BOOM' }] }
  expect((await failure(repeating.messages.create(boom))).status).toBe(502)
  const failures = async () => ((await world.get('/api/jobs?limit=200&status=failed&model=late')) as { data: unknown[] }).data.length
  await world.until('the failure is stored', async () => (await failures()) > 0)
  expect(await failures()).toBe(1)
})

test('one key makes one message', async () => {
  const headers = { 'idempotency-key': 'once-only' }
  const first = await client.messages.create(ask, { headers })
  expect((await client.messages.create(ask, { headers })).id).toBe(first.id)
  expect((await failure(client.messages.create({ ...ask, max_tokens: 3 }, { headers }))).status).toBe(422)
})

function textOf(message: Anthropic.Message): string {
  return message.content.map((block) => (block.type === 'text' ? block.text : '')).join('')
}

async function failure(asked: PromiseLike<unknown>): Promise<APIError> {
  const error: unknown = await Promise.resolve(asked).then(
    () => undefined,
    (error: unknown) => error,
  )
  if (!(error instanceof APIError)) throw new Error(`expected an error of the client, not ${String(error)}`)
  return error
}

async function eventsOf(body: unknown): Promise<{ event: string; data: Record<string, unknown> }[]> {
  const response = await world.request('POST', '/v1/messages', body)
  const events: { event: string; data: Record<string, unknown> }[] = []
  for await (const { event, data } of readEvents(response.body as ReadableStream<Uint8Array>))
    if (event !== undefined) events.push({ event, data: JSON.parse(data ?? '') as Record<string, unknown> })
  return events
}
