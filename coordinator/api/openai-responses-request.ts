import type { ChatMessage, ResponseNotes } from '../../proto/request.ts'
import { badRequest } from '../core/fault.ts'
import { type Body, boolean, integer, isObject, objectBody, prose, text } from './body.ts'
import { NAMELESS, type ParsedRequest, readMetadata, readModel, readPassthrough } from './openai-request.ts'
import { readInput } from './openai-responses-input.ts'
import type { ResponseRequest } from './openai-responses-view.ts'
import { MAX_TOKENS, readLengths, readLogprobs, readReasoning, readSampling, readSeed, readStops } from './openai-sampling.ts'
import { readCalling, readFormat } from './openai-tools.ts'

export type ParsedResponse = ParsedRequest & { notes: ResponseNotes; instructions: string | null; input: ChatMessage[] }

/**
 * Reads the body of `POST /v1/responses`. Its prompt is empty until the conversation that it goes on with was found:
 * `withConversation` puts both together.
 */
export function parseResponseRequest(body: unknown): ParsedResponse {
  const fields = objectBody(body)
  refuseOthers(fields)
  const notes = readNotes(fields)
  const format = isObject(fields.text) ? readFormat(fields.text.format, 'text.format', 'flat') : undefined
  const reasoning = readReasoningOf(fields.reasoning)
  const include = readInclude(fields.include)
  const logprobs = readLogprobs(include.includes(LOGPROBS), integer(fields, 'top_logprobs', 0, 20), `"${LOGPROBS}" in include`)
  const beyond: string[] = []
  const calling = readCalling(fields, 'flat', beyond)
  const [first] = beyond
  if (first !== undefined) throw badRequest('unsupported_parameter', `${first}: only tools of the type function can be used here.`, first)
  return {
    model: readModel(fields),
    stream: boolean(fields, 'stream') ?? false,
    includeUsage: false,
    seed: readSeed(fields),
    parameterOf: PARAMETER_OF,
    notes: { ...notes, showSignature: include.includes(SIGNATURE) },
    instructions: fields.instructions === '' ? null : prose(fields, 'instructions', INSTRUCTIONS_MAX),
    input: readInput(fields.input),
    generation: {
      prompt: { kind: 'chat', messages: [] },
      ...readLengths(fields, integer(fields, 'max_output_tokens', 1, MAX_TOKENS)),
      stop: readStops(fields.stop),
      sampling: readSampling(fields),
      ...calling,
      ...(format === undefined ? {} : { format }),
      ...(logprobs === undefined ? {} : { logprobs }),
      ...(reasoning === undefined ? {} : { reasoning }),
      ...readPassthrough(fields, NAMELESS),
    },
  }
}

const PARAMETER_OF: NonNullable<ParsedRequest['parameterOf']> = {
  images: 'input',
  json_object: 'text.format',
  json_schema: 'text.format',
  logprobs: 'include',
  reasoning_effort: 'reasoning.effort',
  reasoning_max_tokens: 'reasoning.max_tokens',
}

/** The whole request: the instructions of this response, what was said before, and what is said now. */
export function withConversation({ notes, instructions, input, ...parsed }: ParsedResponse, earlier: ChatMessage[]): ParsedRequest {
  const messages: ChatMessage[] = [
    ...(instructions === null ? [] : [{ role: 'system' as const, content: instructions }]),
    ...earlier,
    ...input,
  ]
  return {
    ...parsed,
    generation: { ...parsed.generation, prompt: { kind: 'chat', messages }, response: { ...notes, instructed: instructions !== null } },
  }
}

const INSTRUCTIONS_MAX = 10_000_000
const LOGPROBS = 'message.output_text.logprobs'
const SIGNATURE = 'reasoning.encrypted_content'

