import path from 'node:path'
import { existsSync, readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { chatStream, type Stream } from './support/stream.ts'
import { descendants, Failed, World } from './support/world.ts'

/** The rows of the failure table in ARCHITECTURE.md, done to real processes. */

test('kill -9 of a worker in mid-answer: the stream goes on elsewhere, every character once', async () => {
  await using world = await World.open()
  await world.coordinator()
  const a = await world.worker('a', 'fake=fake:?slots=8&rate=100')
  const want = (await chatStream(world, 'fake', 'count for me', { max_tokens: 300 }).done).text
  await world.worker('b', 'fake=fake:?slots=8&rate=100')
  const streams = Array.from({ length: 8 }, () => chatStream(world, 'fake', 'count for me', { max_tokens: 300 }))
  await started(world, streams, 20)
  const killedMs = Date.now()
  a.kill()
  for (const stream of streams) {
    const seen = await stream.done
    expect(seen).toMatchObject({ text: want, error: null, done: true, finish: 'length', usage: { completion_tokens: 300 } })
  }
  const jobs = await Promise.all(streams.map((stream) => world.job(stream.seen.job)))
  const moved = jobs.filter((job) => job.attempts.length === 2)
  expect(moved.length).toBeGreaterThan(0)
  expect(moved.every((job) => job.attempts[0]?.status === 'lost' && job.output?.text === want)).toBe(true)
  const events = await world.events(`&job=${moved[0]?.id}`)
  expect(events.map((event) => event.type).toReversed()).toEqual(['job.accepted', 'job.requeued', 'job.started', 'job.succeeded'])
  const requeued = events.find((event) => event.type === 'job.requeued')
  // It is a second on a machine that has nothing else to do.
  expect(Date.parse(requeued?.at ?? '') - killedMs).toBeLessThan(5_000)
})

test('the only worker dies: the stream waits, says why, and goes on when it is back', async () => {
  await using world = await World.open()
  await world.coordinator()
  const a = await world.worker('a', 'fake=fake:?slots=2&rate=100')
  const want = (await chatStream(world, 'fake', 'alone', { max_tokens: 200 }).done).text
  const stream = chatStream(world, 'fake', 'alone', { max_tokens: 200 })
  await started(world, [stream], 20)
  a.kill()
  await world.until('the stream says why it waits', () => stream.seen.comments.some((comment) => comment.includes('no_provider_for_model')))
  await world.worker('a', 'fake=fake:?slots=2&rate=100')
  expect(await stream.done).toMatchObject({ text: want, usage: { completion_tokens: 200 } })
  const { data } = (await world.get('/api/workers')) as { data: unknown[] }
  expect(data).toHaveLength(1)
})

test('SIGSTOP of a worker: dead after the dead time, and what the sleeper says when it wakes is refused', async () => {
  await using world = await World.open()
  await world.coordinator({ HOLDFAST_HEARTBEAT_S: '0.5', HOLDFAST_DEAD_AFTER_S: '2' })
  const a = await world.worker('a', 'fake=fake:?slots=8&rate=50')
  const want = (await chatStream(world, 'fake', 'frozen', { max_tokens: 200 }).done).text
  const long = chatStream(world, 'fake', 'frozen', { max_tokens: 5_000 })
  await started(world, [long], 1)
  await world.worker('b', 'fake=fake:?slots=8&rate=50')
  const streams = Array.from({ length: 6 }, () => chatStream(world, 'fake', 'frozen', { max_tokens: 200 }))
  await started(world, streams, 10)
  a.kill('SIGSTOP')
  await world.until('a is offline', async () => (await world.findWorker('a'))?.state === 'offline')
  for (const stream of streams) expect((await stream.done).text).toBe(want)
  const before = await staleReports(world)
  a.kill('SIGCONT')
  // Of the job that goes on elsewhere it has something to say.
  await world.until('what it says is refused', async () => (await staleReports(world)) > before)
  await world.until('a is back', async () => (await world.findWorker('a'))?.state === 'online')
  await world.until('a holds nothing', async () => (await world.findWorker('a'))?.models[0]?.busy === 0)
  for (const stream of streams) expect((await world.job(stream.seen.job)).output?.text).toBe(want)
  await world.until('it has gone on', () => long.seen.text.length > want.length)
  expect(long.seen.text.slice(0, want.length)).toBe(want)
  expect((await world.job(long.seen.job)).attempts.map(({ status, worker }) => `${worker} ${status}`)).toEqual(['a lost', 'b running'])
  long.abort()
  await world.until('it is cancelled', async () => (await world.job(long.seen.job)).status === 'cancelled')
})

test.each([
  { moment: 'while its database is being made', sign: 'postgres.new/PG_VERSION' },
  { moment: 'when its PostgreSQL answers for the first time', sign: 'postgres/.s.PGSQL.5432' },
])('kill -9 of the very first start $moment: the next one succeeds', async ({ sign }) => {
  await using world = await World.open()
  const dir = path.join(world.dir, 'fresh')
  const first = world.start('first', ['coordinator'], { HOLDFAST_DATA_DIR: dir })
  await world.until('it has come so far', () => existsSync(path.join(dir, sign)))
  first.kill()
  await first.exited
  const next = world.start('next', ['coordinator'], { HOLDFAST_DATA_DIR: dir })
  await world.until('it is ready', async () => {
    expect(next.ended, next.output).toBe(null)
    return (await fetch(`${world.url}/readyz`)).ok
  })
})

test('SIGTERM of the coordinator: who waits longer than it drains is told, in its dialect, and its job goes on', async () => {
  await using world = await World.open()
  const coordinator = await world.coordinator({ HOLDFAST_DRAIN_TIMEOUT_S: '0.5' })
  await world.worker('a', 'fake=fake:?slots=5&rate=50')
  const asked = { model: 'fake', max_tokens: 100, messages: [{ role: 'user', content: 'x' }] }
  const calls: [path: string, body: object][] = [false, true].flatMap((stream) => [
    ['/v1/chat/completions', { ...asked, stream }],
    ['/v1/messages', { ...asked, stream }],
    ['/v1/responses', { model: 'fake', max_output_tokens: 100, input: 'x', stream }],
  ])
  const answers = calls.map(async ([path, body]) => {
    const response = await world.request('POST', path, body)
    return { status: response.status, job: response.headers.get('x-holdfast-job') ?? '', text: await response.text() }
  })
  await world.until('five run and one waits', async () => {
    const { data } = (await world.get('/api/jobs')) as { data: { status: string }[] }
    return data.filter(({ status }) => status === 'running').length === 5 && data.length === 6
  })
  await coordinator.stop()
  const told = await Promise.all(answers)
  expect(told.map(({ status }) => status)).toEqual([503, 503, 503, 200, 200, 200])
  for (const { text } of told) expect(text).toContain('"code":"coordinator_stopping"')
  await world.coordinator()
  for (const { job } of told) await world.until('it is done', async () => (await world.job(job)).status === 'succeeded')
})

test('SIGSTOP of the coordinator for longer than the dead time: nobody is taken for dead, and the answer goes on in its one attempt', async () => {
  await using world = await World.open()
  const coordinator = await world.coordinator({ HOLDFAST_HEARTBEAT_S: '0.5', HOLDFAST_DEAD_AFTER_S: '3' })
  await world.worker('a', 'fake=fake:?slots=2&rate=50')
  const want = (await chatStream(world, 'fake', 'paused', { max_tokens: 150 }).done).text
  const stream = chatStream(world, 'fake', 'paused', { max_tokens: 150 })
  await world.until('it streams', () => stream.seen.deltas > 2)
  coordinator.kill('SIGSTOP')
  await new Promise((resolve) => setTimeout(resolve, 5_000))
  coordinator.kill('SIGCONT')
  expect(await stream.done).toMatchObject({ text: want, error: null })
  expect((await world.job(stream.seen.job)).attempts.map((attempt) => attempt.status)).toEqual(['succeeded'])
  expect((await world.events()).filter((event) => event.type === 'worker.lost')).toEqual([])
})

test('kill -9 of the process of a model: the worker lives, the stream goes on after its restart', async () => {
  await using world = await World.open()
  await world.coordinator()
  const a = await world.worker('a', 'tiny=builtin:tiny?slots=2&context=2048')
  const want = await chatStream(world, 'tiny', 'Tell me a long story.', { max_tokens: 1_500, min_tokens: 1_500 }).done
  let moved = 0
  // An answer may be over before the kill arrives, and then it proves nothing.
  for (let round = 0; round < 20 && moved < 3; round++) {
    const stream = chatStream(world, 'tiny', 'Tell me a long story.', { max_tokens: 1_500, min_tokens: 1_500 })
    await world.until('it streams', () => stream.seen.deltas > 0)
    for (const pid of descendants(a.pid)) process.kill(pid, 'SIGKILL')
    expect(await stream.done).toMatchObject({
      text: want.text,
      error: null,
      finish: want.finish,
      usage: { completion_tokens: want.usage?.completion_tokens },
    })
    await world.until('the model is back', async () => (await world.findWorker('a'))?.models[0]?.state === 'ready')
    if ((await world.job(stream.seen.job)).attempts.length > 1) moved += 1
  }
  expect(moved).toBe(3)
  expect(a.ended).toBeNull()
  const types = (await world.events()).map((event) => event.type)
  expect(types).toContain('model.crashed')
})

test('SIGSTOP of the process of a model: it is killed after the dead time, and the stream goes on after its restart', async () => {
  await using world = await World.open()
  await world.coordinator()
  const a = await world.worker('a', 'tiny=builtin:tiny?slots=2&context=4096')
  const want = await chatStream(world, 'tiny', 'Tell me a long story.', { max_tokens: 3_500, min_tokens: 3_500 }).done
  let moved = 0
  // The whole answer takes seconds; a test that is held up meanwhile freezes a model that has said everything, and tries again.
  for (let round = 1; round <= 4 && moved === 0; round++) {
    const stream = chatStream(world, 'tiny', 'Tell me a long story.', { max_tokens: 3_500, min_tokens: 3_500 })
    while (stream.seen.deltas === 0) await new Promise((resolve) => setImmediate(resolve))
    for (const pid of descendants(a.pid)) process.kill(pid, 'SIGSTOP')
    expect(await stream.done).toMatchObject({ text: want.text, error: null, finish: want.finish })
    const crashes = await world.until('it was killed', async () => {
      const found = (await world.events()).filter((event) => event.type === 'model.crashed')
      return found.length === round && found
    })
    expect(JSON.stringify(crashes[0]?.details)).toContain('said nothing for 15 s')
    await world.until('the model is back', async () => (await world.findWorker('a'))?.models[0]?.state === 'ready')
    if ((await world.job(stream.seen.job)).attempts.length > 1) moved += 1
  }
  expect(moved).toBe(1)
  expect(a.ended).toBeNull()
}, 200_000)

test('a process of a model that was frozen when its worker was killed is ended by the next worker of the host', async () => {
  await using world = await World.open()
  await world.coordinator()
  const a = await world.worker('a', 'tiny=builtin:tiny?slots=2')
  const [frozen = 0] = descendants(a.pid)
  process.kill(frozen, 'SIGSTOP')
  process.kill(a.pid, 'SIGKILL')
  await a.exited
  await world.worker('a', 'tiny=builtin:tiny?slots=2')
  // Killed, it may wait a moment for whoever inherited it.
  await world.until('it has ended', () => {
    try {
      return /\) [ZX] /.test(readFileSync(`/proc/${frozen}/stat`, 'utf8'))
    } catch {
      return true
    }
  })
})

