import { type Call, type Play, textOf, usageOf, type Voice } from './upstream-play.ts'

/** The wire format of Anthropic: messages, count_tokens, models. */
export const anthropicVoice: Voice = {
  events(play, call) {
    const events: ReturnType<Voice['events']> = []
    const say = (type: string, members: object, isPiece = false) =>
      events.push({ data: `event: ${type}\ndata: ${JSON.stringify({ type, ...members })}\n\n`, isPiece })
    const { pieces } = textOf(play, call)
    const blocks: { content: object; deltas: object[] }[] = []
    if (play.reasoning !== undefined)
      blocks.push({
        content: { type: 'thinking', thinking: '', signature: '' },
        deltas: [
          ...play.reasoning.map((thinking) => ({ type: 'thinking_delta', thinking })),
          { type: 'signature_delta', signature: SIGNATURE },
        ],
      })
    if (pieces.length > 0)
      blocks.push({ content: { type: 'text', text: '' }, deltas: pieces.map((text) => ({ type: 'text_delta', text })) })
    for (const { reasoning: thinking, text } of play.turns ?? [])
      blocks.push(
        {
          content: { type: 'thinking', thinking: '', signature: '' },
          deltas: [
            { type: 'thinking_delta', thinking },
            { type: 'signature_delta', signature: SIGNATURE },
          ],
        },
        { content: { type: 'text', text: '' }, deltas: [{ type: 'text_delta', text }] },
      )
    for (const { id, name, pieces } of play.toolCalls ?? [])
      blocks.push({
        content: { type: 'tool_use', id, name, input: {} },
        deltas: pieces.map((written) => ({ type: 'input_json_delta', partial_json: written })),
      })
    say('message_start', { message: { ...head(call), content: [], stop_reason: null, stop_sequence: null, ...usageView(play, call, 1) } })
    for (const [index, { content, deltas }] of blocks.entries()) {
      say('content_block_start', { index, content_block: content })
      if (index === 0) say('ping', {})
      for (const delta of deltas) say('content_block_delta', { index, delta }, !('signature' in delta))
      say('content_block_stop', { index })
    }
    say('message_delta', { delta: stopOf(play, call), ...usageView(play, call) })
    say('message_stop', {})
    return events
  },

  body(play, call) {
    if (call.path === '/v1/messages/count_tokens') return { input_tokens: usageOf({}, call).prompt }
    if (call.path === '/v1/models')
      return {
        data: ['small', 'large'].map((id) => ({ type: 'model', id, display_name: id, created_at: '2026-01-01T00:00:00Z' })),
        has_more: false,
        first_id: 'small',
        last_id: 'large',
      }
    if (call.method !== 'POST' || call.path !== '/v1/messages') return null
    const text = textOf(play, call).pieces.join('')
    const content = [
      ...(play.reasoning === undefined ? [] : [{ type: 'thinking', thinking: play.reasoning.join(''), signature: SIGNATURE }]),
      ...(text === '' ? [] : [{ type: 'text', text, citations: null }]),
      ...(play.turns ?? []).flatMap(({ reasoning: thinking, text }) => [
        { type: 'thinking', thinking, signature: SIGNATURE },
        { type: 'text', text, citations: null },
      ]),
      ...(play.toolCalls ?? []).map(({ id, name, pieces }) => ({
        type: 'tool_use',
        id,
        name,
        input: JSON.parse(pieces.join('') || '{}') as unknown,
      })),
    ]
    return { ...head(call), content, ...stopOf(play, call), ...usageView(play, call) }
  },

  error: (status, message) => ({ type: 'error', error: { type: TYPES[status] ?? 'api_error', message }, request_id: 'upstream' }),
  errorEvent: (message) => `event: error\ndata: ${JSON.stringify({ type: 'error', error: { type: 'overloaded_error', message } })}\n\n`,
  quotaHeaders: ({ requestsLeft, tokensLeft, resetsInS }) => {
    const reset = new Date(Date.now() + resetsInS * 1_000).toISOString()
    return {
      'anthropic-ratelimit-requests-limit': '50',
      'anthropic-ratelimit-requests-remaining': String(requestsLeft),
      'anthropic-ratelimit-requests-reset': reset,
      'anthropic-ratelimit-tokens-limit': '40000',
      'anthropic-ratelimit-tokens-remaining': String(tokensLeft),
      'anthropic-ratelimit-tokens-reset': reset,
    }
  },
}

export const SIGNATURE = 'c2lnbmVkLWJ5LXVwc3RyZWFt'

const TYPES: Record<number, string> = {
  400: 'invalid_request_error',
  401: 'authentication_error',
  403: 'permission_error',
  404: 'not_found_error',
  413: 'request_too_large',
  429: 'rate_limit_error',
  529: 'overloaded_error',
}

function head(call: Call): object {
  return { id: 'msg_up', type: 'message', role: 'assistant', model: call.body.model }
}

function stopOf(play: Play, call: Call): object {
  const { stopSequence, toolCalls } = play
  const natural =
    stopSequence !== undefined
      ? 'stop_sequence'
      : toolCalls !== undefined
        ? 'tool_use'
        : textOf(play, call).isCut
          ? 'max_tokens'
          : 'end_turn'
  return { stop_reason: play.finish ?? natural, stop_sequence: stopSequence ?? null }
}

/** Cached tokens stand beside the others. */
function usageView(play: Play, call: Call, outputSoFar?: number): object {
  if (play.usage === 'missing') return {}
  const { prompt, completion, reasoning } = usageOf(play, call)
  const cached = Math.min(prompt, 4)
  return {
    usage: {
      input_tokens: prompt - cached,
      cache_creation_input_tokens: play.cache?.written ?? 0,
      cache_read_input_tokens: play.cache?.read ?? cached,
      output_tokens: outputSoFar ?? completion,
      output_tokens_details: { thinking_tokens: reasoning },
    },
  }
}
