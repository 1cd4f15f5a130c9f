import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { AnthropicReader } from '../proto/anthropic-wire-answer.ts'
import { Answer, type AnswerJson } from '../proto/answer.ts'
import { OpenAiReader } from '../proto/openai-wire-answer.ts'
import { SseReader } from '../proto/sse.ts'
import { joinedThinking, type ThinkingBlock, thinkingBlocks } from '../proto/thinking.ts'
import type { WireEnd, WireFailure, WirePiece } from '../proto/wire.ts'

test('a reason for the end that no dialect has is a failure, whatever objects are made of', () => {
  for (const reason of ['constructor', 'toString', 'odd', 'insufficient_system_resource']) {
    expect(new OpenAiReader().read({ choices: [{ index: 0, delta: {}, finish_reason: reason }] })).toMatchObject({ kind: 'failure' })
    expect(new AnthropicReader().read({ type: 'message_delta', delta: { stop_reason: reason } })).toMatchObject({ kind: 'failure' })
  }
})

test('what is nested deeper than could be written again is malformed, in an error too', () => {
  const deep = JSON.parse(`${'['.repeat(50_000)}${']'.repeat(50_000)}`) as unknown
  const start = (content_block: object): unknown => ({ type: 'content_block_start', index: 0, content_block })
  for (const event of [
    start({ type: 'odd', deep }),
    start({ type: 'text', text: '', citations: deep }),
    start({ type: 'tool_use', id: 'a', name: 'f', input: { deep } }),
    { type: 'error', error: { deep } },
  ])
    expect(new AnthropicReader().read(event)).toMatchObject({ kind: 'failure' })
  const many = { type: 'text', text: 'x', citations: Array.from({ length: 300_000 }, () => 0) }
  expect(new AnthropicReader().read(start(many))).toMatchObject({ kind: 'piece', text: 'x' })
  expect(new OpenAiReader().read({ choices: [{ index: 0, delta: { annotations: deep } }] })).toMatchObject({ code: 'upstream_malformed' })
})

describe('server-sent events', () => {
  const stream =
    '\ufeff: hello\r\n\r\nevent: a\r\ndata: {"x":"häß 😀"}\r\n\r\ndata:no space\ndata:  two\n\nid: 4\nretry: 5\n\rdata\r\rdata: last\n\n'
  const events = [
    { kind: 'event', event: 'a', data: '{"x":"häß 😀"}' },
    { kind: 'event', event: '', data: 'no space\n two' },
    { kind: 'event', event: '', data: '' },
    { kind: 'event', event: '', data: 'last' },
  ]

  test('are the same wherever the bytes are cut', () => {
    const bytes = Buffer.from(stream)
    for (let cut = 0; cut <= bytes.length; cut++) {
      const reader = new SseReader()
      expect([...reader.push(bytes.subarray(0, cut)), ...reader.push(bytes.subarray(cut))], `cut at ${cut}`).toEqual(events)
    }
    const reader = new SseReader()
    expect([...bytes].flatMap((byte) => reader.push(Uint8Array.of(byte)))).toEqual(events)
  })

  test('do not need their bytes to stay as they were', () => {
    const reader = new SseReader()
    const bytes = Buffer.from('data: kept')
    reader.push(bytes)
    bytes.fill(0)
    expect(reader.push(Buffer.from('\n\n'))).toEqual([{ kind: 'event', event: '', data: 'kept' }])
  })

  test('beyond the bound are one failure and the end of reading', () => {
    const inOne = new SseReader(1_000)
    expect(inOne.push(Buffer.from(`data: ${'x'.repeat(2_000)}\n\n`))).toMatchObject([{ kind: 'failure', code: 'upstream_malformed' }])
    expect(inOne.push(Buffer.from('data: more\n\n'))).toEqual([])
    const inPieces = new SseReader(1_000)
    const found = Array.from({ length: 30 }, () => inPieces.push(Buffer.from('x'.repeat(100)))).flat()
    expect(found).toHaveLength(1)
    const inLines = new SseReader(1_000)
    expect(Array.from({ length: 30 }, () => inLines.push(Buffer.from(`data: ${'x'.repeat(100)}\n`))).flat()).toHaveLength(1)
  })
})

