import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { freePorts } from '../support/ports.ts'
import { ADMIN_KEY, World } from '../support/world.ts'
import { cpuSeconds, printTable, quantile } from './measure.ts'
import { burst, firstTokens, pacedStreams } from './streams.ts'

/**
 * Streams through coordinator and worker beside the same streams from a bare Fastify route: in burst, paced, and the time
 * to the first token on a kept-alive connection.
 */
export async function run(): Promise<void> {
  await using world = await World.open()
  const coordinator = await world.coordinator()
  await world.worker('bench', 'burst=fake:?slots=256 paced=fake:?slots=256&rate=50 first=fake:?slots=256&first_token_ms=5')
  const [port = 0] = await freePorts(1)
  const floor = spawn(process.execPath, [fileURLToPath(new URL('floor.ts', import.meta.url)), String(port)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  await new Promise((resolve) => floor.stdout.once('data', resolve))
  const direct = { url: `http://127.0.0.1:${port}/v1/chat/completions`, headers: {} }
  const through = { url: `${world.url}/v1/chat/completions`, headers: { authorization: `Bearer ${ADMIN_KEY}` } }
  await burst(through, 'burst', 2)

  const rows: Record<string, string | number>[] = []
  for (const [name, target, pid] of [
    ['direct', direct, floor.pid],
    ['holdfast', through, coordinator.pid],
  ] as const) {
    const fast = await burst(target, 'burst', 4)
    const before = cpuSeconds([pid ?? 0], false)
    const paced = await pacedStreams(target, name === 'direct' ? { model: 'paced', rate: 50 } : { model: 'paced' })
    const cpu = cpuSeconds([pid ?? 0], false) - before
    const first = await firstTokens(target, name === 'direct' ? { model: 'first', first_token_ms: 5 } : { model: 'first' })
    rows.push({
      path: name,
      'burst tok/s (64 × 500)': fast.tokensPerSecond,
      'slowest / median stream': fast.slowestOverMedian,
      'paced gap p50 ms': quantile(paced.gapsMs, 0.5),
      'paced gap p99 ms': quantile(paced.gapsMs, 0.99),
      'CPU s per 1M tok paced': (cpu * 1e6) / paced.tokens,
      'first token p50 ms (5 ms engine)': quantile(first, 0.5),
      'first token p99 ms': quantile(first, 0.99),
    })
  }
  printTable('stream: 64 streams; CPU is that of the server process alone', rows)
  console.log(
    '\nTargets: ≥ 100,000 tok/s in burst; paced p99 gap ≤ direct + 1 ms; ≤ 75 CPU s per million tokens paced; first token ≤ direct + 1 ms; no stream starves.',
  )
  floor.kill()
}
