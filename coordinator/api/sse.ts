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
  #blockedTimer: NodeJS.Timeout | undefined
  blocked = false

  constructor(response: ServerResponse, listeners: { onRoom: () => void; onClosed: () => void }) {
    this.#response = response
    this.#onRoom = listeners.onRoom
    response.on('drain', () => this.#unblock())
    response.on('close', () => {
      clearTimeout(this.#blockedTimer)
      listeners.onClosed()
    })
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
    this.#blockedTimer = setTimeout(() => this.cut(), BLOCKED_MS_MAX)
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
    clearTimeout(this.#blockedTimer)
    if (!this.blocked) return
    this.blocked = false
    this.#onRoom()
  }
}

const UNREAD_CHARS_MAX = 1_000_000
const BLOCKED_MS_MAX = 60_000

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
