import { expect, test } from 'vitest'
import { chatStream } from './support/stream.ts'
import { World } from './support/world.ts'

test('beyond the queue limit every door says 429, when to come again, and keeps nothing; what was let in is done', async () => {
  await using world = await World.open()
  await world.coordinator({ HOLDFAST_QUEUE_LIMIT: '5' })
  await world.worker('a', 'fake=fake:?slots=1&rate=50')
  const ask = { model: 'fake', messages: [{ role: 'user', content: 'x' }], max_tokens: 20 }
  const rows = (count: number, name: string) => ({
    rows: Array.from({ length: count }, (_, index) => ({ row_key: `${name}${index}`, ...ask })),
  })
  const running = chatStream(world, 'fake', 'x', { max_tokens: 3_000 })
  await world.until('it runs', () => running.seen.deltas > 0)

  // Two batches at once, each of which would fit: their rows are counted before they are stored.
  const both = await Promise.all([world.request('POST', '/api/batches', rows(3, 'a')), world.request('POST', '/api/batches', rows(3, 'b'))])
  expect(new Set(both.map((response) => response.status))).toEqual(new Set([202, 429]))
  const waiting = await Promise.all([1, 2].map(() => world.request('POST', '/api/jobs', ask)))
  expect(waiting.map((response) => response.status)).toEqual([202, 202])

  const doors: [path: string, body: unknown, type: string][] = [
    ['/api/jobs', ask, 'code'],
    ['/api/batches', rows(1, 'c'), 'code'],
    ['/v1/chat/completions', { ...ask, stream: true }, 'rate_limit_error'],
    ['/v1/messages', ask, 'rate_limit_error'],
  ]
  for (const [path, body, type] of doors) {
    const refused = await world.request('POST', path, body)
    expect([path, refused.status, refused.headers.get('retry-after')]).toEqual([path, 429, '5'])
    expect(await refused.text()).toContain(type)
  }
  expect((await world.request('POST', `/api/jobs/${running.seen.job}/cancel`)).status).toBe(200)
  await running.done
  const jobs = ((await world.get('/api/jobs?limit=100')) as { data: { id: string; status: string }[] }).data
  expect(jobs).toHaveLength(6)
  await world.until('all of it is done', async () => {
    const { data } = (await world.get('/api/jobs?status=succeeded')) as { data: unknown[] }
    return data.length === 5
  })
  expect((await world.request('POST', '/v1/chat/completions', ask)).status).toBe(200)
  // It could never wait here, so there is no use in coming again.
  expect((await world.request('POST', '/api/batches', rows(6, 'd'))).status).toBe(400)
  expect((await world.request('POST', '/api/batches', rows(5, 'e'))).status).toBe(202)
})
