import fastify from 'fastify'

/** The floor: a bare Fastify route that answers the same bytes, and a stream of the same tokens. No key, no job, no row. */
const answer = {
  id: 'chatcmpl-floor',
  object: 'chat.completion',
  created: 1,
  model: 'fake',
  choices: [
    {
      index: 0,
      message: {
        role: 'assistant',
        content: 'amber anchor apple arrow autumn basin beacon birch bridge candle canyon cedar chapel cinder cliff clover',
      },
      finish_reason: 'length',
    },
  ],
  usage: { prompt_tokens: 10, completion_tokens: 16, total_tokens: 26 },
}

const app = fastify()
app.post('/v1/chat/completions', async (request, reply) => {
  const {
    stream,
    max_tokens: tokens = 16,
    rate = 0,
    first_token_ms: firstTokenMs = 0,
  } = request.body as { stream?: boolean; max_tokens?: number; rate?: number; first_token_ms?: number }
  if (stream !== true) {
    if (firstTokenMs > 0) await new Promise((resolve) => setTimeout(resolve, firstTokenMs))
    return answer
  }
  reply.hijack()
  const { raw } = reply
  raw.writeHead(200, { 'content-type': 'text/event-stream' })
  let sent = 0
  const began = performance.now() + firstTokenMs
  const step = (): void => {
    const due = rate === 0 ? sent + 16 : 1 + Math.floor(((performance.now() - began) * rate) / 1000)
    for (; sent < Math.min(due, tokens); sent++)
      raw.write(
        `data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"fake","choices":[{"index":0,"delta":{"content":" amber"},"finish_reason":null}]}\n\n`,
      )
    if (sent >= tokens) raw.end('data: [DONE]\n\n')
    else if (rate === 0) setImmediate(step)
    else setTimeout(step, Math.max(1, (sent * 1000) / rate - (performance.now() - began)))
  }
  setTimeout(step, firstTokenMs)
  return reply
})
await app.listen({ host: '127.0.0.1', port: Number(process.argv[2]) })
console.log('up')
