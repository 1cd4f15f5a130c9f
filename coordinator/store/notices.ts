import type { Db, Session } from './db.ts'

/**
 * What coordinators of one database tell each other: that keys, teams, providers or policies were changed, so that what was
 * revoked at one is refused at all. Whoever misses a word, because its connection broke or a pooler stands between, finds
 * the change when it looks the next time.
 */
export class Notices {
  readonly #parts: NoticesParts
  #session: Session | undefined
  #timer: NodeJS.Timeout | undefined
  #closed = false
  /** Somebody said something while what was said before is being looked up. */
  #again = false
  #acting = false

  constructor(parts: NoticesParts) {
    this.#parts = parts
    this.#timer = setTimeout(() => void this.#open(), 0)
  }

  /** Rejects when PostgreSQL does not take it. */
  async tell(): Promise<void> {
    await this.#parts.db.query('select pg_notify($1, $2)', [CHANNEL, this.#parts.coordinator])
  }

  stop(): void {
    this.#closed = true
    clearTimeout(this.#timer)
    // One that the network forgot does not say goodbye for a quarter of an hour.
    void this.#session?.end()
  }

  async #open(): Promise<void> {
    try {
      const session = await this.#parts.db.dedicated(() => {
        if (this.#session === session) this.#openLater()
      })
      this.#session = session
      session.hear((from) => {
        if (from !== this.#parts.coordinator) void this.#act()
      })
      await session.run(undefined, `listen ${CHANNEL}`, [])
      if (this.#closed) void session.end()
    } catch {
      // PostgreSQL is away, which others say; here it is asked again.
      this.#openLater()
    }
  }

  #openLater(): void {
    void this.#session?.end()
    this.#session = undefined
    clearTimeout(this.#timer)
    if (!this.#closed) this.#timer = setTimeout(() => void this.#open(), OPEN_AGAIN_MS)
  }

  async #act(): Promise<void> {
    this.#again = true
    if (this.#acting) return
    this.#acting = true
    while (this.#again && !this.#closed) {
      this.#again = false
      await this.#parts
        .changed()
        .catch((error: unknown) => this.#parts.onProblem(`What another coordinator changed could not be read: ${String(error)}`))
    }
    this.#acting = false
  }
}

type NoticesParts = {
  db: Db
  coordinator: string
  /** Something was changed at another coordinator. */
  changed: () => Promise<void>
  onProblem: (message: string) => void
}

const CHANNEL = 'holdfast_changed'
const OPEN_AGAIN_MS = 2_000
