import OpenAI from 'openai'
import type { ChatCompletionMessageParam, ChatCompletionTool } from 'openai/resources/chat/completions'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parseChatRequest } from '../coordinator/api/openai-request.ts'
import { ADMIN_KEY, World } from './support/world.ts'

/** What the dialect says beyond plain text, with the official client against a fake that can play all of it. */

let world: World
let client: OpenAI

beforeAll(async () => {
  world = await World.open()
  await world.coordinator()
  await world.worker('a', 'fake=fake:?slots=16&rate=2000 slow=fake:?slots=16&rate=20 failing=fake:?slots=4&rate=20&fail_on=BOOM')
  client = new OpenAI({ baseURL: `${world.url}/v1`, apiKey: ADMIN_KEY, maxRetries: 0 })
})
afterAll(() => world.close())

const schema = {
  type: 'object',
  properties: { city: { type: 'string' }, days: { type: 'integer', minimum: 1, maximum: 9 } },
  required: ['city', 'days'],
  additionalProperties: false,
}
const weather: ChatCompletionTool = { type: 'function', function: { name: 'weather', description: 'Tells it', parameters: schema } }
const clock: ChatCompletionTool = { type: 'function', function: { name: 'clock' } }
const user = (content: string): ChatCompletionMessageParam => ({ role: 'user', content })

test('a tool is called, its result goes back, and the answer is in words', async () => {
  const messages = [user('please call:weather')]
  const called = await client.chat.completions.create({ model: 'fake', messages, tools: [weather, clock] })
  const [choice] = called.choices
  expect(choice).toMatchObject({ finish_reason: 'tool_calls', message: { content: null, refusal: null } })
  const [call] = choice?.message.tool_calls ?? []
  if (call?.type !== 'function') throw new Error('no function was called')
  expect(call.function.name).toBe('weather')
  expect(JSON.parse(call.function.arguments)).toEqual({ city: expect.any(String) as string, days: expect.any(Number) as number })
  const answered = await client.chat.completions.create({
    model: 'fake',
    messages: [...messages, choice!.message, { role: 'tool', tool_call_id: call.id, content: 'sunny' }],
    tools: [weather, clock],
  })
  expect(answered.choices[0]).toMatchObject({ finish_reason: 'length', message: { content: expect.stringMatching(/\w+ \w+/) as string } })
  expect(answered.choices[0]?.message.tool_calls).toBeUndefined()
})

test('calls stream in the official deltas and are the ones of the plain answer', async () => {
  const body = { model: 'fake', messages: [user('call:weather call:clock')], tools: [weather, clock], temperature: 0 }
  const plain = await client.chat.completions.create(body)
  const stream = client.chat.completions.stream({ ...body, stream_options: { include_usage: true } })
  const deltas: { index: number; id?: string; name?: string; arguments?: string }[] = []
  for await (const chunk of stream)
    for (const { index, id, function: called } of chunk.choices[0]?.delta.tool_calls ?? [])
      deltas.push({ index, ...(id ? { id } : {}), ...called })
  const final = await stream.finalChatCompletion()
  expect(final.choices[0]?.message.tool_calls).toMatchObject(plain.choices[0]?.message.tool_calls ?? [])
  expect(final.choices[0]?.finish_reason).toBe('tool_calls')
  expect(final.usage?.completion_tokens).toBe(plain.usage?.completion_tokens)
  expect(deltas.filter((delta) => delta.id !== undefined)).toEqual([
    { index: 0, id: expect.stringMatching(/^call_/) as string, name: 'weather', arguments: '' },
    { index: 1, id: expect.stringMatching(/^call_/) as string, name: 'clock', arguments: '' },
  ])
  // How finely they are cut depends on the load; that they come while the call is made is shown where its worker dies.
  expect(deltas.length).toBeGreaterThanOrEqual(4)
})

