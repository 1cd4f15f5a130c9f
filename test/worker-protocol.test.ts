import { randomUUID } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { connect } from 'node:net'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import type { JobId, WorkerId } from '../coordinator/core/job.ts'
import type { Dispatcher } from '../coordinator/engine/dispatcher.ts'
import { WorkerSessions } from '../coordinator/link.ts'
import {
  type CoordinatorEnd,
  dialLink,
  type FromCoordinator,
  type FromWorker,
  PROTOCOL_MAJOR,
  PROTOCOL_MINOR,
  STARTS_SINCE_MINOR,
  type ToldByCoordinator,
  type WorkerEnd,
} from '../proto/link.ts'
import { chatStream } from './support/stream.ts'
import { descendants, type Running, WORKER_TOKEN, World } from './support/world.ts'

let world: World
let coordinator: Running

beforeAll(async () => {
  world = await World.open()
  coordinator = await world.coordinator({ HOLDFAST_HEARTBEAT_S: '1', HOLDFAST_DEAD_AFTER_S: '4' })
})
afterAll(() => world.close())

test('another protocol version is refused with both numbers', async () => {
  const { error } = await session({ protocolMajor: 99 }).ended
  expect(error).toMatch(/FAILED_PRECONDITION.*protocol 1\.\d+.*99/)
})

test('a wrong token is refused before a word is read', async () => {
  const { error } = await session({}, 'wrong-token-wrong-token').ended
  expect(error).toMatch(/UNAUTHENTICATED.*HOLDFAST_WORKER_TOKEN/)
})

test('garbage in the greeting is refused with what is wrong', async () => {
  expect((await session({ worker: 'not-a-uuid' }).ended).error).toMatch(/INVALID_ARGUMENT.*UUID/)
  expect((await session({ name: '' }).ended).error).toMatch(/INVALID_ARGUMENT.*name/)
  expect((await session({ models: Array.from({ length: 100 }, (_, index) => model(`m${index}`)) }).ended).error).toMatch(/at most 64/)
})

test('a first message that is no greeting is refused', async () => {
  const end = dialLink(`127.0.0.1:${world.grpcPort}`, WORKER_TOKEN).open()
  const ended = outcome(end)
  end.write({ heartbeat: { count: 1, models: [] } })
  expect((await ended).error).toMatch(/INVALID_ARGUMENT.*Hello/)
})

test('bytes that are not gRPC close the connection and nothing else', async () => {
  await new Promise<void>((resolve) => {
    const socket = connect(world.grpcPort, '127.0.0.1', () => socket.write('GET / HTTP/1.1\r\n\r\n'.repeat(100)))
    socket.on('close', () => resolve())
    socket.on('error', () => resolve())
    socket.resume()
  })
  expect((await fetch(`${world.url}/readyz`)).status).toBe(200)
})

test('a worker opens no port, and neither does the process of its model', async () => {
  const worker = await world.worker('portless', 'tiny=builtin:tiny fake=fake:')
  expect(descendants(worker.pid)).not.toEqual([])
  expect(portsOf(worker.pid)).toEqual([])
  // Of who does, it is seen.
  expect(portsOf(coordinator.pid)).toEqual([world.httpPort, world.grpcPort].toSorted((left, right) => left - right))
  await worker.stop()
})

test('two workers of one name cannot be connected at once; one identity twice is one worker', async () => {
  const first = session({ name: 'twin' })
  await first.welcomed()
  expect((await session({ name: 'twin' }).ended).error).toMatch(/ALREADY_EXISTS.*HOLDFAST_WORKER_NAME/)
  const again = session({ name: 'twin', worker: first.worker })
  await again.welcomed()
  await first.ended
  expect((await world.findWorker('twin'))?.state).toBe('online')
  again.end.end()
})

