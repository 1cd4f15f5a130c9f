import fc from 'fast-check'
import { expect, test } from 'vitest'
import { Ordered } from '../coordinator/core/ordered.ts'

test('whatever is added and removed in whatever order, it stays sorted and knows every rank', () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.boolean(), fc.integer({ min: 0, max: 400 })), { maxLength: 4_000 }), (steps) => {
      const ordered = new Ordered<{ order: number }>()
      const model = new Map<number, { order: number }>()
      for (const [add, order] of steps) {
        const known = model.get(order)
        if (add && known === undefined) {
          const item = { order }
          ordered.add(item)
          model.set(order, item)
        } else if (!add) {
          expect(ordered.remove(known ?? { order })).toBe(known !== undefined)
          model.delete(order)
        }
      }
      const sorted = [...model.keys()].sort((a, b) => a - b)
      expect([...ordered].map((item) => item.order)).toEqual(sorted)
      expect(ordered.size).toBe(sorted.length)
      expect(ordered.first()?.order).toBe(sorted[0])
      for (const order of [0, 7, 200, 401]) expect(ordered.countBefore(order)).toBe(sorted.filter((other) => other < order).length)
    }),
    { numRuns: 60 },
  )
})

test('blocks split and vanish: ten thousand in random order come out in order', () => {
  const ordered = new Ordered<{ order: number }>()
  const orders = Array.from({ length: 10_000 }, (_, index) => (index * 7_919) % 10_007)
  for (const order of orders) ordered.add({ order })
  const drained: number[] = []
  for (let first = ordered.first(); first !== undefined; first = ordered.first()) {
    drained.push(first.order)
    ordered.remove(first)
  }
  expect(drained).toEqual([...orders].sort((a, b) => a - b))
})
