import { createHash } from 'node:crypto'
import pg from 'pg'
import type { EventRecord } from '../core/event.ts'
import { Fault } from '../core/fault.ts'
import { Places } from './places.ts'
import { trackSockets } from './tracked-sockets.ts'

/** The only door to `pg`. */
export type Rows = Record<string, unknown>[]

/** One statement, on whatever connection and in whatever transaction its giver means. */
export type Query = ((text: string, values?: unknown[]) => Promise<Rows>) & {
  /** In a transaction: the events it has written, told to listeners once it is committed. */
  events?: EventRecord[]
}

export type DbOptions = { url: string } | { socketDir: string }

export class Db {
  readonly #options: pg.ClientConfig
  #pool: pg.Pool
  #sockets = trackSockets()
  #down = false
  /** Of each writer that is turned away, why. */
  readonly #refusals = new Map<object, string>()
  #watching: NodeJS.Timeout | undefined
  #watcher: Session | undefined
  /** Since then it has not answered. */
  #wasSilent = false
  /** Those that wait for what they read. */
  readonly #readers = new Set<(error: Fault) => void>()
  readonly #long = new Places(LONG_AT_ONCE)
  readonly #lists = new Places(LISTS_AT_ONCE)
  /** Connections whose users ask again when they break; a lock's is none of them. */
  readonly #patient: pg.Client[] = []
  /** Hears when `trouble` changes. */
  onTrouble: (trouble: string | null) => void = () => {}
  /** Hears of events as soon as they are durable, whoever wrote them here. */
  onEvents: (events: readonly EventRecord[]) => void = () => {}

  constructor(options: DbOptions) {
    this.#options = connection(options)
    this.#pool = this.#openPool()
  }

