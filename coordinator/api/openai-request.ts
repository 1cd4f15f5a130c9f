import type { Ability } from '../../proto/abilities.ts'
import type { Dialect, GenerationRequest } from '../../proto/request.ts'
import { badRequest } from '../core/fault.ts'
import { type Body, boolean, integer, isObject, objectBody } from './body.ts'
import { readMessages } from './openai-messages.ts'
import { MAX_TOKENS, readLengths, readLogprobs, readReasoning, readSampling, readSeed, readStops } from './openai-sampling.ts'
import { jsonBytes } from './schema-check.ts'
import { readCalling, readFormat } from './openai-tools.ts'

/**
 * Reads the bodies of `chat/completions` and `completions`. Whatever would change the answer is honoured or refused by
 * name; what cannot change it (`user`, `metadata` …) is taken, and sent on to a cloud of the dialect. Nothing is coerced.
 */
export type ParsedRequest = {
  model: string
  stream: boolean
  includeUsage: boolean
  /** Without the seed, which is chosen at acceptance when the caller gave none. */
  generation: Omit<GenerationRequest, 'seed'>
  seed: number | null
  /** One of several answers to one request, which are to differ. */
  isOneOfMany?: true
  /** How many answers are wanted, each of which is a job; absent: one. */
  choices?: number
  /** Set when `generation.verbatim` holds what changes the answer, so that only a provider of that dialect will do. */
  onlyDialect?: Dialect
  /** The first parameter because of which only that dialect will do. */
  onlyDialectFor?: string
  /** What an ability is called in the caller's dialect, where that differs from chat completions. */
  parameterOf?: Partial<Record<Ability, string>>
}

export function parseChatRequest(body: unknown): ParsedRequest {
  const fields = objectBody(body)
  const beyond: string[] = []
  refuseUnknown(fields, CHAT_KNOWN, CHAT_ELSEWHERE, beyond)
  const older = integer(fields, 'max_tokens', 1, MAX_TOKENS)
  const maxTokens = integer(fields, 'max_completion_tokens', 1, MAX_TOKENS) ?? older
  if (older !== null && older !== maxTokens)
    throw badRequest('out_of_range', 'max_tokens and max_completion_tokens are two names of one limit: give one of them.', 'max_tokens')
  const parsed = parsedOf(fields, { kind: 'chat', messages: readMessages(fields.messages, beyond) }, maxTokens)
  const { generation } = parsed
  Object.assign(generation, readCalling(fields, 'wrapped', beyond))
  const format = readFormat(fields.response_format, 'response_format', 'wrapped')
  if (format !== undefined) generation.format = format
  const logprobs = readLogprobs(boolean(fields, 'logprobs') ?? false, integer(fields, 'top_logprobs', 0, 20))
  if (logprobs !== undefined) generation.logprobs = logprobs
  const reasoning = readReasoning(fields.reasoning_effort, 'reasoning_effort', integer(fields, 'reasoning_max_tokens', 0, MAX_TOKENS))
  if (reasoning !== undefined) generation.reasoning = reasoning
  Object.assign(generation, readPassthrough(fields, ASIDE))
  const [first] = beyond
  return first === undefined ? parsed : onlyElsewhere(parsed, fields, first)
}

export function parseCompletionRequest(body: unknown): ParsedRequest {
  const fields = objectBody(body)
  const beyond: string[] = []
  refuseUnknown(fields, COMPLETION_KNOWN, COMPLETION_UNSUPPORTED, beyond)
  const [first] = beyond
  if (first !== undefined) throw unsupported(first, first)
  // The dialect's own default; a chat answers until it is done, a completion sixteen tokens.
  const parsed = parsedOf(fields, { kind: 'text', text: prompt(fields.prompt) }, integer(fields, 'max_tokens', 1, MAX_TOKENS) ?? 16)
  const logprobs = integer(fields, 'logprobs', 0, 20)
  if (logprobs !== null) parsed.generation.logprobs = logprobs
  // A cloud's completions know no other.
  Object.assign(parsed.generation, readPassthrough(fields, ['user']))
  return parsed
}

/** What cannot change an answer, and is sent on to a cloud of the dialect where one answers. */
export function readPassthrough(fields: Body, names: readonly string[]): Pick<GenerationRequest, 'passthrough'> {
  checkAside(fields)
  const given = names.filter((name) => fields[name] !== undefined && fields[name] !== null)
  return given.length === 0 ? {} : { passthrough: Object.fromEntries(given.map((name) => [name, fields[name]])) }
}

const ASIDE_TEXTS = ['user', 'safety_identifier', 'prompt_cache_key', 'prompt_cache_retention']
/** Of a response `metadata` and `store` are Holdfast's own matter. */
export const NAMELESS = [...ASIDE_TEXTS, 'prompt_cache_options']
const ASIDE = [...NAMELESS, 'metadata', 'store']

/** A cloud would refuse another type, and who it is that answers is not known yet. */
function checkAside(fields: Body): void {
  for (const name of ASIDE_TEXTS)
    if (typeof (fields[name] ?? '') !== 'string') throw badRequest('invalid_type', `${name} must be a text.`, name)
  if (!isObject(fields.prompt_cache_options ?? {}))
    throw badRequest('invalid_type', 'prompt_cache_options must be an object.', 'prompt_cache_options')
  boolean(fields, 'store')
  readMetadata(fields.metadata)
}

export function readMetadata(value: unknown): Record<string, string> {
  if (value === undefined || value === null) return {}
  const entries = isObject(value) ? Object.entries(value) : []
  if (
    !isObject(value) ||
    entries.length > 16 ||
    entries.some(([name, said]) => name.length > 64 || typeof said !== 'string' || said.length > 512)
  )
    throw badRequest('invalid_metadata', 'metadata may hold 16 texts of at most 512 characters, under names of at most 64.', 'metadata')
  return value as Record<string, string>
}