test('tool_choice and parallel_tool_calls are obeyed', async () => {
  const calls = async (extra: object, content = 'hello') =>
    (
      await client.chat.completions.create({ model: 'fake', messages: [user(content)], tools: [weather, clock], ...extra })
    ).choices[0]?.message.tool_calls?.map((call) => (call.type === 'function' ? call.function.name : ''))
  expect(await calls({})).toBeUndefined()
  expect(await calls({ tool_choice: 'none' }, 'call:clock')).toBeUndefined()
  expect(await calls({ tool_choice: 'required' })).toEqual(['weather'])
  expect(await calls({ tool_choice: { type: 'function', function: { name: 'clock' } } })).toEqual(['clock'])
  const allowed = (mode: string) => ({
    tool_choice: { type: 'allowed_tools', allowed_tools: { mode, tools: [{ type: 'function', function: { name: 'clock' } }] } },
  })
  expect(await calls(allowed('auto'))).toBeUndefined()
  expect(await calls(allowed('auto'), 'call:weather call:clock')).toEqual(['clock'])
  expect(await calls(allowed('required'))).toEqual(['clock'])
  expect(await calls({}, 'call:weather call:clock')).toEqual(['weather', 'clock'])
  expect(await calls({ parallel_tool_calls: false }, 'call:weather call:clock')).toEqual(['weather'])
})

test('a json_schema answer is parsed by the client, and json_object is JSON', async () => {
  const response_format = { type: 'json_schema' as const, json_schema: { name: 'trip', schema, strict: true } }
  const parsed = await client.chat.completions.parse({ model: 'fake', messages: [user('x')], response_format })
  expect(parsed.choices[0]).toMatchObject({ finish_reason: 'stop', message: { parsed: { city: expect.any(String) as string } } })
  const any = await client.chat.completions.create({ model: 'fake', messages: [user('x')], response_format: { type: 'json_object' } })
  expect(JSON.parse(any.choices[0]?.message.content ?? '')).toBeTypeOf('object')
})

test('log probabilities come for every token, streamed and not', async () => {
  const body = { model: 'fake', messages: [user('x')], logprobs: true, top_logprobs: 3, max_tokens: 6, temperature: 0 }
  const plain = await client.chat.completions.create(body)
  const content = plain.choices[0]?.logprobs?.content ?? []
  expect(content.map((token) => token.token).join('')).toBe(plain.choices[0]?.message.content)
  expect(content.every((token) => token.top_logprobs.length === 3 && token.logprob <= 0)).toBe(true)
  const streamed: unknown[] = []
  for await (const chunk of await client.chat.completions.create({ ...body, stream: true }))
    streamed.push(...(chunk.choices[0]?.logprobs?.content ?? []))
  expect(streamed).toEqual(content)
})

test('whose answer it is has no log probabilities, and what is thought not those of what is said', async () => {
  for (let round = 0; round < 10; round++) {
    const body = { model: 'fake', messages: [user(`p${round}`)], logprobs: true, max_tokens: 8, reasoning_effort: 'low' as const }
    const chunks: OpenAI.ChatCompletionChunk[] = []
    for await (const chunk of await client.chat.completions.create({ ...body, stream: true })) chunks.push(chunk)
    const said = chunks.map(({ choices: [choice] }) => [choice?.delta.content ?? '', choice?.logprobs?.content ?? []] as const)
    for (const [text, logprobs] of said) expect(logprobs.map(({ token }) => token).join('')).toBe(text)
    expect(said.flatMap(([, logprobs]) => logprobs).length).toBe(4)
  }
})

test('the older endpoint has log probabilities in columns', async () => {
  const body = { model: 'fake', prompt: 'x', logprobs: 2, max_tokens: 4, temperature: 0 }
  const [choice] = (await client.completions.create(body)).choices
  const { tokens = [], text_offset = [], top_logprobs } = choice?.logprobs ?? {}
  expect(tokens.map((token, index) => choice?.text.slice(text_offset[index], (text_offset[index] ?? 0) + token.length))).toEqual(tokens)
  expect(top_logprobs?.every((alternatives) => Object.keys(alternatives).length === 2)).toBe(true)
  let text = ''
  const offsets: number[] = []
  for await (const chunk of await client.completions.create({ ...body, stream: true })) {
    text += chunk.choices[0]?.text ?? ''
    offsets.push(...(chunk.choices[0]?.logprobs?.text_offset ?? []))
  }
  expect([text, offsets]).toEqual([choice?.text, text_offset])
})

