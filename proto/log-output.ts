import { write, writeSync } from 'node:fs'

/**
 * Standard output, for logs: nobody waits for it. What a slow reader or a full disk does not take is kept for a while, up to a
 * bound, and then dropped; whoever could be told of it reads this log.
 */
export class LogOutput {
  #lines: string[] = []
  #chars = 0
  /** On its way, or waiting to be tried again. */
  #writing: Buffer | undefined
  #onDrained: (() => void)[] = []

  constructor() {
    // Of a process that ends in the middle of its work the last lines are the ones that matter.
    process.on('exit', () => {
      const rest = this.#lines.join('')
      try {
        if (rest !== '') writeSync(STDOUT, rest)
      } catch {
        // Nobody reads it.
      }
    })
  }

  write(line: string): void {
    if (this.#lines.length > 0 && this.#chars + line.length > KEPT_CHARS_MAX) return
    this.#lines.push(line)
    this.#chars += line.length
    if (this.#writing === undefined) this.#next()
  }

  /** Resolves when all was taken, or after a moment. */
  async drained(): Promise<void> {
    if (this.#writing === undefined) return
    await new Promise<void>((resolve) => {
      const late = setTimeout(resolve, DRAINED_WITHIN_MS)
      this.#onDrained.push(() => {
        clearTimeout(late)
        resolve()
      })
    })
  }

  #next(): void {
    if (this.#lines.length === 0) {
      this.#writing = undefined
      for (const resolve of this.#onDrained.splice(0)) resolve()
      return
    }
    const bytes = Buffer.from(this.#lines.join(''))
    this.#lines = []
    this.#chars = 0
    this.#write(bytes)
  }

  #write(bytes: Buffer): void {
    this.#writing = bytes
    write(STDOUT, bytes, (error, written) => {
      if (error !== null && MAY_PASS.has(error.code ?? '')) setTimeout(() => this.#write(bytes), RETRY_MS).unref()
      else if (error === null && written < bytes.length) this.#write(bytes.subarray(written))
      else this.#next()
    })
  }
}

const STDOUT = 1
const KEPT_CHARS_MAX = 1_000_000
const RETRY_MS = 100
const DRAINED_WITHIN_MS = 1_000
/** A reader that is slow, and a disk that is full. */
const MAY_PASS = new Set(['EAGAIN', 'ENOSPC', 'EDQUOT'])
