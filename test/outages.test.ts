import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import os from 'node:os'
import path from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { afterStored } from '../coordinator/api/after-stored.ts'
import { Fault } from '../coordinator/core/fault.ts'
import { Timers } from '../coordinator/engine/timers.ts'
import { Db } from '../coordinator/store/db.ts'
import { EmbeddedPostgres } from '../coordinator/store/embedded.ts'
import { Lease } from '../coordinator/store/lease.ts'
import { callHttp } from '../worker/engines/openai/http-call.ts'
import { World } from './support/world.ts'

const READY = Buffer.from('Z\0\0\0\x05I', 'latin1')
const FIELDS = 'SFATAL\0C57P01\0Mterminating connection due to administrator command\0\0'
const TERMINATED = Buffer.from(`E\0\0\0${String.fromCharCode(FIELDS.length + 4)}${FIELDS}`, 'latin1')

/** PostgreSQL as a network shows it: answers that do not come, of statements that were carried out. */
class Between implements AsyncDisposable {
  /** Nothing gets through, and nobody is told. */
  isHole = false
  /** The next commit of a batch is carried out and its answer is lost with the connection. */
  losesCommit = false
  /** The next commit of a batch is answered, and that is the last for a while. */
  goesAfterCommit = false
  isAway = false
  /** What the statement says that nothing gets through behind. */
  holeBehind: string | null = null
  /** What the statement says whose answer is the last, with the connection's end in the same breath. Taken when it was sent. */
  lastSaid: string | null = null
  /** So many of those come before. */
  saidBefore = 0
  readonly #dir = mkdtempSync(path.join(os.tmpdir(), 'holdfast-between-'))
  readonly #sockets = new Set<Socket>()
  readonly #server = createServer({ allowHalfOpen: true }, (client) => this.#join(client))
  #postgres: EmbeddedPostgres | undefined