test('reasoning is separated from the answer and counted', async () => {
  const body = { model: 'fake', messages: [user('x')], reasoning_effort: 'low' as const, max_tokens: 10, temperature: 0 }
  const plain = await client.chat.completions.create(body)
  const message = plain.choices[0]?.message as unknown as { content: string; reasoning_content: string }
  expect([message.reasoning_content.split(' ').length, message.content.split(' ').length]).toEqual([4, 6])
  expect(plain.usage?.completion_tokens_details?.reasoning_tokens).toBe(4)
  let reasoning = ''
  let text = ''
  for await (const { choices } of await client.chat.completions.create({ ...body, stream: true })) {
    const delta = choices[0]?.delta as { content?: string; reasoning_content?: string } | undefined
    reasoning += delta?.reasoning_content ?? ''
    text += delta?.content ?? ''
  }
  expect([reasoning, text]).toEqual([message.reasoning_content, message.content])
  const capped = await client.chat.completions.create({ ...body, reasoning_max_tokens: 1 } as typeof body)
  expect(capped.usage?.completion_tokens_details?.reasoning_tokens).toBe(1)
  const most = async (reasoning_effort: 'xhigh' | 'max') =>
    (await client.chat.completions.create({ ...body, reasoning_effort, max_tokens: 40 })).usage?.completion_tokens_details?.reasoning_tokens
  expect(await most('max')).toBe(await most('xhigh'))
})

test('n answers are n jobs with seeds that follow one another, streamed and not', async () => {
  const body = { model: 'fake', messages: [user('x')], seed: 7, temperature: 1, max_tokens: 5 }
  const { data, response } = await client.chat.completions.create({ ...body, n: 3 }).withResponse()
  const texts = data.choices.map((choice) => choice.message.content)
  expect(data.choices.map((choice) => choice.index)).toEqual([0, 1, 2])
  expect(data.usage).toMatchObject({ prompt_tokens: 1, completion_tokens: 15, total_tokens: 16 })
  expect(data.id).toBe(`chatcmpl-${response.headers.get('x-holdfast-job') ?? ''}`)
  const alone = await Promise.all([7, 8, 9].map((seed) => client.chat.completions.create({ ...body, seed })))
  expect(texts).toEqual(alone.map((one) => one.choices[0]?.message.content))
  const final = await client.chat.completions.stream({ ...body, n: 3 }).finalChatCompletion()
  expect(final.choices.map((choice) => choice.message.content)).toEqual(texts)
})

test.each([false, true])('one of n that ends badly fails the whole, and the others stop (streamed: %s)', async (stream) => {
  const before = new Set((await jobs()).map((job) => job.id))
  const mine = async () => (await jobs()).filter((job) => !before.has(job.id))
  // Detached, so that it is not the end of the connection that stops them.
  const body = { model: 'slow', messages: m, n: 3, max_tokens: 10_000, stream }
  const answer = world.request('POST', '/v1/chat/completions', body, { 'x-holdfast-detach': 'true' })
  const started = await world.until('all run', async () => {
    const found = await mine()
    return found.length === 3 && found.every((job) => job.status === 'running') && found
  })
  await world.request('POST', `/api/jobs/${started[1]?.id}/cancel`)
  const response = await answer
  expect(response.status).toBe(stream ? 200 : 409)
  expect(await response.text()).toContain('"code":"job_cancelled"')
  await world.until('none runs', async () => (await mine()).every((job) => job.status === 'cancelled'))
})

test('a caller that leaves takes all its n jobs along', async () => {
  const leaving = new AbortController()
  const before = new Set((await jobs()).map((job) => job.id))
  const stream = await client.chat.completions.create(
    { model: 'slow', messages: [user('x')], n: 3, max_tokens: 10_000, stream: true },
    { signal: leaving.signal },
  )
  for await (const chunk of stream) if (chunk.choices[0]?.delta.content) break
  leaving.abort()
  await world.until('all three are cancelled', async () => {
    const mine = (await jobs()).filter((job) => !before.has(job.id))
    return mine.length === 3 && mine.every((job) => job.status === 'cancelled')
  })
})

test.each(['https://169.254.169.254/latest', 'https://localhost:6443/x', 'https://[::ffff:10.0.0.1]/a', 'https://user:pw@example.com/a'])(
  'an image at %s, which a server inside would fetch, is refused',
  async (url) => {
    const content = [{ type: 'image_url', image_url: { url } }]
    const response = await world.request('POST', '/v1/chat/completions', { model: 'fake', messages: [{ role: 'user', content }] })
    expect(response.status).toBe(400)
  },
)

