import { randomBytes, randomUUID } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import os from 'node:os'
import path from 'node:path'
import { Webhook } from 'standardwebhooks'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import type { EventRecord } from '../coordinator/core/event.ts'
import { Callbacks, type CallbackParts } from '../coordinator/engine/callbacks.ts'
import { Outbound } from '../coordinator/engine/outbound.ts'
import { Timers } from '../coordinator/engine/timers.ts'
import { newId } from '../coordinator/ids.ts'
import { type CallbackRecord, listOf, takeDue } from '../coordinator/store/callbacks.ts'
import { Db } from '../coordinator/store/db.ts'
import { EmbeddedPostgres } from '../coordinator/store/embedded.ts'
import { ensurePartitions, migrate } from '../coordinator/store/migrate.ts'
import { Vault } from '../coordinator/vault.ts'

let dir: string
let postgres: EmbeddedPostgres
let db: Db
let timers: Timers
let receiver: Receiver
let events: EventRecord[]
let problems: string[]
const running: Callbacks[] = []
const vault = new Vault('master-key-for-the-callbacks-test')
const secret = `whsec_${randomBytes(24).toString('base64')}`

beforeAll(async () => {
  dir = mkdtempSync(path.join(os.tmpdir(), 'holdfast-callbacks-'))
  postgres = await EmbeddedPostgres.start(dir, { info: () => {}, warn: () => {}, error: () => {}, debug: () => {} })
  db = new Db({ socketDir: postgres.socketDir })
  await migrate(db)
  await ensurePartitions(db, Date.now())
  await db.query(`insert into teams (id, name, webhook_secret) values ($1, 'signing', $3), ($2, 'mute', null)`, [
    newId(),
    newId(),
    vault.seal(secret),
  ])
})
afterAll(async () => {
  await db.close()
  await postgres.stop()
  rmSync(dir, { recursive: true })
})
beforeEach(async () => {
  events = []
  problems = []
  receiver = await Receiver.open()
  timers = await openTimers()
})
afterEach(async () => {
  for (const callbacks of running.splice(0)) await callbacks.stop()
  await timers.close()
  await receiver.close()
  await db.query('truncate callbacks')
})

test('the end of a job is delivered once, signed, as the job looks in the API', async () => {
  const callbacks = started()
  const job = await owed({ status: 'running' })
  await db.query(`update jobs set status = 'succeeded', finished_at = now() where id = $1`, [job])
  callbacks.jobEnded(job)
  const [callback] = await reaches(job, 'delivered')
  expect(callback).toMatchObject({ attempts: 1, lastStatus: 200, lastError: null, dueMs: null })
  expect(receiver.heard).toHaveLength(1)
  expect(receiver.heard[0]?.id).toBe(callback?.id)
  expect(receiver.heard[0]?.message).toMatchObject({ type: 'job.succeeded', data: { id: job, status: 'succeeded' } })
  expect(receiver.heard[0]?.message.timestamp).toBe(receiver.heard[0]?.message.data.finished_at)
})

test.each(['failed', 'cancelled', 'parked'])('a job that ended as %s says so', async (status) => {
  started().jobEnded(await owed({ status }))
  await until(() => receiver.heard.length === 1)
  expect(receiver.heard[0]?.message.type).toBe(`job.${status}`)
})

test('a job that goes on owes nothing yet', async () => {
  const callbacks = started()
  const [going, ended] = [await owed({ status: 'running' }), await owed({})]
  callbacks.jobEnded(going)
  callbacks.jobEnded(ended)
  await reaches(ended, 'delivered')
  expect(await listOf(db, going)).toMatchObject([{ state: 'waiting', attempts: 0 }])
})

