import { isAgainstRules, isKeyRefused, isOfGateway, isTooLong, isUnpaid, regainedAt } from '../../proto/refusals.ts'
import { UNSUPPORTED_DIMENSIONS } from '../../proto/wire-numbers.ts'
import type { WireFailure } from '../../proto/wire.ts'
import type { Setback } from '../core/cooldown.ts'
import type { JobError } from '../core/job.ts'

/** What a call's failure means to the job, and what it means to the provider; `badCredential` parks it until that changes. */
export type Refusal = { error: JobError; hold?: Setback; badCredential?: boolean }

/** Reads the error of a call. */
export function refusalOf(cause: unknown, nowMs: number): Refusal {
  const vendors = readVendorError(cause)
  if (vendors !== null && vendors.status === null) {
    const error = failure('provider_unreachable', `The provider could not be reached: ${rootMessage(cause)}.`, true)
    return { error, hold: { state: 'offline', untilMs: 'untold', why: error.message } }
  }
  if (cause instanceof BrokenOff)
    return cause.cause instanceof SyntaxError
      ? { error: failure('upstream_malformed', `The provider's answer is not JSON: ${rootMessage(cause)}.`, true) }
      : {
          error: failure(
            'provider_cut_answer',
            `The connection to the provider broke before its answer had ended: ${rootMessage(cause)}.`,
            true,
          ),
        }
  if (vendors === null || vendors.status === null)
    return { error: failure('provider_failed', `The call to the provider failed: ${rootMessage(cause)}.`, true) }
  const { status, message } = vendors
  return judged({ ...vendors, status }, `The provider answered ${status}: ${message.slice(0, MESSAGE_MAX)}`, nowMs)
}

/** The same where it stands in the place of an answer, or in its midst (`isBegun`). */
export function refusalWithin(failed: WireFailure, nowMs: number, isBegun = false): Refusal {
  const { code, message, retryable, providerStatus: status, type } = failed
  // What the model cannot give is the request's matter.
  if (status === undefined && code === UNSUPPORTED_DIMENSIONS) return { error: { code, message, layer: 'ingress', retryable } }
  if (status === undefined) return { error: failure(code, message, retryable) }
  const refusal = judged({ status, message, code, type, headers: undefined }, message, nowMs)
  // Ours was let in: it is somebody's behind a gateway.
  return isBegun && refusal.badCredential === true ? unwell(refusal.error, null) : refusal
}

function judged(told: VendorError & { status: number }, said: string, nowMs: number): Refusal {
  const { status, message, headers, code, type } = told
  const words = `${message} ${String(code)} ${String(type)}`
  const isAboutUs = isUnpaid(status, words) || isKeyRefused(status, words)
  // Ours was let in, and the gateway's other models have keys of their own.
  if (isAboutUs && isOfGateway(message)) return { error: failure('provider_lacks_model', said, true, status) }
  if (isUnpaid(status, words)) {
    const untilMs = retryAt(headers, nowMs) ?? later(regainedAt(message), nowMs) ?? nowMs + UNPAID_MS
    return {
      error: failure('provider_over_quota', said, true, status),
      hold: { state: 'over_quota', untilMs, why: said.slice(0, WHY_MAX) },
    }
  }
  if (isKeyRefused(status, words)) {
    const why = `its credential was refused (${status}): ${said.slice(0, 200)}`
    const error = failure('provider_credential_refused', said, true, status)
    return { error, badCredential: true, hold: { state: 'parked', untilMs: null, why } }
  }
  // What this key may not ask for here, another provider may give; what is against its rules is so everywhere.
  if (status === 403)
    return { error: isAgainstRules(words) ? refusedRequest(said, status) : failure('provider_forbids', said, true, status) }
  // More than its limit holds at all is no matter of waiting.
  if (status === 429 && TOO_LARGE.test(message)) return { error: failure('provider_forbids', said, true, status) }
  if (status === 429 || status === 529) return tooMuch(told, status, said, nowMs)
  if (UNWELL.has(status)) return unwell(failure('provider_failed', said, true, status), retryAt(headers, nowMs))
  if (status >= 500) return { error: failure('provider_failed', said, true, status) }
  // It does not know the model: another provider may.
  if (status === 404) return { error: failure('provider_lacks_model', said, true, status) }
  // What is wrong with the request is wrong everywhere.
  return { error: refusedRequest(said, status, isTooLong(words) ? 'context_length_exceeded' : undefined) }
}

