import Anthropic from '@anthropic-ai/sdk'
import OpenAI from 'openai'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { maxTokensName } from '../coordinator/tiers/upstream.ts'
import { addCloud, type Cloud, ended, enqueue, readJob, readProvider, refused, send } from './support/cloud.ts'
import type { Call } from './support/upstream-play.ts'
import { ADMIN_KEY, World } from './support/world.ts'

/** Both dialects of callers on both dialects of clouds, asked with the vendors' own clients. */

let world: World
let openai: OpenAI
let anthropic: Anthropic
const clouds: Partial<Record<'openai' | 'anthropic', Cloud>> = {}

beforeAll(async () => {
  world = await World.open()
  await world.coordinator()
  openai = new OpenAI({ baseURL: `${world.url}/v1`, apiKey: ADMIN_KEY, maxRetries: 0 })
  anthropic = new Anthropic({ baseURL: world.url, apiKey: ADMIN_KEY, maxRetries: 0 })
  clouds.openai = await addCloud(world, { kind: 'openai' })
  clouds.anthropic = await addCloud(world, { kind: 'anthropic' })
})
afterAll(() => world.close())

function cloudOf(kind: 'openai' | 'anthropic'): Cloud {
  return clouds[kind] as Cloud
}

/** What any caller wants to know of an answer. */
type Said = { text: string; reasoning: string; calls: { id: string; name: string; arguments: string }[]; finish: string; usage: number[] }

type Asked = { model: string; say: string; image?: string; tools?: boolean; result?: { call: Said['calls'][number]; text: string } }
type Caller = { ask(asked: Asked): Promise<Said & { headers: Headers }>; stream(asked: Asked): Promise<Said> }

const PIXEL = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=='
const SCHEMA = { type: 'object' as const, properties: { city: { type: 'string' } }, required: ['city'] }

const callers: Record<'openai' | 'anthropic', Caller> = {
  openai: {
    async ask(asked) {
      const { data, response } = await openai.chat.completions.create(openAiBody(asked)).withResponse()
      const { message, finish_reason: finish } = data.choices[0] as OpenAI.ChatCompletion.Choice
      const calls = (message.tool_calls ?? []).flatMap((call) => (call.type === 'function' ? [{ id: call.id, ...call.function }] : []))
      const reasoning = (message as { reasoning_content?: string }).reasoning_content ?? ''
      return { text: message.content ?? '', reasoning, calls, finish, usage: openAiUsage(data.usage), headers: response.headers }
    },
    async stream(asked) {
      const said: Said = { text: '', reasoning: '', calls: [], finish: '', usage: [] }
      const body = { ...openAiBody(asked), stream: true as const, stream_options: { include_usage: true } }
      for await (const chunk of await openai.chat.completions.create(body)) {
        if (chunk.usage) said.usage = openAiUsage(chunk.usage)
        const choice = chunk.choices[0]
        said.finish = choice?.finish_reason ?? said.finish
        said.text += choice?.delta.content ?? ''
        said.reasoning += (choice?.delta as { reasoning_content?: string } | undefined)?.reasoning_content ?? ''
        for (const { index, id, function: called } of choice?.delta.tool_calls ?? []) {
          said.calls[index] ??= { id: id ?? '', name: called?.name ?? '', arguments: '' }
          said.calls[index].arguments += called?.arguments ?? ''
        }
      }
      return said
    },
  },
  anthropic: {
    async ask(asked) {
      const { data, response } = await anthropic.messages.create(anthropicBody(asked)).withResponse()
      return { ...saidOf(data), headers: response.headers }
    },
    async stream(asked) {
      return saidOf(await anthropic.messages.stream(anthropicBody(asked)).finalMessage())
    },
  },
}

