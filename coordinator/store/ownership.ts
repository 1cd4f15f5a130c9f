import { Fault } from '../core/fault.ts'
import type { Db, Session } from './db.ts'

/**
 * One coordinator per database: two would run the same jobs. The right is an advisory lock of one connection, so it ends
 * with this process however it dies, and nobody has to clean up after it.
 */
export class Ownership {
  readonly #db: Db
  readonly #onLost: () => void
  #session: Session | undefined
  #closed = false
  #reacquiring = false

  constructor(db: Db, onLost: () => void) {
    this.#db = db
    this.#onLost = onLost
  }

  /** Throws when another coordinator holds the database; a dying one gets a moment to let go. */
  async acquire(): Promise<void> {
    for (let attempt = 0; ; attempt++) {
      const session = await this.#db.dedicated(() => {
        if (this.#session === session) this.#lost()
      })
      const [row] = await session.run(undefined, 'select pg_try_advisory_lock($1) as mine', [OWNER_LOCK])
      if (row?.mine === true) {
        this.#session = session
        return
      }
      await session.end()
      if (attempt >= ATTEMPTS_MAX)
        throw new Fault(
          'already_running',
          'Another coordinator works on this database. Stop it first, or give this one a database of its own (DATABASE_URL or HOLDFAST_DATA_DIR).',
        )
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
  }

  async release(): Promise<void> {
    this.#closed = true
    await this.#session?.end()
  }

  /** PostgreSQL went away and the lock with it. Whoever has it when it is back is the owner. */
  #lost(): void {
    this.#session = undefined
    // One connection may break more than once, and two seekers of one lock would each take the other for a rival.
    if (this.#closed || this.#reacquiring) return
    this.#reacquiring = true
    void this.#reacquire().finally(() => {
      this.#reacquiring = false
    })
  }

  async #reacquire(): Promise<void> {
    while (!this.#closed) {
      try {
        await this.acquire()
        return
      } catch (error) {
        if (error instanceof Fault && error.code === 'already_running') {
          this.#onLost()
          return
        }
        // Still down: the next try waits for it.
        await new Promise((resolve) => setTimeout(resolve, 200))
      }
    }
  }
}

const OWNER_LOCK = 4_865_124
const ATTEMPTS_MAX = 20
