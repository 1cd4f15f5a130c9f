import type { JobId } from './job.ts'

/**
 * The circuit breaker of one model on one worker.
 *
 *   closed ── failures of several jobs in a row ──▶ open ── time ──▶ one trial job ── succeeded ──▶ closed
 *                                                    ▲                    └── failed ──▶ open, twice as long
 */
export type Breaker = {
  failures: number
  lastFailed: JobId | null
  /** Times it opened in a row; above 0 it is open, or on trial. */
  openings: number
  openUntilMs: number
  trial: JobId | null
  /** What the last failure said. */
  why: string
  /** Jobs that were answered, ever. */
  answers: number
}

export function newBreaker(): Breaker {
  return { failures: 0, lastFailed: null, openings: 0, openUntilMs: 0, trial: null, why: '', answers: 0 }
}

/** A failed attempt. Answers whether the breaker opened, or opened anew after a trial. */
export function trip(
  breaker: Breaker,
  job: JobId,
  nowMs: number,
  rules: { breakerFailures: number; breakerOpenMs: number; breakerMaxMs: number },
  why = '',
): boolean {
  breaker.why = why
  const wasTrial = breaker.trial === job
  if (wasTrial) breaker.trial = null
  // Failures of several jobs in a row mean the provider; one prompt that fails again and again means the prompt.
  if (breaker.lastFailed !== job) breaker.failures += 1
  breaker.lastFailed = job
  if (breaker.failures < rules.breakerFailures || (breaker.openUntilMs > nowMs && !wasTrial)) return false
  breaker.openings += 1
  breaker.openUntilMs = nowMs + Math.min(rules.breakerMaxMs, rules.breakerOpenMs * 2 ** (breaker.openings - 1))
  return true
}

/** A success. Answers whether the breaker had been open. */
export function reset(breaker: Breaker): boolean {
  const wasOpen = breaker.openings > 0
  Object.assign(breaker, newBreaker(), { answers: breaker.answers + 1 })
  return wasOpen
}