test('images are taken by a model that can see', async () => {
  const url = 'data:image/png;base64,iVBORw0KGgo='
  const content = [
    { type: 'text' as const, text: 'what is this' },
    { type: 'image_url' as const, image_url: { url, detail: 'low' as const } },
    { type: 'image_url' as const, image_url: { url: 'https://example.com/a.png' } },
  ]
  const seen = await client.chat.completions.create({ model: 'fake', messages: [{ role: 'user', content }] })
  expect(seen.choices[0]?.message.content).toMatch(/\w/)
  await world.worker('blind', 'blind=fake:?without=images')
  const unseen = client.chat.completions.create({ model: 'blind', messages: [{ role: 'user', content }] })
  await expect(unseen).rejects.toMatchObject({
    status: 400,
    param: 'messages',
    message: expect.stringContaining('sees no images') as string,
  })
})

test('an answer to auto names the model that made it', async () => {
  const ask = { model: 'auto', messages: [user('x')], max_tokens: 2 }
  const whole = await client.chat.completions.create(ask)
  const { model } = (await world.job(whole.id.slice('chatcmpl-'.length))) as unknown as { model: string }
  expect([whole.model, model]).not.toContain('auto')
  expect(whole.model).toBe(model)
  const named = new Set<string>()
  for await (const chunk of await client.chat.completions.create({ ...ask, stream: true })) named.add(chunk.model)
  expect([...named]).toHaveLength(1)
  expect(named.has('auto')).toBe(false)
})

test('a call that its worker dies in goes on elsewhere, every character once', async () => {
  const b = await world.worker('b', 'twin=fake:?slots=4&rate=40')
  const days = Object.fromEntries(Array.from({ length: 12 }, (_, day) => [`day${day}`, { type: 'string', minLength: 20 }]))
  const plan: ChatCompletionTool = { type: 'function', function: { name: 'plan', parameters: { type: 'object', properties: days } } }
  const body = { model: 'twin', messages: [user('call:plan')], tools: [plan], reasoning_effort: 'minimal' as const, temperature: 0 }
  const stream = client.chat.completions.stream(body)
  let grown = 0
  let joined: Promise<unknown> | undefined
  for await (const chunk of stream) {
    grown += chunk.choices[0]?.delta.tool_calls?.[0]?.function?.arguments?.length ?? 0
    if (grown < 60 || joined !== undefined) continue
    b.kill()
    joined = world.worker('c', 'twin=fake:?slots=4&rate=1000')
  }
  await joined
  const final = await stream.finalChatCompletion()
  const undisturbed = await client.chat.completions.create(body)
  expect(final.choices[0]?.message.tool_calls).toMatchObject(undisturbed.choices[0]?.message.tool_calls ?? [{}])
  expect((await world.job(final.id.slice('chatcmpl-'.length))).attempts.length).toBeGreaterThan(1)
})

test('what only a provider of the dialect can honour is kept as it came, and named', () => {
  const body = { model: 'x', messages: [{ role: 'user', content: 'x', name: 'ann' }], verbosity: 'low', n: 2, stream: true, seed: 3 }
  expect(parseChatRequest(body)).toMatchObject({
    onlyDialect: 'openai',
    onlyDialectFor: 'verbosity',
    choices: 2,
    generation: { verbatim: { dialect: 'openai', body: { verbosity: 'low', messages: body.messages, seed: 3 } } },
  })
  const cloudOnly = [
    { prediction: {} },
    { web_search_options: {} },
    { service_tier: 'flex' },
    { tools: [{ type: 'custom', custom: { name: 'c' } }] },
    { messages: [{ role: 'user', content: [{ type: 'input_audio', input_audio: {} }] }] },
  ]
  for (const extra of cloudOnly)
    expect(parseChatRequest({ model: 'x', messages: m, ...extra }).onlyDialect, JSON.stringify(extra)).toBe('openai')
  const listed = { type: 'allowed_tools', allowed_tools: { mode: 'auto', tools: [{ type: 'custom', custom: { name: 'c' } }] } }
  expect(parseChatRequest({ model: 'x', messages: m, tools: [clock], tool_choice: listed }).onlyDialectFor).toBe('tool_choice')
  const off = { modalities: ['text'], service_tier: 'auto', functions: [], function_call: 'none' }
  expect(parseChatRequest({ model: 'x', messages: m, ...off })).not.toHaveProperty('onlyDialect')
})

