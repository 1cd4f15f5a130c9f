import { createServer, type ServerResponse } from 'node:http'

/**
 * A cloud that costs next to nothing: it speaks OpenAI's wire, and the model's name says how it answers. `plain` at once,
 * `burst` 500 tokens as fast as the socket takes them, `paced` 50 of them a second, `first` 20 after five milliseconds.
 */
const PLANS: Record<string, { tokens: number; perSecond: number; firstMs: number }> = {
  burst: { tokens: 500, perSecond: 0, firstMs: 0 },
  paced: { tokens: 500, perSecond: 50, firstMs: 0 },
  first: { tokens: 20, perSecond: 0, firstMs: 5 },
}
const WORDS = 'amber anchor apple arrow autumn basin beacon birch bridge candle canyon cedar chapel cinder cliff clover'.split(' ')
const COMMON = { id: 'chatcmpl-bench', created: 1_700_000_000, system_fingerprint: 'fp_bench' }
const PLAIN = JSON.stringify({
  ...COMMON,
  object: 'chat.completion',
  model: 'plain',
  choices: [{ index: 0, message: { role: 'assistant', content: WORDS.join(' '), refusal: null }, logprobs: null, finish_reason: 'stop' }],
  usage: usage(WORDS.length),
})
const CHUNKS = WORDS.map((word) => chunk({ content: ` ${word}` }, null))
// What a real upstream gives to its socket between two looks at its other streams.
const CHUNKS_PER_TURN = 16

const server = createServer((request, response) => {
  let body = ''
  request.setEncoding('utf8')
  request.on('data', (part: string) => (body += part))
  request.on('end', () => {
    const plan = PLANS[/"model":"(\w+)"/.exec(body)?.[1] ?? '']
    if (body.includes('"stream":true') && plan !== undefined) stream(plan, body.includes('"include_usage":true'), response)
    else response.writeHead(200, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(PLAIN) }).end(PLAIN)
  })
})
server.keepAliveTimeout = 60_000
server.listen(Number(process.argv[2]), '127.0.0.1', () => console.log('up'))

function stream({ tokens, perSecond, firstMs }: (typeof PLANS)[string], withUsage: boolean, response: ServerResponse): void {
  response.writeHead(200, { 'content-type': 'text/event-stream' })
  const began = performance.now() + firstMs
  let sent = 0
  const step = (): void => {
    const due = perSecond === 0 ? sent + CHUNKS_PER_TURN : 1 + Math.floor(((performance.now() - began) * perSecond) / 1000)
    for (; sent < Math.min(due, tokens); sent++) response.write(CHUNKS[sent % CHUNKS.length])
    if (response.destroyed) return
    if (sent >= tokens) response.end(ending(tokens, withUsage))
    else if (perSecond === 0) setImmediate(step)
    else setTimeout(step, Math.max(1, (sent * 1000) / perSecond - (performance.now() - began)))
  }
  response.write(chunk({ role: 'assistant', content: '', refusal: null }, null))
  setTimeout(step, firstMs)
}

function ending(tokens: number, withUsage: boolean): string {
  const spent = `data: ${JSON.stringify({ ...COMMON, object: 'chat.completion.chunk', model: 'bench', choices: [], usage: usage(tokens) })}\n\n`
  return `${chunk({}, 'length')}${withUsage ? spent : ''}data: [DONE]\n\n`
}

function chunk(delta: object, finish: string | null): string {
  const choices = [{ index: 0, delta, logprobs: null, finish_reason: finish }]
  return `data: ${JSON.stringify({ ...COMMON, object: 'chat.completion.chunk', model: 'bench', choices })}\n\n`
}

function usage(completion: number): object {
  return { prompt_tokens: 60, completion_tokens: completion, total_tokens: 60 + completion }
}
