import { readFileSync } from 'node:fs'
import path from 'node:path'
import OpenAI, { toFile } from 'openai'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ADMIN_KEY, type Running, World } from './support/world.ts'

let world: World
let coordinator: Running
let client: OpenAI
beforeAll(async () => {
  world = await World.open()
  coordinator = await world.coordinator()
  await world.worker('a', 'fake=fake:?slots=16&fail_on=BOOM slow=fake:?slots=2&rate=20 fatal=fake:?slots=1&crash_on=BOOM')
  client = new OpenAI({ baseURL: `${world.url}/v1`, apiKey: ADMIN_KEY, maxRetries: 0 })
})
afterAll(() => world.close())

type BatchView = { id: string; status: string; counts: Record<string, number>; error?: { code: string; message: string } }
type Result = { row_key: string; job: string; status: string; output: { text: string } | null; error: { code: string } | null }

const rows = (count: number, model?: string): unknown[] =>
  Array.from({ length: count }, (_, index) => ({
    row_key: `r${index}`,
    messages: [{ role: 'user', content: `row ${index}` }],
    max_tokens: 4,
    ...(model === undefined ? {} : { model }),
  }))

async function post(body: unknown, headers: Record<string, string> = {}): Promise<{ status: number; batch: BatchView }> {
  const response = await world.request('POST', '/api/batches', body, headers)
  return { status: response.status, batch: (await response.json()) as BatchView }
}

function ended(id: string): Promise<BatchView> {
  return world.until('the batch ends', async () => {
    const batch = (await world.get(`/api/batches/${id}`)) as BatchView
    return batch.status === 'completed' || batch.status === 'cancelled' ? batch : null
  })
}

async function results(id: string): Promise<Result[]> {
  const text = await (await world.request('GET', `/api/batches/${id}/results`)).text()
  return text.trim() === ''
    ? []
    : text
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line) as Result)
}

test('a batch runs each of its rows once, and its results stand in the order of the rows', async () => {
  const { status, batch } = await post({ model: 'fake', rows: rows(1_200) })
  expect(status).toBe(202)
  expect((await ended(batch.id)).counts).toMatchObject({ total: 1_200, succeeded: 1_200 })
  const lines = await results(batch.id)
  expect(lines.map((line) => line.row_key)).toEqual(Array.from({ length: 1_200 }, (_, index) => `r${index}`))
  expect(new Set(lines.map((line) => line.job)).size).toBe(1_200)
  const job = (await world.job(lines[7]?.job ?? '')) as unknown as Record<string, unknown>
  expect(job).toMatchObject({ batch: batch.id, row_key: 'r7', priority: 'batch', output: { text: lines[7]?.output?.text } })
})

test('rows come as JSONL too, and one that fails fails alone', async () => {
  const lines = [...rows(3, 'fake'), { row_key: 'bad', model: 'fake', messages: [{ role: 'user', content: 'BOOM' }] }]
  const { batch } = await post(lines.map((line) => JSON.stringify(line)).join('\n'), { 'content-type': 'application/x-ndjson' })
  await ended(batch.id)
  const byKey = new Map((await results(batch.id)).map((line) => [line.row_key, line]))
  expect(byKey.get('r1')).toMatchObject({ status: 'succeeded', error: null })
  expect(byKey.get('bad')).toMatchObject({
    status: expect.stringMatching(/failed|parked/),
    output: expect.anything(),
    error: { code: expect.any(String) as string, provider_status: null },
  })
})

