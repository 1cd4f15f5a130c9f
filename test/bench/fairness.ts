import type { JobId } from '../../coordinator/core/job.ts'
import { printTable } from './measure.ts'
import { Store } from './store.ts'

/** One hog and nine small teams on the real store and dispatcher; answers take 10 to 30 ms of a slot. */
export async function run(): Promise<void> {
  const store = await Store.open()
  const small = Array.from({ length: 9 }, (_, index) => `small-${index}`)
  const alone: number[] = []
  for (const team of small.slice(0, 3))
    alone.push(await serve(store, SLOTS / 10, [[team, SMALL_JOBS]]).then((run) => run.endMs.get(team) ?? 0))
  const aloneMs = alone.reduce((sum, ms) => sum + ms, 0) / alone.length
  const together = await serve(store, SLOTS, [['hog', HOG_JOBS], ...small.map((team): [string, number] => [team, SMALL_JOBS])])
  const fromMs = 0
  const toMs = Math.min(...small.map((team) => together.endMs.get(team) ?? 0)) * 0.9
  const counts = ['hog', ...small].map(
    (team) => together.startsMs.filter((start) => start.team === team && start.ms >= fromMs && start.ms <= toMs).length,
  )
  const jain = counts.reduce((sum, count) => sum + count, 0) ** 2 / (counts.length * counts.reduce((sum, count) => sum + count * count, 0))
  const slowest = Math.max(...small.map((team) => together.endMs.get(team) ?? 0))
  printTable(`fairness: ${SLOTS} slots, a hog with ${HOG_JOBS} jobs, nine teams with ${SMALL_JOBS}`, [
    { what: 'Jain index of jobs started while all wait', figure: jain, target: '≥ 0.95' },
    { what: 'slowest small team, beside its time alone at a tenth of the capacity', figure: slowest / aloneMs, target: '≤ 1.3' },
    { what: 'jobs started per team, least and most', figure: `${Math.min(...counts)} and ${Math.max(...counts)}`, target: '' },
  ])
  await store.close()
}

const SLOTS = 20
const HOG_JOBS = 2_000
const SMALL_JOBS = 150

type Served = { endMs: Map<string, number>; startsMs: { team: string; ms: number }[] }

/** All jobs are accepted first, the hog's before the others'; times count from the moment the slots open. */
async function serve(store: Store, slots: number, teams: [string, number][]): Promise<Served> {
  const teamOf = new Map<JobId, string>()
  const left = new Map(teams)
  const served: Served = { endMs: new Map(), startsMs: [] }
  const stored: Promise<void>[] = []
  for (const [team, jobs] of teams)
    for (let index = 0; index < jobs; index++) {
      const accepted = store.accept({ team })
      teamOf.set(accepted.live.record.id, team)
      stored.push(accepted.stored)
    }
  await Promise.all(stored)
  let chance = 7
  await new Promise<void>((resolve) => {
    const began = performance.now()
    store.onStart = (job, attempt) => {
      const team = teamOf.get(job) ?? ''
      served.startsMs.push({ team, ms: performance.now() - began })
      // A seeded generator: the same lengths in every run.
      chance = (chance * 48_271) % 2_147_483_647
      setTimeout(
        () => {
          store.finish(job, attempt)
          const rest = (left.get(team) ?? 0) - 1
          left.set(team, rest)
          if (rest === 0) served.endMs.set(team, performance.now() - began)
          if (served.endMs.size === teams.length) resolve()
        },
        10 + (chance % 21),
      )
    }
    store.serve(slots)
  })
  store.serve(0)
  await store.writer.drained()
  return served
}
