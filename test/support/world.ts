import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { Db, type DbOptions } from '../../coordinator/store/db.ts'
import { freePorts } from './ports.ts'
import { unsoundRows } from './sound.ts'

/** Real coordinators and workers as processes on private ports and folders, for tests, benches and chaos. */
export class World implements AsyncDisposable {
  readonly dir: string
  readonly httpPort: number
  readonly grpcPort: number
  readonly #running: Running[] = []
  /** Where each coordinator keeps its rows. */
  readonly #databases: { of: Running; at: DbOptions }[] = []

  private constructor(dir: string, httpPort: number, grpcPort: number) {
    this.dir = dir
    this.httpPort = httpPort
    this.grpcPort = grpcPort
  }

  static async open(): Promise<World> {
    const dir = mkdtempSync(path.join(os.tmpdir(), 'holdfast-test-'))
    const [http, grpc] = await freePorts(2)
    return new World(dir, http ?? 0, grpc ?? 0)
  }

  get url(): string {
    return `http://127.0.0.1:${this.httpPort}`
  }

  env(extra: Record<string, string> = {}): Record<string, string> {
    const external = process.env.HOLDFAST_TEST_DATABASE_URL
    const redis = process.env.HOLDFAST_TEST_REDIS_URL
    return {
      PATH: process.env.PATH ?? '',
      HOME: process.env.HOME ?? this.dir,
      HOLDFAST_HTTP_PORT: String(this.httpPort),
      HOLDFAST_GRPC_PORT: String(this.grpcPort),
      HOLDFAST_COORDINATOR: `127.0.0.1:${this.grpcPort}`,
      HOLDFAST_URL: this.url,
      HOLDFAST_ADMIN_KEY: ADMIN_KEY,
      HOLDFAST_WORKER_TOKEN: WORKER_TOKEN,
      ...(external === undefined ? {} : { DATABASE_URL: external }),
      ...(redis === undefined ? {} : { REDIS_URL: redis }),
      ...extra,
    }
  }

  /** Resolves once it accepts work. */
  async coordinator(extra: Record<string, string> = {}): Promise<Running> {
    this.#beginWithEmptyDatabase(extra)
    const running = this.start('coordinator', ['coordinator'], { HOLDFAST_DATA_DIR: path.join(this.dir, 'coordinator'), ...extra })
    await this.until('the coordinator is ready', async () => {
      if (running.ended !== null) throw new Failed(`the coordinator ended: ${running.output}`)
      return (await fetch(`${this.url}/readyz`)).ok
    })
    return running
  }

