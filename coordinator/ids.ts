import { randomUUID } from 'node:crypto'

/**
 * A UUIDv7 that is larger than every one before it in this process, so that rows sort in the order things happened. Node's
 * own randomUUID draws from a pool and costs a tenth of what packages need; it gives the random half.
 */
export function newId(nowMs: number = Date.now()): string {
  if (nowMs > lastMs) {
    lastMs = nowMs
    count = 0
  } else if (++count > COUNT_MAX) {
    // More than 4,096 within a millisecond: borrow from the next one rather than repeat or go back.
    lastMs += 1
    count = 0
  }
  const time = Math.floor(lastMs).toString(16).padStart(12, '0')
  return `${time.slice(0, 8)}-${time.slice(8)}-7${count.toString(16).padStart(3, '0')}-${randomUUID().slice(19)}`
}

let lastMs = 0
let count = 0
const COUNT_MAX = 0xfff
