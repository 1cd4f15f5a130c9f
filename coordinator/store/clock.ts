import type { Db } from './db.ts'
import { number } from './rows.ts'

/**
 * PostgreSQL's clock, read here without asking it each time: coordinators whose own clocks differ must agree on when
 * things happened and when they are due.
 */
export class DatabaseClock {
  readonly #db: Db
  #offsetMs = 0
  #timer: NodeJS.Timeout | undefined

  private constructor(db: Db) {
    this.#db = db
  }

  static async start(db: Db, onProblem: (message: string) => void): Promise<DatabaseClock> {
    const clock = new DatabaseClock(db)
    await clock.#adjust()
    clock.#timer = setInterval(() => {
      // While PostgreSQL is away the last offset holds; clocks drift by milliseconds an hour.
      clock.#adjust().catch((error: unknown) => {
        if (!db.down) onProblem(`PostgreSQL's clock could not be read: ${String(error)}`)
      })
    }, ADJUST_EVERY_MS)
    return clock
  }

  now(): number {
    return Date.now() + this.#offsetMs
  }

  stop(): void {
    clearInterval(this.#timer)
  }

  async #adjust(): Promise<void> {
    const before = Date.now()
    const row = await this.#db.maybeOne('select extract(epoch from clock_timestamp()) * 1000 as ms')
    const after = Date.now()
    const offset = number(row?.ms) - (before + after) / 2
    // Below the error of the measurement a correction would only make time jump.
    this.#offsetMs = Math.abs(offset) <= after - before + TOLERANCE_MS ? 0 : Math.round(offset)
  }
}

const ADJUST_EVERY_MS = 60_000
const TOLERANCE_MS = 5
