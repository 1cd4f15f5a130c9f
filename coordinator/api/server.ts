import type { IncomingMessage } from 'node:http'
import fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'
import { parse as parseYaml } from 'yaml'
import { badRequest, Fault } from '../core/fault.ts'
import type { JobId } from '../core/job.ts'
import { newId } from '../ids.ts'
import { type Caller, requireScope } from './auth.ts'
import { answerHeaders } from './answer-headers.ts'
import { registerAnthropic } from './anthropic.ts'
import { anthropicError } from './anthropic-answer.ts'
import { registerDescription } from './description.ts'
import { dialectOf } from './dialect.ts'
import { refuseIdleConditions, tagSingleThings } from './etags.ts'
import { type ApiParts, registerHealth } from './health.ts'
import { registerEvents } from './events.ts'
import { isJson, manyValues, parsePlain, refuseDeepNesting, refuseOddNames, requestId, utf8Of, VALUES_MAX } from './well-formed.ts'
import { registerKeys } from './keys.ts'
import { registerJobs } from './jobs.ts'
import { registerBatches } from './batches.ts'
import { registerOpenAiBatches } from './openai-batches.ts'
import { registerOpenAi } from './openai.ts'
import { registerTeams } from './teams.ts'
import { registerProviders } from './providers.ts'
import { registerCredentials } from './credentials.ts'
import { registerPolicies } from './policies.ts'
import { registerModels } from './models.ts'
import { registerUsers } from './users.ts'
import { registerInvites } from './invites.ts'
import { registerQuotas } from './quotas.ts'
import { registerWorkers } from './workers.ts'

declare module 'fastify' {
  interface FastifyRequest {
    caller: Caller
    beganMs: number
  }
}

/** The HTTP door: keys, limits and one place that turns faults into the dialect of the endpoint. */
export function buildServer(parts: ApiParts): FastifyInstance {
  const app = fastify({
    logger: false,
    bodyLimit: BODY_LIMIT_BYTES,
    routerOptions: { maxParamLength: 200 },
    // Only what a caller sends is hurried, head and body; the answer waits as long as its job takes.
    requestTimeout: REQUEST_TIMEOUT_MS,
    connectionTimeout: 0,
    keepAliveTimeout: 75_000,
    forceCloseConnections: true,
    genReqId: requestId,
    http: { maxHeaderSize: HEADER_LIMIT_BYTES, headersTimeout: 60_000, connectionsCheckingInterval: 5_000 },
    clientErrorHandler: refuseConnection,
    frameworkErrors: (error, request, reply) => void answerError(error, request, reply as unknown as FastifyReply, parts),
  })
  app.decorateRequest('caller')
  app.decorateRequest('beganMs', 0)
  app.addHook('onRequest', (request, reply, done) => {
    request.beganMs = performance.now()
    // Some clients name the type of a body that they do not send.
    if (hasNoBody(request)) delete request.headers['content-type']
    nameRequest(request, reply)
    // Before the body is read: nobody has been asked for a key.
    if (request.is404) throw notFound(request)
    if (!OPEN.has(request.routeOptions.url ?? '')) admit(parts, request)
    if (request.headers['idempotency-key'] !== undefined && !isRepeatable(request))
      throw badRequest('unsupported_header', 'idempotency-key has no effect here, and ignoring it could mislead you.', 'idempotency-key')
    refuseEncoding(request)
    refuseIdleConditions(request)
    refuseOddNames(request.params)
    done()
  })
  app.addHook('preValidation', (request, _reply, done) => {
    refuseDeepNesting(request.body)
    done()
  })
  app.setErrorHandler(async (error, request, reply) => {
    if (asFault(error, request).status === 413) await readOut(request.raw)
    return answerError(error, request, reply, parts)
  })
  app.setNotFoundHandler((request, reply) => answerError(notFound(request), request, reply, parts))
  const parseJson = app.getDefaultJsonParser('error', 'error')
  app.addContentTypeParser('application/json', { parseAs: 'buffer' }, (request, bytes: Buffer, done) => {
    const body = utf8Of(bytes)
    if (body === null) return done(notUtf8())
    const takesRows = (request.routeOptions.bodyLimit ?? BODY_LIMIT_BYTES) > BODY_LIMIT_BYTES
    const refusal = manyValues(body, takesRows ? BATCH_VALUES_MAX : VALUES_MAX)
    if (refusal !== null) return done(refusal)
    const value = parsePlain(body)
    if (value === undefined)
      void parseJson(request, body, (error, parsed) => done(error !== null && isJson(body) ? forbiddenName() : error, parsed))
    else done(null, value)
  })
  app.addContentTypeParser(YAML_TYPES, { parseAs: 'buffer' }, (_request, bytes: Buffer, done) => {
    try {
      done(null, readYaml(bytes))
    } catch (error) {
      done(error as Fault)
    }
  })
  tagSingleThings(app)
  registerHealth(app, parts)
  registerDescription(app, parts.version)
  registerOpenAi(app, parts)
  registerAnthropic(app, parts)
  registerJobs(app, parts)
  registerWorkers(app, parts)
  registerInvites(app, parts)
  registerEvents(app, parts)
  registerTeams(app, parts)
  registerBatches(app, parts)
  registerOpenAiBatches(app, parts)
  registerKeys(app, parts)
  registerProviders(app, parts)
  registerCredentials(app, parts)
  registerPolicies(app, parts)
  registerModels(app, parts)
  registerUsers(app, parts)
  registerQuotas(app, parts)
  return app
}

