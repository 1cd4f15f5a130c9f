import { randomInt } from 'node:crypto'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { newId } from '../ids.ts'
import type { GenerationRequest } from '../../proto/request.ts'
import { badRequest, Fault } from '../core/fault.ts'
import type { ModelOffer } from '../core/fleet.ts'
import { isFinal, type JobId, type JobRecord } from '../core/job.ts'
import type { LiveJob } from '../engine/live-job.ts'
import { PrefixHash } from '../prefix-hash.ts'
import type { ApiParts } from './health.ts'
import { usageView } from './job-view.ts'
import { type ParsedRequest, parseChatRequest, parseCompletionRequest } from './openai-request.ts'
import { OpenAiStream } from './openai-stream.ts'

/** The OpenAI dialect: chat completions, completions and models, streamed and not. */
export function registerOpenAi(app: FastifyInstance, parts: ApiParts): void {
  app.post('/v1/chat/completions', (request, reply) => serve(parts, request, reply, 'chat', parseChatRequest(request.body)))
  app.post('/v1/completions', (request, reply) => serve(parts, request, reply, 'completion', parseCompletionRequest(request.body)))

  app.get('/v1/models', async () => {
    const data = [...parts.scheduler.knownModels().keys()].sort().map((id) => modelView(id))
    return { object: 'list', data }
  })

  app.get<{ Params: { id: string } }>('/v1/models/:id', async (request) => {
    if (!parts.scheduler.knownModels().has(request.params.id)) throw unknownModel(parts, request.params.id)
    return modelView(request.params.id)
  })
}

async function serve(
  parts: ApiParts,
  request: FastifyRequest,
  reply: FastifyReply,
  type: JobRecord['type'],
  parsed: ParsedRequest,
): Promise<FastifyReply> {
  const { live, stored } = accept(parts, request, type, parsed)
  let gone = false
  // Registered before anything is awaited: a caller may leave while its job is being stored.
  reply.raw.once('close', () => {
    gone = true
    if (!isFinal(live.record.status) && !live.record.detached)
      parts.dispatcher.cancel(live.record.id, `${request.caller.actor} (disconnected)`)
  })
  await stored
  if (parsed.stream) {
    reply.hijack()
    if (!gone)
      new OpenAiStream(parts.dispatcher, live, reply.raw, {
        chat: type === 'chat',
        includeUsage: parsed.includeUsage,
        headers: headersOf(live, request),
      }).open()
    return reply
  }
  await ended(parts, live)
  const { record } = live
  if (record.status !== 'succeeded') throw faultOf(record)
  // After a second attempt the worker's own figure covers the last part only; all of the running is not ours then.
  const workedMs = record.attempt === 1 && live.workerMs !== null ? live.workerMs : (record.finishedMs ?? 0) - (record.startedMs ?? 0)
  const overheadMs = Math.max(0, performance.now() - request.beganMs - workedMs - (record.queueMs ?? 0))
  parts.metrics.overhead(overheadMs)
  reply.headers({
    ...headersOf(live, request),
    'x-holdfast-overhead-ms': overheadMs.toFixed(2),
    'content-type': 'application/json; charset=utf-8',
  })
  return reply.send(JSON.stringify(type === 'chat' ? chatAnswer(live) : completionAnswer(live)))
}

function accept(
  parts: ApiParts,
  request: FastifyRequest,
  type: JobRecord['type'],
  parsed: ParsedRequest,
): { live: LiveJob; stored: Promise<void> } {
  const options = requestOptions(parts, request)
  refuseWhenFull(parts)
  const offers = parts.scheduler.knownModels().get(parsed.model)
  if (offers === undefined) throw unknownModel(parts, parsed.model)
  refuseWhenTooLong(parsed.generation.prompt, offers)
  const seed = parsed.seed ?? randomInt(2 ** 32)
  return parts.dispatcher.accept({
    id: newId() as JobId,
    type,
    team: request.caller.team,
    actor: request.caller.actor,
    model: parsed.model,
    request: JSON.stringify({ ...parsed.generation, seed } satisfies GenerationRequest),
    seed,
    prefix: prefixOf(parsed.generation.prompt),
    ...options,
  })
}

