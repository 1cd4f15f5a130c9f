import fastify from 'fastify'
import { Pool } from 'undici'

/** The floor of a gateway: a bare Fastify route in front of undici, in a process of its own. No key, no job, no row. */
const [port, upstreamPort] = process.argv.slice(2)
const upstream = new Pool(`http://127.0.0.1:${upstreamPort}`, { connections: 256 })
const app = fastify()
app.post<{ Body: { stream?: boolean } }>('/v1/chat/completions', async (request, reply) => {
  const answer = await upstream.request({
    method: 'POST',
    path: '/v1/chat/completions',
    headers: { 'content-type': 'application/json', authorization: 'Bearer sk-bench' },
    body: JSON.stringify(request.body),
  })
  reply.code(answer.statusCode).header('content-type', answer.headers['content-type'])
  return reply.send(request.body.stream === true ? answer.body : Buffer.from(await answer.body.arrayBuffer()))
})
await app.listen({ host: '127.0.0.1', port: Number(port) })
console.log('up')
