import { EventEmitter } from 'node:events'
import type { ServerResponse } from 'node:http'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { anthropicError, messageBody } from '../coordinator/api/anthropic-answer.ts'
import { parseMessagesRequest } from '../coordinator/api/anthropic-request.ts'
import { AnthropicStream } from '../coordinator/api/anthropic-stream.ts'
import { Fault } from '../coordinator/core/fault.ts'
import type { JobRecord } from '../coordinator/core/job.ts'
import type { Dispatcher } from '../coordinator/engine/dispatcher.ts'
import { LiveJob } from '../coordinator/engine/live-job.ts'
import { AnthropicReader } from '../proto/anthropic-wire-answer.ts'
import { anthropicBody } from '../proto/anthropic-wire-request.ts'
import { Answer, type AnswerDelta, type FinishReason } from '../proto/answer.ts'
import type { ChatMessage, ContentPart, GenerationRequest, Reasoning, Tool, ToolCall } from '../proto/request.ts'
import { SseReader } from '../proto/sse.ts'

describe('a request', () => {
  test('that goes to an Anthropic upstream is read there as it is meant', () => {
    fc.assert(
      fc.property(requests(), fc.boolean(), (request, stream) => {
        const body = JSON.parse(JSON.stringify(anthropicBody({ ...request, seed: 1 }, 'm', stream))) as unknown
        const parsed = parseMessagesRequest(body)
        expect(parsed).toMatchObject({ model: 'm', stream })
        expect(parsed.onlyDialect).toBeUndefined()
        expect(withoutVerbatim(parsed.generation)).toEqual(request)
      }),
      { numRuns: 500 },
    )
  })

  const base = { model: 'm', max_tokens: 9_000, messages: [{ role: 'user', content: 'hi' }] }
  const said = (content: unknown, role = 'user') => ({
    ...base,
    messages: [{ role: 'user', content: 'hi' }, { role, content }, ...(role === 'user' ? [] : base.messages)],
  })
  const marked = { type: 'text', text: 'x', cache_control: { type: 'ephemeral' } }

  test.each<[string, object]>([
    ['a cache mark on a block', said([marked])],
    ['a cache mark on the system prompt', { ...base, system: [marked] }],
    ['who the user is', { ...base, metadata: { user_id: 'u' } }],
    ['a service tier', { ...base, service_tier: 'auto' }],
    ['thinking that is left to the model', { ...base, thinking: { type: 'adaptive' } }],
    ['thinking that is not to be shown', { ...base, thinking: { type: 'enabled', budget_tokens: 2_000, display: 'omitted' } }],
    ['a system message in the middle', said('be kind', 'system')],
    [
      'thinking behind text',
      said(
        [
          { type: 'text', text: 'a' },
          { type: 'thinking', thinking: 'b', signature: 'c' },
        ],
        'assistant',
      ),
    ],
    ['streamed input of a tool', { ...base, tools: [{ name: 'f', input_schema: { type: 'object' }, eager_input_streaming: true }] }],
  ])('with %s keeps its body and may go anywhere', (_what, body) => {
    const parsed = parseMessagesRequest(body)
    expect(parsed.generation.verbatim).toEqual({ dialect: 'anthropic', body })
    expect(parsed.onlyDialect).toBeUndefined()
  })

  test.each<[string, object, string]>([
    ['a tool of the provider', { ...base, tools: [{ type: 'web_search_20260318', name: 'web_search' }] }, 'tools[0]'],
    ['a document', said([{ type: 'document', source: { type: 'url', url: 'https://x/y.pdf' } }]), 'messages[1].content[0]'],
    ['a stored file', said([{ type: 'image', source: { type: 'file', file_id: 'f' } }]), 'messages[1].content[0].source'],
    [
      'citations',
      said([{ type: 'text', text: 'x', citations: [{ type: 'char_location' }] }], 'assistant'),
      'messages[1].content[0].citations',
    ],
    [
      'redacted thinking',
      said(
        [
          { type: 'redacted_thinking', data: 'ZW5j' },
          { type: 'text', text: 'x' },
        ],
        'assistant',
      ),
      'messages[1].content[0]',
    ],
    ['a container', { ...base, container: 'c' }, 'container'],
    ['an MCP server', { ...base, mcp_servers: [{ type: 'url', url: 'https://x', name: 'x' }] }, 'mcp_servers'],
    [
      'the beginning of the answer',
      { ...base, messages: [...base.messages, { role: 'assistant', content: 'The best is (' }] },
      'messages[1].role',
    ],
  ])('with %s goes to the dialect only, and says why', (_what, body, param) => {
    const parsed = parseMessagesRequest(body)
    expect(parsed).toMatchObject({
      onlyDialect: 'anthropic',
      onlyDialectFor: param,
      generation: { verbatim: { dialect: 'anthropic', body } },
    })
  })

  test('with results of tools keeps their images and which of them failed', () => {
    const image = { type: 'image', source: { type: 'base64', media_type: 'image/png', data: 'AAAA' } }
    const { generation } = parseMessagesRequest({
      ...base,
      messages: [
        ...base.messages,
        {
          role: 'assistant',
          content: [
            { type: 'tool_use', id: 'a', name: 'f', input: { x: 1 } },
            { type: 'tool_use', id: 'b', name: 'f', input: {} },
          ],
        },
        {
          role: 'user',
          content: [
            { type: 'tool_result', tool_use_id: 'b', content: [{ type: 'text', text: 'seen' }, image] },
            { type: 'tool_result', tool_use_id: 'a', is_error: true },
            { type: 'text', text: 'so?' },
          ],
        },
      ],
    })
    expect(generation.prompt).toEqual({
      kind: 'chat',
      messages: [
        { role: 'user', content: 'hi' },
        {
          role: 'assistant',
          content: '',
          toolCalls: [
            { id: 'a', name: 'f', arguments: '{"x":1}' },
            { id: 'b', name: 'f', arguments: '{}' },
          ],
        },
        {
          role: 'tool',
          toolCallId: 'b',
          content: [
            { kind: 'text', text: 'seen' },
            { kind: 'image', url: 'data:image/png;base64,AAAA' },
          ],
        },
        { role: 'tool', toolCallId: 'a', content: '', isError: true },
        { role: 'user', content: 'so?' },
      ],
    })
    expect(generation.verbatim).toBeUndefined()
  })

  test('of any shape is read or refused, and never a throw of anything else', () => {
    const member = fc.constantFrom(
      'model',
      'messages',
      'role',
      'content',
      'type',
      'text',
      'source',
      'tools',
      'name',
      'input_schema',
      'tool_choice',
      'thinking',
      'system',
      'max_tokens',
      'id',
      'input',
      'tool_use_id',
      'output_config',
      'metadata',
    )
    const word = fc.constantFrom(
      'user',
      'assistant',
      'system',
      'text',
      'image',
      'tool_use',
      'tool_result',
      'thinking',
      'redacted_thinking',
      'document',
      'enabled',
      'auto',
      'tool',
      'custom',
      'm',
    )
    const { value } = fc.letrec((tie) => ({
      value: fc.oneof(
        { maxDepth: 5 },
        fc.constant(null),
        fc.integer({ min: -1, max: 5_000 }),
        word,
        fc.array(tie('value'), { maxLength: 3 }),
        fc.dictionary(member, tie('value'), { maxKeys: 5 }),
      ),
    }))
    fc.assert(
      fc.property(value, fc.boolean(), (extra, isWhole) => {
        const body = isWhole ? extra : { ...base, ...(typeof extra === 'object' && !Array.isArray(extra) ? extra : { messages: extra }) }
        try {
          parseMessagesRequest(body)
        } catch (error) {
          expect(error).toBeInstanceOf(Fault)
          expect((error as Fault).status).toBe(400)
        }
      }),
      { numRuns: 2_000 },
    )
  })
})

