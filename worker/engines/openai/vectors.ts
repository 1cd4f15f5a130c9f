import { isJson, malformed, upstreamError, type WireFailure } from '../../../proto/wire.ts'

/**
 * Answers that are numbers, as an engine writes them down: embeddings as a JSON list with the base64 of each vector's
 * little-endian 32-bit floats, scores as a JSON list, both in the order of what was asked.
 */
export function vectorsOf(body: unknown, count: number): string | WireFailure {
  const vectors = ordered(body, 'data', count, (entry) => vectorIn(entry.embedding))
  return Array.isArray(vectors) ? JSON.stringify(vectors) : vectors
}

export function scoresOf(body: unknown, count: number): string | WireFailure {
  const scores = ordered(body, 'results', count, (entry) => {
    const score = entry.relevance_score ?? entry.score
    return typeof score === 'number' && Number.isFinite(score) ? score : undefined
  })
  return Array.isArray(scores) ? JSON.stringify(scores) : scores
}

function ordered<T>(
  body: unknown,
  member: string,
  count: number,
  read: (entry: Record<string, unknown>) => T | undefined,
): T[] | WireFailure {
  if (isJson(body) && isJson(body.error)) return upstreamError(body.error)
  const list = isJson(body) ? body[member] : undefined
  if (!Array.isArray(list) || list.length !== count) return malformed(`${member} is not a list of ${count}`)
  const found: T[] = []
  for (const [position, entry] of list.entries()) {
    const value = isJson(entry) ? read(entry) : undefined
    const index: unknown = isJson(entry) ? (entry.index ?? position) : undefined
    if (value === undefined || typeof index !== 'number' || !(index >= 0 && index < count) || index in found)
      return malformed(`an entry of ${member} cannot be read`)
    found[index] = value
  }
  return found
}

/** Of length 1, as the API promises; not every server makes them so. */
function vectorIn(embedding: unknown): string | undefined {
  if (!Array.isArray(embedding) || embedding.length === 0 || !embedding.every((value) => typeof value === 'number')) return undefined
  const length = Math.hypot(...embedding)
  const bytes = Buffer.alloc(embedding.length * 4)
  for (const [place, value] of embedding.entries()) bytes.writeFloatLE(length === 0 ? 0 : value / length, place * 4)
  return bytes.toString('base64')
}
