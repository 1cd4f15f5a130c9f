import http from 'node:http'
import { quantile } from './measure.ts'

/** Streams as a client of the OpenAI dialect reads them: in burst, paced, and to the first token. */
export type Target = { url: string; headers: Record<string, string> }

const STREAMS = 64
const TOKENS = 500

/** All at once, as fast as they come, so many times. */
export async function burst(target: Target, model: string, waves: number): Promise<{ tokensPerSecond: number; slowestOverMedian: number }> {
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

/** The gaps between tokens of streams that get so many of them a second. */
export async function pacedStreams(target: Target, body: Record<string, unknown>): Promise<{ gapsMs: number[]; tokens: number }> {
  const gapsMs: number[] = []
  const began = performance.now()
  await Promise.all(
    Array.from({ length: STREAMS }, async (_, index) => {
      const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
      // Spread over a second, or all streams would tick together.
      while (performance.now() - began < (index * 1000) / STREAMS) await new Promise((resolve) => setTimeout(resolve, 5))
      let last = 0
      await stream(target, { ...body, max_tokens: TOKENS }, agent, () => {
        const now = performance.now()
        if (last > 0) gapsMs.push(now - last)
        last = now
      })
      agent.destroy()
    }),
  )
  return { gapsMs: gapsMs.sort((a, b) => a - b), tokens: STREAMS * TOKENS }
}

/** How long the first token takes on a connection that is kept alive. */
export async function firstTokens(target: Target, body: Record<string, unknown>): Promise<number[]> {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
  const tookMs: number[] = []
  for (let round = 0; round < 200; round++) {
    const sent = performance.now()
    let first = 0
    await stream(target, { ...body, max_tokens: 20 }, agent, () => {
      first ||= performance.now() - sent
    })
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
