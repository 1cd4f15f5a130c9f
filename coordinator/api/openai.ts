import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { JobRecord } from '../core/job.ts'
import type { LiveJob } from '../engine/live-job.ts'
import type { ApiParts } from './health.ts'
import { answerBody } from './openai-answer.ts'
import { Choices } from './openai-choices.ts'
import { type ParsedRequest, parseChatRequest, parseCompletionRequest } from './openai-request.ts'
import { OpenAiStream } from './openai-stream.ts'
import { unknownModel } from './submit.ts'

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
  const choices = await Choices.accept(parts, request, reply, { type, parsed, detached: false })
  const { lives, first: live } = choices
  if (parsed.stream) {
    reply.hijack()
    if (!choices.gone)
      new OpenAiStream(parts.dispatcher, lives, reply.raw, {
        chat: type === 'chat',
        includeUsage: parsed.includeUsage,
        headers: headersOf(live, request),
        onFailed: () => choices.cancelOthers(),
      }).open()
    return reply
  }
  await choices.succeeded()
  return send(parts, request, reply, live, answerBody(...lives))
}

/** An answer that was waited for, with its headers. */
function send(parts: ApiParts, request: FastifyRequest, reply: FastifyReply, live: LiveJob, body: Record<string, unknown>): FastifyReply {
  const { record } = live
  // After a second attempt the worker's own figure covers the last part only; all of the running is not ours then.
  const workedMs = record.attempt === 1 && live.workerMs !== null ? live.workerMs : (record.finishedMs ?? 0) - (record.startedMs ?? 0)
  const overheadMs = Math.max(0, performance.now() - request.beganMs - workedMs - (record.queueMs ?? 0))
  parts.metrics.overhead(overheadMs)
  reply.headers({
    ...headersOf(live, request),
    'x-holdfast-overhead-ms': overheadMs.toFixed(2),
    'content-type': 'application/json; charset=utf-8',
  })
  return reply.send(JSON.stringify(body))
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

function modelView(id: string): Record<string, unknown> {
  return { id, object: 'model', created: 0, owned_by: 'holdfast' }
}