function openAiBody({ model, say, image, tools, result }: Asked): OpenAI.ChatCompletionCreateParamsNonStreaming {
  const content =
    image === undefined
      ? say
      : [
          { type: 'text' as const, text: say },
          { type: 'image_url' as const, image_url: { url: `data:image/png;base64,${image}` } },
        ]
  const messages: OpenAI.ChatCompletionMessageParam[] = [
    { role: 'system', content: 'Be brief.' },
    { role: 'user', content },
  ]
  if (result !== undefined) {
    const { id, name, arguments: written } = result.call
    messages.push({ role: 'assistant', tool_calls: [{ id, type: 'function', function: { name, arguments: written } }] })
    messages.push({ role: 'tool', tool_call_id: id, content: result.text })
  }
  const offered = { tools: [{ type: 'function' as const, function: { name: 'weather', parameters: SCHEMA } }] }
  return { model, messages, max_tokens: 50, ...(tools === true ? offered : {}) }
}

function openAiUsage(usage: OpenAI.CompletionUsage | undefined): number[] {
  return [usage?.prompt_tokens ?? -1, usage?.prompt_tokens_details?.cached_tokens ?? -1, usage?.completion_tokens ?? -1]
}

function anthropicBody({ model, say, image, tools, result }: Asked): Anthropic.MessageCreateParamsNonStreaming {
  const source = { type: 'base64' as const, media_type: 'image/png' as const, data: image ?? '' }
  const content =
    image === undefined
      ? say
      : [
          { type: 'text' as const, text: say },
          { type: 'image' as const, source },
        ]
  const messages: Anthropic.MessageParam[] = [{ role: 'user', content }]
  if (result !== undefined) {
    const { id, name, arguments: written } = result.call
    messages.push({ role: 'assistant', content: [{ type: 'tool_use', id, name, input: JSON.parse(written) }] })
    messages.push({ role: 'user', content: [{ type: 'tool_result', tool_use_id: id, content: result.text }] })
  }
  return {
    model,
    system: 'Be brief.',
    messages,
    max_tokens: 50,
    ...(tools === true ? { tools: [{ name: 'weather', input_schema: SCHEMA }] } : {}),
  }
}

function saidOf({ content, stop_reason: stop, usage }: Anthropic.Message): Said {
  const of = <T extends Anthropic.ContentBlock['type']>(type: T) =>
    content.filter((block): block is Extract<Anthropic.ContentBlock, { type: T }> => block.type === type)
  const cached = usage.cache_read_input_tokens ?? 0
  return {
    text: of('text')
      .map(({ text }) => text)
      .join(''),
    reasoning: of('thinking')
      .map(({ thinking }) => thinking)
      .join(''),
    calls: of('tool_use').map(({ id, name, input }) => ({ id, name, arguments: JSON.stringify(input) })),
    finish: { end_turn: 'stop', tool_use: 'tool_calls', max_tokens: 'length' }[stop as string] ?? String(stop),
    usage: [usage.input_tokens + cached, cached, usage.output_tokens],
  }
}