function refusedRequest(message: string, providerStatus: number, code = 'provider_refused_request'): JobError {
  return { code, message, layer: 'ingress', retryable: false, providerStatus }
}

/** What a server says of itself and of no request: it is overloaded, being restarted, or not there behind its gateway. */
const UNWELL = new Set([408, 409, 425, 502, 503, 504, 520, 521, 522, 523, 524])

function unwell(error: JobError, untilMs: number | null): Refusal {
  return { error, hold: { state: 'cooling_down', untilMs: untilMs ?? 'untold', why: error.message.slice(0, WHY_MAX) } }
}

/** A page for people: of a proxy, of maintenance, or of an address that is no API's. No request is to blame for it. */
export function pageInPlaceOfAnswer(status: number): Refusal {
  const said = `The provider answered ${status} with a web page in place of an answer: its base_url may be wrong, or something stands before it.`
  return unwell(failure('provider_failed', said, true, status), null)
}

type VendorError = { status: number | null; message: string; code: unknown; type: unknown; headers: Told | undefined }
/** Headers, as far as they are read here. */
type Told = Pick<Headers, 'get'>

/** What a package's error says: nobody was reached, or a status with the reason for it; null: it is none of theirs. */
function readVendorError(cause: unknown): VendorError | null {
  if (!(cause instanceof Error)) return null
  // Both packages name the class so, and give every error of an answer these members, `status` undefined where there was none.
  if (!('status' in cause && 'headers' in cause && 'error' in cause)) return null
  const { status, message, headers } = cause as Error & { status?: number; headers?: Headers }
  const { code, type } = cause as { code?: unknown; type?: unknown }
  return { status: status ?? null, message, code, type, headers }
}

/** What went wrong after the head of an answer had come. */
export class BrokenOff extends Error {
  constructor(cause: unknown) {
    super('The answer broke off.', { cause })
  }
}

/** A failure that stands in the midst of an answer, or an answer that makes no sense. */
export function failure(code: string, message: string, retryable: boolean, providerStatus?: number): JobError {
  return { code, message, layer: 'provider', retryable, ...(providerStatus === undefined ? {} : { providerStatus }) }
}

function tooMuch(
  cause: { headers?: Told | undefined; code?: unknown; type?: unknown },
  status: number,
  said: string,
  nowMs: number,
): Refusal {
  // By what it calls the refusal and not by its words: every message about a rate names the page for billing.
  const quota = /insufficient_quota|billing|credit/i.test(`${String(cause.code)} ${String(cause.type)}`)
  const untilMs = retryAt(cause.headers, nowMs) ?? (quota ? nowMs + UNPAID_MS : 'untold')
  const state = quota ? 'over_quota' : 'cooling_down'
  return {
    error: failure(quota ? 'provider_over_quota' : 'provider_rate_limited', said, true, status),
    hold: { state, untilMs, why: said.slice(0, WHY_MAX) },
  }
}

/** Null when nothing is said, or that it could be asked again already, which it could not. */
function retryAt(headers: Told | undefined, nowMs: number): number | null {
  return later(toldTime(headers, nowMs), nowMs)
}

function later(atMs: number | null, nowMs: number): number | null {
  return atMs === null || atMs < nowMs + BACKOFF_MIN_MS ? null : Math.min(atMs, nowMs + LATEST_MS)
}

