import http from 'node:http'
import type { AddressInfo } from 'node:net'

/**
 * A server of the OpenAI dialect that answers as it is told to and remembers what it was asked. Words in the prompt bring
 * on its faults.
 */
export class OpenAiServer implements AsyncDisposable {
  /** Entries of /v1/models. */
  models: Record<string, unknown>[]
  /** Answers to other paths, such as /props. */
  readonly pages: Record<string, unknown> = {}
  /** Set: only who presents it is answered. */
  key: string | undefined
  readonly bodies: Record<string, unknown>[] = []
  /** Paths that were read. */
  readonly gets: string[] = []
  /** Streams that the other side closed before their end. */
  closed = 0
  readonly #server = http.createServer((request, response) => this.#answer(request, response))
  #onChange: () => void = () => {}
  #slow: (() => void)[] = []

  private constructor(models: Record<string, unknown>[]) {
    this.models = models
  }

  static async open(models: Record<string, unknown>[] = [{ id: 'up', max_model_len: 4096 }], port = 0): Promise<OpenAiServer> {
    const server = new OpenAiServer(models)
    await new Promise<void>((resolve) => server.#server.listen(port, '127.0.0.1', resolve))
    return server
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port
  }

  get baseUrl(): string {
    return `http://127.0.0.1:${this.port}/v1`
  }

  /** Resolves when the condition holds, looked at whenever something happened here. */
  until(condition: () => boolean): Promise<void> {
    return new Promise((resolve) => {
      this.#onChange = () => {
        if (condition()) resolve()
      }
      this.#onChange()
    })
  }

  /** What is slow is answered. */
  release(): void {
    for (const answer of this.#slow.splice(0)) answer()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections()
    await new Promise((resolve) => this.#server.close(resolve))
  }

  #answer(request: http.IncomingMessage, response: http.ServerResponse): void {
    const parts: Buffer[] = []
    request.on('data', (part: Buffer) => parts.push(part))
    request.on('end', () => {
      const path = request.url ?? ''
      if (request.method === 'GET') this.gets.push(path)
      if (this.key !== undefined && request.headers.authorization !== `Bearer ${this.key}`)
        json(response, 401, { error: { message: `wrong key ${request.headers.authorization}` } })
      else if (path === '/v1/models') json(response, 200, { object: 'list', data: this.models })
      else if (request.method === 'GET') page(response, this.pages[path])
      else this.#generate(path, JSON.parse(Buffer.concat(parts).toString()) as Record<string, unknown>, response)
    })
  }

  #generate(path: string, body: Record<string, unknown>, response: http.ServerResponse): void {
    this.bodies.push(body)
    response.on('close', () => {
      if (!response.writableEnded) this.closed += 1
      this.#onChange()
    })
    const prompt = JSON.stringify(body)
    if (prompt.includes('REFUSE')) json(response, 400, { error: { message: 'top_k must be friendly', type: 'invalid_request_error' } })
    else if (prompt.includes('WRONG KEY')) json(response, 401, { error: { message: 'wrong key' } })
    else if (prompt.includes('NOT THIS MODEL')) json(response, 403, { error: { message: 'no access to the model' } })
    else if (prompt.includes('BUSY')) json(response, 429, { error: { message: 'slow down' } }, { 'retry-after': '30' })
    else if (prompt.includes('UNWELL')) json(response, 503, { error: { message: 'no backend' } }, { 'retry-after': '20' })
    else if (prompt.includes('TOO LONG A TIME')) json(response, 502, { error: { message: 'no answer' } })
    else if (prompt.includes('UNPAID')) json(response, 402, { error: { message: 'pay first' } })
    else if (prompt.includes('SLOW')) this.#slow.push(() => this.#stream(path, '', response))
    else if (prompt.includes('BROKEN')) json(response, 500, { error: { message: 'out of memory' } })
    else if (path === '/v1/embeddings') json(response, 200, embeddings(body.input as string[]))
    else if (path === '/v1/rerank')
      marked(response, { results: (body.documents as string[]).map((_, index) => ({ index, relevance_score: index / 2 })).toReversed() })
    else this.#stream(path, prompt, response)
    this.#onChange()
  }

  #stream(path: string, prompt: string, response: http.ServerResponse): void {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    const say = (chunk: unknown): void => void response.write(`data: ${typeof chunk === 'string' ? chunk : JSON.stringify(chunk)}\n\n`)
    const piece = (content: string): unknown =>
      path === '/v1/completions' ? { choices: [{ index: 0, text: content }] } : { choices: [{ index: 0, delta: { content } }] }
    if (prompt.includes('THINK')) say({ choices: [{ index: 0, delta: { reasoning_content: 'Hm.' } }] })
    if (prompt.includes('"tools"'))
      say({ choices: [{ index: 0, delta: { tool_calls: [{ index: 0, id: 'c1', function: { name: 'f', arguments: '{}' } }] } }] })
    for (const content of ['Hello ', 'from ', 'upstream.']) say(piece(content))
    if (prompt.includes('HANG')) return
    if (prompt.includes('CUT')) return void setImmediate(() => response.destroy())
    if (prompt.includes('MUCH')) say({ error: { message: 'slow down', type: 'rate_limit_exceeded' } })
    if (prompt.includes('FAULT')) say({ error: { message: 'CUDA error', type: 'server_error' } })
    if (!prompt.includes('ENDLESS')) say({ choices: [{ index: 0, delta: {}, text: '', finish_reason: 'stop' }] })
    if (prompt.includes('RESET')) return void setImmediate(() => response.destroy())
    say({ choices: [], usage: { prompt_tokens: 11, completion_tokens: 3, prompt_tokens_details: { cached_tokens: 5 } } })
    say('[DONE]')
    response.end()
  }
}

function embeddings(inputs: string[]): unknown {
  return { data: inputs.map((_, index) => ({ index, embedding: [3, 4 * (index + 1)] })).toReversed(), usage: { prompt_tokens: 4 } }
}

/** A page that is not answered. */
export const NEVER = 'never'

function page(response: http.ServerResponse, content: unknown): void {
  if (content === NEVER) return
  if (content === undefined) json(response, 404, { error: { message: 'no such page' } })
  else if (typeof content === 'string') response.writeHead(200, { 'content-type': 'text/plain' }).end(content)
  else json(response, 200, content)
}

/** Behind a mark of its byte order, as some servers write. */
function marked(response: http.ServerResponse, body: unknown): void {
  response.writeHead(200, { 'content-type': 'application/json' }).end(`\uFEFF${JSON.stringify(body)}`)
}

function json(response: http.ServerResponse, status: number, body: unknown, headers: Record<string, string> = {}): void {
  response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body))
}
