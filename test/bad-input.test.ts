import { readdirSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import Anthropic from '@anthropic-ai/sdk'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { chatStream } from './support/stream.ts'
import { ADMIN_KEY, type Running, World } from './support/world.ts'

let world: World
let coordinator: Running
const sockets: Socket[] = []

beforeAll(async () => {
  world = await World.open()
  coordinator = await world.coordinator()
  await world.worker('a', 'fake=fake:?slots=4&rate=2000 tiny=builtin:tiny?slots=2&context=512')
})
afterAll(() => world.close())

const m = [{ role: 'user', content: 'x' }]

const TABLE: [name: string, body: unknown, status: number, code: string][] = [
  ['malformed JSON', '{"model": "fake", ', 400, 'invalid_json'],
  ['a list as body', '[]', 400, 'invalid_body'],
  ['a text as body', '"hello"', 400, 'invalid_body'],
  ['null as body', 'null', 400, 'invalid_body'],
  ['NaN', '{"model":"fake","messages":[{"role":"user","content":"x"}],"temperature":NaN}', 400, 'invalid_json'],
  ['a prototype', '{"model":"fake","messages":[],"__proto__":{"admin":true}}', 400, 'invalid_json'],
  ['no model', { messages: m }, 400, 'missing_model'],
  ['no messages', { model: 'fake' }, 400, 'invalid_messages'],
  ['empty messages', { model: 'fake', messages: [] }, 400, 'invalid_messages'],
  ['too many messages', { model: 'fake', messages: Array.from({ length: 10_001 }, () => m[0]) }, 400, 'invalid_messages'],
  ['a wrong role', { model: 'fake', messages: [{ role: 'king', content: 'x' }] }, 400, 'invalid_messages'],
  ['content of a wrong type', { model: 'fake', messages: [{ role: 'user', content: 5 }] }, 400, 'invalid_messages'],
  [
    'an image that is none',
    { model: 'fake', messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'data:' } }] }] },
    400,
    'invalid_image',
  ],
  ['a wrong type', { model: 'fake', messages: m, temperature: 'hot' }, 400, 'invalid_type'],
  ['out of range', { model: 'fake', messages: m, temperature: -3 }, 400, 'out_of_range'],
  ['a negative max_tokens', { model: 'fake', messages: m, max_tokens: -1 }, 400, 'out_of_range'],
  ['a fractional max_tokens', { model: 'fake', messages: m, max_tokens: 1.5 }, 400, 'invalid_type'],
  ['an empty stop', { model: 'fake', messages: m, stop: '' }, 400, 'invalid_stop'],
  ['half a character to stop at', { model: 'fake', messages: m, stop: ['ok', '\ude00'] }, 400, 'invalid_stop'],
  ['a wrong logit_bias', { model: 'fake', messages: m, logit_bias: { abc: 1 } }, 400, 'invalid_logit_bias'],
  ['an unknown parameter', { model: 'fake', messages: m, frobnicate: 1 }, 400, 'unknown_parameter'],
  ['a tool without a function', { model: 'fake', messages: m, tools: [{ type: 'function' }] }, 400, 'invalid_tools'],
  ['too many answers', { model: 'fake', messages: m, n: 17 }, 400, 'out_of_range'],
  [
    'stream_options without a stream',
    { model: 'fake', messages: m, stream_options: { include_usage: true } },
    400,
    'invalid_stream_options',
  ],
  ['an unknown model', { model: 'nope', messages: m }, 404, 'model_not_found'],
]

describe('each is refused with its own clear error, in the dialect, and leaves no job', () => {
  test.each(TABLE)('%s', async (_name, body, status, code) => {
    const before = await jobCount()
    const response = await world.request('POST', '/v1/chat/completions', body)
    const text = await response.text()
    expect(response.status, text).toBe(status)
    const { error } = JSON.parse(text) as { error: { code: string; message: string; type: string } }
    expect(error.code).toBe(code)
    expect(error.message.length).toBeGreaterThan(10)
    expect(error.type).toBe('invalid_request_error')
    expect(text).not.toMatch(/\bat .*\.ts:\d+/)
    expect(await jobCount()).toBe(before)
  })
})

