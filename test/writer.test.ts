import { randomUUID } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { JobError, JobId, JobRecord, WorkerId } from '../coordinator/core/job.ts'
import { newId } from '../coordinator/ids.ts'
import { EVENT_SEVERITY } from '../coordinator/core/event.ts'
import { Db, type Session } from '../coordinator/store/db.ts'
import { EmbeddedPostgres } from '../coordinator/store/embedded.ts'
import { findJob, listJobs, readOutput, readProgress } from '../coordinator/store/jobs.ts'
import { ensurePartitions, firstUuidOf, migrate } from '../coordinator/store/migrate.ts'
import { Writer } from '../coordinator/store/writer.ts'
import { unsoundRows } from './support/sound.ts'
import { finish, OWNER, record, RECORDS_MODEL } from './support/records.ts'

let dir: string
let postgres: EmbeddedPostgres
let db: Db
const quiet = { info: () => {}, warn: () => {}, error: () => {}, debug: () => {} }

beforeAll(async () => {
  dir = mkdtempSync(path.join(os.tmpdir(), 'holdfast-writer-'))
  postgres = await EmbeddedPostgres.start(dir, quiet)
  db = new Db({ socketDir: postgres.socketDir })
  await migrate(db)
  await ensurePartitions(db, Date.now())
})
afterAll(async () => {
  await db.close()
  await postgres.stop()
  rmSync(dir, { recursive: true })
})

test('what gathers while a statement is in flight goes as one', async () => {
  let flushes = 0
  const writer = new Writer(db, { onFlush: () => (flushes += 1), onDropped: () => {} })
  const records = Array.from({ length: 500 }, () => record())
  await Promise.all(records.map((one) => writer.insertJob(one, '{}')))
  expect(flushes).toBeLessThan(5)
  expect(await findJob(db, records[499]?.id as JobId)).toMatchObject({ status: 'queued', version: 1 })
  await writer.close()
})

test('who waited is told while the next statement is on its way; of many, half are told first, because what they ask for is the next', async () => {
  const rows: number[] = []
  const writer = new Writer(db, { onFlush: (_tookMs, count) => rows.push(count), onDropped: (error) => expect.fail(String(error)) })
  const left: number[] = []
  // Whoever is told asks for the next at once: one statement would follow the other, with PostgreSQL idle between the two.
  const ask = (again: number): Promise<void> => {
    const one = record()
    void writer.insertJob(one, '{}')
    return new Promise((resolve) =>
      writer.updateJob(one, () => {
        left.push(writer.backlog)
        resolve(again > 0 ? ask(again - 1) : undefined)
      }),
    )
  }
  const asked = Promise.all(Array.from({ length: 128 }, () => ask(3)))
  for (let look = 0; look < 10; look++) {
    await writer.drained()
    await writer.accepted()
  }
  await asked
  await writer.close()
  expect(rows).toEqual([128, 64, 64, 64, 64, 64, 64])
  // Who is told finds nothing that still has to leave, but for what those told in the same breath have asked for.
  expect(Math.max(...left)).toBeLessThan(64)
})

test('who waits for what was asked so far does not wait for what is asked meanwhile', async () => {
  const writer = new Writer(db, { onFlush: () => {}, onDropped: (error) => expect.fail(String(error)) })
  const load = new AbortController()
  const again = (): void => {
    if (load.signal.aborted) return
    void writer.insertJob(record(), '{}')
    setImmediate(again)
  }
  again()
  const mine = record()
  void writer.insertJob(mine, '{}')
  await writer.drained()
  expect(await findJob(db, mine.id)).toMatchObject({ status: 'queued' })
  load.abort()
  await writer.close()
}, 10_000)

