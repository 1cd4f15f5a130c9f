import type { WatchedJob } from './simulated-judge.ts'
import { Violation } from './simulated-violation.ts'

/**
 * Nobody starves. Of 21 tokens 16, 4 and 1 belong to the classes, so while a class waits the other two are served at most
 * their weights' multiple of one of its jobs, plus one job each that was begun. A quarter more is the bound here.
 */
export type Served = Map<string, number[]>

export function served(): Served {
  return new Map()
}

/** To be called before the job starts. */
export function checkShare(tokens: Served, job: WatchedJob, waiting: Iterable<WatchedJob>): void {
  const since = tokens.get(job.model) ?? [0, 0, 0]
  tokens.set(job.model, since)
  const waits = [false, false, false]
  for (const other of waiting) if (other.model === job.model && other !== job) waits[other.rank] = true
  for (const rank of since.keys()) {
    const others = (since[rank] ?? 0) + job.cost
    since[rank] = rank === job.rank || waits[rank] !== true ? 0 : others
    if ((since[rank] ?? 0) > (BOUND_TOKENS[rank] ?? 0))
      throw new Violation(`class ${rank} waits while the others are served ${since[rank]} tokens of ${job.model}`)
  }
}

// A prompt and at most six tokens of answer (simulated-plan.ts).
const MOST = 16
const BOUND_TOKENS = [5 / 16, 17 / 4, 20].map((multiple) => 1.25 * (multiple * MOST + 2 * MOST))
