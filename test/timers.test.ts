import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { connect } from 'node:net'
import os from 'node:os'
import path from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { Timers, type TimersBackend } from '../coordinator/engine/timers.ts'
import { Db } from '../coordinator/store/db.ts'
import { EmbeddedPostgres } from '../coordinator/store/embedded.ts'
import { freePorts } from './support/ports.ts'
import { descendants } from './support/world.ts'

/** One suite over both servers: what holds on one has to hold on the other. */

const hasRedis = spawnSync('redis-server', ['--version']).status === 0
const servers: [string, () => Promise<TestServer>, boolean][] = [
  ['PostgreSQL', startPostgres, true],
  [hasRedis ? 'Redis' : 'Redis (skipped: no redis-server on the PATH)', startRedis, hasRedis],
]

describe.each(servers)('timers on %s', (_name, start, available) => {
  let server: TestServer
  const open: Timers[] = []
  const problems: string[] = []

  beforeAll(async () => {
    if (available) server = await start()
  })
  afterEach(async () => {
    await Promise.all(open.splice(0).map((timers) => timers.close()))
    problems.length = 0
  })
  afterAll(async () => {
    if (available) await server.stop()
  })

  async function openTimers(): Promise<Timers> {
    const timers = await Timers.open({ backend: server.backend, onProblem: (message) => problems.push(message) })
    open.push(timers)
    return timers
  }

  test.runIf(available)('a wake-up comes with its id and version, and not before its time', async () => {
    const timers = await openTimers()
    const nowMs = Date.now()
    const came = new Promise<unknown[]>((resolve) => timers.handle('nap', async (id, version) => resolve([id, version, Date.now()])))
    timers.wake('nap', 'row-1', 7, nowMs + 300, nowMs)
    const [id, version, atMs] = await came
    expect([id, version]).toEqual(['row-1', 7])
    expect(Number(atMs)).toBeGreaterThanOrEqual(nowMs + 300)
  })

  test.runIf(available)('the same wake-up asked for twice comes once; another version is another one', async () => {
    const timers = await openTimers()
    const heard = listener(timers, 'twice')
    const nowMs = Date.now()
    for (const version of [1, 1, 2]) timers.wake('twice', 'row', version, nowMs + 200, nowMs)
    timers.wake('twice', 'last', 1, nowMs + 500, nowMs)
    await heard.until((all) => all.includes('last@1'))
    expect(heard.all.toSorted()).toEqual(['last@1', 'row@1', 'row@2'])
  })

  test.runIf(available)('a time that has passed is now, and a hundred at once all come', async () => {
    const timers = await openTimers()
    const heard = listener(timers, 'many')
    const nowMs = Date.now()
    for (let number = 0; number < 100; number++) timers.wake('many', `row-${number}`, 0, nowMs - 1_000 + number * 15, nowMs)
    await heard.until((all) => all.length >= 100)
    expect(new Set(heard.all).size).toBe(100)
    expect(problems).toEqual([])
  })

  test.runIf(available)('a handler that throws is told about and harms no other', async () => {
    const timers = await openTimers()
    const heard = listener(timers, 'sound')
    timers.handle('broken', () => Promise.reject(new Error('no such row')))
    timers.wake('broken', 'row', 1, 0, 0)
    timers.wake('sound', 'row', 1, 0, 0)
    await heard.until((all) => all.length === 1)
    await until(() => problems.length > 0)
    expect(problems).toEqual(['The timer of broken row: no such row'])
  })

  test.runIf(available)('of two processes one is woken', async () => {
    const [one, other] = [await openTimers(), await openTimers()]
    const [heard, overheard] = [listener(one, 'shared'), listener(other, 'shared')]
    for (let number = 0; number < 20; number++) one.wake('shared', `row-${number}`, 1, 0, 0)
    await until(() => heard.all.length + overheard.all.length >= 20)
    expect(new Set([...heard.all, ...overheard.all]).size).toBe(20)
  })

  test.runIf(available)('whoever shares the server and not the database is not woken for it', async () => {
    const mine = await openTimers()
    const backend = await server.another()
    const theirs = await Timers.open({ backend, onProblem: (message) => problems.push(message) })
    open.push(theirs)
    const [heard, overheard] = [listener(mine, 'mine'), listener(theirs, 'mine')]
    for (let number = 0; number < 20; number++) mine.wake('mine', `row-${number}`, 1, 0, 0)
    await heard.until((all) => all.length === 20)
    expect([overheard.all, problems]).toEqual([[], []])
  })

  test.runIf(available)('after its server was killed and is back, wake-ups come again', async () => {
    const timers = await openTimers()
    const heard = listener(timers, 'again')
    for (let round = 1; round <= 3; round++) {
      timers.wake('again', 'before', round, 0, 0)
      await heard.until((all) => all.includes(`before@${round}`))
      await server.killAndRestart()
      // What is asked for while nobody can hear it is lost, as it may be: its asker sweeps. So this one asks until it is heard.
      const asking = setInterval(() => timers.wake('again', 'after', round, 0, 0), 200)
      await heard.until((all) => all.includes(`after@${round}`))
      clearInterval(asking)
    }
  })

  test.runIf(available)('when everything the server holds is wiped, sweeps find what is due and new wake-ups come', async () => {
    const timers = await openTimers()
    const heard = listener(timers, 'wiped')
    const due = new Set(['row'])
    const nowMs = Date.now()
    timers.wake('wiped', 'row', 1, nowMs + 86_400_000, nowMs)
    await until(async () => (await server.countWakes()) > 0)
    await server.wipe()
    timers.sweep('wiped', 50, async () => due.clear())
    await until(() => due.size === 0)
    timers.wake('wiped', 'new', 1, 0, 0)
    await heard.until((all) => all.includes('new@1'))
  })

  test.runIf(available)('a wake-up that came leaves nothing behind', async () => {
    const timers = await openTimers()
    await server.wipe()
    const heard = listener(timers, 'gone')
    timers.handle('gone too', () => Promise.reject(new Error('broken')))
    timers.wake('gone', 'row', 1, 0, 0)
    timers.wake('gone too', 'row', 1, 0, 0)
    await heard.until((all) => all.length === 1)
    await until(async () => (await server.countWakes()) === 0)
  })

  test.runIf(available)('closing takes no longer than a moment while the server is frozen or dead', async () => {
    for (const [round, signal] of (['SIGSTOP', 'SIGKILL', 'SIGKILL', 'SIGKILL', 'SIGKILL'] as const).entries()) {
      const timers = await openTimers()
      const heard = listener(timers, 'closing')
      timers.wake('closing', 'row', round, 0, 0)
      await heard.until((all) => all.length > 0)
      await server.hurt(signal)
      const began = performance.now()
      await timers.close()
      expect(performance.now() - began).toBeLessThan(6_000)
      await server.heal()
    }
  })
})

