/**
 * Computing prompts aims at this long in a step: others wait about that long for their next token, and a cancel for its
 * slot. Measured with 1,500 tokens beside 15 streams on two cores: at 600 ms the newcomer's first token came a tenth later
 * than llama-server's, at 850 ms with it, because every step also computes the others' tokens; slots are free within 0.75 s.
 */
const SHARE_MS = 850

/** A batch holds this many tokens at most; more would be computed in parts anyway. */
export const BATCH_TOKENS = 512

/** Smaller shares compute mostly the others' tokens: on a busy host they would be measured slow and get ever smaller. */
const SHARE_TOKENS_MIN = 96

const SHARE_TOKENS_UNIT = 32

/** Before anything is measured: short enough for the slowest machine worth serving on. */
const SHARE_TOKENS_FIRST = 96

/**
 * How many prompt tokens a step may compute. Measured while it goes, because the same number is half a second on two
 * cores and three milliseconds on a GPU.
 */
export class PrefillPace {
  #msPerToken: number | undefined
  #decodeMs = 0

  /** Prompt tokens for the next step, beside so many streams that each want one token. */
  share(decoding: number): number {
    const room = BATCH_TOKENS - decoding
    if (this.#msPerToken === undefined) return Math.min(SHARE_TOKENS_FIRST, room)
    const tokens = Math.floor(SHARE_MS / this.#msPerToken / SHARE_TOKENS_UNIT) * SHARE_TOKENS_UNIT
    return Math.min(room, Math.max(SHARE_TOKENS_MIN, tokens))
  }

  /** Learns from a step that took so long for so many prompt tokens beside so many decoding streams. */
  learn(stepMs: number, prefilled: number, decoding: number): void {
    if (prefilled === 0) this.#decodeMs = blend(this.#decodeMs, stepMs)
    else if (prefilled >= SHARE_TOKENS_UNIT) {
      const ms = Math.max(stepMs - (decoding > 0 ? this.#decodeMs : 0), stepMs / 10)
      this.#msPerToken = this.#msPerToken === undefined ? ms / prefilled : blend(this.#msPerToken, ms / prefilled)
    }
  }
}

/** Other programs can only make a step look longer than it is, so what looks shorter counts for more. */
function blend(old: number, now: number): number {
  if (old === 0) return now
  const weight = now < old ? 0.5 : 0.15
  return old + (now - old) * weight
}