function requestOptions(parts: ApiParts, request: FastifyRequest): { pinnedProvider: string | null; detached: boolean; traceId: string } {
  const header = (name: string): string | undefined => {
    const value = request.headers[name]
    return typeof value === 'string' ? value : undefined
  }
  for (const name of NOT_YET)
    if (header(name) !== undefined)
      throw badRequest(
        'unsupported_header',
        `The header ${name} is not supported by this version, and ignoring it would change what happens.`,
        name,
      )
  const detach = header('x-holdfast-detach')
  if (detach !== undefined && detach !== 'true' && detach !== 'false')
    throw badRequest('invalid_header', 'x-holdfast-detach must be true or false.', 'x-holdfast-detach')
  const tier = header('x-holdfast-tier')
  if (tier !== undefined && tier !== 'gpu')
    throw badRequest('unknown_tier', `x-holdfast-tier: this version has the tier gpu only, not "${tier.slice(0, 40)}".`, 'x-holdfast-tier')
  const provider = header('x-holdfast-provider') ?? null
  const names = [...parts.scheduler.workers].map((worker) => worker.name)
  if (provider !== null && !names.includes(provider))
    throw new Fault('unknown_provider', `There is no provider "${provider.slice(0, 100)}". There are: ${names.join(', ') || 'none yet'}.`, {
      status: 404,
      param: 'x-holdfast-provider',
    })
  return { pinnedProvider: provider, detached: detach === 'true', traceId: traceIdOf(header('traceparent')) }
}

const NOT_YET = ['idempotency-key', 'x-holdfast-priority', 'x-holdfast-max-wait', 'x-holdfast-thread', 'x-holdfast-policy']

/** The caller's trace when it sent a valid one (W3C trace context), else a new one that sorts by time. */
function traceIdOf(traceparent: string | undefined): string {
  const hex = /^[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}/.exec(traceparent ?? '')?.[1]
  if (hex === undefined || /^0+$/.test(hex)) return newId()
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
}

function refuseWhenFull(parts: ApiParts): void {
  const why = parts.notReady()
  if (why !== null)
    throw new Fault('not_ready', `No work can be accepted at the moment: ${why}.`, { status: 503, retryable: true, retryAfterS: 2 })
  if (parts.scheduler.waitingCount >= parts.queueLimit)
    throw new Fault(
      'queue_full',
      `${parts.queueLimit} jobs are waiting, which is the limit (HOLDFAST_QUEUE_LIMIT). Nothing was accepted; try again later.`,
      { status: 429, layer: 'routing', retryable: true, retryAfterS: 5 },
    )
}

function unknownModel(parts: ApiParts, model: string): Fault {
  const names = [...parts.scheduler.knownModels().keys()].sort()
  const there = names.length === 0 ? 'No worker has offered a model yet.' : `There are: ${names.slice(0, 50).join(', ')}.`
  return new Fault('model_not_found', `There is no model "${model.slice(0, 100)}". ${there}`, {
    status: 404,
    layer: 'routing',
    param: 'model',
  })
}

/** The coordinator cannot count tokens, but it knows the most text one token can stand for. */
function refuseWhenTooLong(prompt: GenerationRequest['prompt'], offers: ModelOffer[]): void {
  if (offers.some((offer) => offer.contextTokens === 0 || offer.maxTokenBytes === 0)) return
  const bytes =
    prompt.kind === 'text'
      ? Buffer.byteLength(prompt.text)
      : prompt.messages.reduce((sum, message) => sum + Buffer.byteLength(message.content), 0)
  const fewest = Math.min(...offers.map((offer) => Math.ceil(bytes / offer.maxTokenBytes)))
  const context = Math.max(...offers.map((offer) => offer.contextTokens))
  if (fewest > context)
    throw badRequest(
      'context_length_exceeded',
      `The prompt has at least ${fewest} tokens, the context of the model ${context}. Shorten it, or use a model with a larger context.`,
      'messages',
    )
}