test('a receiver that is down is tried again on schedule, with the same id and a fresh signature', async () => {
  receiver.answers.push(500, 'cut', 302)
  started({ retryAfterMs: [40, 80, 120] }).jobEnded(await owed({}))
  await until(() => receiver.heard.length === 4)
  const [first, second, third, fourth] = receiver.heard
  expect(new Set(receiver.heard.map((one) => one.id)).size).toBe(1)
  for (const [earlier, later, leastMs] of [
    [first, second, 40],
    [second, third, 80],
    [third, fourth, 120],
  ] as const)
    expect((later?.atMs ?? 0) - (earlier?.atMs ?? 0)).toBeGreaterThanOrEqual(leastMs)
  await until(async () => (await db.query(`select 1 from callbacks where state = 'delivered' and attempts = 4`)).length === 1)
  expect(events).toEqual([])
})

test('the schedule is that of Standard Webhooks with some jitter; after the tenth try it is given up, once', async () => {
  const wakes: { version: number; inS: number }[] = []
  let deliver: (id: string, version: number) => Promise<void> = async () => {}
  const byHand: CallbackParts['timers'] = {
    handle: (_kind, handler) => (deliver = handler),
    sweep: () => {},
    wake: (_kind, _id, version, atMs, nowMs) => void wakes.push({ version, inS: Math.round((atMs - nowMs) / 100) / 10 }),
  }
  receiver.answers.push(...Array.from({ length: 10 }, () => 503))
  const callbacks = started({ timers: byHand, random: () => 0.5 })
  const job = await owed({})
  callbacks.jobEnded(job)
  for (let tries = 1; tries < 10; tries++) {
    await until(() => wakes.length === tries)
    const [callback] = await listOf(db, job)
    expect(callback).toMatchObject({ state: 'pending', attempts: tries, lastStatus: 503, lastError: 'The receiver answered 503.' })
    await db.query(`update callbacks set due_at = now()`)
    await deliver(callback?.id ?? '', tries)
  }
  await reaches(job, 'failed')
  expect(wakes.map((wake) => wake.version)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9])
  const planS = [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400].map((wait) => wait * 1.05)
  for (const [index, wake] of wakes.entries()) expect(Math.abs(wake.inS - (planS[index] ?? 0))).toBeLessThan(2)
  expect(receiver.heard).toHaveLength(10)
  await until(() => events.length === 1)
  expect(events).toMatchObject([
    { type: 'callback.failed', team: 'signing', job, details: { attempts: 10, status: 503, host: receiver.host } },
  ])
  expect(JSON.stringify(events)).not.toContain('token-in-the-path')
})

test('410 says that nobody wants to hear any more', async () => {
  receiver.answers.push(410)
  const job = await owed({})
  started().jobEnded(job)
  expect(await reaches(job, 'failed')).toMatchObject([{ attempts: 1, lastStatus: 410, lastError: 'The receiver answered 410.' }])
  await until(() => events.length === 1)
})

test('a crash between the end of the job and its delivery loses nothing: the sweep delivers', async () => {
  const job = await owed({})
  started()
  await reaches(job, 'delivered')
  expect(receiver.heard).toHaveLength(1)
})

test('a crash in the middle of a try leaves it to the next who sweeps once the claim has run out', async () => {
  const job = await owed({})
  const [callback] = await listOf(db, job)
  await db.query(`update callbacks set state = 'pending', due_at = now()`)
  expect(await takeDue(db, { id: callback?.id ?? '', version: 0 }, 200)).toMatchObject({ job, attempts: 1 })
  // The sweep of a start; the wait for the claim is PostgreSQL's own.
  await db.query('select pg_sleep(0.25)')
  started()
  expect(await reaches(job, 'delivered')).toMatchObject([{ attempts: 2 }])
})

test('two coordinators on one database deliver each message once', async () => {
  const other = await openTimers()
  const [one, two] = [started(), started({ timers: other })]
  const jobs = await Promise.all(Array.from({ length: 40 }, () => owed({})))
  for (const job of jobs) {
    one.jobEnded(job)
    two.jobEnded(job)
  }
  for (const job of jobs) await reaches(job, 'delivered')
  expect(receiver.heard.map((heard) => heard.message.data.id).toSorted()).toEqual(jobs.toSorted())
  await other.close()
})