test('values that mean "off" are fine, and so is what cannot change the answer', async () => {
  const body = {
    model: 'fake',
    messages: m,
    tools: [],
    tool_choice: 'none',
    response_format: { type: 'text' },
    logprobs: false,
    n: 1,
    user: 'u',
    metadata: { a: 'b' },
    seed: null,
    stop: null,
  }
  expect((await world.request('POST', '/v1/chat/completions', body)).status).toBe(200)
})

test('a header that would change what happens is refused, not ignored', async () => {
  const response = await world.request('POST', '/v1/chat/completions', { model: 'fake', messages: m }, { 'x-holdfast-tier': 'moon' })
  expect(response.status).toBe(400)
})

test('a body that is packed, or in other letters than UTF-8, is told as that', async () => {
  const body = JSON.stringify({ model: 'fake', messages: m })
  for (const headers of [
    { 'content-encoding': 'gzip' },
    { 'content-encoding': 'br' },
    { 'content-type': 'application/json; charset=iso-8859-1' },
  ]) {
    const response = await world.request('POST', '/v1/chat/completions', body, headers)
    expect(response.status).toBe(415)
    expect(await response.json()).toMatchObject({ error: { code: 'unsupported_encoding' } })
  }
  for (const headers of [{ 'content-encoding': 'identity' }, { 'content-type': 'application/json; charset="UTF-8"' }])
    expect((await world.request('POST', '/v1/chat/completions', body, headers)).status).toBe(200)
})

test('a body of 50 MB is refused before it is read whole', async () => {
  const body = JSON.stringify({ model: 'fake', messages: [{ role: 'user', content: 'x'.repeat(50_000_000) }] })
  const refusal = await world.request('POST', '/v1/chat/completions', body).then(
    async (response) => [response.status, response.headers.get('retry-after'), await response.text()],
    // The door closes while the rest is still on its way.
    () => [413, '5', 'larger than 32 MiB'],
  )
  expect(refusal).toEqual([413, '5', expect.stringContaining('larger than 32 MiB')])
})

test('NUL and half a surrogate are served, stored and read back', async () => {
  const content = 'nul \u0000 and lone \ud800 surrogate'
  const response = await world.request('POST', '/v1/chat/completions', {
    model: 'fake',
    messages: [{ role: 'user', content }],
    max_tokens: 4,
  })
  expect(response.status).toBe(200)
  const job = await world.job(response.headers.get('x-holdfast-job') ?? '')
  expect(job).toMatchObject({ status: 'succeeded', usage: { completion_tokens: 4 } })
})

const NUL = '\u0000'
const ODD: [door: string, body: unknown, status: number, param: string | null][] = [
  ['GET /api/jobs?model=%00', undefined, 400, 'model'],
  ['GET /api/events?type=%00', undefined, 400, 'type'],
  [`GET /api/events?job=${'-'.repeat(36)}`, undefined, 400, 'job'],
  ['GET /api/teams/%00', undefined, 404, null],
  ['DELETE /api/providers/x%00', undefined, 404, null],
  ['GET /v1/files/file-%00', undefined, 404, null],
  ['POST /api/keys', { name: `a${NUL}b`, kind: 'team', team: 'default' }, 400, 'name'],
  ['POST /api/keys', { name: 'a', kind: 'team', team: 'default', models: [`a${NUL}b`] }, 400, 'models'],
  ['POST /api/keys', { name: 'a\ud800', kind: 'team', team: 'default' }, 400, 'name'],
  ['POST /api/users', { email: 'n@example.com', name: NUL }, 400, 'name'],
  ['POST /api/batches', { model: 'fake', rows: [{ row_key: `a${NUL}b`, messages: m }] }, 400, 'rows[0].row_key'],
]

test.each(ODD)('%s with %j: NUL and half a character are no name, and the answer says so: %i, %s', async (door, body, status, param) => {
  const [method = '', path = ''] = door.split(' ')
  const response = await world.request(method, path, body)
  const { error } = (await response.json()) as { error: { param: string | null } }
  expect([response.status, error.param]).toEqual([status, param])
})

