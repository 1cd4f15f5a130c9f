import { createHash } from 'node:crypto'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { badRequest, Fault } from '../core/fault.ts'

/**
 * Single things get a tag of what they look like: who asks often is answered 304 while nothing has changed, and who changes one
 * by `If-Match` is answered 412 where somebody else was faster. The tag is weak: it is of the meaning, and a proxy that
 * compresses the body does not change that. `If-Match` takes it all the same, for there is no other, and looks at its first
 * half only: that is of what people set, the second of what happens by itself.
 */
export function tagSingleThings(app: FastifyInstance): void {
  const turns = new Turns()
  app.addHook('onRoute', (route) => {
    if (!TAGGED.has(route.url)) return
    if (route.method === 'GET' || route.method === 'HEAD') route.onSend = [tagged, ...[route.onSend ?? []].flat()]
    if (!isConditional(String(route.method))) return
    const { handler } = route
    // One after another, or two who saw the same would both find it unchanged. One thing has several names: so all of a kind.
    route.handler = function change(request, reply) {
      return turns.take(route.url, async () => {
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
  const opaque = isChanged(request.routeOptions.url ?? '') ? `${settledOf(payload)}.${digest(payload)}` : digest(payload)
  const tag = `W/"${opaque}"`
  // Another key may be shown nothing of it.
  reply.headers({ etag: tag, 'cache-control': 'private, no-cache' })
  if (!isNamed(request.headers['if-none-match'], (named) => named === opaque)) return payload
  reply.code(304).removeHeader('content-type')
  return null
}

/** Whatever changes by itself, or by being used. */
const VOLATILE = new Set('busy state reason until quota_remaining_ratio spent_micros_today discovered last_heartbeat_at host'.split(' '))

function settledOf(payload: string): string {
  const view = JSON.parse(payload) as Record<string, unknown>
  const areFound = view.discovered !== undefined && JSON.stringify(view.models) === JSON.stringify(asFound(view.discovered as string[]))
  return digest(JSON.stringify(Object.entries(view).filter(([name]) => !VOLATILE.has(name) && !(areFound && name === 'models'))))
}

/** Models of a provider for which nobody set any look so. */
function asFound(discovered: string[]): object[] {
  return discovered.map((name) => ({ name, upstream: name, input_micros_per_mtok: null, output_micros_per_mtok: null }))
}

/** Jobs and batches, which may be large, are not changed but cancelled. */
function isChanged(url: string): boolean {
  return !['/api/jobs/:id', '/api/batches/:id', '/api/models/:id'].includes(url)
}

function digest(text: string): string {
  return createHash('sha256').update(text).digest('base64url').slice(0, 22)
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
  // What is not there, the change itself tells best.
  if (shown.statusCode === 404) return
  if (shown.statusCode !== 200) throw unseen(shown)
  const settled = settledOf(shown.payload)
  if (isNamed(header, (named) => named.split('.')[0] === settled)) return
  throw new Fault('changed_meanwhile', 'It is not any more as you saw it. Read it again, and change what is there now.', {
    status: 412,
    param: 'if-match',
  })
}

/** Whoever may not see it, or cannot now, cannot say how it was. */
function unseen({ statusCode, payload }: { statusCode: number; payload: string }): Fault {
  const { error } = JSON.parse(payload) as { error: { code: string; message: string; retryable: boolean } }
  return new Fault(error.code, `if-match needs a look at it first: ${error.message}`, {
    status: statusCode,
    param: 'if-match',
    retryable: error.retryable,
  })
}

/** By the weak comparison, for which strong and weak tags of one text are the same. */
function isNamed(header: string | undefined, isSame: (opaque: string) => boolean): boolean {
  if (header === undefined) return false
  const opaque = (one: string): string => one.trim().replace(/^W\//, '').replaceAll('"', '')
  return header.trim() === '*' || header.split(',').some((one) => isSame(opaque(one)))
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
