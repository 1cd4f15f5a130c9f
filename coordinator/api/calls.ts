import type { ToolCall } from '../../proto/request.ts'

/**
 * Nothing can follow the arguments of this call any more. Providers may write several calls by turns, and where a dialect
 * tells one call after another, the next one waits for this.
 */
export function isWhole({ arguments: written }: ToolCall): boolean {
  // Most of what is not whole is known without reading it.
  if (!written.trimEnd().endsWith('}')) return false
  try {
    JSON.parse(written)
    return true
  } catch {
    return false
  }
}