describe('an answer', () => {
  test('is the same after it was told event by event and read again', () => {
    fc.assert(
      fc.property(growths(), ends(), ({ growth, isTold }, end) => {
        const { answer, events } = streamed(growth, end, isTold)
        const reader = new AnthropicReader()
        const read = new Answer()
        for (const { data } of events) {
          const piece = reader.readData(data)
          expect(piece?.kind).not.toBe('failure')
          if (piece?.kind === 'piece') read.append(piece.text, piece.delta)
        }
        expect(meant(read)).toEqual(meant(answer))
        expect(reader.end).toMatchObject({
          finishReason: end.finishReason,
          usage: { promptTokens: 9, completionTokens: 5, cachedTokens: 4, reasoningTokens: 2 },
        })
        expect(reader.end?.stopSequence ?? null).toBe(end.stopSequence)
      }),
    )
  })

  test('is the same after it was told as one message and read again', () => {
    fc.assert(
      fc.property(growths(), ends(), ({ growth }, end) => {
        const live = liveJob(end)
        for (const [text, delta] of growth) live.append([], text, delta === undefined ? [] : [delta])
        const reader = new AnthropicReader()
        const read = new Answer()
        const piece = reader.read(JSON.parse(JSON.stringify(messageBody(live))))
        if (piece?.kind === 'piece') read.append(piece.text, piece.delta)
        expect(meant(read)).toEqual(meant(live.answer))
        expect(reader.end).toMatchObject({ finishReason: end.finishReason })
      }),
    )
  })

  test('has its blocks one after another, each begun once and ended before the next', () => {
    fc.assert(
      fc.property(growths(), ends(), ({ growth, isTold }, end) => {
        const { events } = streamed(growth, end, isTold)
        const types = events.map(({ data }) => JSON.parse(data) as { type: string; index?: number })
        expect(types.map(({ type }) => type).filter((type) => !type.startsWith('content_block'))).toEqual([
          'message_start',
          'ping',
          'message_delta',
          'message_stop',
        ])
        let open = -1
        let next = 0
        for (const { type, index } of types) {
          if (type === 'content_block_start') {
            expect([open, index]).toEqual([-1, next])
            open = next++
          } else if (type === 'content_block_delta') expect(index).toBe(open)
          else if (type === 'content_block_stop') {
            expect(index).toBe(open)
            open = -1
          }
        }
        expect(open).toBe(-1)
      }),
    )
  })

  test('with tool calls is told piece by piece', () => {
    const growth: Growth = [
      ['Looking.', undefined],
      ['', { toolCalls: [{ index: 0, id: 'toolu_1', name: 'weather' }] }],
      ['', { toolCalls: [{ index: 0, arguments: '{"city":' }] }],
      ['', { toolCalls: [{ index: 0, arguments: '"Ulm"}' }] }],
    ]
    const { events } = streamed(
      growth,
      { finishReason: 'tool_calls', stopSequence: null },
      growth.map(() => true),
    )
    expect(events.slice(2).map(({ data }) => JSON.parse(data) as unknown)).toEqual([
      { type: 'content_block_start', index: 0, content_block: { type: 'text', text: '', citations: null } },
      { type: 'content_block_delta', index: 0, delta: { type: 'text_delta', text: 'Looking.' } },
      { type: 'content_block_stop', index: 0 },
      {
        type: 'content_block_start',
        index: 1,
        content_block: { type: 'tool_use', id: 'toolu_1', name: 'weather', input: {}, caller: { type: 'direct' } },
      },
      { type: 'content_block_delta', index: 1, delta: { type: 'input_json_delta', partial_json: '{"city":' } },
      { type: 'content_block_delta', index: 1, delta: { type: 'input_json_delta', partial_json: '"Ulm"}' } },
      { type: 'content_block_stop', index: 1 },
      {
        type: 'message_delta',
        delta: { stop_reason: 'tool_use', stop_sequence: null, container: null },
        usage: expect.objectContaining({ input_tokens: 5, cache_read_input_tokens: 4, output_tokens: 5 }) as unknown,
      },
      { type: 'message_stop' },
    ])
  })
})

