import { describe, expect, test } from 'vitest'
import { parseMessagesRequest } from '../coordinator/api/anthropic-request.ts'
import { ABILITIES, type Ability, fitting, needsOf } from '../proto/abilities.ts'
import { ANTHROPIC_ABILITIES, anthropicBody } from '../proto/anthropic-wire-request.ts'
import { OPEN_SERVER_ABILITIES, OPENAI_ABILITIES, openAiBody } from '../proto/openai-wire-request.ts'
import { type ChatMessage, type GenerationRequest, joinedTurns } from '../proto/request.ts'

const chat = (extra: Partial<GenerationRequest> = {}): GenerationRequest => ({
  prompt: { kind: 'chat', messages: [{ role: 'user', content: 'hi' }] },
  stop: [],
  sampling: {},
  seed: 7,
  ...extra,
})
const cloud = { seedGiven: false, extended: false }
const open = { seedGiven: true, extended: true }

test('an effort that is the usual one anyway is needed by nobody, and told to those alone who know efforts', () => {
  const usual = chat({ reasoning: { effort: 'high', effortIsDefault: true } })
  expect(needsOf(usual, false)).toEqual([])
  expect(fitting(usual, ['tools'])).toEqual(chat())
  expect(fitting(usual, ['tools', 'reasoning_effort'])).toBe(usual)
  expect(fitting(chat({ reasoning: { effort: 'high', effortIsDefault: true, maxTokens: 5 } }), [])).toEqual(
    chat({ reasoning: { maxTokens: 5 } }),
  )
  const chosen = chat({ reasoning: { effort: 'high' } })
  expect(needsOf(chosen, false)).toEqual(['reasoning_effort'])
  expect(fitting(chosen, [])).toBe(chosen)
})