test('however much gathers, all that is about one job stays in order', async () => {
  const writer = new Writer(db, { onFlush: () => {}, onDropped: (error) => expect.fail(String(error)) })
  const records = Array.from({ length: 600 }, () => record())
  // Accepted turn by turn and not waited for: the end of a job is asked for while its beginning is still on its way.
  for (const [index, one] of records.entries()) {
    void writer.insertJob(one, '{}')
    if (index % 40 === 39) await new Promise((resolve) => setImmediate(resolve))
    const earlier = records[index - 50]
    if (earlier === undefined) continue
    finish(earlier)
    writer.updateJob(earlier)
    writer.addProgress({ job: earlier.id, firstToken: 0, tokenIds: [1], text: 'x', extra: null })
    writer.clearProgress(earlier.id)
  }
  await writer.drained()
  const finished = await Promise.all(records.slice(0, 550).map(async (one) => (await findJob(db, one.id))?.status))
  expect(new Set(finished)).toEqual(new Set(['succeeded']))
  expect(
    (
      await readProgress(
        db,
        records.map((one) => one.id),
      )
    ).size,
  ).toBe(0)
  await writer.close()
})

test('what was asked for before can be waited for, on its way or not', async () => {
  const writer = new Writer(db, { onFlush: () => {}, onDropped: () => {} })
  await writer.accepted()
  const [first, second] = [record(), record()]
  void writer.insertJob(first, '{}')
  await writer.accepted()
  expect((await findJob(db, first.id))?.status).toBe('queued')
  void writer.insertJob(second, '{}')
  // Until the statement has left.
  for (let turn = 0; turn < 3; turn++) await new Promise((resolve) => setImmediate(resolve))
  const bad = writer.insertJob({ ...record(), status: 'odd' as JobRecord['status'] }, '{}')
  await Promise.all([writer.accepted(), expect(bad).rejects.toThrow('refused')])
  expect((await findJob(db, second.id))?.status).toBe('queued')
  await writer.close()
})

test('a job accepted and finished within one batch is written once, finished', async () => {
  const writer = new Writer(db, { onFlush: () => {}, onDropped: () => {} })
  const one = record()
  const stored = writer.insertJob(one, '{"a": 1}')
  finish(one)
  writer.updateJob(one)
  writer.addOutput(one.id, '{"text": "x"}')
  await stored
  expect(await findJob(db, one.id)).toMatchObject({ status: 'succeeded', version: 2 })
  expect(await readOutput(db, one.id)).toEqual({ text: 'x' })
  await writer.close()
})

test('rows of several days go as one, each into the partition of its day, or the default one', async () => {
  let flushes = 0
  const writer = new Writer(db, { onFlush: () => (flushes += 1), onDropped: (error) => expect.fail(String(error)) })
  const of = (days: number): JobRecord => ({ ...record(), id: idOf(days) as JobId })
  const records = [of(0), of(1), of(0), of(40), of(1)]
  const stored = records.map((one) => writer.insertJob(one, '{}'))
  for (const days of [1, 0, 40])
    writer.addEvent({ ...NOTHING, id: idOf(days), atMs: Date.now(), type: 'job.accepted', actor: 'days', details: {} })
  await Promise.all(stored)
  expect(flushes).toBe(1)
  for (const one of records) finish(one)
  for (const one of records) writer.updateJob(one)
  for (const one of records) writer.addOutput(one.id, '{}')
  await writer.drained()
  const tables = async (sql: string, values: unknown[]): Promise<unknown[]> => (await db.query(sql, values)).map((row) => row.table)
  const day = (days: number): string => new Date(Date.now() + days * DAY_MS).toISOString().slice(0, 10).replaceAll('-', '')
  const expected = [day(0), day(0), day(1), day(1), 'default']
  const ids = records.map((one) => one.id)
  for (const [table, key] of [
    ['jobs', 'id'],
    ['job_requests', 'job'],
    ['job_outputs', 'job'],
  ])
    expect(await tables(`select tableoid::regclass::text as table from ${table} where ${key} = any($1) order by ${key}`, [ids])).toEqual(
      expected.map((suffix) => `${table}_${suffix}`),
    )
  expect(await tables(`select tableoid::regclass::text as table from events where actor = 'days' order by id`, [])).toEqual(
    [day(0), day(1), 'default'].map((suffix) => `events_${suffix}`),
  )
  const left = await db.query(`select count(*) as rows from jobs where id = any($1) and status <> 'succeeded'`, [ids])
  expect(Number(left[0]?.rows)).toBe(0)
  await writer.close()
})

