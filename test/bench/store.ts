import { FREE } from '../support/free-terms.ts'
import { randomUUID } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { setFlagsFromString } from 'node:v8'
import pg from 'pg'
import type { ModelOffer } from '../../coordinator/core/fleet.ts'
import type { JobId, WorkerId } from '../../coordinator/core/job.ts'
import { Scheduler } from '../../coordinator/core/scheduler.ts'
import { Dispatcher } from '../../coordinator/engine/dispatcher.ts'
import type { NewJob } from '../../coordinator/engine/new-job.ts'
import type { WorkerLink } from '../../coordinator/engine/worker-link.ts'
import type { LiveJob } from '../../coordinator/engine/live-job.ts'
import { newId } from '../../coordinator/ids.ts'
import { Db } from '../../coordinator/store/db.ts'
import { EmbeddedPostgres } from '../../coordinator/store/embedded.ts'
import { ensurePartitions, migrate } from '../../coordinator/store/migrate.ts'
import { Writer } from '../../coordinator/store/writer.ts'
import { RULES } from '../support/simulation.ts'

// As coordinator/holdfast starts one.
setFlagsFromString('--no-parallel-scavenge')

/**
 * The real store, dispatcher and scheduler in this process, over a real PostgreSQL, without HTTP and without workers: the
 * link finishes what it is given at once, or not at all. For benches of what durability and placing cost by themselves.
 */
export class Store {
  readonly dir: string
  readonly socketDir: string
  readonly db: Db
  readonly writer: Writer
  readonly scheduler = new Scheduler(RULES)
  readonly coordinator = randomUUID()
  readonly dispatcher: Dispatcher
  readonly #postgres: EmbeddedPostgres
  /** Called with every attempt that starts. */
  onStart: (job: JobId, attempt: number) => void = () => {}

  private constructor(dir: string, postgres: EmbeddedPostgres) {
    this.dir = dir
    this.#postgres = postgres
    this.socketDir = postgres.socketDir
    this.db = new Db({ socketDir: postgres.socketDir })
    const fail = (error: unknown): never => {
      throw error
    }
    this.writer = new Writer(this.db, { onFlush: () => {}, onDropped: fail })
    const link: WorkerLink = {
      start: (_worker, { job, attempt }) => this.onStart(job, attempt),
      cancel: () => {},
      resume: () => {},
      acknowledge: () => {},
      drop: () => {},
    }
    this.dispatcher = new Dispatcher(this.scheduler, this.writer, {
      coordinator: this.coordinator,
      now: () => Date.now(),
      link,
      readRequest: async () => '{}',
      newEvent: (type, actor, details) => ({ id: newId(), atMs: Date.now(), type, actor, ...NOTHING, details }),
      policyOf: () => null,
      termsOf: () => FREE.terms,
      onHeld: () => {},
      onStarted: () => {},
      onDispatched: () => {},
      onFirstToken: () => {},
      onEnded: () => {},
      onEndStored: () => {},
      onPaid: () => {},
      onStale: () => {},
      onBreaker: () => {},
      onWorkerState: () => {},
      onWorkerReplaced: () => {},
    })
  }

  static async open(): Promise<Store> {
    const dir = mkdtempSync(path.join(os.tmpdir(), 'holdfast-bench-'))
    const quiet = { info: () => {}, warn: console.error, error: console.error, debug: () => {} }
    const store = new Store(dir, await EmbeddedPostgres.start(dir, quiet))
    await migrate(store.db)
    await ensurePartitions(store.db, Date.now())
    return store
  }

  /** A worker with so many slots; 0: nobody serves, jobs wait. */
  serve(slots: number): void {
    const offers: ModelOffer[] = [
      { name: 'm', engine: 'bench', state: 'ready', detail: '', slots, contextTokens: 0, maxTokenBytes: 0, sha256: 'x' },
    ]
    this.dispatcher.workerConnected(WORKER, 'bench', offers, [], false)
  }

  accept(wishes: Partial<NewJob> = {}): { live: LiveJob; stored: Promise<void> } {
    return this.dispatcher.accept(this.newJob(wishes))
  }

  newJob(wishes: Partial<NewJob> = {}): NewJob {
    return { ...PLAIN, ...wishes, id: newId() as JobId, traceId: newId() }
  }

  /** Sixteen tokens in one piece, then the end: what a worker would say. */
  finish(job: JobId, attempt: number): void {
    this.dispatcher.attemptGrew(WORKER, { job, attempt, first: 0, tokenIds: TOKENS, text: TEXT, promptTokens: 8, cachedTokens: 0 })
    const counts = { promptTokens: 8, completionTokens: TOKENS.length, cachedTokens: 0, totalMs: 1 }
    this.dispatcher.attemptFinished(WORKER, { job, attempt, tokens: TOKENS.length, text: '', finishReason: 'length', ...counts })
  }

  /** Single-row commits a second over so many connections of the same server: what everything is measured against. */
  async commitsPerSecond(connections: number, seconds: number): Promise<number> {
    const clients = Array.from(
      { length: connections },
      () => new pg.Client({ host: this.socketDir, user: 'holdfast', database: 'holdfast' }),
    )
    await Promise.all(clients.map((client) => client.connect()))
    await clients[0]?.query('create table if not exists bench_commits (id bigint generated always as identity primary key, note text)')
    const endMs = performance.now() + seconds * 1000
    const counts = await Promise.all(
      clients.map(async (client) => {
        let count = 0
        for (; performance.now() < endMs; count++)
          await client.query({ name: 'commit', text: 'insert into bench_commits (note) values ($1)', values: ['x'] })
        await client.end()
        return count
      }),
    )
    return counts.reduce((sum, count) => sum + count, 0) / seconds
  }

  async close(): Promise<void> {
    this.dispatcher.stop()
    await this.writer.close()
    await this.db.close()
    await this.#postgres.stop()
    rmSync(this.dir, { recursive: true, force: true })
  }
}

const WORKER = randomUUID() as string as WorkerId
const NOTHING = { team: null, job: null, provider: null, worker: null, traceId: null }
const TOKENS = Array.from({ length: 16 }, (_, index) => index)
const TEXT = 'one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen'
const PLAIN: Omit<NewJob, 'id' | 'traceId'> = {
  type: 'chat',
  team: 'default',
  actor: 'bench',
  model: 'm',
  pinnedProvider: null,
  ...FREE,
  detached: true,
  priority: 'normal',
  maxWaitMs: null,
  maxRunMs: null,
  cost: 24,
  promptCost: 0,
  request: JSON.stringify({
    prompt: { kind: 'chat', messages: [{ role: 'user', content: 'hello there' }] },
    stop: [],
    sampling: {},
    seed: 1,
  }),
  seed: 1,
  prefix: [],
}
