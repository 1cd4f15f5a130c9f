import type { FastifyInstance, FastifyRequest } from 'fastify'
import { validate as isUuid } from 'uuid'
import type { ChatMessage, GenerationRequest } from '../../proto/request.ts'
import { badRequest, Fault, notFound } from '../core/fault.ts'
import { isFinal, type JobId } from '../core/job.ts'
import { LiveJob, type Output } from '../engine/live-job.ts'
import { recorded } from '../store/events.ts'
import { findJob, forgetPayload, readOutput, readRequest } from '../store/jobs.ts'
import { afterStored } from './after-stored.ts'
import { seesTeam } from './auth.ts'
import type { ApiParts } from './health.ts'
import { readEnded, repeatedJob } from './idempotency.ts'
import { Choices } from './openai-choices.ts'
import { answerHeaders, sendAnswer } from './answer-headers.ts'
import { checkCalls, MESSAGES_MAX } from './openai-messages.ts'
import { RecentCuts } from './openai-responses-cuts.ts'
import { readInput } from './openai-responses-input.ts'
import { inputItems } from './openai-responses-items.ts'
import { parseResponseRequest, readInclude, showing, withConversation } from './openai-responses-request.ts'
import { ResponseStream } from './openai-responses-stream.ts'
import { outputItems, type ResponseRequest, responseView } from './openai-responses-view.ts'
import { cancelJob } from './parked.ts'
import { readOneOf, readQuery } from './paging.ts'

type ById = { Params: { id: string } }

/**
 * The responses of the OpenAI dialect. A response is a job and nothing beside it: its conversation is that of the job's
 * stored request, and the next response goes on from that and the stored answer.
 */
export function registerResponses(app: FastifyInstance, parts: ApiParts): void {
  const cuts = new RecentCuts()

  app.post('/v1/responses', async (request, reply) => {
    const asked = parseResponseRequest(request.body)
    const { notes } = asked
    // What it went on from may be gone by then.
    const repeated = await repeatedJob(parts, request)
    const earlier = notes.previous === null || repeated !== undefined ? [] : await conversationOf(parts, request, notes.previous)
    const parsed = withConversation(asked, earlier)
    const whole = (await storedRequest(parts, repeated)) ?? (parsed.generation as ResponseRequest)
    checkConversation(whole)
    const submission = {
      type: 'chat' as const,
      parsed,
      detached: notes.background,
      ...(repeated === undefined ? {} : { isRepeat: true as const }),
    }
    const choices = await Choices.accept(parts, request, reply, submission)
    const live = choices.first
    if (repeated === undefined) cuts.begin(live.record.id)
    if (parsed.stream) {
      reply.hijack()
      if (!choices.gone) new ResponseStream(parts.dispatcher, live, whole, reply.raw, { cuts }).open(answerHeaders(live, request))
      return reply
    }
    if (notes.background) return reply.headers(answerHeaders(live, request)).send(responseView(live, whole))
    await choices.succeeded()
    return sendAnswer(parts, request, reply, live, responseView(live, whole))
  })

  app.get<ById>('/v1/responses/:id', async (request, reply) => {
    const { include, 'include[]': listed, ...others } = request.query as Record<string, unknown>
    const query = readQuery(others, ['stream', 'starting_after', 'include', 'include_obfuscation'])
    readOneOf('include_obfuscation', query.include_obfuscation, ['true', 'false'])
    const isStreamed = readOneOf('stream', query.stream, ['true', 'false']) === 'true'
    const after = readAfter(query.starting_after, isStreamed)
    const { live, whole: made } = await getResponse(parts, request, request.params.id)
    const whole = showing(made, [include ?? [], listed ?? []].flat())
    if (!isStreamed) return responseView(live, whole)
    if (after > LAST_NUMBER_BEFORE_ITEMS && cuts.find(live.record.id) === undefined) throw forgotten(live.record.id)
    const followed = parts.dispatcher.find(live.record.id) ?? (await readEnded(parts, live.record.id))
    reply.hijack()
    new ResponseStream(parts.dispatcher, followed, whole, reply.raw, { cuts, after }).open(answerHeaders(followed, request))
    return reply
  })

  app.get<ById>('/v1/responses/:id/input_items', async (request) => {
    const { include, 'include[]': listed, ...others } = request.query as Record<string, unknown>
    // Items show all that there is of them.
    readInclude([include ?? [], listed ?? []].flat())
    const query = readQuery(others, ['order', 'limit', 'after', 'include'])
    const { live, whole } = await getResponse(parts, request, request.params.id)
    return inputItems(live.record.id, whole, query)
  })

  app.delete<ById>('/v1/responses/:id', async (request) => {
    const { live } = await getResponse(parts, request, request.params.id)
    const { id, status, team } = live.record
    if (!isFinal(status)) throw new Fault('response_in_progress', `The response is ${status}; cancel it first.`, { status: 409, job: id })
    await parts.stored()
    await recorded(
      parts.db,
      (query) => forgetPayload(query, id),
      () => ({ ...parts.newEvent('job.forgotten', request.caller.actor, {}), team, job: id, traceId: live.record.traceId }),
    )
    return { id: `resp_${id}`, object: 'response', deleted: true }
  })

  app.post<ById>('/v1/responses/:id/cancel', async (request) => {
    const { live, whole } = await getResponse(parts, request, request.params.id)
    // What has ended stays as it is.
    if (isFinal(live.record.status)) return responseView(live, whole)
    await cancelJob(parts, request, live.record.id)
    const ended = await afterStored('The response was cancelled', () => getResponse(parts, request, request.params.id))
    return responseView(ended.live, whole)
  })
}

