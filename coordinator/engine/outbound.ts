import dns from 'node:dns'
import http from 'node:http'
import https from 'node:https'
import { isIP, type LookupFunction } from 'node:net'
import ipaddr from 'ipaddr.js'
import { badRequest, Fault } from '../core/fault.ts'
import { Places } from '../store/places.ts'

/**
 * The one place that calls addresses which callers gave us. A name is resolved here, what it resolves to is judged, and
 * the connection goes to exactly the address that was judged: a name that answers differently the second time gains
 * nothing. Redirects are answers, not orders.
 */
export class Outbound {
  readonly #allowed: Cidr[]
  readonly #places = new Places(LOOKUPS_AT_ONCE)
  readonly #pending = new Map<string, Promise<dns.LookupAddress[]>>()

  constructor(allowedCidrs: string[]) {
    this.#allowed = allowedCidrs.map((cidr) => ipaddr.parseCIDR(cidr))
  }

  /** Any answer resolves, whatever its status; a refused address, a broken connection and silence throw a Fault. */
  async post(address: string, headers: Record<string, string>, body: string, timeoutMs: number): Promise<{ status: number }> {
    const url = checkCallbackUrl(address)
    this.checkAddress(url)
    const signal = AbortSignal.timeout(timeoutMs)
    const lookup: LookupFunction = (host, options, answer) => this.#resolve(host, options, answer)
    // An agent of its own: a connection kept from an earlier call would be one that nobody judged for this call.
    const options = { method: 'POST', headers: { ...headers, 'content-length': Buffer.byteLength(body) }, agent: false, lookup, signal }
    return new Promise((resolve, reject) => {
      let status: number | undefined
      const request = (url.protocol === 'https:' ? https : http).request(url, options, (response) => {
        status = response.statusCode ?? 0
        discard(response)
        response.once('close', () => resolve({ status: response.statusCode ?? 0 }))
      })
      // An answer that was begun counts, even when its rest never comes.
      request.on('error', (error) => {
        if (status === undefined) reject(faultOf(error, url, signal.aborted ? timeoutMs : null))
        else resolve({ status })
      })
      // Another protocol is no answer to a message; Node hands its connection over and says nothing more.
      request.on('upgrade', (response, socket) => {
        socket.destroy()
        resolve({ status: response.statusCode ?? 0 })
      })
      request.end(body)
    })
  }

  /** Judges what is known without looking it up. Open, so that acceptance can refuse it already; `param`: where it was given. */
  checkAddress(url: URL, param?: string): void {
    // The URL parser has already turned 0x7f.1, 2130706433 and their like into four plain numbers.
    const host = url.hostname.replace(/^\[|\]$/g, '')
    // Of a name it is known by itself alone where it leads.
    const isLoopback = /^([^.]+\.)*localhost\.?$/i.test(host)
    if (isLoopback ? !LOOPBACKS.some((address) => this.#mayReach(address)) : isIP(host) !== 0 && !this.#mayReach(host))
      throw refused(host, param)
  }

  /** Of an address that somebody else will fetch: nothing is looked up here. */
  checkPublic(url: URL): void {
    if (url.username !== '' || url.password !== '')
      throw badRequest('invalid_url', `The address at ${url.host} must hold no user name and no password.`)
    this.checkAddress(url)
  }

  #resolve(host: string, options: dns.LookupOptions, answer: Parameters<LookupFunction>[2]): void {
    const answered = (error: NodeJS.ErrnoException | null, found: dns.LookupAddress[]): void => {
      if (error !== null) return answer(error, '', 0)
      const reachable = found.filter(({ address }) => this.#mayReach(address))
      const [first] = reachable
      if (first === undefined) return answer(refused(host), '', 0)
      return options.all === true ? answer(null, reachable) : answer(null, first.address, first.family)
    }
    this.#lookUp(host, options).then(
      (found) => answered(null, found),
      (error: NodeJS.ErrnoException) => answered(error, []),
    )
  }

  /**
   * A name whose servers are silent holds one of the few threads that look names up for the whole process, whoever has stopped
   * waiting for it: each name is looked up once at a time, and only so many of them.
   */
  #lookUp(host: string, options: dns.LookupOptions): Promise<dns.LookupAddress[]> {
    const name = `${host} ${options.family ?? 0} ${options.hints ?? 0}`
    let pending = this.#pending.get(name)
    if (pending === undefined) {
      pending = this.#places.hold(() => lookUp(host, options)).finally(() => this.#pending.delete(name))
      this.#pending.set(name, pending)
    }
    return pending
  }