test.each([
  [400, 'invalid_request_error'],
  [401, 'authentication_error'],
  [403, 'permission_error'],
  [404, 'not_found_error'],
  [409, 'invalid_request_error'],
  [413, 'request_too_large'],
  [429, 'rate_limit_error'],
  [500, 'api_error'],
  [502, 'api_error'],
  [503, 'overloaded_error'],
])('an error of status %d is of the type %s', (status, type) => {
  const fault = new Fault('some_code', 'Why.', { status, job: 'j' })
  expect(anthropicError(fault, 'req')).toMatchObject({
    type: 'error',
    error: { type, code: 'some_code', message: 'Why.', job: 'j' },
    request_id: 'req',
  })
})

type Growth = [text: string, delta: AnswerDelta | undefined][]
type End = { finishReason: FinishReason; stopSequence: string | null }

/** The stream of a job whose answer grows so; where it is not told at once, the follower hears of several growths together. */
function streamed(growth: Growth, end: End, isTold: boolean[]): { answer: Answer; events: { event: string; data: string }[] } {
  const live = liveJob({ finishReason: 'stop', stopSequence: null })
  live.record.status = 'running'
  const written: string[] = []
  const response = Object.assign(new EventEmitter(), {
    writeHead: () => {},
    write: (text: string) => written.push(text) > 0,
    end: (text: string) => written.push(text),
  }) as unknown as ServerResponse
  const stream = new AnthropicStream({ announceWaiting: () => {} } as unknown as Dispatcher, live, response, {
    headers: {},
    requestId: 'r',
  })
  stream.open()
  for (const [index, [text, delta]] of growth.entries()) {
    if (isTold[index] === false) live.answer.append(text, delta)
    else live.append([], text, delta === undefined ? [] : [delta])
  }
  Object.assign(live.record, { status: 'succeeded', finishReason: end.finishReason })
  live.stopSequence = end.stopSequence
  live.ended()
  const found = new SseReader().push(Buffer.from(written.join('')))
  return { answer: live.answer, events: found.flatMap((event) => (event.kind === 'event' ? [event] : [])) }
}

