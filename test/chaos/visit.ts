import { randomUUID } from 'node:crypto'
import type { Caller } from './plan.ts'

/** What one caller lived through, as it saw it. The judge compares it with what the coordinator has stored. */
export class Visit {
  readonly caller: Caller
  readonly beganMs = performance.now()
  /** Names the accepted request at the coordinator, even if its answer never said which job it became. */
  trace = ''
  /** Requests whose connection broke before any head: whether they were accepted, only the list of jobs can tell. */
  readonly unanswered: string[] = []
  /** Every request of this caller carried the same idempotency key. */
  hasKey = false
  /** Answers "not now": 503 or 429. The caller asked again. */
  refusals = 0
  job = ''
  text = ''
  /** Times this caller was told that its text exists no more, and read another from the beginning. */
  diverged = 0
  told: 'nothing' | 'success' | 'error' = 'nothing'
  error = ''
  finish: string | null = null
  completionTokens: number | null = null
  pieces = 0
  firstTokenMs: number | null = null
  totalMs: number | null = null
  longestSilenceMs = 0
  /** Wall clock of every connection that ended before the answer did. */
  readonly brokenAtMs: number[] = []
  leftAtMs: number | null = null
  hung = false
  /** What no text can show: a position that came twice, a job that is not there. */
  readonly complaints: string[] = []
  #lastPieceMs = 0

  constructor(caller: Caller) {
    this.caller = caller
  }

  /** A new name for one more request. */
  newTrace(): string {
    return randomUUID().replaceAll('-', '')
  }

  hear(text: string): void {
    const nowMs = performance.now()
    if (this.firstTokenMs === null) this.firstTokenMs = nowMs - this.beganMs
    else this.longestSilenceMs = Math.max(this.longestSilenceMs, nowMs - this.#lastPieceMs)
    this.#lastPieceMs = nowMs
    this.pieces += 1
    this.text += text
  }

  end(told: 'success' | 'error', error = ''): void {
    this.told = told
    this.error = error
    this.totalMs = performance.now() - this.beganMs
  }

  broke(): void {
    this.brokenAtMs.push(Date.now())
  }
}