describe('an OpenAI stream', () => {
  test('of plain text becomes its text, its reason and its usage', () => {
    const read = openAi([
      { choices: [{ index: 0, delta: { role: 'assistant', content: '' }, finish_reason: null }], usage: null },
      ...['Hel', 'lo "w', 'orld"\n', '😀'].map((content) => ({ choices: [{ index: 0, delta: { content }, finish_reason: null }] })),
      { choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] },
      {
        choices: [],
        usage: {
          prompt_tokens: 9,
          completion_tokens: 4,
          prompt_tokens_details: { cached_tokens: 8 },
          completion_tokens_details: { reasoning_tokens: 1 },
        },
      },
    ])
    expect(read).toEqual({
      answer: { text: 'Hello "world"\n😀' },
      end: { finishReason: 'stop', usage: { promptTokens: 9, completionTokens: 4, cachedTokens: 8, reasoningTokens: 1 } },
      failure: null,
    })
  })

  test('of reasoning and tool calls keeps them apart', () => {
    const read = openAi([
      choice({ role: 'assistant', reasoning_content: 'Let me ' }),
      choice({ reasoning: 'think.' }),
      choice({ content: 'I look.' }),
      choice({ tool_calls: [{ index: 0, id: 'call_a', type: 'function', function: { name: 'weather', arguments: '' } }] }),
      choice({ tool_calls: [{ index: 0, function: { arguments: '{"city":' } }] }),
      choice({ tool_calls: [{ index: 0, function: { arguments: '"Ulm"}' } }] }),
      choice({ tool_calls: [{ index: 1, id: 'call_b', type: 'function', function: { name: 'time', arguments: '{}' } }] }),
      choice({}, 'tool_calls'),
    ])
    expect(read.answer).toEqual({
      text: 'I look.',
      reasoning: 'Let me think.',
      tool_calls: [
        { id: 'call_a', name: 'weather', arguments: '{"city":"Ulm"}' },
        { id: 'call_b', name: 'time', arguments: '{}' },
      ],
    })
    expect(read.end).toEqual({ finishReason: 'tool_calls', usage: null })
  })

  test('of a custom tool call brings its input', () => {
    const read = openAi([
      choice({ tool_calls: [{ index: 0, id: 'a', type: 'custom', custom: { name: 'code', input: '' } }] }),
      choice({ tool_calls: [{ index: 0, custom: { input: 'print(1)' } }] }),
      choice({}, 'tool_calls'),
    ])
    expect(read).toMatchObject({
      answer: { tool_calls: [{ id: 'a', name: 'code', arguments: 'print(1)', custom: true }] },
      failure: null,
    })
  })

  test('of a refusal keeps it apart from the text', () => {
    const read = openAi([choice({ content: '', refusal: null }), choice({ refusal: 'No' }), choice({ refusal: '.' }), choice({}, 'stop')])
    expect(read.answer).toEqual({ text: '', refusal: 'No.' })
  })

  test('counts tool calls that have no index, or all the same one', () => {
    const called = (calls: unknown[]) => openAi([...calls.map((call) => choice({ tool_calls: [call] })), choice({}, 'stop')])
    const expected = [
      { id: 'a', name: 'f', arguments: '{"x":1}' },
      { id: 'b', name: 'g', arguments: '{}' },
    ]
    const withoutIndex = [
      { id: 'a', function: { name: 'f', arguments: '{"x":' } },
      { function: { arguments: '1}' } },
      { id: 'b', function: { name: 'g', arguments: {} } },
    ]
    const allZero = [
      { index: 0, id: 'a', function: { name: 'f', arguments: '{"x":1}' } },
      { index: 0, id: 'b', function: { name: 'g', arguments: '{}' } },
    ]
    const fromThree = [
      { index: 3, id: 'a', function: { name: 'f', arguments: '{"x":1}' } },
      { index: 7, id: 'b', function: { name: 'g', arguments: '{}' } },
    ]
    const repeated = [
      { id: 'a', function: { name: 'f', arguments: '{"x":' } },
      { id: 'a', function: { arguments: '1}' } },
      { id: 'b', function: { name: 'g', arguments: '{}' } },
    ]
    const oneIdForAll = [
      { id: 'a', function: { name: 'f', arguments: '{"x":1}' } },
      { id: 'a', function: { name: 'g', arguments: '{}' } },
    ]
    expect(called(oneIdForAll).answer.tool_calls).toEqual(expected.map((call) => ({ ...call, id: 'a' })))
    const namedAgain = [
      { id: 'a', function: { name: 'f', arguments: '{"x":' } },
      { id: 'a', function: { name: 'f', arguments: '1}' } },
      { id: 'b', function: { name: 'g', arguments: '{}' } },
    ]
    const idsThatChange = [
      { index: 0, id: 'a', function: { name: 'f', arguments: '{"x":' } },
      { index: 0, id: 'another', function: { arguments: '1}' } },
      { index: 1, id: 'b', function: { name: 'g', arguments: '{}' } },
    ]
    const namesThatComeLate = [
      { index: 0, id: 'a', function: { arguments: '' } },
      { index: 1, id: 'b', function: { name: '' } },
      { index: 0, function: { arguments: '{"x":' } },
      { index: 0, function: { name: 'f', arguments: '1}' } },
      { index: 1, function: { name: 'g', arguments: '{}' } },
    ]
    const emptyAtFirst = [
      { id: 'a', function: { name: 'f', arguments: '' } },
      { id: 'a', function: { name: 'f', arguments: '{"x":' } },
      { id: 'a', function: { name: 'f', arguments: '1}' } },
      { id: 'a', function: { name: 'f', arguments: '' } },
      { id: 'b', function: { name: 'g', arguments: '{}' } },
    ]
    const lists = [withoutIndex, allZero, fromThree, repeated, namedAgain, emptyAtFirst, idsThatChange, namesThatComeLate]
    for (const calls of lists) {
      const read = called(calls)
      expect(read.answer.tool_calls).toEqual(expected)
      expect(read.end?.finishReason).toBe('tool_calls')
    }
    const textsOf = (calls: object[]): unknown => called(calls).answer.tool_calls?.map((call) => [call.name, call.arguments])
    const withoutIds = emptyAtFirst.map(({ function: named }) => ({ function: named }))
    expect(textsOf(withoutIds)).toEqual(expected.map((call) => [call.name, call.arguments]))
    const twiceTheSame = ['{"x":1}', '{"x":2}'].map((written) => ({ id: 'a', function: { name: 'f', arguments: written } }))
    const notJson = [
      twiceTheSame[0],
      { id: 'a', function: { name: 'g', arguments: "{'x': 1}" } },
      { id: 'a', function: { name: 'f', arguments: '{}' } },
    ]
    expect(textsOf(twiceTheSame)).toEqual([
      ['f', '{"x":1}'],
      ['f', '{"x":2}'],
    ])
    expect(textsOf(notJson as object[])).toEqual([
      ['f', '{"x":1}'],
      ['g', "{'x': 1}"],
      ['f', '{}'],
    ])
    const custom = ['a {}', ' b'].map((input) => ({ id: 'a', custom: { name: 'f', input } }))
    expect(textsOf(custom)).toEqual([['f', 'a {} b']])
    const unnamed = ['', ''].map((written) => ({ function: { name: 'f', arguments: written } }))
    expect(textsOf(unnamed)).toEqual([
      ['f', ''],
      ['f', ''],
    ])
    const inOneBreath = openAi([choice({ tool_calls: unnamed }), choice({}, 'tool_calls')])
    expect(inOneBreath.answer.tool_calls).toHaveLength(2)
    const customs = ['a', 'b'].map((input) => ({ custom: { name: 'f', input } }))
    expect(textsOf(customs)).toEqual([
      ['f', 'a'],
      ['f', 'b'],
    ])
    // What is no stream brings every call whole.
    const broken = ["{'x': 1", '{"x":2}'].map((written) => ({ id: 'a', function: { name: 'f', arguments: written } }))
    const whole = new OpenAiReader().read({ choices: [{ index: 0, message: { tool_calls: broken }, finish_reason: 'tool_calls' }] })
    expect(whole).toMatchObject({ delta: { toolCalls: [{ index: 0 }, { index: 1 }] } })
    const nameless = [{ id: 'a', function: { name: 'f', arguments: '{}' } }, { function: { arguments: '{}' } }]
    const half = new OpenAiReader().read({ choices: [{ index: 0, message: { tool_calls: nameless }, finish_reason: 'tool_calls' }] })
    expect(half).toMatchObject({ kind: 'failure', code: 'upstream_malformed' })
    expect(called([{ index: 0, id: 'a', function: { arguments: '{}' } }]).failure?.message).toContain('has no name')
    expect(called([{ function: { name: 'f', arguments: '{}' } }]).answer.tool_calls).toEqual([{ id: 'made', name: 'f', arguments: '{}' }])
  })

  test('is over with its last word, whatever comes behind it', () => {
    const reader = new OpenAiReader()
    for (const data of [JSON.stringify(choice({ content: 'a' })), JSON.stringify(choice({}, 'stop')), '[DONE]']) reader.readData(data)
    expect(reader.readData(JSON.stringify(choice({ content: 'b' })))).toBeNull()
  })

  test('that breaks off has no end', () => {
    expect(openAi([choice({ content: 'half of' })])).toEqual({ answer: { text: 'half of' }, end: null, failure: null })
  })

  test('brings log probabilities in both of their shapes', () => {
    const entry = { token: 'a', logprob: -0.5, bytes: [97], top_logprobs: [{ token: 'b', logprob: -1, bytes: null }] }
    const ofChat = openAi([{ choices: [{ delta: { content: 'a' }, logprobs: { content: [entry], refusal: null } }] }])
    expect(ofChat.answer.logprobs).toEqual([entry])
    const ofText = openAi([{ choices: [{ text: 'a', logprobs: { tokens: ['a'], token_logprobs: [-0.5], top_logprobs: [{ b: -1 }] } }] }])
    expect(ofText.answer).toEqual({ text: 'a', logprobs: [{ ...entry, bytes: null }] })
  })

  test('says which stop string matched where the server tells', () => {
    const last = { choices: [{ index: 0, delta: {}, finish_reason: 'stop', stop_reason: 'END' }] }
    expect(openAi([last]).end).toMatchObject({ stopSequence: 'END' })
    expect(openAi([{ choices: [{ index: 0, delta: {}, finish_reason: 'stop', stop_reason: 151_645 }] }]).end).not.toHaveProperty(
      'stopSequence',
    )
  })

  test('that brings an error fails with what it says', () => {
    expect(
      openAi([choice({ content: 'a' }), { error: { message: 'The server had an error', type: 'server_error' } }]).failure,
    ).toMatchObject({
      code: 'upstream_error',
      message: expect.stringContaining('The server had an error') as string,
      retryable: true,
      providerStatus: 500,
    })
    expect(openAi([{ object: 'error', message: 'too long', type: 'BadRequestError', code: 400 }]).failure).toMatchObject({
      providerStatus: 400,
      retryable: false,
    })
    expect(openAi([choice({}, 'abort')]).failure).toMatchObject({ retryable: true })
  })

  test('is read the same when it comes as one body', () => {
    const reader = new OpenAiReader()
    const message = {
      role: 'assistant',
      content: 'Hm.',
      reasoning_content: 'why',
      tool_calls: [{ id: 'a', type: 'function', function: { name: 'f', arguments: '{}' } }],
    }
    const body = { choices: [{ index: 0, message, finish_reason: 'tool_calls' }], usage: { prompt_tokens: 1, completion_tokens: 2 } }
    const answer = new Answer()
    const piece = reader.read(body)
    if (piece?.kind === 'piece') answer.append(piece.text, piece.delta)
    expect(answer.toJSON()).toEqual({ text: 'Hm.', reasoning: 'why', tool_calls: [{ id: 'a', name: 'f', arguments: '{}' }] })
    expect(reader.end?.usage).toEqual({ promptTokens: 1, completionTokens: 2, cachedTokens: 0, reasoningTokens: null })
  })
})