function liveJob({ finishReason, stopSequence }: End): LiveJob {
  const counts = { promptTokens: 9, completionTokens: 5, cachedTokens: 4 }
  const live = new LiveJob({ id: 'j', model: 'm', status: 'succeeded', finishReason, ...counts } as JobRecord, null)
  live.stopSequence = stopSequence
  live.reasoningTokens = 2
  return live
}

/** Arguments are compared as what they say, because one message holds them as an object. */
function meant(answer: Answer): unknown {
  const { tool_calls: calls = [], ...rest } = answer.toJSON()
  return { ...rest, calls: calls.map((call) => ({ ...call, arguments: JSON.parse(call.arguments) as unknown })) }
}

/** Thinking, then text, then calls, each in pieces, as a provider sends them. */
function growths(): fc.Arbitrary<{ growth: Growth; isTold: boolean[] }> {
  const signed = fc.tuple(
    fc.array(fc.string({ minLength: 1, maxLength: 5 }), { maxLength: 3 }),
    fc.base64String({ minLength: 4, maxLength: 8 }),
  )
  const unsigned = fc.tuple(fc.array(fc.string({ minLength: 1, maxLength: 5 }), { minLength: 1, maxLength: 3 }), fc.constant(''))
  const thoughts = fc.oneof(fc.array(signed, { maxLength: 3 }), fc.tuple(unsigned))
  const texts = fc.array(fc.string({ unit: 'grapheme', minLength: 1, maxLength: 6 }), { maxLength: 4 })
  const calls = fc.array(fc.tuple(fc.dictionary(fc.string({ maxLength: 4 }), fc.string({ maxLength: 4 }), { maxKeys: 2 }), fc.nat(6)), {
    maxLength: 3,
  })
  return fc
    .record({ thoughts, texts, calls, told: fc.array(fc.boolean(), { minLength: 30, maxLength: 30 }) })
    .map(({ thoughts, texts, calls, told }) => {
      const growth: Growth = []
      let offset = 0
      for (const [index, [pieces, signature]] of thoughts.entries()) {
        if (index > 0) growth.push(['', { reasoningSignature: ` @${offset}:` }])
        for (const reasoning of pieces) growth.push(['', { reasoning }])
        if (signature !== '') growth.push(['', { reasoningSignature: signature }])
        offset += pieces.join('').length
      }
      for (const text of texts) growth.push([text, undefined])
      for (const [index, [input, cut]] of calls.entries()) {
        const json = JSON.stringify(input)
        growth.push(['', { toolCalls: [{ index, id: `toolu_${index}`, name: 'f' }] }])
        for (const piece of [json.slice(0, cut), json.slice(cut)]) growth.push(['', { toolCalls: [{ index, arguments: piece }] }])
      }
      return { growth, isTold: growth.map((_, index) => told[index] ?? true) }
    })
}

function ends(): fc.Arbitrary<End> {
  return fc.constantFrom<End>(
    { finishReason: 'stop', stopSequence: null },
    { finishReason: 'stop', stopSequence: 'END' },
    { finishReason: 'length', stopSequence: null },
    { finishReason: 'tool_calls', stopSequence: null },
    { finishReason: 'content_filter', stopSequence: null },
  )
}

