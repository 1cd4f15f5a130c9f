import { EventEmitter } from 'node:events'
import type { ServerResponse } from 'node:http'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { anthropicError, messageBody } from '../coordinator/api/anthropic-answer.ts'
import { parseCountRequest, parseMessagesRequest } from '../coordinator/api/anthropic-request.ts'
import { promptTokens } from '../coordinator/tiers/price.ts'
import { AnthropicStream } from '../coordinator/api/anthropic-stream.ts'
import { Fault } from '../coordinator/core/fault.ts'
import type { JobRecord } from '../coordinator/core/job.ts'
import type { Dispatcher } from '../coordinator/engine/dispatcher.ts'
import { LiveJob } from '../coordinator/engine/live-job.ts'
import { AnthropicReader } from '../proto/anthropic-wire-answer.ts'
import { anthropicBody } from '../proto/anthropic-wire-request.ts'
import { Answer, type FinishReason } from '../proto/answer.ts'
import type { GenerationRequest } from '../proto/request.ts'
import { SseReader } from '../proto/sse.ts'
import { type End, ends, type Growth, growths, requests } from './support/anthropic-arbitraries.ts'

describe('a request', () => {
  test('that goes to an Anthropic upstream is read there as it is meant', () => {
    fc.assert(
      fc.property(requests(), fc.boolean(), (request, stream) => {
        const body = JSON.parse(JSON.stringify(anthropicBody({ ...request, seed: 1 }, 'claude-m', stream))) as Record<string, unknown>
        const parsed = parseMessagesRequest(body)
        expect(parsed).toMatchObject({ model: 'claude-m', stream })
        expect(parsed.onlyDialect).toBeUndefined()
        // A turn that called tools without a thought cannot be gone on with by budget.
        expect(withoutVerbatim(parsed.generation)).toEqual(body.thinking === undefined ? withoutBudget(request) : request)
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

  test('that opens betas takes their names along', () => {
    const parsed = parseMessagesRequest(base, { 'anthropic-beta': 'files-api-2025-04-14, mcp-client-2025-11-20' })
    expect(parsed.generation.verbatim).toEqual({
      dialect: 'anthropic',
      body: base,
      betas: ['files-api-2025-04-14', 'mcp-client-2025-11-20'],
    })
    expect(parsed.onlyDialect).toBeUndefined()
    expect(() => parseMessagesRequest(base, { 'anthropic-beta': 'a b' })).toThrow(/anthropic-beta/)
  })

  test('that names its user profile takes it along, and no workspace', () => {
    const parsed = parseMessagesRequest(base, { 'anthropic-user-profile-id': 'prof_1' })
    expect(parsed.generation.verbatim).toEqual({ dialect: 'anthropic', body: base, userProfile: 'prof_1' })
    expect(parsed.onlyDialect).toBeUndefined()
    expect(() => parseMessagesRequest(base, { 'anthropic-workspace-id': 'w' })).toThrow(/anthropic-workspace-id/)
  })

  test('with what only the dialect knows says about how long that is', () => {
    const read = (content: unknown[]): number =>
      parseCountRequest({ model: 'm', messages: [{ role: 'user', content: [...content, { type: 'text', text: 'hi' }] }] }).beyond
    expect(read([])).toBe(0)
    const text = { type: 'document', source: { type: 'text', media_type: 'text/plain', data: 'x'.repeat(400_000) } }
    expect(read([text])).toBeGreaterThan(100_000)
    const pdf = { type: 'document', source: { type: 'base64', media_type: 'application/pdf', data: 'x'.repeat(133_000) } }
    expect(read([pdf])).toBeGreaterThan(1_900)
    expect(read([pdf])).toBeLessThan(2_200)
    expect(read([{ type: 'document', source: { type: 'url', url: 'https://example.com/a.pdf' } }])).toBeGreaterThan(1_600)
    const tools = [{ type: 'bash_20250124', name: 'bash' }]
    expect(parseCountRequest({ model: 'm', messages: [{ role: 'user', content: 'hi' }], tools }).beyond).toBeGreaterThan(5)
    const big = parseMessagesRequest({ ...base, messages: [{ role: 'user', content: [text] }] }).generation
    expect(promptTokens({ ...big, seed: 1 })).toBeGreaterThan(100_000)
  })

  test.each(['fallback', 'mcp_tool_listing', 'advisor_tool_result', 'compaction'])(
    'with a block %s of an answer of its dialect is taken',
    (type) => {
      const messages = [
        { role: 'user', content: 'a' },
        { role: 'assistant', content: [{ type }] },
        { role: 'user', content: 'b' },
      ]
      expect(parseMessagesRequest({ ...base, messages })).toMatchObject({ onlyDialect: 'anthropic' })
    },
  )

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

  test.each([undefined, 'pause_turn', 'compaction', 'model_context_window_exceeded'])(
    'tells what was said of the whole message (%s), streamed and not',
    (stopReason) => {
      const message = { container: { id: 'c1', expires_at: 'soon' }, context_management: { applied_edits: [] } }
      const said = { ...(stopReason === undefined ? {} : { stopReason }), message, usage: { server_tool_use: { web_search_requests: 1 } } }
      const growth: Growth = [
        ['hi', undefined],
        ['', { asides: [{ at: 2, kind: 'end', ...said }] }],
      ]
      const finishReason = stopReason === 'model_context_window_exceeded' ? 'length' : 'stop'
      const { answer, events } = streamed(growth, { finishReason, stopSequence: null }, [true, true])
      const live = liveJob({ finishReason, stopSequence: null })
      for (const [text, delta] of growth) live.append([], text, delta === undefined ? [] : [delta])
      const whole = messageBody(live)
      expect(whole).toMatchObject({ ...message, stop_reason: stopReason ?? 'end_turn', usage: said.usage })
      const reader = new AnthropicReader()
      const read = new Answer()
      for (const { data } of events) {
        const piece = reader.readData(data)
        if (piece?.kind === 'piece') read.append(piece.text, piece.delta)
      }
      expect(meant(read)).toEqual(meant(answer))
      const last = events.map(({ data }) => JSON.parse(data) as Record<string, unknown>).find(({ type }) => type === 'message_delta')
      expect(last).toMatchObject({
        delta: { container: message.container, stop_reason: stopReason ?? 'end_turn' },
        context_management: message.context_management,
      })
    },
  )

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

  test.each<[FinishReason, string | null, string]>([
    ['stop', null, 'end_turn'],
    ['stop', 'END', 'stop_sequence'],
    ['length', null, 'max_tokens'],
    ['tool_calls', null, 'tool_use'],
    ['content_filter', null, 'refusal'],
  ])('that ended by %s (%s) says %s', (finishReason, stopSequence, said) => {
    const body = messageBody(liveJob({ finishReason, stopSequence }))
    expect(body).toMatchObject({ stop_reason: said, stop_sequence: stopSequence })
  })

  test('with what only the dialect knows comes through in its place', () => {
    const citation = { type: 'web_search_result_location', url: 'https://x', title: 'X', cited_text: 'y', encrypted_index: 'z' }
    const content = [
      { type: 'text', text: 'I search.', citations: null },
      { type: 'server_tool_use', id: 'srvtoolu_1', name: 'web_search', input: { query: 'x' } },
      { type: 'web_search_tool_result', tool_use_id: 'srvtoolu_1', content: [] },
      { type: 'text', text: 'It says ', citations: null },
      { type: 'text', text: 'y', citations: [citation] },
      { type: 'text', text: '.', citations: null },
    ]
    const live = liveJob({ finishReason: 'stop', stopSequence: null })
    const piece = new AnthropicReader().read({
      type: 'message',
      content,
      stop_reason: 'pause_turn',
      usage: { input_tokens: 1, output_tokens: 1 },
    })
    if (piece?.kind !== 'piece') throw new Error('it was not read')
    live.answer.append(piece.text, piece.delta)
    expect(messageBody(live)).toMatchObject({ content, stop_reason: 'pause_turn' })
    const { events } = streamed([[piece.text, piece.delta]], { finishReason: 'stop', stopSequence: null }, [true])
    const told = events.map(({ data }) => JSON.parse(data) as { type: string; content_block?: object; delta?: object })
    expect(told.filter(({ type }) => type === 'content_block_start').map((event) => event.content_block)).toEqual(
      content.map((block) => (block.type === 'text' ? { type: 'text', text: '', citations: null } : block)),
    )
    expect(told).toContainEqual({ type: 'content_block_delta', index: 4, delta: { type: 'citations_delta', citation } })
    const reader = new AnthropicReader()
    const again = new Answer()
    for (const event of told) {
      const read = reader.read(event)
      if (read?.kind === 'piece') again.append(read.text, read.delta)
    }
    expect(again.toJSON()).toEqual(live.answer.toJSON())
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

function withoutVerbatim({ verbatim: _verbatim, ...generation }: Omit<GenerationRequest, 'seed'>): Omit<GenerationRequest, 'seed'> {
  return generation
}

function withoutBudget({ reasoning, ...request }: Omit<GenerationRequest, 'seed'>): Omit<GenerationRequest, 'seed'> {
  if (reasoning === undefined) return request
  const { maxTokens: _maxTokens, ...rest } = reasoning
  return Object.keys(rest).length === 0 ? request : { ...request, reasoning: rest }
}