for (const caller of ['openai', 'anthropic'] as const)
  for (const kind of ['openai', 'anthropic'] as const)
    describe(`a caller of ${caller}'s dialect on a cloud of ${kind}'s`, () => {
      test('text, reasoning, usage and price arrive, streamed and not', async () => {
        const { model, name, upstream } = cloudOf(kind)
        const play = { reasoning: ['Let me', ' think.'], text: ['One', ' two', ' three.'] }
        upstream.plan(play, play)
        const { headers, ...said } = await callers[caller].ask({ model, say: 'count' })
        expect(said).toEqual({ text: 'One two three.', reasoning: 'Let me think.', calls: [], finish: 'stop', usage: [11, 4, 5] })
        expect(await callers[caller].stream({ model, say: 'count' })).toEqual(said)
        expect([headers.get('x-holdfast-provider'), headers.get('x-holdfast-tier')]).toEqual([name, 'cloud'])
        expect(headers.has('x-holdfast-worker')).toBe(false)
        const job = await readJob(world, headers.get('x-holdfast-job') ?? '')
        expect(job).toMatchObject({ provider: name, worker: null, tier: 'cloud', model, cost_micros: 11 + 5 * 4 })
        const asked = upstream.generations.at(-1)?.body
        expect(asked).toMatchObject({ model: 'large', stream: true })
        expect(JSON.stringify(asked)).toContain('Be brief.')
      })

      test('a tool is called in a stream, and its result brings the answer', async () => {
        const { model, upstream } = cloudOf(kind)
        upstream.plan(
          { text: [], toolCalls: [{ id: 'call_7', name: 'weather', pieces: ['{"city":', '"Oslo"}'] }] },
          { text: ['It rains.'] },
        )
        const first = await callers[caller].stream({ model, say: 'Oslo?', tools: true })
        expect(first).toMatchObject({
          text: '',
          finish: 'tool_calls',
          calls: [{ id: 'call_7', name: 'weather', arguments: '{"city":"Oslo"}' }],
        })
        const result = { call: first.calls[0] as Said['calls'][number], text: 'rain, 4 degrees' }
        expect(await callers[caller].stream({ model, say: 'Oslo?', tools: true, result })).toMatchObject({
          text: 'It rains.',
          finish: 'stop',
        })
        const { messages, tools } = (upstream.generations.at(-1) as Call).body as { messages: unknown[]; tools: unknown[] }
        expect(JSON.stringify(tools)).toContain('"city"')
        const told =
          kind === 'openai'
            ? { role: 'tool', tool_call_id: 'call_7', content: 'rain, 4 degrees' }
            : { role: 'user', content: [{ type: 'tool_result', tool_use_id: 'call_7' }] }
        expect(messages.at(-1)).toMatchObject(told)
        expect(JSON.stringify(messages.at(-1))).toContain('rain, 4 degrees')
      })

      test('an image arrives as it was sent', async () => {
        const { model, upstream } = cloudOf(kind)
        expect((await callers[caller].ask({ model, say: 'what is it?', image: PIXEL })).text).toBe('Hello from upstream.')
        const { messages } = (upstream.generations.at(-1) as Call).body as { messages: { role: string; content: unknown }[] }
        const content = messages.find(({ role }) => role === 'user')?.content
        const image =
          kind === 'openai'
            ? { type: 'image_url', image_url: { url: `data:image/png;base64,${PIXEL}` } }
            : { type: 'image', source: { type: 'base64', media_type: 'image/png', data: PIXEL } }
        expect(content).toMatchObject([{ type: 'text', text: 'what is it?' }, image])
      })

      test('an answer that its limit cut says so', async () => {
        const { model, upstream } = cloudOf(kind)
        upstream.plan({ text: Array.from({ length: 80 }, (_, place) => ` ${place}`) })
        expect((await callers[caller].ask({ model, say: 'count on' })).finish).toBe('length')
      })
    })

test('what only one dialect has is passed on to a cloud of that dialect as it came, and refused by name elsewhere', async () => {
  const own = {
    max_tokens: 5,
    system: [{ type: 'text', text: 'Long.', cache_control: { type: 'ephemeral' } }],
    messages: [{ role: 'user', content: 'hi' }],
    context_management: { edits: [{ type: 'clear_thinking_20251015' }] },
  }
  const headers = { 'anthropic-version': '2023-06-01', 'anthropic-beta': 'context-management-2025-06-27' }
  await send(world, 'POST', '/v1/messages', { model: cloudOf('anthropic').model, ...own }, headers)
  const call = cloudOf('anthropic').upstream.generations.at(-1)
  expect(call?.body).toMatchObject({ ...own, model: 'large' })
  expect(call?.headers['anthropic-beta']).toBe('context-management-2025-06-27')
  expect(await refused(world, 'POST', '/v1/messages', { model: cloudOf('openai').model, ...own }, headers)).toMatchObject({
    status: 400,
    code: 'unsupported_parameter',
    param: 'context_management',
  })

  const messages = [{ role: 'user' as const, content: 'hi' }]
  const predicted = { messages, prediction: { type: 'content' as const, content: 'hi' } }
  await openai.chat.completions.create({ model: cloudOf('openai').model, ...predicted })
  expect(cloudOf('openai').upstream.generations.at(-1)?.body).toMatchObject({ ...predicted, model: 'large' })
  expect(await refused(world, 'POST', '/v1/chat/completions', { model: cloudOf('anthropic').model, ...predicted })).toMatchObject({
    status: 400,
    code: 'unsupported_parameter',
    param: 'prediction',
  })
})