test('what comes about a job of a day that was dropped meanwhile stops nobody', async () => {
  const writer = new Writer(db, { onFlush: () => {}, onDropped: (error) => expect.fail(String(error)) })
  const old = { ...record(), id: idOf(-9) as JobId }
  await ensurePartitions(db, Date.now() - 9 * DAY_MS)
  await writer.insertJob(old, '{}')
  const name = `jobs_${new Date(Date.now() - 9 * DAY_MS).toISOString().slice(0, 10).replaceAll('-', '')}`
  expect(await db.maybeOne('select tableoid::regclass::text as table from jobs where id = $1', [old.id])).toEqual({ table: name })
  await db.query(`drop table ${name}`)
  finish(old)
  writer.updateJob(old)
  writer.addOutput(old.id, '{}')
  const young = record()
  await writer.insertJob(young, '{}')
  await writer.close()
  expect(await findJob(db, young.id)).toMatchObject({ status: 'queued' })
  expect(db.trouble).toBeNull()
}, 10_000)

test('a job that waited for a month is stored like any other', async () => {
  const writer = new Writer(db, { onFlush: () => {}, onDropped: (error) => expect.fail(String(error)) })
  const month = 31 * 86_400_000
  const one = { ...record(), queueMs: month, firstTokenMs: month }
  await writer.insertJob(one, '{}')
  expect(await findJob(db, one.id)).toMatchObject({ status: 'queued', queueMs: 2_147_483_647, firstTokenMs: 2_147_483_647 })
  await writer.close()
})

test('an older state that arrives late does not replace a newer one', async () => {
  const writer = new Writer(db, { onFlush: () => {}, onDropped: () => {} })
  const one = record()
  await writer.insertJob(one, '{}')
  const stale = { ...one }
  finish(one)
  writer.updateJob(one)
  await writer.drained()
  writer.updateJob(stale)
  await writer.drained()
  expect((await findJob(db, one.id))?.status).toBe('succeeded')
  await writer.close()
})

test('one bad row is refused alone; its neighbours are stored', async () => {
  const dropped: string[] = []
  const writer = new Writer(db, { onFlush: () => {}, onDropped: (_error, what) => dropped.push(what) })
  const good = [record(), record()]
  const bad = { ...record(), status: 'odd' as JobRecord['status'] }
  const results = await Promise.allSettled([
    writer.insertJob(good[0] as JobRecord, '{}'),
    writer.insertJob(bad, '{}'),
    writer.insertJob(good[1] as JobRecord, '{}'),
  ])
  expect(results.map((result) => result.status)).toEqual(['fulfilled', 'rejected', 'fulfilled'])
  expect(dropped).toEqual([`job ${bad.id}`])
  expect(await findJob(db, bad.id)).toBeUndefined()
  await writer.close()
})

test('waiting for what is on its way sends nothing of its own', async () => {
  const dropped: string[] = []
  let flushes = 0
  const writer = new Writer(db, { onFlush: () => (flushes += 1), onDropped: (_error, what) => dropped.push(what) })
  const stored = writer.insertJob(record(), '{}')
  // The statement leaves at the end of this turn; from then on nothing is left to send.
  await new Promise((resolve) => setImmediate(resolve))
  await new Promise((resolve) => setImmediate(resolve))
  await Promise.all([stored, writer.drained()])
  await writer.drained()
  expect([flushes, dropped]).toEqual([1, []])
  await writer.close()
}, 10_000)

test('a job that is refused leaves nothing behind: no event, no output, no progress', async () => {
  const writer = new Writer(db, { onFlush: () => {}, onDropped: () => {} })
  const bad = { ...record(), status: 'odd' as JobRecord['status'] }
  const tell = (): void => {
    const nobody = { team: null, provider: null, worker: null, traceId: null }
    writer.addEvent({ id: newId(), atMs: Date.now(), type: 'job.accepted', actor: 'test', details: {}, job: bad.id, ...nobody })
    writer.addOutput(bad.id, '{}')
    writer.addProgress({ job: bad.id, firstToken: 0, tokenIds: [1], text: 'x', extra: null })
  }
  const stored = writer.insertJob(bad, '{}')
  tell()
  // While that is on its way, and refused, more gathers about it.
  setTimeout(tell, 0)
  await expect(stored).rejects.toThrow('refused')
  await writer.drained()
  const left = await db.query(
    `select (select count(*) from events where job = $1) + (select count(*) from job_outputs where job = $1)
          + (select count(*) from job_progress where job = $1) as rows`,
    [bad.id],
  )
  expect(Number(left[0]?.rows)).toBe(0)
  await writer.close()
})

