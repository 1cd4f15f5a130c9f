import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Webhook } from 'standardwebhooks'
import { expect, test } from 'vitest'
import { readJobStream } from './support/job-stream.ts'
import { addCloud, send } from './support/cloud.ts'
import { chatStream } from './support/stream.ts'
import { type JobView, World } from './support/world.ts'

async function submit(world: World, content: string, extra: Record<string, unknown> = {}, headers: Record<string, string> = {}) {
  const body = { model: 'fake', messages: [{ role: 'user', content }], temperature: 0, ...extra }
  const response = await world.request('POST', '/api/jobs', body, headers)
  const job = (await response.json()) as JobView & { error: { code: string; param: string } | null }
  return { status: response.status, headers: response.headers, job }
}

test('a job is accepted with 202, awaited by long poll, and read again whenever', async () => {
  await using world = await World.open()
  await world.coordinator()
  await world.worker('a', 'fake=fake:?slots=2&rate=100')
  const { status, headers, job } = await submit(world, 'hello', { max_tokens: 30 })
  expect(status).toBe(202)
  expect(headers.get('location')).toBe(`/api/jobs/${job.id}`)
  const early = (await world.get(`/api/jobs/${job.id}?wait_s=0.01`)) as JobView
  expect(early.status).toBe('running')
  const done = (await world.get(`/api/jobs/${job.id}?wait_s=30`)) as JobView
  expect(done).toMatchObject({ status: 'succeeded', finish_reason: 'length', usage: { completion_tokens: 30 } })
  expect(done.output?.text).toBe((await chatStream(world, 'fake', 'hello', { max_tokens: 30 }).done).text)
  const raw = await submit(world, '', { messages: undefined, prompt: 'once', max_tokens: 3 })
  expect(raw.job).toMatchObject({ type: 'completion' })
})

test('a job stream can be left and taken up at any event, while it runs and long after', async () => {
  await using world = await World.open()
  await world.coordinator()
  await world.worker('a', 'fake=fake:?slots=2&rate=200')
  const want = (await chatStream(world, 'fake', 'resume', { max_tokens: 120 }).done).text
  const { job } = await submit(world, 'resume', { max_tokens: 120 })
  let text = ''
  let last: string | undefined
  for (let round = 0; round < 200; round++) {
    const part = await readJobStream(world, job.id, last, 7)
    text += part.text
    last = part.last
    if (part.finished !== null) break
  }
  expect(text).toBe(want)
  const late = await readJobStream(world, job.id)
  expect(late.text).toBe(want)
  expect(late.finished).toMatchObject({ status: 'succeeded', finish_reason: 'length', error: null })
  expect((await readJobStream(world, job.id, late.last)).text).toBe('')
})

test('kill -9 of the coordinator: the reader goes on after its last event, and the worker never stopped', async () => {
  await using world = await World.open()
  const coordinator = await world.coordinator()
  await world.worker('a', 'fake=fake:?slots=4&rate=40')
  const want = (await chatStream(world, 'fake', 'over', { max_tokens: 200 }).done).text
  const { job } = await submit(world, 'over', { max_tokens: 200 })
  const reading = readJobStream(world, job.id)
  await world.until(
    'text flows',
    async () => ((await world.job(job.id)).usage ?? null) !== null || (await readJobStream(world, job.id, undefined, 5)).tokens >= 5,
  )
  coordinator.kill()
  const before = await reading
  expect(before.finished).toBeNull()
  await world.coordinator()
  const after = await readJobStream(world, job.id, before.last)
  expect(before.text + after.text).toBe(want)
  expect((await world.job(job.id)).attempts).toHaveLength(1)
})