/** All that both can say, in the form in which the door writes it. */
function requests(): fc.Arbitrary<Omit<GenerationRequest, 'seed'>> {
  const text = fc.string({ unit: 'grapheme', minLength: 1, maxLength: 12 })
  const tools = fc.uniqueArray(
    fc.record(
      {
        name: fc.stringMatching(/^[a-z_]{1,8}$/),
        description: text,
        parameters: fc.constant({ type: 'object', properties: {} }),
        strict: fc.constant(true as const),
      },
      { requiredKeys: ['name', 'parameters'] },
    ),
    { minLength: 1, maxLength: 3, selector: (tool) => tool.name },
  )
  const optional = <T>(value: fc.Arbitrary<T>) => fc.option(value, { nil: undefined })
  return fc
    .record({
      system: optional(text),
      turns: fc.array(turnPair(text), { maxLength: 3 }),
      last: content(text),
      maxTokens: fc.integer({ min: 3_000, max: 9_000 }),
      stop: fc.uniqueArray(fc.string({ minLength: 1, maxLength: 5 }), { maxLength: 3 }),
      temperature: optional(fc.constantFrom(0, 0.5, 1)),
      topP: optional(fc.constantFrom(0.1, 1)),
      topK: optional(fc.nat(100)),
      tools: optional(tools),
      choice: fc.constantFrom('auto', 'none', 'required', 'first'),
      single: fc.boolean(),
      isShaped: fc.boolean(),
      reasoning: optional(
        fc.oneof(
          fc.record({ effort: fc.constantFrom('low', 'medium', 'high', 'xhigh') }),
          fc.record({ maxTokens: fc.constantFrom(0, 1_024, 2_000) }),
          fc.constant<Reasoning>({ effort: 'low', maxTokens: 1_024 }),
        ) as fc.Arbitrary<Reasoning>,
      ),
    })
    .map(({ system, turns, last, maxTokens, stop, temperature, topP, topK, tools, choice, single, isShaped, reasoning }) => {
      const messages: ChatMessage[] = system === undefined ? [] : [{ role: 'system', content: system }]
      messages.push(...turns.flat(), { role: 'user', content: last })
      return {
        prompt: { kind: 'chat', messages: messages },
        maxTokens,
        stop,
        sampling: {
          ...(temperature === undefined ? {} : { temperature }),
          ...(topP === undefined ? {} : { topP }),
          ...(topK === undefined ? {} : { topK }),
        },
        ...(tools === undefined ? {} : calling(tools, choice, single)),
        ...(isShaped ? { format: { kind: 'schema' as const, name: 'answer', schema: { type: 'object' }, strict: true } } : {}),
        ...(reasoning === undefined ? {} : { reasoning }),
      }
    })
}

function calling(tools: Tool[], choice: string, single: boolean): Partial<GenerationRequest> {
  const name = tools[0]?.name ?? ''
  return {
    tools,
    ...(choice === 'auto' ? {} : { toolChoice: choice === 'first' ? { name } : (choice as 'none' | 'required') }),
    ...(single && choice !== 'none' ? { parallelToolCalls: false } : {}),
  }
}

function content(text: fc.Arbitrary<string>): fc.Arbitrary<string | ContentPart[]> {
  const image = fc.constantFrom<ContentPart>(
    { kind: 'image', url: 'https://example.com/a.png' },
    { kind: 'image', url: 'data:image/png;base64,AAAA' },
  )
  const part = fc.oneof(
    image,
    text.map((text): ContentPart => ({ kind: 'text', text })),
  )
  return fc.oneof(
    text,
    fc.array(part, { minLength: 2, maxLength: 3 }),
    image.map((part) => [part]),
  )
}

/** What the user says, what the model says to it, and the results of what it called. */
function turnPair(text: fc.Arbitrary<string>): fc.Arbitrary<ChatMessage[]> {
  const results = fc.array(fc.record({ content: content(text), isError: fc.option(fc.boolean(), { nil: undefined }) }), { maxLength: 2 })
  const thought = fc.option(fc.record({ reasoning: text, signature: fc.base64String({ minLength: 4, maxLength: 8 }) }), { nil: undefined })
  return fc.record({ user: content(text), said: text, thought, results }).map(({ user, said, thought, results }) => {
    const toolCalls = results.map((_, index): ToolCall => ({ id: `call_${index}`, name: 'f', arguments: '{"a":1}' }))
    return [
      { role: 'user', content: user },
      {
        role: 'assistant',
        content: said,
        ...(thought === undefined ? {} : { reasoning: thought.reasoning, reasoningSignature: thought.signature }),
        ...(toolCalls.length === 0 ? {} : { toolCalls }),
      },
      ...results.map(
        ({ content, isError }, index): ChatMessage => ({
          role: 'tool',
          toolCallId: `call_${index}`,
          content,
          ...(isError === undefined ? {} : { isError }),
        }),
      ),
    ]
  })
}

function withoutVerbatim({ verbatim: _verbatim, ...generation }: Omit<GenerationRequest, 'seed'>): Omit<GenerationRequest, 'seed'> {
  return generation
}