  #openPool(): pg.Pool {
    this.#sockets = trackSockets()
    const { stream } = this.#sockets
    const pool = new pg.Pool({ ...this.#options, stream, max: READERS, idleTimeoutMillis: 60_000, connectionTimeoutMillis: 5_000 })
    // A server that goes away breaks idle connections; the next query opens a new one.
    pool.on('error', () => {})
    // While a connection is lent out the pool does not listen, and an error nobody listens to would end the process; the
    // query that runs on it fails all the same, and says so to whoever asked.
    pool.on('connect', (client) => {
      client.on('error', () => {})
      this.#patient.push(client)
    })
    pool.on('remove', (client) => this.#forget(client))
    return pool
  }

  /** True while PostgreSQL cannot be reached, or does not answer: as the writer finds, and `watch`, who asks also when there is nothing to write. */
  get down(): boolean {
    return this.#down
  }

  /** Asks every second, on a connection of its own; a question without an answer for some seconds is answered. Ends with `close`. */
  watch(): void {
    this.#watching = setTimeout(() => void this.#askAndGoOn(), WATCH_EVERY_MS)
  }

  async #askAndGoOn(): Promise<void> {
    await this.#ask()
    if (this.#watching !== undefined) this.watch()
  }

  /** What was silent while a new connection is answered was forgotten by the network: whoever waits there asks anew. */
  #hangUp(): void {
    this.#wasSilent = false
    this.#watcher = undefined
    // The old one would lend out what is being hung up.
    const silent = this.#pool
    this.#pool = this.#openPool()
    // What cannot be said goodbye to is cut off all the same.
    for (const client of this.#patient.splice(0)) void client.end().catch(() => {})
    void silent.end().catch(() => {})
  }

  async #ask(): Promise<void> {
    try {
      this.#watcher ??= await this.dedicated(() => (this.#watcher = undefined), ANSWER_LATE_MS)
      await this.#watcher.run(undefined, 'select', [])
      this.markDown(false)
      if (this.#wasSilent) this.#hangUp()
    } catch (error) {
      // Whatever it says: it cannot be asked, not on this connection.
      void this.#watcher?.end()
      this.#watcher = undefined
      this.#wasSilent ||= /timeout/i.test(String(error))
      this.markDown(true)
      // Who reads is told, and does not wait for an answer that would come when it is no longer wanted.
      if (this.#wasSilent) for (const giveUp of this.#readers) giveUp(silence())
    }
  }

  markDown(down: boolean): void {
    this.#noting(() => (this.#down = down))
  }

  /** It can be reached and takes no rows of this writer, such as on a full disk; null: it does again. */
  markRefused(writer: object, why: string | null): void {
    if (why === null && !this.#refusals.has(writer)) return
    this.#noting(() => (why === null ? this.#refusals.delete(writer) : this.#refusals.set(writer, why)))
  }

  /** Why nothing new can be stored at the moment; null: it can. */
  get trouble(): string | null {
    if (this.#down) return 'PostgreSQL cannot be reached'
    const [why] = this.#refusals.values()
    return why === undefined ? null : `PostgreSQL takes no rows: ${why}`
  }

  #noting(change: () => void): void {
    const before = this.trouble
    change()
    if (this.trouble !== before) this.onTrouble(this.trouble)
  }

  async query(text: string, values: unknown[] = []): Promise<Rows> {
    if (this.#wasSilent) throw silence()
    const isRead = /^\s*select\b/i.test(text)
    let giveUp: (error: Fault) => void = () => {}
    try {
      return await new Promise<Rows>((resolve, reject) => {
        giveUp = reject
        this.#readers.add(giveUp)
        // A connection that the network forgot is silent for a quarter of an hour.
        const answer = this.#pool.query({ text, values, query_timeout: READ_LATE_MS } as pg.QueryConfig)
        answer.then(({ rows }) => resolve(rows as Rows), reject)
      })
    } catch (error) {
      throw isRead || !mayHaveArrived(error) ? unavailableOr(error) : inDoubt(error)
    } finally {
      this.#readers.delete(giveUp)
    }
  }

  async maybeOne(text: string, values: unknown[] = []): Promise<Record<string, unknown> | undefined> {
    return (await this.query(text, values))[0]
  }

  /** Runs on one connection inside one transaction. */
  async transaction<T>(work: (query: Query) => Promise<T>): Promise<T> {
    const client = await this.#pool.connect().catch((error: unknown) => {
      throw unavailableOr(error)
    })
    let isCommitting = false
    try {
      await client.query('begin')
      const events: EventRecord[] = []
      const query = async (text: string, values: unknown[] = []): Promise<Rows> => (await client.query(text, values)).rows as Rows
      const result = await work(Object.assign(query, { events }))
      isCommitting = true
      await client.query('commit')
      client.release()
      if (events.length > 0) this.onEvents(events)
      return result
    } catch (error) {
      // A connection that cannot even roll back is not lent out again.
      await client.query('rollback').then(
        () => client.release(),
        () => client.release(true),
      )
      throw isCommitting && mayHaveArrived(error) ? inDoubt(error) : unavailableOr(error)
    }
  }

  /** The same for one that takes long: only so many are open at once, because the other connections are everybody's. */
  longTransaction<T>(work: (query: Query) => Promise<T>): Promise<T> {
    return this.#long.hold(() => this.transaction(work))
  }

  /** The same for what looks for rows through all of history, where few of them may match. */
  list(text: string, values: unknown[]): Promise<Rows> {
    return this.#lists.hold(() => this.query(text, values))
  }

  /** A connection of its own, for the writer and for locks; the caller ends it. A statement without an answer within the time rejects. */
  async dedicated(onLost: (error: Error) => void, lateMs?: number): Promise<Session> {
    const { stream, hangUp } = trackSockets()
    const client = new pg.Client({ ...this.#options, stream, ...(lateMs === undefined ? {} : { query_timeout: lateMs }) })
    const sayGoodbye = (): Promise<void> => withoutWaiting(client.end(), hangUp)
    let lost: Error | undefined
    let isHeld = false
    client.on('error', (error) => {
      lost ??= error
      if (isHeld) onLost(error)
    })
    await client.connect()
    // It may end in the breath that opened it, before anybody holds it.
    if (lost !== undefined) {
      void sayGoodbye()
      throw lost
    }
    isHeld = true
    if (lateMs !== undefined) this.#patient.push(client)
    return {
      run: async (name, text, values, lateMs) => {
        const query = { ...(name === undefined ? {} : { name }), text, values, ...(lateMs === undefined ? {} : { query_timeout: lateMs }) }
        return (await client.query(query)).rows as Rows
      },
      hear: (listener) => void client.on('notification', ({ payload = '' }) => listener(payload)),
      end: () => {
        this.#forget(client)
        return sayGoodbye()
      },
    }
  }

  #forget(client: pg.Client): void {
    const place = this.#patient.indexOf(client)
    if (place >= 0) this.#patient.splice(place, 1)
  }

  async close(): Promise<void> {
    clearTimeout(this.#watching)
    this.#watching = undefined
    // One that waits for an answer would wait for ever.
    void this.#watcher?.end()
    await withoutWaiting(this.#pool.end(), this.#sockets.hangUp)
  }
}

/** A goodbye that the network does not carry is waited for for a quarter of an hour, and so is what is lent out on such a connection. */
async function withoutWaiting(goodbye: Promise<void>, hangUp: () => Promise<void>): Promise<void> {
  const late = setTimeout(() => void hangUp(), GOODBYE_MS)
  // A connection that cannot be said goodbye to is gone all the same.
  await goodbye.catch(() => {})
  clearTimeout(late)
}

/**
 * For whoever keeps a pool of their own and does not listen while a connection is lent out: one that breaks between two
 * statements of its borrower would end the process. Whatever is asked of it next fails, and says so.
 */
export class BorrowedClient extends pg.Client {
  constructor(config?: string | pg.ClientConfig) {
    super(config)
    this.on('error', () => {})
  }
}

// BullMQ makes the connection on which it listens itself, and hears its errors only from a moment after it is open.
Object.assign(pg, { Client: BorrowedClient })

export type Session = {
  /** A name makes it a prepared statement of this connection. Without an answer within the time it rejects. */
  run(name: string | undefined, text: string, values: unknown[], lateMs?: number): Promise<Rows>
  /** What is notified to a channel that it listens to. */
  hear(listener: (payload: string) => void): void
  end(): Promise<void>
}

/**
 * True for errors that say nothing about the rows that were sent: the server cannot be reached, or takes nothing as it is now
 * (a full disk, a standby after a failover, a deadlock, a permission that somebody took away). The same may pass later.
 */
export function mayPass(error: unknown): boolean {
  if (isUnavailable(error)) return true
  const code = codeOf(error)
  return /^(0A|25|26|40|53|55|57|58)[0-9A-Z]{3}$/.test(code) || code === '42501' || isMissing(error)
}

/** True where a table is not there, such as a day's partition that was dropped. */
export function isMissing(error: unknown): boolean {
  return codeOf(error) === '42P01'
}

function codeOf(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : ''
}

/** Throws a Fault that names the setting, and says what PostgreSQL or the network says. */
export async function reach(db: Db): Promise<void> {
  await db.query('select 1').catch((cause: unknown) => {
    const why = cause instanceof Fault && cause.cause instanceof Error ? cause.cause.message : String(cause)
    throw new Fault('database_unavailable', `DATABASE_URL: PostgreSQL cannot be reached: ${why}`, { cause })
  })
}

/** True for errors that say the server cannot be reached or is starting or stopping; the statement may be tried again. */
export function isUnavailable(error: unknown): boolean {
  if (!(error instanceof Error)) return false
  const code = codeOf(error)
  if (/^(08|28|3D|57P)/.test(code) || NETWORK_CODES.has(code)) return true
  if (OF_SOCKETS_TOO.has(code) && /^(connect|socket)$/.test(String(Reflect.get(error, 'syscall')))) return true
  return code === '' && /connection|terminated|timeout|ended|closed/i.test(error.message)
}

const NETWORK_CODES = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'ENOENT',
  'EPIPE',
  'ETIMEDOUT',
  'EHOSTUNREACH',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EADDRNOTAVAIL',
  'ECONNABORTED',
  'EHOSTDOWN',
  'ENETDOWN',
  'ENETUNREACH',
  '53300',
])
/** What PostgreSQL itself says: it holds a digit, and EPIPE does not. */
const SQLSTATE = /^(?=.*\d)[0-9A-Z]{5}$/
/** Of files they say something else. */
const OF_SOCKETS_TOO = new Set(['EMFILE', 'ENFILE', 'EPERM'])
const READERS = 8
const LONG_AT_ONCE = 4
const LISTS_AT_ONCE = 3
const WATCH_EVERY_MS = 1_000
// A busy machine takes a second for a small answer now and then.
const ANSWER_LATE_MS = 5_000
const READ_LATE_MS = 60_000
const GOODBYE_MS = 2_000

/** Short, stable names for prepared statements. */
export function statementName(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, 16)
}

function connection(options: DbOptions): pg.ClientConfig {
  const common: pg.ClientConfig = { application_name: 'holdfast', keepAlive: true, connectionTimeoutMillis: 5_000 }
  if ('url' in options) return { ...common, connectionString: options.url }
  return { ...common, host: options.socketDir, user: 'holdfast', database: 'holdfast' }
}

function unavailableOr(error: unknown): unknown {
  if (!mayPass(error)) return error
  return unavailable(
    isUnavailable(error) ? 'cannot be reached at the moment' : `takes nothing at the moment (${(error as Error).message})`,
    error,
  )
}

function silence(): Fault {
  return unavailable('does not answer at the moment')
}

/** True where PostgreSQL may have carried out what it gave no answer to. */
function mayHaveArrived(error: unknown): boolean {
  if (error instanceof Fault) return true
  if (!(error instanceof Error) || !isUnavailable(error) || SQLSTATE.test(codeOf(error))) return false
  return Reflect.get(error, 'syscall') !== 'connect' && !/connection timeout|trying to connect/i.test(error.message)
}

function inDoubt(cause: unknown): Fault {
  const message =
    'PostgreSQL went away while this was being stored, and it cannot be said whether it has it. Look before you ask for it again, or ask with an idempotency-key, the same each time.'
  return new Fault('database_unavailable', message, { status: 503, retryable: true, retryAfterS: 2, cause })
}

function unavailable(why: string, cause?: unknown): Fault {
  const message = `PostgreSQL ${why}; nothing was accepted. Try again shortly.`
  return new Fault('database_unavailable', message, { status: 503, retryable: true, retryAfterS: 2, cause })
}