describe('the body for an OpenAI upstream', () => {
  test('says what the request says, in the words of the upstream', () => {
    const request = chat({
      maxTokens: 50,
      minTokens: 5,
      stop: ['END'],
      sampling: {
        temperature: 0.5,
        topP: 0.9,
        topK: 40,
        minP: 0.1,
        repeatPenalty: 1.1,
        frequencyPenalty: 1,
        presencePenalty: -1,
        logitBias: { 5: 2 },
      },
      logprobs: 3,
      reasoning: { effort: 'low' },
    })
    const both = {
      messages: [{ role: 'user', content: 'hi' }],
      stop: ['END'],
      temperature: 0.5,
      top_p: 0.9,
      frequency_penalty: 1,
      presence_penalty: -1,
      logit_bias: { 5: 2 },
      logprobs: true,
      top_logprobs: 3,
      reasoning_effort: 'low',
    }
    expect(openAiBody(request, 'm', false, cloud)).toEqual({ model: 'm', ...both, max_completion_tokens: 50 })
    expect(openAiBody(request, 'm', true, open)).toEqual({
      model: 'm',
      ...both,
      max_tokens: 50,
      seed: 7,
      top_k: 40,
      min_p: 0.1,
      repetition_penalty: 1.1,
      min_tokens: 5,
      stream: true,
      stream_options: { include_usage: true },
    })
    expect(openAiBody(request, 'm', false, { ...cloud, maxTokensName: 'max_tokens' })).toHaveProperty('max_tokens', 50)
  })

  test('puts images that tools returned behind the last of them', () => {
    const image = { kind: 'image', url: 'data:image/png;base64,AAAA' } as const
    const request = chat({
      prompt: {
        kind: 'chat',
        messages: [
          { role: 'user', content: 'look' },
          {
            role: 'assistant',
            content: '',
            reasoning: 'hm',
            toolCalls: [
              { id: 'a', name: 'f', arguments: '{}' },
              { id: 'b', name: 'f', arguments: '{}' },
            ],
          },
          { role: 'tool', toolCallId: 'a', content: [{ kind: 'text', text: 'seen' }, image] },
          { role: 'tool', toolCallId: 'b', content: 'gone', isError: true },
          { role: 'user', content: 'so?' },
        ],
      },
      tools: [{ name: 'f', parameters: true }],
      toolChoice: { name: 'f' },
      parallelToolCalls: false,
      format: { kind: 'schema', name: 's', schema: { type: 'object' }, strict: true },
    })
    const { messages, ...rest } = openAiBody(request, 'm', false, cloud)
    expect(messages).toEqual([
      { role: 'user', content: 'look' },
      {
        role: 'assistant',
        content: null,
        tool_calls: ['a', 'b'].map((id) => ({ id, type: 'function', function: { name: 'f', arguments: '{}' } })),
      },
      { role: 'tool', tool_call_id: 'a', content: 'seen' },
      { role: 'tool', tool_call_id: 'b', content: 'Error: gone' },
      {
        role: 'user',
        content: [
          { type: 'text', text: 'Images that the tools returned:' },
          { type: 'image_url', image_url: { url: image.url } },
        ],
      },
      { role: 'user', content: 'so?' },
    ])
    expect(rest).toEqual({
      model: 'm',
      tools: [{ type: 'function', function: { name: 'f', parameters: {} } }],
      tool_choice: { type: 'function', function: { name: 'f' } },
      parallel_tool_calls: false,
      response_format: { type: 'json_schema', json_schema: { name: 's', schema: { type: 'object' }, strict: true } },
    })
  })

  test("of a completion, an embedding or a ranking is that endpoint's own", () => {
    expect(openAiBody(chat({ prompt: { kind: 'text', text: 'once' }, maxTokens: 3 }), 'm', false, cloud)).toEqual({
      model: 'm',
      prompt: 'once',
      max_tokens: 3,
    })
    expect(openAiBody(chat({ prompt: { kind: 'embed', inputs: ['a'], dimensions: 4 } }), 'm', false, open)).toEqual({
      model: 'm',
      input: ['a'],
      encoding_format: 'float',
      dimensions: 4,
    })
    expect(openAiBody(chat({ prompt: { kind: 'rank', query: 'q', documents: ['a'] } }), 'm', false, open)).toEqual({
      model: 'm',
      query: 'q',
      documents: ['a'],
    })
  })

  test("is the caller's own where that says more, with model and stream replaced", () => {
    const body = {
      model: 'mine',
      n: 2,
      messages: [],
      web_search_options: {},
      stream_options: { include_obfuscation: false },
      stream: false,
    }
    const request = chat({ verbatim: { dialect: 'openai', body } })
    expect(openAiBody(request, 'm', true, cloud)).toEqual({
      model: 'm',
      messages: [],
      web_search_options: {},
      stream: true,
      stream_options: { include_obfuscation: false, include_usage: true },
    })
    expect(openAiBody(request, 'm', false, cloud)).toEqual({ model: 'm', messages: [], web_search_options: {}, stream: false })
    expect(openAiBody(chat({ verbatim: { dialect: 'anthropic', body } }), 'm', false, cloud)).toHaveProperty('messages', [
      { role: 'user', content: 'hi' },
    ])
    const own = { repeat_penalty: 1.1, reasoning_max_tokens: 2_000, reasoning_effort: 'max', top_k: 5 }
    const capped = chat({
      ...{ verbatim: { dialect: 'openai', body: { ...body, ...own } }, sampling: { repeatPenalty: 1.1, topK: 5 } },
      reasoning: { effort: 'xhigh', maxTokens: 2_000 },
    })
    const told = openAiBody(capped, 'm', false, { ...cloud, extended: true })
    expect(told).toMatchObject({ repetition_penalty: 1.1, thinking_token_budget: 2_000, reasoning_effort: 'max', top_k: 5 })
    for (const name of ['repeat_penalty', 'reasoning_max_tokens']) expect(told).not.toHaveProperty(name)
  })
})

