import { CLASS_WEIGHTS, type LineJob, type Team } from './line.ts'

/**
 * Who goes first where several lines want the same slots, of a cloud or for `auto`: each line names its next job, and here
 * classes and teams share as they do within a line (line.ts), by tags of their own. Only what was contested is counted: a
 * model that nobody else wants the slots of costs its teams nothing elsewhere.
 */
export class Contest<J extends LineJob<J> & { readonly team: Team<J> }> {
  readonly #classTags = [0, 0, 0]
  readonly #teamTags: Map<string, number>[] = [new Map(), new Map(), new Map()]
  readonly #teamTimes = [0, 0, 0]
  #classTime = 0

  /** One of them, which pays for it; of equals the one that came first. */
  winner(candidates: readonly J[]): J | undefined {
    const [first, ...others] = candidates
    if (first === undefined || others.length === 0) return first
    let best = first
    for (const other of others) if (this.#isBefore(other, best)) best = other
    this.#charge(best)
    return best
  }

  #isBefore(a: J, b: J): boolean {
    if (a.rank !== b.rank) {
      const difference = this.#classTag(a.rank) - this.#classTag(b.rank)
      return difference === 0 ? a.rank < b.rank : difference < 0
    }
    const difference = this.#teamTag(a) - this.#teamTag(b)
    return difference === 0 ? a.order < b.order : difference < 0
  }

  #charge(job: J): void {
    const { rank, team, cost } = job
    this.#classTime = this.#classTag(rank)
    this.#classTags[rank] = this.#classTime + cost / (CLASS_WEIGHTS[rank] ?? 1)
    const time = this.#teamTag(job)
    this.#teamTimes[rank] = time
    this.#teamTags[rank]?.set(team.name, time + cost / team.weight)
  }

  /** Who did not compete meanwhile saves nothing up. */
  #classTag(rank: number): number {
    return Math.max(this.#classTags[rank] ?? 0, this.#classTime)
  }

  #teamTag({ rank, team }: J): number {
    return Math.max(this.#teamTags[rank]?.get(team.name) ?? 0, this.#teamTimes[rank] ?? 0)
  }
}