test('the NUL in a custom_id is refused by the number of its row', async () => {
  const form = new FormData()
  form.set('purpose', 'batch')
  const line = { custom_id: `a${NUL}b`, method: 'POST', url: '/v1/chat/completions', body: { model: 'fake', messages: m } }
  form.set('file', new File([JSON.stringify(line)], 'rows.jsonl'))
  const file = await fetch(`${world.url}/v1/files`, { method: 'POST', headers: { authorization: `Bearer ${ADMIN_KEY}` }, body: form })
  const { id } = (await file.json()) as { id: string }
  const body = { input_file_id: id, endpoint: '/v1/chat/completions', completion_window: '24h' }
  const response = await world.request('POST', '/v1/batches', body)
  expect([response.status, await response.text()]).toEqual([400, expect.stringContaining('rows[0].custom_id')])
})

test('a body that is nested too deep is refused at every door, with and without an idempotency key', async () => {
  const deep = `${'{"a":'.repeat(20_000)}1${'}'.repeat(20_000)}`
  const body = `{"model":"fake","messages":[{"role":"user","content":"x"}],"metadata":${deep}}`
  for (const path of ['/v1/chat/completions', '/v1/responses', '/v1/messages', '/api/jobs', '/api/batches', '/api/teams'])
    for (const key of [undefined, 'deep-1']) {
      if (path === '/api/teams' && key !== undefined) continue
      const response = await world.request('POST', path, body, key === undefined ? {} : { 'idempotency-key': key })
      expect([path, response.status, await response.text()]).toEqual([path, 400, expect.stringContaining('nested')])
    }
  const lines = await world.request('POST', '/api/batches', `{"row_key":"a","messages":${deep}}`, {
    'content-type': 'application/x-ndjson',
  })
  expect([lines.status, await lines.text()]).toEqual([400, expect.stringContaining('Line 1 is nested')])
})

test.each(['/v1/chat/completions', '/v1/messages', '/api/jobs'])(
  '%s: bytes that are no UTF-8 are not read as other letters',
  async (path) => {
    const bytes = Buffer.from(JSON.stringify({ model: 'fake', messages: [{ role: 'user', content: 'caf?' }], max_tokens: 4 }))
    bytes[bytes.indexOf('?')] = 0xe9
    for (const type of ['application/json', 'application/yaml']) {
      const response = await fetch(world.url + path, {
        method: 'POST',
        headers: { authorization: `Bearer ${ADMIN_KEY}`, 'content-type': type },
        body: bytes,
      })
      expect([response.status, await response.text()]).toEqual([400, expect.stringContaining('The body is not UTF-8.')])
    }
  },
)

test.each<[string, string, unknown, string, string]>([
  ['POST', '/v1/chat/completions', '{"model":"fake","messages":[],"__proto__":{}}', 'invalid_json', '__proto__'],
  ['POST', '/v1/responses', { model: 'fake', input: 'x', top_logprobs: 3 }, 'invalid_top_logprobs', 'message.output_text.logprobs'],
  ['POST', '/v1/messages', { model: 'fake', max_tokens: 1, messages: m, cache_control: { type: 'zz' } }, 'out_of_range', 'ephemeral'],
  ['POST', '/v1/messages', { model: 'fake', max_tokens: 1, messages: m, service_tier: 'zz' }, 'out_of_range', 'standard_only'],
  ['GET', '/v1/models?limit=1', undefined, 'unknown_parameter', 'limit'],
  ['GET', '/v1/files?limit=10001', undefined, 'out_of_range', '10000'],
])('%s %s with %j says what is wrong: %s, %s', async (method, path, body, code, said) => {
  const response = await world.request(method, path, body)
  const text = await response.text()
  expect([response.status, text]).toEqual([400, expect.stringContaining(said)])
  if (path !== '/v1/messages') expect(text).toContain(code)
})

test('as many files are listed at once as the dialect allows', async () => {
  expect((await world.request('GET', '/v1/files?limit=10000')).status).toBe(200)
})

test('who sends too much reads why, also when all of it is on its way before', async () => {
  const client = new Anthropic({ baseURL: world.url, apiKey: ADMIN_KEY, maxRetries: 0 })
  const content = 'x'.repeat(34 * 1024 * 1024)
  for (let round = 0; round < 5; round++) {
    const asked = client.messages.create({ model: 'fake', max_tokens: 1, messages: [{ role: 'user', content }] })
    await expect(asked).rejects.toMatchObject({ status: 413 })
  }
})

