import { play } from './play.ts'

// OpenCode 1.18, `opencode run --format json`.
const started = { type: 'step_start', part: { type: 'step-start' } }
const text = (whole: string) => ({ type: 'text', part: { type: 'text', text: whole } })
const failed = (data: unknown) => [started, { type: 'error', error: { name: 'APIError', data } }]

await play({
  begin: (whole) => [started, text(whole)],
  answer: (pieces) => [
    started,
    text(pieces.join('')),
    {
      type: 'step_finish',
      part: { type: 'step-finish', reason: 'stop', tokens: { input: 9, output: 7, reasoning: 0, cache: { read: 3, write: 0 } } },
    },
  ],
  limit: { lines: failed({ message: 'Too fast.', statusCode: 429, responseHeaders: { 'retry-after': '5400' } }), exit: 1 },
  auth: { lines: failed({ message: 'Incorrect API key provided', statusCode: 401 }), exit: 1 },
})
