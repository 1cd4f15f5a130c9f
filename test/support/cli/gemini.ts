import { play } from './play.ts'

// Gemini CLI 0.61, `--output-format stream-json`.
const started = [
  { type: 'init', session_id: 's', model: 'gemini-2.5-flash' },
  { type: 'message', role: 'user', content: 'the prompt' },
]
const piece = (content: string) => ({ type: 'message', role: 'assistant', content, delta: true })
const failed = (message: string) => [...started, { type: 'result', status: 'error', error: { type: 'unknown', message }, stats: {} }]

await play({
  begin: (text) => [...started, piece(text)],
  answer: (pieces) => [
    ...started,
    ...pieces.map(piece),
    { type: 'result', status: 'success', stats: { total_tokens: 19, input_tokens: 12, output_tokens: 7, cached: 3 } },
  ],
  limit: { lines: failed('[API Error: You have exhausted your capacity on this model. Your quota will reset after 1h30m0s.]'), exit: 173 },
  auth: { lines: ['Please set an Auth method in your settings.json'], exit: 41 },
})