test('a path that cannot be read, and a head that is too large, are refused under a name too', async () => {
  const odd = await raw('GET /v1/models/%zz HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-request-id: web-43\r\n\r\n')
  expect(odd).toMatch(/^HTTP\/1\.1 400 [^]*x-request-id: web-43\r\n/)
  const bomb = await raw(`POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-bomb: ${'y'.repeat(20_000)}\r\n\r\n`)
  const [, id = ''] = /x-request-id: (\S+)/.exec(bomb) ?? []
  expect(bomb).toContain(`"request_id":"${id}"`)
})

test('a request is named by its caller, or by an id that no other request has', async () => {
  const idOf = async (given?: string): Promise<string | null> =>
    (await world.request('GET', '/api/health', undefined, given === undefined ? {} : { 'x-request-id': given })).headers.get('x-request-id')
  const first = await idOf()
  expect(first).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-7/)
  expect(await idOf()).not.toBe(first)
  expect(await idOf('web-42')).toBe('web-42')
  expect(await idOf('not a name')).toMatch(/^[0-9a-f]{8}-/)
})

test('a prompt of 100,000 tokens is refused with both numbers before a worker sees it', async () => {
  const response = await world.request('POST', '/v1/chat/completions', {
    model: 'tiny',
    messages: [{ role: 'user', content: 'heartbeat '.repeat(100_000) }],
  })
  const { error } = (await response.json()) as { error: { code: string; message: string; job: string | null } }
  expect([response.status, error.code, error.job]).toEqual([400, 'context_length_exceeded', null])
  expect(error.message).toMatch(/\d{4,} tokens.*512/)
  const long = 'heartbeat '.repeat(100_000)
  for (const [path, name] of [
    ['/v1/completions', 'prompt'],
    ['/v1/responses', 'input'],
  ] as const) {
    const other = await world.request('POST', path, { model: 'tiny', [name]: long })
    expect(await other.json(), path).toMatchObject({ error: { code: 'context_length_exceeded', param: name } })
  }
})

test('a prompt that only the worker can count is refused with both numbers too', async () => {
  const response = await world.request('POST', '/v1/chat/completions', {
    model: 'tiny',
    messages: [{ role: 'user', content: 'zq '.repeat(800) }],
  })
  const { error } = (await response.json()) as { error: { code: string; message: string } }
  expect([response.status, error.code]).toEqual([400, 'context_length_exceeded'])
  expect(error.message).toMatch(/\d{3,}.*512/)
})

test('keys: none, wrong, and the right one in either header', async () => {
  expect((await fetch(`${world.url}/api/jobs`)).status).toBe(401)
  expect((await fetch(`${world.url}/v1/models`)).status).toBe(401)
  expect((await world.request('GET', '/api/jobs', undefined, { authorization: 'Bearer wrong' })).status).toBe(401)
  expect((await fetch(`${world.url}/api/jobs`, { headers: { 'x-api-key': ADMIN_KEY } })).status).toBe(200)
})

test('a flood of wrong keys becomes one event, not a row each', async () => {
  const before = (await world.events('&type=login.failed')).length
  await Promise.all(Array.from({ length: 200 }, () => world.request('GET', '/api/jobs', undefined, { authorization: 'Bearer wrong' })))
  const events = await world.until('the event', async () => {
    const found = await world.events('&type=login.failed')
    return found.length > before && found
  })
  expect(events.length - before).toBeLessThanOrEqual(2)
  expect(Number(events[0]?.details.count)).toBeGreaterThan(1)
})

test('query strings: bad limits, cursors and misspelt filters are errors', async () => {
  for (const query of ['limit=-1', 'limit=201', 'limit=x', 'cursor=abc', 'stauts=queued', 'status=odd', 'status=queued&status=failed'])
    expect((await world.request('GET', `/api/jobs?${query}`)).status, query).toBe(400)
  expect((await world.request('GET', '/api/jobs/not-an-id')).status).toBe(404)
  expect((await world.request('GET', '/api/nothing')).status).toBe(404)
  expect((await world.request('POST', '/api/jobs/01900000-0000-7000-8000-000000000000/cancel')).status).toBe(404)
})

