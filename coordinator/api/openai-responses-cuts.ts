import type { JobId } from '../core/job.ts'

/**
 * How the answers of late were cut into deltas by whoever read them first. Later readers are given the same cuts, so that a
 * number stands for the same place to all of them, and a reader can come back behind the last one it has.
 */
export class RecentCuts {
  readonly #byJob = new Map<JobId, Cuts>()
  #count = 0

  /** Of an answer that was asked for here and now: nobody can have read it cut otherwise. */
  begin(job: JobId): void {
    if (!this.#byJob.has(job)) this.#add(job)
  }

  /** Undefined: nobody has read it here as events, or where it was cut first is not known any more. */
  find(job: JobId): Cuts | undefined {
    const cuts = this.#byJob.get(job)
    return cuts === undefined || cuts.isBroken || cuts.count === PLACE ? undefined : cuts
  }

  /** One that was not begun here, or is not known any more, may have been read in other cuts: before a restart, or at another coordinator. */
  of(job: JobId): Cuts {
    const known = this.#byJob.get(job)
    if (known !== undefined) return known
    const cuts = this.#add(job)
    cuts.isBroken = true
    return cuts
  }

  #add(job: JobId): Cuts {
    const cuts = new Cuts(() => this.#counted(1))
    this.#byJob.set(job, cuts)
    this.#counted(cuts.count)
    return cuts
  }

  /** Its answer begins anew. */
  forget(job: JobId): void {
    const cuts = this.#byJob.get(job)
    if (cuts === undefined) return
    this.#count -= cuts.count
    this.#byJob.delete(job)
  }

  #counted(more: number): void {
    this.#count += more
    for (const job of this.#byJob.keys()) {
      if (this.#count <= CUTS_MAX || this.#byJob.size === 1) return
      this.forget(job)
    }
  }
}

// Eight megabytes, of some thousand answers.
const CUTS_MAX = 1_000_000
// As many cuts take as much as the place for them.
const PLACE = 50

export class Cuts {
  readonly #ends = new Map<string, number[]>()
  readonly #onCut: () => void
  /** With what it takes by itself. */
  count = PLACE
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
