import { isKeyRefused, isUnpaid, regainedAt } from '../../../proto/refusals.ts'
import type { GenerationFailure } from '../engine.ts'
import type { Trouble } from './adapter.ts'

/** What a person is told about the program: its model's name, and what to do about a missing login. */
export type Blame = { name: string; login: string }

/**
 * Makes a failure of what a program said. Where it gives a status or a kind, that counts; else its words do, because
 * most of these programs put what happened into a sentence for people.
 */
export function failureOf(trouble: Trouble, { name, login }: Blame, nowMs: number): GenerationFailure {
  const { message, status } = trouble
  const said = bounded(message)
  const known = status === undefined ? {} : { providerStatus: status }
  const provider = { layer: 'provider', ...known } as const
  switch (kindOf(trouble)) {
    case 'auth':
      return { ...provider, code: 'cli_not_authenticated', message: `${name} is not logged in: ${said}. ${login}`, retryable: true }
    case 'limit': {
      const told = trouble.retryAtMs
      const retryAtMs = told !== undefined && isRetryTime(told, nowMs) ? told : (retryTimeOf(message, nowMs) ?? nowMs + UNKNOWN_LIMIT_MS)
      return { ...provider, code: 'rate_limited', message: `${name} has used up its limit: ${said}`, retryable: true, retryAtMs }
    }
    case 'too_long':
      return { layer: 'ingress', ...known, code: 'context_length_exceeded', message: `${name}: ${said}`, retryable: false }
    case 'refused':
      return { ...provider, code: 'cli_refused', message: `${name} refuses the request: ${said}`, retryable: false }
    default:
      return { ...provider, code: 'cli_failed', message: `${name} failed: ${said}`, retryable: true }
  }
}

// Long enough not to knock at a closed door all the time, short enough to notice soon that it is open.
const UNKNOWN_LIMIT_MS = 60_000

// A coordinator takes 2,000 characters of an error.
const MESSAGE_LENGTH_MAX = 1_200

function bounded(message: string): string {
  const lines = message
    .trim()
    .slice(0, 10 * MESSAGE_LENGTH_MAX)
    .split('\n')
  const line = lines
    .map((text) => text.trim())
    .filter(Boolean)
    .join(' | ')
  return line.length > MESSAGE_LENGTH_MAX ? `${line.slice(0, MESSAGE_LENGTH_MAX)}…` : line
}

type Kind = 'auth' | 'limit' | 'too_long' | 'refused' | 'other'

const REFUSED = [400, 403, 404, 422]

function kindOf({ kind, status, message }: Trouble): Kind {
  if (kind !== undefined) return kind
  if (status === 429 || isUnpaid(status, message)) return 'limit'
  if (isKeyRefused(status, message)) return 'auth'
  if (status === 413 || TOO_LONG.test(message)) return 'too_long'
  if (AUTH.test(message)) return 'auth'
  if (LIMIT.test(message)) return 'limit'
  return status !== undefined && REFUSED.includes(status) ? 'refused' : 'other'
}

const AUTH =
  /not logged in|\/login\b|log ?in required|(invalid|incorrect|expired) (api )?(key|token)|api key not valid|api_key_invalid|authentication[ _](failed|error|required)|not authenticated|status 401|401 unauthorized|set an auth method|oauth token (has )?(expired|been revoked)/i
const LIMIT =
  /usage limit|hit your [\w ]*limit|rate[ _-]?limit|limit reached|quota|resource_exhausted|too many requests|status 429|429 too many/i
const TOO_LONG = /prompt is too long|context[ _]length|maximum context|context window|input is too long/i

/**
 * When a limit ends, from the words about it: "usage limit reached|1760000000", "retry in 36.5s", "after 18h31m10s",
 * "try again in 3 days 4 hours", "resets 3:59pm (America/New_York)", "try again at Nov 24th, 2026 3:59 PM". A time without a
 * zone is this host's, on which the program runs too.
 */
export function retryTimeOf(message: string, nowMs: number): number | undefined {
  const times = [epochOf(message), regainedAt(message) ?? undefined, durationOf(message, nowMs), clockOf(message, nowMs)]
  return times.find((timeMs) => timeMs !== undefined && isRetryTime(timeMs, nowMs))
}

/** What is over already, or lies beyond any window, tells nothing. */
export function isRetryTime(timeMs: number, nowMs: number): boolean {
  return timeMs > nowMs && timeMs < nowMs + RETRY_WITHIN_MS
}

