import assert from 'node:assert/strict'

/**
 * Arrays in PostgreSQL's binary form, which it takes in several times faster than text: parsing numbers, times and quotes
 * out of array literals was most of what a row of the ledger cost.
 */
export type ElementType = 'uuid' | 'text' | 'json' | 'bytea' | 'integer' | 'bigint' | 'boolean' | 'timestamptz'

/** A uuid is its text form, a timestamptz milliseconds since 1970, everything else what it looks like. */
export type Element = string | number | boolean | Buffer | null

/** A one-dimensional array of a column's values; the driver sends a Buffer as a parameter in binary form. */
export function binaryArray<T>(type: ElementType, rows: readonly T[], value: (row: T) => Element): Buffer {
  const put = WRITERS[type]
  at = HEADER_BYTES
  let nulls = 0
  for (const row of rows) {
    const element = value(row)
    if (element === null) {
      reserve(4)
      at = scratch.writeInt32BE(-1, at)
      nulls = 1
    } else put(element)
  }
  scratch.writeInt32BE(1, 0)
  scratch.writeInt32BE(nulls, 4)
  scratch.writeInt32BE(OIDS[type], 8)
  scratch.writeInt32BE(rows.length, 12)
  scratch.writeInt32BE(1, 16)
  return takeOut(0)
}

/** One value in the same form, where one row is all there is; null stays null. */
export function binaryValue(type: ElementType, element: Element): Buffer | null {
  if (element === null) return null
  at = 0
  WRITERS[type](element)
  // Every writer puts the length in front, which the driver does too.
  return takeOut(4)
}

const HEADER_BYTES = 20
const OIDS: Record<ElementType, number> = {
  uuid: 2950,
  text: 25,
  json: 114,
  bytea: 17,
  integer: 23,
  bigint: 20,
  boolean: 16,
  timestamptz: 1184,
}

// Written to by one array after the other and copied out: building is synchronous, so one is enough.
let scratch = Buffer.allocUnsafe(1 << 16)
let at = 0

/** What was written from there on. What one huge prompt needed is not kept for ever. */
function takeOut(from: number): Buffer {
  const taken = Buffer.from(scratch.subarray(from, at))
  if (scratch.length > SCRATCH_KEPT_BYTES) scratch = Buffer.allocUnsafe(1 << 16)
  return taken
}

const SCRATCH_KEPT_BYTES = 4 << 20

function reserve(bytes: number): void {
  if (at + bytes <= scratch.length) return
  const larger = Buffer.allocUnsafe(Math.max(scratch.length * 2, at + bytes))
  scratch.copy(larger, 0, 0, at)
  scratch = larger
}

function putText(element: Element): void {
  const text = element as string
  // A UTF-16 unit is at most three bytes of UTF-8.
  reserve(4 + text.length * 3)
  const bytes = scratch.write(text, at + 4, 'utf8')
  scratch.writeInt32BE(bytes, at)
  at += 4 + bytes
}

function putInt64(number: number): void {
  reserve(12)
  at = scratch.writeInt32BE(8, at)
  const high = Math.floor(number / 2 ** 32)
  at = scratch.writeInt32BE(high, at)
  at = scratch.writeUInt32BE(number - high * 2 ** 32, at)
}

const WRITERS: Record<ElementType, (element: Element) => void> = {
  text: putText,
  json: putText,
  uuid: (element) => {
    const text = element as string
    assert(text.length === 36, 'a uuid in its text form')
    reserve(20)
    at = scratch.writeInt32BE(16, at)
    for (let index = 0; index < 36; index += 2) {
      if (index === 8 || index === 13 || index === 18 || index === 23) index += 1
      scratch[at++] = ((DIGITS[text.charCodeAt(index)] ?? 0) << 4) | (DIGITS[text.charCodeAt(index + 1)] ?? 0)
    }
  },
  bytea: (element) => {
    const bytes = element as Buffer
    reserve(4 + bytes.length)
    at = scratch.writeInt32BE(bytes.length, at)
    at += bytes.copy(scratch, at)
  },
  integer: (element) => {
    reserve(8)
    at = scratch.writeInt32BE(4, at)
    at = scratch.writeInt32BE(element as number, at)
  },
  bigint: (element) => putInt64(element as number),
  // Microseconds since 2000.
  timestamptz: (element) => putInt64(Math.round(((element as number) - MS_OF_2000) * 1000)),
  boolean: (element) => {
    reserve(5)
    at = scratch.writeInt32BE(1, at)
    at = scratch.writeUInt8(element === true ? 1 : 0, at)
  },
}

const MS_OF_2000 = Date.UTC(2000, 0, 1)
const DIGITS = new Uint8Array(128)
for (const [value, digit] of '0123456789abcdef'.split('').entries()) DIGITS[digit.charCodeAt(0)] = value
for (const [value, digit] of 'ABCDEF'.split('').entries()) DIGITS[digit.charCodeAt(0)] = 10 + value
