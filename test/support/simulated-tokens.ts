import { Violation } from './simulated-violation.ts'

/**
 * Every token that any engine made, and after which one. An answer in which each token follows the one it was made after is
 * one answer, however many attempts it took; one put together from two is not.
 */
export class TokenBook {
  readonly #before = new Map<number, number>()
  #noise = 0
  /** True: two generations of one request differ, as on a GPU whose batches differ. */
  readonly noisy: boolean

  constructor(noisy: boolean) {
    this.noisy = noisy
  }

  /** Makes what a new generation's tokens depend on beside seed and place. */
  newNoise(): number {
    return this.noisy ? ++this.#noise : 0
  }

  make(seed: number, place: number, noise: number, before: number): number {
    let id = Math.imul(seed ^ 0x9e37_79b9, 0x85eb_ca6b) ^ Math.imul(place + 1, 0xc2b2_ae35) ^ Math.imul(noise, 0x27d4_eb2f)
    id = Math.imul(id ^ (id >>> 15), 0x2c1b_3c6d)
    id = (id ^ (id >>> 13)) >>> 1
    this.#before.set(id, before)
    return id
  }

  check(job: string, tokenIds: readonly number[]): void {
    for (const [place, id] of tokenIds.entries())
      if (this.#before.get(id) !== (place === 0 ? FIRST : tokenIds[place - 1]))
        throw new Violation(`${job}: token ${place} of its answer does not belong behind the one before it`)
  }
}

export const FIRST = -1

/** One character a token, so that a character lost or doubled is one token lost or doubled. */
export function textOf(tokenIds: readonly number[]): string {
  let text = ''
  for (const id of tokenIds) text += String.fromCharCode(97 + (id % 26))
  return text
}

/** How many tokens' text may be shown: one in seven waits for the next one. */
export function releasable(ids: readonly number[]): number {
  let count = ids.length
  while (count > 0 && (ids[count - 1] as number) % 7 === 0) count -= 1
  return count
}