test('a parked job shows what was delivered, its stream too, and after a release it goes on from there', async () => {
  await using world = await World.open()
  await world.coordinator()
  const first = await world.worker('a', 'fake=fake:?slots=4&rate=50')
  const want = (await chatStream(world, 'fake', 'park', { max_tokens: 120 }).done).text
  const { job } = await submit(world, 'park', { max_tokens: 120 })
  const early = await readJobStream(world, job.id, undefined, 12)
  const along = readJobStream(world, job.id)
  first.kill()
  // Three attempts that bring nothing.
  for (const name of ['b', 'c', 'd']) {
    const worker = await world.worker(name, 'fake=fake:?slots=4&first_token_ms=60000')
    await world.until('it runs there', async () => {
      const { status, worker: at } = await world.job(job.id)
      return status === 'running' && at === name
    })
    worker.kill()
  }
  const parked = await world.until('it is parked', async () => {
    const found = await world.job(job.id)
    return found.status === 'parked' && found
  })
  const text = parked.output?.text ?? ''
  expect(text.length).toBeGreaterThanOrEqual(early.text.length)
  expect(want.startsWith(text)).toBe(true)
  expect(await along).toMatchObject({ text, finished: { status: 'parked' } })
  await world.until('its row says so too', async () => (await readJobStream(world, job.id)).text === text)
  const late = await readJobStream(world, job.id)
  expect(late).toMatchObject({ text, error: null, finished: { status: 'parked' } })
  const rest = await readJobStream(world, job.id, early.last)
  expect([early.text + rest.text, rest.error, rest.finished?.status]).toEqual([text, null, 'parked'])
  await world.until('the list says so too', async () => {
    const { data } = (await world.get('/api/jobs?status=parked')) as { data: { id: string }[] }
    return data.some(({ id }) => id === job.id)
  })
  await world.worker('e', 'fake=fake:?slots=4')
  expect((await world.request('POST', `/api/jobs/${job.id}/release`)).status).toBe(200)
  const after = await readJobStream(world, job.id, rest.last)
  expect(text + after.text).toBe(want)
  expect(after.finished).toMatchObject({ status: 'succeeded' })
})

test('a job that is looked at again and again is told whole at every look: with all its attempts, and with its output once it has ended', async () => {
  await using world = await World.open()
  await world.coordinator()
  for (const usual of [{ cutAfter: 0 }, {}, { cutAfter: 0 }, {}]) {
    const { model, upstream } = await addCloud(world)
    upstream.usual = usual
    const { id } = (await send(world, 'POST', '/api/jobs', { model, messages: [{ role: 'user', content: 'x' }] })) as { id: string }
    let ended = false
    const look = async (): Promise<void> => {
      while (!ended) {
        const { status, attempts, output } = await world.job(id)
        if (status === 'parked') expect(attempts).toHaveLength(3)
        if (status === 'succeeded') expect([attempts.length, output?.text === '']).toEqual([1, false])
        ended ||= status === 'parked' || status === 'succeeded'
      }
    }
    await Promise.all(Array.from({ length: 8 }, look))
  }
})

test('the last event of a stream tells what of the answer is no text', async () => {
  await using world = await World.open()
  await world.coordinator()
  await world.worker('a', 'fake=fake:')
  const tools = [{ type: 'function', function: { name: 'add', parameters: { type: 'object' } } }]
  const { job } = await submit(world, 'call:add', { tools, tool_choice: 'required' })
  await world.get(`/api/jobs/${job.id}?wait_s=30`)
  const { output } = (await world.job(job.id)) as unknown as { output: { tool_calls: unknown[] } }
  expect(output.tool_calls).toHaveLength(1)
  expect((await readJobStream(world, job.id)).finished).toMatchObject({ finish_reason: 'tool_calls', tool_calls: output.tool_calls })
})

test('text that was lost with everybody who knew it is never joined to another', async () => {
  await using world = await World.open()
  await world.coordinator()
  await world.worker('a', 'fake=fake:?slots=1&rate=100')
  const { job } = await submit(world, 'mark', { max_tokens: 40 })
  await world.get(`/api/jobs/${job.id}?wait_s=30`)
  const whole = await readJobStream(world, job.id)
  // A reader of another text of the same length, and one that has read more than there ever was.
  const [characters = ''] = (whole.last ?? '').split('-')
  for (const foreign of [`${characters}-zzzz`, `${Number(characters) + 5}-abc`]) {
    const told = await readJobStream(world, job.id, foreign)
    expect(told).toMatchObject({ text: '', finished: null, error: { code: 'stream_diverged' } })
  }
})