test('chunks that differ in their content alone are read as whole ones are', () => {
  const contents = fc.array(fc.string({ unit: 'binary' }), { maxLength: 12 })
  fc.assert(
    fc.property(contents, fc.boolean(), (texts, escapes) => {
      const written = (content: string) => {
        const json = JSON.stringify({ id: 'c', choices: [{ index: 0, delta: { content }, finish_reason: null }] })
        return escapes ? json.replaceAll(/[^ -~]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`) : json
      }
      const reader = new OpenAiReader()
      const read = ['first', ...texts].map((content) => reader.readData(written(content)))
      expect(read.map((piece) => (piece?.kind === 'piece' ? piece.text : ''))).toEqual(['first', ...texts])
    }),
  )
})

test('a chunk that only looks like the ones before is read whole', () => {
  const reader = new OpenAiReader()
  const plain = '{"choices":[{"delta":{"content":"a"},"finish_reason":null}]}'
  const piece = (text: string) => ({ kind: 'piece', text })
  expect(reader.readData(plain)).toEqual(piece('a'))
  expect(reader.readData('{"choices":[{"delta":{"content":"b","content":"c"},"finish_reason":null}]}')).toEqual(piece('c'))
  expect(reader.readData('{"choices":[{"delta":{"content":"b\nc"},"finish_reason":null}]}')).toMatchObject({ kind: 'failure' })
  expect(reader.readData('{"choices":[{"delta":{"content":"b\\"},"finish_reason":null}]}')).toMatchObject({ kind: 'failure' })
  expect(reader.readData('{"choices":[{"delta":{"content":"b"},"finish_reason":"length"}]}')).toEqual(piece('b'))
  expect(reader.end?.finishReason).toBe('length')
  const other = new OpenAiReader()
  expect(other.readData('{"choices":[{"delta":{"content":"a"},"index":0}]}')).toEqual(piece('a'))
  expect(other.readData('{"choices":[{"delta":{"content":"b"},"index":1}]}')).toBeNull()
})

test.each([
  ['eos', 'stop'],
  ['STOP', 'stop'],
  ['model_length', 'length'],
  ['MAX_TOKENS', 'length'],
  ['max_output_tokens', 'length'],
  ['model_context_window_exceeded', 'length'],
  ['prohibited_content', 'content_filter'],
  ['content_filter: RECITATION', 'content_filter'],
  ['SAFETY', 'content_filter'],
])('a server that ends with %s means %s', (told, meant) => {
  expect(openAi([choice({ content: 'hi' }, told)])).toMatchObject({ end: { finishReason: meant }, failure: null })
})

test('thinking that is counted in the total alone is of the answer', () => {
  const usage = { prompt_tokens: 32, completion_tokens: 9, total_tokens: 135, completion_tokens_details: { reasoning_tokens: 94 } }
  const counted = (told: object): unknown => openAi([choice({ content: 'hi' }, 'stop'), { choices: [], usage: told }]).end?.usage
  expect(counted(usage)).toMatchObject({ promptTokens: 32, completionTokens: 103, reasoningTokens: 94 })
  expect(counted({ ...usage, completion_tokens: 103 })).toMatchObject({ completionTokens: 103 })
  expect(counted({ completion_tokens: 9, total_tokens: 135 })).toMatchObject({ promptTokens: 0, completionTokens: 9 })
  // What is read from a cache beside the prompt is no answer.
  const beside = { prompt_tokens: 10, completion_tokens: 5, total_tokens: 5_015, prompt_tokens_details: { cached_tokens: 5_000 } }
  expect(counted(beside)).toMatchObject({ completionTokens: 5 })
  expect(counted({ ...usage, total_tokens: 5_000 })).toMatchObject({ completionTokens: 9 + 94 })
  expect(counted({ prompt_tokens: 1, completion_tokens: 2, total_tokens: 10 })).toMatchObject({ completionTokens: 9 })
  const written = { ...usage, total_tokens: 41, prompt_tokens_details: { cached_tokens: 4, cache_write_tokens: 20 } }
  expect(counted(written)).toMatchObject({ completionTokens: 9, cachedTokens: 4, cacheWriteTokens: 20 })
})

test('thoughts among the parts of the content are reasoning', () => {
  const thinking = (thought: unknown): object => ({ type: 'thinking', thinking: thought })
  const read = openAi([
    choice({
      content: [
        thinking([
          { type: 'text', text: 'hm' },
          { type: 'text', text: 'm' },
        ]),
      ],
    }),
    choice({ content: [thinking('.'), { type: 'text', text: 'yes' }] }, 'stop'),
  ])
  expect(read.answer).toMatchObject({ text: 'yes', reasoning: 'hmm.' })
})

describe('an Anthropic stream', () => {
  const start = {
    type: 'message_start',
    message: {
      id: 'msg_1',
      type: 'message',
      content: [],
      usage: { input_tokens: 3, cache_read_input_tokens: 10, cache_creation_input_tokens: 5, output_tokens: 1 },
    },
  }
  const thinkingAndTools = [
    start,
    { type: 'content_block_start', index: 0, content_block: { type: 'thinking', thinking: '', signature: '' } },
    { type: 'ping' },
    { type: 'content_block_delta', index: 0, delta: { type: 'thinking_delta', thinking: 'Let me ' } },
    { type: 'content_block_delta', index: 0, delta: { type: 'thinking_delta', thinking: 'see.' } },
    { type: 'content_block_delta', index: 0, delta: { type: 'signature_delta', signature: 'c2ln' } },
    { type: 'content_block_stop', index: 0 },
    { type: 'content_block_start', index: 1, content_block: { type: 'redacted_thinking', data: 'ZW5j' } },
    { type: 'content_block_stop', index: 1 },
    { type: 'content_block_start', index: 2, content_block: { type: 'text', text: '' } },
    { type: 'content_block_delta', index: 2, delta: { type: 'text_delta', text: 'I look.' } },
    { type: 'content_block_stop', index: 2 },
    { type: 'content_block_start', index: 3, content_block: { type: 'tool_use', id: 'toolu_1', name: 'weather', input: {} } },
    { type: 'content_block_delta', index: 3, delta: { type: 'input_json_delta', partial_json: '' } },
    { type: 'content_block_delta', index: 3, delta: { type: 'input_json_delta', partial_json: '{"city":' } },
    { type: 'content_block_delta', index: 3, delta: { type: 'input_json_delta', partial_json: '"Ulm"}' } },
    { type: 'content_block_stop', index: 3 },
    { type: 'content_block_start', index: 4, content_block: { type: 'tool_use', id: 'toolu_2', name: 'time', input: {} } },
    { type: 'content_block_stop', index: 4 },
    {
      type: 'message_delta',
      delta: { stop_reason: 'tool_use', stop_sequence: null },
      usage: { input_tokens: null, output_tokens: 42, output_tokens_details: { thinking_tokens: 7 } },
    },
    { type: 'message_stop' },
  ]
  const answer = {
    text: 'I look.',
    reasoning: 'Let me see.',
    reasoning_signature: 'c2ln @11:redacted:ZW5j',
    tool_calls: [
      { id: 'toolu_1', name: 'weather', arguments: '{"city":"Ulm"}' },
      { id: 'toolu_2', name: 'time', arguments: '{}' },
    ],
  }
  const end = {
    finishReason: 'tool_calls',
    usage: { promptTokens: 18, completionTokens: 42, cachedTokens: 10, reasoningTokens: 7, cacheWriteTokens: 5 },
  }

  test('of thinking, text and tools becomes an answer, wherever its bytes are cut', () => {
    const bytes = Buffer.from(thinkingAndTools.map((event) => `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`).join(''))
    for (let cut = 0; cut <= bytes.length; cut++) {
      const sse = new SseReader()
      const events = [...sse.push(bytes.subarray(0, cut)), ...sse.push(bytes.subarray(cut))]
      expect(readAll(new AnthropicReader(), datas(events))).toEqual({ answer, end, failure: null })
    }
  })

  test('is over with its last word, whatever comes behind it', () => {
    const reader = new AnthropicReader()
    for (const event of thinkingAndTools) reader.readData(JSON.stringify(event))
    for (const event of thinkingAndTools) expect(reader.readData(JSON.stringify(event))).toBeNull()
  })

  test('has no end before the reason to stop, behind which only message_stop comes', () => {
    for (let length = 0; length < thinkingAndTools.length - 1; length++)
      expect(anthropic(thinkingAndTools.slice(0, length)).end, `after ${length} events`).toBeNull()
    expect(anthropic(thinkingAndTools.slice(0, -1)).end).toEqual(anthropic(thinkingAndTools).end)
  })

  test('that ends at a stop sequence, a limit or a refusal says so', () => {
    const ended = (delta: object) => anthropic([start, { type: 'message_delta', delta }, { type: 'message_stop' }]).end
    expect(ended({ stop_reason: 'stop_sequence', stop_sequence: 'END' })).toMatchObject({ finishReason: 'stop', stopSequence: 'END' })
    expect(ended({ stop_reason: 'max_tokens' })?.finishReason).toBe('length')
    expect(ended({ stop_reason: 'model_context_window_exceeded' })?.finishReason).toBe('length')
    expect(ended({ stop_reason: 'refusal' })?.finishReason).toBe('content_filter')
  })

  test('that compacts the conversation brings the summary whole', () => {
    const events = [
      start,
      { type: 'content_block_start', index: 0, content_block: { type: 'compaction', content: null } },
      { type: 'content_block_delta', index: 0, delta: { type: 'compaction_delta', content: 'In short.', encrypted_content: 'ZW5j' } },
      { type: 'content_block_stop', index: 0 },
      { type: 'message_delta', delta: { stop_reason: 'compaction' }, usage: { output_tokens: 3 } },
    ]
    const { answer, end, failure } = anthropic(events)
    expect([end?.finishReason, failure]).toEqual(['stop', null])
    expect(answer.asides).toMatchObject([
      { kind: 'block', block: { type: 'compaction', content: 'In short.', encrypted_content: 'ZW5j' } },
      { kind: 'end', stopReason: 'compaction' },
    ])
  })

  test('tells of the whole message what has no other words', () => {
    const container = { id: 'c1', expires_at: '2026-12-01T00:00:00Z' }
    const edits = { applied_edits: [{ type: 'clear_tool_uses_20250919', cleared_tool_uses: 3 }] }
    const usage = { output_tokens: 2, server_tool_use: { web_search_requests: 1 }, cache_creation: { ephemeral_5m_input_tokens: 5 } }
    const told = { container, context_management: edits }
    const end = { kind: 'end', message: told, usage: { server_tool_use: usage.server_tool_use, cache_creation: usage.cache_creation } }
    const delta = { stop_reason: 'end_turn', container }
    expect(anthropic([start, { type: 'message_delta', delta, context_management: edits, usage }]).answer.asides).toEqual([
      { at: 0, ...end },
    ])
    const whole = { type: 'message', content: [], stop_reason: 'end_turn', ...told, usage: { ...start.message.usage, ...usage } }
    expect(anthropic([whole]).answer.asides).toEqual([{ at: 0, ...end }])
    // Of a cache that was not written to there is nothing to tell.
    const plain = { type: 'message_delta', delta: { stop_reason: 'end_turn' }, usage: { output_tokens: 2 } }
    expect(anthropic([start, plain]).answer.asides).toBeUndefined()
    const full = { type: 'message_delta', delta: { stop_reason: 'model_context_window_exceeded' } }
    expect(anthropic([start, full]).answer.asides).toMatchObject([{ stopReason: 'model_context_window_exceeded' }])
  })

  test('that brings an error fails with its kind', () => {
    const error = { type: 'error', error: { type: 'overloaded_error', message: 'Overloaded' } }
    expect(anthropic([start, error]).failure).toMatchObject({ code: 'upstream_error', providerStatus: 529, retryable: true })
  })

  test('is read the same when it comes as one message', () => {
    const content = [
      { type: 'thinking', thinking: 'Let me see.', signature: 'c2ln' },
      { type: 'redacted_thinking', data: 'ZW5j' },
      { type: 'text', text: 'I look.' },
      { type: 'tool_use', id: 'toolu_1', name: 'weather', input: { city: 'Ulm' } },
      { type: 'tool_use', id: 'toolu_2', name: 'time', input: {} },
    ]
    const usage = {
      input_tokens: 3,
      cache_creation_input_tokens: 5,
      cache_read_input_tokens: 10,
      output_tokens: 42,
      output_tokens_details: { thinking_tokens: 7 },
    }
    const whole = { type: 'message', content, stop_reason: 'tool_use', stop_sequence: null, usage }
    expect(anthropic([whole])).toEqual({ answer, end, failure: null })
  })
})

test('whatever an upstream says is an answer, nothing, or a failure, and never a throw', () => {
  const names = [
    'choices',
    'delta',
    'message',
    'content',
    'tool_calls',
    'function',
    'custom',
    'refusal',
    'annotations',
    'name',
    'arguments',
    'index',
    'id',
    'usage',
    'logprobs',
    'type',
    'error',
    'stop_reason',
    'finish_reason',
    'content_block',
    'input',
    'tokens',
  ]
  const types = [
    'content_block_start',
    'content_block_delta',
    'content_block_stop',
    'message_start',
    'message_delta',
    'message',
    'error',
    'text_delta',
    'tool_use',
    'thinking',
  ]
  const leaf = fc.oneof(
    fc.constant(null),
    fc.integer({ min: -1, max: 3 }),
    fc.boolean(),
    fc.string({ maxLength: 3 }),
    fc.constantFrom(...types),
  )
  const { value } = fc.letrec((tie) => ({
    value: fc.oneof(
      { maxDepth: 5, withCrossShrink: true },
      leaf,
      fc.array(tie('value'), { maxLength: 3 }),
      fc.dictionary(fc.constantFrom(...names), tie('value'), { maxKeys: 6 }),
    ),
  }))
  fc.assert(
    fc.property(fc.array(value, { maxLength: 4 }), (events) => {
      for (const reader of [new OpenAiReader(), new AnthropicReader()])
        for (const event of events) {
          const read = reader.read(event)
          expect(read === null || read.kind === 'piece' || (read.kind === 'failure' && read.message !== '')).toBe(true)
          void reader.end
        }
    }),
    { numRuns: 2_000 },
  )
})

test('a usage that says nothing is none, and does not undo what was said before', () => {
  for (const [usages, want] of [
    [[{}], null],
    [[{ prompt_tokens: 3, completion_tokens: 2 }, {}], { promptTokens: 3, completionTokens: 2 }],
    [['much', [3], { prompt_tokens: '3' }, { prompt_tokens: 3, prompt_tokens_details: [] }], null],
    [[{ prompt_tokens: 3, completion_tokens: 2 }, { prompt_tokens: -1 }], { promptTokens: 3, completionTokens: 2 }],
  ] as const) {
    const read = openAi([choice({ content: 'x' }), choice({}, 'stop'), ...usages.map((usage) => ({ choices: [], usage }))])
    if (want === null) expect(read.end?.usage).toBe(null)
    else expect(read.end?.usage).toMatchObject(want)
  }
})

test('characters that an upstream cuts in two come whole', () => {
  const said = fc.string({ unit: 'grapheme', minLength: 1, maxLength: 12 }).map((text) => `${text}😀`)
  fc.assert(
    fc.property(said, said, said, (text, thought, written) => {
      const units = (whole: string): string[] => whole.split('')
      const asJson = JSON.stringify({ a: written })
      const chunks = [
        ...units(thought).map((reasoning_content) => choice({ reasoning_content })),
        ...units(text).map((content) => choice({ content })),
        choice({ tool_calls: [{ index: 0, id: 'c', function: { name: 'f', arguments: '' } }] }),
        ...units(asJson).map((grown) => choice({ tool_calls: [{ index: 0, function: { arguments: grown } }] })),
      ]
      const block = (index: number, content_block: object, deltas: object[]): object[] => [
        { type: 'content_block_start', index, content_block },
        ...deltas.map((delta) => ({ type: 'content_block_delta', index, delta })),
        { type: 'content_block_stop', index },
      ]
      const events = [
        ...block(
          0,
          { type: 'thinking', thinking: '' },
          units(thought).map((thinking) => ({ type: 'thinking_delta', thinking })),
        ),
        ...block(
          1,
          { type: 'text', text: '' },
          units(text).map((unit) => ({ type: 'text_delta', text: unit })),
        ),
        ...block(
          2,
          { type: 'tool_use', id: 'c', name: 'f', input: {} },
          units(asJson).map((partial_json) => ({ type: 'input_json_delta', partial_json })),
        ),
      ]
      const want = { text, reasoning: thought, tool_calls: [{ id: 'c', name: 'f', arguments: asJson }] }
      for (const [reader, said] of [
        [new OpenAiReader(), chunks],
        [new AnthropicReader(), events],
      ] as const) {
        const answer = new Answer()
        for (const event of said) {
          const read = reader.readData(JSON.stringify(event))
          if (read?.kind !== 'piece') continue
          expect(JSON.stringify(read)).not.toMatch(/\\ud[89a-f]/)
          answer.append(read.text, read.delta)
        }
        expect(answer.toJSON()).toEqual(want)
      }
    }),
  )
})

test('blocks of thinking survive in one text and one signature', () => {
  const signature = fc.oneof(fc.base64String({ minLength: 4, maxLength: 12 }), fc.constant(''))
  const block: fc.Arbitrary<ThinkingBlock> = fc.oneof(
    fc.record({ kind: fc.constant('thinking' as const), thinking: fc.string({ maxLength: 9 }), signature }),
    fc.record({ kind: fc.constant('redacted' as const), data: fc.base64String({ minLength: 4, maxLength: 12 }) }),
  )
  fc.assert(
    fc.property(fc.array(block, { maxLength: 5 }), (blocks) => {
      // One that says nothing and is not signed is none, unless others came before it.
      fc.pre(blocks[0]?.kind !== 'thinking' || blocks[0].thinking + blocks[0].signature !== '')
      const { reasoning, signature } = joinedThinking(blocks)
      expect(thinkingBlocks(reasoning, signature)).toEqual(blocks)
    }),
  )
})

type Reader = {
  readData(data: string): WirePiece | WireFailure | null
  read(event: unknown): WirePiece | WireFailure | null
  readonly end: WireEnd | null
}
type Read = { answer: AnswerJson; end: WireEnd | null; failure: WireFailure | null }

function openAi(chunks: object[]): Read {
  const events = [...chunks.map((chunk) => JSON.stringify(chunk)), '[DONE]']
  return readAll(new OpenAiReader(() => 'made'), events)
}

function anthropic(events: object[]): Read {
  return readAll(
    new AnthropicReader(),
    events.map((event) => JSON.stringify(event)),
  )
}

function readAll(reader: Reader, events: string[]): Read {
  const answer = new Answer()
  for (const data of events) {
    const read = reader.readData(data)
    if (read?.kind === 'failure') return { answer: answer.toJSON(), end: reader.end, failure: read }
    if (read !== null) answer.append(read.text, read.delta)
  }
  return { answer: answer.toJSON(), end: reader.end, failure: null }
}

function datas(events: ReturnType<SseReader['push']>): string[] {
  return events.map((event) => (event.kind === 'event' ? event.data : event.message))
}

function choice(delta: object, finishReason: string | null = null): object {
  return { id: 'c', object: 'chat.completion.chunk', choices: [{ index: 0, delta, finish_reason: finishReason }] }
}
