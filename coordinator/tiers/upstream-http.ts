import { Agent, buildConnector, type Dispatcher, EnvHttpProxyAgent, errors } from 'undici'

/** What is the same in every request to one address: made once, since making it costs more than sending it. */
export type RequestHead = { origin: string; path: string; method: 'GET' | 'POST'; headers: Record<string, string> }

export function requestHead(url: string | URL, method: 'GET' | 'POST', headers: Iterable<[string, string]>): RequestHead {
  const { origin, pathname, search } = new URL(url)
  // Nothing here unpacks an answer.
  return { origin, path: `${pathname}${search}`, method, headers: { ...Object.fromEntries(headers), 'accept-encoding': 'identity' } }
}

/**
 * Sends a request and resolves with the head of its answer, over undici's own dispatcher: Node's fetch wraps every answer in
 * web streams, which costs more than all the rest of a call, and gives up after five silent minutes, although a long answer
 * is no fault. Redirects are not followed: a credential goes to the address that it was set for and nowhere else.
 */
export async function send(head: RequestHead, body: string | null, signal: AbortSignal | null): Promise<UpstreamAnswer> {
  const answer = await exchange(head, body, signal)
  const location = answer.header('location')
  if (answer.status < 300 || answer.status >= 400 || location === null) return answer
  answer.leave()
  throw new Error(`it redirects to ${location.slice(0, 200)}: set that as its base URL`)
}

/**
 * A server may close a connection that it kept open at the moment in which it is used again. Then nothing was answered, and
 * another connection is tried at once, as browsers do.
 */
async function exchange(head: RequestHead, body: string | null, signal: AbortSignal | null, stale = STALE_MOST): Promise<UpstreamAnswer> {
  const beganMs = performance.now()
  let asked: UpstreamAnswer | undefined
  try {
    return await new Promise<UpstreamAnswer>((resolve, reject) => {
      asked = new UpstreamAnswer(signal, resolve, reject)
      AGENT.dispatch({ ...head, body }, asked)
    })
  } catch (error) {
    // What breaks later may have been worked on, and is the scheduler's to judge.
    const isStale = asked?.isHeard === false && performance.now() - beganMs < STALE_WITHIN_MS && isOfOldConnection(error)
    if (stale === 0 || signal?.aborted === true || !isStale) throw error
    return exchange(head, body, signal, stale - 1)
  }
}

/** Its connection had brought answers before. */
function isOfOldConnection(error: unknown): boolean {
  if (error instanceof errors.SocketError) return (error.socket?.bytesRead ?? 0) > 0
  return error instanceof Error && OF_OLD_CONNECTIONS.has(error)
}

/** Errors of connections that had brought something. */
const OF_OLD_CONNECTIONS = new WeakSet<Error>()

const connect = buildConnector({ allowH2: false })
const connectNoted: typeof connect = (options, callback) => {
  connect(options, (...[error, socket]) => {
    if (error !== null) return callback(error, null)
    socket.prependListener('error', (cause: NodeJS.ErrnoException) => {
      if (socket.bytesRead > 0 && (cause.code === 'ECONNRESET' || cause.code === 'EPIPE')) OF_OLD_CONNECTIONS.add(cause)
    })
    callback(null, socket)
  })
}

/** For what the vendors' packages ask by themselves. */
export async function upstreamFetch(url: string | URL | Request, init: RequestInit = {}): Promise<Response> {
  const method = init.method === undefined || init.method === 'GET' ? 'GET' : 'POST'
  const head = requestHead(url as string | URL, method, init.headers as Headers)
  return (await send(head, (init.body ?? null) as string | null, init.signal ?? null)) as unknown as Response
}

/** The answer as it comes: what the packages need of a `Response`, what the tier reads of it, and what undici tells it. */
export class UpstreamAnswer implements Dispatcher.DispatchHandler {
  status = 0
  /** Something of it came. */
  isHeard = false
  readonly url = ''
  /** Of use to nobody: who reads piece by piece calls `read`. */
  readonly body = null
  #told: NodeJS.Dict<string | string[]> = {}
  #controller: Dispatcher.DispatchController | null = null
  readonly #signal: AbortSignal | null
  #onHead: ((answer: UpstreamAnswer) => void) | null
  /** Of the head, and then of the body. */
  #onFailure: (error: Error) => void
  #onEnd: (() => void) | null = null
  #take: ((bytes: Uint8Array) => boolean) | null = null
  #held: Uint8Array[] = []
  #ended = false
  #failed: Error | null = null
  #left: NodeJS.Timeout | null = null

