import Anthropic from '@anthropic-ai/sdk'
import OpenAI from 'openai'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { addCloud, type Cloud, refused } from './support/cloud.ts'
import { SIGNATURE } from './support/upstream-anthropic.ts'
import { ADMIN_KEY, World } from './support/world.ts'

/** What a caller says in the dialect of the cloud that answers reaches it, and what that says is told truly. */

let world: World
let openAi: Cloud
let anthropic: Cloud
let client: OpenAI
let asAnthropic: Anthropic
beforeAll(async () => {
  world = await World.open()
  await world.coordinator()
  await world.worker('a', 'fake=fake:?without=json_schema,reasoning_max_tokens,reasoning_effort,parallel_tool_calls')
  openAi = await addCloud(world)
  anthropic = await addCloud(world, { kind: 'anthropic' })
  client = new OpenAI({ baseURL: `${world.url}/v1`, apiKey: ADMIN_KEY, maxRetries: 0 })
  asAnthropic = new Anthropic({ baseURL: world.url, apiKey: ADMIN_KEY, maxRetries: 0 })
})
afterAll(() => world.close())

const messages = [{ role: 'user' as const, content: 'x' }]
const nameless = {
  ...{ user: 'u1', safety_identifier: 's1', prompt_cache_key: 'k1', prompt_cache_retention: '24h' as const },
  prompt_cache_options: { mode: 'implicit' as const, ttl: '30m' as const },
}

function sentTo(cloud: Cloud): Record<string, unknown> {
  return cloud.upstream.calls.filter(({ method }) => method === 'POST').at(-1)?.body ?? {}
}

test('who asks and what is kept is sent on to a cloud of the dialect, and nowhere is it a reason to refuse', async () => {
  const aside = { ...nameless, store: true, metadata: { a: 'b' } }
  await client.chat.completions.create({ model: openAi.model, messages, ...aside })
  expect(sentTo(openAi)).toMatchObject(aside)
  await client.responses.create({ model: openAi.model, input: 'x', ...nameless, store: false, metadata: { ours: 'only' } })
  expect(sentTo(openAi)).toMatchObject(nameless)
  expect(sentTo(openAi)).not.toHaveProperty('metadata')
  await client.embeddings.create({ model: openAi.model, input: 'x', user: 'u2' })
  expect(sentTo(openAi)).toMatchObject({ user: 'u2' })
  await client.chat.completions.create({ model: openAi.model, messages })
  for (const name of Object.keys(aside)) expect(sentTo(openAi)).not.toHaveProperty(name)
  for (const model of ['fake', anthropic.model]) await client.chat.completions.create({ model, messages, ...aside })
  for (const name of Object.keys(aside)) expect(sentTo(anthropic)).not.toHaveProperty(name)
})

test('tokens that a cloud wrote to its cache and read from it are told beside the others, streamed and not', async () => {
  anthropic.upstream.usual = { cache: { read: 3, written: 5 } }
  const body = { model: anthropic.model, max_tokens: 50, messages }
  const told = { input_tokens: 7, cache_creation_input_tokens: 5, cache_read_input_tokens: 3 }
  const { usage } = await asAnthropic.messages.create(body)
  expect(usage).toMatchObject(told)
  expect((await asAnthropic.messages.stream(body).finalMessage()).usage).toMatchObject(told)
  const completion = await client.chat.completions.create({ model: anthropic.model, messages })
  expect(completion.usage).toMatchObject({ prompt_tokens: 15, prompt_tokens_details: { cached_tokens: 3, cache_write_tokens: 5 } })
  const response = await client.responses.create({ model: anthropic.model, input: 'x' })
  expect(response.usage?.input_tokens_details).toEqual({ cached_tokens: 3, cache_write_tokens: 5 })
})

