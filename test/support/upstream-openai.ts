import { type Call, type Play, textOf, usageOf, type Voice } from './upstream-play.ts'

/** The wire format of OpenAI: chat completions, completions, embeddings, models. */
export const openAiVoice: Voice = {
  events(play, call) {
    const isChat = isChatCall(call)
    const object = isChat ? 'chat.completion.chunk' : 'text_completion'
    const event = (choices: unknown[], isPiece: boolean, extra: object = {}) => ({
      data: `data: ${JSON.stringify({ id: 'cmpl-up', object, created: 1_700_000_000, model: call.body.model, choices, ...extra })}\n\n`,
      isPiece,
    })
    const choice = (said: object, finish: string | null = null) => [
      { index: 0, ...(isChat ? { delta: said } : said), logprobs: null, finish_reason: finish },
    ]
    const text = (content: string) => (isChat ? { content } : { text: content })
    return [
      ...(isChat ? [event(choice({ role: 'assistant', content: '', refusal: null }), false)] : []),
      ...(play.reasoning ?? []).map((reasoning) => event(choice({ reasoning_content: reasoning }), true)),
      ...textOf(play, call).pieces.map((piece) => event(choice(text(piece)), true)),
      ...(play.turns ?? []).flatMap(({ reasoning, text: said }) => [
        event(choice({ reasoning_content: reasoning }), true),
        event(choice(text(said)), true),
      ]),
      ...(play.annotations ?? []).map((annotation) => event(choice({ annotations: [annotation] }), true)),
      ...(play.refusal ?? []).map((refusal) => event(choice({ refusal }), true)),
      ...toolDeltas(play).map((delta) => event(choice({ tool_calls: [delta] }), true)),
      event(
        [
          {
            ...choice(isChat ? {} : { text: '' }, finishOf(play, call))[0],
            ...(play.stopSequence === undefined ? {} : { stop_reason: play.stopSequence }),
          },
        ],
        false,
      ),
      ...(wantsUsage(call) && play.usage !== 'missing' ? [event([], false, { usage: usageView(play, call) })] : []),
      { data: 'data: [DONE]\n\n', isPiece: false },
    ]
  },

  body(play, call) {
    const { model } = call.body
    if (call.path === '/v1/models')
      return { object: 'list', data: ['small', 'large'].map((id) => ({ id, object: 'model', owned_by: 'upstream' })) }
    if (call.path === '/v1/embeddings')
      return { object: 'list', model, data: vectorsOf(call.body.input), usage: { prompt_tokens: 7, total_tokens: 7 } }
    if (call.method !== 'POST' || !/\/(chat\/)?completions$/.test(call.path)) return null
    const finish = { index: 0, logprobs: null, finish_reason: finishOf(play, call) }
    // Unstreamed the dialect cannot say in which order things came.
    const text = [...textOf(play, call).pieces, ...(play.turns ?? []).map((turn) => turn.text)].join('')
    const choice = isChatCall(call) ? { ...finish, message: messageOf(play, text) } : { ...finish, text }
    const object = isChatCall(call) ? 'chat.completion' : 'text_completion'
    const usage = play.usage === 'missing' ? {} : { usage: usageView(play, call) }
    return { id: 'cmpl-up', object, created: 1_700_000_000, model, choices: [choice], ...usage }
  },

  error: (status, message, code = CODES[status]) => ({
    error: { message, type: code ?? TYPES[status] ?? 'server_error', param: null, code: code ?? null },
  }),
  errorEvent: (message) => `data: ${JSON.stringify({ error: { message, type: 'server_error', param: null, code: null } })}\n\n`,
  quotaHeaders: ({ requestsLeft, tokensLeft, resetsInS }) => ({
    'x-ratelimit-limit-requests': '500',
    'x-ratelimit-remaining-requests': String(requestsLeft),
    'x-ratelimit-reset-requests': `${Math.floor(resetsInS / 60)}m${resetsInS % 60}s`,
    'x-ratelimit-limit-tokens': '30000',
    'x-ratelimit-remaining-tokens': String(tokensLeft),
    'x-ratelimit-reset-tokens': `${resetsInS}s`,
  }),
}

const TYPES: Record<number, string> = {
  400: 'invalid_request_error',
  401: 'invalid_request_error',
  403: 'invalid_request_error',
  404: 'invalid_request_error',
  429: 'tokens',
}
const CODES: Record<number, string> = { 401: 'invalid_api_key', 404: 'model_not_found', 429: 'rate_limit_exceeded' }

function isChatCall(call: Call): boolean {
  return call.path.endsWith('/chat/completions')
}

function wantsUsage({ body }: Call): boolean {
  return (body.stream_options as { include_usage?: boolean } | undefined)?.include_usage === true
}

function finishOf(play: Play, call: Call): string {
  return play.finish ?? (play.toolCalls !== undefined ? 'tool_calls' : textOf(play, call).isCut ? 'length' : 'stop')
}

/** The first piece of a call comes with its id and name. */
function toolDeltas({ toolCalls = [], isInterleaved }: Play): object[] {
  if (isInterleaved === true)
    return [
      ...toolCalls.map(({ id, name }, index) => ({ index, id, type: 'function', function: { name, arguments: '' } })),
      ...Array.from({ length: Math.max(...toolCalls.map(({ pieces }) => pieces.length)) }, (_, position) =>
        toolCalls.flatMap(({ pieces }, index) =>
          pieces[position] === undefined ? [] : { index, function: { arguments: pieces[position] } },
        ),
      ).flat(),
    ]
  return toolCalls.flatMap(({ id, name, pieces, isCustom }, index) =>
    pieces.map((written, position) =>
      position === 0 ? { index, id, ...called(written, isCustom, name) } : { index, ...called(written, isCustom) },
    ),
  )
}

/** What follows the first piece says neither name nor type. */
function called(written: string, isCustom = false, name?: string): object {
  const type = isCustom ? 'custom' : 'function'
  const head = name === undefined ? {} : { name }
  return { ...(name === undefined ? {} : { type }), [type]: { ...head, [isCustom ? 'input' : 'arguments']: written } }
}

function messageOf(play: Play, text: string): object {
  return {
    role: 'assistant',
    content: text === '' ? null : text,
    refusal: play.refusal?.join('') ?? null,
    ...(play.annotations === undefined ? {} : { annotations: play.annotations }),
    ...(play.reasoning === undefined
      ? {}
      : { reasoning_content: [...play.reasoning, ...(play.turns ?? []).map((turn) => turn.reasoning)].join('') }),
    ...(play.toolCalls === undefined
      ? {}
      : {
          tool_calls: play.toolCalls.map(({ id, name, pieces, isCustom }) => ({ id, ...called(pieces.join(''), isCustom, name) })),
        }),
  }
}

function usageView(play: Play, call: Call): object {
  const { prompt, completion, reasoning } = usageOf(play, call)
  return {
    prompt_tokens: prompt,
    completion_tokens: completion,
    total_tokens: prompt + completion,
    prompt_tokens_details: { cached_tokens: Math.min(prompt, 4) },
    completion_tokens_details: { reasoning_tokens: reasoning },
  }
}

/** Two numbers that tell which input it was. */
function vectorsOf(input: unknown): object[] {
  const inputs = Array.isArray(input) ? input : [input]
  return inputs.map((text, index) => ({ object: 'embedding', index, embedding: [String(text).length, index] }))
}
