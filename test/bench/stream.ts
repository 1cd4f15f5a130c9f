import { spawn } from 'node:child_process'
import http from 'node:http'
import { fileURLToPath } from 'node:url'
import { ADMIN_KEY, freePorts, World } from '../support/world.ts'
import { cpuSeconds, printTable, quantile } from './measure.ts'

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
    const paced = await pacedStreams(target)
    const cpu = cpuSeconds([pid ?? 0], false) - before
    const first = await firstTokens(target)
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

type Target = { url: string; headers: Record<string, string> }

const STREAMS = 64
const TOKENS = 500

async function burst(target: Target, model: string, waves: number): Promise<{ tokensPerSecond: number; slowestOverMedian: number }> {
  const tookMs: number[] = []
  const began = performance.now()
  await Promise.all(
    Array.from({ length: STREAMS }, async () => {
      const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
      for (let wave = 0; wave < waves; wave++) {
        const sent = performance.now()
        await stream(target, { model, max_tokens: TOKENS }, agent, () => {})
        tookMs.push(performance.now() - sent)
      }
      agent.destroy()
    }),
  )
  tookMs.sort((a, b) => a - b)
  return {
    tokensPerSecond: (STREAMS * TOKENS * waves * 1000) / (performance.now() - began),
    slowestOverMedian: quantile(tookMs, 1) / quantile(tookMs, 0.5),
  }
}

async function pacedStreams(target: Target): Promise<{ gapsMs: number[]; tokens: number }> {
  const gapsMs: number[] = []
  const began = performance.now()
  await Promise.all(
    Array.from({ length: STREAMS }, async (_, index) => {
      const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
      // Spread over a second, or all streams would tick together.
      while (performance.now() - began < (index * 1000) / STREAMS) await new Promise((resolve) => setTimeout(resolve, 5))
      let last = 0
      await stream(
        target,
        { model: 'paced', max_tokens: TOKENS, ...(target.headers.authorization === undefined ? { rate: 50 } : {}) },
        agent,
        () => {
          const now = performance.now()
          if (last > 0) gapsMs.push(now - last)
          last = now
        },
      )
      agent.destroy()
    }),
  )
  return { gapsMs: gapsMs.sort((a, b) => a - b), tokens: STREAMS * TOKENS }
}

async function firstTokens(target: Target): Promise<number[]> {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
  const tookMs: number[] = []
  for (let round = 0; round < 200; round++) {
    const sent = performance.now()
    let first = 0
    await stream(
      target,
      { model: 'first', max_tokens: 20, ...(target.headers.authorization === undefined ? { first_token_ms: 5 } : {}) },
      agent,
      () => {
        first ||= performance.now() - sent
      },
    )
    tookMs.push(first)
  }
  agent.destroy()
  return tookMs.sort((a, b) => a - b)
}

/** One stream read to its end; `onToken` hears every write that brings text. */
function stream(target: Target, body: Record<string, unknown>, agent: http.Agent, onToken: () => void): Promise<void> {
  const content = JSON.stringify({ ...body, stream: true, messages: [{ role: 'user', content: 'Say hello to the benchmark.' }] })
  return new Promise((resolve, reject) => {
    const request = http.request(
      target.url,
      {
        method: 'POST',
        agent,
        headers: { ...target.headers, 'content-type': 'application/json', 'content-length': Buffer.byteLength(content) },
      },
      (response) => {
        let tail = ''
        response.on('data', (data: Buffer) => {
          const text = data.toString()
          tail = (tail + text).slice(-200)
          if (text.includes('"content":" ') || text.includes('"content":"a')) onToken()
        })
        response.on('end', () => (tail.includes('[DONE]') ? resolve() : reject(new Error(`cut: ${tail}`))))
        response.on('error', reject)
      },
    )
    request.on('error', reject)
    request.end(content)
  })
}
