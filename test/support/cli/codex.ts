import { play } from './play.ts'

// Codex 0.169, `codex exec --json`.
const started = [{ type: 'thread.started', thread_id: 't' }, { type: 'turn.started' }]
const item = (id: string, type: string, text: string) => ({ type: 'item.completed', item: { id, type, text } })
const failed = (message: string) => [...started, { type: 'error', message }, { type: 'turn.failed', error: { message } }]
const limits = {
  primary: { used_percent: 42, window_minutes: 300, resets_in_seconds: 3600 },
  secondary: { used_percent: 75, window_minutes: 10_080, resets_in_seconds: 86_400 },
}

await play({
  begin: (text) => [...started, item('item_0', 'agent_message', text)],
  answer: (pieces) => [
    ...started,
    { type: 'item.completed', item: { id: 'item_0', type: 'error', message: 'Model metadata not found.' } },
    { type: 'error', message: 'Reconnecting... 2/5 (stream disconnected)' },
    item('item_1', 'reasoning', 'Let me think.'),
    item('item_2', 'agent_message', pieces.join('')),
    { type: 'token_count', rate_limits: limits },
    { type: 'turn.completed', usage: { input_tokens: 12, cached_input_tokens: 3, output_tokens: 7, reasoning_output_tokens: 2 } },
  ],
  limit: { lines: failed('You’ve hit your usage limit. Upgrade to Pro or try again in 1 hour 30 minutes.'), exit: 1 },
  auth: { lines: failed('unexpected status 401 Unauthorized: Incorrect API key provided'), exit: 1 },
})