/** Who is answered while it still sends may never read why: the rest of its body is read, and thrown away, for a while. */
async function readOut(body: IncomingMessage): Promise<void> {
  if (body.complete || body.destroyed) return
  await new Promise<void>((resolve) => {
    const late = setTimeout(resolve, READ_OUT_MS)
    const done = (): void => {
      clearTimeout(late)
      resolve()
    }
    body.once('end', done).once('close', done).resume()
  })
}

/** So that its answer, whatever it is, can be found again in a log. */
function nameRequest(request: FastifyRequest, reply: FastifyReply): void {
  reply.header('x-request-id', request.id)
  if (dialectOf(request) === 'anthropic') reply.header('request-id', request.id)
}

function notFound(request: FastifyRequest): Fault {
  const path = request.url.split('?')[0]?.slice(0, 200) ?? ''
  return new Fault('not_found', `There is no ${request.method} ${path} here.`, { status: 404 })
}

function hasNoBody({ headers }: FastifyRequest): boolean {
  return (headers['content-length'] ?? '0') === '0' && headers['transfer-encoding'] === undefined
}

/** Read as what it is not, a body would be called no JSON, or hold other letters than were sent. */
function refuseEncoding({ headers }: FastifyRequest): void {
  const { 'content-encoding': encoding = 'identity', 'content-type': type = '' } = headers
  const charset = /;\s*charset="?([^";]*)/i.exec(type)?.[1]?.trim() ?? 'utf-8'
  const wrong =
    encoding.toLowerCase() !== 'identity'
      ? `content-encoding ${encoding}`
      : /^(utf-?8|us-ascii)$/i.test(charset)
        ? null
        : `charset ${charset}`
  if (wrong !== null)
    throw new Fault('unsupported_encoding', `A body of ${wrong.slice(0, 100)} is not read here: send it uncompressed, in UTF-8.`, {
      status: 415,
    })
}

function readYaml(bytes: Buffer): unknown {
  const text = utf8Of(bytes)
  if (text === null) throw notUtf8()
  if (text.length > YAML_CHARS_MAX)
    throw new Fault('body_too_large', `A body in YAML may hold ${YAML_CHARS_MAX / 1024} KiB. Send a larger one as JSON.`, {
      status: 413,
      retryAfterS: TOO_LARGE_RETRY_S,
    })
  try {
    return parseYaml(text, { maxAliasCount: YAML_ALIASES_MAX })
  } catch (cause) {
    const why = cause instanceof Error ? cause.message.split('\n')[0] : String(cause)
    throw badRequest('invalid_yaml', `The body is not valid YAML: ${why}`)
  }
}

/** Names that change what objects are. */
function forbiddenName(): Fault {
  return badRequest(
    'invalid_json',
    'An object in the body has a member "__proto__", or a "constructor" with a "prototype": neither is taken.',
  )
}

function notUtf8(): Fault {
  return badRequest('invalid_text', 'The body is not UTF-8.')
}

