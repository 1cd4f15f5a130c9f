/**
 * Finds a model's process that is alive and does nothing any more: frozen, or hung in native code. It is asked now and then;
 * whatever it says is a sign of life. One that does not stop what it was told to stop keeps its slots for nobody, and is as dead.
 */
export class Watchdog {
  readonly #parts: WatchdogParts
  readonly #timer: NodeJS.Timeout
  readonly #stopping = new Map<number, number>()
  #lookedMs: number
  #heardMs: number

  constructor(parts: WatchdogParts) {
    this.#parts = parts
    this.#lookedMs = this.#heardMs = parts.now()
    this.#timer = setInterval(() => this.look(), LOOK_EVERY_MS)
    this.#timer.unref()
  }

  heard(): void {
    this.#heardMs = this.#parts.now()
  }

  /** It was told to stop this, and has to say that it did. */
  stopping(id: number): void {
    if (!this.#stopping.has(id)) this.#stopping.set(id, this.#parts.now())
  }

  stopped(id: number): void {
    this.#stopping.delete(id)
  }

  close(): void {
    clearInterval(this.#timer)
  }

  look(): void {
    const nowMs = this.#parts.now()
    const pausedMs = nowMs - this.#lookedMs - LOOK_EVERY_MS
    this.#lookedMs = nowMs
    if (pausedMs > LOOK_EVERY_MS) {
      // It was this process that stood still: what came meanwhile has yet to be read.
      this.#heardMs = nowMs
      for (const id of this.#stopping.keys()) this.#stopping.set(id, nowMs)
    }
    const overdue = [...this.#stopping.values()].some((sinceMs) => nowMs - sinceMs >= STOP_WITHIN_MS)
    if (nowMs - this.#heardMs >= SILENT_AFTER_MS) this.#parts.onDead(`it said nothing for ${SILENT_AFTER_MS / 1000} s`)
    else if (overdue) this.#parts.onDead(`it did not stop an answer within ${STOP_WITHIN_MS / 1000} s`)
    else this.#parts.ask()
  }
}

export type WatchdogParts = { now(): number; ask(): void; onDead(why: string): void }

const LOOK_EVERY_MS = 5_000
// The dead time of a worker: a frozen process is found as fast as a frozen host.
const SILENT_AFTER_MS = 15_000
// A cancel is looked at between steps, which take about a second; a vector of a long text may take many.
const STOP_WITHIN_MS = 60_000
