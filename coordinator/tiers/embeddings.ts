import type { Prompt } from '../../proto/request.ts'
import { isJson } from '../../proto/wire.ts'

/**
 * An upstream's vectors or scores as the text of an answer: a JSON list of base64 float32 vectors, or of scores, in the
 * order of what was asked. Null when something is missing.
 */
export function vectorsOf(body: unknown, prompt: Prompt): { text: string; promptTokens: number | null } | null {
  if (!isJson(body)) return null
  const usage = isJson(body.usage) ? body.usage : {}
  const promptTokens = typeof usage.prompt_tokens === 'number' ? usage.prompt_tokens : null
  const rows = prompt.kind === 'rank' ? body.results : body.data
  const count = prompt.kind === 'rank' ? prompt.documents.length : prompt.kind === 'embed' ? prompt.inputs.length : 0
  if (!Array.isArray(rows)) return null
  const values: unknown[] = Array.from({ length: count })
  for (const [position, row] of rows.entries()) {
    if (!isJson(row)) return null
    const index = typeof row.index === 'number' ? row.index : position
    values[index] = prompt.kind === 'rank' ? row.relevance_score : encoded(row.embedding)
  }
  const valid = prompt.kind === 'rank' ? isScore : isText
  return values.length === count && values.every(valid) ? { text: JSON.stringify(values), promptTokens } : null
}

function encoded(vector: unknown): string | null {
  if (typeof vector === 'string') return vector
  if (!Array.isArray(vector) || !vector.every(isScore)) return null
  return Buffer.from(Float32Array.from(vector as number[]).buffer).toString('base64')
}

function isScore(value: unknown): boolean {
  return typeof value === 'number'
}

function isText(value: unknown): boolean {
  return typeof value === 'string' && value !== ''
}