test('what a model thinks and says by turns comes in that order to every client, streamed and not', async () => {
  const play = { reasoning: ['Once', '.'], text: ['One', '.'], turns: [{ reasoning: 'Twice.', text: 'Two.' }] }
  openAi.upstream.usual = play
  anthropic.upstream.usual = { ...play, toolCalls: [{ id: 'toolu_1', name: 'f', pieces: ['{"a"', ':1}'] }] }
  for (const { model } of [openAi, anthropic]) {
    const call = model === openAi.model ? [] : [{ type: 'tool_use', id: 'toolu_1', name: 'f', input: { a: 1 } }]
    const signature = model === openAi.model ? '' : SIGNATURE
    const content = [
      { type: 'thinking', thinking: 'Once.', signature },
      { type: 'text', text: 'One.' },
      { type: 'thinking', thinking: 'Twice.', signature },
      { type: 'text', text: 'Two.' },
      ...call,
    ]
    const tools = [{ name: 'f', input_schema: { type: 'object' as const } }]
    const asked = { model, max_tokens: 50, messages, tools }
    expect((await asAnthropic.messages.stream(asked).finalMessage()).content).toMatchObject(content)
    const thought = (text: string) => ({ type: 'reasoning', content: [{ type: 'reasoning_text', text }] })
    const said = (text: string) => ({ type: 'message', status: 'completed', content: [{ type: 'output_text', text }] })
    const called = call.map(() => ({ type: 'function_call', call_id: 'toolu_1', name: 'f', arguments: '{"a":1}' }))
    const output = [thought('Once.'), said('One.'), thought('Twice.'), said('Two.'), ...called]
    const wish = { model, input: 'x', tools: [{ type: 'function' as const, name: 'f', parameters: null, strict: false }] }
    if (model === anthropic.model) {
      expect((await asAnthropic.messages.create(asked)).content).toMatchObject(content)
      const whole = await client.responses.create(wish)
      expect(whole.output).toMatchObject(output)
      expect(new Set(whole.output.map(({ id }) => id)).size).toBe(output.length)
      // Gone on with, it is given back as it was.
      const input = [{ type: 'function_call_output' as const, call_id: 'toolu_1', output: 'x' }]
      await client.responses.create({ ...wish, input, previous_response_id: whole.id })
      expect((sentTo(anthropic) as { messages: unknown[] }).messages[1]).toMatchObject({
        role: 'assistant',
        content: content.map(({ type }) => ({ type })),
      })
    }
    const done: unknown[] = []
    const stream = client.responses.stream(wish)
    for await (const event of stream) if (event.type === 'response.output_item.done') done[event.output_index] = event.item
    expect(done).toMatchObject(output)
    expect((await stream.finalResponse()).output).toMatchObject(output)
    const chat = await client.chat.completions.create({ model, messages })
    expect(chat.choices[0]?.message).toMatchObject({ content: 'One.Two.', reasoning_content: 'Once.Twice.' })
  }
})

test('what a model says instead of an answer is a refusal to every client, streamed and not', async () => {
  const said = "I'm sorry, no."
  openAi.upstream.usual = { refusal: ["I'm sorry", ', no.'] }
  const { model } = openAi
  const response_format = { type: 'json_schema' as const, json_schema: { name: 'n', strict: true, schema } }
  const chat = { model, messages, response_format }
  const parsed = await client.chat.completions.parse(chat)
  expect(parsed.choices[0]?.message).toMatchObject({ content: null, refusal: said, parsed: null })
  const streamed = await client.chat.completions.stream(chat).finalChatCompletion()
  expect(streamed.choices[0]?.message).toMatchObject({ content: '', refusal: said, parsed: null })
  const content = [{ type: 'refusal', refusal: said }]
  const response = await client.responses.create({ model, input: 'x' })
  expect(response.output).toMatchObject([{ type: 'message', status: 'completed', content }])
  const events: string[] = []
  const stream = client.responses.stream({ model, input: 'x' })
  for await (const { type } of stream) if (type !== events.at(-1)) events.push(type)
  expect((await stream.finalResponse()).output).toMatchObject([{ type: 'message', content }])
  expect(events.slice(2)).toEqual(messageEvents('refusal'))
  const message = { content: [{ type: 'text', text: said }], stop_reason: 'refusal' }
  const asked = { model, max_tokens: 50, messages }
  expect(await asAnthropic.messages.create(asked)).toMatchObject(message)
  expect(await asAnthropic.messages.stream(asked).finalMessage()).toMatchObject(message)
  const { id } = await client.responses.create({ model, input: 'x' })
  expect(await world.job(id.slice('resp_'.length))).toMatchObject({ output: { text: '', refusal: said } })
  openAi.upstream.usual = {}
})

test("the official client's tool runner runs a tool and brings its result back, though no conversation is held here", async () => {
  anthropic.upstream.usual = { text: ['Done.'] }
  anthropic.upstream.plan({ text: [], toolCalls: [{ id: 'toolu_1', name: 'add', pieces: ['{"a":1}'] }] })
  const asked: unknown[] = []
  const add = {
    ...{ name: 'add', description: 'adds', input_schema: { type: 'object' as const, properties: { a: { type: 'number' } } } },
    run: (input: unknown) => {
      asked.push(input)
      return 'two'
    },
    parse: (input: unknown) => input,
  }
  const runner = asAnthropic.beta.messages.toolRunner({ model: anthropic.model, max_tokens: 50, messages, tools: [add] })
  expect((await runner).content).toMatchObject([{ type: 'text', text: 'Done.' }])
  expect(asked).toEqual([{ a: 1 }])
  const sent = sentTo(anthropic)
  expect(sent.messages).toMatchObject([
    { role: 'user' },
    { role: 'assistant', content: [{ type: 'tool_use', id: 'toolu_1' }] },
    { role: 'user', content: [{ type: 'tool_result', tool_use_id: 'toolu_1', content: 'two' }] },
  ])
  expect(sent).not.toHaveProperty('thread')
})

