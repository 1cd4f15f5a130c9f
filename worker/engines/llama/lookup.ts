/**
 * Guesses how a text goes on: as it did where its last few tokens stood before, in the prompt or in the answer. Right where
 * a text is copied, quoted or corrected. Keeps how often it was right, whether or not anything was made of its guesses.
 */
export class Lookup {
  readonly #tokens: number[] = []
  /** Where a run of `RUN` tokens, by its hash, ended last. */
  readonly #ends = new Map<number, number>()
  #right = 0.5
  #judged = 1

  constructor(tokens: readonly number[]) {
    for (const token of tokens) this.add(token)
  }

  add(token: number): void {
    const { length } = this.#tokens
    // Known only once it is gone on from: else the end of the text would find itself.
    if (length >= RUN) this.#ends.set(this.#hashOfRun(length), length)
    this.#tokens.push(token)
  }

  /** What may come next, at most so many tokens; none where the end of the text is new. */
  guess(most: number): readonly number[] {
    const { length } = this.#tokens
    if (most <= 0 || length < RUN) return []
    const end = this.#ends.get(this.#hashOfRun(length))
    if (end === undefined || !this.#isSameRun(end, length)) return []
    return this.#tokens.slice(end, end + most)
  }

  /** The share of guessed tokens that were right of late, each after right ones, from 0 to 1. */
  get odds(): number {
    return this.#right / this.#judged
  }

  /** Compares a guess with what was chosen, as far as both go; what comes after a wrong token says nothing. */
  judge(guess: readonly number[], chosen: readonly number[]): void {
    for (let place = 0; place < Math.min(guess.length, chosen.length); place += 1) {
      const isRight = guess[place] === chosen[place]
      this.#right = this.#right * MEMORY + (isRight ? 1 : 0)
      this.#judged = this.#judged * MEMORY + 1
      if (!isRight) return
    }
  }

  #hashOfRun(end: number): number {
    let hash = 0
    for (let at = end - RUN; at < end; at += 1) hash = Math.imul(hash ^ this.#tokens[at]!, 0x9e3779b1)
    return hash
  }

  #isSameRun(end: number, other: number): boolean {
    for (let back = 1; back <= RUN; back += 1) if (this.#tokens[end - back] !== this.#tokens[other - back]) return false
    return true
  }
}

/** Two tokens stand side by side by chance too often. */
const RUN = 3

/** A judgement counts for half after seven more: whether an answer copies changes from sentence to sentence. */
const MEMORY = 0.9