describe('the body for an Anthropic upstream', () => {
  test('leaves out messages that say nothing, which the dialect refuses', () => {
    const messages: ChatMessage[] = [
      { role: 'system', content: 'Be brief.' },
      { role: 'user', content: 'hi' },
      { role: 'assistant', content: '' },
      { role: 'user', content: [{ kind: 'text', text: '' }] },
      { role: 'user', content: 'again' },
    ]
    const { system, messages: sent } = anthropicBody(chat({ prompt: { kind: 'chat', messages } }), 'm', false)
    expect([system, sent]).toEqual([
      'Be brief.',
      [
        {
          role: 'user',
          content: [
            { type: 'text', text: 'hi' },
            { type: 'text', text: 'again' },
          ],
        },
      ],
    ])
    const alone = messages.slice(0, 1).concat({ role: 'user', content: '' })
    expect(anthropicBody(chat({ prompt: { kind: 'chat', messages: alone } }), 'm', false)).toMatchObject({
      messages: [{ role: 'user', content: 'Be brief.' }],
    })
  })

  test('has system apart, neighbours joined, results as blocks of the user, and thinking given back', () => {
    const request = chat({
      prompt: {
        kind: 'chat',
        messages: [
          { role: 'system', content: 'Be brief.' },
          {
            role: 'user',
            content: [
              { kind: 'image', url: 'data:image/png;base64,AAAA' },
              { kind: 'image', url: 'https://x/y.png' },
              { kind: 'text', text: '' },
            ],
          },
          { role: 'user', content: 'look' },
          {
            role: 'assistant',
            content: 'I do.',
            reasoning: 'hm',
            reasoningSignature: 'c2ln',
            toolCalls: [
              { id: 'call.1', name: 'f', arguments: '{"a":1}' },
              { id: 'b', name: 'f', arguments: 'oops' },
            ],
          },
          { role: 'tool', toolCallId: 'call.1', content: 'seen' },
          { role: 'tool', toolCallId: 'b', content: [{ kind: 'text', text: 'no' }], isError: true },
          { role: 'system', content: 'Be kind.' },
        ],
      },
    })
    expect(anthropicBody(request, 'm', true)).toEqual({
      model: 'm',
      max_tokens: 4_096,
      stream: true,
      system: 'Be brief.\n\nBe kind.',
      messages: [
        {
          role: 'user',
          content: [
            { type: 'image', source: { type: 'base64', media_type: 'image/png', data: 'AAAA' } },
            { type: 'image', source: { type: 'url', url: 'https://x/y.png' } },
            { type: 'text', text: 'look' },
          ],
        },
        {
          role: 'assistant',
          content: [
            { type: 'thinking', thinking: 'hm', signature: 'c2ln' },
            { type: 'text', text: 'I do.' },
            { type: 'tool_use', id: 'call_1', name: 'f', input: { a: 1 } },
            { type: 'tool_use', id: 'b', name: 'f', input: { malformed_arguments: 'oops' } },
          ],
        },
        {
          role: 'user',
          content: [
            { type: 'tool_result', tool_use_id: 'call_1', content: 'seen' },
            { type: 'tool_result', tool_use_id: 'b', content: [{ type: 'text', text: 'no' }], is_error: true },
          ],
        },
      ],
    })
  })

  test('leaves out texts of nothing but white space, and messages of nothing else', () => {
    const messages: ChatMessage[] = [
      { role: 'system', content: ' \n' },
      {
        role: 'user',
        content: [
          { kind: 'text', text: 'look' },
          { kind: 'text', text: '\n\n' },
        ],
      },
      { role: 'assistant', content: ' ', toolCalls: [{ id: 'a', name: 'f', arguments: '{}' }] },
      { role: 'tool', toolCallId: 'a', content: '\n' },
      { role: 'assistant', content: '\n' },
      { role: 'user', content: 'so?' },
    ]
    const body = anthropicBody(chat({ prompt: { kind: 'chat', messages } }), 'm', false)
    expect([body.system, body.messages]).toEqual([
      undefined,
      [
        { role: 'user', content: 'look' },
        { role: 'assistant', content: [{ type: 'tool_use', id: 'a', name: 'f', input: {} }] },
        {
          role: 'user',
          content: [
            { type: 'tool_result', tool_use_id: 'a' },
            { type: 'text', text: 'so?' },
          ],
        },
      ],
    ])
  })

  test("has tools, choices, budgets and schemas in the dialect's words", () => {
    const body = (extra: Partial<GenerationRequest>) => anthropicBody(chat(extra), 'm', false)
    const tools = [{ name: 'f', description: 'does', parameters: { properties: {} }, strict: true }]
    expect(body({ tools }).tools).toEqual([
      { name: 'f', description: 'does', input_schema: { type: 'object', properties: {} }, strict: true },
    ])
    expect(body({ tools })).not.toHaveProperty('tool_choice')
    expect(body({ tools, toolChoice: 'required', parallelToolCalls: false }).tool_choice).toEqual({
      type: 'any',
      disable_parallel_tool_use: true,
    })
    expect(body({ tools, toolChoice: { name: 'f' } }).tool_choice).toEqual({ type: 'tool', name: 'f' })
    expect(body({ tools, toolChoice: 'none', parallelToolCalls: false }).tool_choice).toEqual({ type: 'none' })
    expect(body({ tools, parallelToolCalls: false }).tool_choice).toEqual({ type: 'auto', disable_parallel_tool_use: true })
    expect(body({ reasoning: { maxTokens: 2_000 } })).toMatchObject({
      thinking: { type: 'enabled', budget_tokens: 2_000 },
      max_tokens: 6_096,
    })
    // A budget that leaves no room is refused there.
    expect(body({ reasoning: { maxTokens: 2_000 }, maxTokens: 1_500 })).toMatchObject({
      thinking: { budget_tokens: 1_499 },
      max_tokens: 1_500,
    })
    expect(body({ reasoning: { maxTokens: 0 } })).toMatchObject({ thinking: { type: 'disabled' }, max_tokens: 4_096 })
    const most = ['claude-3-haiku-20240307', 'claude-3-5-sonnet-latest', 'claude-sonnet-4-5', 'anthropic/claude-opus-4-1', 'other']
    expect(most.map((model) => anthropicBody(chat({}), model, false).max_tokens)).toEqual([4_096, 8_192, 32_000, 32_000, 4_096])
    expect(body({ reasoning: { effort: 'minimal' } })).toMatchObject({ thinking: { type: 'adaptive' }, output_config: { effort: 'low' } })
    expect(body({ format: { kind: 'schema', name: 's', schema: { type: 'object' }, strict: true } }).output_config).toEqual({
      format: { type: 'json_schema', schema: { type: 'object' } },
    })
    expect(body({ maxTokens: 9, stop: ['x'], sampling: { topK: 3, topP: 0.5, temperature: 0 } })).toMatchObject({
      max_tokens: 9,
      stop_sequences: ['x'],
      top_k: 3,
      top_p: 0.5,
      temperature: 0,
    })
  })

  test('of a system prompt alone asks it as the user', () => {
    const request = chat({ prompt: { kind: 'chat', messages: [{ role: 'system', content: 'Say hi.' }] } })
    const { system, messages } = anthropicBody(request, 'm', false)
    expect([system, messages]).toEqual([undefined, [{ role: 'user', content: 'Say hi.' }]])
  })

  test("is the caller's own where that says more, with model and stream replaced", () => {
    const body = { model: 'mine', max_tokens: 5, messages: [], container: 'c' }
    expect(anthropicBody(chat({ verbatim: { dialect: 'anthropic', body } }), 'm', true)).toEqual({ ...body, model: 'm', stream: true })
  })

  test.each([true, false])(
    'asks for no thinking by budget in the midst of a turn that called tools without a thought (verbatim: %s)',
    (verbatim) => {
      const call = { type: 'tool_use', id: 'a', name: 'f', input: {} }
      const result = { role: 'user', content: [{ type: 'tool_result', tool_use_id: 'a', content: 'x' }] }
      const thought = { type: 'thinking', thinking: 'hm', signature: 'c2ln' }
      const asked = { role: 'user', content: 'hi' }
      const edits = [{ type: 'clear_thinking_20251015', keep: 'all' }]
      const bodyOf = (messages: object[], model = 'claude-x'): Record<string, unknown> => {
        const body = { model: 'm', max_tokens: 9_000, messages, thinking: { type: 'enabled', budget_tokens: 2_000 } }
        const given = verbatim ? { ...body, context_management: { edits }, metadata: { user_id: 'u' } } : body
        const { generation } = parseMessagesRequest(given)
        return anthropicBody({ ...generation, seed: 1 }, model, true)
      }
      const unthought = bodyOf([asked, { role: 'assistant', content: [call] }, result])
      expect([unthought.thinking, unthought.context_management]).toEqual([undefined, undefined])
      const foreign = { role: 'assistant', content: [{ ...thought, signature: '' }, call] }
      expect(bodyOf([asked, foreign, result]).thinking).toBeUndefined()
      const later = { role: 'assistant', content: [{ ...call, id: 'b' }] }
      const answered = { role: 'user', content: [{ type: 'tool_result', tool_use_id: 'b', content: 'y' }] }
      expect(bodyOf([asked, foreign, result, later, answered]).thinking).toBeUndefined()
      const kept = { type: 'enabled', budget_tokens: 2_000 }
      // Other servers of the dialect sign nothing, and think on.
      expect(bodyOf([asked, foreign, result], 'open').thinking).toEqual(kept)
      // The first of the turn thought, which is all that is asked for.
      expect(bodyOf([asked, { role: 'assistant', content: [thought, call] }, result, later, answered]).thinking).toEqual(kept)
      expect(bodyOf([asked, foreign, result, { role: 'assistant', content: 'done' }, { role: 'user', content: 'next' }]).thinking).toEqual(
        kept,
      )
      expect(bodyOf([asked]).thinking).toEqual(kept)
    },
  )

  test('names images as the dialect does', () => {
    const content = [{ kind: 'image' as const, url: 'data:image/jpg;base64,AAAA' }]
    const { messages } = anthropicBody(chat({ prompt: { kind: 'chat', messages: [{ role: 'user', content }] } }), 'm', true)
    expect(messages).toMatchObject([{ content: [{ source: { type: 'base64', media_type: 'image/jpeg', data: 'AAAA' } }] }])
  })

  test("leaves another provider's thinking out of the caller's own words too", () => {
    const [foreign, own] = ['', 'signed'].map((signature) => ({ type: 'thinking', thinking: 'hm', signature }))
    const said = { role: 'assistant', content: [foreign, own, { type: 'text', text: 'x' }] }
    const body = { max_tokens: 5, messages: [{ role: 'user', content: 'hi' }, said], container: 'c' }
    expect(anthropicBody(chat({ verbatim: { dialect: 'anthropic', body } }), 'm', true).messages).toEqual([
      body.messages[0],
      { role: 'assistant', content: [own, { type: 'text', text: 'x' }] },
    ])
    // Where nothing is left of a message, those around it become one.
    const alone = { ...body, messages: [body.messages[0], { role: 'assistant', content: [foreign] }, { role: 'user', content: 'so?' }] }
    expect(anthropicBody(chat({ verbatim: { dialect: 'anthropic', body: alone } }), 'm', true).messages).toEqual([
      {
        role: 'user',
        content: [
          { type: 'text', text: 'hi' },
          { type: 'text', text: 'so?' },
        ],
      },
    ])
  })
})

