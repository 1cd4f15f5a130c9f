import { play } from './play.ts'

// A program of an operator's own, which writes lines of a format of its own.
const piece = (text: string) => ({ out: { 'a/b': text } })

await play({
  begin: (text) => [piece(text)],
  answer: (pieces) => [...pieces.map(piece), { used: { in: 12, out: 7 } }],
  limit: { lines: [], exit: 75 },
  auth: { lines: [], exit: 77 },
})
