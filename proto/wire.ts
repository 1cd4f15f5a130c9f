import type { AnswerDelta, FinishReason } from './answer.ts'

/** What is read of one event, or of a whole body, of an upstream. */
export type WirePiece = { kind: 'piece'; text: string; delta?: AnswerDelta }

/**
 * The upstream said that it failed, or said something that cannot be understood. Nothing that is read after it counts.
 * `providerStatus` is the HTTP status that such an error has where a response begins with it.
 */
export type WireFailure = {
  kind: 'failure'
  code: 'upstream_error' | 'upstream_malformed' | 'unsupported_dimensions'
  message: string
  retryable: boolean
  providerStatus?: number
  /** What it calls the error. */
  type?: string
}

/** `usage` is null where the upstream did not tell it. */
export type WireEnd = { finishReason: FinishReason; stopSequence?: string; usage: WireUsage | null }

/** `promptTokens` include the cached ones, `completionTokens` those of reasoning; null: not told. */
export type WireUsage = {
  promptTokens: number
  completionTokens: number
  cachedTokens: number
  reasoningTokens: number | null
  /** Those of the prompt that were written to a cache; absent: none. */
  cacheWriteTokens?: number
  /** Paid for, and no part of the other counts: what the provider read and wrote to shorten the conversation. */
  beside?: { promptTokens: number; completionTokens: number; cachedTokens: number }
}

/** Calls of one answer, beyond which it is taken for a fault: every one of them is held in memory. */
export const TOOL_CALLS_MAX = 1_000

/** In place of a token's id, for each piece of an answer whose upstream tells none. No vocabulary is as large. */
export const UNTOLD_TOKEN = 2_147_483_647

export type Json = Record<string, unknown>

export function isJson(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** A member that is absent is as good as null; one of another type is a fault of the upstream. */
export function textIn(holder: Json, name: string): string | undefined {
  const value = holder[name]
  if (value === undefined || value === null) return undefined
  if (typeof value !== 'string') throw new Malformed(`${name} is not a text`)
  return value
}

export function objectIn(holder: Json, name: string): Json | undefined {
  const value = holder[name]
  if (value === undefined || value === null) return undefined
  if (!isJson(value)) throw new Malformed(`${name} is not an object`)
  return value
}

export function listIn(holder: Json, name: string): unknown[] | undefined {
  const value = holder[name]
  if (value === undefined || value === null) return undefined
  if (!Array.isArray(value)) throw new Malformed(`${name} is not a list`)
  return value
}

export function countIn(holder: Json, name: string): number | undefined {
  const value = holder[name]
  if (value === undefined || value === null) return undefined
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0) throw new Malformed(`${name} is not a count`)
  return value
}

/** A count that no model can have reached must not keep the end of a job from its row. */
export function storable(count: number): number {
  return Math.min(count, INTEGER_MAX)
}

const INTEGER_MAX = 2_147_483_647

/** What is nested deeper is said by no provider, and could be read but never written again. */
export function isShallow(value: unknown, levels: number = LEVELS_MAX): boolean {
  if (typeof value !== 'object' || value === null) return true
  return levels > 0 && Object.values(value).every((member) => isShallow(member, levels - 1))
}

/** For what is kept as it came. */
export function shallow<T>(value: T): T {
  if (!isShallow(value)) throw new Malformed(`it is nested deeper than ${LEVELS_MAX} levels`)
  return value
}

const LEVELS_MAX = 64

/** Thrown by the readers above and turned into a value by `understood`: no caller of a reader sees it. */
export class Malformed extends Error {}

export function understood<T>(read: () => T): T | WireFailure {
  try {
    return read()
  } catch (error) {
    if (error instanceof Malformed) return malformed(error.message)
    throw error
  }
}

/** For what is told beside the answer: where it cannot be understood it counts as not told, and the answer is as good. */
export function asTold<T>(read: () => T): T | null {
  try {
    return read()
  } catch (error) {
    if (error instanceof Malformed) return null
    throw error
  }
}

export function malformed(what: string): WireFailure {
  return {
    kind: 'failure',
    code: 'upstream_malformed',
    message: `The upstream's answer cannot be understood: ${what}.`,
    retryable: true,
  }
}

/** `{"error": …}` in any of its spellings; a status that is not named by the error is guessed from its type. */
export function upstreamError(error: unknown): WireFailure {
  const fields = isJson(error) ? error : { message: error }
  const type = [fields.type, fields.code].filter((name) => typeof name === 'string').join(' ')
  const providerStatus = statusIn(fields) ?? STATUS_OF.find(([pattern]) => pattern.test(type))?.[1]
  const said = typeof fields.message === 'string' && fields.message !== '' ? fields.message : inWords(error ?? null)
  return {
    kind: 'failure',
    code: 'upstream_error',
    message: `The upstream failed: ${said.slice(0, MESSAGE_MAX)}${type === '' ? '' : ` (${type.slice(0, 200)})`}`,
    // What an upstream cannot name is its own trouble and not the request's.
    retryable: providerStatus === undefined || providerStatus === 408 || providerStatus === 429 || providerStatus >= 500,
    ...(providerStatus === undefined ? {} : { providerStatus }),
    ...(type === '' ? {} : { type }),
  }
}

function inWords(error: unknown): string {
  return isShallow(error) ? JSON.stringify(error) : 'its error is nested too deep to be told'
}

function statusIn(fields: Json): number | undefined {
  for (const value of [fields.status, fields.code]) {
    const status = typeof value === 'string' && /^\d{3}$/.test(value) ? Number(value) : value
    if (typeof status === 'number' && status >= 400 && status <= 599) return status
  }
  return undefined
}

/** Names of errors in both dialects; the first that fits decides. */
const STATUS_OF: [RegExp, number][] = [
  [/overloaded/i, 529],
  [/rate_?limit|insufficient_quota|too_?many/i, 429],
  [/auth|api_key/i, 401],
  [/permission|forbidden/i, 403],
  [/billing/i, 402],
  [/not_?found/i, 404],
  [/too_large/i, 413],
  [/invalid|bad_?request|context_length/i, 400],
  [/timeout/i, 504],
  [/api_error|server_?error|internal/i, 500],
]
const MESSAGE_MAX = 2_000