test('what was thought between texts of one turn does not make two turns of it where turns alternate', () => {
  const said = (content: string, reasoning?: string) => ({
    role: 'assistant' as const,
    content,
    ...(reasoning === undefined ? {} : { reasoning }),
  })
  const call = { id: 'c', name: 'f', arguments: '{}' }
  const user = { role: 'user' as const, content: 'x' }
  expect(joinedTurns([user, said('One.'), { ...said('Two.', 'hm'), toolCalls: [call] }, user])).toEqual([
    user,
    { role: 'assistant', content: 'One.Two.', reasoning: 'hm', toolCalls: [call] },
    user,
  ])
  const two = [user, said('One.'), said('Two.'), user]
  expect(joinedTurns(two)).toBe(two)
  const called = [{ ...said('One.'), toolCalls: [call] }, said('Two.', 'hm')]
  expect(joinedTurns(called)).toBe(called)
})

describe('abilities', () => {
  const tools = [{ name: 'f' }]
  const asking: Partial<Record<Ability, Partial<GenerationRequest>>> = {
    completions: { prompt: { kind: 'text', text: 'x' } },
    embeddings: { prompt: { kind: 'embed', inputs: ['x'] } },
    rerank: { prompt: { kind: 'rank', query: 'x', documents: ['y'] } },
    images: { prompt: { kind: 'chat', messages: [{ role: 'user', content: [{ kind: 'image', url: 'https://x/y.png' }] }] } },
    tools: { tools },
    tool_choice: { tools, toolChoice: 'required' },
    parallel_tool_calls: { tools, parallelToolCalls: false },
    json_object: { format: { kind: 'json' } },
    json_schema: { format: { kind: 'schema', name: 's', schema: {}, strict: true } },
    logprobs: { logprobs: 2 },
    reasoning_effort: { reasoning: { effort: 'high' } },
    reasoning_max_tokens: { reasoning: { maxTokens: 2_000 } },
    reasoning_none: { reasoning: { effort: 'none' } },
    min_tokens: { minTokens: 5 },
    temperature: { sampling: { temperature: 0.5 } },
    top_p: { sampling: { topP: 0.5 } },
    top_k: { sampling: { topK: 5 } },
    min_p: { sampling: { minP: 0.5 } },
    repeat_penalty: { sampling: { repeatPenalty: 1.5 } },
    frequency_penalty: { sampling: { frequencyPenalty: 1 } },
    presence_penalty: { sampling: { presencePenalty: 1 } },
    logit_bias: { sampling: { logitBias: { 1: 1 } } },
  }
  // Only a given seed is sent, which no request says; and a dialect's own members come as a whole body.
  // Of a value it is not the body that says whether it is taken.
  const elsewhere: Ability[] = ['seed', 'openai_dialect', 'anthropic_dialect', 'temperature_above_1', 'reasoning_max_tokens_below_1024']

  test.each<[string, readonly Ability[], (request: GenerationRequest) => object]>([
    ["OpenAI's cloud", OPENAI_ABILITIES, (request) => openAiBody(request, 'm', false, cloud)],
    ['an open server', OPEN_SERVER_ABILITIES, (request) => openAiBody(request, 'm', false, open)],
    ['Anthropic', ANTHROPIC_ABILITIES, (request) => anthropicBody(request, 'm', false)],
  ])('that %s may claim are those that its body speaks of', (_name, claimed, bodyOf) => {
    const spoken = ABILITIES.filter((ability) => {
      const extra = asking[ability]
      if (extra === undefined) return false
      expect(needsOf(chat(extra), false)).toContain(ability)
      return JSON.stringify(bodyOf(chat(extra))) !== JSON.stringify(bodyOf(chat(plainer(ability, extra))))
    })
    expect(spoken.filter((ability) => !BY_PATH.has(ability))).toEqual(
      ABILITIES.filter((ability) => claimed.includes(ability) && !elsewhere.includes(ability) && !BY_PATH.has(ability)),
    )
  })
})

/** Another endpoint, and not another member of the body. */
const BY_PATH = new Set<Ability>(['completions', 'embeddings', 'rerank'])

/** The same without what asks for the ability. */
function plainer(ability: Ability, { tools }: Partial<GenerationRequest>): Partial<GenerationRequest> {
  return ability === 'tools' || tools === undefined ? {} : { tools }
}
