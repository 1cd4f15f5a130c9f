import { afterAll, beforeAll, expect, test } from 'vitest'
import { chatStream } from './support/stream.ts'
import { World } from './support/world.ts'

let world: World

beforeAll(async () => {
  world = await World.open()
  await world.coordinator()
  await world.worker('a', 'one=fake:?slots=1&rate=20 slow=fake:?slots=1&first_token_ms=600000 tiny=builtin:tiny?slots=1&context=4096')
})
afterAll(() => world.close())

test('in mid-stream: the slot is free and the job cancelled', async () => {
  const stream = chatStream(world, 'one', 'leave', { max_tokens: 5_000 })
  await world.until('it streams', () => stream.seen.deltas > 3)
  stream.abort()
  await free('one')
  expect(await world.job(stream.seen.job)).toMatchObject({ status: 'cancelled', finish_reason: 'cancelled' })
})

test('before the first token: the slot is free', async () => {
  const stream = chatStream(world, 'slow', 'leave')
  await world.until('it runs', async () => stream.seen.job !== '' && (await world.job(stream.seen.job)).status === 'running')
  stream.abort()
  await free('slow')
  expect((await world.job(stream.seen.job)).status).toBe('cancelled')
})

test('in the prefill of a real engine: the slot is free', async () => {
  const stream = chatStream(world, 'tiny', 'the worker sends a heartbeat to the queue. '.repeat(80), { max_tokens: 2_000 })
  await world.until('it is accepted', () => stream.seen.job !== '')
  stream.abort()
  await free('tiny')
  expect(await world.job(stream.seen.job)).toMatchObject({ status: 'cancelled' })
})

test('while queued: the job leaves the line', async () => {
  const busy = chatStream(world, 'one', 'stay', { max_tokens: 40 })
  await world.until('it streams', () => busy.seen.deltas > 0)
  const queued = chatStream(world, 'one', 'leave while queued')
  await world.until('it waits', () =>
    queued.seen.comments.some((comment) => comment.startsWith('waiting reason=all_slots_busy position=1')),
  )
  queued.abort()
  await world.until('cancelled', async () => (await world.job(queued.seen.job)).status === 'cancelled')
  expect((await busy.done).usage?.completion_tokens).toBe(40)
})

test('without a stream: a caller that hangs up cancels too', async () => {
  const controller = new AbortController()
  const before = await newestJob()
  const request = world.request(
    'POST',
    '/v1/chat/completions',
    { model: 'one', messages: [{ role: 'user', content: 'x' }], max_tokens: 5_000 },
    {},
    controller.signal,
  )
  request.catch(() => {})
  const id = await world.until('its job', async () => {
    const newest = await newestJob()
    return newest !== before && newest
  })
  controller.abort()
  await free('one')
  expect((await world.job(id)).status).toBe('cancelled')
})

test('a detached job goes on without its caller', async () => {
  const stream = chatStream(world, 'one', 'detached', { max_tokens: 30 }, { 'x-holdfast-detach': 'true' })
  await world.until('it streams', () => stream.seen.deltas > 3)
  stream.abort()
  const job = await world.until('finished', async () => {
    const found = await world.job(stream.seen.job)
    return found.status === 'succeeded' && found
  })
  expect(job.usage?.completion_tokens).toBe(30)
})

test('cancel by API ends the stream with an error that says so, and frees the slot', async () => {
  const stream = chatStream(world, 'one', 'cancel me', { max_tokens: 5_000 })
  await world.until('it streams', () => stream.seen.deltas > 3)
  const response = await world.request('POST', `/api/jobs/${stream.seen.job}/cancel`)
  expect([response.status, ((await response.json()) as { status: string }).status]).toEqual([200, 'cancelled'])
  expect((await stream.done).error).toMatchObject({ code: 'job_cancelled', job: stream.seen.job })
  await free('one')
  expect((await world.request('POST', `/api/jobs/${stream.seen.job}/cancel`)).status).toBe(409)
})

async function free(model: string): Promise<void> {
  await world.until(
    `the slot of ${model} is free`,
    async () => (await world.findWorker('a'))?.models.find((found) => found.name === model)?.busy === 0,
    1_500,
  )
}

async function newestJob(): Promise<string> {
  return ((await world.get('/api/jobs?limit=1')) as { data: { id: string }[] }).data[0]?.id ?? ''
}