test('two hosts with a copied identity do not push each other out for ever: the one that comes back is told', async () => {
  const [old, young] = [randomUUID(), randomUUID()]
  const first = session({ name: 'original', session: old })
  await first.welcomed()
  const copy = session({ name: 'copy', worker: first.worker, session: young })
  await copy.welcomed()
  await first.ended
  const { error } = await session({ name: 'original', worker: first.worker, session: old }).ended
  expect(error).toMatch(/ALREADY_EXISTS.*connected as "copy".*HOLDFAST_DATA_DIR/)
  // The one that is connected may lose its connection and come again as often as it likes.
  const again = session({ name: 'copy', worker: first.worker, session: young })
  await again.welcomed()
  await copy.ended
  expect((await session({ name: 'original', worker: first.worker, session: old }).ended).error).toMatch(/ALREADY_EXISTS/)
  again.end.end()
  await again.ended
  const alone = session({ name: 'original', worker: first.worker, session: old })
  await alone.welcomed()
  alone.end.end()
})

test('reports about attempts that nobody gave it change nothing and are counted', async () => {
  const one = session({ name: 'liar', models: [model('lies')] })
  await one.welcomed()
  const before = await staleReports()
  const job = randomUUID()
  one.end.write({
    output: {
      chunks: [{ job, attempt: 1, first: 0, tokenIds: [1], text: 'lie' }],
      finished: [{ job, attempt: 1, tokens: 1, finishReason: 'stop' }],
      failed: [{ job, attempt: 2, code: 'x' }],
    },
  })
  await world.until('counted', async () => (await staleReports()) >= before + 3)
  one.end.end()
})

test('a hole in the output is asked for again, and what comes twice counts once', async () => {
  const one = session({ name: 'holey', models: [model('holes')] })
  await one.welcomed()
  const stream = chatStream(world, 'holes', 'x')
  const { start } = await one.told((message) => message.start != null)
  const base = { job: start?.job ?? '', attempt: start?.attempt ?? 0 }
  const chunk = (first: number, text: string): FromWorker => ({ output: { chunks: [{ ...base, first, tokenIds: [first], text }] } })
  one.end.write(chunk(0, 'a'))
  one.end.write(chunk(2, 'c'))
  const { resume } = await one.told((message) => message.resume != null)
  expect(resume).toMatchObject({ ...base, first: 1 })
  for (const [first, text] of [
    [0, 'a'],
    [1, 'b'],
    [1, 'b'],
    [2, 'c'],
  ] as const)
    one.end.write(chunk(first, text))
  one.end.write({ output: { finished: [{ ...base, tokens: 3, text: '!', finishReason: 'stop', promptTokens: 1, completionTokens: 3 }] } })
  expect(await stream.done).toMatchObject({ text: 'abc!', finish: 'stop' })
  const { acknowledge } = await one.told((message) => message.acknowledge != null)
  expect(acknowledge?.attempts).toEqual([base])
  one.end.end()
})

test('an end that names more tokens than arrived is not believed', async () => {
  const one = session({ name: 'hasty', models: [model('haste')] })
  await one.welcomed()
  const stream = chatStream(world, 'haste', 'x')
  const { start } = await one.told((message) => message.start != null)
  const base = { job: start?.job ?? '', attempt: start?.attempt ?? 0 }
  one.end.write({ output: { finished: [{ ...base, tokens: 2, finishReason: 'stop' }] } })
  const { resume } = await one.told((message) => message.resume != null)
  expect(resume?.first).toBe(0)
  one.end.write({
    output: { chunks: [{ ...base, first: 0, tokenIds: [1, 2], text: 'whole' }], finished: [{ ...base, tokens: 2, finishReason: 'stop' }] },
  })
  expect((await stream.done).text).toBe('whole')
  one.end.end()
})