/** A key without the scope for what is asked is told so before the body is read. */
function admit(parts: ApiParts, request: FastifyRequest): void {
  request.caller = parts.keyring.identify(request.headers, request.ip, request.raw.socket)
  const { url = '' } = request.routeOptions
  if (request.method === 'GET' || request.method === 'HEAD') {
    if (!url.startsWith('/v1/')) requireScope(request.caller, 'read')
    else if (!url.startsWith('/v1/models') && request.caller.scopes?.includes('inference') === false) requireScope(request.caller, 'read')
  } else requireScope(request.caller, INFERENCE.test(url) ? 'inference' : 'admin')
}

/** What makes jobs and handles one's own; every other change is an admin's. */
const INFERENCE = /^\/(v1|api\/(jobs|batches))(\/|$)/

const YAML_TYPES = ['application/yaml', 'application/x-yaml', 'text/yaml']
// A few lines of YAML can stand for gigabytes otherwise.
const YAML_ALIASES_MAX = 100
// It is read in one turn of the event loop, up to 4 ms a KiB.
const YAML_CHARS_MAX = 64 * 1024
const BODY_LIMIT_BYTES = 32 * 1024 * 1024
// Long enough for a client to read why, while it is still sending.
const LINGER_MS = 2_000
// The largest that a client sends by mistake, on a line of 50 Mbit/s.
const READ_OUT_MS = 6_000
const HEADER_LIMIT_BYTES = 16 * 1024
// Sixty for each of as many rows as a batch may hold. Lines are parsed one by one, and hold more.
const BATCH_VALUES_MAX = 6_000_000
// The largest body comes in on a line of 4 Mbit/s; one that trickles longer only holds a connection.
const REQUEST_TIMEOUT_MS = 300_000
// A body that is too large stays too large: the header says only how soon the door may be tried with a smaller one.
const TOO_LARGE_RETRY_S = 5
/** What makes something by a key only once; reading and changing twice is harmless anyway. */
function isRepeatable({ method, routeOptions }: FastifyRequest): boolean {
  return method === 'POST' && REPEATABLE.has(routeOptions.url ?? '')
}

const REPEATABLE = new Set([
  '/v1/chat/completions',
  '/v1/completions',
  '/v1/responses',
  '/v1/embeddings',
  '/v1/rerank',
  '/v1/messages',
  '/v1/files',
  '/v1/batches',
  '/api/jobs',
  '/api/batches',
  '/api/keys',
  '/api/workers/invites',
  '/api/teams',
  '/api/users',
  '/api/policies',
  '/api/providers',
  '/api/credentials',
])
const OPEN = new Set(['/', '/healthz', '/readyz', '/metrics', '/docs', '/api/openapi.json'])

function answerError(error: unknown, request: FastifyRequest, reply: FastifyReply, parts: ApiParts): FastifyReply {
  const fault = asFault(error, request)
  // A path that cannot be read is refused before any hook.
  if (!reply.hasHeader('x-request-id')) nameRequest(request, reply)
  if (fault.status >= 500 && fault.status !== 503) {
    // How a job ended is no fault of this process, and says nothing of where in it.
    const what = fault.job !== null ? `job ${fault.job}: ${fault.code}: ${fault.message}` : stackOf(error)
    parts.log.error(`${request.method} ${request.routeOptions.url ?? ''}: ${what}`)
  }
  if (fault.retryAfterS !== null) reply.header('retry-after', String(fault.retryAfterS))
  if (fault.status === 401) reply.header('www-authenticate', 'Bearer')
  // A job that has ended badly has ended: the official clients would submit it again as a new one, twice.
  if (fault.job !== null) {
    const live = parts.dispatcher.find(fault.job as JobId)
    reply.headers({ ...(live === undefined ? {} : answerHeaders(live, request)), 'x-holdfast-job': fault.job, 'x-should-retry': 'false' })
  }
  return reply.code(fault.status).send(errorBody(fault, request))
}

function stackOf(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error)
}

function errorBody(fault: Fault, request: FastifyRequest): Record<string, unknown> {
  const dialect = dialectOf(request)
  if (dialect === 'anthropic') return anthropicError(fault, request.id)
  return dialect === 'openai' ? openAiError(fault) : nativeError(fault)
}