test('a bad row refuses the whole batch, names itself, and leaves nothing', async () => {
  const before = ((await world.get('/api/batches')) as { data: unknown[] }).data.length
  for (const [bad, code] of [
    [{ row_key: 'x' }, 'invalid_messages'],
    [{ messages: [] }, 'missing_field'],
    [{ row_key: 'r1', messages: [{ role: 'user', content: 'x' }] }, 'duplicate_row_key'],
    [{ row_key: 'x', messages: [{ role: 'user', content: 'x' }], model: 'nobody' }, 'model_not_found'],
    [{ row_key: 'x', messages: [{ role: 'user', content: 'x' }], stream: true }, 'unsupported_parameter'],
    ['text', 'invalid_rows'],
  ] as const) {
    const { status, batch } = await post({ model: 'fake', rows: [...rows(3), bad] })
    expect(status, code).toBeGreaterThanOrEqual(400)
    expect(batch.error?.code).toBe(code)
    if (code !== 'model_not_found') expect(batch.error?.message).toMatch(/^Row 4: /)
  }
  expect((await post({ model: 'fake', rows: [null] })).batch.error).toMatchObject({ code: 'invalid_rows', param: 'rows[0]' })
  for (const body of [{ model: 'fake', rows: [] }, { rows: 'x' }, {}]) expect((await post(body)).status).toBe(400)
  expect(((await world.get('/api/batches')) as { data: unknown[] }).data).toHaveLength(before)
})

test('a batch repeated with its key is the same batch', async () => {
  const body = { model: 'fake', rows: rows(50) }
  const twins = await Promise.all(Array.from({ length: 4 }, () => post(body, { 'idempotency-key': 'batch' })))
  expect(new Set(twins.map(({ batch }) => batch.id)).size).toBe(1)
  expect((await post({ model: 'fake', rows: rows(51) }, { 'idempotency-key': 'batch' })).status).toBe(422)
  expect((await post(body, { 'idempotency-key': 'batch', 'x-holdfast-tier': 'cloud' })).status).toBe(422)
})

test('what the address says is part of what an idempotency key stands for', async () => {
  const lines = rows(2)
    .map((row) => JSON.stringify(row))
    .join('\n')
  const ask = async (model: string): Promise<number> =>
    (
      await world.request('POST', `/api/batches?model=${model}`, lines, {
        'content-type': 'application/x-ndjson',
        'idempotency-key': 'by-address',
      })
    ).status
  expect([await ask('fake'), await ask('fake'), await ask('slow')]).toEqual([202, 202, 422])
})

test('a file of rows may begin with the mark of its byte order, and is refused when it is not UTF-8', async () => {
  const line = JSON.stringify({ row_key: 'a', model: 'fake', messages: [{ role: 'user', content: 'x' }], max_tokens: 2 })
  const send = (body: Uint8Array): Promise<Response> =>
    fetch(`${world.url}/api/batches`, {
      method: 'POST',
      headers: { authorization: `Bearer ${ADMIN_KEY}`, 'content-type': 'application/x-ndjson' },
      body: Buffer.from(body),
    })
  expect((await send(Buffer.from(`\ufeff${line}\r\n`))).status).toBe(202)
  const bytes = Buffer.from(line)
  bytes[bytes.indexOf('x')] = 0xff
  const refused = await send(bytes)
  expect([refused.status, ((await refused.json()) as { error: unknown }).error]).toEqual([
    400,
    expect.objectContaining({ code: 'invalid_text', param: 'rows' }),
  ])
})

test('a cancelled batch stops what waits and what runs, and keeps what was done', async () => {
  const { batch } = await post({ model: 'slow', rows: rows(40) })
  await world.until('some are done', async () => ((await world.get(`/api/batches/${batch.id}`)) as BatchView).counts.succeeded ?? 0)
  await world.request('POST', `/api/batches/${batch.id}/cancel`)
  const { counts } = await ended(batch.id)
  expect(counts.cancelled).toBeGreaterThan(20)
  expect((counts.cancelled ?? 0) + (counts.succeeded ?? 0)).toBe(40)
})

test('a batch that is cancelled while its rows are being taken up is cancelled whole', async () => {
  const accepting = post({ model: 'slow', rows: rows(8_000) })
  const newest = await world.until('it is stored', async () => {
    const { data } = (await world.get('/api/batches?limit=1')) as { data: { id: string; rows: number }[] }
    return data[0]?.rows === 8_000 && data[0].id
  })
  await world.request('POST', `/api/batches/${newest}/cancel`)
  await accepting
  const { status, counts } = await ended(newest)
  expect([status, counts.queued, counts.running]).toEqual(['cancelled', 0, 0])
})

