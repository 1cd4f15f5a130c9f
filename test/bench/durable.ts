import { Worker } from 'node:worker_threads'
import type { JobId } from '../../coordinator/core/job.ts'
import { printTable } from './measure.ts'
import { Store } from './store.ts'

/** What it costs to lose nothing: the store and its dispatcher alone, against single-row commits of the same PostgreSQL. */
export async function run(): Promise<void> {
  const store = await Store.open()
  const rows: Record<string, string | number>[] = []
  await process(store, 32, 2)
  const r1 = await store.commitsPerSecond(1, SECONDS)
  const r32 = await store.commitsPerSecond(32, SECONDS)
  const add = (what: string, perSecond: number, limit: 'R1' | 'R32', target: number): void => {
    const ratio = perSecond / (limit === 'R1' ? r1 : r32)
    rows.push({ what, 'per second': perSecond, [`of`]: limit, ratio, target, '': ratio >= target ? 'met' : 'short' })
  }
  for (const [callers, limit, target] of [
    [1, 'R1', 0.6],
    [32, 'R32', 1.2],
  ] as const)
    add(`add, ${callers} callers`, await addJobs(store, callers, SECONDS), limit, target)
  await drop(store)
  for (const [submitters, target] of [
    [32, 0.9],
    [128, 1.6],
  ] as const)
    add(`accepted to durably finished, ${submitters} submitters`, (await process(store, submitters, SECONDS)).perSecond, 'R32', target)
  const busy = await withBusyCores(() => process(store, 128, SECONDS))
  add('the same, 128 submitters, both cores busy beside it', busy.perSecond, 'R1', 10)
  const minute = await process(store, 128, 60)
  const ratio = (minute.tenths.at(-1) ?? 0) / (minute.tenths[0] ?? 1)
  rows.push({
    what: 'last tenth of a minute of it',
    'per second': (minute.tenths.at(-1) ?? 0) / 6,
    of: 'first tenth',
    ratio,
    target: 0.9,
    '': ratio >= 0.9 ? 'met' : 'short',
  })
  printTable(`durable: R1 = ${Math.round(r1)} commits/s on one connection, R32 = ${Math.round(r32)} on 32`, rows)
  await store.close()
}

const SECONDS = 4

/** Accepted and stored, then it waits. */
async function addJobs(store: Store, callers: number, seconds: number): Promise<number> {
  const endMs = performance.now() + seconds * 1000
  const counts = await Promise.all(
    Array.from({ length: callers }, async () => {
      let count = 0
      for (; performance.now() < endMs; count++) await store.accept().stored
      return count
    }),
  )
  return counts.reduce((sum, count) => sum + count, 0) / seconds
}

/** What `addJobs` left must not be finished in somebody else's time. */
async function drop(store: Store): Promise<void> {
  for (const live of [...store.dispatcher.liveJobs]) store.dispatcher.cancel(live.record.id, 'bench')
  await store.writer.drained()
}

/** Each submitter accepts a job, waits until its end is durable, and accepts the next. */
async function process(store: Store, submitters: number, seconds: number): Promise<{ perSecond: number; tenths: number[] }> {
  store.serve(submitters)
  const begun: [JobId, number][] = []
  store.onStart = (job, attempt) => {
    // Workers answer in a later turn of the event loop, several at once.
    if (begun.push([job, attempt]) === 1) setImmediate(() => begun.splice(0).forEach(([id, number]) => store.finish(id, number)))
  }
  const tenths = Array.from({ length: 10 }, () => 0)
  const began = performance.now()
  const endMs = began + seconds * 1000
  await Promise.all(
    Array.from({ length: submitters }, async () => {
      while (performance.now() < endMs) {
        const { live, stored } = store.accept()
        await stored
        await new Promise<void>((resolve, reject) => {
          store.writer.updateJob(live.record, (error) =>
            error === null && live.record.finishedMs !== null ? resolve() : reject(error ?? new Error('not finished')),
          )
        })
        const tenth = Math.floor(((performance.now() - began) / (seconds * 1000)) * 10)
        if (tenth < 10) tenths[tenth] = (tenths[tenth] ?? 0) + 1
      }
    }),
  )
  store.serve(0)
  return { perSecond: tenths.reduce((sum, count) => sum + count, 0) / seconds, tenths }
}

async function withBusyCores<T>(work: () => Promise<T>): Promise<T> {
  const busy = Array.from({ length: 2 }, () => new Worker('for (;;) {}', { eval: true }))
  try {
    return await work()
  } finally {
    await Promise.all(busy.map((worker) => worker.terminate()))
  }
}