test('no more than sixteen tries are at work at once, and four for one receiver', async () => {
  const others = await Promise.all(Array.from({ length: 4 }, () => Receiver.open()))
  const all = [receiver, ...others]
  for (const one of all) one.hold()
  const callbacks = started()
  const jobs = await Promise.all(Array.from({ length: 40 }, (_, index) => owed({ host: all[index % 5]?.host ?? '' })))
  for (const job of jobs) callbacks.jobEnded(job)
  const heard = (): number[] => all.map((one) => one.heard.length)
  await until(() => heard().reduce((sum, one) => sum + one) === 16)
  expect(Math.max(...heard())).toBe(4)
  // Every one that may be claimed has been, and no other.
  expect(await db.query(`select 1 from callbacks where attempts > 0`)).toHaveLength(16)
  for (const one of all) one.release()
  for (const job of jobs) await reaches(job, 'delivered')
  await Promise.all(others.map((one) => one.close()))
})

test('a receiver that does not answer holds back nobody else', async () => {
  const other = await Receiver.open()
  receiver.hold()
  const callbacks = started()
  const silent = await Promise.all(Array.from({ length: 600 }, () => owed({})))
  for (const job of silent) callbacks.jobEnded(job)
  await until(() => receiver.heard.length === 4)
  const job = await owed({ host: other.host })
  callbacks.jobEnded(job)
  await reaches(job, 'delivered')
  expect(other.heard).toHaveLength(1)
  receiver.release()
  await other.close()
})

test('a team without a secret gets no unsigned message but a clear failure', async () => {
  const job = await owed({ team: 'mute' })
  started().jobEnded(job)
  expect(await reaches(job, 'failed')).toMatchObject([{ attempts: 1, lastError: 'Team mute has no webhook secret to sign with.' }])
  expect(receiver.heard).toEqual([])
  await until(() => events.length === 1)
})

test('another master key keeps the message for later and says why', async () => {
  const job = await owed({})
  started({ vault: new Vault('not-the-key-that-sealed-the-secret') }).jobEnded(job)
  await until(async () => (await listOf(db, job))[0]?.lastError !== null)
  expect(await listOf(db, job)).toMatchObject([{ state: 'pending', lastError: expect.stringContaining('HOLDFAST_MASTER_KEY differs') }])
  expect(receiver.heard).toEqual([])
})

test('an address inside is not called, and the row says so', async () => {
  const job = await owed({})
  started({ outbound: new Outbound([]) }).jobEnded(job)
  await until(async () => (await listOf(db, job))[0]?.lastError !== null)
  expect(await listOf(db, job)).toMatchObject([{ state: 'pending', lastError: expect.stringContaining('is not a public address') }])
  expect(receiver.heard).toEqual([])
})

test('a parked job that was released before its message went out owes it again at its end', async () => {
  const job = await owed({ status: 'parked' })
  await db.query(`update callbacks set state = 'pending', due_at = now()`)
  await db.query(`update jobs set status = 'queued', error = null where id = $1`, [job])
  const callbacks = started()
  expect(await reaches(job, 'waiting')).toMatchObject([{ attempts: 0 }])
  await db.query(`update jobs set status = 'succeeded', finished_at = now() where id = $1`, [job])
  callbacks.jobEnded(job)
  await reaches(job, 'delivered')
  expect(receiver.heard.map((heard) => heard.message.type)).toEqual(['job.succeeded'])
})

function started(changed: Partial<CallbackParts> = {}): Callbacks {
  const callbacks = new Callbacks({
    db,
    timers,
    outbound: new Outbound(['127.0.0.1/32']),
    vault,
    body: async (job) => {
      const row = await db.maybeOne('select id, status, finished_at from jobs where id = $1', [job])
      return row === undefined ? null : JSON.parse(JSON.stringify(row))
    },
    newEvent: (type, actor, details) => ({
      id: newId(),
      atMs: Date.now(),
      type,
      actor,
      team: null,
      job: null,
      provider: null,
      worker: null,
      traceId: null,
      details,
    }),
    addEvent: (event) => void events.push(event),
    now: () => Date.now(),
    random: () => 0,
    onProblem: (message) => problems.push(message),
    ...changed,
  })
  callbacks.start()
  running.push(callbacks)
  return callbacks
}

