import OpenAI, { APIError } from 'openai'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ADMIN_KEY, World } from './support/world.ts'

let world: World
let client: OpenAI

beforeAll(async () => {
  world = await World.open()
  await world.coordinator()
  await world.worker(
    'a',
    'fake=fake:?slots=8&rate=400 other=fake:?slots=1 failing=fake:?fail_on=BOOM hopeless=fake:?fail_on=BOOM small=fake:?context=20',
  )
  client = new OpenAI({ baseURL: `${world.url}/v1`, apiKey: ADMIN_KEY, maxRetries: 0 })
})
afterAll(() => world.close())

const messages = [{ role: 'user' as const, content: 'hello there' }]

test('a chat completion has the official shape, true usage and a true finish reason', async () => {
  const { data, response } = await client.chat.completions
    .create({ model: 'fake', messages, temperature: 0, max_tokens: 12 })
    .withResponse()
  expect(data.object).toBe('chat.completion')
  expect(data.choices[0]?.finish_reason).toBe('length')
  expect(data.choices[0]?.message.role).toBe('assistant')
  expect(data.choices[0]?.message.content?.split(' ')).toHaveLength(12)
  expect(data.usage).toMatchObject({ prompt_tokens: 2, completion_tokens: 12, total_tokens: 14 })
  expect(response.headers.get('x-holdfast-worker')).toBe('a')
  expect(response.headers.get('x-holdfast-tier')).toBe('gpu')
  expect(Number(response.headers.get('x-holdfast-overhead-ms'))).toBeGreaterThanOrEqual(0)
  const job = await world.job(response.headers.get('x-holdfast-job') ?? '')
  expect(job).toMatchObject({
    status: 'succeeded',
    worker: 'a',
    usage: { completion_tokens: 12 },
    output: { text: data.choices[0]?.message.content },
  })
  expect(job.attempts).toHaveLength(1)
})

test('the streamed text is the plain text, and usage comes in the last chunk when asked for', async () => {
  const plain = await client.chat.completions.create({ model: 'fake', messages, temperature: 0, max_tokens: 30 })
  const stream = await client.chat.completions.create({
    model: 'fake',
    messages,
    temperature: 0,
    max_tokens: 30,
    stream: true,
    stream_options: { include_usage: true },
  })
  let text = ''
  let finish: string | null = null
  let usage: unknown
  for await (const chunk of stream) {
    expect(chunk.object).toBe('chat.completion.chunk')
    text += chunk.choices[0]?.delta.content ?? ''
    finish = chunk.choices[0]?.finish_reason ?? finish
    if (chunk.usage) usage = chunk.usage
  }
  expect(text).toBe(plain.choices[0]?.message.content)
  expect(finish).toBe('length')
  expect(usage).toMatchObject({ completion_tokens: 30 })
})

test('a stop string ends the answer and is not part of it', async () => {
  const plain = await client.chat.completions.create({ model: 'fake', messages, temperature: 0, max_tokens: 12 })
  const words = plain.choices[0]?.message.content?.split(' ') ?? []
  const stop = `${words[4]} ${words[5]}`
  const stopped = await client.chat.completions.create({ model: 'fake', messages, temperature: 0, max_tokens: 12, stop })
  expect(stopped.choices[0]?.finish_reason).toBe('stop')
  expect(stopped.choices[0]?.message.content).toBe(`${words.slice(0, 4).join(' ')} `)
})

test('the same seed gives the same text, another seed another', async () => {
  const ask = async (seed: number) =>
    (await client.chat.completions.create({ model: 'fake', messages, temperature: 1, seed })).choices[0]?.message.content
  expect(await ask(7)).toBe(await ask(7))
  expect(await ask(7)).not.toBe(await ask(8))
})

test('a job records the seed it chose when none was given', async () => {
  const { data, response } = await client.chat.completions.create({ model: 'fake', messages, temperature: 1 }).withResponse()
  const { seed } = await world.job(response.headers.get('x-holdfast-job') ?? '')
  expect(seed).toBeGreaterThanOrEqual(0)
  // The fake engine answers a request without a wish for chance the same every time.
  const again = await client.chat.completions.create({ model: 'fake', messages, temperature: 1 })
  expect(again.choices[0]?.message.content).toBe(data.choices[0]?.message.content)
})

test('text completions work, streamed and not', async () => {
  const plain = await client.completions.create({ model: 'fake', prompt: 'once upon', temperature: 0, max_tokens: 9 })
  expect(plain.object).toBe('text_completion')
  expect(plain.choices[0]).toMatchObject({ finish_reason: 'length' })
  expect(plain.usage).toMatchObject({ prompt_tokens: 2, completion_tokens: 9 })
  let text = ''
  for await (const chunk of await client.completions.create({
    model: 'fake',
    prompt: 'once upon',
    temperature: 0,
    max_tokens: 9,
    stream: true,
  }))
    text += chunk.choices[0]?.text ?? ''
  expect(text).toBe(plain.choices[0]?.text)
})

