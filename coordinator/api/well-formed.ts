import { isUtf8 } from 'node:buffer'
import type { IncomingMessage } from 'node:http'
import { badRequest, notFound } from '../core/fault.ts'
import { newId } from '../ids.ts'

/** What no route could do anything with, refused before one sees it. */

/** Neither can be a value in PostgreSQL; text of prompts travels as JSON, which has escapes for both. */
export function isStorable(text: string): boolean {
  return !text.includes('\u0000') && text.isWellFormed()
}

/** Nothing has such an id or name, so nothing is there. */
export function refuseOddNames(params: unknown): void {
  for (const name in params as Record<string, string>)
    if (!isStorable((params as Record<string, string>)[name] ?? ''))
      throw notFound('Nothing has a name with a NUL or half a character in it.')
}

/** What is nested deeper could be read, but not written down again: JSON.stringify goes as deep as the stack does. */
export function refuseDeepNesting(body: unknown): void {
  if (isDeeper(body, NESTING_MAX)) throw badRequest('nested_too_deep', `The body is nested more than ${NESTING_MAX} levels deep.`)
}

/** Null where the bytes are no UTF-8: read all the same, they would be other letters than were sent. */
export function utf8Of(bytes: Buffer): string | null {
  return isUtf8(bytes) ? bytes.toString() : null
}

/**
 * The value, where nothing in the text could be a name that changes what objects are; undefined where something could, or where it
 * is no JSON: then it takes a parser that looks at every name, or says what is wrong.
 */
export function parsePlain(json: string): unknown {
  if (json.includes('\\u') || json.includes('__proto__') || json.includes('constructor')) return undefined
  try {
    return JSON.parse(json)
  } catch {
    // The other parser says it in words.
    return undefined
  }
}

export function isJson(text: string): boolean {
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}

/**
 * Small things in large numbers take memory and time that their bytes do not tell: 32 MiB of `{},` would be a gigabyte, and
 * nobody else would be served for seconds. What is counted is objects, lists, names, and all that stands behind the first in one.
 */
export function manyValues(json: string, most: number): Error | null {
  if (json.length <= most || !holdsMore(json, most)) return null
  return badRequest('too_many_values', `There are more than ${most} values in it. Send less at once.`)
}

function holdsMore(json: string, most: number): boolean {
  let count = 0
  for (let at = 0; at < json.length && count <= most; at++) {
    const code = json.charCodeAt(at)
    if (code === QUOTE) at = endOfText(json, at)
    else if (code === COMMA || code === COLON || code === BRACE || code === BRACKET) count += 1
  }
  return count > most
}

/** Where the text that begins here ends; an escape is two characters, of which the second ends nothing. */
function endOfText(json: string, begin: number): number {
  for (let at = begin + 1; at < json.length; at++) {
    const code = json.charCodeAt(at)
    if (code === BACKSLASH) at += 1
    else if (code === QUOTE) return at
  }
  return json.length
}

const QUOTE = 0x22
const COMMA = 0x2c
const COLON = 0x3a
const BRACE = 0x7b
const BRACKET = 0x5b
const BACKSLASH = 0x5c
/** Of a request, or a line of a batch. */
export const VALUES_MAX = 1_000_000

export function isDeeper(value: unknown, levels = NESTING_MAX): boolean {
  if (typeof value !== 'object' || value === null) return false
  if (levels === 0) return true
  if (Buffer.isBuffer(value)) return false
  return Object.values(value).some((member) => isDeeper(member, levels - 1))
}

// A schema may be 64 deep by its own count, which is twice as many levels of JSON, and stands some levels down in a body.
export const NESTING_MAX = 256

/** The caller's own name for its request where it gave one that can stand in a log, else one that no other request has. */
export function requestId({ headers }: IncomingMessage): string {
  const given = headers['x-request-id']
  return typeof given === 'string' && /^[\w.:-]{1,128}$/.test(given) ? given : newId()
}