  async open(): Promise<string> {
    const quiet = { info: () => {}, warn: () => {}, error: () => {}, debug: () => {} }
    this.#postgres = await EmbeddedPostgres.start(this.#dir, quiet)
    this.#server.listen(0, '127.0.0.1')
    await once(this.#server, 'listening')
    return `postgres://holdfast@127.0.0.1:${(this.#server.address() as AddressInfo).port}/holdfast`
  }

  #join(client: Socket): void {
    const server = connect(path.join(this.#postgres?.socketDir ?? '', '.s.PGSQL.5432'))
    const both = [client, server]
    let isBatch = false
    let isLost = false
    let isLast = false
    let isEnding = false
    if (this.isAway) for (const socket of both) socket.destroy()
    client.on('data', (data) => {
      if (this.isHole) return
      const text = data.toString('latin1')
      if (text.includes('insert into batches')) isBatch = true
      if (this.losesCommit && isBatch && text.includes('commit\0')) {
        isLost = true
        this.losesCommit = false
      }
      if (this.goesAfterCommit && isBatch && text.includes('commit\0')) {
        isLast = true
        this.goesAfterCommit = false
      }
      if (this.holeBehind !== null && text.includes(this.holeBehind)) this.isHole = true
      if (this.lastSaid !== null && text.includes(this.lastSaid) && this.saidBefore-- === 0) {
        isEnding = true
        this.lastSaid = null
        this.saidBefore = 0
      }
      server.write(data)
    })
    server.on('data', (data) => {
      if (isEnding && data.subarray(-READY.length).equals(READY)) client.end(Buffer.concat([data, TERMINATED]))
      else if (isLost) for (const socket of both) socket.destroy()
      else if (!this.isHole) client.write(data)
      if (!isLast) return
      isLast = false
      this.isAway = true
      for (const socket of this.#sockets) if (socket !== client) socket.end()
    })
    for (const socket of both) {
      this.#sockets.add(socket)
      socket.on('error', () => {})
      socket.on('end', () => {
        // Nor does a goodbye get through.
        if (!this.isHole) for (const other of both) other.destroySoon()
      })
      socket.on('close', () => {
        for (const other of both) other.destroy()
      })
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy()
    this.#server.close()
    await this.#postgres?.stop()
    rmSync(this.#dir, { recursive: true, force: true })
  }
}

test('who waits to be accepted hears it, also from a coordinator that is told to stop', async () => {
  await using world = await World.open()
  const coordinator = await world.coordinator()
  await world.worker('a', 'fake=fake:?slots=8')
  const db = world.database()
  const ask = (extra: Record<string, unknown> = {}): Record<string, unknown> => ({
    model: 'fake',
    messages: [{ role: 'user', content: 'x' }],
    max_tokens: 3,
    ...extra,
  })
  // A commit that takes long.
  let unlock: () => void = () => {}
  const locked = new Promise<void>((resolve) => (unlock = resolve))
  const held = db.transaction(async (query) => {
    await query('lock table jobs in share mode')
    await locked
  })
  const asked = [
    world.request('POST', '/api/jobs', ask()),
    world.request('POST', '/v1/chat/completions', ask()),
    world.request('POST', '/v1/chat/completions', ask({ stream: true })),
  ]
  await world.until('all three wait for PostgreSQL', async () => {
    const [row] = await db.query(`select count(*)::int as waiting from pg_locks where not granted`)
    return Number(row?.waiting) > 0
  })
  coordinator.kill('SIGTERM')
  await setTimeout(1_000)
  unlock()
  const answers = await Promise.all(asked.map(async (answer) => [(await answer).status, await (await answer).text()] as const))
  expect(answers.map(([status]) => status)).toEqual([202, 200, 200])
  expect(answers[2]?.[1]).toContain('[DONE]')
  await held
  await coordinator.exited
  expect(coordinator.ended?.code).toBe(0)
  await db.close()
})

const rows = Array.from({ length: 5 }, (_, index) => ({
  row_key: `r${index}`,
  messages: [{ role: 'user', content: 'x' }],
  max_tokens: 2,
}))

type BatchView = { id: string; status: string; counts: Record<string, number> }

test('a batch whose commit was carried out and not answered is accepted, runs, and is the same when it is sent again', async () => {
  await using between = new Between()
  const DATABASE_URL = await between.open()
  await using world = await World.open()
  await world.coordinator({ DATABASE_URL })
  await world.worker('a', 'fake=fake:?slots=2')
  between.losesCommit = true
  const first = await world.request('POST', '/api/batches', { model: 'fake', rows }, { 'idempotency-key': 'once' })
  expect(between.losesCommit).toBe(false)
  expect(first.status).toBe(202)
  const { id } = (await first.json()) as BatchView
  const again = await world.request('POST', '/api/batches', { model: 'fake', rows }, { 'idempotency-key': 'once' })
  expect(((await again.json()) as BatchView).id).toBe(id)
  await world.until('all rows have run', async () => ((await world.get(`/api/batches/${id}`)) as BatchView).counts.succeeded === 5)
  expect(((await world.get('/api/jobs')) as { data: unknown[] }).data).toHaveLength(5)
})

test('a batch that was stored is accepted, also when PostgreSQL goes away before it can be looked at', async () => {
  await using between = new Between()
  const DATABASE_URL = await between.open()
  await using world = await World.open()
  await world.coordinator({ DATABASE_URL })
  await world.worker('a', 'fake=fake:?slots=2')
  between.goesAfterCommit = true
  const first = await world.request('POST', '/api/batches', { model: 'fake', rows })
  expect([between.goesAfterCommit, between.isAway, first.status]).toEqual([false, true, 202])
  const { id, counts } = (await first.json()) as BatchView
  expect(counts).toMatchObject({ total: 5, queued: 5 })
  between.isAway = false
  await world.until('all rows have run', async () => ((await world.get(`/api/batches/${id}`)) as BatchView).counts.succeeded === 5)
  expect(((await world.get('/api/jobs')) as { data: unknown[] }).data).toHaveLength(5)
})

test('a PostgreSQL that does not answer is no PostgreSQL: readiness and health say so, work is refused, and it comes back', async () => {
  await using between = new Between()
  const DATABASE_URL = await between.open()
  await using world = await World.open()
  await world.coordinator({ DATABASE_URL })
  await world.worker('a', 'fake=fake:?slots=2')
  await (await world.worker('b', 'gone=fake:')).stop()
  const ask = { model: 'fake', messages: [{ role: 'user', content: 'x' }], max_tokens: 2 }
  // It waits, and nothing is written meanwhile.
  const posted = await world.request('POST', '/api/jobs', { ...ask, model: 'gone' })
  const { id } = (await posted.json()) as { id: string }
  between.isHole = true
  const pending = world.request('GET', '/api/jobs')
  await world.until('it is not ready', async () => (await fetch(`${world.url}/readyz`)).status === 503)
  expect(await (await fetch(`${world.url}/readyz`)).text()).toContain('PostgreSQL')
  const refused = await world.request('POST', '/v1/chat/completions', ask)
  expect([refused.status, refused.headers.get('retry-after')]).toEqual([503, '2'])
  // What is not stored may be forgotten: it is answered when it is.
  let isAnswered = false
  const cancelled = world.request('POST', `/api/jobs/${id}/cancel`).then((response) => {
    isAnswered = true
    return response.status
  })
  await setTimeout(500)
  expect(isAnswered).toBe(false)
  // Who reads is told, on whatever connection.
  const reads = await Promise.all(['jobs', 'events', 'keys', 'teams'].map((noun) => world.request('GET', `/api/${noun}`)).concat(pending))
  expect(reads.map(({ status, headers }) => [status, headers.get('retry-after')])).toEqual(reads.map(() => [503, '2']))
  between.isHole = false
  await world.until('it is ready again', async () => (await fetch(`${world.url}/readyz`)).status === 200)
  expect(await cancelled).toBe(200)
  expect((await world.job(id)).status).toBe('cancelled')
  expect((await world.request('POST', '/v1/chat/completions', ask)).status).toBe(200)
})

test('what may have been stored when PostgreSQL fell silent is not said to be refused', async () => {
  await using between = new Between()
  const DATABASE_URL = await between.open()
  await using world = await World.open()
  await world.coordinator({ DATABASE_URL })
  // The commit gets through, and its answer does not.
  between.holeBehind = 'commit'
  const made = world.request('POST', '/api/teams', { name: 'doubtful' })
  await world.until('it is not ready', async () => (await fetch(`${world.url}/readyz`)).status === 503)
  between.holeBehind = null
  between.isHole = false
  const answer = await made
  expect([answer.status, await answer.text()]).toEqual([503, expect.stringContaining('it cannot be said whether it has it')])
  expect((await world.request('GET', '/api/teams/doubtful')).status).toBe(200)

  const db = new Db({ url: DATABASE_URL })
  between.holeBehind = 'create table'
  const write = db.query('create table doubtful ()')
  db.watch()
  await expect(write).rejects.toThrow('it cannot be said whether it has it')
  between.holeBehind = null
  await expect(db.query('create table refused ()')).rejects.toThrow('nothing was accepted')
  between.isHole = false
  await db.close()
})

test('what follows on something that is stored is tried again, and is not said to be refused', async () => {
  const away = new Fault('database_unavailable', 'nothing was accepted', { status: 503, retryable: true })
  let tries = 0
  expect(await afterStored('It was cancelled', () => (++tries < 3 ? Promise.reject(away) : Promise.resolve(tries)))).toBe(3)
  const other = new Error('another')
  await expect(afterStored('It was cancelled', () => Promise.reject(other))).rejects.toBe(other)
  const gone = afterStored('It was cancelled', () => Promise.reject(away))
  await expect(gone).rejects.toMatchObject({
    code: 'database_unavailable',
    retryable: false,
    message: expect.stringContaining('It was cancelled, and') as string,
  })
})

test('a PostgreSQL that takes no rows: what ends meanwhile is stored when it does again, and nothing new is accepted', async () => {
  await using world = await World.open()
  await world.coordinator()
  await world.worker('a', 'fake=fake:?slots=2&rate=50')
  const job = { model: 'fake', messages: [{ role: 'user', content: 'x' }], max_tokens: 50 }
  const { id } = (await (await world.request('POST', '/api/jobs', job)).json()) as { id: string }
  const db = world.database()
  const session = await db.dedicated(() => {})
  await session.run(undefined, 'set default_transaction_read_only = off', [])
  const takesRows = async (does: boolean): Promise<void> => {
    await session.run(undefined, `alter system set default_transaction_read_only = ${does ? 'off' : 'on'}`, [])
    await session.run(undefined, 'select pg_reload_conf()', [])
  }
  await takesRows(false)
  await world.until('it says that it is not ready', async () => (await fetch(`${world.url}/readyz`)).status === 503)
  expect(await world.get('/api/health')).toMatchObject({ ok: false, problems: [expect.stringContaining('PostgreSQL takes no rows')] })
  const refused = await world.request('POST', '/api/jobs', job)
  expect([refused.status, refused.headers.get('retry-after')]).toEqual([503, '2'])
  const team = await world.request('POST', '/api/teams', { name: 'late' })
  expect(team.status).toBe(503)
  expect(((await team.json()) as { error: unknown }).error).toMatchObject({ code: 'database_unavailable', retryable: true })
  await world.until('the answer is whole', async () => (await world.job(id)).status === 'succeeded')
  await takesRows(true)
  await world.until('it is stored', async () => (await db.query('select from job_outputs where job = $1', [id])).length === 1)
  await world.until('it is ready', async () => (await fetch(`${world.url}/readyz`)).ok)
  const [row] = await db.query('select status from jobs where id = $1', [id])
  expect(row).toEqual({ status: 'succeeded' })
  expect((await world.events(`&job=${id}`)).map(({ type }) => type)).toEqual(['job.succeeded', 'job.accepted'])
  await session.end()
  await db.close()
})

test('a connection that ends in the breath that opened it, or that answered, is nobody’s: who asked for it is told', async () => {
  await using between = new Between()
  const db = new Db({ url: await between.open() })
  between.lastSaid = 'holdfast'
  let losses = 0
  await expect(db.dedicated(() => losses++)).rejects.toMatchObject({ code: '57P01' })
  expect(losses).toBe(0)
  const lease = new Lease(db, { coordinator: 'c', installation: 'i', leaseMs: 1_000 }, { onLost: () => {}, onProblem: () => {} })
  between.lastSaid = 'pg_try_advisory_lock'
  await expect(lease.lock()).rejects.toMatchObject({ code: '57P01' })
  await lease.lock()
  await lease.release()
  await db.close()
})

test('a connection of BullMQ that ends in the breath that opened it ends nothing else', async () => {
  await using between = new Between()
  const connection = { url: await between.open() }
  const problems: string[] = []
  for (let before = 0; before < 8; before++) {
    Object.assign(between, { lastSaid: 'holdfast-timers', saidBefore: before })
    const opened = Timers.open({ backend: { kind: 'postgres', connection }, onProblem: (problem) => problems.push(problem) })
    const timers = await opened.catch((error: unknown) => void problems.push(String(error)))
    timers?.handle('none', async () => {})
    for (let looks = 0; between.lastSaid !== null && looks < 20; looks++) await setTimeout(20)
    await timers?.close()
  }
  expect(problems).toContain('terminating connection due to administrator command')
})

test('what the network does not carry is not waited for: goodbyes, lent out connections, a lock', { timeout: 30_000 }, async () => {
  await using between = new Between()
  const db = new Db({ url: await between.open() })
  const session = await db.dedicated(() => {})
  const lease = new Lease(db, { coordinator: 'c', installation: 'i', leaseMs: 1_000 }, { onLost: () => {}, onProblem: () => {} })
  const asked = Promise.withResolvers<void>()
  const work = db.transaction(async (query) => {
    await query('select 1')
    between.holeBehind = 'pg_try_advisory_lock'
    await expect(lease.lock()).rejects.toThrow(/timeout/)
    const answer = query('select 2')
    asked.resolve()
    await answer
  })
  const lost = expect(work).rejects.toThrow()
  await asked.promise
  await session.end()
  await db.close()
  await lost
})

test('a server that changes the protocol has not answered', async () => {
  const server = createServer((socket) => void socket.end('HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n'))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
  await expect(callHttp({ method: 'GET', url, signal: new AbortController().signal })).rejects.toThrow('another protocol')
  server.close()
})
