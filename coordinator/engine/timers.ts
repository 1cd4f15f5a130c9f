import { type BackendFactory, createPostgresBackend, createRedisBackend, type IQueueBackend, withBackend } from 'bullmq'
import { BorrowedClient, type DbOptions } from '../store/db.ts'
import { trackSockets } from '../store/tracked-sockets.ts'

/**
 * Wakes parts at a time of theirs, by BullMQ on PostgreSQL or Redis. A wake-up names a row and the version it was made
 * for, and nothing else: the row is the truth, and its handler reads it again and compares. So a wake-up may come late,
 * twice or never. Whoever asks for one also sweeps for rows that are due, and a sweep is a timer of this process: losing
 * everything that BullMQ holds costs at most the time between two sweeps.
 */
export class Timers {
  readonly #onProblem: (message: string) => void
  readonly #bull: Bull
  readonly #handlers = new Map<string, Handler>()
  readonly #sweeps = new Set<NodeJS.Timeout>()
  readonly #working = new Set<Promise<void>>()
  readonly #toldMs = new Map<string, number>()
  #resting: NodeJS.Timeout | undefined
  #adding = 0
  #closed = false

  private constructor(options: TimersOptions) {
    this.#onProblem = options.onProblem
    this.#bull = connect(options.backend, (wake) => this.#fire(wake))
    this.#bull.queue.on('error', (error) => this.#tell(error))
    this.#bull.worker.on('error', (error) => {
      this.#tell(error)
      this.#rest()
    })
  }

  /** On PostgreSQL this makes BullMQ's tables and throws when it cannot. Redis may come later: the sweeps work without. */
  static async open(options: TimersOptions): Promise<Timers> {
    const timers = new Timers(options)
    if (options.backend.kind === 'redis') return timers
    try {
      // Both remember a first failure for ever, so a start that met one must not go on.
      await timers.#bull.queue.waitUntilReady()
      await timers.#bull.worker.waitUntilReady()
    } catch (error) {
      await timers.close()
      throw error
    }
    return timers
  }

  /** A wake-up of a kind that nobody handles is dropped: it was meant for another version of this program. */
  handle(kind: string, handler: Handler): void {
    this.#handlers.set(kind, handler)
    if (!this.#bull.worker.isRunning()) this.#bull.worker.run().catch((error: unknown) => this.#tell(error))
  }

  /** Asked for twice before its time, a wake-up comes once. */
  wake(kind: string, id: string, version: number, atMs: number, nowMs: number): void {
    // A Redis that is away leaves its requests in the memory of this process.
    if (this.#closed || this.#adding >= ADDING_MAX) return
    this.#adding += 1
    this.#bull.queue
      .add(kind, { kind, id, version }, { jobId: `${kind}-${id}-${version}`, delay: Math.max(0, Math.ceil(atMs - nowMs)) })
      .catch((error: unknown) => this.#tell(error))
      .finally(() => (this.#adding -= 1))
  }

  /** Runs at once, and again that long after each end, so that two never overlap. */
  sweep(kind: string, everyMs: number, run: () => Promise<void>): void {
    const runThenPlan = async (): Promise<void> => {
      await run().catch((error: unknown) => this.#tell(error, `The sweep of ${kind}: `))
      if (!this.#closed) plan(everyMs)
    }
    const plan = (delayMs: number): void => {
      const timer = setTimeout(() => {
        this.#sweeps.delete(timer)
        void runThenPlan()
      }, delayMs)
      this.#sweeps.add(timer)
    }
    plan(0)
  }

  /**
   * Handlers at work get a moment to end. Then the connections are cut: a polite goodbye waits for ever on a server that
   * is away, and while BullMQ says it nobody listens for the connection's errors, which would end this process.
   */
  async close(): Promise<void> {
    this.#closed = true
    for (const timer of this.#sweeps) clearTimeout(timer)
    clearTimeout(this.#resting)
    const { hangUp, queue, worker } = this.#bull
    await worker.pause(true)
    await within(CLOSE_MS, [...this.#working])
    await within(CLOSE_MS, [worker.getBackend().disconnectBlocking(false), hangUp()])
    await within(CLOSE_MS, [worker.close(true), queue.getBackend().close(true)])
  }

  #fire({ kind, id, version }: Wake): Promise<void> {
    const handler = this.#handlers.get(kind)
    if (handler === undefined) return Promise.resolve()
    const work = handler(id, version)
      .catch((error: unknown) => this.#tell(error, `The timer of ${kind} ${id}: `))
      .finally(() => this.#working.delete(work))
    this.#working.add(work)
    return work
  }

  /**
   * A BullMQ worker whose server is gone may try again thousands of times a second and keep a core busy. So after an
   * error it does nothing for a moment; taking it up again also starts anew a loop that an error has ended.
   */
  #rest(): void {
    if (this.#resting !== undefined || this.#closed) return
    this.#resting = setTimeout(() => {
      this.#resting = undefined
      void this.#bull.worker.resume()
    }, REST_MS)
    void this.#bull.worker.pause(true)
  }

  /** An outage says the same thing with every try; once a minute is enough. */
  #tell(error: unknown, context = ''): void {
    const message = `${context}${error instanceof Error ? error.message : String(error)}`
    const nowMs = performance.now()
    if (this.#closed || nowMs - (this.#toldMs.get(message) ?? Number.NEGATIVE_INFINITY) < TELL_AGAIN_MS) return
    if (this.#toldMs.size >= TOLD_MAX) this.#toldMs.clear()
    this.#toldMs.set(message, nowMs)
    this.#onProblem(message)
  }
}

export type TimersOptions = { backend: TimersBackend; onProblem: (message: string) => void }
export type TimersBackend = { kind: 'postgres'; connection: DbOptions } | { kind: 'redis'; url: string; database: string }
type Handler = (id: string, version: number) => Promise<void>
type Wake = { kind: string; id: string; version: number }

const NAME = 'holdfast'
const ADDING_MAX = 10_000
const REST_MS = 500
const CLOSE_MS = 2_000
const TELL_AGAIN_MS = 60_000
const TOLD_MAX = 100

/** What is used of BullMQ, which is the same on both servers. */
type Bull = {
  hangUp: () => Promise<void>
  queue: Connected & { add(name: string, data: Wake, options: { jobId: string; delay: number }): Promise<unknown> }
  worker: Connected & {
    run(): Promise<void>
    isRunning(): boolean
    pause(doNotWait?: boolean): Promise<void>
    resume(): Promise<void>
    close(force: boolean): Promise<void>
  }
}
type Connected = {
  on(event: 'error', listener: (error: Error) => void): unknown
  waitUntilReady(): Promise<unknown>
  getBackend(): IQueueBackend
}

function connect(backend: TimersBackend, fire: (wake: Wake) => Promise<void>): Bull {
  if (backend.kind === 'redis') {
    let hungUp = false
    const retryStrategy = (tries: number): number | null => (hungUp ? null : Math.min(100 * tries, 2_000))
    // Of two databases whose coordinators share a Redis each would take, and drop, what the other is to be woken for.
    const prefix = `holdfast-${backend.database}`
    const made = make(createRedisBackend, { url: backend.url, retryStrategy, maxRetriesPerRequest: null }, fire, { prefix })
    return { ...made, hangUp: async () => void (hungUp = true) }
  }
  const { connection } = backend
  const server =
    'url' in connection ? { connectionString: connection.url } : { host: connection.socketDir, user: 'holdfast', database: 'holdfast' }
  const { stream, hangUp } = trackSockets()
  const options = { schema: 'bullmq', migrate: true, max: 2, application_name: 'holdfast-timers', connectionTimeoutMillis: 5_000 }
  return { ...make(createPostgresBackend, { ...server, ...options, stream, Client: BorrowedClient }, fire), hangUp }
}

function make<B extends IQueueBackend, C>(
  factory: BackendFactory<B, C>,
  connection: C,
  fire: (wake: Wake) => Promise<void>,
  keys: { prefix?: string } = {},
): Omit<Bull, 'hangUp'> {
  const { Queue, Worker } = withBackend(factory)
  // An ended job is of no use to anyone: the row it was about tells what came of it.
  const defaultJobOptions = { removeOnComplete: true, removeOnFail: true }
  const queue = new Queue<Wake>(NAME, { ...keys, connection, defaultJobOptions, streams: { events: { maxLen: 100 } } })
  const worker = new Worker<Wake>(NAME, (job) => fire(job.data), {
    ...keys,
    connection,
    autorun: false,
    concurrency: 16,
    runRetryDelay: 1_000,
  })
  return { queue, worker }
}

async function within(ms: number, work: Promise<unknown>[]): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise((resolve) => (timer = setTimeout(resolve, ms)))
  await Promise.race([Promise.allSettled(work), late])
  clearTimeout(timer)
}
