import type { JobId, WorkerId } from '../../coordinator/core/job.ts'
import { PRIORITIES } from '../../coordinator/core/line.ts'
import { Scheduler } from '../../coordinator/core/scheduler.ts'
import { offer, plainJob, RULES } from '../support/simulation.ts'
import { printTable } from './measure.ts'

const TEAMS = 100

/** What one decision of the scheduler costs while 1 k, 100 k and 1 M jobs wait: it must not depend on how many do. */
export async function run(): Promise<void> {
  const rows: Record<string, string | number>[] = []
  // Once without counting, so that the first row does not pay for the compiler.
  measure(1_000, 50_000)
  for (const waiting of [1_000, 100_000, 1_000_000]) {
    const { decisionsPerSecond, positionsPerSecond, bytesPerJob } = measure(waiting, 200_000)
    rows.push({
      waiting: waiting.toLocaleString('en-US'),
      'decisions/s': decisionsPerSecond,
      'of the first row': decisionsPerSecond / Number(rows[0]?.['decisions/s'] ?? decisionsPerSecond),
      'positions/s': positionsPerSecond,
      'bytes a waiting job': bytesPerJob,
    })
  }
  printTable(`backlog: one decision = one job finished, the next started, another accepted; ${TEAMS} teams, three classes`, rows)
  console.log('\nTarget: decisions/s flat within 2 ×.')
}

function measure(waiting: number, decisions: number): { decisionsPerSecond: number; positionsPerSecond: number; bytesPerJob: number } {
  const scheduler = new Scheduler(RULES)
  const worker = 'w' as WorkerId
  globalThis.gc?.()
  const heapBefore = process.memoryUsage().heapUsed
  let next = 0
  const ids: JobId[] = []
  const accept = (): void => {
    const id = `01900000-0000-7000-8000-${String(next++).padStart(12, '0')}` as JobId
    ids.push(id)
    scheduler.apply(0, {
      kind: 'job-accepted',
      job: plainJob(id, { team: `team-${next % TEAMS}`, priority: PRIORITIES[next % 3] ?? 'normal' }),
    })
  }
  for (let index = 0; index < waiting; index++) accept()
  globalThis.gc?.()
  const bytesPerJob = (process.memoryUsage().heapUsed - heapBefore) / waiting

  let running: { job: JobId; attempt: number }[] = []
  const take = (effects: ReturnType<Scheduler['apply']>): void => {
    for (const effect of effects) if (effect.kind === 'start-attempt') running.push({ job: effect.job, attempt: effect.attempt })
  }
  take(scheduler.apply(0, { kind: 'worker-connected', worker, name: 'w', offers: [offer('m', 64)], held: [], draining: false }))
  const began = performance.now()
  for (let index = 0; index < decisions; index++) {
    const oldest = running.shift()
    if (oldest === undefined) break
    take(scheduler.apply(index, { kind: 'attempt-finished', worker, cost: 80 + (index % 40), ...oldest }))
    accept()
    if (running.length > 1_000) running = running.slice()
  }
  const decisionsPerSecond = (decisions * 1000) / (performance.now() - began)

  const askedBegan = performance.now()
  for (let index = 0; index < 10_000; index++)
    scheduler.waiting(0, ids[ids.length - 1 - ((index * 7_919) % Math.min(waiting, ids.length))] as JobId)
  return { decisionsPerSecond, positionsPerSecond: 10_000_000 / (performance.now() - askedBegan), bytesPerJob }
}
