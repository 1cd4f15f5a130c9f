import type { WorkerId } from './job.ts'

/** Which worker last computed a conversation's prefix. A hint: forgetting one costs time, never correctness. */
export class PrefixOwners {
  readonly #owners = new Map<string, WorkerId>()

  /** The owner of the longest known prefix. */
  ownerOf(model: string, prefix: readonly string[]): WorkerId | undefined {
    for (let i = prefix.length - 1; i >= 0; i--) {
      const owner = this.#owners.get(`${model}\u0001${prefix[i]}`)
      if (owner !== undefined) return owner
    }
    return undefined
  }

  remember(model: string, prefix: readonly string[], worker: WorkerId): void {
    for (const hash of prefix) {
      const key = `${model}\u0001${hash}`
      this.#owners.delete(key)
      this.#owners.set(key, worker)
    }
    // A Map iterates in insertion order, so the first keys are the ones unused for longest.
    for (const key of this.#owners.keys()) {
      if (this.#owners.size <= OWNERS_MAX) break
      this.#owners.delete(key)
    }
  }
}

const OWNERS_MAX = 20_000