test('a limit on the answer goes by the name that the server knows', async () => {
  expect(['https://api.openai.com/v1', 'https://eu.api.openai.com/v1'].map(maxTokensName)).toEqual(Array(2).fill('max_completion_tokens'))
  expect(['https://openrouter.ai/api/v1', 'https://notapi.openai.com.example/v1'].map(maxTokensName)).toEqual(Array(2).fill('max_tokens'))
  const cloud = await addCloud(world)
  await ended(world, await enqueue(world, cloud.model, {}, { max_tokens: 7 }))
  expect(cloud.upstream.generations[0]?.body).toMatchObject({ max_tokens: 7 })
  expect(cloud.upstream.generations[0]?.body).not.toHaveProperty('max_completion_tokens')
})

test('what Anthropic would refuse is refused where nobody else could take it, and goes where somebody can', async () => {
  const cloud = await addCloud(world, { kind: 'anthropic' })
  const body = { model: cloud.model, messages: [{ role: 'user', content: 'hello' }] }
  const told = { status: 400, code: 'unsupported_parameter' }
  const hot = await refused(world, 'POST', '/api/jobs', { ...body, temperature: 1.5 })
  expect(hot).toMatchObject({ ...told, param: 'temperature', message: expect.stringContaining('temperature above 1 ') as string })
  for (const caps of [{ reasoning_max_tokens: 500 }, { reasoning_max_tokens: 5_000, max_tokens: 1_000 }])
    expect(await refused(world, 'POST', '/api/jobs', { ...body, ...caps })).toMatchObject({ ...told, param: 'reasoning_max_tokens' })
  await ended(world, await enqueue(world, cloud.model, {}, { reasoning_max_tokens: 5_000, max_tokens: 3_000, temperature: 1 }))
  expect(cloud.upstream.generations[0]?.body).toMatchObject({ max_tokens: 3_000, thinking: { budget_tokens: 2_999 } })
  const other = await addCloud(world, { model: cloud.model })
  expect(await ended(world, await enqueue(world, cloud.model, {}, { temperature: 1.5 }))).toMatchObject({ provider: other.name })
})

test('embeddings come from a cloud, and a cloud of a dialect without them refuses', async () => {
  const { data, usage } = await openai.embeddings.create({ model: cloudOf('openai').model, input: ['four', 'seventh'] })
  // Of length 1, as the API promises.
  expect(data.map(({ embedding }) => embedding.map((value) => value.toFixed(3)))).toEqual([
    ['1.000', '0.000'],
    ['0.990', '0.141'],
  ])
  expect(usage.prompt_tokens).toBe(7)
  const cut = { model: cloudOf('openai').model, input: 'x', dimensions: 999 }
  expect(await refused(world, 'POST', '/v1/embeddings', cut)).toMatchObject({
    status: 400,
    code: 'unsupported_dimensions',
    param: 'dimensions',
  })
  const body = { model: cloudOf('anthropic').model, input: 'x' }
  expect(await refused(world, 'POST', '/v1/embeddings', body)).toMatchObject({ status: 400, code: 'unsupported_parameter' })
})

test('a cloud whose models are not named offers all that it lists, and goes on offering them while its credential changes', async () => {
  const cloud = await addCloud(world, { models: undefined })
  const names = async (): Promise<string[]> => (await readProvider(world, cloud.name)).models.map(({ name }) => name)
  await world.until('its models are listed', async () => (await names()).join() === 'small,large')
  expect(
    (await openai.chat.completions.create({ model: 'small', messages: [{ role: 'user', content: 'hi' }] })).choices[0]?.message.content,
  ).toBe('Hello from upstream.')
  expect(cloud.upstream.generations[0]?.body.model).toBe('small')
  // The next listing is not answered.
  cloud.upstream.key = 'another'
  await send(world, 'PATCH', `/api/providers/${cloud.id}`, { max_parallel: 3 })
  expect((await openai.models.list()).data.map(({ id }) => id)).toEqual(expect.arrayContaining(['small', 'large']))
})