/** Hashes of the conversation's growing prefixes, so that its next turn finds the worker that holds this one. */
function prefixOf(prompt: GenerationRequest['prompt']): string[] {
  if (prompt.kind === 'text') return []
  const hashes: string[] = []
  const hash = new PrefixHash()
  for (const { role, content } of prompt.messages.slice(0, PREFIX_MESSAGES_MAX)) {
    hash.add(role)
    hash.add(content)
    hashes.push(hash.value)
  }
  return hashes
}

const PREFIX_MESSAGES_MAX = 64

async function ended(parts: ApiParts, live: LiveJob): Promise<void> {
  const settled = (): boolean => isFinal(live.record.status) || live.record.status === 'parked'
  if (settled()) return
  await new Promise<void>((resolve) => {
    const follower = {
      grown: () => {},
      waits: () => {},
      ended: () => {
        live.unfollow(follower)
        resolve()
      },
    }
    live.follow(follower)
    parts.dispatcher.announceWaiting(live)
  })
}

function headersOf(live: LiveJob, request: FastifyRequest): Record<string, string> {
  const { record } = live
  const headers: Record<string, string> = {
    'x-holdfast-job': record.id,
    'x-request-id': request.id,
    'x-holdfast-overhead-ms': Math.max(0, performance.now() - request.beganMs).toFixed(2),
  }
  // A stream's head leaves at acceptance: what is not known by then stands in the job.
  if (record.workerName !== null) {
    headers['x-holdfast-provider'] = headerText(record.workerName)
    headers['x-holdfast-worker'] = headerText(record.workerName)
  }
  if (record.tier !== null) headers['x-holdfast-tier'] = record.tier
  if (record.queueMs !== null) headers['x-holdfast-queue-ms'] = String(record.queueMs)
  return headers
}

function headerText(text: string): string {
  return encodeURI(text)
}

/** Why a job did not succeed, as an HTTP error for the caller that waited for it. */
export function faultOf(record: JobRecord): Fault {
  if (record.status === 'cancelled') return new Fault('job_cancelled', 'The job was cancelled.', { status: 409, job: record.id })
  const error = record.error
  if (error === null) return new Fault('internal_error', 'The job ended without saying why.', { status: 500, job: record.id })
  const status = error.layer === 'ingress' ? 400 : record.status === 'parked' ? 500 : 502
  const message =
    record.status === 'parked'
      ? `The job was parked after its attempts were used up; an operator can release it. Last error: ${error.message}`
      : error.message
  return new Fault(error.code, message, { status, layer: error.layer, retryable: error.retryable, job: record.id })
}

function modelView(id: string): Record<string, unknown> {
  return { id, object: 'model', created: 0, owned_by: 'holdfast' }
}

function chatAnswer(live: LiveJob): Record<string, unknown> {
  const { record, text } = live
  return {
    id: `chatcmpl-${record.id}`,
    object: 'chat.completion',
    created: Math.floor(record.createdMs / 1000),
    model: record.model,
    choices: [
      { index: 0, message: { role: 'assistant', content: text, refusal: null }, logprobs: null, finish_reason: record.finishReason },
    ],
    usage: usageView(record),
  }
}

function completionAnswer(live: LiveJob): Record<string, unknown> {
  const { record, text } = live
  return {
    id: `cmpl-${record.id}`,
    object: 'text_completion',
    created: Math.floor(record.createdMs / 1000),
    model: record.model,
    choices: [{ index: 0, text, logprobs: null, finish_reason: record.finishReason }],
    usage: usageView(record),
  }
}
