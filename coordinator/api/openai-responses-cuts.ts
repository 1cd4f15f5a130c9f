import type { JobId } from '../core/job.ts'

/**
 * How the answers of late were cut into deltas by whoever read them first. Later readers are given the same cuts, so that a
 * number stands for the same place to all of them, and a reader can come back behind the last one it has.
 */
export class RecentCuts {
  readonly #byJob = new Map<JobId, Cuts>()
  /** Of jobs up to this one, where they are not known here, others may have read events of other cuts: before a restart, or before they were forgotten. */
  #lostUpTo: string
  #count = 0

  constructor(lostUpTo = '') {
    this.#lostUpTo = lostUpTo
  }

  /** Undefined: nobody has read it here as events, or where it was cut first is not known any more. */
  find(job: JobId): Cuts | undefined {
    const cuts = this.#byJob.get(job)
    return cuts?.isBroken === true ? undefined : cuts
  }

  of(job: JobId): Cuts {
    const known = this.#byJob.get(job)
    if (known !== undefined) return known
    const cuts = new Cuts(() => this.#counted())
    cuts.isBroken = job <= this.#lostUpTo
    this.#byJob.set(job, cuts)
    return cuts
  }

  /** Its answer begins anew. */
  forget(job: JobId): void {
    this.#count -= this.#byJob.get(job)?.count ?? 0
    this.#byJob.delete(job)
  }

  #counted(): void {
    this.#count += 1
    for (const job of this.#byJob.keys()) {
      if (this.#count <= CUTS_MAX || this.#byJob.size === 1) return
      this.forget(job)
      if (job > this.#lostUpTo) this.#lostUpTo = job
    }
  }
}

// Eight megabytes, of some thousand answers.
const CUTS_MAX = 1_000_000

export class Cuts {
  readonly #ends = new Map<string, number[]>()
  readonly #onCut: () => void
  count = 0
  /** It was begun anew: the cuts before are lost, and their numbers are not those of these. */
  isBroken = false

  constructor(onCut: () => void) {
    this.#onCut = onCut
  }

  /** Where the delta of an item ends that is its `index`th, now that it is so long: where it was cut before, else here. */
  end(item: string, index: number, length: number): number {
    const ends = this.#ends.get(item) ?? []
    const known = ends[index]
    if (known !== undefined) return known
    if (index > ends.length) {
      this.isBroken = true
      return length
    }
    if (ends.length === 0) this.#ends.set(item, ends)
    ends.push(length)
    this.count += 1
    this.#onCut()
    return length
  }
}
