import { createHash } from 'node:crypto'
import type { AnswerDelta, TokenLogprob } from '../../../proto/answer.ts'
import { type GenerationRequest, type Tool, textOf } from '../../../proto/request.ts'
import { sampleOf } from './schema-sample.ts'
import { Chance } from './words.ts'

/** What one token releases. */
export type Piece = { text: string; delta?: AnswerDelta }

/**
 * The whole answer of the fake, token by token, as a pure function of model name and request: any place of it can be asked
 * for, so an attempt that goes on from some token releases exactly the rest.
 */
export type Script = {
  piece(position: number): Piece
  /** Tokens until it ends by itself; words go on for ever. */
  length: number
  ending: 'stop' | 'tool_calls'
  /** How many of the first tokens are reasoning. */
  reasoningTokens: number
  /** Its pieces are nothing but text. */
  plain: boolean
  /** False of vectors and scores: nothing is said, and nothing is counted. */
  says: boolean
}

export function scriptOf(name: string, request: GenerationRequest): Script {
  const seed = request.sampling.temperature === 0 || request.seedIsChosen === true ? '' : String(request.seed)
  const chance = new Chance(`${name}\u0000${JSON.stringify(request.prompt)}\u0000${seed}`)
  const thoughts = thoughtsOf(request)
  const answer = answerOf(request, chance)
  const { logprobs } = request
  if (thoughts === 0 && logprobs === undefined) return answer
  return {
    piece: (position) => {
      if (position < thoughts)
        return { text: '', delta: { reasoning: (position === 0 ? '' : ' ') + chance.word(THOUGHTS_FROM + position) } }
      const piece = answer.piece(position - thoughts)
      if (logprobs === undefined || piece.text === '') return piece
      return { text: piece.text, delta: { ...piece.delta, logprobs: [logprobOf(piece.text, position, logprobs, chance)] } }
    },
    length: thoughts + answer.length,
    ending: answer.ending,
    reasoningTokens: thoughts,
    plain: false,
    says: answer.says,
  }
}

function answerOf(request: GenerationRequest, chance: Chance): Script {
  const { prompt, format } = request
  if (prompt.kind === 'embed') return listed(prompt.inputs, (input) => JSON.stringify(vectorOf(input, prompt.dimensions ?? DIMENSIONS)))
  if (prompt.kind === 'rank') return listed(prompt.documents, (document) => String(relevanceOf(prompt.query, document)))
  const calls = calledTools(request)
  if (calls.length > 0)
    return fixed(
      calls.flatMap((tool, index) => callPieces(tool, index, chance)),
      'tool_calls',
    )
  if (format === undefined) return words(chance)
  const document = format.kind === 'schema' ? sampleOf(format.schema, chance) : { answer: `${chance.word(0)} ${chance.word(1)}` }
  const pieces = cut(JSON.stringify(document))
  // White space after a document belongs to it: so it may be as long as is asked for.
  while (pieces.length < (request.minTokens ?? 0)) pieces.push(' ')
  return fixed(
    pieces.map((text) => ({ text })),
    'stop',
  )
}

function words(chance: Chance): Script {
  const piece = (position: number): Piece => ({ text: position === 0 ? chance.word(0) : ` ${chance.word(position)}` })
  return { piece, length: Number.POSITIVE_INFINITY, ending: 'stop', reasoningTokens: 0, plain: true, says: true }
}

function fixed(pieces: Piece[], ending: Script['ending']): Script {
  return {
    piece: (position) => pieces[position] ?? { text: '' },
    length: pieces.length,
    ending,
    reasoningTokens: 0,
    plain: false,
    says: true,
  }
}

/** A JSON list, an element a token, computed when its turn has come: two thousand long vectors take seconds. */
function listed(given: readonly string[], element: (given: string) => string): Script {
  const piece = (position: number): Piece => {
    const one = given[position]
    if (one === undefined) return { text: '' }
    return { text: `${position === 0 ? '[' : ','}${element(one)}${position === given.length - 1 ? ']' : ''}` }
  }
  return { piece, length: given.length, ending: 'stop', reasoningTokens: 0, plain: false, says: false }
}

