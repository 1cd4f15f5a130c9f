/**
 * Whether what an engine talks to lets it in. Only a job can tell, so one is sent as a trial, and goes back to the line when it
 * is refused.
 *
 *   in ── refused ──▶ out ── time ──▶ on trial: one job at a time ── served ──▶ in
 *                      ▲                     └── refused ──▶ out, for twice as long
 */
export class Login {
  #refusals = 0
  #outUntilMs = 0
  #refusedMs = Number.NEGATIVE_INFINITY

  /** Answers how long to wait before the next trial. What several jobs of a moment say counts once. */
  refused(nowMs: number): number {
    this.#refusedMs = nowMs
    if (nowMs >= this.#outUntilMs) {
      this.#outUntilMs = nowMs + Math.min(WAIT_MAX_MS, WAIT_MS * 2 ** this.#refusals)
      this.#refusals = Math.min(this.#refusals + 1, DOUBLINGS_MAX)
    }
    return this.waitMs(nowMs)
  }

  /** One that was let in before the refusal says nothing about what is now. */
  served(begunMs: number): void {
    if (begunMs >= this.#refusedMs) this.#refusals = 0
  }

  /** Until the next trial; 0: it may be tried. */
  waitMs(nowMs: number): number {
    return Math.max(0, this.#outUntilMs - nowMs)
  }

  get isOnTrial(): boolean {
    return this.#refusals > 0
  }
}

const WAIT_MS = 30_000
const WAIT_MAX_MS = 600_000
const DOUBLINGS_MAX = 10