function openTimers(): Promise<Timers> {
  return Timers.open({
    backend: { kind: 'postgres', connection: { socketDir: postgres.socketDir } },
    onProblem: (message) => problems.push(message),
  })
}

/** A job and the callback it owes, as the writer leaves them; ended as `succeeded` unless told otherwise. */
async function owed({
  status = 'succeeded',
  team = 'signing',
  host = receiver.host,
}: {
  status?: string
  team?: string
  host?: string
}): Promise<string> {
  const job = newId()
  const trace = randomUUID()
  await db.query(
    `insert into jobs (id, version, status, type, team, model, detached, seed, trace_id, created_at, finished_at, error,
                       worker, attempt, attempt_started_at)
     values ($1, 1, $2, 'chat', $3, 'm', true, 1, $4, now(),
             case when $2 in ('succeeded', 'failed', 'cancelled') then now() end,
             case when $2 in ('failed', 'parked') then '{"code": "broken"}'::json end,
             $5, 1, now())`,
    [job, status, team, trace, randomUUID()],
  )
  await db.query('insert into callbacks (id, job, team, url, trace_id) values ($1, $2, $3, $4, $5)', [
    newId(),
    job,
    team,
    `http://${host}/token-in-the-path`,
    trace,
  ])
  return job
}

async function reaches(job: string, state: CallbackRecord['state']): Promise<CallbackRecord[]> {
  let callbacks: CallbackRecord[] = []
  await until(async () => {
    callbacks = await listOf(db, job)
    return callbacks.every((callback) => callback.state === state)
  })
  return callbacks
}

type Message = { type: string; timestamp: string; data: { id: string; finished_at: string | null } }

/** A receiver as a user would write it: it verifies with the published library before it believes anything. */
class Receiver {
  readonly heard: { id: string; atMs: number; message: Message }[] = []
  /** What it answers next; 200 when there is nothing. */
  readonly answers: (number | 'cut')[] = []
  host = ''
  #held: (() => void)[] | null = null
  readonly #server: Server

  private constructor() {
    this.#server = createServer((request, response) => {
      // Ports are handed round on a busy machine: what is meant for somebody else is no message.
      if (request.headers['webhook-id'] === undefined) {
        response.writeHead(404).end()
        return
      }
      let body = ''
      request.on('data', (chunk: Buffer) => (body += chunk.toString()))
      request.on('end', () => {
        const message = new Webhook(secret).verify(body, request.headers as Record<string, string>) as Message
        this.heard.push({ id: String(request.headers['webhook-id']), atMs: Date.now(), message })
        const answer = this.answers.shift() ?? 200
        const reply = (): void => void (answer === 'cut' ? request.socket.destroy() : response.writeHead(answer).end())
        if (this.#held === null) reply()
        else this.#held.push(reply)
      })
    })
  }

  static async open(): Promise<Receiver> {
    const receiver = new Receiver()
    await new Promise<void>((resolve) => receiver.#server.listen(0, '127.0.0.1', resolve))
    const address = receiver.#server.address()
    receiver.host = `127.0.0.1:${address !== null && typeof address === 'object' ? address.port : 0}`
    return receiver
  }

  hold(): void {
    this.#held = []
  }

  release(): void {
    const held = this.#held ?? []
    this.#held = null
    for (const reply of held) reply()
  }

  close(): Promise<unknown> {
    this.#server.closeAllConnections()
    return new Promise((resolve) => this.#server.close(resolve))
  }
}

async function until(probe: () => boolean | Promise<boolean>, withinMs = 30_000): Promise<void> {
  const endMs = Date.now() + withinMs
  while (!(await probe())) {
    if (Date.now() > endMs) throw new Error(`never came: ${probe.toString()}; problems: ${problems.join(' / ')}`)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}