test('a waiting job says why, where it stands and until when, in its stream, in the job and in health', async () => {
  await using world = await World.open()
  await world.coordinator()
  await world.worker('a', 'fake=fake:?slots=1&rate=5')
  const { job: busy } = await submit(world, 'busy', { max_tokens: 1_000 })
  const { job } = await submit(world, 'waits')
  const reading = readJobStream(world, job.id)
  await world.until('position', async () => (await world.job(job.id)).waiting?.position === 1)
  expect((await world.job(job.id)).waiting).toMatchObject({ reason: 'all_slots_busy', position: 1 })
  const health = (await world.get('/api/health')) as { jobs: { waiting_by_reason: unknown[] } }
  expect(health.jobs.waiting_by_reason).toContainEqual({ model: 'fake', reason: 'all_slots_busy', count: 1 })
  await world.request('POST', `/api/jobs/${busy.id}/cancel`)
  const read = await reading
  expect(read.comments[0]).toMatch(/^waiting reason=all_slots_busy position=1 estimate_ms=/)
  expect(read.states.map((state) => state.status)).toEqual(['queued', 'running'])
  expect(read.finished).toMatchObject({ status: 'succeeded' })
})

test('limits of waiting and running end a job with an error of its own, which its caller gets', async () => {
  await using world = await World.open()
  await world.coordinator()
  await world.worker('a', 'fake=fake:?slots=1&rate=5')
  const slow = await submit(world, 'slow', { max_tokens: 1_000 }, { 'x-holdfast-max-run': '2.5' })
  const waiting = await world.request(
    'POST',
    '/v1/chat/completions',
    { model: 'fake', messages: [{ role: 'user', content: 'x' }] },
    { 'x-holdfast-max-wait': '0.5' },
  )
  expect(waiting.status).toBe(504)
  expect(waiting.headers.get('x-should-retry')).toBe('false')
  expect(await waiting.json()).toMatchObject({ error: { code: 'max_wait_exceeded', layer: 'routing', retryable: true } })
  // What kept it waiting is told behind its end.
  const decision = await world.get(`/api/jobs/${waiting.headers.get('x-holdfast-job')}/decision`)
  expect(decision).toMatchObject({
    rule: 'waiting',
    chosen: null,
    candidates: [{ why_not: 'all_slots_busy' }],
    history: [],
  })
  const streamed = await chatStream(world, 'fake', 'y', {}, { 'x-holdfast-max-wait': '0.3' }).done
  expect(streamed).toMatchObject({ status: 200, error: { code: 'max_wait_exceeded' }, finish: null })
  const ended = (await world.get(`/api/jobs/${slow.job.id}?wait_s=30`)) as JobView
  expect(ended).toMatchObject({ status: 'failed', error: { code: 'max_run_exceeded' } })
  await world.until('the slot is free', async () => (await world.findWorker('a'))?.models[0]?.busy === 0)
})

test('what cannot be a job is refused by name, and nothing is left of it', async () => {
  await using world = await World.open()
  await world.coordinator()
  await world.worker('a', 'fake=fake:')
  const refused: [Record<string, unknown>, Record<string, string>, number, string][] = [
    [{ stream: true }, {}, 400, 'stream'],
    [{ colour: 'red' }, {}, 400, 'colour'],
    [{}, { 'x-holdfast-priority': 'urgent' }, 400, 'x-holdfast-priority'],
    [{}, { 'x-holdfast-max-wait': 'soon' }, 400, 'x-holdfast-max-wait'],
    [{}, { 'x-holdfast-max-run': '-1' }, 400, 'x-holdfast-max-run'],
    [{}, { 'x-holdfast-colour': 'red' }, 400, 'x-holdfast-colour'],
    [{}, { 'idempotency-key': 'k'.repeat(300) }, 400, 'idempotency-key'],
    [{ callback_url: 'ftp://example.com' }, {}, 400, 'callback_url'],
  ]
  for (const [extra, headers, status, param] of refused) {
    const answer = await submit(world, 'x', extra, headers)
    expect(answer.status, param).toBe(status)
    expect(answer.job.error).toMatchObject({ param })
  }
  const { job } = await submit(world, 'x')
  await world.get(`/api/jobs/${job.id}?wait_s=30`)
  for (const [target, headers, status] of [
    [`/api/jobs/${job.id}?wait_s=never`, {}, 400],
    [`/api/jobs/${job.id}?wait_s=9999`, {}, 400],
    [`/api/jobs/${job.id}/stream`, { 'last-event-id': 'x y' }, 400],
    [`/api/jobs/${crypto.randomUUID()}/stream`, {}, 404],
  ] as const)
    expect((await world.request('GET', target, undefined, headers)).status, target).toBe(status)
  expect(((await world.get('/api/jobs')) as { data: unknown[] }).data).toHaveLength(1)
})