  constructor(signal: AbortSignal | null, onHead: (answer: UpstreamAnswer) => void, onFailure: (error: Error) => void) {
    this.#signal = signal
    this.#onHead = onHead
    this.#onFailure = onFailure
    signal?.addEventListener('abort', () => this.#giveUp(), { once: true })
  }

  get ok(): boolean {
    return this.status >= 200 && this.status < 300
  }

  get headers(): Headers {
    const headers = new Headers()
    for (const name of Object.keys(this.#told)) headers.set(name, this.header(name) ?? '')
    return headers
  }

  header(name: string): string | null {
    const value = this.#told[name]
    return value === undefined ? null : String(value)
  }

  async text(): Promise<string> {
    const parts: Uint8Array[] = []
    await this.read((bytes) => {
      parts.push(bytes)
      return true
    })
    return DECODER.decode(parts.length === 1 ? parts[0] : Buffer.concat(parts))
  }

  async json(): Promise<unknown> {
    return JSON.parse(await this.text()) as unknown
  }

  /**
   * Hands over the bytes as they come, until there are no more or `take` says that it has enough; rejects when they are cut
   * off. A busy upstream's chunks come many to a read of the socket: they are handed over as one.
   */
  read(take: (bytes: Uint8Array) => boolean): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#take = take
      this.#onEnd = resolve
      this.#onFailure = reject
      this.#handOver()
    })
  }

  /** Nobody reads on. What ends soon leaves its connection to the next call. */
  leave(): void {
    this.#take = null
    this.#onEnd = null
    this.#onFailure = () => {}
    this.#held = []
    if (this.#ended || this.#failed !== null || this.#left !== null) return
    this.#left = setTimeout(() => this.#controller?.abort(abortedError()), LEFT_MS).unref()
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.#controller = controller
    if (this.#signal?.aborted === true) controller.abort(abortedError())
  }

  onResponseStarted(): void {
    this.isHeard = true
  }

  onResponseStart(_controller: Dispatcher.DispatchController, status: number, headers: NodeJS.Dict<string | string[]>): void {
    // One that announces another.
    if (status < 200) return
    this.status = status
    this.#told = headers
    this.#onHead?.(this)
    this.#onHead = null
    this.#onFailure = () => {}
  }

  onResponseData(_controller: Dispatcher.DispatchController, bytes: Buffer): void {
    if (this.#left !== null) return
    // Microtasks run when all that one read brought has been parsed.
    if (this.#held.push(bytes) === 1) queueMicrotask(() => this.#handOver())
  }

  onResponseEnd(): void {
    this.#ended = true
    this.#over()
  }

  onResponseError(_controller: Dispatcher.DispatchController, error: Error): void {
    this.#failed = error
    this.#over()
  }

  /** Whoever asked is not kept waiting for a connection that is still being made. */
  #giveUp(): void {
    if (this.#controller === null) this.#onFailure(abortedError())
    else this.#controller.abort(abortedError())
  }

  #over(): void {
    if (this.#left !== null) clearTimeout(this.#left)
    this.#handOver()
    if (this.#failed !== null) this.#onFailure(this.#failed)
  }

  #handOver(): void {
    const take = this.#take
    if (take === null) return
    const [first, ...others] = this.#held
    this.#held = []
    if (first !== undefined)
      try {
        if (!take(others.length === 0 ? first : Buffer.concat([first, ...others]))) {
          this.#onEnd?.()
          this.leave()
          return
        }
      } catch (error) {
        // It would have nobody else to go to.
        this.#onFailure(error instanceof Error ? error : new Error(String(error)))
        this.leave()
        return
      }
    if (this.#ended) this.#onEnd?.()
    else if (this.#failed !== null) this.#onFailure(this.#failed)
  }
}

function abortedError(): Error {
  return new Error('it was given up')
}

const DECODER = new TextDecoder()
// Several may have been closed together.
const STALE_MOST = 2
// That it is closed shows within one round trip.
const STALE_WITHIN_MS = 1_000
// The last bytes of an answer come with its last word, or right behind it.
const LEFT_MS = 1_000
/** The scheduler judges what is too slow. An answer of this size is none. */
const OPTIONS = { headersTimeout: 0, bodyTimeout: 0, maxResponseSize: 256 * 1024 * 1024, allowH2: false, connect: connectNoted }
/** As Node's own fetch does: behind a proxy only where the operator says so. */
const AGENT = process.env.NODE_USE_ENV_PROXY === '1' ? new EnvHttpProxyAgent(OPTIONS) : new Agent(OPTIONS)
