import { execFileSync, spawn } from 'node:child_process'
import { chmodSync, mkdirSync, readdirSync, readFileSync, statSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { chatStream } from './support/stream.ts'
import { type Running, World } from './support/world.ts'

/** Setting up, stopping, and starting again: what a stranger does first. */

test('up serves the built-in model, says how to talk to it, stops without a trace and remembers', async () => {
  await using world = await World.open()
  const data = path.join(world.dir, 'data')
  const first = await up(world, data, {})
  const curl = await world.until('the curl line', () => /^ {2}(curl .*)$/m.exec(first.output)?.[1])
  const answer = execFileSync('sh', ['-c', curl], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
  expect((JSON.parse(answer) as { usage: { completion_tokens: number } }).usage.completion_tokens).toBeGreaterThan(5)
  expect(first.output).toContain(path.join(data, 'admin.key'))
  expect(first.output).toMatch(/toy/)
  for (const file of ['admin.key', 'worker.token']) expect(statSync(path.join(data, file)).mode & 0o777).toBe(0o600)
  expect(first.output).not.toContain(readFileSync(path.join(data, 'admin.key'), 'utf8').trim())
  await first.stop()
  expect(first.ended).toEqual({ code: 0, signal: null })
  await world.until('nothing is left behind', () => leftBehind(world.dir).length === 0)

  const second = await up(world, data, {})
  const key = readFileSync(path.join(data, 'admin.key'), 'utf8').trim()
  const jobs = (await (await fetch(`${world.url}/api/jobs`, { headers: { authorization: `Bearer ${key}` } })).json()) as { data: unknown[] }
  expect(jobs.data).toHaveLength(1)

  const beside = world.start('beside', ['up'], { HOLDFAST_DATA_DIR: data, HOLDFAST_ADMIN_KEY: '', HOLDFAST_WORKER_TOKEN: '' })
  await beside.exited
  expect(beside.ended?.code).toBe(1)
  expect(beside.output).toMatch(/Another Holdfast is running/)

  second.kill('SIGKILL')
  await second.exited
  const third = await up(world, data, {})
  // Its worker is drained by somebody: that is no reason to take the coordinator down.
  const authorization = `Bearer ${key}`
  const { data: workers } = (await (await fetch(`${world.url}/api/workers`, { headers: { authorization } })).json()) as Workers
  await fetch(`${world.url}/api/workers/${workers[0]?.id}/drain`, { method: 'POST', headers: { authorization } })
  await world.until('it says so', () => third.output.includes('the coordinator serves on'))
  expect((await fetch(`${world.url}/readyz`)).status).toBe(200)
  await third.stop()
  expect(third.ended).toEqual({ code: 0, signal: null })
  await world.until('nothing is left behind', () => leftBehind(world.dir).length === 0)
})

test('kill -9 of up alone takes everything it started with it', async () => {
  await using world = await World.open()
  const running = await up(world, path.join(world.dir, 'data'), {})
  process.kill(running.pid, 'SIGKILL')
  await world.until('nothing is left behind', () => leftBehind(world.dir).length === 0)
})

test('SIGTERM to npm alone stops everything that npm start started', async () => {
  await using world = await World.open()
  const env = world.env({ HOLDFAST_DATA_DIR: path.join(world.dir, 'data'), HOLDFAST_ADMIN_KEY: '', HOLDFAST_WORKER_TOKEN: '' })
  const npm = spawn('npm', ['start'], { cwd: fileURLToPath(new URL('..', import.meta.url)), env, stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  for (const stream of [npm.stdout, npm.stderr]) stream.on('data', (data: Buffer) => (output += data.toString()))
  try {
    await world.until('it is ready', () => output.includes('Holdfast is ready') || Promise.reject(new Error(output)))
    npm.kill('SIGTERM')
    await world.until('nothing is left behind', () => leftBehind(world.dir).length === 0, 20_000)
  } finally {
    for (const pid of leftBehind(world.dir)) process.kill(Number(pid), 'SIGKILL')
    npm.kill('SIGKILL')
  }
})

test.skipIf(process.getuid?.() !== 0)('root may keep the data where only root may enter', async () => {
  await using world = await World.open()
  const closed = path.join(world.dir, 'closed')
  mkdirSync(closed)
  chmodSync(closed, 0o700)
  await world.coordinator({ HOLDFAST_DATA_DIR: path.join(closed, 'deep', 'data') })
  await world.worker('a', 'fake=fake:')
  expect((await chatStream(world, 'fake', 'x').done).usage?.completion_tokens).toBe(16)
})

test('a data directory too deep for a socket address works all the same', async () => {
  await using world = await World.open()
  const deep = path.join(world.dir, ...Array.from({ length: 6 }, () => 'a-rather-long-folder-name'))
  mkdirSync(deep, { recursive: true })
  await world.coordinator({ HOLDFAST_DATA_DIR: deep })
})

test('a taken port is told with the setting to change', async () => {
  await using world = await World.open()
  await world.coordinator()
  for (const [name, setting] of [
    ['HOLDFAST_HTTP_PORT', String(world.httpPort)],
    ['HOLDFAST_GRPC_PORT', String(world.grpcPort)],
  ] as const) {
    const second = world.start('second', ['coordinator'], {
      HOLDFAST_HTTP_PORT: '0',
      HOLDFAST_GRPC_PORT: '0',
      HOLDFAST_DATA_DIR: path.join(world.dir, name),
      [name]: setting,
    })
    await second.exited
    expect(second.ended?.code).toBe(1)
    expect(second.output).toContain(name)
    expect(second.output).not.toMatch(/\bat .*\.ts:\d+/)
  }
})

test('a malformed or unknown setting stops the start and names itself', async () => {
  await using world = await World.open()
  const tries: [string, string, string][] = [
    ['coordinator', 'HOLDFAST_HTTP_PORT', 'eighty'],
    ['coordinator', 'HOLDFAST_HTPP_PORT', '80'],
    ['coordinator', 'HOLDFAST_ADMIN_KEY', 'short'],
    ['coordinator', 'HOLDFAST_LOG_LEVEL', 'loud'],
    ['coordinator', 'HOLDFAST_DEAD_AFTER_S', '5'],
    ['coordinator', 'HOLDFAST_HEARTBEAT_S', '15'],
    ['worker', 'HOLDFAST_MODELS', 'x=nonsense'],
    ['worker', 'HOLDFAST_MODELS', 'x=fake:?slots=many'],
    ['worker', 'HOLDFAST_MODELS', 'x=/does/not/exist.gguf'],
    ['worker', 'HOLDFAST_COORDINATOR', 'no-port'],
    ['worker', 'HOLDFAST_COORDINATOR', '127.0.0.1:99999'],
    ['worker', 'HOLDFAST_MODELS', 'x=fake:?slots=1&slots=2'],
    ['coordinator', 'REDIS_URL', 'nonsense'],
    ['coordinator', 'DATABASE_URL', 'mysql://a:b@127.0.0.1/x'],
    ['coordinator', 'HOLDFAST_HTTP_PORT', '0x50'],
    ['coordinator', 'HOLDFAST_HOST', '192.0.2.1'],
    ['coordinator', 'HOLDFAST_DATA_DIR', '/proc/nowhere'],
    ['worker', 'HOLDFAST_DATA_DIR', '/etc/passwd/x'],
    ['worker', 'HOLDFAST_WORKER_NAME', '-rf'],
    // Of another command.
    ['worker', 'HOLDFAST_QUEUE_LIMIT', 'zz'],
    ['jobs', 'HOLDFAST_HTTP_PORT', 'abc'],
    ['jobs', 'HOLDFAST_URL', 'nonsense'],
    ['up', 'HOLDFAST_MODELS', 'x=nonsense'],
  ]
  for (const [command, name, value] of tries) {
    const running = world.start(name, [command], { HOLDFAST_DATA_DIR: path.join(world.dir, 'x'), [name]: value })
    await running.exited
    expect(running.ended?.code, name).toBe(1)
    expect(running.output).toContain(name)
    expect(running.output).not.toMatch(/\bat .*\.ts:\d+|Starting Holdfast/)
  }
})

const hasIpv6 = Object.values(os.networkInterfaces()).some((addresses) => addresses?.some(({ address }) => address === '::1'))

test.skipIf(!hasIpv6)('both doors open at an address of IPv6', async () => {
  await using world = await World.open()
  await world.coordinator({ HOLDFAST_HOST: '::' })
  await world.worker('a', 'fake=fake:', { HOLDFAST_COORDINATOR: `[::1]:${world.grpcPort}` })
  expect((await fetch(`http://[::1]:${world.httpPort}/readyz`)).status).toBe(200)
})

test('commands: help with an example, wrong usage is 2, refused is 1, json is json', async () => {
  await using world = await World.open()
  await world.coordinator()
  await world.worker('a', 'fake=fake:')
  const run = async (...args: string[]): Promise<Running> => {
    const running = world.start('cli', args, {})
    await running.exited
    return running
  }
  const commands = [...(await run('--help')).output.matchAll(/^  ([a-z]+) {2}/gm)].map(([, name]) => name ?? '')
  expect(commands.length).toBeGreaterThan(15)
  for (const command of commands) {
    const help = await run(command, '--help')
    expect([help.ended?.code, help.output], command).toEqual([0, expect.stringContaining('Example: ')])
  }
  for (const wrong of [
    ...['frobnicate', 'jobs --frobnicate', 'workers nonsense', 'health nonsense', 'jobs --severity error', 'coordinator --port 9000'],
    ...['up now', 'worker --name x', 'migrate --now', 'teams create bad --weight abc', 'teams create', 'teams create a b', 'jobs cancel'],
    ...['jobs decision', 'jobs --limit many', 'keys create --name x', 'workers drain', 'credentials create --name x', 'models --json=1'],
  ]) {
    const refused = await run(...wrong.split(' '))
    expect([refused.ended?.code, refused.output], wrong).toEqual([2, expect.stringMatching(/usage:|settings are/i)])
  }
  expect((await run('workers', 'drain', 'nobody')).ended?.code).toBe(1)
  expect((await run('jobs', 'not-an-id')).ended?.code).toBe(1)
  expect((await run('health')).ended?.code).toBe(0)
  expect(JSON.parse((await run('workers', '--json')).output)).toMatchObject({ data: [{ name: 'a', state: 'online' }] })
  expect((await run('workers')).output).toMatch(/a +online/)
  expect((await run('models')).output).toContain('fake')
  for (const command of commands.filter((name) => !['up', 'coordinator', 'worker', 'migrate'].includes(name)))
    expect(JSON.parse((await run(command, '--json')).output), command).toEqual(expect.any(Object))
  expect(JSON.parse((await run('workers', 'invite', '--name', 'rack', '--json')).output)).toMatchObject({ name: 'rack' })
  const rows = Array.from({ length: 190 }, (_, index) => ({ row_key: `row-${index}`, messages: [{ role: 'user', content: 'x' }] }))
  expect((await world.request('POST', '/api/batches', { model: 'fake', rows })).status).toBe(202)
  // More than a pipe takes at once, and nobody reads it yet.
  const launcher = fileURLToPath(new URL('../coordinator/holdfast', import.meta.url))
  const piped = execFileSync('sh', ['-c', `"${launcher}" jobs --limit 200 --json | (sleep 0.5; cat)`], {
    env: world.env(),
    encoding: 'utf8',
  })
  expect(piped.length).toBeGreaterThan(100_000)
  expect((JSON.parse(piped) as { data: unknown[] }).data).toHaveLength(190)
  const drained = await run('workers', 'drain', 'a')
  expect(JSON.parse(drained.output)).toMatchObject({ name: 'a' })
  await world.until('it has gone', async () => (await world.findWorker('a'))?.state === 'offline')
  expect((await run('workers', 'archive', 'a')).ended?.code).toBe(0)
})

test('two workers on one data directory: the second is refused', async () => {
  await using world = await World.open()
  await world.coordinator()
  await world.worker('a', 'fake=fake:')
  const second = world.start('again', ['worker'], {
    HOLDFAST_DATA_DIR: path.join(world.dir, 'a'),
    HOLDFAST_WORKER_NAME: 'b',
    HOLDFAST_MODELS: 'fake=fake:',
  })
  await second.exited
  expect([second.ended?.code, second.output]).toEqual([1, expect.stringContaining('HOLDFAST_DATA_DIR')])
})

test('SIGTERM of a worker drains: what runs is finished, or goes on elsewhere without a gap', async () => {
  await using world = await World.open()
  await world.coordinator()
  const a = await world.worker('a', 'fake=fake:?slots=2&rate=100', { HOLDFAST_DRAIN_TIMEOUT_S: '0.5' })
  const want = (await chatStream(world, 'fake', 'drain', { max_tokens: 250 }).done).text
  const short = chatStream(world, 'fake', 'short', { max_tokens: 40 })
  const long = chatStream(world, 'fake', 'drain', { max_tokens: 250 })
  await world.until('both run', () => short.seen.deltas > 5 && long.seen.deltas > 5)
  a.kill('SIGTERM')
  expect((await short.done).usage?.completion_tokens).toBe(40)
  await a.exited
  expect(a.ended).toEqual({ code: 0, signal: null })
  await world.worker('b', 'fake=fake:?slots=2&rate=400')
  expect(await long.done).toMatchObject({ text: want, error: null })
  const job = await world.job(long.seen.job)
  expect(job.attempts.map((attempt) => attempt.error?.code ?? attempt.status)).toEqual(['worker_draining', 'succeeded'])
})

test('npm start is ready with what is served, and says why a model is not', async () => {
  await using world = await World.open()
  const models = 'gone=cli:command?command=no-such-program reads=builtin:tiny?embedding=true writes=fake:'
  const running = await up(world, path.join(world.dir, 'data'), { HOLDFAST_MODELS: models })
  expect(running.output).toMatch(/Model "gone" is not served yet: there is no program "no-such-program"/)
  expect(running.output).toContain('"model":"writes"')
  await running.stop()
})

test('a worker that is given one coordinator under two names has one session with it', async () => {
  await using world = await World.open()
  await world.coordinator()
  const twice = `127.0.0.1:${world.grpcPort},localhost:${world.grpcPort},127.0.0.1:${world.grpcPort}`
  const worker = await world.worker('a', 'fake=fake:?rate=50', { HOLDFAST_COORDINATOR: twice })
  await world.until('it has noticed', () => worker.output.includes('This worker is connected already, by another of its addresses'))
  expect(await chatStream(world, 'fake', 'x', { max_tokens: 100 }).done).toMatchObject({ finish: 'length', error: null })
  expect(await world.events('&type=worker.returned')).toEqual([])
})

type Workers = { data: { id: string }[] }

async function up(world: World, data: string, extra: Record<string, string>): Promise<Running> {
  const running = world.start('up', ['up'], {
    HOLDFAST_DATA_DIR: data,
    HOLDFAST_ADMIN_KEY: '',
    HOLDFAST_WORKER_TOKEN: '',
    HOLDFAST_COORDINATOR: '',
    ...extra,
  })
  await world.until('up is ready', () => {
    if (running.ended !== null) throw new Error(running.output)
    return running.output.includes('curl ')
  })
  return running
}

/** Processes that name the folder in their environment or command. */
function leftBehind(dir: string): string[] {
  return readdirSync('/proc').filter((pid) => {
    if (!/^\d+$/.test(pid) || Number(pid) === process.pid) return false
    try {
      const facts = readFileSync(`/proc/${pid}/environ`, 'utf8') + readFileSync(`/proc/${pid}/cmdline`, 'utf8')
      return facts.includes(dir) && !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
    } catch {
      // Gone, or not ours to read.
      return false
    }
  })
}
