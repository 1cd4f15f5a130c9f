import { mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import type { JobRecord } from '../coordinator/core/job.ts'
import { newId } from '../coordinator/ids.ts'
import { Db, type Session } from '../coordinator/store/db.ts'
import { EmbeddedPostgres } from '../coordinator/store/embedded.ts'
import { findJob } from '../coordinator/store/jobs.ts'
import { ensurePartitions, migrate } from '../coordinator/store/migrate.ts'
import { Writer } from '../coordinator/store/writer.ts'
import { finish, OWNER, record } from './support/records.ts'

/** Statements that are made while another is on its way, and what becomes of them when that one does not arrive as it was sent. */

let dir: string
let postgres: EmbeddedPostgres
let db: Db
/** Waited for between what PostgreSQL does about a statement and its answer. */
let beforeAnswer: () => Promise<void> = async () => {}

beforeAll(async () => {
  dir = mkdtempSync(path.join(os.tmpdir(), 'holdfast-ahead-'))
  postgres = await EmbeddedPostgres.start(dir, { info: () => {}, warn: () => {}, error: () => {}, debug: () => {} })
  db = new Db({ socketDir: postgres.socketDir })
  await migrate(db)
  await ensurePartitions(db, Date.now())
  const dedicated = db.dedicated.bind(db)
  db.dedicated = async (onLost) => {
    const session = await dedicated(onLost)
    const run: Session['run'] = async (name, text, values) => {
      const answer = session.run(name, text, values)
      await answer.catch(() => {})
      if (text.startsWith('with')) await beforeAnswer()
      return answer
    }
    return { ...session, run }
  }
})
afterAll(async () => {
  await db.close()
  await postgres.stop()
  rmSync(dir, { recursive: true })
})

/** The answer of the next statement waits until it is let through, or lost. */
function holdAnswer(): { isDone: Promise<void>; letThrough: () => void; lose: () => void } {
  const [stored, answer] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
  beforeAnswer = () => {
    beforeAnswer = async () => {}
    stored.resolve()
    return answer.promise
  }
  const lose = (): void => answer.reject(Object.assign(new Error('read ECONNRESET'), { code: 'ECONNRESET' }))
  return { isDone: stored.promise, letThrough: () => answer.resolve(), lose }
}

const CALM_MS = 50

function open(stillOurs?: () => Promise<boolean> | null): Writer {
  const listeners = { onFlush: () => {}, onDropped: (error: unknown) => expect.fail(String(error)) }
  return new Writer(db, stillOurs === undefined ? listeners : { ...listeners, stillOurs })
}

/** How often a statement was made of it. */
function counted(one: JobRecord): { one: JobRecord; made: () => number } {
  let made = 0
  const watched = new Proxy(one, {
    get: (target, name, receiver) => {
      if (name === 'priority') made += 1
      return Reflect.get(target, name, receiver)
    },
  })
  return { one: watched, made: () => made }
}

test('the next statement is made while one is on its way, and anew when something comes after all', async () => {
  const writer = open()
  for (const late of [false, true]) {
    const first = holdAnswer()
    const stored = [writer.insertJob(record(), '{}')]
    await first.isDone
    const { one, made } = counted(record())
    const others = Array.from({ length: 7 }, () => record())
    for (const each of [one, ...others]) stored.push(writer.insertJob(each, '{}'))
    await vi.waitFor(() => expect(made()).toBeGreaterThan(0))
    const ahead = made()
    const lateOne = record()
    if (late) {
      writer.updateJob(Object.assign(others[0] as JobRecord, { failures: 5, version: 2 }))
      stored.push(writer.insertJob(lateOne, '{}'))
      await pause(CALM_MS)
      // Not time and again: what comes one by one is not to be made a statement of one by one.
      expect(made()).toBe(ahead)
    }
    first.letThrough()
    await Promise.all(stored)
    expect(made() > ahead).toBe(late)
    for (const each of [one, ...others, ...(late ? [lateOne] : [])])
      expect(await findJob(db, each.id)).toMatchObject({ id: each.id, version: each.version, failures: each.failures })
  }
  await writer.close()
})

test('an end that was made a statement of ahead says all where it is not sure what the row says, and only what has changed where it is', async () => {
  let isOurs = true
  const writer = open(() => (isOurs ? null : Promise.resolve(false)))
  const started = { status: 'running', attempt: 1, startedMs: 2_000, attemptStartedMs: 2_000, worker: OWNER, workerName: 'w', tier: 'gpu' }
  /** What the rows of eight say in the end, where somebody has written something else there meanwhile. */
  const atTheEnd = async (meanwhile: (held: ReturnType<typeof holdAnswer>, some: JobRecord[]) => void): Promise<Set<unknown>> => {
    const some = Array.from({ length: 8 }, () => Object.assign(record(), started) as JobRecord)
    const held = holdAnswer()
    const stored = some.map((one) => writer.insertJob(one, '{}'))
    await held.isDone
    await db.query(`update jobs set worker_name = 'as it was' where id = any($1)`, [some.map(({ id }) => id)])
    const ended = some.map((one) => {
      finish(one)
      return new Promise<void>((resolve) => writer.updateJob(one, () => resolve()))
    })
    // Somebody waits for what gathers.
    const another = writer.insertJob(record(), '{}')
    await pause(CALM_MS)
    meanwhile(held, some)
    held.letThrough()
    await Promise.all([...stored, ...ended, another])
    return new Set(
      await Promise.all(some.map(async ({ id }) => (({ status, workerName }) => `${status}, ${workerName}`)((await findJob(db, id))!))),
    )
  }
  expect(await atTheEnd(() => {})).toEqual(new Set(['succeeded, as it was']))
  expect(await atTheEnd(({ lose }) => lose())).toEqual(new Set(['succeeded, w']))
  expect(await atTheEnd((_, some) => some.forEach((one) => writer.doubt(one)))).toEqual(new Set(['succeeded, w']))
  expect(await atTheEnd((_, [one]) => writer.doubt(one as JobRecord))).toEqual(new Set(['succeeded, as it was', 'succeeded, w']))
  // Others have them now: of the end nothing is told.
  expect(await atTheEnd(() => (isOurs = false))).toEqual(new Set(['running, as it was']))
  await writer.close()
})

test('what was made a statement of ahead says nothing of a job that is refused meanwhile, by PostgreSQL or before', async () => {
  const dropped: string[] = []
  const writer = new Writer(db, { onFlush: () => {}, onDropped: (_error, what) => dropped.push(what) })
  const event = { type: 'job.failed' as const, actor: 'test', team: null, provider: null, worker: null, traceId: null }
  for (const wrong of [{ status: 'odd' as JobRecord['status'] }, { cost: 2 ** 40 }]) {
    const [bad, good] = [{ ...record(), ...wrong }, record()]
    const held = holdAnswer()
    const outcomes = Promise.allSettled([writer.insertJob(good, '{}'), writer.insertJob(bad, '{}')])
    await held.isDone
    const others = Array.from({ length: 8 }, () => writer.insertJob(record(), '{}'))
    for (const { id } of [bad, good]) writer.addEvent({ ...event, id: newId(), atMs: Date.now(), job: id, details: {} })
    await pause(CALM_MS)
    held.letThrough()
    expect((await outcomes).map(({ status }) => status)).toEqual(['fulfilled', 'rejected'])
    await Promise.all(others)
    expect(await db.query('select job from events where job = any($1)', [[bad.id, good.id]])).toEqual([{ job: good.id }])
    expect(dropped.join()).toContain(bad.id)
  }
  await writer.close()
})

test('batches of unlike size become alike', async () => {
  const rows: number[] = []
  const writer = new Writer(db, { onFlush: (_tookMs, count) => rows.push(count), onDropped: (error) => expect.fail(String(error)) })
  // Whoever is told asks for the next at once.
  const ask = async (times: number): Promise<void> => {
    for (let count = 0; count < times; count++) await writer.insertJob(record(), '{}')
  }
  const held = holdAnswer()
  const many = Array.from({ length: 100 }, () => ask(3))
  await held.isDone
  const few = Array.from({ length: 8 }, () => ask(3))
  await pause(CALM_MS)
  held.letThrough()
  await Promise.all([...many, ...few])
  await writer.close()
  expect(rows[0]).toBe(100)
  for (const size of rows.slice(1, 5)) expect(Math.abs(size - 54)).toBeLessThan(4)
})