test('a prompt that kills its model is parked after three attempts, and others go on', async () => {
  await using world = await World.open()
  await world.coordinator()
  await world.worker('a', 'fake=fake:?slots=4&rate=500&crash_on=POISON')
  const seen = await chatStream(world, 'fake', 'this is POISON', { max_tokens: 8 }).done
  expect(seen.error).toMatchObject({ code: 'model_process_died' })
  const job = await world.until('the job is parked', async () => {
    const found = await world.job(seen.job)
    return found.status === 'parked' && found
  })
  expect(job.attempts.map((attempt) => attempt.status)).toEqual(['failed', 'failed', 'failed'])
  expect(job.error?.code).toBe('model_process_died')
  expect((await chatStream(world, 'fake', 'harmless', { max_tokens: 8 }).done).usage?.completion_tokens).toBe(8)
  expect((await world.request('POST', `/api/jobs/${job.id}/release`)).status).toBe(200)
  await world.until('it is parked again, after three attempts more', async () => {
    const again = await world.job(job.id)
    return again.status === 'parked' && again.attempts.length === 6
  })
  expect((await world.request('POST', `/api/jobs/${job.id}/cancel`)).status).toBe(200)
  expect((await world.request('POST', `/api/jobs/${job.id}/release`)).status).toBe(409)
  expect((await world.job(job.id)).status).toBe('cancelled')
  expect((await world.request('POST', `/api/jobs/${job.id}/cancel`)).status).toBe(409)
})

