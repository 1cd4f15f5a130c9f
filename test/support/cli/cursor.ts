import { play } from './play.ts'

// Cursor's agent, `--output-format stream-json --stream-partial-output`, as documented.
const message = (text: string) => ({ type: 'assistant', message: { role: 'assistant', content: [{ type: 'text', text }] } })
const piece = (text: string) => ({ ...message(text), timestamp_ms: 1 })
const started = [
  { type: 'system', subtype: 'init', apiKeySource: 'env' },
  { type: 'user', message: { role: 'user', content: [] } },
]
const result = { type: 'result', subtype: 'success', duration_ms: 1 }

await play({
  begin: (text) => [...started, piece(text)],
  answer: (pieces) => [
    ...started,
    { type: 'thinking', subtype: 'delta', text: 'Let me think.' },
    ...pieces.map(piece),
    message(pieces.join('')),
    {
      ...result,
      is_error: false,
      result: pieces.join(''),
      usage: { inputTokens: 9, outputTokens: 7, cacheReadTokens: 3, cacheWriteTokens: 0 },
    },
  ],
  limit: { lines: [...started, { ...result, is_error: true, result: 'You have hit your usage limit; try again in 90 minutes' }], exit: 1 },
  auth: { lines: [...started, { ...result, is_error: true, result: "Authentication required. Run 'agent login'." }], exit: 1 },
})