test('a row that no check of PostgreSQL refuses and that cannot be is told', async () => {
  const writer = new Writer(db, { onFlush: () => {}, onDropped: (error) => expect.fail(String(error)) })
  expect(await unsoundRows(db)).toEqual([])
  const odd = { ...record(), type: 'odd' as JobRecord['type'] }
  await writer.insertJob(odd, '{}')
  expect(await unsoundRows(db)).toEqual([`job ${odd.id}, queued: no such type`])
  await db.query('delete from jobs where id = $1', [odd.id])
  await writer.close()
})

test('progress is put together in order, and a hole ends it', async () => {
  const writer = new Writer(db, { onFlush: () => {}, onDropped: () => {} })
  const [whole, holed] = [newId() as JobId, newId() as JobId]
  for (const [job, firstToken, text] of [
    [whole, 0, 'a'],
    [whole, 2, 'bc'],
    [holed, 0, 'x'],
    [holed, 5, 'z'],
  ] as const)
    writer.addProgress({
      job,
      firstToken,
      tokenIds: [firstToken, firstToken + 1],
      text,
      extra: firstToken === 2 ? '[{"reasoning":"hm"}]' : null,
    })
  await writer.drained()
  const progress = await readProgress(db, [whole, holed])
  expect(progress.get(whole)).toEqual({ tokenIds: [0, 1, 2, 3], text: 'abc', extras: [{ reasoning: 'hm' }] })
  expect(progress.get(holed)).toEqual({ tokenIds: [0, 1], text: 'x', extras: [] })
  writer.addProgress({ job: whole, firstToken: 4, tokenIds: [4], text: 'd', extra: null })
  writer.clearProgress(whole)
  await writer.drained()
  expect((await readProgress(db, [whole])).has(whole)).toBe(false)
  await writer.close()
})

test('text that PostgreSQL cannot hold is made storable, not refused', async () => {
  const writer = new Writer(db, { onFlush: () => {}, onDropped: (error) => expect.fail(String(error)) })
  const job = newId() as JobId
  writer.addProgress({ job, firstToken: 0, tokenIds: [1], text: 'a\u0000b\ud800c', extra: null })
  await writer.drained()
  expect((await readProgress(db, [job])).get(job)?.text).toBe('a\uFFFDb\uFFFDc')
  await writer.close()
})

