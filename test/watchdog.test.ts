import { afterEach, expect, test } from 'vitest'
import { Watchdog } from '../worker/engines/llama/watchdog.ts'

/** When a model's process counts as dead though it lives, under a hand-driven clock. */

let opened: Watchdog | undefined
afterEach(() => opened?.close())

function watched() {
  const seen = { nowMs: 0, asked: 0, dead: [] as string[] }
  const dog = new Watchdog({ now: () => seen.nowMs, ask: () => (seen.asked += 1), onDead: (why) => seen.dead.push(why) })
  opened = dog
  const pass = (times: number, each: () => void = () => {}): void => {
    for (let time = 0; time < times; time++) {
      seen.nowMs += 5_000
      each()
      dog.look()
    }
  }
  return { seen, dog, pass }
}

test('a process that answers lives, however long; one that says nothing is dead after 15 s', () => {
  const { seen, dog, pass } = watched()
  pass(100, () => dog.heard())
  expect([seen.asked, seen.dead]).toEqual([100, []])
  pass(2)
  expect(seen.dead).toEqual([])
  pass(1)
  expect(seen.dead).toEqual(['it said nothing for 15 s'])
})

test('a worker that stood still itself does not blame the process for it', () => {
  const { seen, dog, pass } = watched()
  dog.stopping(1)
  seen.nowMs += 600_000
  dog.look()
  pass(2)
  expect(seen.dead).toEqual([])
})

test('one that talks on and does not stop what it was told to stop is dead after a minute', () => {
  const { seen, dog, pass } = watched()
  dog.stopping(1)
  dog.stopping(2)
  dog.stopped(2)
  pass(11, () => dog.heard())
  expect(seen.dead).toEqual([])
  pass(1, () => dog.heard())
  expect(seen.dead).toEqual(['it did not stop an answer within 60 s'])
})
