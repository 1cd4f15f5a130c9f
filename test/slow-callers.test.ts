import { connect } from 'node:net'
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import type { ApiParts } from '../coordinator/api/health.ts'
import { buildServer } from '../coordinator/api/server.ts'

/** Callers that send or read slowly; the server's own times, a thousandth as long. */

vi.mock('fastify', async (original) => {
  const { default: fastify } = await original<typeof import('fastify')>()
  type Options = { requestTimeout: number; http: { headersTimeout: number } }
  return {
    default: ({ requestTimeout, http, ...options }: Options) =>
      fastify({
        ...options,
        requestTimeout: requestTimeout / 1000,
        http: { ...http, headersTimeout: http.headersTimeout / 1000, connectionsCheckingInterval: 20 },
      }),
  }
})

let tell: (text: string) => void = () => {}
const told = new Promise<string>((resolve) => {
  tell = resolve
})
const caller = { scopes: null, role: 'member' }
const app = buildServer({
  version: '0.0.0',
  keyring: { identify: () => caller },
  metrics: { contentType: 'text/plain', text: () => told },
  log: { error: () => {} },
} as unknown as ApiParts)

beforeAll(async () => {
  await app.listen({ port: 0 })
})
afterAll(() => app.close())

test('a body that never ends is cut off, and an answer that is long in coming is not', async () => {
  const { port } = app.server.address() as AddressInfo
  const waiting = fetch(`http://127.0.0.1:${port}/metrics`)
  const trickled = await new Promise<string>((resolve) => {
    let answer = ''
    const socket = connect(port, '127.0.0.1', () => {
      socket.write('POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{')
    })
    const more = setInterval(() => socket.write(' '), 20)
    socket.on('data', (data) => (answer += data.toString()))
    socket.on('error', () => {})
    socket.on('close', () => {
      clearInterval(more)
      resolve(answer)
    })
  })
  expect(trickled).toMatch(/^HTTP\/1\.1 408 [\s\S]*request_timeout/)
  tell('the metrics')
  expect(await (await waiting).text()).toBe('the metrics')
})