/** The number of the last event that the reader has; -1: none. */
function readAfter(value: string | undefined, isStreamed: boolean): number {
  if (value === undefined) return -1
  if (!isStreamed) throw badRequest('invalid_starting_after', 'starting_after is only allowed with stream=true.', 'starting_after')
  if (!/^\d{1,9}$/.test(value))
    throw badRequest('out_of_range', 'starting_after must be the sequence_number of an event.', 'starting_after')
  return Number(value)
}

// `response.created` and `response.in_progress` are the same to everybody.
const LAST_NUMBER_BEFORE_ITEMS = 1

function forgotten(job: JobId): Fault {
  return new Fault(
    'stream_forgotten',
    'How this response was cut into events is not known any more: read its stream from the beginning, or /api/jobs/{id}/stream, which can be taken up anywhere.',
    { status: 409, param: 'starting_after', job },
  )
}

/** What was said up to a response and by it, without its instructions: those are each response's own. */
async function conversationOf(parts: ApiParts, request: FastifyRequest, id: string): Promise<ChatMessage[]> {
  const found = await findResponse(parts, request, id)
  if (found === undefined)
    throw badRequest('previous_response_not_found', `There is no stored response ${id} to go on with.`, 'previous_response_id')
  const { live, whole } = found
  if (live.record.status !== 'succeeded')
    throw badRequest(
      'previous_response_not_completed',
      `The response ${id} is ${live.record.status}; only one that succeeded can be gone on with.`,
      'previous_response_id',
    )
  const said = whole.prompt.kind === 'chat' ? whole.prompt.messages : []
  const signed = { ...whole, response: { ...whole.response, showSignature: true } }
  // As if the caller had sent them: what was thought in between stays where it was.
  return [...(whole.response.instructed ? said.slice(1) : said), ...readInput(outputItems(live, signed))]
}

function checkConversation({ prompt }: ResponseRequest): void {
  if (prompt.kind !== 'chat') return
  const { messages } = prompt
  const bytes = Buffer.byteLength(JSON.stringify(messages))
  if (messages.length > MESSAGES_MAX || bytes > CONVERSATION_BYTES_MAX)
    throw badRequest(
      'conversation_too_long',
      `The conversation has ${messages.length} messages of ${bytes} bytes; at most ${MESSAGES_MAX} of ${CONVERSATION_BYTES_MAX} bytes are taken. Begin a new one.`,
      'input',
    )
  checkCalls(messages, () => 'input', 'call_id')
}

// As large as one body may be: a conversation that grows by reference has no smaller right.
const CONVERSATION_BYTES_MAX = 32 * 1024 * 1024

type Found = { live: LiveJob; whole: ResponseRequest }

async function getResponse(parts: ApiParts, request: FastifyRequest, id: string): Promise<Found> {
  const found = await findResponse(parts, request, id)
  if (found === undefined) throw notFound(`There is no response ${id.slice(0, 100)}.`)
  return found
}

/** Undefined also when it is another team's, or was not to be stored. Memory first: it is newer while a job lives. */
async function findResponse(parts: ApiParts, request: FastifyRequest, id: string): Promise<Found | undefined> {
  const uuid = id.startsWith('resp_') ? id.slice('resp_'.length).toLowerCase() : ''
  if (!isUuid(uuid)) return undefined
  const job = uuid as JobId
  const living = parts.dispatcher.find(job)
  const record = living?.record ?? (await findJob(parts.db, job))
  if (record === undefined || !seesTeam(request.caller, record.team)) return undefined
  const whole = await storedRequest(parts, job)
  if (whole?.response.store !== true) return undefined
  const live = living ?? LiveJob.ended(record, (await readOutput(parts.db, job)) as Partial<Output> | null)
  return { live, whole }
}

/** Undefined when it is not there any more, or is no response. */
async function storedRequest(parts: ApiParts, job: JobId | undefined): Promise<ResponseRequest | undefined> {
  const stored = job === undefined ? undefined : await readRequest(parts.db, job)
  const whole = stored === undefined ? undefined : (JSON.parse(stored) as GenerationRequest)
  return whole?.response === undefined ? undefined : (whole as ResponseRequest)
}
