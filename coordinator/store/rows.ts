import assert from 'node:assert/strict'

/** Parsers for values as PostgreSQL hands them over; a value of another kind is a bug in a query, not bad input. */

export function text(value: unknown): string {
  assert(typeof value === 'string', `expected text, got ${typeof value}`)
  return value
}

export function textOrNull(value: unknown): string | null {
  return value === null || value === undefined ? null : text(value)
}

/** Integers and bigints, which arrive as text; nothing here outgrows 2^53. */
export function number(value: unknown): number {
  const parsed = typeof value === 'string' ? Number(value) : value
  assert(typeof parsed === 'number' && Number.isFinite(parsed), `expected a number, got ${typeof value}`)
  return parsed
}

export function numberOrNull(value: unknown): number | null {
  return value === null || value === undefined ? null : number(value)
}

export function milliseconds(value: unknown): number {
  assert(value instanceof Date, `expected a time, got ${typeof value}`)
  return value.getTime()
}

export function millisecondsOrNull(value: unknown): number | null {
  return value === null || value === undefined ? null : milliseconds(value)
}