test('what is written by itself and what is written among many is the same', async () => {
  const writer = new Writer(db, { onFlush: () => {}, onDropped: (error) => expect.fail(String(error)) })
  const error = { code: 'stall', message: 'nothing — für 5 s', layer: 'provider' as const, retryable: true }
  const write = async (many: number): Promise<unknown[]> => {
    const jobs = Array.from({ length: many }, () => {
      const one = {
        ...record(),
        needs: ['tools'],
        key: OWNER,
        maxWaitMs: 2 ** 40,
        seed: 2 ** 52,
        createdMs: 1_790_000_000_000.123,
        traceId: OWNER,
      }
      void writer.insertJob(one, JSON.stringify({ prompt: 'naïve “ü” \u0000' }), {
        idempotency: { key: one.id, hash: Buffer.alloc(32, 255) },
      })
      const ids = { provider: 'p', worker: null, traceId: OWNER, team: 'default' }
      writer.addEvent({ id: one.id, atMs: one.createdMs, type: 'job.accepted', actor: 'ü', details: { ü: [1, null] }, job: one.id, ...ids })
      writer.addProgress({ job: one.id, firstToken: 3, tokenIds: [1, 2], text: 'ü', extra: '[{"reasoning":"hm"}]' })
      writer.addPayment({
        job: one.id,
        attempt: 1,
        atMs: 1_790_000_000_000,
        provider: 'p',
        team: 'default',
        policy: null,
        key: OWNER,
        micros: 7,
      })
      return one
    })
    await writer.drained()
    for (const one of jobs) {
      Object.assign(one, {
        version: 2,
        status: 'failed',
        finishedMs: 1_790_000_000_123.456,
        attempt: 1,
        tier: 'cloud',
        costMicros: 7,
        queueMs: 2 ** 40,
        error,
      })
      writer.updateJob(one)
      const at = { startedMs: 1_790_000_000_000, finishedMs: 1_790_000_000_001, tokens: 2, traceId: OWNER }
      writer.addAttempt({ job: one.id, number: 1, status: 'failed', worker: OWNER as never, workerName: 'w', tier: 'cloud', error, ...at })
      writer.addOutput(one.id, '{"text":"ü"}')
    }
    await writer.drained()
    const rows: unknown[] = []
    for (const table of ['jobs', 'job_requests', 'job_outputs', 'attempts', 'events', 'job_progress', 'payments', 'idempotency_keys']) {
      const id = table === 'jobs' || table === 'events' ? 'id' : 'job'
      const found = await db.query(`select to_json(t) as row from ${table} t where ${id} = any($1)`, [jobs.map((one) => one.id)])
      expect(found, table).toHaveLength(many)
      const bare = found.map(({ row }) =>
        JSON.stringify({ ...(row as object), id: 0, job: 0, ...(id === 'job' ? { key: 0, created_at: 0 } : {}) }),
      )
      rows.push(...new Set(bare))
    }
    return rows
  }
  expect(await write(1)).toEqual(await write(5))
  await writer.close()
})

test('a batch that was stored but whose answer was lost is neither stored twice nor refused', async () => {
  const dedicated = db.dedicated.bind(db)
  let lost = false
  db.dedicated = async (onLost) => {
    const session = await dedicated(onLost)
    return {
      ...session,
      run: async (name, text, values) => {
        const rows = await session.run(name, text, values)
        if (lost || !text.startsWith('with')) return rows
        lost = true
        throw Object.assign(new Error('read ECONNRESET'), { code: 'ECONNRESET' })
      },
    }
  }
  const writer = new Writer(db, { onFlush: () => {}, onDropped: (error) => expect.fail(String(error)) })
  const one = record()
  const stored = writer.insertJob(one, '{}')
  writer.addProgress({ job: one.id, firstToken: 0, tokenIds: [1], text: 'once', extra: null })
  await stored
  db.dedicated = dedicated
  expect(lost).toBe(true)
  expect((await findJob(db, one.id))?.status).toBe('queued')
  expect((await readProgress(db, [one.id])).get(one.id)?.text).toBe('once')
  await writer.close()
})

