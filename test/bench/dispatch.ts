import { setImmediate as nextTurn } from 'node:timers/promises'
import { newRecord } from '../../coordinator/engine/new-job.ts'
import { printTable, quantile } from './measure.ts'
import { Store } from './store.ts'

/** From a slot that becomes free to the start of the next job, with few and with very many waiting in the real store. */
export async function run(): Promise<void> {
  const store = await Store.open()
  const r1 = await store.commitsPerSecond(1, 3)
  const commitMs = 1000 / r1
  const rows: Record<string, string | number>[] = []
  let waiting = 0
  for (const target of [1_000, 100_000, 1_000_000]) {
    globalThis.gc?.()
    const before = process.memoryUsage().rss
    waiting += await fill(store, target - waiting)
    globalThis.gc?.()
    const bytes = (process.memoryUsage().rss - before) / Math.max(1, target - Number(rows.at(-1)?.count ?? 0))
    const tookMs = await measure(store, MEASURED)
    waiting -= MEASURED + 1
    const [p50, p99] = [quantile(tookMs, 0.5), quantile(tookMs, 0.99)]
    const first = rows[0]
    rows.push({
      waiting: target.toLocaleString('en-US'),
      'p50 ms': p50,
      'p99 ms': p99,
      'p50, commits': p50 / commitMs,
      'p99, commits': p99 / commitMs,
      'p50 of the first row': first === undefined ? 1 : p50 / Number(first['p50 ms']),
      'RSS bytes a job': bytes,
      count: target,
    })
  }
  printTable(`dispatch: R1 = ${Math.round(r1)} commits/s (${commitMs.toFixed(2)} ms each)`, rows)
  console.log('\nTargets: p50 ≤ 2.5 and p99 ≤ 10 commits; with 100,000 and 1,000,000 waiting ≤ 1.2 × the first row.')
  await store.close()
}

const MEASURED = 900

/** So many more jobs wait: stored as the rows of a batch are, then in line. */
async function fill(store: Store, count: number): Promise<number> {
  for (let index = 0; index < count; index++) {
    const job = store.newJob()
    store.dispatcher.takeUp(newRecord(job, Date.now(), store.coordinator), job.request, job.promptCost)
    if (index % 1_000 === 0) await nextTurn()
  }
  return count
}

/** One slot; the clock runs from the report that ends a job to the message that starts the next. */
async function measure(store: Store, count: number): Promise<number[]> {
  const tookMs: number[] = []
  let freedMs = 0
  await new Promise<void>((resolve) => {
    store.onStart = (job, attempt) => {
      if (freedMs > 0) tookMs.push(performance.now() - freedMs)
      if (tookMs.length >= count) {
        store.onStart = () => {}
        resolve()
        return
      }
      // Others are served between two jobs, and the writer has its turns.
      setImmediate(() => {
        freedMs = performance.now()
        store.finish(job, attempt)
      })
    }
    store.serve(1)
  })
  store.serve(0)
  await store.writer.drained()
  return tookMs.sort((a, b) => a - b)
}