test('what is parked of a cancelled batch is cancelled with it', async () => {
  const poison = { row_key: 'p', messages: [{ role: 'user', content: 'BOOM' }] }
  const { batch } = await post({ model: 'fatal', rows: [poison] })
  const parked = await world.until('it is parked', async () => {
    const view = (await world.get(`/api/batches/${batch.id}`)) as BatchView
    return view.counts.parked === 1 && view
  })
  // Nothing more comes by itself.
  expect(parked).toMatchObject({ status: 'completed', finished_at: expect.any(String) as string })
  expect((await world.request('POST', `/api/batches/${batch.id}/cancel`)).status).toBe(200)
  expect(await world.get(`/api/batches/${batch.id}`)).toMatchObject({
    status: 'cancelled',
    counts: { cancelled: 1 },
    finished_at: expect.any(String) as string,
  })
  const [row] = await results(batch.id)
  expect(row).toMatchObject({ status: 'cancelled', output: expect.anything() })
  expect((await world.events(`&job=${row?.job}`)).map(({ type }) => type)).toContain('job.cancelled')
})

test('a batch that is cancelled at another coordinator is cancelled where it runs', async () => {
  await using second = await World.open()
  const socket = path.join(world.dir, 'coordinator', 'postgres')
  await second.coordinator({
    DATABASE_URL: process.env.HOLDFAST_TEST_DATABASE_URL ?? `postgres://holdfast@/holdfast?host=${encodeURIComponent(socket)}`,
    HOLDFAST_MASTER_KEY: readFileSync(path.join(world.dir, 'coordinator', 'master.key'), 'utf8').trim(),
  })
  const { batch } = await post({ model: 'slow', rows: rows(300) })
  expect((await second.request('POST', `/api/batches/${batch.id}/cancel`)).status).toBe(200)
  const { status, counts } = await ended(batch.id)
  expect(status).toBe('cancelled')
  expect(counts.cancelled).toBeGreaterThan(250)
})

test('a batch that has ended is not cancelled', async () => {
  const { batch } = await post({ model: 'fake', rows: rows(3) })
  const done = await ended(batch.id)
  const refused = await world.request('POST', `/api/batches/${batch.id}/cancel`)
  expect([refused.status, ((await refused.json()) as BatchView).error?.code]).toEqual([409, 'batch_is_final'])
  expect(await world.get(`/api/batches/${batch.id}`)).toEqual(done)
})

test('kill -9 of the coordinator in the middle of a cancel: the next one carries it out', async () => {
  const { batch } = await post({ model: 'slow', rows: rows(3_000) })
  const cancel = world.request('POST', `/api/batches/${batch.id}/cancel`).catch(() => undefined)
  const db = world.database()
  await world.until('it is being cancelled', async () => {
    const found = await db.query('select from batches where id = $1 and cancelled_at is not null', [batch.id])
    return found.length === 1
  })
  await db.close()
  coordinator.kill()
  await Promise.all([cancel, coordinator.exited])
  coordinator = await world.coordinator()
  expect((await ended(batch.id)).counts).toMatchObject({ total: 3_000, queued: 0, running: 0, succeeded: 0 })
})

test('kill -9 of the coordinator in mid-batch: every row once', async () => {
  const { batch } = await post({ model: 'slow', rows: rows(60) })
  const done = await world.until('some are done', async () => {
    const lines = (await results(batch.id)).filter(({ status }) => status === 'succeeded')
    return lines.length > 3 && Promise.all(lines.map(({ job }) => world.job(job)))
  })
  coordinator.kill()
  coordinator = await world.coordinator()
  expect((await ended(batch.id)).counts).toMatchObject({ succeeded: 60 })
  const lines = await results(batch.id)
  expect(new Set(lines.map((line) => line.row_key)).size).toBe(60)
  for (const before of done) expect(await world.job(before.id)).toEqual(before)
  // The worker never stopped: what ran meanwhile is not begun anew either.
  for (const { job } of lines) expect((await world.job(job)).attempts.map(({ status }) => status)).toEqual(['succeeded'])
})