test('an end says only what has changed since its row was surely written, and all of it where that is not sure', async () => {
  const dedicated = db.dedicated.bind(db)
  let loses = false
  let whenStored: (() => void) | undefined
  db.dedicated = async (onLost) => {
    const session = await dedicated(onLost)
    const run: Session['run'] = async (name, text, values) => {
      const rows = await session.run(name, text, values)
      if (name === undefined) return rows
      whenStored?.()
      whenStored = undefined
      if (!loses) return rows
      loses = false
      throw Object.assign(new Error('read ECONNRESET'), { code: 'ECONNRESET' })
    }
    return { ...session, run }
  }
  const writer = new Writer(db, { onFlush: () => {}, onDropped: (error) => expect.fail(String(error)) })
  const started = { status: 'running', attempt: 1, startedMs: 2_000, attemptStartedMs: 2_000, worker: OWNER, workerName: 'w', tier: 'gpu' }
  const ended = { firstTokenMs: 5, promptTokens: 6, completionTokens: 7, cachedTokens: 8, finishReason: 'length' } as const
  const writtenByAnother = (one: JobRecord): Promise<unknown> =>
    db.query(`update jobs set worker_name = 'as it was' where id = $1`, [one.id])
  /** What its row says of the worker once it has ended, where somebody else has written something there meanwhile. */
  const workerAtTheEnd = async (meanwhile: (one: JobRecord) => unknown): Promise<unknown> => {
    const [one, other] = [record(), record()].map((plain) => Object.assign(plain, started)) as [JobRecord, JobRecord]
    await Promise.all([writer.insertJob(one, '{}'), writer.insertJob(other, '{}')])
    await writtenByAnother(one)
    await meanwhile(one)
    finish(Object.assign(one, ended))
    writer.updateJob(one)
    await writer.drained()
    const row = await findJob(db, one.id)
    expect({ ...row, workerName: 'w', inRow: null }).toEqual({ ...one, inRow: null })
    return row?.workerName
  }
  expect(await workerAtTheEnd(() => {})).toBe('as it was')
  expect(await workerAtTheEnd((one) => (one.failures = 1))).toBe('w')
  expect(await workerAtTheEnd((one) => (one.tokensBefore = 3))).toBe('w')
  expect(await workerAtTheEnd((one) => (one.costMicros = 9))).toBe('w')
  expect(await workerAtTheEnd((one) => (one.error = { code: 'x', message: 'x', layer: 'model', retryable: false }))).toBe('w')
  const store = async (one: JobRecord, change: Partial<JobRecord>): Promise<void> => {
    writer.updateJob(Object.assign(one, change, { version: one.version + 1 }))
    await writer.drained()
    await writtenByAnother(one)
  }
  expect(await workerAtTheEnd((one) => store(one, { failures: 2 }))).toBe('as it was')
  // There was an error, and there is none any more.
  expect(
    await workerAtTheEnd(async (one) => {
      await store(one, { error: STALLED })
      one.error = null
    }),
  ).toBe('w')
  // Another coordinator had the job meanwhile: before a statement was made, or while it was on its way.
  expect(await workerAtTheEnd((one) => writer.doubt(one))).toBe('w')
  expect(
    await workerAtTheEnd(async (one) => {
      whenStored = () => writer.doubt(one)
      await store(one, { failures: 3 })
      expect(whenStored).toBeUndefined()
    }),
  ).toBe('w')
  // It was stored; but what came back said nothing of that, and another time it might have been somebody else's row.
  loses = true
  expect(await workerAtTheEnd(() => {})).toBe('w')
  expect(loses).toBe(false)
  db.dedicated = dedicated
  await writer.close()
})

test('rows that have much in common are the same rows as if each said all of it', async () => {
  const writer = new Writer(db, { onFlush: () => {}, onDropped: (error) => expect.fail(String(error)) })
  const make = (index: number, odd: Partial<JobRecord>): JobRecord => ({ ...record(), cost: index, createdMs: 1_000 + index, ...odd })
  // Alike but for one of them, in each of the columns that are said once where all are alike.
  const odds: Partial<JobRecord>[] = [
    {},
    { model: 'other' },
    { priority: 'batch' },
    { worker: OWNER as WorkerId },
    { key: OWNER },
    { attempt: 2 },
    { version: 3 },
    { modelSha256: 'y' },
    { tier: 'cli' },
    { detached: true },
  ]
  for (const odd of odds) {
    const records = Array.from({ length: 20 }, (_, index) => make(index, index === 13 ? odd : {}))
    for (const [index, one] of records.entries()) {
      void writer.insertJob(one, '{}')
      for (const type of ['job.accepted', 'job.succeeded', 'job.started'] as const) {
        const actor = index === 13 && odd.model !== undefined ? 'somebody else' : 'test'
        writer.addEvent({ id: newId(), atMs: index, type, actor, ...NOTHING, job: one.id, details: { index } })
      }
    }
    await writer.drained()
    for (const one of records) expect({ ...(await findJob(db, one.id)), inRow: null }).toEqual({ ...one, inRow: null })
    const [last] = records.slice(13) as [JobRecord]
    const events = await listEvents(db, last.id)
    expect(events).toEqual(
      ['job.accepted', 'job.succeeded', 'job.started'].map((type) => ({
        type,
        severity: EVENT_SEVERITY[type as 'job.accepted'],
        actor: odd.model !== undefined ? 'somebody else' : 'test',
        details: { index: 13 },
      })),
    )
  }
  await writer.close()
})

