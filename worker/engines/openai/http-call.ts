import http from 'node:http'
import https from 'node:https'

/**
 * One HTTP call to an upstream. Node's own client and not `fetch`, because that one gives up after five silent minutes:
 * whether a long silence is a stall is for the coordinator to judge.
 */
export type HttpCall = {
  method: 'GET' | 'POST'
  url: string
  /** Of the upstream; absent: it asks for none. */
  key?: string
  body?: unknown
  signal: AbortSignal
}

export type HttpAnswer = http.IncomingMessage

/** Resolves with the head of the answer; rejects when there is no connection, or it was aborted. */
export function callHttp({ method, url, key, body, signal }: HttpCall): Promise<HttpAnswer> {
  const target = new URL(url)
  const content = body === undefined ? undefined : Buffer.from(JSON.stringify(body))
  const headers: http.OutgoingHttpHeaders = { accept: 'application/json, text/event-stream' }
  if (key !== undefined) headers.authorization = `Bearer ${key}`
  if (content !== undefined) Object.assign(headers, { 'content-type': 'application/json', 'content-length': content.length })
  return new Promise((resolve, reject) => {
    const { request } = target.protocol === 'https:' ? https : http
    // A connection for each call: one that is kept may be closed by the server just as it is used again.
    const call = request(target, { method, headers, signal, agent: false }, resolve)
    call.on('error', reject)
    // Node says nothing of a server that changes the protocol, unless somebody listens.
    call.on('upgrade', (_answer, socket) => {
      socket.destroy()
      reject(new Error('it wants to speak another protocol'))
    })
    call.end(content)
  })
}

/** Undefined when it is longer than the bound. A connection that breaks rejects. */
export async function bodyOf(answer: HttpAnswer, boundBytes: number): Promise<string | undefined> {
  const parts: Buffer[] = []
  let bytes = 0
  for await (const part of answer as AsyncIterable<Buffer>) {
    bytes += part.length
    // Leaving the loop closes the connection.
    if (bytes > boundBytes) return undefined
    parts.push(part)
  }
  // Without a mark of its byte order.
  return new TextDecoder().decode(Buffer.concat(parts))
}
