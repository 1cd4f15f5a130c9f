import type { Hold } from './fleet.ts'
import type { JobId } from './job.ts'

/** What a provider's refusal means to it: a hold, or one whose end it did not say. */
export type Setback = Omit<Hold, 'untilMs' | 'onTrial'> & { untilMs: number | null | 'untold' }

/**
 * How long a provider is left alone that does not say for how long.
 *
 *   well ── a call goes wrong ──▶ held ── time ──▶ one trial ── goes well ──▶ well
 *                                  ▲                  └── goes wrong ──▶ held, twice as long
 */
export class Cooldown {
  /** The job that tries it, while one does. */
  trial: JobId | null = null
  #setbacks = 0
  #sinceMs = Number.NEGATIVE_INFINITY
  /** An answer that had begun was broken off, and none came to its end since. */
  #brokeOff = false

  /** The hold that follows from a call's setback, with part of an answer or without; null where one that began later has told more already. */
  holdOf({ untilMs, ...setback }: Setback, startedMs: number, brokeOff: boolean, nowMs: number): Hold | null {
    this.#brokeOff ||= brokeOff
    if (untilMs !== 'untold') return { ...setback, untilMs }
    if (startedMs <= this.#sinceMs) return null
    const ms = Math.min(PAUSE_MAX_MS, PAUSE_MS * 2 ** this.#setbacks)
    this.#setbacks = Math.min(this.#setbacks + 1, DOUBLINGS_MAX)
    this.#sinceMs = nowMs
    return { ...setback, untilMs: nowMs + ms, onTrial: true }
  }

  /** A call that began then goes well, so far or to the end of its answer (`isWhole`). Answers whether that says that the provider is well again. */
  proves(startedMs: number, isWhole: boolean): boolean {
    const isLater = startedMs > this.#sinceMs
    // That answers begin says nothing of one that breaks them off: it would be asked every second for ever, and paid.
    if (this.#brokeOff ? isWhole : isLater) this.#setbacks = 0
    if (isWhole) this.#brokeOff = false
    return isLater
  }

  reset(): void {
    this.#setbacks = 0
    this.#brokeOff = false
    this.trial = null
  }
}

const PAUSE_MS = 1_000
const PAUSE_MAX_MS = 60_000
const DOUBLINGS_MAX = 10

/** Whether a hold keeps work away for longer than the one that is there: what a call says that ended meanwhile does not shorten it. */
export function outlasts(hold: Hold, known: Hold | null, nowMs: number): boolean {
  if (known === null) return true
  if (known.untilMs === null) return hold.untilMs === null
  return hold.untilMs === null || known.untilMs <= nowMs || hold.untilMs > known.untilMs
}
