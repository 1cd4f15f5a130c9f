import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import path from 'node:path'
import { freePorts } from '../support/ports.ts'
import { ADMIN_KEY, World } from '../support/world.ts'
import { commitsPerSecond, cpuSeconds, type Load, loadRequests, peakRssMiB, postgresOf, printTable, profiled, quantile } from './measure.ts'

/**
 * What coordinator, worker and PostgreSQL together add to an answer that costs nothing, with every job durable, beside a
 * bare Fastify route and the commits of the same PostgreSQL, in one run.
 */
export async function run(): Promise<void> {
  await using world = await World.open()
  const coordinator = await world.coordinator(profiled())
  const worker = await world.worker('bench', 'fake=fake:?slots=256 slow=fake:?slots=256&first_token_ms=20')
  const dataDir = path.join(world.dir, 'coordinator', 'postgres')
  const [port = 0] = await freePorts(1)
  const floor = spawn(process.execPath, [fileURLToPath(new URL('floor.ts', import.meta.url)), String(port)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  await new Promise((resolve) => floor.stdout.once('data', resolve))

  const url = `${world.url}/v1/chat/completions`
  const floorUrl = `http://127.0.0.1:${port}/v1/chat/completions`
  const headers = { authorization: `Bearer ${ADMIN_KEY}` }
  const body = JSON.stringify({
    model: 'fake',
    max_tokens: 16,
    messages: [
      { role: 'system', content: 'You are a helpful assistant.' },
      { role: 'user', content: `Say hello. ${'lorem ipsum dolor sit amet '.repeat(8)}` },
    ],
  })
  // What is compiled on the way is no part of what a request costs: after some ten thousand there is nothing left to compile.
  await loadRequests(url, headers, body, 32, WARM_UP_S)
  await loadRequests(floorUrl, {}, body, 32, 2)

  const r1 = await commitsPerSecond(dataDir, 2)
  const rows: Record<string, string | number>[] = []
  const results = new Map<number, { ours: Load; floor: Load }>()
  for (const connections of [1, 32, 128]) {
    const rounds: { ours: Load; floor: Load; per1000: number[]; floorCpu: number }[] = []
    for (let round = 0; round < ROUNDS; round++) {
      const floorBefore = cpuSeconds([floor.pid ?? 0])
      const bare = await loadRequests(floorUrl, {}, body, connections, 1.5)
      const floorCpu = ((cpuSeconds([floor.pid ?? 0]) - floorBefore) * 1000) / bare.count
      const postgres = postgresOf(coordinator.pid)
      const before = [cpuSeconds([coordinator.pid], false), cpuSeconds([worker.pid]), cpuSeconds(postgres, false)]
      const ours = await loadRequests(url, headers, body, connections, 2)
      const after = [cpuSeconds([coordinator.pid], false), cpuSeconds([worker.pid]), cpuSeconds(postgres, false)]
      const per1000 = after.map((seconds, index) => ((seconds - (before[index] ?? 0)) * 1000) / ours.count)
      rounds.push({ ours, floor: bare, per1000, floorCpu })
    }
    const [bare, ours] = [middleOf(rounds.map((round) => round.floor)), middleOf(rounds.map((round) => round.ours))]
    const per1000 = [0, 1, 2].map((part) => median(rounds.map((round) => round.per1000[part] ?? 0)))
    const cpu = per1000.reduce((sum, seconds) => sum + seconds, 0)
    const floorCpu = median(rounds.map((round) => round.floorCpu))
    results.set(connections, { ours, floor: bare })
    rows.push({
      connections,
      'floor req/s': bare.requestsPerSecond,
      'holdfast req/s': ours.requestsPerSecond,
      'of floor': median(rounds.map((round) => round.ours.requestsPerSecond / round.floor.requestsPerSecond)),
      'p50 ms': ours.p50Ms,
      'p99 ms': ours.p99Ms,
      'added p50 ms': ours.p50Ms - bare.p50Ms,
      'CPU s per 1,000': cpu,
      floors: cpu / floorCpu,
      'coordinator, worker, PostgreSQL': per1000.map((seconds) => seconds.toFixed(2)).join(', '),
    })
  }
  printTable(`overhead: fake engine, 16 tokens, durable; R1 = ${Math.round(r1)} commits/s (${(1000 / r1).toFixed(2)} ms each)`, rows)
  const one = results.get(1)
  console.log(
    `\nTargets: added p50 at one connection ≤ 0.6 ms + commits waited for (1): ${((one?.ours.p50Ms ?? 0) - (one?.floor.p50Ms ?? 0)).toFixed(2)} against ${(0.6 + 1000 / r1).toFixed(2)} ms; ≥ 0.25 of the floor at 32; ≥ 0.4 at 128; ≤ 0.35 CPU s per 1,000 at 32, which is 5.3 floors where that was measured.`,
  )
  const slow = await loadRequests(url, headers, body.replace('"fake"', '"slow"'), 1, 3)
  const bare = await loadRequests(floorUrl, {}, body.replace('{', '{"first_token_ms":20,'), 1, 3)
  console.log(
    `With a 20 ms first token: p50 ${slow.p50Ms.toFixed(2)} ms at one connection, ${(slow.p50Ms - bare.p50Ms).toFixed(2)} ms more than a floor that waits as long (target ≤ 0.5).`,
  )
  console.log(`Peak RSS of the coordinator: ${peakRssMiB(coordinator.pid).toFixed(0)} MiB.`)
  await coordinator.stop()
  floor.kill()
}

/** The machine's own speed drifts by half within seconds: each figure is the median of several turns beside one another. */
const ROUNDS = 7
const WARM_UP_S = 15

function middleOf(loads: Load[]): Load {
  return loads.toSorted((a, b) => a.requestsPerSecond - b.requestsPerSecond)[loads.length >> 1] as Load
}

function median(figures: number[]): number {
  return quantile(
    figures.toSorted((a, b) => a - b),
    0.5,
  )
}
