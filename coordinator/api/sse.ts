import type { ServerResponse } from 'node:http'
import { isFinal, type JobStatus, type Waiting } from '../core/job.ts'
import type { Prefill } from '../engine/live-job.ts'

/**
 * One caller's connection for server-sent events. While its socket is full nothing is written, and `onRoom` tells when there
 * is room again: what gathered meanwhile goes as one piece, so a slow reader costs no buffer of its own. One that does not
 * read at all is cut off.
 */
export class SseSink {
  readonly #response: ServerResponse
  readonly #onRoom: () => void
  readonly #unreadMsMax: number
  blocked = false

  constructor(response: ServerResponse, listeners: { onRoom: () => void; onClosed: () => void }, unreadMsMax = UNREAD_MS_MAX) {
    this.#response = response
    this.#onRoom = listeners.onRoom
    this.#unreadMsMax = unreadMsMax
    response.on('drain', () => this.#unblock())
    response.on('timeout', () => this.cut())
    response.on('close', listeners.onClosed)
    // Whoever left before this was made does not leave again.
    if (response.destroyed) process.nextTick(listeners.onClosed)
    // A full socket keeps a connection open that has been ended: what is written behind the end is an error, and of nobody's.
    response.on('error', () => {})
  }

  /** The head leaves with the first write, or by `flush`. */
  open(headers: Record<string, string>): void {
    this.#response.writeHead(200, {
      ...headers,
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-cache',
      'x-accel-buffering': 'no',
    })
  }

  flush(): void {
    this.#response.flushHeaders()
  }

  write(text: string): void {
    if (this.#response.write(text) || this.blocked) return
    this.blocked = true
    // Node begins the time anew with every byte that leaves its queue: who reads slowly reads.
    this.#response.setTimeout(this.#unreadMsMax)
  }

  end(text: string): void {
    this.#response.end(text)
  }

  cut(): void {
    this.#response.destroy()
  }

  /** A caller this far behind has gone without saying so. */
  cutIfFarBehind(unreadChars: number): void {
    if (unreadChars > UNREAD_CHARS_MAX) this.cut()
  }

  #unblock(): void {
    if (!this.blocked) return
    this.blocked = false
    this.#response.setTimeout(0)
    this.#onRoom()
  }
}

const UNREAD_CHARS_MAX = 1_000_000
const UNREAD_MS_MAX = 60_000

/** For an answer that is large: one that nobody takes a byte of for so long is not kept in memory for ever. */
export function cutWhenUnread(response: ServerResponse, unreadMsMax = UNREAD_MS_MAX): void {
  response.setTimeout(unreadMsMax, () => response.destroy())
  // Node leaves it to whatever request was sent behind this one already, whose answer may be long in coming.
  response.prependOnceListener('finish', () => response.socket?.setTimeout(0))
}

/** Nothing more will happen to the job by itself. */
export function isSettled(status: JobStatus): boolean {
  return isFinal(status) || status === 'parked'
}

export function waitingComment(waiting: Waiting): string {
  const until = waiting.untilMs === null ? '' : ` until=${new Date(waiting.untilMs).toISOString()}`
  // JSON has no line breaks, which would end the comment.
  const detail = waiting.detail === null ? '' : ` detail=${JSON.stringify(waiting.detail.slice(0, DETAIL_MAX))}`
  return `: waiting reason=${waiting.reason} position=${waiting.position} estimate_ms=${waiting.estimateMs ?? 'unknown'}${until}${detail}\n\n`
}

const DETAIL_MAX = 200

export function prefillComment({ processed, total }: Prefill): string {
  return `: prefill processed=${processed} total=${total}\n\n`
}
