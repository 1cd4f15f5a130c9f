import { malformed, type WireFailure } from './wire.ts'

/** `event` is '' where the event has no name. */
export type SseEvent = { kind: 'event'; event: string; data: string }

/**
 * Server-sent events out of bytes that come cut anywhere. A line break is one byte in UTF-8 and part of no other character,
 * so bytes are kept until a line is whole and never decoded in halves. Events without data, comments, ids and retry times
 * are left out. A line, or an event of many lines, that outgrows the bound is a failure, and the last thing that is read.
 */
export class SseReader {
  readonly #boundBytes: number
  /** Of a line that has not ended. */
  #held: Uint8Array[] = []
  #heldBytes = 0
  /** The last byte was a carriage return: a line feed that follows belongs to it. */
  #afterReturn = false
  #started = false
  #failed = false
  #event = ''
  #data: string | undefined

  constructor(boundBytes: number = LINE_BYTES_MAX) {
    this.#boundBytes = boundBytes
  }

  push(bytes: Uint8Array): (SseEvent | WireFailure)[] {
    if (this.#failed || bytes.length === 0) return []
    const end = Math.max(bytes.lastIndexOf(LF), bytes.lastIndexOf(CR)) + 1
    if (this.#heldBytes + (end === 0 ? bytes.length : firstBreak(bytes)) > this.#boundBytes) return [this.#tooLong()]
    const found: (SseEvent | WireFailure)[] = []
    if (end > 0) this.#lines(this.#text(bytes, end), found)
    if (end < bytes.length && !this.#failed) {
      // The owner of the bytes may write over them before the line is whole.
      this.#held.push(new Uint8Array(bytes.subarray(end)))
      this.#heldBytes += bytes.length - end
    }
    return found
  }

  /** All that is held, and of the new bytes those up to the last line break. */
  #text(bytes: Uint8Array, end: number): string {
    if (this.#held.length === 0) return decoded(bytes, end)
    const all = Buffer.concat([...this.#held, bytes.subarray(0, end)])
    this.#held = []
    this.#heldBytes = 0
    return decoded(all, all.length)
  }

  #lines(text: string, found: (SseEvent | WireFailure)[]): void {
    let from = this.#started && !(this.#afterReturn && text.charCodeAt(0) === LF) ? 0 : this.#first(text)
    const mayReturn = text.includes('\r', from)
    while (from < text.length && !this.#failed) {
      let cut = text.indexOf('\n', from)
      let next = cut + 1
      if (mayReturn) {
        const back = text.indexOf('\r', from)
        if (back >= 0 && (cut < 0 || back < cut)) {
          cut = back
          next = text.charCodeAt(back + 1) === LF ? back + 2 : back + 1
        }
      }
      this.#line(text, from, cut, found)
      from = next
    }
    this.#afterReturn = text.endsWith('\r')
  }

  #first(text: string): number {
    if (this.#started) return 1
    this.#started = true
    return text.charCodeAt(0) === BYTE_ORDER_MARK ? 1 : 0
  }

  #line(text: string, from: number, to: number, found: (SseEvent | WireFailure)[]): void {
    if (from === to) {
      if (this.#data !== undefined) found.push({ kind: 'event', event: this.#event, data: this.#data })
      this.#data = undefined
      this.#event = ''
      return
    }
    const data = valueOf(text, 'data', from, to)
    if (data !== undefined) {
      this.#data = this.#data === undefined ? data : `${this.#data}\n${data}`
      if (this.#data.length > this.#boundBytes) found.push(this.#tooLong())
      return
    }
    this.#event = valueOf(text, 'event', from, to) ?? this.#event
  }

  #tooLong(): WireFailure {
    this.#failed = true
    this.#held = []
    this.#data = undefined
    return malformed(`an event of its stream is longer than ${this.#boundBytes} bytes`)
  }
}

const LINE_BYTES_MAX = 8 * 1024 * 1024
const LF = 10
const CR = 13
const BYTE_ORDER_MARK = 0xfeff

function firstBreak(bytes: Uint8Array): number {
  const feed = bytes.indexOf(LF)
  const back = bytes.indexOf(CR)
  return feed < 0 ? back : back < 0 ? feed : Math.min(feed, back)
}

function decoded(bytes: Uint8Array, end: number): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('utf8', 0, end)
}

/** Undefined when the line is of another field. One space after the colon belongs to the format. */
function valueOf(text: string, field: string, from: number, to: number): string | undefined {
  if (!text.startsWith(field, from)) return undefined
  const colon = from + field.length
  if (colon === to) return ''
  if (text.charCodeAt(colon) !== 58) return undefined
  return text.slice(text.charCodeAt(colon + 1) === 32 ? colon + 2 : colon + 1, to)
}
