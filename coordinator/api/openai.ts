import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { isFinal, type JobRecord } from '../core/job.ts'
import type { LiveJob } from '../engine/live-job.ts'
import type { ApiParts } from './health.ts'
import { answerBody } from './openai-answer.ts'
import { type ParsedRequest, parseChatRequest, parseCompletionRequest } from './openai-request.ts'
import { OpenAiStream } from './openai-stream.ts'
import { namesOf } from './models.ts'
import { ended, faultOf, submit, unknownModel } from './submit.ts'

/** The OpenAI dialect: chat completions, completions and models, streamed and not. */
export function registerOpenAi(app: FastifyInstance, parts: ApiParts): void {
  app.post('/v1/chat/completions', (request, reply) => serve(parts, request, reply, 'chat', parseChatRequest(request.body)))
  app.post('/v1/completions', (request, reply) => serve(parts, request, reply, 'completion', parseCompletionRequest(request.body)))

  app.get('/v1/models', async () => {
    const data = [...namesOf(parts)].sort().map((id) => modelView(id))
    return { object: 'list', data }
  })

  app.get<{ Params: { id: string } }>('/v1/models/:id', async (request) => {
    if (!namesOf(parts).has(request.params.id)) throw unknownModel(parts, request.params.id)
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
  const { live, stored } = await submit(parts, request, { type, parsed, detached: false })
  let gone = false
  const leave = (): void => {
    if (gone) return
    gone = true
    live.callers -= 1
    if (live.callers <= 0 && !isFinal(live.record.status) && !live.record.detached)
      parts.dispatcher.cancel(live.record.id, `${request.caller.actor} (disconnected)`)
  }
  // Registered before the job is stored: a caller may leave meanwhile.
  reply.raw.once('close', leave)
  if (reply.raw.destroyed) leave()
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
  return reply.send(JSON.stringify(answerBody(live)))
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
    if (record.tier !== 'cloud') headers['x-holdfast-worker'] = headerText(record.workerName)
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
