import { setTimeout } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { DatabaseClock } from '../coordinator/store/clock.ts'

const HOUR_MS = 3_600_000

test('what PostgreSQL says first is the time, also where the host is ahead', async () => {
  const db = { down: false, maybeOne: () => Promise.resolve({ ms: Date.now() - HOUR_MS }) }
  const clock = await DatabaseClock.start(db, (text) => expect.fail(text))
  expect(Math.abs(clock.now() - Date.now() + HOUR_MS)).toBeLessThan(50)
  clock.stop()
})

test('the clock follows the one of PostgreSQL, and goes slower instead of back', async () => {
  let aheadMs = HOUR_MS
  const db = { down: false, maybeOne: () => Promise.resolve({ ms: Date.now() + aheadMs }) }
  const clock = await DatabaseClock.start(db, (text) => expect.fail(text))
  try {
    expect(Math.abs(clock.now() - Date.now() - HOUR_MS)).toBeLessThan(50)
    const beforeMs = clock.now()
    aheadMs = 0
    await clock.adjust()
    const [fromMs, steadyMs] = [clock.now(), performance.now()]
    expect(fromMs).toBeGreaterThanOrEqual(beforeMs)
    await setTimeout(300)
    const share = (clock.now() - fromMs) / (performance.now() - steadyMs)
    expect(share).toBeGreaterThan(0.8)
    expect(share).toBeLessThan(0.98)
    // What is small enough to be given back at once is given back, and no more than that.
    aheadMs = HOUR_MS - 100
    await clock.adjust()
    await setTimeout(1_500)
    expect(Math.abs(clock.now() - Date.now() - aheadMs)).toBeLessThan(50)
    aheadMs = 2 * HOUR_MS
    await clock.adjust()
    expect(Math.abs(clock.now() - Date.now() - 2 * HOUR_MS)).toBeLessThan(50)
  } finally {
    clock.stop()
  }
})