test('kill -9 of the coordinator: what was queued and running is there after its restart and finishes, from where it was', async () => {
  await using world = await World.open()
  const first = await world.coordinator()
  await world.worker('a', 'fake=fake:?slots=2&rate=40')
  const want = (await chatStream(world, 'fake', 'survive', { max_tokens: 120 }).done).text
  const streams = Array.from({ length: 5 }, () => chatStream(world, 'fake', 'survive', { max_tokens: 120 }))
  await world.until(
    'all accepted, some running',
    () => streams.every((stream) => stream.seen.job !== '') && streams.some((stream) => stream.seen.deltas > 10),
  )
  first.kill()
  await Promise.allSettled(streams.map((stream) => stream.done))
  await world.coordinator()
  for (const { seen } of streams) {
    const job = await world.until(`job ${seen.job} has its answer`, async () => {
      const found = await world.job(seen.job)
      return found.status === 'succeeded' && found
    })
    expect(job.output?.text).toBe(want)
    // The worker never stopped: the attempt that ran is the attempt that ends.
    expect(job.attempts).toHaveLength(1)
  }
})

test('kill -9 of coordinator and worker together: running jobs go on from their last checkpoint', async () => {
  await using world = await World.open()
  const coordinator = await world.coordinator()
  const worker = await world.worker('a', 'fake=fake:?slots=2&rate=40')
  const want = (await chatStream(world, 'fake', 'both', { max_tokens: 160 }).done).text
  const stream = chatStream(world, 'fake', 'both', { max_tokens: 160 })
  await started(world, [stream], 70)
  worker.kill()
  coordinator.kill()
  await stream.done.catch(() => {})
  await world.coordinator()
  await world.worker('a', 'fake=fake:?slots=2&rate=40')
  const job = await world.until('the job has its answer', async () => {
    const found = await world.job(stream.seen.job)
    return found.status === 'succeeded' && found
  })
  expect(job.output?.text).toBe(want)
  const restarted = (await world.events(`&job=${job.id}`)).find((event) => event.type === 'job.started' && event.details.attempt === 2)
  expect(Number(restarted?.details.continued_tokens)).toBeGreaterThan(10)
})