test('models are listed, found and missed', async () => {
  const ids = (await client.models.list()).data.map((model) => model.id)
  expect(ids).toEqual(['failing', 'fake', 'hopeless', 'other', 'small'])
  expect((await client.models.retrieve('other')).id).toBe('other')
  await expect(client.models.retrieve('nope')).rejects.toMatchObject({ status: 404 })
})

test('errors reach the client as its own error classes, with code and job', async () => {
  const failure = await client.chat.completions.create({ model: 'nope', messages }).catch((error: unknown) => error)
  expect(failure).toBeInstanceOf(OpenAI.NotFoundError)
  expect(failure).toMatchObject({ status: 404, code: 'model_not_found', param: 'model' })
  expect((failure as APIError).message).toContain('fake')
  await expect(
    new OpenAI({ baseURL: `${world.url}/v1`, apiKey: 'wrong-key-wrong-key', maxRetries: 0 }).models.list(),
  ).rejects.toBeInstanceOf(OpenAI.AuthenticationError)
})

test('an engine that fails gives an error that names the job, plain and in a stream', async () => {
  const plain = await client.chat.completions
    .create({ model: 'failing', messages: [{ role: 'user', content: 'BOOM' }] })
    .catch((error: unknown) => error)
  expect(plain).toMatchObject({ status: 502, code: 'generation_failed' })
  const job = ((plain as APIError).error as { job: string }).job
  expect((await world.job(job)).status).toBe('failed')
  const told = (plain as APIError).headers as Headers
  expect([told.get('x-holdfast-job'), told.get('x-holdfast-worker'), told.get('x-holdfast-tier')]).toEqual([job, 'a', 'gpu'])
  const streamed = (async () => {
    for await (const chunk of await client.chat.completions.create({
      model: 'failing',
      messages: [{ role: 'user', content: 'BOOM' }],
      stream: true,
    }))
      void chunk
  })()
  await expect(streamed).rejects.toBeInstanceOf(APIError)
})

test('a client that repeats failures by itself does not submit an ended job again', async () => {
  const repeating = new OpenAI({ baseURL: `${world.url}/v1`, apiKey: ADMIN_KEY })
  const failures = async () => ((await world.get('/api/jobs?limit=200&status=failed&model=hopeless')) as { data: unknown[] }).data.length
  await expect(
    repeating.chat.completions.create({ model: 'hopeless', messages: [{ role: 'user', content: 'BOOM' }] }),
  ).rejects.toMatchObject({ status: 502 })
  await world.until('the failure is stored', async () => (await failures()) > 0)
  expect(await failures()).toBe(1)
})

test('a prompt beyond the context is refused with both numbers', async () => {
  const long = client.chat.completions.create({ model: 'small', messages: [{ role: 'user', content: 'word '.repeat(50) }] })
  await expect(long).rejects.toMatchObject({
    status: 400,
    code: 'context_length_exceeded',
    message: expect.stringMatching(/50.*20/) as string,
  })
})

test('an answer that fills the context ends with length', async () => {
  const full = await client.chat.completions.create({
    model: 'small',
    messages: [{ role: 'user', content: 'word '.repeat(15) }],
    max_tokens: 100,
  })
  expect(full.choices[0]?.finish_reason).toBe('length')
  expect(full.usage?.completion_tokens).toBe(5)
})

test('a request can be pinned to a worker by name', async () => {
  const { response } = await client.chat.completions
    .create({ model: 'fake', messages }, { headers: { 'x-holdfast-provider': 'a' } })
    .withResponse()
  expect(response.headers.get('x-holdfast-provider')).toBe('a')
  await expect(
    client.chat.completions.create({ model: 'fake', messages }, { headers: { 'x-holdfast-provider': 'zzz' } }),
  ).rejects.toMatchObject({ status: 404, code: 'unknown_provider' })
})

test("a caller's trace id is the job's, and its events carry it", async () => {
  const traceId = '0af7651916cd43dd8448eb211c80319c'
  const { response } = await client.chat.completions
    .create({ model: 'fake', messages }, { headers: { traceparent: `00-${traceId}-b7ad6b7169203331-01` } })
    .withResponse()
  const job = response.headers.get('x-holdfast-job') ?? ''
  expect((await world.job(job)).trace_id).toBe(traceId)
  const events = await world.until('its events', async () => {
    const found = await world.events(`&trace_id=${traceId}`)
    return found.length >= 2 && found
  })
  expect(events.map((event) => event.type)).toEqual(['job.succeeded', 'job.accepted'])
  expect(events.every((event) => event.job === job)).toBe(true)
})

test.each([
  ['ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01', false],
  ['00-00000000000000000000000000000000-b7ad6b7169203331-01', false],
  ['00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01', false],
  ['00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more', false],
  ['01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more', true],
  ['00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01', false],
])('the traceparent %s is taken: %s', async (traceparent, taken) => {
  const { response } = await client.chat.completions.create({ model: 'fake', messages }, { headers: { traceparent } }).withResponse()
  const { trace_id } = await world.job(response.headers.get('x-holdfast-job') ?? '')
  expect(trace_id === traceparent.slice(3, 35)).toBe(taken)
})