test('the end of a job is told to its callback, signed, also when the coordinator died in between', async () => {
  const heard: { headers: Record<string, string>; body: string }[] = []
  const receiver = createServer((request, response) => {
    let body = ''
    request.on('data', (data: Buffer) => (body += data.toString()))
    request.on('end', () => {
      heard.push({ headers: request.headers as Record<string, string>, body })
      response.end()
    })
  }).listen(0, '127.0.0.1')
  await once(receiver, 'listening')
  const callback_url = `http://127.0.0.1:${(receiver.address() as AddressInfo).port}/done`
  await using world = await World.open()
  const allowed = { HOLDFAST_ALLOW_PRIVATE_ADDRESSES: '127.0.0.0/8' }
  const coordinator = await world.coordinator(allowed)
  await world.worker('a', 'fake=fake:?slots=2&rate=30')
  // Nobody has made a secret: the first callback is signed all the same.
  await submit(world, 'first', { callback_url, max_tokens: 3 })
  await world.until('told of the first', () => heard.length === 1)
  expect(heard.shift()?.headers['webhook-signature']).toMatch(/^v1,/)
  const made = await world.request('POST', '/api/teams/default/rotate_webhook_secret')
  const { webhook_secret } = (await made.json()) as { webhook_secret: string }
  const quick = await submit(world, 'quick', { callback_url, max_tokens: 3 })
  await world.until('told', () => heard.length === 1)
  expect(new Webhook(webhook_secret).verify(heard[0]?.body ?? '', heard[0]?.headers ?? {})).toMatchObject({
    type: 'job.succeeded',
    data: { id: quick.job.id, status: 'succeeded', usage: { completion_tokens: 3 } },
  })
  await world.until(
    'settled',
    async () => ((await world.job(quick.job.id)) as { callback?: { state: string } }).callback?.state === 'delivered',
  )
  await world.worker('b', 'bad=fake:?slots=1&crash_on=BOOM')
  const bad = await submit(world, 'BOOM', { model: 'bad', callback_url })
  await world.until('told that it was parked', () => heard.length === 2)
  expect((await world.request('POST', `/api/jobs/${bad.job.id}/cancel`)).status).toBe(200)
  await world.until('told that it was cancelled', () => heard.length === 3)
  expect(heard.splice(1).map(({ body }) => (JSON.parse(body) as { type: string }).type)).toEqual(['job.parked', 'job.cancelled'])
  const long = await submit(world, 'long', { callback_url, max_tokens: 90 })
  coordinator.kill()
  await world.coordinator(allowed)
  await world.until('told of both', () => heard.length === 2)
  expect(JSON.parse(heard[1]?.body ?? '')).toMatchObject({ data: { id: long.job.id, usage: { completion_tokens: 90 } } })
  receiver.close()
})

test('a callback to a private address is refused before the job is accepted', async () => {
  await using world = await World.open()
  await world.coordinator()
  await world.worker('a', 'fake=fake:')
  await world.request('POST', '/api/teams/default/rotate_webhook_secret')
  for (const callback_url of [
    'http://127.0.0.1/x',
    'http://[::1]/x',
    'http://169.254.169.254/latest',
    'http://0x7f.1/x',
    'nonsense',
    'ftp://x.org/',
  ])
    expect((await submit(world, 'x', { callback_url })).status, callback_url).toBe(400)
  expect(((await world.get('/api/jobs')) as { data: unknown[] }).data).toEqual([])
})
