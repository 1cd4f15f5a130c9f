import { Fault } from '../core/fault.ts'
import { type Db, isUnavailable, type Session } from './db.ts'
import { text } from './rows.ts'

/**
 * This process's right to its jobs: a row of `coordinators` that it renews. Whoever finds the row expired deletes it and
 * adopts the jobs, and the process that finds its own row gone stops: its jobs are somebody else's now. A process that
 * starts again from the same data directory takes over from its predecessor at once; an advisory lock, which ends with its
 * holder however that dies, makes sure that the predecessor is gone.
 */
export class Lease {
  readonly id: string
  readonly #db: Db
  readonly #installation: string
  readonly #leaseMs: number
  readonly #onLost: (loss: Loss) => void
  readonly #onProblem: (message: string) => void
  #session: Session | undefined
  #timer: NodeJS.Timeout | undefined
  #closed = false
  #reacquiring = false
  /** Of this process's clock. */
  #renewedMs = 0
  #patientUntilMs = 0

  constructor(
    db: Db,
    names: { coordinator: string; installation: string; leaseMs: number },
    listeners: { onLost: (loss: Loss) => void; onProblem: (message: string) => void },
  ) {
    this.#db = db
    this.id = names.coordinator
    this.#installation = names.installation
    this.#leaseMs = names.leaseMs
    this.#onLost = listeners.onLost
    this.#onProblem = listeners.onProblem
  }

  /** Throws when another process runs from the same data directory; a dying one gets a moment to let go. */
  async lock(): Promise<void> {
    for (let attempt = 0; ; attempt++) {
      const session = await this.#db.dedicated(() => {
        if (this.#session === session) this.#lockLost()
      })
      const [row] = await session
        .run(undefined, 'select pg_try_advisory_lock($1, hashtext($2)) as mine', [LOCK_SPACE, this.#installation])
        .catch(async (error: unknown) => {
          await session.end()
          throw error
        })
      if (row?.mine === true) {
        this.#session = session
        return
      }
      await session.end()
      if (attempt >= LOCK_ATTEMPTS_MAX)
        throw new Fault(
          'already_running',
          'Another coordinator runs from this data directory. Stop it first, or give this one a directory of its own (HOLDFAST_DATA_DIR).',
        )
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
  }

  /** Needs the lock and the schema. */
  async begin(version: string): Promise<void> {
    await this.#db.transaction(async (query) => {
      await query('delete from coordinators where installation = $1', [this.#installation])
      await query(`insert into coordinators (id, installation, version, lease_until) values ($1, $2, $3, now() + $4 * interval '1 ms')`, [
        this.id,
        this.#installation,
        version,
        this.#leaseMs,
      ])
    })
    this.#renewedMs = performance.now()
    this.#timer = setInterval(() => void this.#renew(), this.#leaseMs / 3)
  }

  /**
   * Deletes the rows of coordinators that did not renew; their jobs may be adopted from then on. After a restart of
   * PostgreSQL, and when this process could not renew in time itself, nobody could for a while: then nobody is given up
   * until one lease time has passed.
   */
  async expireOthers(): Promise<string[]> {
    const nowMs = performance.now()
    if (nowMs < this.#patientUntilMs || this.#isLate(nowMs)) return []
    const rows = await this.#db.query(
      `delete from coordinators where lease_until < now() and id <> $1
          and pg_postmaster_start_time() < now() - $2 * interval '1 ms' returning id`,
      [this.id, this.#leaseMs],
    )
    return rows.map((row) => text(row.id))
  }

  /** What is still live may be adopted at once. */
  async release(): Promise<void> {
    this.#closed = true
    clearInterval(this.#timer)
    await this.#db.query('delete from coordinators where id = $1', [this.id]).catch(() => {
      // Without PostgreSQL the lease runs out by itself.
    })
    await this.#session?.end()
  }

  #isLate(nowMs: number): boolean {
    return nowMs - this.#renewedMs > this.#leaseMs * LATE_SHARE
  }

  async #renew(): Promise<void> {
    try {
      const rows = await this.#db.query(`update coordinators set lease_until = now() + $2 * interval '1 ms' where id = $1 returning id`, [
        this.id,
        this.#leaseMs,
      ])
      const nowMs = performance.now()
      if (this.#isLate(nowMs)) this.#patientUntilMs = nowMs + this.#leaseMs
      this.#renewedMs = nowMs
      if (rows.length === 0 && !this.#closed)
        this.#onLost({ why: 'its lease ran out and another coordinator took over its jobs', mayComeBack: true })
    } catch (error) {
      // PostgreSQL is away, and so is everybody's lease; the next renewal is due in a moment.
      if (!(error instanceof Fault) && !isUnavailable(error)) this.#onProblem(`The lease could not be renewed: ${String(error)}`)
    }
  }

  /** PostgreSQL went away and the lock with it. */
  #lockLost(): void {
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
        await this.lock()
        return
      } catch (error) {
        if (error instanceof Fault && error.code === 'already_running') {
          this.#onLost({ why: 'another coordinator was started from its data directory', mayComeBack: false })
          return
        }
        // Still down: the next try waits for it.
        await new Promise((resolve) => setTimeout(resolve, 200))
      }
    }
  }
}

/** Started anew it is another coordinator, unless its place is taken. */
export type Loss = { why: string; mayComeBack: boolean }

const LOCK_SPACE = 48_651
// Renewals are a third apart.
const LATE_SHARE = 0.6
const LOCK_ATTEMPTS_MAX = 20