// The longest window that any of them has is a month; what lies beyond was misread.
const RETRY_WITHIN_MS = 32 * 24 * 3_600_000

function epochOf(message: string): number | undefined {
  const seconds = /limit reached\|(\d{10})\b/i.exec(message)?.[1]
  return seconds === undefined ? undefined : Number(seconds) * 1000
}

const UNIT_MS: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 }
const AMOUNT = /(\d+(?:\.\d+)?)\s*(ms|milliseconds?|s|sec|seconds?|m|min|minutes?|h|hours?|d|days?)(?![a-z])/gi

function durationOf(message: string, nowMs: number): number | undefined {
  const [, words] = /\b(?:in|after)\s+((?:\d+(?:\.\d+)?\s*[a-z]+[\s,]*)+)/i.exec(message) ?? []
  if (words === undefined) return undefined
  let totalMs = 0
  // "18h31m10s" has no border between its parts that a look ahead could find.
  for (const [, amount, unit = ''] of words.replaceAll(/([a-z])(?=\d)/gi, '$1 ').matchAll(AMOUNT)) {
    const short = unit.toLowerCase().startsWith('ms') || unit.toLowerCase().startsWith('milli') ? 'ms' : unit.slice(0, 1).toLowerCase()
    totalMs += Number(amount) * (UNIT_MS[short] ?? 0)
  }
  return totalMs === 0 ? undefined : nowMs + totalMs
}

const MONTHS = ['jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec']
const CLOCK =
  /(?:resets?|again)(?: at| on)?\s+(?:([a-z]{3})[a-z]*\.? (\d{1,2})(?:st|nd|rd|th)?,?(?: (\d{4}),?)?(?: at)? )?(\d{1,2})(?::(\d{2}))?\s*(am|pm)(?:\s*\(([\w+/-]+)\))?/i

function clockOf(message: string, nowMs: number): number | undefined {
  const [, month, day, year, hour, minute = '0', half, zone] = CLOCK.exec(message) ?? []
  if (hour === undefined) return undefined
  // Its members in UTC are what a clock on the wall of that zone shows.
  const now = new Date(nowMs + aheadMs(nowMs, zone))
  const monthIndex = month === undefined ? -1 : MONTHS.indexOf(month.toLowerCase())
  const hours = (Number(hour) % 12) + (half?.toLowerCase() === 'pm' ? 12 : 0)
  const rest = [
    monthIndex >= 0 ? monthIndex : now.getUTCMonth(),
    day === undefined ? now.getUTCDate() : Number(day),
    hours,
    Number(minute),
  ] as const
  // Seconds are left out of it: the limit ends within that minute.
  const timeOf = (inYear: number): number => {
    const shown = Date.UTC(inYear, ...rest)
    return shown - aheadMs(shown - aheadMs(shown, zone), zone) + MINUTE_MS
  }
  const timeMs = timeOf(Number(year ?? now.getUTCFullYear()))
  if (timeMs > nowMs) return timeMs
  // Clocks differ a little: a time that is just past does not mean tomorrow.
  if (timeMs > nowMs - CLOCKS_DIFFER_MS) return nowMs + MINUTE_MS
  if (day === undefined) return timeMs + DAY_MS
  return year === undefined ? timeOf(now.getUTCFullYear() + 1) : undefined
}

/** How far the clocks of a zone are ahead of UTC at that time; those of this host where none is named that is known. */
function aheadMs(atMs: number, zone: string | undefined): number {
  const here = -new Date(atMs).getTimezoneOffset() * MINUTE_MS
  if (zone === undefined) return here
  try {
    const parts = new Intl.DateTimeFormat('en-US', { timeZone: zone, timeZoneName: 'longOffset' }).formatToParts(atMs)
    const { value = '' } = parts.find(({ type }) => type === 'timeZoneName') ?? {}
    const [, sign, hours = 0, minutes = 0] = /GMT([+-])(\d\d):(\d\d)/.exec(value) ?? []
    return (sign === '-' ? -1 : 1) * (Number(hours) * 60 + Number(minutes)) * MINUTE_MS
  } catch {
    return here
  }
}

const MINUTE_MS = 60_000
const DAY_MS = 24 * 3_600_000
const CLOCKS_DIFFER_MS = 10 * MINUTE_MS
