import { createServer, type ServerResponse } from 'node:http'
import { type AddressInfo, connect } from 'node:net'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import type { ApiParts } from '../coordinator/api/health.ts'
import { buildServer } from '../coordinator/api/server.ts'
import { cutWhenUnread, SseSink } from '../coordinator/api/sse.ts'

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
const caller = { scopes: null, role: 'member', team: 'default', teams: ['default'] }
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

const UNREAD_MS = 400
const MEGABYTE = 1024 * 1024
const SENT_BYTES = 24 * MEGABYTE
/** Both ways in which something large is sent. */
const SENDERS: [name: string, send: (response: ServerResponse) => void][] = [
  [
    'a stream',
    (response) => {
      const sink = new SseSink(response, { onRoom: () => {}, onClosed: () => {} }, UNREAD_MS)
      sink.open({})
      sink.write('x'.repeat(SENT_BYTES))
      sink.end('')
    },
  ],
  [
    'a large answer',
    (response) => {
      cutWhenUnread(response, UNREAD_MS)
      response.end(Buffer.alloc(SENT_BYTES))
    },
  ],
]

test.each(SENDERS)('%s is cut off when nobody takes a byte of it, and not when it is read slowly', async (_name, send) => {
  const server = createServer((_request, response) => {
    send(response)
  })
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve)
  })
  const { port } = server.address() as AddressInfo
  // Reads so much every so often, for far longer than the time; 0: nothing.
  const read = (bytesATurn: number): Promise<{ bytes: number; tookMs: number }> =>
    new Promise((resolve) => {
      let bytes = 0
      let turn = 0
      const beganMs = performance.now()
      const socket = connect(port, '127.0.0.1', () => socket.write('GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n'))
      const timer = setInterval(() => {
        turn = bytesATurn
        // What the system took in is read to the end, and then it is seen that nobody is there any more.
        if (bytesATurn > 0 || performance.now() - beganMs > 3 * UNREAD_MS) socket.resume()
      }, 50)
      socket.on('data', (data) => {
        bytes += data.length
        turn -= data.length
        if (turn <= 0 && (bytesATurn > 0 || performance.now() - beganMs <= 3 * UNREAD_MS)) socket.pause()
      })
      socket.on('error', () => {})
      socket.on('close', () => {
        clearInterval(timer)
        resolve({ bytes, tookMs: performance.now() - beganMs })
      })
    })
  const [slow, gone] = await Promise.all([read(MEGABYTE), read(0)])
  expect(slow.bytes).toBeGreaterThanOrEqual(SENT_BYTES)
  expect(slow.tookMs).toBeGreaterThan(2 * UNREAD_MS)
  expect(gone.bytes).toBeLessThan(SENT_BYTES)
  server.close()
})

test('whoever left before the stream began is told to have left', async () => {
  let left = 0
  const server = createServer((_request, response) => {
    response.on('close', () => {
      new SseSink(response, { onRoom: () => {}, onClosed: () => (left += 1) }).open({})
    })
    socket.destroy()
  }).listen(0, '127.0.0.1')
  await new Promise((resolve) => server.once('listening', resolve))
  const socket = connect((server.address() as AddressInfo).port, '127.0.0.1')
  socket.write('GET / HTTP/1.1\r\nhost: x\r\n\r\n')
  await vi.waitFor(() => expect(left).toBe(1))
  server.close()
})
