import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { execPath } from 'node:process'
import type { JobId } from '../../coordinator/core/job.ts'
import { printTable } from './measure.ts'
import { Store } from './store.ts'

/**
 * What it costs to lose nothing: the store and its dispatcher alone, against single-row commits of the same PostgreSQL. The
 * machine's own speed drifts: the limit is measured before and after each figure, under the same load.
 */
export async function run(): Promise<void> {
  const store = await Store.open()
  const rows: Record<string, string | number>[] = []
  await process(store, 32, WARM_UP_SECONDS)
  const beside = async (what: string, connections: 1 | 32, target: number, perSecond: () => Promise<number>): Promise<void> => {
    const before = await store.commitsPerSecond(connections, LIMIT_SECONDS)
    const reached = await perSecond()
    const limit = (before + (await store.commitsPerSecond(connections, LIMIT_SECONDS))) / 2
    const ratio = reached / limit
    rows.push({ what, 'per second': reached, of: `R${connections}`, limit, ratio, target, '': ratio >= target ? 'met' : 'short' })
  }
  await beside('add, 1 caller', 1, 0.6, () => addJobs(store, 1, SECONDS))
  await beside('add, 32 callers', 32, 1.2, () => addJobs(store, 32, SECONDS))
  await drop(store)
  const finished = async (submitters: number): Promise<number> => (await process(store, submitters, SECONDS)).perSecond
  await beside('accepted to durably finished, 32 submitters', 32, 0.9, () => finished(32))
  await beside('accepted to durably finished, 128 submitters', 32, 1.6, () => finished(128))
  await withBusyCores(() => beside('the same, 128 submitters, and R1, with both cores busy beside it', 1, 10, () => finished(128)))
  const minute = await process(store, 128, 60)
  const [first = 1, last = 0] = [minute.tenths[0], minute.tenths.at(-1)].map((count) => (count ?? 0) / 6)
  const ratio = last / first
  rows.push({
    what: 'last tenth of a minute of it',
    'per second': last,
    of: 'first tenth',
    limit: first,
    ratio,
    target: 0.9,
    '': ratio >= 0.9 ? 'met' : 'short',
  })
  printTable('durable: R1 and R32 are single-row commits/s on 1 and 32 connections', rows)
  await store.close()
}

const SECONDS = 4
const LIMIT_SECONDS = 2
// Compiled code is a matter of the first seconds.
const WARM_UP_SECONDS = 6

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

/** What `addJobs` left must not be finished, nor cleaned up by autovacuum, in somebody else's time. */
async function drop(store: Store): Promise<void> {
  for (const live of [...store.dispatcher.liveJobs]) store.dispatcher.cancel(live.record.id, 'bench')
  await store.writer.drained()
  await store.db.query('vacuum jobs')
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
        await store.dispatcher.durable(live.record.id)
        if (live.record.finishedMs === null) throw new Error('not finished')
        const tenth = Math.floor(((performance.now() - began) / (seconds * 1000)) * 10)
        if (tenth < 10) tenths[tenth] = (tenths[tenth] ?? 0) + 1
      }
    }),
  )
  store.serve(0)
  return { perSecond: tenths.reduce((sum, count) => sum + count, 0) / seconds, tenths }
}

/**
 * One process that never rests on each core, bound to it: two that the kernel puts on one core leave the other free, and there
 * single commits are ten times as fast (four of five tries; bound, 317 to 417 a second, in all of five).
 */
async function withBusyCores<T>(work: () => Promise<T>): Promise<T> {
  const busy = cores().map((core) => spawn('taskset', ['--cpu-list', core, execPath, '-e', 'for (;;) {}'], { stdio: 'inherit' }))
  try {
    await Promise.all(busy.map((child) => once(child, 'spawn')))
    return await work()
  } finally {
    for (const child of busy) child.kill('SIGKILL')
  }
}

/** Numbers of those that this process may run on. */
function cores(): string[] {
  const [, list = '0'] = /^Cpus_allowed_list:\s*(\S+)/m.exec(readFileSync('/proc/self/status', 'utf8')) ?? []
  return list.split(',').flatMap((range) => {
    const [first = 0, last = first] = range.split('-').map(Number)
    return Array.from({ length: last - first + 1 }, (_, index) => String(first + index))
  })
}
