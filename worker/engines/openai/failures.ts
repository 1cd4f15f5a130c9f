import { isKeyRefused, isOfGateway, isTooLong, isUnpaid, regainedAt } from '../../../proto/refusals.ts'
import { redacted } from '../../../proto/redaction.ts'
import { isJson, upstreamError, type WireFailure } from '../../../proto/wire.ts'
import type { GenerationFailure } from '../engine.ts'
import { parsed, reasonOf, type Upstream } from './server.ts'

/** No connection, or one that broke before the end of the answer. */
export function failureOfCall({ baseUrl }: Upstream, error: unknown, connected: boolean): GenerationFailure {
  const why = reasonOf(error)
  return connected
    ? { layer: 'provider', code: 'upstream_cut', message: `The stream of ${baseUrl} broke off: ${why}.`, retryable: true }
    : { layer: 'provider', code: 'upstream_unreachable', message: `${baseUrl} cannot be reached: ${why}.`, retryable: true }
}

/** The server said inside its answer that it failed, which means what it means as a status, or said what cannot be understood. */
export function failureOfWire(upstream: Upstream, failed: WireFailure, nowMs: number): GenerationFailure {
  const { code, retryable, providerStatus: status } = failed
  const message = harmless(upstream, failed.message)
  return status === undefined ? { layer: 'provider', code, message, retryable } : judged(status, message, undefined, nowMs)
}

/** The server refused the request before any answer. */
export function failureOfStatus(
  upstream: Upstream,
  status: number,
  body: string,
  retryAfter: string | undefined,
  nowMs: number,
): GenerationFailure {
  return judged(status, harmless(upstream, `${upstream.baseUrl} answers with status ${status}: ${saidIn(body)}`), retryAfter, nowMs)
}

function judged(status: number, message: string, retryAfter: string | undefined, nowMs: number): GenerationFailure {
  const provider = { layer: 'provider', message, providerStatus: status } as const
  const limit = { ...provider, code: 'rate_limited', retryable: true } as const
  const isOthers = isKeyRefused(status, message) && isOfGateway(message)
  if (isUnpaid(status, message) || isOthers) return { ...limit, retryAtMs: regainedAt(message) ?? nowMs + UNPAID_MS }
  // The engine goes down until it is let in again: the job is given back, and nobody is blamed.
  if (isKeyRefused(status, message))
    return {
      ...provider,
      code: 'upstream_not_authenticated',
      message: `${message} Set option key_env=NAME to the variable that holds its key.`,
      retryable: true,
    }
  if (status === 403) return { ...provider, code: 'upstream_forbids', retryable: false }
  if (status === 429) return { ...limit, retryAtMs: retryTime(retryAfter, nowMs) }
  // What it served a moment ago is gone: the engine looks again, and somebody else may serve it meanwhile.
  if (status === 404) return { ...provider, code: 'upstream_not_found', retryable: true }
  // It says nothing of the request, and when it will be well: what comes without a time may be the request's doing.
  if (UNWELL.has(status) && retryAfter !== undefined)
    return { ...provider, code: 'upstream_unwell', retryable: true, retryAtMs: retryTime(retryAfter, nowMs) }
  if (!isCallersFault(status)) return { ...provider, code: 'upstream_error', retryable: true }
  const code = isTooLong(message) ? 'context_length_exceeded' : 'upstream_refused'
  return { layer: 'ingress', code, message, retryable: false, providerStatus: status }
}

const UNWELL = new Set([502, 503, 529])

function isCallersFault(status: number): boolean {
  return status >= 400 && status < 500 && ![401, 403, 404, 408, 429].includes(status)
}

function saidIn(body: string): string {
  const json = parsed(body)
  if (isJson(json)) return upstreamError(json.error ?? json.detail ?? json).message
  const text = body.trim().slice(0, TEXT_LENGTH_MAX)
  return text === '' ? 'it says no more.' : text
}

const TEXT_LENGTH_MAX = 1_000

/** Some servers repeat the key that they refuse. */
function harmless({ key }: Upstream, message: string): string {
  return redacted(message, key ?? '', '[key]')
}

/** Seconds or a date; what is not told is tried again soon. */
function retryTime(retryAfter: string | undefined, nowMs: number): number {
  const seconds = Number(retryAfter)
  if (retryAfter !== undefined && seconds >= 0) return nowMs + Math.max(RETRY_UNTOLD_MS, Math.min(seconds, RETRY_WITHIN_S) * 1000)
  const date = Date.parse(retryAfter ?? '')
  return date > nowMs && date < nowMs + RETRY_WITHIN_S * 1000 ? date : nowMs + RETRY_UNTOLD_MS
}

// Somebody has to pay a bill first.
const UNPAID_MS = 900_000
const RETRY_WITHIN_S = 24 * 3600
const RETRY_UNTOLD_MS = 1_000
