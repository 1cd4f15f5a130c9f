import { validate, version } from 'uuid'
import { expect, test } from 'vitest'
import { newId } from '../coordinator/ids.ts'

test('ids are UUIDv7, each larger than the one before, also those of one millisecond and of a clock set back', () => {
  const nowMs = Date.now() + 60_000
  const ids = [
    ...Array.from({ length: 10_000 }, () => newId(nowMs)),
    ...Array.from({ length: 10_000 }, () => newId(nowMs - 1_000)),
    newId(nowMs + 60_000),
  ]
  expect(ids.every((id) => validate(id) && version(id) === 7)).toBe(true)
  expect(ids.toSorted()).toEqual(ids)
  // What tells ids of two coordinators apart is not their time.
  expect(new Set(ids.map((id) => id.slice(19))).size).toBe(ids.length)
  expect(Number.parseInt((ids[0] ?? '').replace('-', '').slice(0, 12), 16)).toBe(nowMs)
  expect(Number.parseInt((ids.at(-1) ?? '').replace('-', '').slice(0, 12), 16)).toBe(nowMs + 60_000)
})