test('PostgreSQL killed under load: running streams go on, new work waits, nothing acknowledged is lost', async () => {
  await using world = await World.open()
  const coordinator = await world.coordinator()
  await world.worker('a', 'fake=fake:?slots=8&rate=60')
  const want = (await chatStream(world, 'fake', 'steady', { max_tokens: 240 }).done).text
  const streams = Array.from({ length: 8 }, () => chatStream(world, 'fake', 'steady', { max_tokens: 240 }))
  await started(world, streams, 10)
  const ask = { model: 'fake', messages: [{ role: 'user', content: 'after' }], max_tokens: 8 }
  const queued = Array.from({ length: 4 }, (_, index) => chatStream(world, 'fake', `later ${index}`, { max_tokens: 8 }))
  await world.until('accepted', () => queued.every((stream) => stream.seen.job !== ''))
  const server = descendants(coordinator.pid).find(
    (pid) => commandOf(pid).includes('postgres -D') || /bin\/postgres\0-D/.test(commandOf(pid)),
  )
  expect(server).toBeDefined()
  const killedMs = Date.now()
  process.kill(server ?? 0, 'SIGKILL')
  await world.until('new work is accepted', async () => (await world.request('POST', '/api/jobs', ask)).status === 202)
  // The server is back after some two seconds, on a machine that has nothing else to do.
  expect(Date.now() - killedMs).toBeLessThan(10_000)
  for (const stream of streams) expect(await stream.done).toMatchObject({ text: want, error: null, usage: { completion_tokens: 240 } })
  const late = await world.until('it accepts again', async () => {
    const seen = await chatStream(world, 'fake', 'after', { max_tokens: 8 }).done
    return seen.status === 200 && seen
  })
  expect(late.usage?.completion_tokens).toBe(8)
  for (const stream of [...streams, ...queued]) {
    await stream.done
    await world.until('stored', async () => (await world.job(stream.seen.job)).status === 'succeeded')
  }
})

test('PostgreSQL killed while the coordinator starts: the start is begun anew and succeeds', async () => {
  await using world = await World.open()
  await (await world.coordinator()).stop()
  const coordinator = world.start('coordinator', ['coordinator'], { HOLDFAST_DATA_DIR: path.join(world.dir, 'coordinator') })
  const isServer = (pid: number): boolean => /bin\/postgres\0-D/.test(commandOf(pid))
  const server = await world.until('its PostgreSQL is there', () => descendants(coordinator.pid).find(isServer))
  process.kill(server, 'SIGKILL')
  await world.until('it is ready', async () => {
    if (coordinator.ended !== null) throw new Failed(`it ended: ${coordinator.output}`)
    return (await fetch(`${world.url}/readyz`)).ok
  })
})

async function started(world: World, streams: Stream[], deltas: number): Promise<void> {
  await world.until('all are streaming', () => streams.every((stream) => stream.seen.deltas >= deltas))
}

async function staleReports(world: World): Promise<number> {
  const text = await (await fetch(`${world.url}/metrics`)).text()
  return Number(/^holdfast_stale_reports_total (\d+)/m.exec(text)?.[1] ?? 0)
}

function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8')
  } catch {
    // Ended meanwhile.
    return ''
  }
}
