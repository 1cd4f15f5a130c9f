/** How long a model's answers take of late, by model: what estimates are made from. */
export class ServiceTimes {
  readonly #means = new Map<string, { ms: number; cost: number | null }>()

  get(model: string): number | undefined {
    return this.#means.get(model)?.ms
  }

  /** Of an answer that is expected to cost so many tokens. */
  expected(model: string, cost: number): number | undefined {
    const mean = this.#means.get(model)
    return mean === undefined || mean.cost === null ? mean?.ms : (mean.ms * cost) / mean.cost
  }

  /** From an earlier life; what was seen in this one is better. */
  begin(model: string, meanMs: number): void {
    if (!this.#means.has(model)) this.#means.set(model, { ms: meanMs, cost: null })
  }

  /** `cost`: the tokens that it was expected to take when it was accepted. */
  learn(model: string, tookMs: number, cost: number): void {
    const known = this.#means.get(model)
    if (known === undefined) this.#means.set(model, { ms: tookMs, cost: Math.max(1, cost) })
    else {
      known.ms += (tookMs - known.ms) * LATEST_WEIGHT
      known.cost = known.cost === null ? Math.max(1, cost) : known.cost + (cost - known.cost) * LATEST_WEIGHT
    }
  }
}

// Recent answers weigh more: a model's load changes within minutes.
const LATEST_WEIGHT = 0.1