test('a worker that refuses is asked again later, and the job loses no attempt for it', async () => {
  const one = session({ name: 'full', models: [model('refusing')] })
  await one.welcomed()
  const stream = chatStream(world, 'refusing', 'x')
  for (let attempt = 1; attempt <= 4; attempt++) {
    const { start } = await one.told((message) => message.start?.attempt === attempt)
    // A reason is words, and no more of them than can be told.
    one.end.write({ refused: { job: start?.job ?? '', attempt, reason: attempt === 2 ? 'x'.repeat(1_000_000) : 'spend_limit' } })
  }
  const { start } = await one.told((message) => message.start?.attempt === 5)
  one.end.write({
    output: {
      chunks: [{ job: start?.job ?? '', attempt: 5, first: 0, tokenIds: [1], text: 'at last' }],
      finished: [{ job: start?.job ?? '', attempt: 5, tokens: 1, finishReason: 'stop' }],
    },
  })
  expect((await stream.done).text).toBe('at last')
  const told = await world.events(`&job=${start?.job}&type=job.requeued`)
  expect(
    told
      .map(({ details }) => String(details.why).length)
      .toSorted((left, right) => left - right)
      .at(-1),
  ).toBe(216)
  one.end.end()
})

test('what a worker still holds of a cancelled job is told to stop when it returns', async () => {
  const one = session({ name: 'back', held: [{ job: randomUUID(), attempt: 3 }] })
  const { cancel } = await one.told((message) => message.cancel != null)
  expect(cancel?.attempt).toBe(3)
  one.end.end()
})

test('what one turn starts besides the first leaves in one message, a cancel comes behind it, and an older worker gets one by one', async () => {
  const ids: string[] = []
  for (let index = 0; index < 3; index++) {
    const body = { model: 'gathered', messages: [{ role: 'user', content: `${index}` }] }
    // The model is known from here on, and nobody serves it yet.
    if (index === 0) session({ name: 'herald', models: [{ ...model('gathered'), state: 'loading' }] }).end.end()
    const accepted = await world.until('the model is known', async () => {
      const response = await world.request('POST', '/api/jobs', body)
      return response.status === 202 && ((await response.json()) as { id: string })
    })
    ids.push(accepted.id)
  }
  const served = { models: [{ ...model('gathered'), slots: 3 }] }
  const newer = session({ ...served, name: 'newer', protocolMinor: PROTOCOL_MINOR })
  const { start } = await newer.told((message) => message.start != null)
  const { starts } = await newer.told((message) => message.starts != null)
  expect([start?.job, ...(starts?.attempts.map(({ job }) => job) ?? [])]).toEqual(ids)
  await world.request('POST', `/api/jobs/${ids[1]}/cancel`)
  expect((await newer.told((message) => message.cancel != null)).cancel?.job).toBe(ids[1])
  newer.end.end()
  const older = session({ ...served, name: 'older' })
  for (const id of [ids[0], ids[2]]) expect((await older.told((message) => message.start != null)).start?.job).toBe(id)
  older.end.end()
  for (const id of ids) await world.request('POST', `/api/jobs/${id}/cancel`)
})

test('a model whose name no row can hold is refused in the greeting, and left out of a heartbeat', async () => {
  const odd = session({ name: 'odd', models: [model('a\u0000b')] })
  expect((await odd.ended).error).toContain('A model needs a name of 1 to 200 printable characters.')
  const one = session({ name: 'even', models: [model('even')] })
  await one.welcomed()
  one.end.write({ heartbeat: { count: 1, models: [model('even'), model('a\u0000b')] } })
  await world.until('the heartbeat was heard', async () => (await world.findWorker('even'))?.models.length === 1)
  one.end.end()
})

test('a count that no model can have reached does not keep a job from its end', async () => {
  const one = session({ name: 'boaster', models: [model('boasts')] })
  await one.welcomed()
  const stream = chatStream(world, 'boasts', 'x')
  const { start } = await one.told((message) => message.start != null)
  const base = { job: start?.job ?? '', attempt: start?.attempt ?? 0 }
  const counts = { promptTokens: 4_000_000_000, completionTokens: 4_000_000_000, cachedTokens: 4_000_000_000 }
  one.end.write({
    output: {
      chunks: [{ ...base, first: 0, tokenIds: [1], text: 'a' }],
      finished: [{ ...base, tokens: 1, finishReason: 'stop', ...counts }],
    },
  })
  expect((await stream.done).text).toBe('a')
  await world.until('its end is stored', async () => {
    const { acknowledge } = await one.told((message) => message.acknowledge != null)
    return acknowledge?.attempts.length === 1
  })
  one.end.end()
})