test('a connection that cannot be opened says nothing about the rows: they wait for one that can', async () => {
  const dedicated = db.dedicated.bind(db)
  const reasons = ['ENETUNREACH', '28P01', 'CERT_HAS_EXPIRED']
  db.dedicated = async (...given) => {
    const code = reasons.shift()
    if (code !== undefined) throw Object.assign(new Error(`not now: ${code}`), { code })
    return dedicated(...given)
  }
  const writer = new Writer(db, { onFlush: () => {}, onDropped: (error) => expect.fail(String(error)) })
  const one = record()
  await writer.insertJob(one, '{}')
  db.dedicated = dedicated
  expect(reasons).toEqual([])
  expect((await findJob(db, one.id))?.status).toBe('queued')
  await writer.close()
})

test('where a neighbour is refused, an end is told with what it answered, and what was checkpointed anew replaces what was there', async () => {
  const dedicated = db.dedicated.bind(db)
  const order: string[] = []
  db.dedicated = async (...given) => {
    const session = await dedicated(...given)
    return {
      ...session,
      run: async (name, text, values) => {
        const rows = await session.run(name, text, values)
        if (text.includes('job_outputs')) order.push('output')
        return rows
      },
    }
  }
  const writer = new Writer(db, { onFlush: () => {}, onDropped: () => {} })
  const [ended, runs] = [record(), record()]
  await Promise.all([writer.insertJob(ended, '{}'), writer.insertJob(runs, '{}')])
  writer.addProgress({ job: runs.id, firstToken: 0, tokenIds: [1], text: 'old', extra: null })
  await writer.drained()
  finish(ended)
  writer.updateJob(ended, (error) => order.push(error === null ? 'told' : 'refused'))
  writer.addOutput(ended.id, '{"text":"x"}')
  writer.clearProgress(runs.id)
  writer.addProgress({ job: runs.id, firstToken: 0, tokenIds: [1, 2], text: 'new', extra: null })
  await expect(writer.insertJob({ ...record(), status: 'odd' as JobRecord['status'] }, '{}')).rejects.toThrow('refused')
  await writer.drained()
  db.dedicated = dedicated
  expect(order).toEqual(['output', 'told'])
  expect(await readOutput(db, ended.id)).toEqual({ text: 'x' })
  expect((await readProgress(db, [runs.id])).get(runs.id)?.text).toBe('new')
  await writer.close()
})

test('an idempotency key that another has stored meanwhile is told, also after the connection broke; its own is there', async () => {
  const dedicated = db.dedicated.bind(db)
  let breaks: 'before' | 'after' | null = null
  db.dedicated = async (...given) => {
    const session = await dedicated(...given)
    return {
      ...session,
      run: async (name, text, values) => {
        const how = text.startsWith('with') ? breaks : null
        if (how !== null) breaks = null
        const rows = how === 'before' ? [] : await session.run(name, text, values)
        if (how !== null) throw Object.assign(new Error('read ECONNRESET'), { code: 'ECONNRESET' })
        return rows
      },
    }
  }
  const writer = new Writer(db, { onFlush: () => {}, onDropped: () => {} })
  const hash = Buffer.alloc(32)
  const other = randomUUID()
  await db.query('insert into idempotency_keys (team, key, request_hash, job) values ($1, $2, $3, $4)', ['default', 'taken', hash, other])
  breaks = 'before'
  await expect(writer.insertJob(record(), '{}', { idempotency: { key: 'taken', hash } })).rejects.toThrow('refused')
  breaks = 'after'
  const mine = record()
  await writer.insertJob(mine, '{}', { idempotency: { key: 'mine', hash } })
  db.dedicated = dedicated
  const rows = await db.query(`select key, job from idempotency_keys where key in ('taken', 'mine') order by key`)
  expect(rows).toEqual([
    { key: 'mine', job: mine.id },
    { key: 'taken', job: other },
  ])
  await writer.close()
})

