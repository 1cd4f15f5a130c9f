import { BATCH_TOKENS } from './pace.ts'

/**
 * How many guessed tokens are worth computing with a step. A step that computes them takes longer, and may bring several tokens at once:
 * it pays where a model waits for its memory, as on GPUs, and where nearly all guesses are right. Both are measured while the model
 * works, so that where it does not pay nothing is guessed. Measured on two cores (SmolLM2-135M, one stream): a token more costs 0.4 of a step, a text
 * that is repeated word by word comes 1.3 to 1.5 times as fast, and with every guess taken a summary 0.75 to 0.95 times, a list 0.4 to 0.65 times.
 */
export class Speculation {
  /** Of a step without guesses, by the number of its streams. */
  readonly #plainMs: (number | undefined)[] = []
  /** What one guessed token adds to a step; undefined: not measured yet. */
  #tokenMs: number | undefined

  /** The best number of guessed tokens for a stream whose guesses are right with these odds. */
  worth(streams: number, odds: number): number {
    const most = Math.min(GUESSED_MOST, Math.floor(BATCH_TOKENS / streams) - 1)
    const plainMs = this.#plainMs[streams]
    if (plainMs === undefined) return 0
    // Nothing tells the price but to pay it once.
    if (this.#tokenMs === undefined) return Math.min(GUESSED_FIRST, most)
    let best = 0
    let bestPace = (streams + WORTH_IT) / plainMs
    for (let tokens = 1, all = streams, chance = odds; tokens <= most; tokens += 1, chance *= odds) {
      all += chance
      const pace = all / (plainMs + tokens * this.#tokenMs)
      if (pace > bestPace) [best, bestPace] = [tokens, pace]
    }
    return best
  }

  /** Learns from a step without prompts that took so long for so many streams and guessed tokens. */
  learn(stepMs: number, streams: number, guessed: number): void {
    const plainMs = this.#plainMs[streams]
    if (guessed === 0) {
      this.#plainMs[streams] = plainMs === undefined ? stepMs : plainMs + (stepMs - plainMs) * NEW_SHARE
      // A price that was measured too high would never be measured again.
      if (this.#tokenMs !== undefined) this.#tokenMs *= FORGETTING
      return
    }
    if (plainMs === undefined) return
    const tokenMs = Math.max(0, stepMs - plainMs) / guessed
    this.#tokenMs = this.#tokenMs === undefined ? tokenMs : this.#tokenMs + (tokenMs - this.#tokenMs) * NEW_SHARE
  }
}

const GUESSED_MOST = 8
const GUESSED_FIRST = 4

/** Tokens of this stream in a step: measured times are not exact, and what seems to gain less may lose. */
const WORTH_IT = 0.1

const NEW_SHARE = 0.2

/** Half after some 700 steps. */
const FORGETTING = 0.999