/** By `Retry-After`, in seconds or as a date, or by the vendors' own headers. */
function toldTime(headers: Told | undefined, nowMs: number): number | null {
  const value = headers?.get('retry-after-ms') ?? null
  if (value !== null && Number(value) > 0) return nowMs + Number(value)
  const after = headers?.get('retry-after') ?? null
  if (after !== null) {
    const seconds = Number(after)
    const atMs = Number.isFinite(seconds) && after.trim() !== '' ? nowMs + seconds * 1000 : Date.parse(after)
    if (Number.isFinite(atMs)) return atMs
  }
  return usedUpUntil(headers, nowMs)
}

/** When a vendor's own limit, which its headers say is used up, is full again; null while there is something left. */
export function usedUpUntil(headers: Told | undefined, nowMs: number): number | null {
  if (headers === undefined) return null
  let untilMs: number | null = null
  for (const [remaining, reset] of LIMIT_HEADERS) {
    const left = headers.get(remaining)
    if (left === null || left.trim() === '' || !(Number(left) <= 0)) continue
    const atMs = resetTime(headers.get(reset) ?? '', nowMs)
    if (atMs !== null) untilMs = Math.max(untilMs ?? 0, Math.min(atMs, nowMs + LATEST_MS))
  }
  return untilMs
}

const LIMIT_HEADERS: [remaining: string, reset: string][] = [
  ['x-ratelimit-remaining', 'x-ratelimit-reset'],
  ['x-ratelimit-remaining-requests', 'x-ratelimit-reset-requests'],
  ['x-ratelimit-remaining-tokens', 'x-ratelimit-reset-tokens'],
  ['anthropic-ratelimit-requests-remaining', 'anthropic-ratelimit-requests-reset'],
  ['anthropic-ratelimit-tokens-remaining', 'anthropic-ratelimit-tokens-reset'],
  ['anthropic-ratelimit-input-tokens-remaining', 'anthropic-ratelimit-input-tokens-reset'],
  ['anthropic-ratelimit-output-tokens-remaining', 'anthropic-ratelimit-output-tokens-reset'],
]

/** `1h2m3.5s` or `20ms` as OpenAI writes it, a time of day as Anthropic does, or a bare number, of which its size tells the meaning. */
function resetTime(text: string, nowMs: number): number | null {
  if (/^\d+(\.\d+)?$/.test(text)) {
    const number = Number(text)
    return number >= EPOCH_MS_MIN ? number : number >= EPOCH_S_MIN ? number * 1000 : nowMs + number * 1000
  }
  if (/^(\d+(\.\d+)?(ms|h|m|s))+$/.test(text)) {
    let ms = 0
    for (const [, number, unit] of text.matchAll(/(\d+(?:\.\d+)?)(ms|h|m|s)/g)) ms += Number(number) * (UNIT_MS[unit ?? ''] ?? 0)
    return nowMs + ms
  }
  const atMs = Date.parse(text)
  return Number.isFinite(atMs) ? atMs : null
}

const TOO_LARGE = /^(\d+ )?request too large/i

// Of the year 2001, in both.
const EPOCH_S_MIN = 1e9
const EPOCH_MS_MIN = 1e12

const UNIT_MS: Record<string, number> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 }

const MESSAGE_MAX = 1_000
const WHY_MAX = 300
const BACKOFF_MIN_MS = 100
// Somebody has to pay a bill first: looking every quarter of an hour is often enough.
const UNPAID_MS = 900_000
// A reset that lies further away is a mistake of the provider's clock.
const LATEST_MS = 32 * 86_400_000

function rootMessage(error: unknown): string {
  let message = String(error)
  for (let cause = error; cause instanceof Error; cause = cause.cause) {
    const code = (cause as { code?: unknown }).code
    message = typeof code === 'string' ? code : cause.message
  }
  return message.replace(/\.$/, '')
}
