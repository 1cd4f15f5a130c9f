import type { Db } from './db.ts'
import { number } from './rows.ts'

/**
 * PostgreSQL's clock, read here without asking it each time: coordinators whose own clocks differ must agree on when
 * things happened and when they are due. Between two readings it goes by this process's own steady clock, and it never
 * goes back: what waits for a time would wait for it once more. Where PostgreSQL's was set back, this one runs slower
 * until they agree.
 */
export class DatabaseClock {
  readonly #db: Pick<Db, 'maybeOne' | 'down'>
  /** Ahead of this process's clock; nobody has asked before the first reading. */
  #offsetMs = Number.NEGATIVE_INFINITY
  /** Of that, what has to be given back, and since when that is done. */
  #excessMs = 0
  #sinceMs = 0
  #timer: NodeJS.Timeout | undefined

  private constructor(db: Pick<Db, 'maybeOne' | 'down'>) {
    this.#db = db
  }

  static async start(db: Pick<Db, 'maybeOne' | 'down'>, onProblem: (message: string) => void): Promise<DatabaseClock> {
    const clock = new DatabaseClock(db)
    await clock.adjust()
    let asked = performance.now()
    let ahead = Date.now() - steadyMs()
    clock.#timer = setInterval(() => {
      const jumped = Math.abs(Date.now() - steadyMs() - ahead) > JUMP_MS
      if (!jumped && performance.now() - asked < ADJUST_EVERY_MS) return
      asked = performance.now()
      ahead = Date.now() - steadyMs()
      // While PostgreSQL is away the last offset holds; clocks drift by milliseconds an hour.
      clock.adjust().catch((error: unknown) => {
        if (!db.down) onProblem(`PostgreSQL's clock could not be read: ${String(error)}`)
      })
    }, LOOK_EVERY_MS)
    return clock
  }

  now(): number {
    const nowMs = steadyMs()
    return Math.round(nowMs + this.#offsetAt(nowMs))
  }

  stop(): void {
    clearInterval(this.#timer)
  }

  #offsetAt(nowMs: number): number {
    return this.#offsetMs - Math.min(this.#excessMs, (nowMs - this.#sinceMs) * SLOWER_SHARE)
  }

  /** Asks PostgreSQL; rejects when it does not answer. */
  async adjust(): Promise<void> {
    const before = steadyMs()
    const row = await this.#db.maybeOne('select extract(epoch from clock_timestamp()) * 1000 as ms')
    const after = steadyMs()
    const wanted = number(row?.ms) - (before + after) / 2
    const offset = this.#offsetAt(after)
    // Below the error of the measurement a correction would only make time jump.
    const isRight = Math.abs(wanted - offset) <= after - before + TOLERANCE_MS
    this.#offsetMs = isRight ? offset : Math.max(wanted, offset)
    this.#excessMs = isRight ? 0 : Math.max(0, offset - wanted)
    this.#sinceMs = after
  }
}

function steadyMs(): number {
  return performance.timeOrigin + performance.now()
}

const ADJUST_EVERY_MS = 10_000
// The steady clock stands still while the host sleeps: that the host's own has gone on tells it.
const LOOK_EVERY_MS = 500
const JUMP_MS = 1_000
const TOLERANCE_MS = 5
const SLOWER_SHARE = 0.1
