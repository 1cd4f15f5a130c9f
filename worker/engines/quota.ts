import type { EngineState } from './engine.ts'
import type { QuotaWindow } from './cli/adapter.ts'
import { isRetryTime } from './cli/failures.ts'

/**
 * What is known of a program's limits. Programs tell one window or another, now and then; the last word about each
 * counts until the window resets. The tightest window is what the engine reports.
 */
export class Quota {
  readonly #windows = new Map<string, QuotaWindow & { toldMs: number }>()

  note(windows: readonly QuotaWindow[], nowMs: number): void {
    for (const window of windows)
      if (this.#windows.has(window.name) || this.#windows.size < WINDOWS_MAX) this.#windows.set(window.name, { ...window, toldMs: nowMs })
  }

  /** A failure that says when to come back, but not which window it is about. */
  limitUntil(untilMs: number, nowMs: number): void {
    this.note([{ name: 'failure', usedUp: true, resetsAtMs: untilMs }], nowMs)
  }

  /** What was asked then was answered: whatever was said before that to be used up is not. */
  served(begunMs: number): void {
    for (const [name, { usedUp, toldMs }] of this.#windows) if (usedUp && toldMs <= begunMs) this.#windows.delete(name)
  }

  state(nowMs: number): EngineState['quota'] | undefined {
    for (const [name, { resetsAtMs }] of this.#windows) if (resetsAtMs !== undefined && resetsAtMs <= nowMs) this.#windows.delete(name)
    if (this.#windows.size === 0) return undefined
    let limitedUntilMs: number | null = null
    let remainingRatio: number | null = null
    for (const { usedUp, resetsAtMs, remainingRatio: remains } of this.#windows.values()) {
      if (usedUp && resetsAtMs !== undefined && isRetryTime(resetsAtMs, nowMs)) limitedUntilMs = Math.max(limitedUntilMs ?? 0, resetsAtMs)
      const left = usedUp ? 0 : remains === undefined ? undefined : Math.min(1, Math.max(0, remains))
      if (left !== undefined) remainingRatio = Math.min(remainingRatio ?? 1, left)
    }
    return limitedUntilMs === null && remainingRatio === null ? undefined : { limitedUntilMs, remainingRatio }
  }
}

// Their names come from outside.
const WINDOWS_MAX = 16