  #beginWithEmptyDatabase(extra: Record<string, string>): void {
    const template = process.env.HOLDFAST_TEST_TEMPLATE
    const place = path.join(this.dir, 'coordinator', 'postgres')
    const own = extra.DATABASE_URL ?? process.env.HOLDFAST_TEST_DATABASE_URL ?? extra.HOLDFAST_DATA_DIR
    if (template === undefined || own !== undefined || existsSync(place)) return
    mkdirSync(path.dirname(place), { recursive: true, mode: 0o700 })
    // With its owner, who is another user where this one is root.
    execFileSync('cp', ['-a', template, place])
  }

  /** Resolves once its models are ready. */
  async worker(name: string, models: string, extra: Record<string, string> = {}): Promise<Running> {
    const running = this.start(name, ['worker'], {
      HOLDFAST_DATA_DIR: path.join(this.dir, name),
      HOLDFAST_WORKER_NAME: name,
      HOLDFAST_MODELS: models,
      ...extra,
    })
    await this.until(`worker ${name} serves`, async () => {
      if (running.ended !== null) throw new Failed(`worker ${name} ended: ${running.output}`)
      const found = await this.findWorker(name)
      return found?.state === 'online' && found.models.every((model) => model.slots > 0)
    })
    return running
  }

  /** What the database of the latest coordinator holds, for what no door tells. */
  database(): Db {
    const latest = this.#databases.at(-1)
    if (latest === undefined) throw new Error('no coordinator was started')
    return new Db(latest.at)
  }

  start(name: string, args: string[], extra: Record<string, string>): Running {
    const env = this.env(extra)
    const running = new Running(name, args, env, this.dir)
    this.#running.push(running)
    if (args[0] === 'coordinator' || args[0] === 'up') this.#databases.push({ of: running, at: this.#databaseOf(env) })
    return running
  }

  #databaseOf({ DATABASE_URL: url, HOLDFAST_DATA_DIR: dataDir = '' }: Record<string, string>): DbOptions {
    if (url !== undefined) return { url }
    const folder = path.join(dataDir, 'postgres')
    if (path.dirname(dataDir) === this.dir) return { socketDir: folder }
    // The address of a socket has to be short, and a folder may lie deep.
    const link = path.join(this.dir, `database-${this.#databases.length}`)
    symlinkSync(folder, link)
    return { socketDir: link }
  }

  async findWorker(name: string): Promise<WorkerView | undefined> {
    const { data } = (await this.get('/api/workers')) as { data: WorkerView[] }
    return data.find((worker) => worker.name === name)
  }

  async job(id: string): Promise<JobView> {
    return (await this.get(`/api/jobs/${id}`)) as JobView
  }

  async events(query = ''): Promise<EventView[]> {
    return ((await this.get(`/api/events?limit=200${query}`)) as { data: EventView[] }).data
  }

  async get(target: string): Promise<unknown> {
    const response = await this.request('GET', target)
    const text = await response.text()
    if (!response.ok) throw new Error(`GET ${target}: ${response.status} ${text.slice(0, 300)}`)
    return JSON.parse(text)
  }

  request(method: string, target: string, body?: unknown, headers: Record<string, string> = {}, signal?: AbortSignal): Promise<Response> {
    const content = body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }
    return fetch(this.url + target, {
      method,
      headers: { authorization: `Bearer ${ADMIN_KEY}`, ...(body === undefined ? {} : { 'content-type': 'application/json' }), ...headers },
      ...content,
      ...(signal === undefined ? {} : { signal }),
    })
  }

  /** Asks again until the probe answers something truthy; a condition, not a time, is what is waited for. */
  async until<T>(
    what: string,
    probe: () => Promise<T | undefined | false | null> | T | undefined | false | null,
    withinMs = 60_000,
  ): Promise<T> {
    const endMs = Date.now() + withinMs
    let last: unknown
    while (Date.now() < endMs) {
      try {
        const found = await probe()
        if (found) return found
        last = found
      } catch (error) {
        if (error instanceof Failed) throw error
        last = error instanceof Error ? error.message : error
      }
      await new Promise((resolve) => setTimeout(resolve, 15))
    }
    throw new Error(`never came: ${what} (last: ${JSON.stringify(last)})${this.#whoEnded()}`)
  }

  #whoEnded(): string {
    const ended = this.#running.filter((running) => running.ended !== null)
    return ended.map(({ name, ended, output }) => `\n${name} ended (${JSON.stringify(ended)}): ${output.slice(-2_000)}`).join('')
  }

  /** Also holds what the databases were left with against what must be true of every row. */
  async close(): Promise<void> {
    const unsound = await this.#unsoundRows()
    for (const running of this.#running.toReversed()) await running.stop()
    rmSync(this.dir, { recursive: true, force: true })
    if (unsound.length > 0) throw new Error(`not as it must be: ${unsound.join('; ')}`)
  }

  async #unsoundRows(): Promise<string[]> {
    const found = new Map<string, string[]>()
    for (const { of, at } of this.#databases) {
      // An embedded server goes with its coordinator: ended by a test, it is not there to be asked, and that is no fault.
      // Whoever ended as a refused start may name a database that never was.
      const isGone = of.ended !== null && ('socketDir' in at || of.ended.code === 1)
      const key = JSON.stringify(at)
      if (isGone || found.has(key)) continue
      const db = new Db(at)
      const why = (error: unknown): string[] => [`the database of ${of.name} could not be asked: ${String(error)}`]
      found.set(key, await unsoundRows(db).catch(why))
      await db.close()
    }
    return [...found.values()].flat()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

export const ADMIN_KEY = 'test-admin-key-0123456789abcdef'
export const WORKER_TOKEN = 'test-worker-token-0123456789abcdef'
const LAUNCHER = fileURLToPath(new URL('../../coordinator/holdfast', import.meta.url))

export type WorkerView = {
  id: string
  name: string
  state: string
  models: { name: string; state: string; slots: number; busy: number; sha256: string; restarts: number }[]
}
export type JobView = {
  id: string
  status: string
  attempts: { number: number; status: string; worker: string; error: { code: string } | null }[]
  waiting: { reason: string; position: number; estimate_ms: number | null } | null
  output: { text: string } | null
  error: { code: string; message: string } | null
  usage: { prompt_tokens: number; completion_tokens: number } | null
  finish_reason: string | null
  worker: string | null
  trace_id: string
  seed: number
}
export type EventView = {
  id: string
  at: string
  type: string
  job: string | null
  team: string | null
  provider: string | null
  worker: string | null
  trace_id: string | null
  severity: string
  details: Record<string, unknown>
}

/** A probe that can never succeed any more. */
export class Failed extends Error {}

/** One process leading its own group. `kill` reaches the group, as a dying host would. */
export class Running {
  readonly name: string
  readonly child: ChildProcess
  output = ''
  ended: { code: number | null; signal: string | null } | null = null
  readonly exited: Promise<void>

  constructor(name: string, args: string[], env: Record<string, string>, cwd: string) {
    this.name = name
    this.child = spawn(LAUNCHER, args, { cwd, env, detached: true, stdio: ['ignore', 'pipe', 'pipe'] })
    for (const stream of [this.child.stdout, this.child.stderr])
      stream?.on('data', (data: Buffer) => {
        this.output = (this.output + data.toString()).slice(-20_000)
      })
    this.exited = new Promise((resolve) => {
      this.child.once('exit', (code, signal) => {
        this.ended = { code, signal }
        resolve()
      })
    })
  }

  get pid(): number {
    return this.child.pid ?? 0
  }

  kill(signal: NodeJS.Signals = 'SIGKILL'): void {
    try {
      process.kill(-this.pid, signal)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
    }
  }

  async stop(): Promise<void> {
    if (this.ended !== null) return
    this.kill('SIGCONT')
    this.kill('SIGTERM')
    const late = setTimeout(() => this.kill('SIGKILL'), 25_000)
    await this.exited
    clearTimeout(late)
  }
}

/** All processes below this one, by /proc. */
export function descendants(pid: number): number[] {
  const parents = new Map<number, number>()
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue
    try {
      parents.set(Number(name), Number(/^PPid:\s+(\d+)/m.exec(readFileSync(`/proc/${name}/status`, 'utf8'))?.[1]))
    } catch {
      // Gone while we looked.
    }
  }
  const found: number[] = []
  const walk = (parent: number): void => {
    for (const [child, of] of parents)
      if (of === parent) {
        found.push(child)
        walk(child)
      }
  }
  walk(pid)
  return found
}
