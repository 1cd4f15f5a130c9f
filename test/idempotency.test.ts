import { expect, test } from 'vitest'
import { chatStream } from './support/stream.ts'
import { type JobView, World } from './support/world.ts'

const chat = (content: string, extra: Record<string, unknown> = {}) => ({
  model: 'fake',
  messages: [{ role: 'user', content }],
  max_tokens: 10,
  ...extra,
})

test('one key is one job: at once, later, after a restart, and never with another body', async () => {
  await using world = await World.open()
  const coordinator = await world.coordinator()
  await world.worker('a', 'fake=fake:?slots=4&rate=100')
  const post = async (content: string, key: string): Promise<{ status: number; job: JobView & { error: { code: string } | null } }> => {
    const response = await world.request('POST', '/api/jobs', chat(content), { 'idempotency-key': key })
    return { status: response.status, job: (await response.json()) as JobView & { error: { code: string } | null } }
  }
  const twins = await Promise.all(Array.from({ length: 12 }, () => post('once', 'k-1')))
  expect(new Set(twins.map(({ status, job }) => `${status} ${job.id}`)).size).toBe(1)
  expect(await post('another', 'k-1')).toMatchObject({ status: 422, job: { error: { code: 'idempotency_key_reused' } } })
  await world.get(`/api/jobs/${twins[0]?.job.id}?wait_s=30`)
  coordinator.kill()
  await world.coordinator()
  expect((await post('once', 'k-1')).job.id).toBe(twins[0]?.job.id)
  expect((await post('once', 'k-2')).job.id).not.toBe(twins[0]?.job.id)
  expect(((await world.get('/api/jobs')) as { data: unknown[] }).data).toHaveLength(2)
})

test('a completion repeated with its key gets the same answer, streamed or not', async () => {
  await using world = await World.open()
  await world.coordinator()
  await world.worker('a', 'fake=fake:?slots=4&rate=100')
  const headers = { 'idempotency-key': 'chat' }
  const first = await world.request('POST', '/v1/chat/completions', chat('x'), headers)
  const again = await world.request('POST', '/v1/chat/completions', chat('x'), headers)
  expect(again.headers.get('x-holdfast-job')).toBe(first.headers.get('x-holdfast-job'))
  expect(await again.json()).toEqual(await first.json())
  const streams = await Promise.all(
    Array.from({ length: 3 }, () => chatStream(world, 'fake', 's', { max_tokens: 40 }, { 'idempotency-key': 's' }).done),
  )
  expect(new Set(streams.map((stream) => stream.text)).size).toBe(1)
  expect(new Set(streams.map((stream) => stream.job)).size).toBe(1)
  const late = await chatStream(world, 'fake', 's', { max_tokens: 40 }, { 'idempotency-key': 's' }).done
  expect(late).toMatchObject({ text: streams[0]?.text, finish: 'length', done: true })
})

test('of two callers of one job the one that leaves takes nothing from the other', async () => {
  await using world = await World.open()
  await world.coordinator()
  await world.worker('a', 'fake=fake:?slots=4&rate=50')
  const [one, two] = [0, 1].map(() => chatStream(world, 'fake', 'both', { max_tokens: 60 }, { 'idempotency-key': 'b' }))
  await world.until('both read', () => (one?.seen.deltas ?? 0) > 3 && (two?.seen.deltas ?? 0) > 3)
  one?.abort()
  expect(await two?.done).toMatchObject({ finish: 'length', usage: { completion_tokens: 60 } })
})
