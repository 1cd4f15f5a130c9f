import { type ChildProcess, spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import path from 'node:path'
import { freePorts } from '../support/ports.ts'
import { ADMIN_KEY, type Running, World } from '../support/world.ts'
import { commitsPerSecond, cpuSeconds, type Load, loadRequests, peakRssMiB, postgresOf, printTable, profiled, quantile } from './measure.ts'
import { burst, firstTokens, pacedStreams, type Target } from './streams.ts'

/**
 * The cloud path: every job durable, with its decision, usage and cost, beside a direct call to the same upstream and beside
 * a bare proxy in front of it, in one run. Client, upstream, coordinator and PostgreSQL share the machine. A second word
 * (`requests`, `burst`, `paced`, `first`) runs that part alone.
 */
export async function run(): Promise<void> {
  await using world = await World.open()
  const coordinator = await world.coordinator(profiled())
  const [upstreamPort = 0, floorPort = 0] = await freePorts(2)
  const upstream = await start('gateway-upstream.ts', upstreamPort)
  const floor = await start('gateway-floor.ts', floorPort, upstreamPort)
  await addProvider(world, upstreamPort)
  const paths: Paths = {
    direct: { url: `http://127.0.0.1:${upstreamPort}/v1/chat/completions`, headers: {} },
    floor: { url: `http://127.0.0.1:${floorPort}/v1/chat/completions`, headers: {} },
    holdfast: { url: `${world.url}/v1/chat/completions`, headers: { authorization: `Bearer ${ADMIN_KEY}` } },
  }
  await expectSameAnswers(world, paths)
  // Some ten thousand requests go by before everything on their way is compiled as well as it will be.
  await loadRequests(paths.holdfast.url, paths.holdfast.headers, REQUEST, 32, 10)
  await loadRequests(paths.floor.url, {}, REQUEST, 32, 2)

  const pids = { direct: () => [], floor: () => [floor.pid ?? 0], holdfast: () => [coordinator.pid, ...postgresOf(coordinator.pid)] }
  const parts: Record<string, () => Promise<Row[]>> = {
    requests: () => requests(paths, pids, world),
    first: () => firstChunks(paths),
    burst: () => bursts(paths, pids),
    paced: () => paced(paths, pids),
  }
  const only = process.argv[3]
  const rows: Row[] = []
  for (const [name, part] of Object.entries(parts)) if (only === undefined || only === name) rows.push(...(await part()))
  printTable('gateway: OpenAI in, OpenAI out; CPU is that of the gateway, PostgreSQL included', rows)
  console.log(`\nPeak RSS of the coordinator: ${peakRssMiB(coordinator.pid).toFixed(0)} MiB.`)
  await stop(coordinator, [upstream, floor])
}

type Paths = Record<'direct' | 'floor' | 'holdfast', Target>
type Pids = Record<keyof Paths, () => number[]>
type Row = Record<'what' | 'direct' | 'floor' | 'holdfast' | 'compared' | 'target', string | number>

const PATHS = ['direct', 'floor', 'holdfast'] as const
const REQUEST = JSON.stringify({
  model: 'plain',
  max_tokens: 16,
  messages: [
    { role: 'system', content: 'You are a helpful assistant.' },
    { role: 'user', content: `Say hello. ${'lorem ipsum dolor sit amet '.repeat(8)}` },
  ],
})
const REQUEST_SECONDS = 5
const BURST_WAVES = 8

async function requests(paths: Paths, pids: Pids, world: World): Promise<Row[]> {
  const r1 = await commitsPerSecond(path.join(world.dir, 'coordinator', 'postgres'), 2)
  const rows: Row[] = []
  for (const connections of [1, 32, 128]) {
    const load = {} as Record<keyof Paths, Load>
    const cpu = { direct: 0, floor: 0, holdfast: 0 }
    let own = 0
    for (const name of PATHS) {
      const before = cpuSeconds(pids[name](), false)
      const ownBefore = cpuSeconds(pids[name]().slice(0, 1), false)
      load[name] = await loadRequests(paths[name].url, paths[name].headers, REQUEST, connections, REQUEST_SECONDS)
      cpu[name] = ((cpuSeconds(pids[name](), false) - before) * 1000) / load[name].count
      own = ((cpuSeconds(pids[name]().slice(0, 1), false) - ownBefore) * 1000) / load[name].count
    }
    const { direct, floor, holdfast } = load
    rows.push({
      what: `requests/s, ${connections} connection${connections === 1 ? '' : 's'}`,
      direct: direct.requestsPerSecond,
      floor: floor.requestsPerSecond,
      holdfast: holdfast.requestsPerSecond,
      compared: `${(holdfast.requestsPerSecond / floor.requestsPerSecond).toFixed(3)} of the floor, ${(holdfast.requestsPerSecond / r1).toFixed(2)} R1`,
      target: connections === 32 ? '≥ 0.25 of the floor' : '',
    })
    const added = holdfast.p50Ms - direct.p50Ms
    if (connections === 1)
      rows.push({
        what: 'p50 ms, 1 connection',
        direct: direct.p50Ms,
        floor: floor.p50Ms,
        holdfast: holdfast.p50Ms,
        compared: `${added.toFixed(2)} added`,
        target: `≤ 0.5 + one commit = ${(0.5 + 1000 / r1).toFixed(2)} added`,
      })
    rows.push({
      what: `CPU s per 1,000, ${connections} connection${connections === 1 ? '' : 's'}`,
      direct: '',
      floor: cpu.floor,
      holdfast: cpu.holdfast,
      compared: `${(cpu.holdfast / cpu.floor).toFixed(1)} floors; PostgreSQL ${(cpu.holdfast - own).toFixed(2)} of it`,
      target: connections === 32 ? '≤ 0.35' : '',
    })
  }
  const commit: Row = { what: 'R1: commits/s, 1 connection', direct: '', floor: '', holdfast: r1, compared: '', target: '' }
  return [commit, ...rows]
}

async function firstChunks(paths: Paths): Promise<Row[]> {
  const p50 = {} as Record<keyof Paths, number>
  for (const name of PATHS) p50[name] = quantile(await firstTokens(paths[name], { model: 'first' }), 0.5)
  const added = `${(p50.holdfast - p50.direct).toFixed(2)} added`
  return [{ what: 'first chunk p50 ms (upstream 5 ms)', ...p50, compared: added, target: '≤ 1 added' }]
}

async function bursts(paths: Paths, pids: Pids): Promise<Row[]> {
  const speed = {} as Record<keyof Paths, number>
  const cpu = { direct: 0, floor: 0, holdfast: 0 }
  for (const name of PATHS) {
    await burst(paths[name], 'burst', 1)
    const before = cpuSeconds(pids[name](), false)
    const fast = await burst(paths[name], 'burst', BURST_WAVES)
    cpu[name] = ((cpuSeconds(pids[name](), false) - before) * 1e6) / (64 * 500 * BURST_WAVES)
    speed[name] = fast.tokensPerSecond
  }
  const { floor, holdfast } = cpu
  const ratio = `${(speed.holdfast / speed.floor).toFixed(3)} of the floor`
  return [
    { what: 'burst tokens/s (64 × 500)', ...speed, compared: ratio, target: '≥ 150,000' },
    { what: 'CPU s per 1M tokens, burst', direct: '', floor, holdfast, compared: `${(holdfast / floor).toFixed(1)} floors`, target: '≤ 6' },
  ]
}

async function paced(paths: Paths, pids: Pids): Promise<Row[]> {
  const p99 = {} as Record<keyof Paths, number>
  const cpu = { direct: 0, floor: 0, holdfast: 0 }
  for (const name of PATHS) {
    const before = cpuSeconds(pids[name](), false)
    const { gapsMs, tokens } = await pacedStreams(paths[name], { model: 'paced' })
    cpu[name] = ((cpuSeconds(pids[name](), false) - before) * 1e6) / tokens
    p99[name] = quantile(gapsMs, 0.99)
  }
  const { floor, holdfast } = cpu
  const added = `${(p99.holdfast - p99.direct).toFixed(2)} added`
  return [
    { what: 'gap p99 ms, 64 streams at 50/s', ...p99, compared: added, target: '≤ 0.5 added' },
    {
      what: 'CPU s per 1M tokens, paced',
      direct: '',
      floor,
      holdfast,
      compared: `${(holdfast / floor).toFixed(1)} floors`,
      target: '≤ 75',
    },
  ]
}

/** What is fast must be right: the same text and usage as from the upstream, and a job that says what it cost. */
async function expectSameAnswers(world: World, paths: Paths): Promise<void> {
  const whole = await Promise.all(PATHS.map((name) => answerOf(paths[name], JSON.parse(REQUEST))))
  const streamed = await Promise.all(PATHS.map((name) => streamOf(paths[name])))
  for (const texts of [whole.map(({ text }) => text), streamed])
    if (new Set(texts).size !== 1) throw new Error(`The answers differ: ${JSON.stringify(texts)}`)
  const job = (await world.get(`/api/jobs/${whole[2]?.job}`)) as { status: string; tier: string; cost_micros: number }
  if (job.status !== 'succeeded' || job.tier !== 'cloud' || !(job.cost_micros > 0))
    throw new Error(`Not a paid job: ${JSON.stringify(job)}`)
}

async function answerOf(target: Target, body: unknown): Promise<{ text: string; job: string | null }> {
  const response = await ask(target, body)
  const answer = (await response.json()) as { choices: { message: { content: string }; finish_reason: string }[]; usage: unknown }
  const [choice] = answer.choices
  const { prompt_tokens: prompt, completion_tokens: completion } = answer.usage as Record<string, number>
  return {
    text: `${choice?.message.content}/${choice?.finish_reason}/${prompt}/${completion}`,
    job: response.headers.get('x-holdfast-job'),
  }
}

async function streamOf(target: Target): Promise<string> {
  const response = await ask(target, { ...(JSON.parse(REQUEST) as object), model: 'burst', stream: true })
  let text = ''
  for (const line of (await response.text()).split('\n'))
    if (line.startsWith('data: {')) {
      const [choice] = (JSON.parse(line.slice(6)) as { choices: { delta: { content?: string }; finish_reason: string | null }[] }).choices
      text += (choice?.delta.content ?? '') + (choice?.finish_reason ?? '')
    }
  return text
}

async function ask({ url, headers }: Target, body: unknown): Promise<Response> {
  const response = await fetch(url, {
    method: 'POST',
    headers: { ...headers, 'content-type': 'application/json' },
    body: JSON.stringify(body),
  })
  if (!response.ok) throw new Error(`${url} answered ${response.status}: ${await response.text()}`)
  return response
}

async function addProvider(world: World, upstreamPort: number): Promise<void> {
  const models = ['plain', 'burst', 'paced', 'first'].map((name) => ({
    name,
    upstream: name,
    input_micros_per_mtok: 1_000_000,
    output_micros_per_mtok: 4_000_000,
  }))
  await post(world, '/api/credentials', { name: 'bench-key', secret: 'sk-bench' })
  const base_url = `http://127.0.0.1:${upstreamPort}/v1`
  await post(world, '/api/providers', {
    name: 'bench',
    tier: 'cloud',
    kind: 'openai',
    base_url,
    credential: 'bench-key',
    max_parallel: 256,
    models,
  })
}

async function post(world: World, target: string, body: unknown): Promise<void> {
  const response = await world.request('POST', target, body)
  if (!response.ok) throw new Error(`POST ${target}: ${response.status} ${await response.text()}`)
}

/** Resolves when it listens. */
async function start(file: string, ...args: number[]): Promise<ChildProcess> {
  const child = spawn(process.execPath, [fileURLToPath(new URL(file, import.meta.url)), ...args.map(String)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  await new Promise((resolve, reject) => {
    child.stdout.once('data', resolve)
    child.once('exit', (code) => reject(new Error(`${file} ended with ${code}`)))
  })
  return child
}

async function stop(coordinator: Running, others: ChildProcess[]): Promise<void> {
  await coordinator.stop()
  for (const child of others) {
    child.removeAllListeners('exit')
    child.kill()
  }
}