  #mayReach(text: string): boolean {
    // An IPv4 address dressed as IPv6 is judged as what it is.
    const address = ipaddr.process(text)
    if (this.#allowed.some(([network, bits]) => network.kind() === address.kind() && address.match(network, bits))) return true
    if (address.range() !== 'unicast') return false
    return address.kind() === 'ipv4' || address.match(GLOBAL_IPV6)
  }
}

function lookUp(host: string, options: dns.LookupOptions): Promise<dns.LookupAddress[]> {
  return new Promise((resolve, reject) => {
    dns.lookup(host, { ...options, all: true }, (error, found) => (error === null ? resolve(found) : reject(error)))
  })
}

/** The callback address of a request, or a fault that says what is wrong with it. */
export function checkCallbackUrl(text: string): URL {
  if (text.length > URL_MAX) throw badCallback(`is longer than ${URL_MAX} characters`)
  const url = URL.parse(text)
  if (url === null) throw badCallback('is not a URL')
  if (url.protocol !== 'http:' && url.protocol !== 'https:') throw badCallback('must start with http:// or https://')
  if (url.username !== '' || url.password !== '') throw badCallback('must not hold a user name or password')
  // Written out, a letter may be nine: this is what is stored, and checked again at each try.
  if (url.href.length > URL_MAX) throw badCallback(`is longer than ${URL_MAX} characters when it is written out`)
  return url
}

/** Networks in CIDR form, or single addresses, separated by commas or white space. */
export function parseCidrs(text: string): string[] {
  const entries = text.split(/[\s,]+/).filter((entry) => entry !== '')
  return entries.map((entry) => {
    const cidr = entry.includes('/') ? entry : `${entry}/${isIP(entry) === 6 ? 128 : 32}`
    if (isIP(cidr.split('/')[0] ?? '') === 0 || !ipaddr.isValidCIDR(cidr))
      throw new Error(`"${entry}" is not a network in CIDR form, such as 10.0.0.0/8 or fd00::/8.`)
    return cidr
  })
}

type Cidr = [ipaddr.IPv4 | ipaddr.IPv6, number]

// All that has ever been given out for use across the internet; beyond it only what is unassigned or internal.
const GLOBAL_IPV6 = ipaddr.parseCIDR('2000::/3')
const URL_MAX = 2_000
// Half of those that the launcher lets there be.
const LOOKUPS_AT_ONCE = 4
const ANSWER_BYTES_MAX = 64 * 1024

/** Nobody reads the answer's body. A little is taken so that a receiver can end in peace, then the connection is cut. */
function discard(response: http.IncomingMessage): void {
  let bytes = 0
  response.on('error', () => {})
  response.on('data', (chunk: Buffer) => {
    bytes += chunk.length
    if (bytes > ANSWER_BYTES_MAX) response.destroy()
  })
}

const LOOPBACKS = ['127.0.0.1', '::1']

/** Only the host is named: paths and queries of such addresses often hold secrets, and so may what a name resolves to. */
function refused(host: string, param?: string): Fault {
  return badRequest('address_refused', `${host} is not a public address, and HOLDFAST_ALLOW_PRIVATE_ADDRESSES does not list it.`, param)
}

function faultOf(error: NodeJS.ErrnoException, url: URL, timedOutMs: number | null): Fault {
  if (error instanceof Fault) return error
  if (timedOutMs !== null)
    return new Fault('call_timed_out', `${url.hostname} did not answer within ${timedOutMs / 1000} s.`, { retryable: true, cause: error })
  // The message of a failed connection holds the address the name stands for; the code does not.
  return new Fault('call_failed', `${url.hostname} could not be reached: ${error.code ?? 'the connection broke'}.`, {
    retryable: true,
    cause: error,
  })
}

function badCallback(problem: string): Fault {
  return badRequest('invalid_callback_url', `The callback_url ${problem}.`, 'callback_url')
}