/** The error body of the OpenAI dialect, with Holdfast's own members beside the dialect's. */
export function openAiError(fault: Fault): { error: Record<string, unknown> } {
  return {
    error: {
      message: fault.message,
      type:
        fault.status === 401
          ? 'authentication_error'
          : fault.status === 429
            ? 'rate_limit_error'
            : fault.status < 500
              ? 'invalid_request_error'
              : 'server_error',
      param: fault.param,
      code: fault.code,
      layer: fault.layer,
      retryable: fault.retryable,
      provider_status: fault.providerStatus,
      job: fault.job,
    },
  }
}

export function nativeError(fault: Fault): { error: Record<string, unknown> } {
  return {
    error: {
      code: fault.code,
      message: fault.message,
      layer: fault.layer,
      retryable: fault.retryable,
      provider_status: fault.providerStatus,
      param: fault.param,
      job: fault.job,
      hint: fault.hint,
    },
  }
}

const PARTS_LIMITS = new Set(['FST_FILES_LIMIT', 'FST_FIELDS_LIMIT', 'FST_PARTS_LIMIT'])

function asFault(error: unknown, request: FastifyRequest): Fault {
  if (error instanceof Fault) return error
  const status = Number((error as { statusCode?: unknown })?.statusCode ?? 500)
  const code = (error as { code?: string })?.code ?? ''
  if (PARTS_LIMITS.has(code))
    return new Fault('invalid_multipart', 'The form holds more than one file or more fields than there are: send purpose and file.', {
      status: 400,
    })
  if (status === 413) {
    const most = Math.floor((request.routeOptions.bodyLimit ?? BODY_LIMIT_BYTES) / 1024 / 1024)
    return new Fault('body_too_large', `The body is larger than ${most} MiB. Send a smaller one.`, {
      status,
      retryAfterS: TOO_LARGE_RETRY_S,
    })
  }
  if (status === 415) return new Fault('unsupported_media_type', 'Send the body as application/json.', { status })
  if (code.startsWith('FST_ERR_CTP') || error instanceof SyntaxError)
    return new Fault('invalid_json', 'The body is not valid JSON.', { status: 400 })
  if (status >= 400 && status < 500) return new Fault('invalid_request', (error as Error).message, { status })
  return new Fault('internal_error', 'Holdfast made a mistake; its log says which. The request was not carried out.', {
    status: 500,
    cause: error,
  })
}

/** What is not HTTP enough to reach a route: a header bomb, a broken request line. */
function refuseConnection(error: Error & { code?: string }, socket: import('node:net').Socket): void {
  if (error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy()
    return
  }
  const { status, fault } = refusalOf(error.code)
  // Of a head that came in parts the first line may be gone.
  const packet: unknown = Reflect.get(error, 'rawPacket')
  const head = packet instanceof Buffer ? packet.subarray(0, 2_000).toString('latin1') : ''
  const [, path = '/v1/'] = /^[A-Z]+ (\/\S*)/.exec(head) ?? []
  const dialect = dialectOf({ url: path, headers: {} })
  const id = newId()
  const body = JSON.stringify(
    dialect === 'anthropic' ? anthropicError(fault, id) : dialect === 'openai' ? openAiError(fault) : nativeError(fault),
  )
  socket.end(
    `HTTP/1.1 ${status}\r\nx-request-id: ${id}\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\nconnection: close\r\n\r\n${body}`,
  )
  // Node counts it as closed from here on; one that never closes its side would stay for ever.
  setTimeout(() => socket.destroy(), LINGER_MS).unref()
}

function refusalOf(code: string | undefined): { status: string; fault: Fault } {
  if (code === 'HPE_HEADER_OVERFLOW')
    return {
      status: '431 Request Header Fields Too Large',
      fault: new Fault('headers_too_large', `The headers are larger than ${HEADER_LIMIT_BYTES / 1024} KiB.`, { status: 431 }),
    }
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT')
    return {
      status: '408 Request Timeout',
      fault: new Fault('request_timeout', `The request was not whole after ${REQUEST_TIMEOUT_MS / 60_000} minutes (its head: one).`, {
        status: 408,
        retryable: true,
      }),
    }
  return { status: '400 Bad Request', fault: new Fault('invalid_http', 'This is not a valid HTTP request.', { status: 400 }) }
}