test('words and times that nothing can hold cost a worker no more than them, and the rest of what it says is kept', async () => {
  const odd = { ...model('odd'), detail: 'bad \u0000 word', limitedUntilMs: 9e15 }
  const host = { platform: 'li\u0000nux', cpuModel: 'x', gpus: [{ name: 'gpu \u0000' }] }
  const one = session({ name: 'odd', version: '1\u0000', models: [odd, model('even')], host })
  await one.welcomed()
  const stream = chatStream(world, 'odd', 'x')
  await world.until('the stream says why it waits', () => stream.seen.comments.some((comment) => comment.includes('until=9999-12-31')))
  one.end.write({ heartbeat: { count: 1, models: [model('odd'), model('even')] } })
  const { start } = await one.told((message) => message.start != null)
  const base = { job: start?.job ?? '', attempt: start?.attempt ?? 0 }
  const deltas = [
    { toolCalls: 5, logprobs: [null, {}], asides: ['x', { at: 'y' }], annotations: 1, reasoning: 2, refusal: [] },
    { toolCalls: [null, { index: -1 }, { index: 1e9 }, { index: 7, id: 'c', name: 'f', arguments: 3 }, { index: 0.5 }] },
    {
      asides: [
        { at: 0, kind: 'citations' },
        { at: 0, kind: 'block', block: 'x' },
        { at: -1, kind: 'text-block' },
        { at: 0, kind: 'end', message: {}, usage: 1 },
        { at: 0, kind: 'thought' },
      ],
    },
    { logprobs: [{ token: 'a', logprob: -1, bytes: null, top_logprobs: [null] }], asides: [{ at: 0, kind: 'odd' }] },
    { annotations: [nested(50_000), { url: 'x' }], asides: [{ at: 0, kind: 'citations', citations: [nested(50_000)] }] },
    { asides: Array.from({ length: 150_000 }, () => ({ at: 0, kind: 'text-block' })) },
    5,
  ]
  one.end.write({ output: { chunks: [{ ...base, first: 0, tokenIds: [1], text: 'a', delta: inJson(deltas) }] } })
  one.end.write({ output: { finished: [{ ...base, tokens: 1, finishReason: 'tool_calls', promptTokens: 1, completionTokens: 1 }] } })
  expect(await stream.done).toMatchObject({ text: 'a', finish: 'tool_calls' })
  const { output } = await world.job(base.job)
  expect(output).toMatchObject({ tool_calls: [{ id: 'c', name: 'f', arguments: '' }], annotations: [{ url: 'x' }] })
  expect(output).not.toHaveProperty('logprobs')
  const asides = (output as unknown as { asides: unknown[] }).asides
  expect([asides.length, asides.every((aside) => (aside as { kind: string }).kind === 'text-block')]).toEqual([1_000, true])
  const db = world.database()
  await world.until('its row is written', async () => {
    const [row] = await db.query(`select models, host from workers where name = 'odd'`)
    return JSON.stringify(row).includes('even')
  })
  await db.close()
  one.end.end()
})

/** Where a process and those below it listen for connections, by /proc. */
function portsOf(pid: number): number[] {
  const found = new Set([pid, ...descendants(pid)].flatMap(portsOfOne))
  return [...found].toSorted((left, right) => left - right)
}

