import { validate as isUuid } from 'uuid'
import { badRequest } from '../core/fault.ts'
import { isStorable } from './well-formed.ts'

/** Query strings: unknown parameters are an error, because a misspelt filter that is ignored shows the wrong rows. */
export function readQuery<K extends string>(query: unknown, allowed: readonly K[]): { [P in K]?: string } {
  const found: { [P in K]?: string } = {}
  for (const [name, value] of Object.entries(query as Record<string, unknown>)) {
    const known = allowed.find((item) => item === name)
    if (known === undefined)
      throw badRequest('unknown_parameter', `Unknown parameter: ${name.slice(0, 100)}. Known: ${allowed.join(', ')}.`, name.slice(0, 100))
    if (typeof value !== 'string') throw badRequest('repeated_parameter', `${name} may be given once.`, name)
    if (!isStorable(value)) throw badRequest('invalid_text', `${name} holds a NUL character or half a surrogate pair.`, name)
    found[known] = value
  }
  return found
}

export function readLimit(value: string | undefined): number {
  if (value === undefined) return 50
  const limit = Number(value)
  if (!Number.isInteger(limit) || limit < 1 || limit > 200)
    throw badRequest('out_of_range', `limit must be a whole number from 1 to 200, not ${value.slice(0, 20)}.`, 'limit')
  return limit
}

/** A cursor is the id of the last row seen. */
export function readCursor(value: string | undefined): string | null {
  if (value === undefined) return null
  if (!isUuid(value)) throw badRequest('invalid_cursor', 'cursor must be the "next" of an earlier page.', 'cursor')
  return value
}

export function readOneOf<T extends string>(name: string, value: string | undefined, allowed: readonly T[]): T | null {
  if (value === undefined) return null
  const found = allowed.find((item) => item === value)
  if (found === undefined) throw badRequest('out_of_range', `${name} must be one of ${allowed.join(', ')}.`, name)
  return found
}

/**
 * Rows from behind one on, as many as are wanted: those that do not fit are left out, and what follows them is read, so that
 * a list never ends while there is more.
 */
export async function readEnough<T extends { id: string }>(
  before: string | null,
  wanted: number,
  { read, fits }: { read: (before: string | null, count: number) => Promise<T[]>; fits: (row: T) => boolean },
): Promise<T[]> {
  const found: T[] = []
  let last = before
  for (;;) {
    const rows = await read(last, wanted)
    found.push(...rows.filter(fits))
    last = rows.at(-1)?.id ?? null
    if (found.length >= wanted || rows.length < wanted) return found.slice(0, wanted)
  }
}

/** One row more than asked for was read: its presence says that there is another page. */
export function page<T extends { id: string }>(
  rows: T[],
  limit: number,
  view: (row: T) => unknown,
  scope: Scope = EVERYTHING,
): { data: unknown[]; next: string | null; scope: Scope } {
  const shown = rows.slice(0, limit)
  return { data: shown.map(view), next: rows.length > limit ? (shown.at(-1)?.id ?? null) : null, scope }
}

/** Whose rows a list could show: an empty one that is empty by its scope says so. */
export type Scope = { teams: 'all' | string[] }

const EVERYTHING: Scope = { teams: 'all' }

export function rfc3339(ms: number | null): string | null {
  return ms === null ? null : new Date(ms).toISOString()
}