const CHOICES_MAX = 16

/** Taken by both endpoints. Those after the gap cannot change the answer. */
const COMMON = [
  'model',
  'stream',
  'stream_options',
  'temperature',
  'top_p',
  'top_k',
  'min_p',
  'min_tokens',
  'seed',
  'max_tokens',
  'stop',
  'n',
  'frequency_penalty',
  'presence_penalty',
  'repeat_penalty',
  'logit_bias',

  'user',
  'metadata',
  'store',
  'safety_identifier',
  'prompt_cache_key',
  'prompt_cache_retention',
  'prompt_cache_options',
]

const CHAT = [
  'messages',
  'max_completion_tokens',
  'tools',
  'tool_choice',
  'parallel_tool_calls',
  'response_format',
  'logprobs',
  'top_logprobs',
  'reasoning_effort',
  'reasoning_max_tokens',
]

const CHAT_KNOWN: ReadonlySet<string> = new Set([...COMMON, ...CHAT])
const COMPLETION_KNOWN: ReadonlySet<string> = new Set([...COMMON, 'prompt', 'logprobs'])

/** What only a provider of the dialect itself can honour, with the values that mean "off" and are fine everywhere. */
const CHAT_ELSEWHERE: Record<string, (value: unknown) => boolean> = {
  functions: renamed('functions', 'tools', isEmptyList),
  function_call: renamed('function_call', 'tool_choice', (value) => value === 'none' || value === 'auto'),
  modalities: textOnly,
  service_tier: isAnyTier,
  audio: refuseAudio,
  prediction: never,
  verbosity: never,
  web_search_options: never,
}

const COMPLETION_UNSUPPORTED: Record<string, (value: unknown) => boolean> = {
  best_of: (value) => value === 1,
  echo: (value) => value === false,
  service_tier: isAnyTier,
  suffix: (value) => value === '',
}

function parsedOf(fields: Body, text: GenerationRequest['prompt'], maxTokens: number | null): ParsedRequest {
  const choices = integer(fields, 'n', 1, CHOICES_MAX) ?? 1
  const stream = boolean(fields, 'stream') ?? false
  return {
    model: readModel(fields),
    stream,
    includeUsage: includeUsage(fields.stream_options, stream),
    generation: { prompt: text, ...readLengths(fields, maxTokens), stop: readStops(fields.stop), sampling: readSampling(fields) },
    seed: readSeed(fields),
    ...(choices === 1 ? {} : { choices }),
  }
}

export function readModel(fields: Body): string {
  if (typeof fields.model !== 'string' || fields.model === '')
    throw badRequest('missing_model', 'model must name a model; GET /v1/models lists them.', 'model')
  return fields.model
}

/** How many answers there are, and how they travel, is decided here and not there. */
function onlyElsewhere(parsed: ParsedRequest, fields: Body, param: string): ParsedRequest {
  const { n: _n, stream: _stream, stream_options: _options, ...body } = fields
  jsonBytes(body, param)
  parsed.generation.verbatim = { dialect: 'openai', body }
  return { ...parsed, onlyDialect: 'openai', onlyDialectFor: param }
}

function refuseUnknown(
  fields: Body,
  known: ReadonlySet<string>,
  elsewhere: Record<string, (value: unknown) => boolean>,
  beyond: string[],
): void {
  for (const name of Object.keys(fields)) {
    const value = fields[name]
    if (known.has(name) || value === null) continue
    const isOff = Object.hasOwn(elsewhere, name) ? elsewhere[name] : undefined
    if (isOff === undefined) throw badRequest('unknown_parameter', `Unknown parameter: ${name.slice(0, 100)}.`, name.slice(0, 100))
    if (!isOff(value)) beyond.push(name)
  }
}

function renamed(name: string, modern: string, isOff: (value: unknown) => boolean): (value: unknown) => boolean {
  return (value) => {
    if (isOff(value)) return true
    throw badRequest('unsupported_parameter', `${name} is the old way to say it; use ${modern}.`, name)
  }
}

/** Whatever else a provider said would be lost on the way. */
function textOnly(value: unknown): boolean {
  if (Array.isArray(value) && value.length === 1 && value[0] === 'text') return true
  throw unsupported('modalities', 'An answer in another modality than text')
}

function refuseAudio(): boolean {
  throw unsupported('audio', 'An answer that is spoken')
}

function unsupported(param: string, what: string): Error {
  return badRequest('unsupported_parameter', `${what} is not supported here, and ignoring it would change the answer.`, param)
}

function prompt(value: unknown): string {
  if (typeof value === 'string') return value
  if (Array.isArray(value) && value.length === 1 && typeof value[0] === 'string') return value[0]
  throw badRequest('invalid_prompt', 'prompt must be one text; lists of several prompts or of token ids are not supported.', 'prompt')
}

function includeUsage(value: unknown, stream: boolean): boolean {
  if (value === undefined || value === null) return false
  if (!isObject(value)) throw badRequest('invalid_stream_options', 'stream_options must be an object.', 'stream_options')
  if (!stream) throw badRequest('invalid_stream_options', 'stream_options is only allowed with stream: true.', 'stream_options')
  for (const name of Object.keys(value))
    if (name !== 'include_usage' && name !== 'include_obfuscation')
      throw badRequest('unknown_parameter', `Unknown parameter: stream_options.${name.slice(0, 100)}.`, 'stream_options')
  return boolean(value, 'include_usage') ?? false
}

function isEmptyList(value: unknown): boolean {
  return Array.isArray(value) && value.length === 0
}

function isAnyTier(value: unknown): boolean {
  return value === 'auto' || value === 'default'
}

function never(): boolean {
  return false
}
