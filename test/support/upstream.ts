import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as pause } from 'node:timers/promises'
import { anthropicVoice } from './upstream-anthropic.ts'
import { openAiVoice } from './upstream-openai.ts'
import type { Call, Play, Voice } from './upstream-play.ts'

/**
 * An upstream as a test wants it: one HTTP server that speaks the wire formats of OpenAI and Anthropic, plays what it was told
 * to play for each call in turn, faults too, and remembers who asked for what. No model is behind it.
 */
export class Upstream implements AsyncDisposable {
  readonly calls: Call[] = []
  /** What a call plays when nothing was planned for it. */
  usual: Play = {}
  /** Before its models are listed. */
  listDelayMs = 0
  /** Who does not present it is refused, with the words of a vendor that repeats what it was given. */
  key: string | null = null
  readonly #server: Server
  #planned: Play[] = []
  #waiting: { count: number; resolve: () => void }[] = []

  private constructor() {
    this.#server = createServer((request, response) => void this.#serve(request, response))
  }

  static async open(port = 0): Promise<Upstream> {
    const upstream = new Upstream()
    await new Promise<void>((resolve) => upstream.#server.listen(port, '127.0.0.1', resolve))
    return upstream
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port
  }

  /** Where an Anthropic client looks; an OpenAI client wants `/v1` behind it. */
  get url(): string {
    return `http://127.0.0.1:${this.port}`
  }

  /** One play for each of the next calls. */
  plan(...plays: Play[]): void {
    this.#planned.push(...plays)
  }

  /** The call of this number, from 0, once it has come. */
  async call(index: number): Promise<Call> {
    if (this.calls.length <= index)
      await new Promise<void>((resolve) => {
        this.#waiting.push({ count: index + 1, resolve })
      })
    return this.calls[index] as Call
  }

  /** The calls of models and counts aside. */
  get generations(): Call[] {
    return this.calls.filter((call) => call.method === 'POST' && !call.path.endsWith('/count_tokens'))
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections()
    await new Promise((resolve) => this.#server.close(resolve))
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const parts: Buffer[] = []
    for await (const part of request) parts.push(part as Buffer)
    const path = request.url?.split('?')[0] ?? ''
    const call = newCall(request, path, Buffer.concat(parts).toString(), response)
    this.calls.push(call)
    for (const { count, resolve } of this.#waiting) if (this.calls.length >= count) resolve()
    const voice = path.startsWith('/v1/messages') || call.headers['anthropic-version'] !== undefined ? anthropicVoice : openAiVoice
    const presented = /^bearer /i.test(call.headers.authorization ?? '') ? call.headers.authorization?.slice(7) : call.headers['x-api-key']
    if (this.key !== null && presented !== this.key) {
      sendJson(response, 401, {}, voice.error(401, `Incorrect API key provided: ${String(presented)}.`))
      return
    }
    if (call.method === 'GET') await pause(this.listDelayMs)
    const isGeneration = call.method === 'POST' && !path.endsWith('/count_tokens')
    await play(isGeneration ? (this.#planned.shift() ?? this.usual) : {}, call, voice, response)
  }
}

function newCall(request: IncomingMessage, path: string, text: string, response: ServerResponse): Call {
  const { promise, resolve } = Promise.withResolvers<void>()
  const call: Call = {
    method: request.method ?? '',
    path,
    headers: request.headers,
    body: text === '' ? {} : (JSON.parse(text) as Record<string, unknown>),
    closedEarly: false,
    closed: promise,
  }
  response.on('close', () => {
    call.closedEarly = !response.writableFinished && !BROKEN.has(response)
    resolve()
  })
  return call
}

/** Connections that the upstream itself broke. */
const BROKEN = new WeakSet<ServerResponse>()

async function play(play: Play, call: Call, voice: Voice, response: ServerResponse): Promise<void> {
  if (play.delayMs !== undefined) await pause(play.delayMs)
  const headers: Record<string, string> = {
    'x-request-id': 'upstream',
    ...(play.quota === undefined ? {} : voice.quotaHeaders(play.quota)),
  }
  if (play.refuse !== undefined) {
    const { status, message = `Refused with ${status}`, retryAfterS, code } = play.refuse
    if (retryAfterS !== undefined) headers['retry-after'] = String(retryAfterS)
    sendJson(response, status, headers, voice.error(status, message, code))
    return
  }
  if (play.page !== undefined) {
    response.writeHead(play.page, { ...headers, 'content-type': 'text/html; charset=utf-8' }).end('<html>We are back soon.</html>')
    return
  }
  if (call.body.stream === true && play.isWhole !== true && play.isMarked !== true) {
    await stream(play, voice.events(play, call), voice, headers, response)
    return
  }
  if (play.stallAfter !== undefined) return
  const body = voice.body(play, call)
  if (body === null) sendJson(response, 404, headers, voice.error(404, `There is no ${call.path}`))
  else if (play.isMarked === true) sendText(response, headers, `\uFEFF${JSON.stringify(body)}`)
  else if (play.garbleAfter !== undefined) sendText(response, headers, JSON.stringify(body).slice(0, -9))
  else if (play.cutAfter !== undefined) {
    const text = JSON.stringify(body)
    response.writeHead(200, { ...headers, 'content-type': 'application/json', 'content-length': String(text.length) })
    response.write(text.slice(0, text.length / 2), () => breakOff(response))
  } else sendJson(response, 200, headers, body)
}

async function stream(
  play: Play,
  events: ReturnType<Voice['events']>,
  voice: Voice,
  headers: Record<string, string>,
  response: ServerResponse,
): Promise<void> {
  response.writeHead(200, {
    ...headers,
    'content-type': play.isCalledJson === true ? 'application/json' : 'text/event-stream; charset=utf-8',
  })
  response.flushHeaders()
  let pieces = 0
  for (const { data, isPiece } of events) {
    if (response.destroyed) return
    if (pieces === play.stallAfter) return
    if (pieces === play.cutAfter) {
      // What was said must have left before the line goes dead.
      response.write(': cut\n\n', () => breakOff(response))
      return
    }
    if (pieces === play.failAfter) {
      response.end(voice.errorEvent('It broke in the middle.'))
      return
    }
    if (pieces === play.garbleAfter) response.write('data: {"choices": [{"delta": {"con\n\n')
    if (data === 'data: [DONE]\n\n' && play.cutAtEnd === true) {
      response.write(': cut\n\n', () => breakOff(response))
      return
    }
    if (isPiece && pieces === play.silence?.after) {
      if (play.silence.pings === true) response.write('event: ping\ndata: {"type": "ping"}\n\n')
      await pause(play.silence.ms)
    }
    if (isPiece) {
      pieces += 1
      if (play.paceMs !== undefined) await pause(play.paceMs)
    }
    response.write(data)
  }
  response.end()
}

function breakOff(response: ServerResponse): void {
  BROKEN.add(response)
  response.destroy()
}

function sendJson(response: ServerResponse, status: number, headers: Record<string, string>, body: unknown): void {
  response.writeHead(status, { ...headers, 'content-type': 'application/json' })
  response.end(JSON.stringify(body))
}

function sendText(response: ServerResponse, headers: Record<string, string>, text: string): void {
  response.writeHead(200, { ...headers, 'content-type': 'application/json' })
  response.end(text)
}
