import { validate as isUuid } from 'uuid'
import { badRequest, Fault } from '../core/fault.ts'
import { isStorable } from './well-formed.ts'

/** Readers of JSON bodies: nothing is coerced, null is as good as absent, and what does not fit is named. */
export type Body = Record<string, unknown>

export function objectBody(body: unknown): Body {
  if (!isObject(body)) throw badRequest('invalid_body', 'The body must be a JSON object, sent with content-type application/json.')
  return body
}

export function integer(fields: Body, name: string, least: number, most: number): number | null {
  const value = numeric(fields, name, least, most)
  if (value !== null && !Number.isInteger(value)) throw badRequest('invalid_type', `${name} must be a whole number.`, name)
  return value
}

export function numeric(fields: Body, name: string, least: number, most: number): number | null {
  const value = fields[name]
  if (value === undefined || value === null) return null
  if (typeof value !== 'number' || !Number.isFinite(value)) throw badRequest('invalid_type', `${name} must be a number.`, name)
  if (value < least || value > most) throw badRequest('out_of_range', `${name} must be from ${least} to ${most}, not ${value}.`, name)
  return value
}

export function boolean(fields: Body, name: string): boolean | null {
  const value = fields[name]
  if (value === undefined || value === null) return null
  if (typeof value !== 'boolean') throw badRequest('invalid_type', `${name} must be true or false.`, name)
  return value
}

export function isObject(value: unknown): value is Body {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

export function prose(fields: Body, name: string, longest: number): string | null {
  const value = fields[name]
  if (value === undefined || value === null) return null
  if (typeof value !== 'string' || value === '' || value.length > longest)
    throw badRequest('invalid_type', `${name} must be a text of 1 to ${longest} characters.`, name)
  return value
}

/** One that is stored as it is, as a name: `prose` may hold anything, because it travels as JSON. */
export function text(fields: Body, name: string, longest: number): string | null {
  const value = prose(fields, name, longest)
  if (value !== null && !isStorable(value)) throw oddText(name)
  return value
}

function oddText(name: string): Fault {
  return badRequest('invalid_text', `${name} holds a NUL character or half a surrogate pair.`, name)
}

export function required<T>(value: T | null, name: string): T {
  if (value === null) throw badRequest('missing_field', `${name} is missing.`, name)
  return value
}

/** What a change says of something that cannot be without a value; `was` where it says nothing. Undefined `was`: it is new, and null is as good as absent. */
export function changedTo<T, Was extends T | undefined>(fields: Body, name: string, was: Was, read: () => T | null): T | Was {
  if (was === undefined) return read() ?? was
  return fields[name] === undefined ? was : required(read(), name)
}

/** Reads an object within a body: what does not fit is named by where it stands. */
export function inside<T>(at: string, read: () => T): T {
  try {
    return read()
  } catch (error) {
    if (!(error instanceof Fault)) throw error
    throw badRequest(error.code, `In ${at}: ${error.message}`, error.param === null ? at : `${at}.${error.param}`)
  }
}

/** A body with other fields than these is refused: a misspelt one that is ignored does something else than was meant. */
export function fieldsOf(body: unknown, allowed: readonly string[]): Body {
  const fields = objectBody(body)
  for (const name of Object.keys(fields))
    if (!allowed.includes(name))
      throw badRequest('unknown_parameter', `Unknown field: ${name.slice(0, 100)}. Known: ${allowed.join(', ')}.`, name.slice(0, 100))
  return fields
}

/** A name that people type into headers and commands. */
export function named(name: string): string {
  if (isUuid(name))
    throw badRequest('invalid_name', 'name has the form of an id, by which another thing may be meant: choose another.', 'name')
  if (!/^[a-z0-9][a-z0-9._-]*$/i.test(name))
    throw badRequest(
      'invalid_name',
      'name may hold letters, digits, dots, dashes and underscores, and begins with a letter or digit.',
      'name',
    )
  return name
}

/** A list of texts from a set; null when it is not there. */
export function listOf<T extends string>(fields: Body, name: string, allowed: readonly T[] | null, most: number): T[] | null {
  const value = fields[name]
  if (value === undefined || value === null) return null
  if (!Array.isArray(value) || value.length > most || value.some((item) => typeof item !== 'string' || item === '' || item.length > 200))
    throw badRequest('invalid_type', `${name} must be a list of at most ${most} names.`, name)
  if (!(value as string[]).every(isStorable)) throw oddText(name)
  const odd = allowed === null ? undefined : value.find((item) => !allowed.includes(item as T))
  if (odd !== undefined)
    throw badRequest('out_of_range', `${name} may hold ${(allowed ?? []).join(', ')}, not "${String(odd).slice(0, 100)}".`, name)
  return value as T[]
}

export function oneOf<T extends string>(fields: Body, name: string, allowed: readonly T[]): T | null {
  const value = text(fields, name, 200)
  if (value === null) return null
  const found = allowed.find((item) => item === value)
  if (found === undefined) throw badRequest('out_of_range', `${name} must be one of ${allowed.join(', ')}.`, name)
  return found
}