test('the official client uploads a file, runs it as a batch and reads output and errors', async () => {
  const line = (id: string, content: string): string =>
    JSON.stringify({
      custom_id: id,
      method: 'POST',
      url: '/v1/chat/completions',
      body: { model: 'fake', messages: [{ role: 'user', content }], max_tokens: 5 },
    })
  const content = [line('one', 'a'), line('two', 'b'), line('three', 'BOOM')].join('\n')
  const file = await client.files.create({ file: await toFile(Buffer.from(content), 'in.jsonl'), purpose: 'batch' })
  expect(file).toMatchObject({ object: 'file', bytes: content.length, filename: 'in.jsonl', purpose: 'batch' })
  expect(await (await client.files.content(file.id)).text()).toBe(content)
  const made = await client.batches.create({
    input_file_id: file.id,
    endpoint: '/v1/chat/completions',
    completion_window: '24h',
    metadata: { who: 'test' },
  })
  expect(made).toMatchObject({ object: 'batch', request_counts: { total: 3 }, metadata: { who: 'test' } })
  const done = await world.until('completed', async () => {
    const batch = await client.batches.retrieve(made.id)
    return batch.status === 'completed' ? batch : null
  })
  expect(done.request_counts).toEqual({ total: 3, completed: 2, failed: 1 })
  const output = (await (await client.files.content(done.output_file_id ?? '')).text()).trim().split('\n')
  expect(output.map((text) => JSON.parse(text) as unknown)).toMatchObject([
    { custom_id: 'one', response: { status_code: 200, body: { object: 'chat.completion', usage: { completion_tokens: 5 } } }, error: null },
    { custom_id: 'two', response: { status_code: 200 } },
  ])
  const { bytes } = await client.files.retrieve(done.output_file_id ?? '')
  expect(bytes).toBe((await (await client.files.content(done.output_file_id ?? '')).arrayBuffer()).byteLength)
  await expect(client.files.delete(done.output_file_id ?? '')).rejects.toMatchObject({ status: 409, code: 'file_is_made' })
  const errors = (await (await client.files.content(done.error_file_id ?? '')).text()).trim()
  expect(JSON.parse(errors)).toMatchObject({
    custom_id: 'three',
    response: { status_code: expect.any(Number), body: { error: { code: expect.any(String) } } },
    error: null,
  })
  const listed: string[] = []
  for await (const batch of client.batches.list()) listed.push(batch.id)
  expect(listed).toContain(made.id)
  const second = await client.files.create({ file: await toFile(Buffer.from('x'), 'second.jsonl'), purpose: 'batch' })
  for (const [order, ids] of [
    ['asc', [file.id, second.id]],
    ['desc', [second.id, file.id]],
  ] as const) {
    const found: string[] = []
    for await (const { id } of client.files.list({ order, limit: 1 })) found.push(id)
    expect(found.filter((id) => id === file.id || id === second.id)).toEqual(ids)
  }
  await client.files.delete(file.id)
  await expect(client.files.retrieve(file.id)).rejects.toMatchObject({ status: 404 })
})

test('a file sent again with its key is the same file', async () => {
  const upload = async (text: string, key: string): Promise<{ id: string }> =>
    client.files.create({ file: await toFile(Buffer.from(text), 'again.jsonl'), purpose: 'batch' }, { headers: { 'idempotency-key': key } })
  const [first, again] = [await upload('x', 'f1'), await upload('x', 'f1')]
  expect(again.id).toBe(first.id)
  const twins = await Promise.all(Array.from({ length: 6 }, () => upload('twin', 'f2')))
  expect(new Set(twins.map(({ id }) => id)).size).toBe(1)
  await client.files.delete(first.id)
  await expect(upload('x', 'f1')).rejects.toMatchObject({ status: 404, message: expect.stringContaining('new key') })
  await expect(upload('y', 'f1')).rejects.toMatchObject({ status: 422 })
  const refused = await world.request('POST', '/api/teams', { name: 'x' }, { 'idempotency-key': 'f1' })
  expect(refused.status).toBe(422)
})