test('a refusal behind a text is the second part of its message', async () => {
  const { model } = openAi
  openAi.upstream.usual = { text: ['Well. '], refusal: ['No.'] }
  const content = [
    { type: 'output_text', text: 'Well. ' },
    { type: 'refusal', refusal: 'No.' },
  ]
  const stream = client.responses.stream({ model, input: 'x' })
  const parts: unknown[] = []
  for await (const event of stream) if (event.type === 'response.content_part.done') parts.push([event.content_index, event.part])
  expect(parts).toMatchObject(content.map((part, index) => [index, part]))
  expect((await stream.finalResponse()).output).toMatchObject([{ type: 'message', content }])
  const message = await asAnthropic.messages.stream({ model, max_tokens: 50, messages }).finalMessage()
  expect(message.content).toMatchObject([{ text: 'Well. ' }, { text: 'No.' }])
  openAi.upstream.usual = {}
})

function messageEvents(spoken: string): string[] {
  const said = [`${spoken}.delta`, `${spoken}.done`]
  const events = ['output_item.added', 'content_part.added', ...said, 'content_part.done', 'output_item.done', 'completed']
  return events.map((event) => `response.${event}`)
}

const CALLS = [
  { id: 'call_a', name: 'a', pieces: ['{"x":', '1', '}'] },
  { id: 'call_b', name: 'b', pieces: ['{"y":', '{}', '}'] },
  { id: 'call_c', name: 'c', pieces: ['{}'] },
]
const ARGUMENTS = CALLS.map(({ pieces }) => pieces.join(''))
const functions = CALLS.map(({ name }) => ({ type: 'function' as const, name, parameters: { type: 'object' }, strict: false }))

test.each([
  ['one after another', { toolCalls: CALLS }],
  ['by turns', { toolCalls: CALLS, isInterleaved: true as const }],
])('calls that come %s are told one after another, each whole before it is closed', async (_how, play) => {
  // Paced, so that the reader gets each piece by itself.
  openAi.upstream.usual = { text: [], paceMs: 20, ...play }
  const { model } = openAi
  const told = { deltas: new Map<string, string[]>(), done: [] as string[] }
  const stream = client.responses.stream({ model, input: 'x', tools: functions })
  for await (const event of stream) {
    if (event.type === 'response.function_call_arguments.delta') {
      expect(told.deltas.size - told.done.length).toBeLessThanOrEqual(1)
      told.deltas.set(event.item_id, [...(told.deltas.get(event.item_id) ?? []), event.delta])
      expect(told.deltas.size - told.done.length).toBe(1)
    } else if (event.type === 'response.function_call_arguments.done') told.done.push(event.arguments)
    else if (event.type === 'response.output_item.done') expect(event.item).toMatchObject({ arguments: told.done.at(-1) })
  }
  expect(told.done).toEqual(ARGUMENTS)
  expect([...told.deltas.values()].map((deltas) => deltas.join(''))).toEqual(ARGUMENTS)
  expect(told.deltas.values().next().value?.length).toBeGreaterThan(1)

  const blocks: string[] = []
  let open: number | undefined
  const asked = { model, max_tokens: 50, messages, tools: CALLS.map(({ name }) => ({ name, input_schema: { type: 'object' as const } })) }
  const message = asAnthropic.messages.stream(asked)
  message.on('streamEvent', (event) => {
    if (event.type === 'content_block_start') blocks[(open = event.index)] = ''
    else if (event.type === 'content_block_delta' && event.delta.type === 'input_json_delta') {
      expect(event.index).toBe(open)
      blocks[event.index] += event.delta.partial_json
    } else if (event.type === 'content_block_stop') open = undefined
  })
  const { content } = await message.finalMessage()
  expect(blocks).toEqual(ARGUMENTS)
  expect(content).toMatchObject(CALLS.map(({ id, name, pieces }) => ({ id, name, input: JSON.parse(pieces.join('')) as unknown })))

  const chat = await client.chat.completions
    .stream({ model, messages, tools: functions.map(({ name }) => ({ type: 'function' as const, function: { name } })) })
    .finalChatCompletion()
  expect(chat.choices[0]?.message.tool_calls).toMatchObject(ARGUMENTS.map((written) => ({ function: { arguments: written } })))
  openAi.upstream.usual = {}
})

