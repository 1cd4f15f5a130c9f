import dns from 'node:dns'
import { createServer, type IncomingMessage, type RequestListener, type Server } from 'node:http'
import { afterEach, expect, test, vi } from 'vitest'
import { checkCallbackUrl, Outbound, parseCidrs } from '../coordinator/engine/outbound.ts'

const servers: Server[] = []
const LOCAL = ['127.0.0.0/8', '::1/128']

afterEach(() => {
  vi.restoreAllMocks()
  for (const server of servers.splice(0)) {
    server.closeAllConnections()
    server.close()
  }
})

test('a message reaches an address that was allowed, with its headers and body', async () => {
  const seen: { headers: unknown; body: string }[] = []
  const port = await listen((request, response) => {
    let body = ''
    request.on('data', (chunk: Buffer) => (body += chunk.toString()))
    request.on('end', () => {
      seen.push({ headers: request.headers, body })
      response.writeHead(204).end()
    })
  })
  const answer = await new Outbound(LOCAL).post(`http://127.0.0.1:${port}/hook`, { 'x-mark': '1' }, '{"a":"ü"}', 5_000)
  expect(answer).toEqual({ status: 204 })
  expect(seen).toEqual([{ headers: expect.objectContaining({ 'x-mark': '1', 'content-length': '10' }), body: '{"a":"ü"}' }])
})

test('a name is followed to the addresses that are allowed', async () => {
  const port = await listen((_request, response) => response.end('ok'))
  expect(await new Outbound(LOCAL).post(`http://localhost:${port}/`, {}, '', 5_000)).toEqual({ status: 200 })
})

test('loopback is refused in every spelling, and nothing is sent there', async () => {
  let calls = 0
  const port = await listen((_request, response) => {
    calls += 1
    response.end()
  })
  const outbound = new Outbound([])
  const spellings = [
    '127.0.0.1',
    '127.1',
    '0x7f.1',
    '0177.0.0.1',
    '2130706433',
    '0x7f000001',
    '127.0.0.1.',
    '１２７.0.0.1',
    '0.0.0.0',
    '0',
    '[::1]',
    '[::]',
    '[::ffff:127.0.0.1]',
    '[::ffff:7f00:1]',
    '[::127.0.0.1]',
    'localhost',
    'LOCALHOST',
  ]
  for (const host of spellings)
    await expect(outbound.post(`http://${host}:${port}/`, {}, '', 5_000), host).rejects.toMatchObject({ code: 'address_refused' })
  expect(calls).toBe(0)
})

test('a name is looked up once, and of its addresses only those that were judged good are called', async () => {
  const seen: string[] = []
  const port = await listen((request, response) => {
    seen.push(request.socket.localAddress ?? '')
    response.end()
  })
  const answers = [
    { address: '10.255.255.1', family: 4 },
    { address: '127.0.0.1', family: 4 },
    { address: '::ffff:169.254.169.254', family: 6 },
  ]
  const lookup = vi
    .spyOn(dns, 'lookup')
    .mockImplementation(((_host: string, _options: unknown, answer: (...found: unknown[]) => void) =>
      answer(null, answers)) as unknown as typeof dns.lookup)
  expect(await new Outbound(['127.0.0.1/32']).post(`http://rebinding.example:${port}/`, {}, '', 5_000)).toEqual({ status: 200 })
  expect(seen).toEqual(['127.0.0.1'])
  expect(lookup).toHaveBeenCalledTimes(1)
  await expect(new Outbound([]).post(`http://rebinding.example:${port}/`, {}, '', 5_000)).rejects.toMatchObject({ code: 'address_refused' })
})

test('every address that is not public unicast is refused', () => {
  const outbound = new Outbound([])
  const inside = [
    '10.1.2.3',
    '100.64.0.1',
    '169.254.169.254',
    '172.16.0.1',
    '192.168.1.1',
    '192.0.0.8',
    '192.0.2.1',
    '198.18.0.1',
    '203.0.113.1',
    '224.0.0.1',
    '240.0.0.1',
    '255.255.255.255',
    '[fe80::1]',
    '[fec0::1]',
    '[fc00::1]',
    '[fd12:3456::1]',
    '[ff02::1]',
    '[::ffff:10.0.0.1]',
    '[64:ff9b::a00:1]',
    '[64:ff9b:1::1]',
    '[2002:7f00:1::]',
    '[2001:0:1::1]',
    '[2001:db8::1]',
    '[3fff::1]',
    '[4000::1]',
    '[100::1]',
  ]
  for (const host of inside) expect(() => outbound.checkAddress(new URL(`http://${host}/`)), host).toThrow('is not a public address')
  for (const host of ['1.1.1.1', '93.184.216.34', '[2606:4700::1111]', '[::ffff:8.8.8.8]'])
    expect(() => outbound.checkAddress(new URL(`http://${host}/`)), host).not.toThrow()
})

test('an allowed network opens itself and nothing beside it', () => {
  const outbound = new Outbound(['10.1.0.0/16', 'fd00:1::/32'])
  for (const host of ['10.1.255.1', '[fd00:1::9]', '[::ffff:10.1.0.1]'])
    expect(() => outbound.checkAddress(new URL(`http://${host}/`)), host).not.toThrow()
  for (const host of ['10.2.0.1', '[fd00:2::9]', '127.0.0.1'])
    expect(() => outbound.checkAddress(new URL(`http://${host}/`)), host).toThrow('is not a public address')
})

