import { expect, test } from 'vitest'
import { page, readEnough } from '../coordinator/api/paging.ts'

/** Ids from 9 down to 0, of which memory knows better about most. */
const stored = Array.from({ length: 10 }, (_, index) => ({ id: String(9 - index) }))
const read = (before: string | null, count: number): Promise<{ id: string }[]> =>
  Promise.resolve(stored.filter(({ id }) => before === null || id < before).slice(0, count))
const fits = ({ id }: { id: string }): boolean => id === '9' || Number(id) < 3

test('a page is full, or the last one, however many rows between do not fit', async () => {
  const first = page(await readEnough(null, 3, { read, fits }), 2, ({ id }) => id)
  expect(first).toMatchObject({ data: ['9', '2'], next: '2' })
  const second = page(await readEnough(first.next, 3, { read, fits }), 2, ({ id }) => id)
  expect(second).toMatchObject({ data: ['1', '0'], next: null })
})