function thoughtsOf({ reasoning }: GenerationRequest): number {
  if (reasoning === undefined || reasoning.effort === 'none') return 0
  return Math.min(reasoning.maxTokens ?? Number.POSITIVE_INFINITY, THOUGHTS[reasoning.effort ?? 'medium'])
}

const THOUGHTS = { minimal: 2, low: 4, medium: 6, high: 8, xhigh: 10 }
// Thoughts are other words than those of the answer.
const THOUGHTS_FROM = 1_000_000

/** Those it was told to call, or those that the last text of the user asks for: "call:weather". */
function calledTools({ prompt, tools = [], toolChoice = 'auto', parallelToolCalls = true }: GenerationRequest): Tool[] {
  if (toolChoice === 'none' || prompt.kind !== 'chat') return []
  if (typeof toolChoice === 'object') return tools.filter((tool) => tool.name === toolChoice.name)
  const last = prompt.messages.at(-1)
  const wish = last?.role === 'user' ? textOf(last.content) : ''
  const wanted = tools.filter((tool) => new RegExp(`call:${tool.name}(?![\\w-])`).test(wish))
  const called = wanted.length === 0 && toolChoice === 'required' ? tools.slice(0, 1) : wanted
  return parallelToolCalls ? called : called.slice(0, 1)
}

function callPieces(tool: Tool, index: number, chance: Chance): Piece[] {
  const place = (index + 1) * 1_000
  const id = `call_${[0, 1, 2]
    .map((part) =>
      chance
        .at(place + part)
        .toString(16)
        .padStart(8, '0'),
    )
    .join('')}`
  const values = tool.parameters === undefined ? {} : sampleOf(tool.parameters, chance)
  const growth = cut(JSON.stringify(values)).map((text) => ({ text: '', delta: { toolCalls: [{ index, arguments: text }] } }))
  return [{ text: '', delta: { toolCalls: [{ index, id, name: tool.name, arguments: '' }] } }, ...growth]
}

/** Pieces of a few characters, as tokens are. */
function cut(text: string): string[] {
  return text.match(/.{1,6}/gsu) ?? ['']
}

function logprobOf(token: string, position: number, alternatives: number, chance: Chance): TokenLogprob {
  const logprob = -(chance.at(position) % 1_000) / 1_000
  const chosen = { token, logprob, bytes: [...Buffer.from(token)] }
  const others = Array.from({ length: Math.max(0, alternatives - 1) }, (_, rank) => {
    const other = ` ${chance.word(position + (rank + 1) * 7_919)}`
    return { token: other, logprob: logprob - rank - 1, bytes: [...Buffer.from(other)] }
  })
  return { ...chosen, top_logprobs: alternatives === 0 ? [] : [chosen, ...others] }
}

const DIMENSIONS = 32

/** The sum of its words' own directions, so that texts with common words lie near one another; length 1. */
function vectorOf(text: string, dimensions: number): string {
  const vector = new Float64Array(dimensions)
  for (const word of wordsOf(text)) {
    const chance = new Chance(word)
    for (let place = 0; place < dimensions; place++) vector[place] = (vector[place] ?? 0) + chance.at(place) / 2 ** 31 - 1
  }
  const length = Math.hypot(...vector)
  const bytes = Buffer.alloc(dimensions * 4)
  for (const [place, value] of vector.entries()) bytes.writeFloatLE(value / length, place * 4)
  return bytes.toString('base64')
}

/** The part of the query's words that the document has. */
function relevanceOf(query: string, document: string): number {
  const there = new Set(wordsOf(document))
  const asked = wordsOf(query)
  return Math.round((asked.filter((word) => there.has(word)).length / asked.length) * 10_000) / 10_000
}

function wordsOf(text: string): string[] {
  const found = text.toLowerCase().match(/[\p{L}\p{N}]+/gu)
  return found === null ? [createHash('sha256').update(text).digest('hex')] : found
}