describe('sweeps', () => {
  test('they run without BullMQ, one at a time, and go on after an error', async () => {
    const problems: string[] = []
    const [port] = await freePorts(1)
    const timers = await Timers.open({
      backend: { kind: 'redis', url: `redis://127.0.0.1:${port}`, database: 'tests' },
      onProblem: (message) => problems.push(message),
    })
    let running = 0
    let overlapped = false
    let runs = 0
    const enough = new Promise<void>((resolve) =>
      timers.sweep('rows', 1, async () => {
        running += 1
        overlapped ||= running > 1
        await new Promise((wait) => setTimeout(wait, 5))
        running -= 1
        runs += 1
        if (runs === 5) resolve()
        if (runs === 2) throw new Error('the database is away')
      }),
    )
    await enough
    await timers.close()
    const runsAtClose = runs
    await new Promise((resolve) => setTimeout(resolve, 30))
    expect({ overlapped, later: runs - runsAtClose }).toEqual({ overlapped: false, later: 0 })
    expect(problems).toContain('The sweep of rows: the database is away')
  })
})

type TestServer = {
  backend: TimersBackend
  /** Another database of the same server. */
  another(): Promise<TimersBackend>
  killAndRestart(): Promise<void>
  hurt(signal: 'SIGSTOP' | 'SIGKILL'): Promise<void>
  heal(): Promise<void>
  wipe(): Promise<void>
  countWakes(): Promise<number>
  stop(): Promise<void>
}

