/**
 * What a provider may be asked for in a minute: counted when a call starts, so that a burst cannot pass the limit before
 * the first answer is there. Windows begin with their first call; money is counted elsewhere (a purse).
 */
export type QuotaLimits = { requestsPerMinute: number | null; tokensPerMinute: number | null }

export class Quota {
  limits: QuotaLimits
  #windowStartMs = Number.NEGATIVE_INFINITY
  #requests = 0
  #tokens = 0

  constructor(limits: QuotaLimits) {
    this.limits = limits
  }

  /** A call of so many estimated tokens starts. */
  take(nowMs: number, tokens: number): void {
    this.#roll(nowMs)
    this.#requests += 1
    this.#tokens += tokens
  }

  /** What a call that started in this window took more than estimated, or less. */
  correct(nowMs: number, startedMs: number, tokens: number): void {
    if (startedMs >= this.#windowStartMs && nowMs < this.#windowStartMs + WINDOW_MS) this.#tokens = Math.max(0, this.#tokens + tokens)
  }

  /** When it is used up, the time at which it is full again; null while a call may start. */
  usedUntil(nowMs: number): number | null {
    if (nowMs >= this.#windowStartMs + WINDOW_MS) return null
    const { requestsPerMinute, tokensPerMinute } = this.limits
    const used =
      (requestsPerMinute !== null && this.#requests >= requestsPerMinute) || (tokensPerMinute !== null && this.#tokens >= tokensPerMinute)
    return used ? this.#windowStartMs + WINDOW_MS : null
  }

  /** What is left of the tighter limit, 0 to 1; null without limits. */
  remaining(nowMs: number): number | null {
    const { requestsPerMinute, tokensPerMinute } = this.limits
    if (requestsPerMinute === null && tokensPerMinute === null) return null
    if (nowMs >= this.#windowStartMs + WINDOW_MS) return 1
    const left = (limit: number | null, used: number): number => (limit === null ? 1 : Math.max(0, 1 - used / limit))
    return Math.min(left(requestsPerMinute, this.#requests), left(tokensPerMinute, this.#tokens))
  }

  /** What is used of this minute, and when the next one may begin; null while nothing is. */
  used(nowMs: number): { requests: number; tokens: number; resetsMs: number | null } {
    if (nowMs >= this.#windowStartMs + WINDOW_MS) return { requests: 0, tokens: 0, resetsMs: null }
    return { requests: this.#requests, tokens: Math.round(this.#tokens), resetsMs: this.#windowStartMs + WINDOW_MS }
  }

  #roll(nowMs: number): void {
    if (nowMs < this.#windowStartMs + WINDOW_MS) return
    this.#windowStartMs = nowMs
    this.#requests = 0
    this.#tokens = 0
  }
}

const WINDOW_MS = 60_000
