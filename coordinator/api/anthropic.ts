import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { type GenerationRequest, textsOf } from '../../proto/request.ts'
import { messageBody } from './anthropic-answer.ts'
import { parseCountRequest, parseMessagesRequest } from './anthropic-request.ts'
import { AnthropicStream } from './anthropic-stream.ts'
import { AUTO } from '../core/routing.ts'
import type { ApiParts } from './health.ts'
import { namesFor } from './models.ts'
import { Choices } from './openai-choices.ts'
import { answerHeaders, sendAnswer } from './answer-headers.ts'
import { unknownModel } from './submit.ts'

/** The Anthropic dialect: messages, streamed and not, and what one would cost. */
export function registerAnthropic(app: FastifyInstance, parts: ApiParts): void {
  app.post('/v1/messages', (request, reply) => serve(parts, request, reply))

  app.post('/v1/messages/count_tokens', async (request) => {
    const { parsed, beyond } = parseCountRequest(request.body)
    const { model, generation } = parsed
    if (model !== AUTO && !namesFor(parts, request.caller).includes(model)) throw unknownModel(parts, request.caller, model)
    return { input_tokens: estimatedTokens(generation) + beyond, estimated: true }
  })
}

async function serve(parts: ApiParts, request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> {
  const parsed = parseMessagesRequest(request.body, request.headers)
  const accepted = await Choices.accept(parts, request, reply, { type: 'chat', parsed, detached: false })
  const live = accepted.first
  if (!parsed.stream) {
    await accepted.succeeded()
    return sendAnswer(parts, request, reply, live, messageBody(live))
  }
  reply.hijack()
  const headers = { ...answerHeaders(live, request), 'request-id': request.id }
  if (!accepted.gone) new AnthropicStream(parts.dispatcher, live, reply.raw, { headers, requestId: request.id }).open()
  return reply
}

/**
 * The coordinator has no model and so cannot count. It guesses from the bytes, as it does to share time fairly: four to a
 * token, and three where letters take several bytes; a few tokens for the frame of each message; and a flat price for an
 * image, whose size is not looked at.
 */
function estimatedTokens({ prompt, tools, format }: Omit<GenerationRequest, 'seed'>): number {
  const texts = [...textsOf(prompt), ...calledTexts(prompt)]
  if (tools !== undefined) texts.push(JSON.stringify(tools))
  if (format?.kind === 'schema') texts.push(JSON.stringify(format.schema))
  const messages = prompt.kind === 'chat' ? prompt.messages : []
  const images = messages.flatMap(({ content }) => (typeof content === 'string' ? [] : content.filter((part) => part.kind === 'image')))
  const spoken = texts.reduce((sum, text) => sum + tokensIn(text), 0)
  return Math.max(1, Math.ceil(spoken) + messages.length * FRAME_TOKENS + images.length * IMAGE_TOKENS)
}

const FRAME_TOKENS = 4
/** What the dialect's own provider takes for an image of the largest size that it does not shrink. */
const IMAGE_TOKENS = 1_600

function tokensIn(text: string): number {
  const bytes = Buffer.byteLength(text)
  // Of a text in which every character takes one byte both are the same.
  return text.length === bytes ? bytes / 4 : bytes / 3
}

/** What is said besides the content of messages: calls and thoughts. */
function calledTexts(prompt: GenerationRequest['prompt']): string[] {
  if (prompt.kind !== 'chat') return []
  return prompt.messages.flatMap((message) => {
    if (message.role !== 'assistant') return []
    return [message.reasoning ?? '', ...(message.toolCalls ?? []).map((call) => call.name + call.arguments)]
  })
}
