import { createHash } from 'node:crypto'
import pg from 'pg'
import type { EventRecord } from '../core/event.ts'
import { Fault } from '../core/fault.ts'

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
  readonly #pool: pg.Pool
  #down = false
  /** Hears of events as soon as they are durable, whoever wrote them here. */
  onEvents: (events: readonly EventRecord[]) => void = () => {}

  constructor(options: DbOptions) {
    this.#options = connection(options)
    this.#pool = new pg.Pool({ ...this.#options, max: READERS, idleTimeoutMillis: 60_000, connectionTimeoutMillis: 5_000 })
    // A server that goes away breaks idle connections; the next query opens a new one.
    this.#pool.on('error', () => {})
    // While a connection is lent out the pool does not listen, and an error nobody listens to would end the process; the
    // query that runs on it fails all the same, and says so to whoever asked.
    this.#pool.on('connect', (client) => client.on('error', () => {}))
  }

  /** Set by the writer, which always has a statement to try: true while PostgreSQL cannot be reached. */
  get down(): boolean {
    return this.#down
  }

  markDown(down: boolean): void {
    this.#down = down
  }

  async query(text: string, values: unknown[] = []): Promise<Rows> {
    try {
      return (await this.#pool.query(text, values)).rows as Rows
    } catch (error) {
      throw unavailableOr(error)
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
    try {
      await client.query('begin')
      const events: EventRecord[] = []
      const query = async (text: string, values: unknown[] = []): Promise<Rows> => (await client.query(text, values)).rows as Rows
      const result = await work(Object.assign(query, { events }))
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
      throw unavailableOr(error)
    }
  }

  /** A connection of its own, for the writer and for locks; the caller ends it. */
  async dedicated(onLost: (error: Error) => void): Promise<Session> {
    const client = new pg.Client(this.#options)
    client.on('error', onLost)
    await client.connect()
    return {
      run: async (name, text, values) => {
        const query = name === undefined ? { text, values } : { name, text, values }
        return (await client.query(query)).rows as Rows
      },
      end: () => client.end(),
    }
  }

  async close(): Promise<void> {
    await this.#pool.end()
  }
}

export type Session = {
  /** A name makes it a prepared statement of this connection. */
  run(name: string | undefined, text: string, values: unknown[]): Promise<Rows>
  end(): Promise<void>
}

/** True for errors that say the server cannot be reached or is starting or stopping; the statement may be tried again. */
export function isUnavailable(error: unknown): boolean {
  if (!(error instanceof Error)) return false
  const code = 'code' in error ? String(error.code) : ''
  if (/^(08|57P)/.test(code) || NETWORK_CODES.has(code)) return true
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
  '53300',
])
const READERS = 8

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
  if (!isUnavailable(error)) return error
  return new Fault('database_unavailable', 'PostgreSQL cannot be reached at the moment; nothing was accepted. Try again shortly.', {
    status: 503,
    retryable: true,
    retryAfterS: 2,
    cause: error,
  })
}