test('a redirect is an answer: nobody goes where it points', async () => {
  let reached = false
  const target = await listen((_request, response) => {
    reached = true
    response.end()
  })
  const port = await listen((_request, response) => response.writeHead(307, { location: `http://127.0.0.1:${target}/` }).end())
  expect(await new Outbound(['127.0.0.1/32']).post(`http://127.0.0.1:${port}/`, {}, '', 5_000)).toEqual({ status: 307 })
  expect(reached).toBe(false)
})

test('a receiver that says nothing is given up after the time allowed', async () => {
  const port = await listen(() => {})
  await expect(new Outbound(LOCAL).post(`http://127.0.0.1:${port}/`, {}, '', 100)).rejects.toMatchObject({ code: 'call_timed_out' })
})

test('an answer counts though its body never ends', async () => {
  const port = await listen((_request, response) => response.writeHead(200).write('one moment'))
  expect(await new Outbound(LOCAL).post(`http://127.0.0.1:${port}/`, {}, '', 200)).toEqual({ status: 200 })
})

test('a flood for an answer is cut off', async () => {
  let sent = 0
  const port = await listen((_request, response) => {
    response.writeHead(200)
    const more = (): void => {
      sent += 16_384
      if (!response.destroyed) response.write(Buffer.alloc(16_384), more)
    }
    more()
  })
  expect(await new Outbound(LOCAL).post(`http://127.0.0.1:${port}/`, {}, '', 60_000)).toEqual({ status: 200 })
  expect(sent).toBeLessThan(32 * 1024 * 1024)
})

test('a receiver that changes to another protocol has answered', async () => {
  const port = await listen(() => {})
  servers[0]?.removeAllListeners('request').on('request', (request: IncomingMessage) => {
    request.socket.write('HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: odd\r\n\r\n')
  })
  expect(await new Outbound(LOCAL).post(`http://127.0.0.1:${port}/`, {}, 'x', 1_000)).toEqual({ status: 101 })
}, 5_000)

test('a refused connection is told without the address behind the name or the path', async () => {
  const port = await listen(() => {})
  const [server] = servers.splice(0)
  await new Promise((resolve) => server?.close(resolve))
  const failure = await new Outbound(LOCAL).post(`http://localhost:${port}/secret-path`, {}, '', 5_000).catch((error: unknown) => error)
  expect(failure).toMatchObject({ code: 'call_failed', message: 'localhost could not be reached: ECONNREFUSED.' })
})

test('a name with silent servers is looked up once, and not all names at a time', async () => {
  const port = await listen((_request, response) => response.end('ok'))
  const asked: string[] = []
  const answers: (() => void)[] = []
  vi.spyOn(dns, 'lookup').mockImplementation(((host: string, _options: unknown, answer: (error: null, found: unknown[]) => void) => {
    asked.push(host)
    answers.push(() => answer(null, [{ address: '127.0.0.1', family: 4 }]))
  }) as never)
  const outbound = new Outbound(LOCAL)
  const hosts = ['a', 'a', 'a', 'b', 'c', 'd', 'e'].map((name) => `${name}.example`)
  const posts = hosts.map((host) => outbound.post(`http://${host}:${port}/`, {}, '', 5_000))
  await vi.waitFor(() => expect(asked).toEqual(['a.example', 'b.example', 'c.example', 'd.example']))
  answers[0]?.()
  await vi.waitFor(() => expect(asked.at(-1)).toBe('e.example'))
  for (const answer of answers.slice(1)) answer()
  expect(await Promise.all(posts)).toEqual(hosts.map(() => ({ status: 200 })))
  const later = outbound.post(`http://a.example:${port}/`, {}, '', 5_000)
  await vi.waitFor(() => expect(asked).toHaveLength(6))
  answers[5]?.()
  expect(await later).toEqual({ status: 200 })
})

test('a malformed callback_url is refused by name, a good one taken', () => {
  expect(checkCallbackUrl('https://example.com/hook?x=1').hostname).toBe('example.com')
  const bad = [
    'no url',
    'ftp://example.com/',
    'file:///etc/passwd',
    'https://user:word@example.com/',
    `https://example.com/${'x'.repeat(2_000)}`,
    `https://example.com/?q=${'字'.repeat(300)}`,
  ]
  for (const text of bad)
    expect(() => checkCallbackUrl(text), text).toThrow(
      expect.objectContaining({ status: 400, code: 'invalid_callback_url', param: 'callback_url' }),
    )
})

test('networks are read from a setting, and a bad one is named', () => {
  expect(parseCidrs(' 10.0.0.0/8, fd00::/8\n192.168.1.7 ::1,')).toEqual(['10.0.0.0/8', 'fd00::/8', '192.168.1.7/32', '::1/128'])
  for (const bad of ['10.0.0.0/33', 'example.com', '10.1/8', '::/129', '1.2.3.4/'])
    expect(() => parseCidrs(`10.0.0.0/8 ${bad}`), bad).toThrow(`"${bad}" is not a network`)
})

async function listen(handler: RequestListener): Promise<number> {
  const server = createServer(handler)
  servers.push(server)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  return address !== null && typeof address === 'object' ? address.port : 0
}
