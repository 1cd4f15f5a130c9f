import { Fault } from '../core/fault.ts'
import { type Db, isUnavailable, type Query, type Session } from './db.ts'
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
  /** Of its own: whoever reads much must not keep it from being renewed. */
  #renewals: Session | undefined
  #timer: NodeJS.Timeout | undefined
  #renewing: Promise<Renewal> | undefined
  #begun = false
  #closed = false
  #lost = false
  #reacquiring = false
  /** Of this process's clock: when the last renewal was asked for. */
  #renewedMs = 0
  /** The same by the host's clock. */
  #renewedAtMs = 0
  #patientUntilMs = 0
  /**
   * Until when others' leases hold, and since when, by this process's clock, that has been so; `idleMs`: the same without what was
   * before others could not renew either.
   */
  #others = new Map<string, { until: string; sinceMs: number; idleMs: number }>()

  /** When PostgreSQL was started, as it says, and when this process first heard that. */
  #postgres: { started: unknown; sinceMs: number } = { started: undefined, sinceMs: 0 }

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
      let lost: Error | undefined
      const session = await this.#db.dedicated((error) => {
        lost = error
        if (this.#session === session) this.#lockLost()
      })
      const [row] = await session
        .run(undefined, 'select pg_try_advisory_lock($1, hashtext($2)) as mine', [LOCK_SPACE, this.#installation], ANSWER_LATE_MS)
        .catch(async (error: unknown) => {
          await session.end()
          throw error
        })
      // What was locked went with the connection.
      if (lost !== undefined) throw lost
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
    this.#renewedAtMs = Date.now()
    this.#begun = true
    this.#timer = setInterval(() => void this.#renew(), this.#leaseMs / 3)
  }

  /**
   * Null while nobody can have given this process up. Once that could be, such as after it was frozen, a promise of whether
   * its jobs are still its own, kept when PostgreSQL has answered.
   */
  stillOurs(): Promise<boolean> | null {
    if (this.#lost) return Promise.resolve(false)
    if (!this.#begun || this.#closed || !this.#isOver()) return null
    return this.#askWhetherOurs()
  }

  /** By whichever clock says so: one stands still while the host sleeps, the other may be set back. */
  #isOver(): boolean {
    return Math.max(performance.now() - this.#renewedMs, Date.now() - this.#renewedAtMs) > this.#leaseMs
  }

  async #askWhetherOurs(): Promise<boolean> {
    while (!this.#closed) {
      const renewal = await this.#renew()
      if (renewal === 'lost') return false
      // An answer that was on its way for longer is of a time before.
      if (renewal === 'ours' && !this.#isOver()) return true
      await new Promise((resolve) => setTimeout(resolve, ASK_AGAIN_MS))
    }
    return true
  }

  /**
   * Deletes the rows of coordinators that did not renew; their jobs may be adopted from then on. After a restart of
   * PostgreSQL, and when this process could not renew in time itself, nobody could for a while: then nobody is given up
   * until one lease time has passed. And a clock of PostgreSQL that jumps makes nobody late: who was not seen to miss a
   * renewal is given the time for one; set back it keeps nobody either who has not renewed for two lease times. `left`: somebody is
   * gone since the last look, in whatever way.
   */
  async expireOthers(): Promise<{ expired: string[]; left: boolean }> {
    const nowMs = performance.now()
    const rows = await this.#db.query(
      `select id, lease_until::text as until, lease_until < now() as is_over,
              pg_postmaster_start_time()::text as started, pg_postmaster_start_time() < now() - $2 * interval '1 ms' as is_settled
         from coordinators where id <> $1`,
      [this.id, this.#leaseMs],
    )
    const started = rows[0]?.started
    if (started !== undefined && this.#postgres.started !== started) this.#postgres = { started, sinceMs: nowMs }
    // By its own clock, or by ours where its own was set back to before it began.
    const isSettled = rows[0]?.is_settled === true || nowMs - this.#postgres.sinceMs >= this.#leaseMs
    const before = this.#others
    this.#others = new Map()
    for (const row of rows) {
      const [id, until] = [text(row.id), text(row.until)]
      const known = before.get(id)
      this.#others.set(id, known?.until === until ? known : { until, sinceMs: nowMs, idleMs: nowMs })
    }
    const expired: string[] = []
    const gone = [...before.keys()].some((id) => !this.#others.has(id))
    const isPatient = nowMs < this.#patientUntilMs || this.#isLate(nowMs)
    for (const row of rows) {
      const id = text(row.id)
      const seen = this.#others.get(id)
      if (seen === undefined) continue
      if (isPatient || !isSettled) seen.idleMs = nowMs
      else if (this.#isDead(seen, row.is_over === true, nowMs)) {
        const deleted = await this.#db.query('delete from coordinators where id = $1 and lease_until::text = $2 returning id', [
          id,
          seen.until,
        ])
        if (deleted.length > 0) expired.push(id)
      }
    }
    return { expired, left: gone || expired.length > 0 }
  }

  #isDead({ sinceMs, idleMs }: { sinceMs: number; idleMs: number }, isOver: boolean, nowMs: number): boolean {
    return isOver ? nowMs - sinceMs >= this.#leaseMs * MISSED_SHARE : nowMs - idleMs >= this.#leaseMs * IDLE_SHARE
  }

  /** What is still live may be adopted at once. */
  async release(): Promise<void> {
    this.#closed = true
    clearInterval(this.#timer)
    await this.#db.query('delete from coordinators where id = $1', [this.id]).catch(() => {
      // Without PostgreSQL the lease runs out by itself.
    })
    await this.#renewals?.end()
    await this.#session?.end()
  }

  #isLate(nowMs: number): boolean {
    return nowMs - this.#renewedMs > this.#leaseMs * LATE_SHARE
  }

  #renew(): Promise<Renewal> {
    this.#renewing ??= this.#ask().finally(() => {
      this.#renewing = undefined
    })
    return this.#renewing
  }

  async #ask(): Promise<Renewal> {
    const askedMs = performance.now()
    const askedAtMs = Date.now()
    try {
      const session = (this.#renewals ??= await this.#db.dedicated(() => (this.#renewals = undefined), this.#leaseMs / 3))
      const rows = await session.run(
        undefined,
        `update coordinators set lease_until = now() + $2 * interval '1 ms' where id = $1 returning id`,
        [this.id, this.#leaseMs],
      )
      const nowMs = performance.now()
      if (this.#isLate(nowMs)) this.#patientUntilMs = nowMs + this.#leaseMs
      if (rows.length === 0 && !this.#closed) {
        if (!this.#lost) this.#onLost({ why: 'its lease ran out and another coordinator took over its jobs', mayComeBack: true })
        this.#lost = true
        return 'lost'
      }
      this.#renewedMs = askedMs
      this.#renewedAtMs = askedAtMs
      return 'ours'
    } catch (error) {
      void this.#renewals?.end()
      this.#renewals = undefined
      // PostgreSQL is away, and so is everybody's lease; the next renewal is due in a moment.
      if (!isUnavailable(error)) this.#onProblem(`The lease could not be renewed: ${String(error)}`)
      return 'away'
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

// The connection may fall silent before the answer comes, and a lock that nobody has must not be waited for.
const ANSWER_LATE_MS = 5_000

type Renewal = 'ours' | 'lost' | 'away'

/** Whether a coordinator of another data directory is at work here. */
export async function hasOtherCoordinator(query: Query, installation: string): Promise<boolean> {
  const rows = await query('select from coordinators where installation <> $1 and lease_until > now()', [installation])
  return rows.length > 0
}

/** Started anew it is another coordinator, unless its place is taken. */
export type Loss = { why: string; mayComeBack: boolean }

const LOCK_SPACE = 48_651
// Renewals are a third apart.
const LATE_SHARE = 0.6
// Longer than between two renewals.
const MISSED_SHARE = 0.5
// Whatever PostgreSQL's clock says.
const IDLE_SHARE = 2
const ASK_AGAIN_MS = 200
const LOCK_ATTEMPTS_MAX = 20
