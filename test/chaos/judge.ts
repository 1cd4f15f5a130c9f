import type { JobView } from '../support/world.ts'
import type { Visit } from './visit.ts'

/**
 * What was wrong with one visit:
 *   lost         accepted, and not there or not over at the end
 *   garbled      a character missing, twice or another, in what was seen or in what is stored
 *   wrong        garbled, and the caller was told that all went well
 *   hung         the caller waited longer than anybody should
 *   failed       ended with an error, though nothing but deaths had happened
 *   cut          a connection broke while the coordinator lived
 *   not-stopped  worked on for a caller that had left
 *   twice        two attempts succeeded, or one idempotency key became two jobs
 *   odd          anything else that must not be
 */
export type Fault = { kind: FaultKind; detail: string }
export type FaultKind = 'lost' | 'garbled' | 'wrong' | 'hung' | 'failed' | 'cut' | 'not-stopped' | 'twice' | 'odd'

/** `unseen`: left in the moment the coordinator died, which then cannot know; the job is finished for nobody. */
export type Verdict = { faults: Fault[]; end: 'answered' | 'cancelled' | 'unseen' }

/** A job as stored, with its times. */
export type Stored = JobView & { finished_at: string | null }

export function judge(seen: Visit, stored: Stored | undefined, expected: string | null, coordinatorDeathsMs: readonly number[]): Verdict {
  const faults: Fault[] = seen.complaints.map((detail) => ({ kind: detail.startsWith('lost') ? 'lost' : 'odd', detail }))
  const add = (kind: FaultKind, detail: string): void => {
    faults.push({ kind, detail })
  }
  for (const atMs of seen.brokenAtMs)
    if (!coordinatorDeathsMs.some((deathMs) => atMs >= deathMs - CLOCK_MS && atMs <= deathMs + BREAK_MS))
      add('cut', `its connection broke at ${new Date(atMs).toISOString()} while the coordinator lived`)
  if (seen.hung) add('hung', `still waiting, ${seen.text.length} characters seen`)
  if (stored === undefined) {
    if (!seen.hung) add(seen.job === '' ? 'failed' : 'lost', seen.error || 'no such job')
    return { faults, end: 'answered' }
  }
  for (const fault of judgeStored(stored, expected)) faults.push(fault)
  if (seen.leftAtMs !== null) return { faults, end: judgeLeaving(seen, stored, seen.leftAtMs, coordinatorDeathsMs, add) }
  if (stored.status !== 'succeeded') add('failed', `${stored.status}: ${seen.error || JSON.stringify(stored.error)}`)
  if (seen.told === 'error') add('failed', `was told: ${seen.error}`)
  const whole = expected ?? stored.output?.text ?? ''
  const difference = seen.told === 'success' ? differenceOf(seen.text, whole) : beginsDifferently(seen.text, whole)
  if (difference !== null) add('garbled', difference)
  if (difference !== null && seen.told === 'success') add('wrong', 'and was told that all went well')
  if (seen.told === 'success' && seen.finish === null) add('odd', 'an end without a finish reason')
  if (seen.told === 'success' && seen.completionTokens !== null && stored.usage?.completion_tokens !== seen.completionTokens)
    add('odd', `${seen.completionTokens} tokens told, ${stored.usage?.completion_tokens} stored`)
  return { faults, end: 'answered' }
}

/** What must hold for any job, seen by anybody or not. */
export function judgeStored(stored: Stored, expected: string | null): Fault[] {
  const faults: Fault[] = []
  if (stored.status === 'queued' || stored.status === 'running') faults.push({ kind: 'lost', detail: `still ${stored.status} at the end` })
  const succeeded = stored.attempts.filter((attempt) => attempt.status === 'succeeded').length
  if (succeeded > 1) faults.push({ kind: 'twice', detail: `${succeeded} attempts succeeded` })
  if (new Set(stored.attempts.map((attempt) => attempt.number)).size !== stored.attempts.length)
    faults.push({ kind: 'odd', detail: 'two attempts of one number' })
  if (stored.status === 'succeeded') {
    const text = stored.output?.text ?? ''
    const difference = expected === null ? (text === '' ? 'no text at all' : null) : differenceOf(text, expected)
    if (difference !== null) faults.push({ kind: 'garbled', detail: `stored: ${difference}` })
    if (succeeded === 0) faults.push({ kind: 'odd', detail: 'succeeded without an attempt that did' })
  }
  return faults
}

function judgeLeaving(
  seen: Visit,
  stored: Stored,
  leftAtMs: number,
  coordinatorDeathsMs: readonly number[],
  add: (kind: FaultKind, detail: string) => void,
): Verdict['end'] {
  const lateMs = Date.parse(stored.finished_at ?? '') - leftAtMs
  if (stored.status === 'cancelled' && lateMs <= STOPPED_WITHIN_MS) return 'cancelled'
  if (coordinatorDeathsMs.some((deathMs) => Math.abs(deathMs - leftAtMs) < BREAK_MS)) return 'unseen'
  add('not-stopped', `${stored.status} ${lateMs} ms after its caller left, having seen ${seen.pieces} pieces`)
  return 'answered'
}

function differenceOf(text: string, expected: string): string | null {
  if (text === expected) return null
  return beginsDifferently(text, expected) ?? `ends after ${text.length} of ${expected.length} characters: …${text.slice(-20)}`
}

function beginsDifferently(text: string, expected: string): string | null {
  if (expected.startsWith(text)) return null
  let at = 0
  while (text[at] === expected[at]) at += 1
  return `at ${at} of ${expected.length}: saw ${JSON.stringify(text.slice(Math.max(0, at - 10), at + 30))}, expected ${JSON.stringify(expected.slice(Math.max(0, at - 10), at + 30))}`
}

// A process that is gone takes its connections along at once; the rest is our own lateness under load.
const BREAK_MS = 3_000
const CLOCK_MS = 100
// The failure table promises a second; a loaded host gets two more.
const STOPPED_WITHIN_MS = 3_000
