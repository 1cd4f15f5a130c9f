import type { EventRecord } from '../core/event.ts'
import { Fault } from '../core/fault.ts'
import type { Db } from '../store/db.ts'
import { eventsBesideOthers, severityOf, type StoredEvent } from '../store/events.ts'
import { firstUuidOf } from '../store/migrate.ts'

/**
 * Hands new events to whoever listens, once they are durable:
 *
 *   written here ── committed ──▶ gathered ── a moment later, in order of ids ──▶ listeners
 *   written by another coordinator ── found by looking ──┘
 *
 * Two connections write events, so one may be durable a little before another with a smaller id. The moment puts most of
 * them in order: a listener that comes back asks for what has a larger id than the last it heard of.
 */
export class EventFeed {
  readonly #parts: FeedParts
  readonly #listeners = new Set<Listener>()
  #gathered: { event: StoredEvent; atMs: number }[] = []
  /** Ids that were handed out or are gathered, the oldest first: what is found by looking may be known. */
  readonly #known = new Map<string, number>()
  #timers: NodeJS.Timeout[] = []
  #sinceMs = 0
  #looking = false

  constructor(parts: FeedParts) {
    this.#parts = parts
  }

  /** Answers how to stop listening. */
  listen(listener: Listener): () => void {
    this.#listeners.add(listener)
    if (this.#timers.length === 0) this.#start()
    return () => {
      this.#listeners.delete(listener)
      if (this.#listeners.size === 0) this.stop()
    }
  }

  /** These are durable. */
  take(events: readonly EventRecord[]): void {
    if (this.#listeners.size > 0) this.#gather(events.map(severityOf))
  }

  stop(): void {
    for (const timer of this.#timers) clearInterval(timer)
    this.#timers = []
    this.#gathered = []
    this.#known.clear()
  }

  #start(): void {
    this.#sinceMs = this.#parts.now()
    this.#timers = [setInterval(() => this.#handOut(), ORDER_MS), setInterval(() => void this.#look(), LOOK_EVERY_MS)]
  }

  #gather(events: readonly StoredEvent[]): void {
    const atMs = performance.now()
    for (const event of events) {
      if (this.#known.has(event.id)) continue
      this.#known.set(event.id, atMs)
      this.#gathered.push({ event, atMs })
    }
  }

  #handOut(): void {
    const nowMs = performance.now()
    const isDue = ({ atMs }: { atMs: number }): boolean => atMs <= nowMs - ORDER_MS
    const due = this.#gathered.filter(isDue).map(({ event }) => event)
    if (due.length > 0) {
      this.#gathered = this.#gathered.filter((one) => !isDue(one))
      due.sort((one, other) => (one.id < other.id ? -1 : 1))
      for (const listener of this.#listeners) listener(due)
    }
    const soughtFrom = firstUuidOf(this.#parts.now() - LOOK_BACK_MS)
    for (const [id, atMs] of this.#known) {
      if (atMs > nowMs - KNOWN_FOR_MS) break
      // One whose id is of a clock that is ahead is found for longer.
      if (id <= soughtFrom) this.#known.delete(id)
    }
  }

  async #look(): Promise<void> {
    if (this.#looking) return
    this.#looking = true
    const { db, coordinator, now, onProblem } = this.#parts
    try {
      // Nothing from before somebody listened, and further back than clocks of coordinators and transactions are late.
      this.#gather(await eventsBesideOthers(db, coordinator, Math.max(this.#sinceMs, now() - LOOK_BACK_MS), LOOK_ROWS_MAX))
    } catch (error) {
      // While PostgreSQL is away nothing new is durable; the next look finds what was missed.
      if (!(error instanceof Fault && error.retryable)) onProblem(`Events of other coordinators could not be read: ${String(error)}`)
    } finally {
      this.#looking = false
    }
  }
}

type Listener = (events: readonly StoredEvent[]) => void

type FeedParts = {
  db: Db
  /** This process: its own events are not looked for. */
  coordinator: string
  now: () => number
  onProblem: (text: string) => void
}

const ORDER_MS = 250
const LOOK_EVERY_MS = 2_000
const LOOK_BACK_MS = 15_000
// What another coordinator writes beyond this in that time is in the list; a person cannot follow more.
const LOOK_ROWS_MAX = 5_000
// Longer than looking back, so that nothing is handed out twice.
const KNOWN_FOR_MS = 2 * LOOK_BACK_MS