test('who finds that its jobs are others’ tells no end of them, and what they cost all the same', async () => {
  let isOurs: boolean | null = null
  const stillOurs = (): Promise<boolean> | null => (isOurs === null ? null : Promise.resolve(isOurs))
  const writer = new Writer(db, { onFlush: () => {}, onDropped: (error) => expect.fail(String(error)), stillOurs })
  const one = record()
  await writer.insertJob(one, '{}')
  const tell = (text: string): void => {
    const nobody = { team: null, provider: null, worker: null, traceId: null }
    writer.addOutput(one.id, JSON.stringify({ text }))
    writer.addEvent({ id: newId(), atMs: Date.now(), type: 'job.succeeded', actor: 'test', details: {}, job: one.id, ...nobody })
  }
  isOurs = false
  tell('of the sleeper')
  writer.addPayment({ job: one.id, attempt: 1, atMs: Date.now(), provider: 'p', team: 'default', policy: null, key: null, micros: 7 })
  const end = record()
  const fresh = record()
  await writer.drained()
  // An end of its own is not stored, and its worker keeps the answer; what nobody has taken over is, whole.
  isOurs = true
  await writer.insertJob(end, '{}')
  isOurs = false
  finish(end)
  writer.addOutput(end.id, '{"text":"lost"}')
  const told = new Promise((resolve) => writer.updateJob(end, resolve))
  const accepted = writer.insertJob(fresh, '{}')
  writer.addOutput(fresh.id, '{"text":"kept"}')
  await accepted
  expect(await told).toMatchObject({ code: 'job_elsewhere' })
  expect([(await findJob(db, end.id))?.status, await readOutput(db, end.id), await readOutput(db, fresh.id)]).toEqual([
    'queued',
    null,
    { text: 'kept' },
  ])
  isOurs = true
  tell('of the owner')
  await writer.drained()
  expect(await readOutput(db, one.id)).toEqual({ text: 'of the owner' })
  expect(await db.query(`select type from events where job = $1`, [one.id])).toEqual([{ type: 'job.succeeded' }])
  expect(await db.query(`select micros from payments where job = $1`, [one.id])).toHaveLength(1)
  await writer.close()
})

test('a connection that breaks under the writer costs nothing but time', async () => {
  const writer = new Writer(db, { onFlush: () => {}, onDropped: (error) => expect.fail(String(error)) })
  const records: JobRecord[] = []
  for (let round = 0; round < 20; round++) {
    const one = record()
    records.push(one)
    const stored = writer.insertJob(one, '{}')
    if (round % 5 === 2)
      await db.query(
        `select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and application_name = 'holdfast' and query like 'with%'`,
      )
    await stored
  }
  const stored = new Set(
    (await listJobs(db, { status: null, model: RECORDS_MODEL, teams: null, before: null, limit: 1_000 })).map((one) => one.id),
  )
  expect(records.every((one) => stored.has(one.id))).toBe(true)
  await writer.close()
})

test('only its owner writes a job: what a coordinator says after losing its lease changes nothing', async () => {
  const writer = new Writer(db, { onFlush: () => {}, onDropped: (error) => expect.fail(String(error)) })
  const one = record()
  await writer.insertJob(one, '{}')
  await db.query('update jobs set owner = gen_random_uuid() where id = $1', [one.id])
  finish(one)
  writer.updateJob(one)
  await writer.drained()
  expect((await findJob(db, one.id))?.status).toBe('queued')
  await writer.close()
})

async function listEvents(from: Db, job: JobId): Promise<Record<string, unknown>[]> {
  return await from.query('select type, severity, actor, details from events where job = $1 order by id', [job])
}

/** An id made so many days from now. */
function idOf(days: number): string {
  return firstUuidOf(Date.now() + days * DAY_MS).slice(0, 13) + randomUUID().slice(13)
}

const STALLED: JobError = { code: 'stalled', message: 'x', layer: 'provider', retryable: true }
const DAY_MS = 86_400_000
const NOTHING = { team: null, job: null, provider: null, worker: null, traceId: null }
