import { constants, fstatSync, openSync, write, writeSync } from 'node:fs'

/**
 * Standard output, for logs: nobody waits for it. What a slow reader or a full disk does not take is kept for a while, up to a
 * bound, and then dropped; whoever could be told of it reads this log.
 */
export class LogOutput {
  #lines: string[] = []
  #chars = 0
  /** On its way, or waiting to be tried again. */
  #writing: Buffer | undefined
  #retrying = false
  #onDrained: (() => void)[] = []
  readonly #file = standardOutput()

  constructor() {
    // Of a process that ends in the middle of its work the last lines are the ones that matter.
    process.on('exit', () => {
      const waiting = this.#retrying ? [this.#writing ?? Buffer.alloc(0)] : []
      let rest: Buffer = Buffer.concat([...waiting, Buffer.from(this.#lines.join(''))])
      const endMs = Date.now() + DRAINED_WITHIN_MS
      while (rest.length > 0) rest = rest.subarray(writtenOf(this.#file, rest, endMs))
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
    this.#retrying = false
    write(this.#file, bytes, (error, written) => {
      if (error !== null && MAY_PASS.has(error.code ?? '')) {
        this.#retrying = true
        setTimeout(() => this.#write(bytes), RETRY_MS).unref()
      } else if (error === null && written < bytes.length) this.#write(bytes.subarray(written))
      else this.#next()
    })
  }
}

/** How much was taken; all of it where nobody will take the rest, or not in time. */
function writtenOf(file: number, bytes: Buffer, endMs: number): number {
  try {
    return writeSync(file, bytes)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EAGAIN' || Date.now() > endMs) return bytes.length
    // A slow reader: nothing else is left to be done here.
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, RETRY_MS / 5)
    return 0
  }
}

/** A process cannot end while it waits for a reader, so that of pipes and terminals it gets a way of its own that does not wait. */
function standardOutput(): number {
  try {
    const { isFIFO, isCharacterDevice } = kindsOf(STDOUT)
    if (isFIFO || isCharacterDevice)
      return openSync(`/proc/self/fd/${STDOUT}`, constants.O_WRONLY | constants.O_NONBLOCK | constants.O_NOCTTY)
  } catch {
    // Not Linux, or not ours to open.
  }
  return STDOUT
}

function kindsOf(file: number): { isFIFO: boolean; isCharacterDevice: boolean } {
  const stat = fstatSync(file)
  return { isFIFO: stat.isFIFO(), isCharacterDevice: stat.isCharacterDevice() }
}

const STDOUT = 1
const KEPT_CHARS_MAX = 1_000_000
const RETRY_MS = 100
const DRAINED_WITHIN_MS = 1_000
/** A reader that is slow, and a disk that is full. */
const MAY_PASS = new Set(['EAGAIN', 'ENOSPC', 'EDQUOT'])
