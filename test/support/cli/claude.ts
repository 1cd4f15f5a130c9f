import { play } from './play.ts'

// Claude Code 2.1: its lines, with ids and numbers that no test reads left out.
const started = { type: 'system', subtype: 'init', tools: [], mcp_servers: [], model: 'claude-sonnet-4-5', permissionMode: 'default' }
const event = (inner: unknown) => ({ type: 'stream_event', event: inner, parent_tool_use_id: null })
const delta = (index: number, inner: unknown) => event({ type: 'content_block_delta', index, delta: inner })
const usage = { input_tokens: 12, cache_creation_input_tokens: 4, cache_read_input_tokens: 3, output_tokens: 7 }
const result = { type: 'result', subtype: 'success', is_error: false, num_turns: 1, stop_reason: 'end_turn', usage }
const resetsAt = Math.floor(Date.now() / 1000) + 3600

const begun = (text: string) => [
  started,
  event({ type: 'message_start', message: { id: 'msg_1', role: 'assistant', content: [], usage } }),
  delta(0, { type: 'thinking_delta', thinking: 'Let me think.' }),
  delta(0, { type: 'signature_delta', signature: 'sig==' }),
  delta(1, { type: 'text_delta', text }),
]
const synthetic = (text: string, error: string) => ({
  type: 'assistant',
  message: { id: 'made-up', model: '<synthetic>', content: [{ type: 'text', text }] },
  error,
})

await play({
  begin: begun,
  answer: ([first = '', ...pieces]) => [
    ...begun(first),
    ...pieces.map((text) => delta(1, { type: 'text_delta', text })),
    {
      type: 'assistant',
      message: { id: 'msg_1', content: [{ type: 'text', text: [first, ...pieces].join('') }] },
      parent_tool_use_id: null,
    },
    { type: 'rate_limit_event', rate_limit_info: { status: 'allowed', resetsAt, rateLimitType: 'five_hour', utilization: 0.92 } },
    event({ type: 'message_delta', delta: { stop_reason: 'end_turn' }, usage: { output_tokens: 7 } }),
    event({ type: 'message_stop' }),
    { ...result, result: [first, ...pieces].join('') },
  ],
  limit: {
    lines: [
      started,
      { type: 'rate_limit_event', rate_limit_info: { status: 'rejected', resetsAt, rateLimitType: 'five_hour', isUsingOverage: false } },
      synthetic("You've hit your session limit", 'rate_limit'),
      { ...result, is_error: true, api_error_status: 429, result: "You've hit your session limit · resets 3:59pm (UTC)" },
    ],
    exit: 1,
  },
  auth: {
    lines: [
      started,
      synthetic('Not logged in · Please run /login', 'authentication_failed'),
      { ...result, is_error: true, api_error_status: null, result: 'Not logged in · Please run /login' },
    ],
    exit: 1,
  },
})