test('a form that is none, or holds too much, is refused as what it is, and a file needs no name', async () => {
  const form = (body: string, type = 'multipart/form-data; boundary=x'): Promise<Response> =>
    fetch(`${world.url}/v1/files`, { method: 'POST', headers: { authorization: `Bearer ${ADMIN_KEY}`, 'content-type': type }, body })
  const file = '--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n{}\r\n'
  for (const [body, type] of [
    ['xx', 'multipart/form-data'],
    ['--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nba', undefined],
    [`${file}${file}--x--\r\n`, undefined],
  ] as const) {
    const refused = await form(body, type)
    expect([body, refused.status, ((await refused.json()) as BatchView).error?.code]).toEqual([body, 400, 'invalid_multipart'])
  }
  const purpose = '--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
  const head = 'content-disposition: form-data; name="file"\r\ncontent-type: application/octet-stream'
  const nameless = await form(`${purpose}--x\r\n${head}\r\n\r\n{}\r\n--x--\r\n`)
  expect([nameless.status, await nameless.json()]).toMatchObject([200, { filename: 'file', bytes: 2 }])
})

test('a body that is named and not sent is none', async () => {
  const { batch } = await post({ model: 'slow', rows: rows(40) })
  const headers = { 'content-type': 'application/json' }
  expect((await world.request('POST', `/api/batches/${batch.id}/cancel`, undefined, headers)).status).toBe(200)
  const file = await client.files.create({ file: await toFile(Buffer.from('{}'), 'x.jsonl'), purpose: 'batch' })
  expect((await world.request('DELETE', `/v1/files/${file.id}`, undefined, headers)).status).toBe(200)
  expect((await world.request('POST', '/v1/chat/completions', undefined, headers)).status).toBe(400)
})

test('bad files and batches of the dialect are refused by name', async () => {
  const upload = (text: string): Promise<{ id: string }> =>
    toFile(Buffer.from(text), 'x.jsonl').then((file) => client.files.create({ file, purpose: 'batch' }))
  const create = (input_file_id: string): Promise<unknown> =>
    client.batches.create({ input_file_id, endpoint: '/v1/chat/completions', completion_window: '24h' })
  await expect(upload('not json').then(({ id }) => create(id))).rejects.toMatchObject({ status: 400, code: 'invalid_json' })
  await expect(
    upload('{"custom_id":"a","method":"GET","url":"/v1/chat/completions","body":{}}').then(({ id }) => create(id)),
  ).rejects.toMatchObject({
    status: 400,
    message: expect.stringContaining('Row 1'),
  })
  const twice = JSON.stringify({
    custom_id: 'a',
    method: 'POST',
    url: '/v1/chat/completions',
    body: { model: 'fake', messages: [{ role: 'user', content: 'x' }] },
  })
  await expect(upload(`${twice}\n${twice}`).then(({ id }) => create(id))).rejects.toMatchObject({ status: 400, param: 'custom_id' })
  await expect(upload('').then(({ id }) => create(id))).rejects.toMatchObject({ status: 400 })
  await expect(create('file-none')).rejects.toMatchObject({ status: 404 })
  await expect(client.files.create({ file: await toFile(Buffer.from('x'), 'x'), purpose: 'fine-tune' })).rejects.toMatchObject({
    status: 400,
    param: 'purpose',
  })
})

test('intakes that take long leave connections to everybody else', async () => {
  const db = world.database()
  let finish = (): void => {}
  const finished = new Promise<void>((resolve) => (finish = resolve))
  const long = Array.from({ length: 12 }, () => db.longTransaction(() => finished))
  expect(await db.query('select 1 as one')).toEqual([{ one: 1 }])
  finish()
  await Promise.all(long)
  await db.close()
})
