import type { ServerResponse } from 'node:http'
import { validate as isUuid } from 'uuid'
import { badRequest, Fault } from '../core/fault.ts'
import type { EventFeed } from '../engine/event-feed.ts'
import type { Db } from '../store/db.ts'
import { type EventFollow, eventsAfter, type StoredEvent } from '../store/events.ts'
import { eventView } from './event-view.ts'
import { nativeError } from './server.ts'
import { SseSink } from './sse.ts'

/**
 * One reader of new events. It is in one of two states:
 *
 *   catching up: reads from PostgreSQL what came after the last event it has, while what is new gathers ──▶ live
 *   live ── its socket was full, or more came at once than is kept ──▶ catching up
 *
 * Nothing is queued for a reader that does not keep up: it catches up when there is room again, or is cut off.
 */
export class EventStream {
  readonly #parts: EventStreamParts
  readonly #follow: EventFollow
  readonly #sink: SseSink
  readonly #timer: NodeJS.Timeout
  #leave: () => void = () => {}
  #last: string | null = null
  #catchingUp = false
  /** New events while it catches up; null: more than are kept. */
  #meanwhile: StoredEvent[] | null = []
  /** What catching up has told, which may come again as new. */
  readonly #told = new Set<string>()
  #caughtUpMs = 0
  #over = false

  constructor(parts: EventStreamParts, follow: EventFollow, response: ServerResponse) {
    this.#parts = parts
    this.#follow = follow
    this.#sink = new SseSink(response, { onRoom: () => void this.#catchUp(), onClosed: () => this.#close() })
    this.#timer = setInterval(() => this.#beat(), HEARTBEAT_MS)
  }

  open(after: string | null, headers: Record<string, string>): void {
    this.#sink.open(headers)
    this.#sink.flush()
    this.#last = after
    this.#leave = this.#parts.feed.listen((events) => this.#hear(events))
    if (after !== null) void this.#catchUp()
  }

  #hear(events: readonly StoredEvent[]): void {
    if (!this.#mayGoOn()) return
    const wanted = events.filter((event) => this.#wants(event))
    if (wanted.length === 0) return
    if (this.#catchingUp) {
      const gathered = (this.#meanwhile?.length ?? 0) + wanted.length
      if (gathered > MEANWHILE_MAX) this.#meanwhile = null
      else this.#meanwhile?.push(...wanted)
    } else if (!this.#sink.blocked) this.#tell(wanted)
    // Where it starts when there is room again, should it not have heard of anything yet.
    else this.#last ??= beforeThis(wanted[0] as StoredEvent)
  }

  #wants({ severity, type, team }: StoredEvent): boolean {
    const follow = this.#follow
    if (follow.severity !== null && follow.severity !== severity) return false
    if (follow.type !== null && follow.type !== type) return false
    return follow.teams === null || (team !== null && follow.teams.includes(team))
  }

  async #catchUp(): Promise<void> {
    if (this.#over || this.#catchingUp || this.#last === null || !this.#mayGoOn()) return
    this.#catchingUp = true
    try {
      await this.#readPages()
    } catch (error) {
      this.#fail(error)
    }
    this.#catchingUp = false
    this.#caughtUpMs = performance.now()
  }

  async #readPages(): Promise<void> {
    let read = 0
    do {
      this.#meanwhile = []
      for (;;) {
        const page = await eventsAfter(this.#parts.db, this.#last as string, this.#follow, PAGE)
        if (this.#over) return
        read += page.length
        for (const { id } of page) this.#told.add(id)
        this.#forgetOldest()
        this.#tell(page)
        // There it comes back with its last id, like after any other break.
        if (read >= CATCH_UP_MAX) return this.#end('')
        if (this.#sink.blocked) return
        if (page.length < PAGE) break
      }
    } while (this.#meanwhile === null)
    this.#tell(this.#meanwhile.filter(({ id }) => !this.#told.has(id)))
  }

  /** Those come no more as new. */
  #forgetOldest(): void {
    for (const id of this.#told) {
      if (this.#told.size <= TOLD_MAX) return
      this.#told.delete(id)
    }
  }

  #tell(events: readonly StoredEvent[]): void {
    const fresh = this.#catchingUp ? events : events.filter(({ id }) => !this.#told.has(id))
    if (fresh.length === 0) return
    for (const { id } of fresh) if (this.#last === null || id > this.#last) this.#last = id
    this.#sink.write(fresh.map((event) => `id: ${event.id}\nevent: ${event.type}\ndata: ${JSON.stringify(eventView(event))}\n\n`).join(''))
  }

  /** Ends it when its key is not in force any more, or its caller may see other teams than when it came. */
  #mayGoOn(): boolean {
    const now = this.#parts.teamsNow()
    if (now !== undefined && isSame(now, this.#follow.teams)) return true
    const fault =
      now === undefined
        ? new Fault('invalid_key', 'The key was revoked or has expired.', { status: 401 })
        : new Fault('scope_changed', 'The teams that this key may see have changed: come back with Last-Event-ID.', {
            status: 403,
            retryable: true,
          })
    this.#end(`event: error\ndata: ${JSON.stringify(nativeError(fault))}\n\n`)
    return false
  }

  /** Keeps the connection from looking dead. */
  #beat(): void {
    if (!this.#mayGoOn()) return
    if (!this.#sink.blocked) this.#sink.write(': alive\n\n')
    if (!this.#catchingUp && performance.now() - this.#caughtUpMs > HEARTBEAT_MS) this.#told.clear()
  }

  #fail(error: unknown): void {
    if (this.#over) return
    if (!(error instanceof Fault)) this.#parts.log.error(`Reading events for a stream: ${String(error)}`)
    const fault =
      error instanceof Fault ? error : new Fault('internal_error', 'The events could not be read; come back with Last-Event-ID.')
    this.#end(`event: error\ndata: ${JSON.stringify(nativeError(fault))}\n\n`)
  }

  /** The connection may stay open for a while behind that: nothing more is said on it. */
  #end(text: string): void {
    this.#close()
    this.#sink.end(text)
  }

  #close(): void {
    this.#over = true
    clearInterval(this.#timer)
    this.#leave()
  }
}

export type EventStreamParts = {
  db: Db
  feed: EventFeed
  /** The teams that the caller may see by now, null for all; undefined: its key is not in force any more. */
  teamsNow(): readonly string[] | null | undefined
  log: { error(text: string): void }
}

const HEARTBEAT_MS = 15_000
const PAGE = 500
/** Read from PostgreSQL for one connection before it is ended and comes back. */
const CATCH_UP_MAX = 10_000
const MEANWHILE_MAX = 1_000
const TOLD_MAX = 20_000

function isSame(one: readonly string[] | null, other: readonly string[] | null): boolean {
  return one === null || other === null ? one === other : one.length === other.length && one.every((team) => other.includes(team))
}

/** An id that sorts before this event and after nearly all that came before it. */
function beforeThis({ id }: StoredEvent): string {
  return `${id.slice(0, 13)}-0000-0000-000000000000`
}

export function readLastEventId(header: string | string[] | undefined): string | null {
  if (header === undefined || header === '') return null
  if (typeof header !== 'string' || !isUuid(header))
    throw badRequest('invalid_last_event_id', 'Last-Event-ID must be the id of an event.', 'last-event-id')
  return header.toLowerCase()
}
