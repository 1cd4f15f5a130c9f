import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { JobRecord } from '../core/job.ts'
import { anthropicModel, anthropicModels } from './anthropic-models.ts'
import { dialectOf } from './dialect.ts'
import type { ApiParts } from './health.ts'
import { answerBody } from './openai-answer.ts'
import { registerEmbeddings } from './openai-embeddings.ts'
import { registerRerank } from './openai-rerank.ts'
import { registerResponses } from './openai-responses.ts'
import { Choices } from './openai-choices.ts'
import { type ParsedRequest, parseChatRequest, parseCompletionRequest } from './openai-request.ts'
import { answerHeaders, sendAnswer } from './answer-headers.ts'
import { OpenAiStream } from './openai-stream.ts'
import { namesFor } from './models.ts'
import { readQuery } from './paging.ts'
import { unknownModel } from './submit.ts'

/** The OpenAI dialect: chat completions, completions, responses, embeddings, rerank and models. */
export function registerOpenAi(app: FastifyInstance, parts: ApiParts): void {
  app.post('/v1/chat/completions', (request, reply) => serve(parts, request, reply, 'chat', parseChatRequest(request.body)))
  app.post('/v1/completions', (request, reply) => serve(parts, request, reply, 'completion', parseCompletionRequest(request.body)))

  registerEmbeddings(app, parts)
  registerRerank(app, parts)
  registerResponses(app, parts)

  app.get('/v1/models', async (request) => {
    if (dialectOf(request) === 'anthropic') return anthropicModels(request.query, namesFor(parts, request.caller))
    readQuery(request.query, [])
    const data = namesFor(parts, request.caller).map((id) => modelView(id))
    return { object: 'list', data }
  })

  app.get<{ Params: { id: string } }>('/v1/models/:id', async (request) => {
    if (!namesFor(parts, request.caller).includes(request.params.id)) throw unknownModel(parts, request.caller, request.params.id)
    return dialectOf(request) === 'anthropic' ? anthropicModel(request.params.id) : modelView(request.params.id)
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
        headers: answerHeaders(live, request),
        onFailed: () => choices.cancelOthers(),
      }).open()
    return reply
  }
  await choices.succeeded()
  return sendAnswer(parts, request, reply, live, answerBody(...lives))
}

function modelView(id: string): Record<string, unknown> {
  return { id, object: 'model', created: 0, owned_by: 'holdfast' }
}
