import { randomUUID } from 'node:crypto'

/**
 * A UUIDv7 that is larger than every one before it in this process, so that rows sort in the order things happened. Node's
 * own randomUUID draws from a pool and costs a tenth of what packages need; it gives the random half.
 */
export function newId(nowMs: number = Date.now()): string {
  if (nowMs > lastMs) begin(nowMs)
  // More than 4,096 within a millisecond: borrow from the next one rather than repeat or go back.
  else if (++count > COUNT_MAX) begin(lastMs + 1)
  return `${head}${count.toString(16).padStart(3, '0')}-${randomUUID().slice(19)}`
}

function begin(ms: number): void {
  lastMs = ms
  count = 0
  const time = Math.floor(ms).toString(16).padStart(12, '0')
  head = `${time.slice(0, 8)}-${time.slice(8)}-7`
}

let lastMs = 0
let count = 0
let head = ''
const COUNT_MAX = 0xfff
