import { createHash } from 'node:crypto'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { badRequest, Fault } from '../core/fault.ts'

/**
 * Single things get a tag of what they look like: who asks often is answered 304 while nothing has changed, and who changes one
 * by `If-Match` is answered 412 where somebody else was faster. The tag is weak: it is of the meaning, and a proxy that
 * compresses the body does not change that. `If-Match` takes it all the same, for there is no other.
 */
export function tagSingleThings(app: FastifyInstance): void {
  const turns = new Turns()
  app.addHook('onRoute', (route) => {
    if (!TAGGED.has(route.url)) return
    if (route.method === 'GET' || route.method === 'HEAD') route.onSend = [tagged, ...[route.onSend ?? []].flat()]
    if (!isConditional(String(route.method))) return
    const { handler } = route
    // One after another, or two who saw the same would both find it unchanged.
    route.handler = function change(request, reply) {
      return turns.take(pathOf(request), async () => {
        if (request.headers['if-match'] !== undefined) await refuseChanged(app, request)
        return handler.call(this, request, reply)
      })
    }
  })
}

const TAGGED = new Set(
  ['jobs', 'workers', 'providers', 'policies', 'teams', 'keys', 'users', 'batches', 'credentials', 'models'].map(
    (noun) => `/api/${noun}/:id`,
  ),
)

/** Throws where `If-Match` would have no effect: ignoring it would overwrite what it is there to protect. */
export function refuseIdleConditions({ method, headers, routeOptions }: FastifyRequest): void {
  if (headers['if-match'] === undefined || method === 'GET' || method === 'HEAD') return
  if (isConditional(method) && TAGGED.has(routeOptions.url ?? '')) return
  throw badRequest('unsupported_header', 'if-match has no effect here, and ignoring it could mislead you.', 'if-match')
}

function isConditional(method: string): boolean {
  return method === 'PATCH' || method === 'DELETE'
}

async function tagged(request: FastifyRequest, reply: FastifyReply, payload: unknown): Promise<unknown> {
  if (reply.statusCode !== 200 || typeof payload !== 'string') return payload
  const tag = `W/"${createHash('sha256').update(payload).digest('base64url').slice(0, 22)}"`
  // Another key may be shown nothing of it.
  reply.headers({ etag: tag, 'cache-control': 'private, no-cache' })
  if (!isNamed(request.headers['if-none-match'], tag)) return payload
  reply.code(304).removeHeader('content-type')
  return null
}

async function refuseChanged(app: FastifyInstance, request: FastifyRequest): Promise<void> {
  const {
    'if-match': header,
    'if-none-match': _,
    'content-type': _type,
    'content-length': _length,
    'transfer-encoding': _coding,
    ...headers
  } = request.headers
  const shown = await app.inject({ method: 'GET', url: pathOf(request), headers })
  // What is not there, or not shown to this caller, the change itself tells best.
  if (shown.statusCode !== 200 || isNamed(header, String(shown.headers.etag))) return
  throw new Fault('changed_meanwhile', 'It is not any more as you saw it. Read it again, and change what is there now.', {
    status: 412,
    param: 'if-match',
  })
}

/** By the weak comparison, for which strong and weak tags of one text are the same. */
function isNamed(header: string | undefined, tag: string): boolean {
  if (header === undefined) return false
  const opaque = (one: string): string => one.trim().replace(/^W\//, '')
  return header.trim() === '*' || header.split(',').some((one) => opaque(one) === opaque(tag))
}

function pathOf(request: FastifyRequest): string {
  return request.url.split('?')[0] ?? ''
}

/** Who changes one thing waits for those who came before. */
class Turns {
  readonly #last = new Map<string, Promise<unknown>>()

  async take<T>(thing: string, change: () => Promise<T>): Promise<T> {
    const before = this.#last.get(thing)
    const mine = (before ?? Promise.resolve()).then(change)
    const ended = mine.then(
      () => {},
      () => {},
    )
    this.#last.set(thing, ended)
    try {
      return await mine
    } finally {
      if (this.#last.get(thing) === ended) this.#last.delete(thing)
    }
  }
}