test('a call of a custom tool comes as it was made, streamed and not, and its result goes back', async () => {
  const { model } = openAi
  openAi.upstream.usual = { text: [], toolCalls: [{ id: 'call_a', name: 'code', pieces: ['print(', '1)'], isCustom: true }] }
  const call = { id: 'call_a', type: 'custom' as const, custom: { name: 'code', input: 'print(1)' } }
  const body = { model, messages, tools: [{ type: 'custom' as const, custom: { name: 'code' } }] }
  const made = await client.chat.completions.create(body)
  expect(made.choices[0]).toMatchObject({ finish_reason: 'tool_calls', message: { content: null, tool_calls: [call] } })
  const deltas: object[] = []
  for await (const { choices } of await client.chat.completions.create({ ...body, stream: true }))
    deltas.push(...(choices[0]?.delta.tool_calls ?? []))
  expect(deltas[0]).toEqual({ index: 0, ...call, custom: { name: 'code', input: '' } })
  expect(
    deltas
      .slice(1)
      .map((delta) => (delta as { custom: { input: string } }).custom.input)
      .join(''),
  ).toBe('print(1)')
  expect(openAi.upstream.calls.at(-1)?.body.tools).toEqual(body.tools)
  openAi.upstream.usual = {}
  const further = [
    ...messages,
    { role: 'assistant' as const, content: null, tool_calls: [call] },
    { role: 'tool' as const, tool_call_id: 'call_a', content: '1' },
  ]
  const answered = await client.chat.completions.create({ ...body, messages: further })
  expect(answered.choices[0]?.message.content).toBe('Hello from upstream.')
  expect(sentTo(openAi)).toMatchObject({ messages: further })
})

test('what a search of the cloud found is told of the text, streamed and not', async () => {
  const { model } = openAi
  const citation = (title: string) => ({
    type: 'url_citation',
    url_citation: { start_index: 0, end_index: 5, title, url: 'https://a.example' },
  })
  const annotations = [citation('one'), citation('two')]
  // Paced, so that the reader gets each by itself.
  openAi.upstream.usual = { annotations, paceMs: 20 }
  const body = { model, messages, web_search_options: {} }
  const plain = await client.chat.completions.create(body)
  expect(plain.choices[0]?.message).toMatchObject({ content: 'Hello from upstream.', annotations })
  const told: unknown[] = []
  for await (const { choices } of await client.chat.completions.create({ ...body, stream: true }))
    told.push(...((choices[0]?.delta as { annotations?: unknown[] } | undefined)?.annotations ?? []))
  expect(told).toEqual(annotations)
  openAi.upstream.usual = {}
  const said = plain.choices[0]?.message as OpenAI.ChatCompletionMessage
  for (const other of [model, 'fake']) await client.chat.completions.create({ model: other, messages: [...messages, said, ...messages] })
})

const schema = { type: 'object', properties: { a: { type: 'string' } }, required: ['a'], additionalProperties: false }
const tools = [{ name: 'f', input_schema: { type: 'object' } }]
const limited = { model: 'fake', max_tokens: 5_000, messages }
const REFUSED: [path: string, body: unknown, param: string][] = [
  ['/v1/messages', { ...limited, thinking: { type: 'enabled', budget_tokens: 2_000 } }, 'thinking.budget_tokens'],
  ['/v1/messages', { ...limited, output_config: { format: { type: 'json_schema', schema } } }, 'output_config.format'],
  [
    '/v1/messages',
    { ...limited, tools, tool_choice: { type: 'auto', disable_parallel_tool_use: true } },
    'tool_choice.disable_parallel_tool_use',
  ],
  ['/v1/responses', { model: 'fake', input: 'x', reasoning: { effort: 'low' } }, 'reasoning.effort'],
  ['/v1/responses', { model: 'fake', input: 'x', text: { format: { type: 'json_schema', name: 'n', schema } } }, 'text.format'],
  [
    '/v1/chat/completions',
    { model: 'fake', messages, response_format: { type: 'json_schema', json_schema: { name: 'n', schema } } },
    'response_format',
  ],
]

test.each(REFUSED)('%s with %j is refused by the name that its own dialect has for it: %s', async (path, body, param) => {
  expect(await refused(world, 'POST', path, body)).toMatchObject({ status: 400, code: 'unsupported_parameter', param })
})