test('a header bomb and a line that is not HTTP get a sentence and a closed door', async () => {
  const bomb = await raw(
    `GET /healthz HTTP/1.1\r\nhost: x\r\n${Array.from({ length: 400 }, (_, i) => `x-${i}: ${'y'.repeat(90)}\r\n`).join('')}\r\n`,
  )
  expect(bomb).toMatch(/^HTTP\/1\.1 431 /)
  expect(bomb).toContain('headers_too_large')
  for (const [path, said] of [
    ['/v1/messages', '{"type":"error","error":{"type":"invalid_request_error"'],
    ['/v1/chat/completions', '{"error":{"message":'],
    ['/api/jobs', '{"error":{"code":"headers_too_large"'],
  ])
    expect(await raw(`POST ${path} HTTP/1.1\r\nhost: x\r\nx-bomb: ${'y'.repeat(20_000)}\r\n\r\n`), path).toContain(said)
  const noise = await raw('\u0000\u0001 what is this\r\n\r\n')
  expect(noise).toMatch(/^HTTP\/1\.1 400 /)
  expect((await fetch(`${world.url}/healthz`)).status).toBe(200)
})

test('who was refused before there was a request is hung up on, even when it never hangs up', async () => {
  const held = (): number => readdirSync(`/proc/${coordinator.pid}/fd`).length
  const before = held()
  const ends = Array.from({ length: 30 }, () => {
    const socket = connect({ port: world.httpPort, host: '127.0.0.1', allowHalfOpen: true }, () => socket.write('what is this\r\n\r\n'))
    sockets.push(socket)
    return new Promise<void>((resolve) => socket.on('end', resolve).on('error', resolve).resume())
  })
  await Promise.all(ends)
  await world.until('their connections are closed', () => held() < before + 15)
  for (const socket of sockets.splice(0)) socket.destroy()
})

test('what is sent to no door is not read, and YAML only as far as it is quick to read', async () => {
  const yaml = { 'content-type': 'application/yaml' }
  const nowhere = await fetch(`${world.url}/nope`, { method: 'POST', headers: yaml, body: 'name: [' })
  expect([nowhere.status, ((await nowhere.json()) as { error: { code: string } }).error.code]).toEqual([404, 'not_found'])
  const large = await world.request('POST', '/api/policies', '- a\n'.repeat(20_000), yaml)
  expect([large.status, ((await large.json()) as { error: { code: string } }).error.code]).toEqual([413, 'body_too_large'])
})

test('a client that never reads is cut off and its job cancelled', async () => {
  const body = JSON.stringify({ model: 'fast', messages: m, max_tokens: 3_000_000, stream: true })
  await world.worker('fast', 'fast=fake:?slots=1')
  const socket = connect(world.httpPort, '127.0.0.1')
  const head = await new Promise<string>((resolve) => {
    socket.once('data', (data) => {
      // From here on the socket is not read.
      socket.pause()
      resolve(data.toString())
    })
    socket.write(
      `POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${ADMIN_KEY}\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
    )
  })
  const job = /x-holdfast-job: (\S+)/.exec(head)?.[1] ?? ''
  await world.until('the job is cancelled', async () => (await world.job(job)).status === 'cancelled')
  socket.destroy()
  await world.until('the slot is free', async () => (await world.findWorker('fast'))?.models[0]?.busy === 0)
  expect((await chatStream(world, 'fast', 'still there?', { max_tokens: 5 }).done).usage?.completion_tokens).toBe(5)
})

async function jobCount(): Promise<number> {
  return ((await world.get('/api/jobs?limit=200')) as { data: unknown[] }).data.length
}

function raw(text: string): Promise<string> {
  return new Promise((resolve) => {
    let answer = ''
    const socket = connect(world.httpPort, '127.0.0.1', () => socket.write(text))
    socket.on('data', (data) => {
      answer += data.toString()
    })
    socket.on('close', () => resolve(answer))
    socket.on('error', () => resolve(answer))
  })
}
