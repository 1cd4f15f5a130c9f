import type { Prompt } from '../../proto/request.ts'
import { isJson } from '../../proto/wire.ts'

/**
 * An upstream's vectors or scores as the text of an answer: a JSON list of base64 float32 vectors, or of scores, in the
 * order of what was asked. Null when something is missing.
 */
export function vectorsOf(body: unknown, prompt: Prompt): { text: string; promptTokens: number | null } | null {
  if (!isJson(body)) return null
  const usage = isJson(body.usage) ? body.usage : {}
  const { prompt_tokens: counted } = usage
  const promptTokens = typeof counted === 'number' && Number.isSafeInteger(counted) && counted >= 0 ? counted : null
  const rows = prompt.kind === 'rank' ? body.results : body.data
  const count = prompt.kind === 'rank' ? prompt.documents.length : prompt.kind === 'embed' ? prompt.inputs.length : 0
  if (!Array.isArray(rows)) return null
  const values: unknown[] = Array.from({ length: count })
  for (const [position, row] of rows.entries()) {
    if (!isJson(row)) return null
    const index = typeof row.index === 'number' ? row.index : position
    values[index] = prompt.kind === 'rank' ? row.relevance_score : bytesOf(row.embedding)
  }
  if (values.length !== count) return null
  if (prompt.kind === 'rank') return values.every(isScore) ? { text: JSON.stringify(values), promptTokens } : null
  const dimensions = prompt.kind === 'embed' ? prompt.dimensions : undefined
  return areVectors(values, dimensions) ? { text: JSON.stringify(values.map((bytes) => bytes.toString('base64'))), promptTokens } : null
}

function bytesOf(vector: unknown): Buffer | null {
  if (typeof vector === 'string') return Buffer.from(vector, 'base64')
  if (!Array.isArray(vector) || !vector.every(isScore)) return null
  return Buffer.from(Float32Array.from(vector as number[]).buffer)
}

/** All of one length, the one that was asked for if one was, and of numbers that a float32 holds. */
function areVectors(values: unknown[], dimensions: number | undefined): values is Buffer[] {
  const [first] = values
  const length = dimensions === undefined ? (Buffer.isBuffer(first) ? first.length : 0) : dimensions * FLOAT_BYTES
  return values.every(
    (bytes) => Buffer.isBuffer(bytes) && bytes.length === length && length > 0 && length % FLOAT_BYTES === 0 && areFinite(bytes),
  )
}

function areFinite(bytes: Buffer): boolean {
  for (let at = 0; at < bytes.length; at += FLOAT_BYTES) if (!Number.isFinite(bytes.readFloatLE(at))) return false
  return true
}

const FLOAT_BYTES = 4

function isScore(value: unknown): boolean {
  return typeof value === 'number' && Number.isFinite(value)
}
