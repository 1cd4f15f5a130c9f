import { decimal } from '../../proto/settings.ts'
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

/** `most`: where a dialect says another. */
export function readLimit(value: string | undefined, most = 200): number {
  if (value === undefined) return 50
  const limit = decimal(value)
  if (!Number.isInteger(limit) || limit < 1 || limit > most)
    throw badRequest('out_of_range', `limit must be a whole number from 1 to ${most}, not ${value.slice(0, 20)}.`, 'limit')
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

/**
 * A page of what is held in memory, in the order of a text that each row has and no other: the cursor names the last one
 * seen, so that rows may come and go meanwhile.
 */
export function pageOfAll<T>(
  rows: Iterable<T>,
  query: { limit?: string; cursor?: string },
  placeOf: (row: T) => string,
  view: (row: T) => unknown,
  scope: Scope = EVERYTHING,
): { data: unknown[]; next: string | null; scope: Scope } {
  const limit = readLimit(query.limit)
  const after = query.cursor === undefined ? null : placeIn(query.cursor)
  const placed = [...rows].map((row) => ({ row, place: placeOf(row) })).sort((a, b) => (a.place < b.place ? -1 : 1))
  const rest = after === null ? placed : placed.filter(({ place }) => place > after)
  const shown = rest.slice(0, limit)
  const last = shown.at(-1)
  const next = rest.length > limit && last !== undefined ? Buffer.from(last.place).toString('base64url') : null
  return { data: shown.map(({ row }) => view(row)), next, scope }
}

function placeIn(cursor: string): string {
  const place = Buffer.from(cursor, 'base64url').toString('utf8')
  if (place === '' || Buffer.from(place).toString('base64url') !== cursor)
    throw badRequest('invalid_cursor', 'cursor must be the "next" of an earlier page.', 'cursor')
  return place
}

/** The place of what was made then in a list that is newest first. */
export function newestFirst(createdMs: number, name: string): string {
  return `${String(Number.MAX_SAFE_INTEGER - createdMs).padStart(16, '0')} ${name}`
}

/** Whose rows a list could show: an empty one that is empty by its scope says so. */
export type Scope = { teams: 'all' | readonly string[] }

const EVERYTHING: Scope = { teams: 'all' }

export function rfc3339(ms: number | null): string | null {
  return ms === null ? null : new Date(ms).toISOString()
}