/** Those after the gap cannot change the answer. */
const MEMBERS = new Set([
  'model',
  'input',
  'instructions',
  'previous_response_id',
  'max_output_tokens',
  'stream',
  'stream_options',
  'store',
  'background',
  'metadata',
  'tools',
  'tool_choice',
  'parallel_tool_calls',
  'text',
  'reasoning',
  'truncation',
  'include',
  'temperature',
  'top_p',
  'top_k',
  'min_p',
  'min_tokens',
  'seed',
  'stop',
  'frequency_penalty',
  'presence_penalty',
  'repeat_penalty',
  'logit_bias',
  'top_logprobs',

  'user',
  'safety_identifier',
  'client_metadata',
  'prompt_cache_key',
  'prompt_cache_retention',
  'prompt_cache_options',
])

/** Known to the dialect and to nobody here, with the one value of them that is fine. */
const UNSUPPORTED: Record<string, unknown[]> = {
  conversation: [],
  prompt: [],
  max_tool_calls: [],
  context_management: [],
  service_tier: ['auto', 'default'],
}

function refuseOthers(fields: Body): void {
  for (const [name, value] of Object.entries(fields)) {
    if (MEMBERS.has(name) || value === null) continue
    const fine = Object.hasOwn(UNSUPPORTED, name) ? UNSUPPORTED[name] : undefined
    if (fine === undefined) throw badRequest('unknown_parameter', `Unknown parameter: ${name.slice(0, 100)}.`, name.slice(0, 100))
    if (!fine.includes(value)) throw unsupported(name)
  }
  if (fields.truncation === 'auto') throw unsupported('truncation', ' Leave it "disabled" and shorten the conversation yourself.')
  if (fields.truncation !== undefined && fields.truncation !== null && fields.truncation !== 'disabled')
    throw badRequest('out_of_range', 'truncation must be disabled.', 'truncation')
  refuseMembers(fields.text, 'text', ['format'])
  refuseMembers(fields.reasoning, 'reasoning', ['effort', 'max_tokens', 'summary'])
  // What was thought is shown whole, and a summary wherever its maker left one: more than these ask for.
  if (isObject(fields.reasoning) && !['auto', null, undefined].includes(fields.reasoning.summary as string))
    throw unsupported('reasoning.summary', ' Leave it "auto".')
  refuseMembers(fields.stream_options, 'stream_options', ['include_obfuscation'])
}

function refuseMembers(value: unknown, name: string, known: string[]): void {
  if (value === undefined || value === null) return
  if (!isObject(value)) throw badRequest('invalid_type', `${name} must be an object.`, name)
  for (const [member, set] of Object.entries(value))
    if (!known.includes(member) && set !== null) throw unsupported(`${name}.${member.slice(0, 100)}`)
}

function unsupported(name: string, advice = ''): Error {
  return badRequest('unsupported_parameter', `${name} is not supported here, and ignoring it would change the answer.${advice}`, name)
}

function readNotes(fields: Body): ResponseNotes {
  const store = boolean(fields, 'store') ?? true
  const background = boolean(fields, 'background') ?? false
  if (background && !store)
    throw badRequest('out_of_range', 'background needs store: an answer that nobody waits for must be there to be read.', 'store')
  const previous = text(fields, 'previous_response_id', 100)
  return { previous, instructed: false, store, background, metadata: readMetadata(fields.metadata), showSignature: false }
}

function readReasoningOf(value: unknown): ReturnType<typeof readReasoning> {
  if (!isObject(value)) return undefined
  return readReasoning(value.effort, 'reasoning.effort', integer(value, 'max_tokens', 0, MAX_TOKENS))
}

/** A response shown with what this reader wants to see of it besides. */
export function showing(request: ResponseRequest, include: unknown): ResponseRequest {
  const showSignature = readInclude(include).includes(SIGNATURE) || request.response.showSignature
  return { ...request, response: { ...request.response, showSignature } }
}

export function readInclude(value: unknown): string[] {
  if (value === undefined || value === null) return []
  if (!Array.isArray(value)) throw badRequest('invalid_type', 'include must be a list.', 'include')
  for (const item of value)
    if (item !== LOGPROBS && item !== SIGNATURE)
      throw badRequest(
        'unsupported_parameter',
        `include may hold ${LOGPROBS} and ${SIGNATURE}, not ${JSON.stringify(item).slice(0, 100)}.`,
        'include',
      )
  return value as string[]
}
