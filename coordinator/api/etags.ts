import { createHash } from 'node:crypto'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'

/**
 * Single things get a tag of what they look like, so that who asks often is answered 304 while nothing has changed. The tag
 * is weak: it is of the meaning, and a proxy that compresses the body does not change that.
 */
export function tagSingleThings(app: FastifyInstance): void {
  app.addHook('onRoute', (route) => {
    const reads = route.method === 'GET' || route.method === 'HEAD'
    if (reads && TAGGED.has(route.url)) route.onSend = [tagged, ...[route.onSend ?? []].flat()]
  })
}

const TAGGED = new Set(
  ['jobs', 'workers', 'providers', 'policies', 'teams', 'keys', 'users', 'batches', 'credentials', 'models'].map(
    (noun) => `/api/${noun}/:id`,
  ),
)

async function tagged(request: FastifyRequest, reply: FastifyReply, payload: unknown): Promise<unknown> {
  if (reply.statusCode !== 200 || typeof payload !== 'string') return payload
  const tag = `W/"${createHash('sha256').update(payload).digest('base64url').slice(0, 22)}"`
  // Another key may be shown nothing of it.
  reply.headers({ etag: tag, 'cache-control': 'private, no-cache' })
  if (!isHeld(request.headers['if-none-match'], tag)) return payload
  reply.code(304).removeHeader('content-type')
  return null
}

/** By the weak comparison, for which strong and weak tags of one text are the same. */
function isHeld(header: string | undefined, tag: string): boolean {
  if (header === undefined) return false
  const opaque = (one: string): string => one.trim().replace(/^W\//, '')
  return header.trim() === '*' || header.split(',').some((one) => opaque(one) === opaque(tag))
}