async function startPostgres(): Promise<TestServer> {
  const dir = mkdtempSync(path.join(os.tmpdir(), 'holdfast-timers-'))
  const log = { info: () => {}, warn: () => {}, error: () => {}, debug: () => {} }
  const postgres = await EmbeddedPostgres.start(dir, log)
  const db = new Db({ socketDir: postgres.socketDir })
  const answers = (): Promise<boolean> =>
    db.query('select 1').then(
      () => true,
      () => false,
    )
  const pid = (): number => Number(readFileSync(path.join(dir, 'postgres/postmaster.pid'), 'utf8').split('\n')[0])
  let killed = 0
  let frozen: number[] = []
  const kill = (): void => {
    killed = pid()
    process.kill(killed, 'SIGKILL')
  }
  // Backends of a killed server answer for a moment more; the number of its successor says that they are gone.
  const isBack = async (): Promise<boolean> =>
    existsSync(path.join(dir, 'postgres/postmaster.pid')) && pid() !== killed && (await answers())
  return {
    backend: { kind: 'postgres', connection: { socketDir: postgres.socketDir } },
    another: async () => {
      await db.query('create database another')
      return { kind: 'postgres', connection: { url: `postgres://holdfast@/another?host=${encodeURIComponent(postgres.socketDir)}` } }
    },
    killAndRestart: async () => {
      kill()
      await until(isBack)
    },
    hurt: async (signal) => {
      if (signal === 'SIGKILL') return kill()
      frozen = [pid(), ...descendants(pid())]
      for (const one of frozen) process.kill(one, 'SIGSTOP')
    },
    heal: async () => {
      for (const one of frozen.splice(0)) process.kill(one, 'SIGCONT')
      await until(isBack)
    },
    wipe: async () => {
      await db.query('delete from bullmq.job')
    },
    countWakes: async () => Number((await db.query('select count(*) as count from bullmq.job'))[0]?.count),
    stop: async () => {
      await db.close()
      await postgres.stop()
      rmSync(dir, { recursive: true })
    },
  }
}

async function startRedis(): Promise<TestServer> {
  // BullMQ takes its driver from the installed packages; without it every test here would wait in vain.
  createRequire(import.meta.url).resolve('ioredis')
  const dir = mkdtempSync(path.join(os.tmpdir(), 'holdfast-redis-'))
  const [port = 0] = await freePorts(1)
  let child: ChildProcess
  const launch = async (): Promise<void> => {
    const settings = ['--port', String(port), '--bind', '127.0.0.1', '--dir', dir, '--appendonly', 'yes', '--save', '']
    child = spawn('redis-server', settings, { stdio: 'ignore' })
    await until(async () => (await ask(port, 'PING').catch(() => '')).startsWith('+PONG'))
  }
  const kill = async (): Promise<void> => {
    const exited = once(child, 'exit')
    child.kill('SIGKILL')
    await exited
  }
  await launch()
  return {
    backend: { kind: 'redis', url: `redis://127.0.0.1:${port}`, database: 'tests' },
    another: async () => ({ kind: 'redis', url: `redis://127.0.0.1:${port}`, database: 'another' }),
    killAndRestart: async () => {
      await kill()
      await launch()
    },
    hurt: async (signal) => {
      if (signal === 'SIGKILL') await kill()
      else child.kill(signal)
    },
    heal: async () => {
      if (child.exitCode === null && child.signalCode === null) child.kill('SIGCONT')
      else await launch()
    },
    wipe: async () => {
      await ask(port, 'FLUSHALL')
    },
    countWakes: async () => {
      const keys = await ask(port, 'KEYS holdfast-tests:holdfast:*-row-*')
      return Number(/^\*(\d+)/.exec(keys)?.[1])
    },
    stop: async () => {
      await kill()
      rmSync(dir, { recursive: true })
    },
  }
}

/** One command by Redis's inline protocol, and the first of its answer. */
function ask(port: number, command: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () => socket.write(`${command}\r\n`))
    socket.once('data', (data: Buffer) => {
      socket.destroy()
      resolve(data.toString())
    })
    socket.once('error', reject)
  })
}

type Listener = { all: string[]; until(enough: (all: string[]) => boolean): Promise<void> }

function listener(timers: Timers, kind: string): Listener {
  const all: string[] = []
  timers.handle(kind, async (id, version) => {
    all.push(`${id}@${version}`)
  })
  return { all, until: (enough) => until(() => enough(all)) }
}

async function until(probe: () => boolean | Promise<boolean>, withinMs = 30_000): Promise<void> {
  const endMs = Date.now() + withinMs
  while (!(await probe())) {
    if (Date.now() > endMs) throw new Error(`never came: ${probe.toString()}`)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}
