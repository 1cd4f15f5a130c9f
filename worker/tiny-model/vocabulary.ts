import { OPENINGS, STORY, wordsOf } from './corpus.ts'

/** A SentencePiece vocabulary with byte fallback, as llama.cpp reads it. Ids are indexes. */
export type Vocabulary = {
  pieces: readonly string[]
  types: readonly number[]
  scores: readonly number[]
  idOf: (piece: string) => number
}

export const UNKNOWN = '<unk>'
export const BEGIN = '<s>'
export const TURN_BEGIN = '<|im_start|>'
export const TURN_END = '<|im_end|>'
export const NEW_LINE = '<0x0A>'

/** llama.cpp's types of tokens. */
const TYPE = { normal: 1, unknown: 2, control: 3, byte: 6 } as const

const ROLES = ['system', 'user', 'assistant']

/** Letters a prompt is likely to hold; all others are read byte by byte. */
const CHARACTERS = '▁abcdefghijklmnopqrstuvwxyz'

export function buildVocabulary(): Vocabulary {
  const types = new Map<string, number>([[UNKNOWN, TYPE.unknown]])
  for (const piece of [BEGIN, '</s>', TURN_BEGIN, TURN_END]) types.set(piece, TYPE.control)
  for (let byte = 0; byte < 256; byte++) types.set(`<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`, TYPE.byte)
  for (const piece of normalPieces()) if (!types.has(piece)) types.set(piece, TYPE.normal)
  const pieces = [...types.keys()]
  const ids = new Map(pieces.map((piece, id) => [piece, id]))
  return {
    pieces,
    types: [...types.values()],
    // Pieces are merged in order of their scores, so what comes first here is merged first.
    scores: pieces.map((_, id) => -id),
    idOf: (piece) => ids.get(piece) ?? 0,
  }
}

/**
 * A prompt can only reach a word letter by letter through its beginnings. Words of topics and roles get theirs; the others
 * are only ever written by the model, which needs no way to them.
 */
function normalPieces(): string[] {
  const reachable = [...Object.keys(OPENINGS), ...ROLES].map((word) => `▁${word}`)
  const beginnings = reachable.flatMap((word) => Array.from(word, (_, index) => word.slice(0, index + 1)))
  const written = [...Object.values(OPENINGS), STORY].flatMap(wordsOf)
  return [...new Set(beginnings)].sort((left, right) => left.length - right.length).concat(firstWords(), written, Array.from(CHARACTERS))
}

/** An answer does not begin with a space. */
function firstWords(): string[] {
  return Object.values(OPENINGS).map(firstWordOf)
}

export function firstWordOf(opening: string): string {
  return wordsOf(opening)[0]!.slice('▁'.length)
}
