import type { Prompt } from './request.ts'
import { isJson, type Json, malformed, upstreamError, type WireFailure } from './wire.ts'

/**
 * An upstream's answer that is numbers, as the text of an answer: a JSON list with the base64 of each vector's little-endian
 * 32-bit floats, or of scores from 0 to 1, in the order of what was asked.
 */
export function numbersOf(body: unknown, prompt: Prompt): Numbers | WireFailure {
  if (isJson(body) && body.error !== undefined && body.error !== null) return upstreamError(body.error)
  const values = prompt.kind === 'rank' ? scoresIn(body, prompt.documents.length) : vectorsIn(body, prompt)
  if (!Array.isArray(values)) return values
  return { kind: 'numbers', text: JSON.stringify(values), promptTokens: promptTokensIn(body) }
}

/** `promptTokens` null: not told. */
export type Numbers = { kind: 'numbers'; text: string; promptTokens: number | null }

function vectorsIn(body: unknown, prompt: Prompt): string[] | WireFailure {
  const { inputs, dimensions } = prompt.kind === 'embed' ? prompt : { inputs: [], dimensions: undefined }
  const vectors = ordered(body, 'data', inputs.length, ({ embedding }) => vectorIn(embedding))
  if (!Array.isArray(vectors)) return vectors
  const length = vectors[0]?.length ?? 0
  if (vectors.some((vector) => vector.length !== length)) return malformed(`not all of its vectors have ${length} numbers`)
  if (dimensions !== undefined && length !== dimensions) return otherLength(length, dimensions)
  return vectors.map((vector) => Buffer.from(vector.buffer).toString('base64'))
}

/** It knows vectors of one length, which no second try changes. */
function otherLength(length: number, asked: number): WireFailure {
  const message = `It makes vectors of ${length} numbers, not of ${asked}: ask without dimensions.`
  return { kind: 'failure', code: UNSUPPORTED_DIMENSIONS, message, retryable: false }
}

export const UNSUPPORTED_DIMENSIONS = 'unsupported_dimensions'

/**
 * Some servers hand over what their model said, which has no bounds: then all of them are brought between 0 and 1. What is
 * beyond those by a hair was rounded.
 */
function scoresIn(body: unknown, count: number): number[] | WireFailure {
  const scores = ordered(body, 'results', count, ({ relevance_score: score, score: other }) => numberIn(score ?? other))
  if (!Array.isArray(scores)) return scores
  if (scores.every((score) => score >= -ROUNDED && score <= 1 + ROUNDED)) return scores.map((score) => Math.min(1, Math.max(0, score)))
  return scores.map((score) => 1 / (1 + Math.exp(-score)))
}

function ordered<T>(body: unknown, member: string, count: number, read: (entry: Json) => T | undefined): T[] | WireFailure {
  const list = isJson(body) ? body[member] : undefined
  if (!Array.isArray(list) || list.length !== count) return malformed(`${member} is not a list of ${count}`)
  const found: T[] = []
  for (const [position, entry] of list.entries()) {
    const value = isJson(entry) ? read(entry) : undefined
    const index: unknown = isJson(entry) ? (entry.index ?? position) : undefined
    if (value === undefined || !Number.isSafeInteger(index) || !(Number(index) >= 0 && Number(index) < count) || Number(index) in found)
      return malformed(`an entry of ${member} cannot be read`)
    found[Number(index)] = value
  }
  return found
}

/** Of length 1, as the API promises; not every server makes them so. */
function vectorIn(told: unknown): Float32Array | undefined {
  const vector = typeof told === 'string' ? floatsIn(told) : Array.isArray(told) ? told : []
  if (vector.length === 0 || !vector.every((value) => numberIn(value) !== undefined)) return undefined
  const length = Math.hypot(...(vector as number[]))
  return Float32Array.from(vector as number[], (value) => (length === 0 ? 0 : value / length))
}

/** Base64 of floats; nothing where it does not divide into them. */
function floatsIn(base64: string): number[] {
  const bytes = Buffer.from(base64, 'base64')
  if (bytes.length % FLOAT_BYTES !== 0) return []
  return Array.from({ length: bytes.length / FLOAT_BYTES }, (_, place) => bytes.readFloatLE(place * FLOAT_BYTES))
}

const FLOAT_BYTES = 4
const ROUNDED = 0.001

/** One that a float32 holds. */
function numberIn(value: unknown): number | undefined {
  return typeof value === 'number' && Number.isFinite(Math.fround(value)) ? value : undefined
}

function promptTokensIn(body: unknown): number | null {
  const counted = isJson(body) && isJson(body.usage) ? body.usage.prompt_tokens : undefined
  return typeof counted === 'number' && Number.isSafeInteger(counted) && counted >= 0 ? counted : null
}