test('nesting without end is refused, not stumbled over', async () => {
  const nested = `${'['.repeat(100_000)}${']'.repeat(100_000)}`
  for (const member of [
    `"tools":[{"type":"function","function":{"name":"f","parameters":{"default":${nested}}}}]`,
    `"prediction":${nested}`,
  ]) {
    const response = await world.request(
      'POST',
      '/v1/chat/completions',
      `{"model":"fake","messages":[{"role":"user","content":"x"}],${member}}`,
    )
    expect([response.status, ((await response.json()) as { error: { code: string } }).error.code]).toEqual([400, 'nested_too_deep'])
  }
})

const m = [{ role: 'user', content: 'x' }]
const call = { id: 'c1', type: 'function', function: { name: 'weather', arguments: '{}' } }
const asked = { role: 'assistant', content: null, tool_calls: [call] }
const withSchema = (broken: unknown) => ({ tools: [{ type: 'function', function: { name: 'f', parameters: broken } }] })

const BAD: [what: string, body: object, code: string, param: string][] = [
  ['a legacy function', { functions: [{ name: 'f' }] }, 'unsupported_parameter', 'functions'],
  ['a legacy choice', { function_call: { name: 'f' } }, 'unsupported_parameter', 'function_call'],
  ['an answer that is spoken', { modalities: ['text', 'audio'] }, 'unsupported_parameter', 'modalities'],
  ['a voice', { audio: { voice: 'alloy', format: 'wav' } }, 'unsupported_parameter', 'audio'],
  ['too many tools', { tools: Array.from({ length: 129 }, () => clock) }, 'invalid_tools', 'tools'],
  ['one name twice', { tools: [clock, clock] }, 'invalid_tools', 'tools[1].function.name'],
  ['a name with spaces', { tools: [{ type: 'function', function: { name: 'a b' } }] }, 'invalid_tools', 'tools[0].function.name'],
  [
    'a choice that is not there',
    { tools: [clock], tool_choice: { type: 'function', function: { name: 'w' } } },
    'invalid_tool_choice',
    'tool_choice',
  ],
  [
    'some tools that are not there',
    {
      tools: [clock],
      tool_choice: { type: 'allowed_tools', allowed_tools: { mode: 'auto', tools: [{ type: 'function', function: { name: 'w' } }] } },
    },
    'invalid_tool_choice',
    'tool_choice',
  ],
  [
    'some tools in no mode',
    { tools: [clock], tool_choice: { type: 'allowed_tools', allowed_tools: { tools: [clock] } } },
    'invalid_tool_choice',
    'tool_choice.allowed_tools',
  ],
  ['a user that is no text', { user: 5 }, 'invalid_type', 'user'],
  ['a cache that is no object', { prompt_cache_options: 'long' }, 'invalid_type', 'prompt_cache_options'],
  ['a store that is no answer', { store: 'yes' }, 'invalid_type', 'store'],
  ['metadata that is no text', { metadata: { a: 1 } }, 'invalid_metadata', 'metadata'],
  ['a call required of no tools', { tool_choice: 'required' }, 'invalid_tool_choice', 'tool_choice'],
  ['a type that does not exist', withSchema({ type: 'obj' }), 'invalid_schema', 'tools[0].function.parameters'],
  ['parameters that are a list', withSchema({ type: 'array' }), 'invalid_schema', 'tools[0].function.parameters'],
  ['a reference to nothing', withSchema({ $ref: '#/$defs/x' }), 'invalid_schema', 'tools[0].function.parameters'],
  ['a reference elsewhere', withSchema({ $ref: 'https://example.com/s.json' }), 'invalid_schema', 'tools[0].function.parameters'],
  ['a broken pattern', withSchema({ properties: { a: { pattern: '(' } } }), 'invalid_schema', 'tools[0].function.parameters'],
  ['a schema too large', withSchema({ description: 'x'.repeat(140_000) }), 'invalid_schema', 'tools[0].function.parameters'],
  ['a format of no type', { response_format: { type: 'xml' } }, 'invalid_response_format', 'response_format.type'],
  [
    'a format without a schema',
    { response_format: { type: 'json_schema', json_schema: { name: 's' } } },
    'invalid_schema',
    'response_format.json_schema.schema',
  ],
  ['top_logprobs alone', { top_logprobs: 2 }, 'invalid_top_logprobs', 'top_logprobs'],
  ['too many top_logprobs', { logprobs: true, top_logprobs: 21 }, 'out_of_range', 'top_logprobs'],
  ['an unknown effort', { reasoning_effort: 'extreme' }, 'out_of_range', 'reasoning_effort'],
  ['min above max', { min_tokens: 5, max_tokens: 4 }, 'out_of_range', 'min_tokens'],
  ['fewest tokens of JSON', { min_tokens: 5, response_format: { type: 'json_object' } }, 'unsupported_parameter', 'min_tokens'],
  [
    'fewest tokens of a call',
    { min_tokens: 5, tool_choice: 'required', tools: [{ type: 'function', function: { name: 'f' } }] },
    'unsupported_parameter',
    'min_tokens',
  ],
  ['two limits', { max_tokens: 3, max_completion_tokens: 6 }, 'out_of_range', 'max_tokens'],
  [
    'a result without a call',
    { messages: [...m, { role: 'tool', tool_call_id: 'c1', content: 'x' }] },
    'invalid_messages',
    'messages[1].tool_call_id',
  ],
  [
    'a result of another call',
    { messages: [...m, asked, { role: 'tool', tool_call_id: 'c2', content: 'x' }] },
    'invalid_messages',
    'messages[2].tool_call_id',
  ],
  ['a call without a result', { messages: [...m, asked, ...m] }, 'invalid_messages', 'messages[2]'],
  [
    'arguments that are no text',
    { messages: [{ role: 'assistant', tool_calls: [{ ...call, function: { name: 'f', arguments: {} } }] }] },
    'invalid_messages',
    'messages[0].tool_calls[0]',
  ],
  [
    'an image at http',
    { messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'http://a/b' } }] }] },
    'invalid_image',
    'messages[0].content[0].image_url.url',
  ],
  [
    'an image of a program',
    { messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'data:text/html;base64,eA==' } }] }] },
    'invalid_image',
    'messages[0].content[0].image_url.url',
  ],
  [
    'an image by the assistant',
    { messages: [{ role: 'assistant', content: [{ type: 'image_url', image_url: { url: 'https://a/b' } }] }] },
    'invalid_messages',
    'messages[0].content[0]',
  ],
  [
    'an unknown member of a function',
    { tools: [{ type: 'function', function: { name: 'f', frob: 1 } }] },
    'unknown_parameter',
    'tools[0].function.frob',
  ],
]

