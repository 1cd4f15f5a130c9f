import { Agent, type Dispatcher, EnvHttpProxyAgent, request } from 'undici'

/**
 * How the vendors' packages reach their servers: a `fetch` over undici's plain requests. Node's own fetch wraps every answer
 * in web streams, which costs more than all the rest of a call, and gives up after five silent minutes, although a long
 * answer is no fault. Redirects are not followed: a credential goes to the address that it was set for and nowhere else.
 */
export async function upstreamFetch(url: string | URL | Request, init: CallInit = {}): Promise<Response> {
  init.onSent?.()
  const answer = await request(url as string | URL, {
    method: init.method ?? 'GET',
    // Nothing here unpacks an answer.
    headers: { ...Object.fromEntries(init.headers as Headers), 'accept-encoding': 'identity' },
    body: (init.body ?? null) as string | null,
    signal: init.call ?? init.signal ?? null,
    dispatcher: AGENT,
  })
  const { location } = answer.headers
  if (answer.statusCode < 300 || answer.statusCode >= 400 || location === undefined)
    return new UpstreamAnswer(answer) as unknown as Response
  await answer.body.dump()
  throw new Error(`it redirects to ${String(location).slice(0, 200)}: set that as its base URL`)
}

/**
 * `call` ends the request as `signal` does; the packages would tie that to one of their own, which costs more than the call.
 * `onSent` hears when it goes out.
 */
export type CallInit = RequestInit & { call?: AbortSignal; onSent?: () => void }

/** What the packages, and the tier after them, need of a `Response`. */
export class UpstreamAnswer {
  readonly status: number
  readonly headers: Headers
  readonly url = ''
  /** Of use to nobody: who reads piece by piece calls `read`. */
  readonly body = null
  readonly #body: Dispatcher.ResponseData['body']

  constructor({ statusCode, headers, body }: Dispatcher.ResponseData) {
    this.status = statusCode
    this.headers = new Headers()
    for (const [name, value] of Object.entries(headers)) if (value !== undefined) this.headers.set(name, String(value))
    this.#body = body
  }

  get ok(): boolean {
    return this.status >= 200 && this.status < 300
  }

  text(): Promise<string> {
    return this.#body.text()
  }

  json(): Promise<unknown> {
    return this.#body.json()
  }

  /**
   * Hands over the bytes as they come, until there are no more or `take` says that it has enough; rejects when they are cut
   * off. A busy upstream's chunks come many to a read of the socket: they are handed over as one.
   */
  read(take: (bytes: Uint8Array) => boolean): Promise<void> {
    return new Promise((resolve, reject) => {
      const body = this.#body
      // What was read of the socket already would still come after the end.
      let isEnough = false
      let held: Uint8Array[] = []
      const handOver = (): void => {
        const [first, ...others] = held
        held = []
        if (isEnough || first === undefined) return
        try {
          if (take(others.length === 0 ? first : Buffer.concat([first, ...others]))) return
          resolve()
        } catch (error) {
          // It would have nobody else to go to.
          reject(error instanceof Error ? error : new Error(String(error)))
        }
        isEnough = true
        body.destroy()
      }
      body.on('data', (bytes: Uint8Array) => {
        // Microtasks run when all that one read brought has been parsed.
        if (held.push(bytes) === 1) queueMicrotask(handOver)
      })
      body.on('end', () => {
        handOver()
        resolve()
      })
      body.on('error', (error) => {
        handOver()
        reject(error)
      })
    })
  }
}

/** The scheduler judges what is too slow. An answer of this size is none. */
const OPTIONS = { headersTimeout: 0, bodyTimeout: 0, maxResponseSize: 256 * 1024 * 1024, allowH2: false }
/** As Node's own fetch does: behind a proxy only where the operator says so. */
const AGENT = process.env.NODE_USE_ENV_PROXY === '1' ? new EnvHttpProxyAgent(OPTIONS) : new Agent(OPTIONS)
