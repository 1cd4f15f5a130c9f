/** How long a model's answers take of late, by model: what estimates are made from. */
export class ServiceTimes {
  readonly #meanMs = new Map<string, number>()

  get(model: string): number | undefined {
    return this.#meanMs.get(model)
  }

  /** From an earlier life; what was seen in this one is better. */
  begin(model: string, meanMs: number): void {
    if (!this.#meanMs.has(model)) this.#meanMs.set(model, meanMs)
  }

  learn(model: string, tookMs: number): void {
    const known = this.#meanMs.get(model)
    this.#meanMs.set(model, known === undefined ? tookMs : known + (tookMs - known) * LATEST_WEIGHT)
  }
}

// Recent answers weigh more: a model's load changes within minutes.
const LATEST_WEIGHT = 0.1