describe('each is refused with its own code and parameter', () => {
  test.each(BAD)('%s', async (_what, body, code, param) => {
    const response = await world.request('POST', '/v1/chat/completions', { model: 'fake', messages: m, ...body })
    const { error } = (await response.json()) as { error: { code: string; param: string; message: string } }
    expect([response.status, error.code, error.param], error.message).toEqual([400, code, param])
  })
})

test('a job and a row of a batch are one answer each', async () => {
  const rows = [{ row_key: 'a', messages: m, n: 2 }]
  for (const [target, body, param] of [
    ['/api/jobs', { model: 'fake', messages: m, n: 2 }, 'n'],
    ['/api/batches', { model: 'fake', rows }, 'rows[0].n'],
  ] as const) {
    const response = await world.request('POST', target, body)
    const { error } = (await response.json()) as { error: { code: string; param: string } }
    expect([response.status, error.code, error.param]).toEqual([400, 'unsupported_parameter', param])
  }
})

test('n and an idempotency-key contradict each other', async () => {
  const response = await world.request('POST', '/v1/chat/completions', { model: 'fake', messages: m, n: 2 }, { 'idempotency-key': 'k' })
  expect([response.status, ((await response.json()) as { error: { param: string } }).error.param]).toEqual([400, 'n'])
})

async function jobs(): Promise<{ id: string; status: string }[]> {
  return ((await world.get('/api/jobs?limit=200')) as { data: { id: string; status: string }[] }).data
}