function portsOfOne(pid: number): number[] {
  try {
    const links = readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`))
    const sockets = ['tcp', 'tcp6'].flatMap((table) => readFileSync(`/proc/${pid}/net/${table}`, 'utf8').trim().split('\n').slice(1))
    return sockets
      .map((line) => line.trim().split(/\s+/))
      .filter(([, , , state, , , , , , inode]) => state === LISTENS && links.includes(`socket:[${inode}]`))
      .map(([, address]) => Number.parseInt(address?.split(':')[1] ?? '', 16))
  } catch (error) {
    // It ended while we looked, or closed something.
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
    return existsSync(`/proc/${pid}`) ? portsOfOne(pid) : []
  }
}

const LISTENS = '0A'

/** Deeper than JSON.stringify can go. */
const nested = (levels: number): string => `${'['.repeat(levels)}${']'.repeat(levels)}`

function inJson(deltas: unknown): string {
  return JSON.stringify(deltas).replaceAll(/"(\[+\]+)"/g, '$1')
}

type Hello = Partial<NonNullable<FromWorker['hello']>>

test('a cancel leaves behind the start that it is about, of however many a turn starts', () => {
  const { greet, sent, sessions } = sessionsByHand()
  const worker = randomUUID() as WorkerId
  greet({ worker, session: 's', link: 'a' })
  for (const job of ['one', 'two', 'three'] as JobId[])
    sessions.start(worker, { job, attempt: 1, model: 'm', request: '{}', continuation: [], stream: true, seedGiven: false })
  sessions.cancel(worker, 'three' as JobId, 1)
  expect(sent.map((message) => Object.keys(message)[0])).toEqual(['welcome', 'start', 'starts', 'cancel'])
})

test('a start leaves at once, but where the turn before had several they leave together', async () => {
  const { greet, sent, sessions } = sessionsByHand()
  const worker = randomUUID() as WorkerId
  greet({ worker, session: 's', link: 'a' })
  /** What has left before the turn is over, and after it. */
  const turn = async (jobs: string[]): Promise<[string[], string[]]> => {
    const told = (from: number): string[] =>
      sent.slice(from).map(({ start, starts }) => (start ? [start.job] : (starts?.attempts ?? []).map(({ job }) => job)).join('+'))
    const from = sent.length
    for (const job of jobs as JobId[])
      sessions.start(worker, { job, attempt: 1, model: 'm', request: '{}', continuation: [], stream: true, seedGiven: false })
    const atOnce = told(from)
    await new Promise((resolve) => setImmediate(resolve))
    return [atOnce, told(from + atOnce.length)]
  }
  expect(await turn(['a'])).toEqual([['a'], []])
  expect(await turn(['b', 'c', 'd'])).toEqual([['b'], ['c+d']])
  expect(await turn(['e', 'f'])).toEqual([[], ['e+f']])
  expect(await turn(['g'])).toEqual([[], ['g']])
  expect(await turn(['h'])).toEqual([['h'], []])
})

test('what becomes durable within a moment is acknowledged in one message, and not to a session that has gone', async () => {
  const { greet, sent, sessions } = sessionsByHand()
  const worker = randomUUID() as WorkerId
  const { end } = greet({ worker, session: 's', link: 'a' })
  const acknowledge = (...jobs: string[]): void => jobs.forEach((job) => sessions.acknowledge(worker, job as JobId, 1))
  const acknowledged = (): string[][] =>
    sent.flatMap((message) => (message.acknowledge ? [(message.acknowledge.attempts ?? []).map(({ job }) => String(job))] : []))
  acknowledge('one', 'two')
  await vi.waitFor(() => expect(acknowledged()).toEqual([['one', 'two']]))
  acknowledge('three')
  await vi.waitFor(() => expect(acknowledged().at(-1)).toEqual(['three']))
  acknowledge('four')
  end()
  greet({ worker, session: 's', link: 'a' })
  acknowledge('five')
  await vi.waitFor(() => expect(acknowledged().at(-1)).toEqual(['five']))
  expect(acknowledged()).toHaveLength(3)
})

test('of two addresses of one coordinator a worker has a session by one, and by the other when that has failed', () => {
  const { greet, refused } = sessionsByHand()
  const worker = randomUUID() as WorkerId
  const first = greet({ worker, session: 's', link: 'a' })
  greet({ worker, session: 's', link: 'b' })
  expect(refused).toEqual([expect.stringContaining('HOLDFAST_COORDINATOR needs one of them')])
  // The same address again: its old stream is half open.
  const again = greet({ worker, session: 's', link: 'a' })
  first.end()
  greet({ worker, session: 's', link: 'b' })
  expect(refused).toHaveLength(2)
  again.end()
  greet({ worker, session: 's', link: 'b' })
  // Another process of this identity, such as after a restart.
  greet({ worker, session: 't', link: 'c' })
  expect(refused).toHaveLength(2)
})

/** The coordinator's end alone, with workers that say what the test says. */
function sessionsByHand() {
  const sent: FromCoordinator[] = []
  const refused: string[] = []
  const nothing = (): void => {}
  const sessions = new WorkerSessions({
    ...{ coordinator: 'c', heartbeatIntervalMs: 1_000, deadAfterMs: 4_000, onHello: nothing, onHeartbeat: nothing },
    onRefused: nothing,
  })
  sessions.serve({ workerConnected: nothing, workerDisconnected: nothing } as unknown as Dispatcher)
  const greet = (hello: { worker: WorkerId; session: string; link: string }): { end: () => void } => {
    const listeners = new Map<string, (told?: object) => void>()
    sessions.open({
      on: (name: string, listener: (told?: object) => void) => listeners.set(name, listener),
      write: (message: FromCoordinator) => sent.push(message),
      end: nothing,
      emit: (_error: string, { details }: { details: string }) => refused.push(details),
    } as unknown as CoordinatorEnd)
    const facts = { protocolMajor: PROTOCOL_MAJOR, protocolMinor: PROTOCOL_MINOR, version: '0', models: [], held: [] }
    listeners.get('data')?.({ message: 'hello', hello: { ...facts, name: 'w', draining: false, host: null, ...hello } })
    return { end: () => listeners.get('end')?.() }
  }
  return { greet, sent, refused, sessions }
}

function model(name: string): NonNullable<NonNullable<FromWorker['hello']>['models']>[number] {
  return { name, engine: 'test', state: 'ready', slots: 1, sha256: name }
}

/** A worker by hand. */
function session(hello: Hello, token = WORKER_TOKEN) {
  const end = dialLink(`127.0.0.1:${world.grpcPort}`, token).open()
  const messages: ToldByCoordinator[] = []
  end.on('data', (message: ToldByCoordinator) => messages.push(message))
  const ended = outcome(end)
  const worker = hello.worker ?? randomUUID()
  end.write({
    hello: {
      protocolMajor: PROTOCOL_MAJOR,
      // Before starts were gathered: what older workers understand has to go on working.
      protocolMinor: STARTS_SINCE_MINOR - 1,
      name: `w-${worker.slice(0, 8)}`,
      session: randomUUID(),
      version: '0',
      models: [],
      held: [],
      ...hello,
      worker,
    },
  })
  let read = 0
  const told = (wanted: (message: ToldByCoordinator) => boolean): Promise<ToldByCoordinator> =>
    world.until('the coordinator says it', () => {
      const found = messages.findIndex((message, index) => index >= read && wanted(message))
      if (found < 0) return undefined
      read = found + 1
      return messages[found]
    })
  return {
    end,
    worker,
    ended,
    told,
    /** Asked only of those that must be let in. */
    welcomed: () => world.until('welcome', () => messages.some((message) => message.welcome != null)),
  }
}

function outcome(end: WorkerEnd): Promise<{ error: string | null }> {
  return new Promise((resolve) => {
    end.on('data', () => {})
    end.on('error', (error) => resolve({ error: error.message.replace(/^\d+ /, '') }))
    end.on('end', () => resolve({ error: null }))
  })
}

async function staleReports(): Promise<number> {
  const text = await (await fetch(`${world.url}/metrics`)).text()
  return Number(/^holdfast_stale_reports_total (\d+)/m.exec(text)?.[1] ?? 0)
}
