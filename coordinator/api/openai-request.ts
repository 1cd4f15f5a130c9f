import type { ChatMessage, Dialect, GenerationRequest, Sampling } from '../../proto/request.ts'
import { badRequest } from '../core/fault.ts'
import { type Body, boolean, integer, isObject, numeric, objectBody } from './body.ts'

/**
 * Reads the bodies of `chat/completions` and `completions`. Whatever would change the answer is honoured or refused by
 * name; what cannot change it (`user`, `metadata` …) is taken and left alone. Nothing is coerced.
 */
export type ParsedRequest = {
  model: string
  stream: boolean
  includeUsage: boolean
  /** Without the seed, which is chosen at acceptance when the caller gave none. */
  generation: Omit<GenerationRequest, 'seed'>
  seed: number | null
  /** Set when `generation.verbatim` holds what changes the answer, so that only a provider of that dialect will do. */
  onlyDialect?: Dialect
}

export function parseChatRequest(body: unknown): ParsedRequest {
  const fields = objectBody(body)
  refuseUnknown(fields, [...COMMON, 'messages', 'max_completion_tokens'], CHAT_UNSUPPORTED)
  const maxTokens = integer(fields, 'max_completion_tokens', 1, MAX_TOKENS) ?? integer(fields, 'max_tokens', 1, MAX_TOKENS)
  return parsed(fields, { kind: 'chat', messages: messages(fields.messages) }, maxTokens)
}

export function parseCompletionRequest(body: unknown): ParsedRequest {
  const fields = objectBody(body)
  refuseUnknown(fields, [...COMMON, 'prompt'], COMPLETION_UNSUPPORTED)
  // The dialect's own default; a chat answers until it is done, a completion sixteen tokens.
  return parsed(fields, { kind: 'text', text: prompt(fields.prompt) }, integer(fields, 'max_tokens', 1, MAX_TOKENS) ?? 16)
}

const MAX_TOKENS = 10_000_000
const STOPS_MAX = 16
const STOP_LENGTH_MAX = 1_000
const MESSAGES_MAX = 10_000

/** Taken by both endpoints. Those after the gap cannot change the answer. */
const COMMON = [
  'model',
  'stream',
  'stream_options',
  'temperature',
  'top_p',
  'top_k',
  'min_p',
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
  'service_tier',
  'safety_identifier',
  'prompt_cache_key',
]

/** Known to the dialect and not to this version, with the values that mean "off" and are therefore fine. */
const CHAT_UNSUPPORTED: Record<string, (value: unknown) => boolean> = {
  tools: isEmptyList,
  tool_choice: (value) => value === 'none' || value === 'auto',
  parallel_tool_calls: (value) => typeof value === 'boolean',
  functions: isEmptyList,
  function_call: (value) => value === 'none' || value === 'auto',
  response_format: (value) => isObject(value) && value.type === 'text',
  logprobs: (value) => value === false,
  top_logprobs: (value) => value === 0,
  modalities: (value) => Array.isArray(value) && value.length === 1 && value[0] === 'text',
  audio: never,
  prediction: never,
  reasoning_effort: never,
  verbosity: never,
  web_search_options: never,
}

const COMPLETION_UNSUPPORTED: Record<string, (value: unknown) => boolean> = {
  best_of: (value) => value === 1,
  echo: (value) => value === false,
  logprobs: never,
  suffix: (value) => value === '',
}

function parsed(fields: Body, text: GenerationRequest['prompt'], maxTokens: number | null): ParsedRequest {
  if (typeof fields.model !== 'string' || fields.model === '')
    throw badRequest('missing_model', 'model must name a model; GET /v1/models lists them.', 'model')
  const n = integer(fields, 'n', 1, 128)
  if (n !== null && n !== 1) throw unsupported('n', 'n other than 1')
  const stream = boolean(fields, 'stream') ?? false
  const generation: Omit<GenerationRequest, 'seed'> = { prompt: text, stop: stops(fields.stop), sampling: sampling(fields) }
  if (maxTokens !== null) generation.maxTokens = maxTokens
  const seed = integer(fields, 'seed', Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER)
  return {
    model: fields.model,
    stream,
    includeUsage: includeUsage(fields.stream_options, stream),
    generation,
    seed: seed === null ? null : seed >>> 0,
  }
}

function refuseUnknown(fields: Body, known: string[], unsupportedFields: Record<string, (value: unknown) => boolean>): void {
  for (const [name, value] of Object.entries(fields)) {
    if (known.includes(name) || value === null) continue
    const isOff = unsupportedFields[name]
    if (isOff === undefined) throw badRequest('unknown_parameter', `Unknown parameter: ${name.slice(0, 100)}.`, name.slice(0, 100))
    if (!isOff(value)) throw unsupported(name, name)
  }
}

function unsupported(param: string, what: string): Error {
  return badRequest('unsupported_parameter', `${what} is not supported here, and ignoring it would change the answer.`, param)
}

function messages(value: unknown): ChatMessage[] {
  if (!Array.isArray(value)) throw badRequest('invalid_messages', 'messages must be a list of messages.', 'messages')
  if (value.length === 0) throw badRequest('invalid_messages', 'messages must hold at least one message.', 'messages')
  if (value.length > MESSAGES_MAX)
    throw badRequest('invalid_messages', `messages may hold at most ${MESSAGES_MAX} messages, not ${value.length}.`, 'messages')
  return value.map((item: unknown, index) => message(item, `messages[${index}]`))
}

function message(value: unknown, at: string): ChatMessage {
  if (!isObject(value)) throw badRequest('invalid_messages', `${at} must be an object with role and content.`, at)
  for (const [name, member] of Object.entries(value)) {
    if (name === 'role' || name === 'content' || member === null || isEmptyList(member)) continue
    throw badRequest(
      'unsupported_parameter',
      `${at}.${name.slice(0, 100)} is not supported here, and ignoring it would change the answer.`,
      `${at}.${name.slice(0, 100)}`,
    )
  }
  return { role: role(value.role, `${at}.role`), content: content(value.content, `${at}.content`) }
}

function role(value: unknown, at: string): 'system' | 'user' | 'assistant' {
  if (value === 'system' || value === 'user' || value === 'assistant') return value
  // The newer name of the same thing.
  if (value === 'developer') return 'system'
  if (value === 'tool' || value === 'function') throw unsupported(at, `role "${value}"`)
  throw badRequest('invalid_messages', `${at} must be system, developer, user or assistant.`, at)
}

function content(value: unknown, at: string): string {
  if (typeof value === 'string') return value
  if (!Array.isArray(value)) throw badRequest('invalid_messages', `${at} must be text or a list of text parts.`, at)
  return value.map((part: unknown, index) => textPart(part, `${at}[${index}]`)).join('')
}

function textPart(part: unknown, at: string): string {
  if (isObject(part) && part.type === 'text' && typeof part.text === 'string') return part.text
  if (isObject(part) && (part.type === 'image_url' || part.type === 'input_audio' || part.type === 'file'))
    throw badRequest('unsupported_content', `${at}: no model served here takes ${part.type} parts.`, at)
  throw badRequest('invalid_messages', `${at} must be {"type": "text", "text": …}.`, at)
}

function prompt(value: unknown): string {
  if (typeof value === 'string') return value
  if (Array.isArray(value) && value.length === 1 && typeof value[0] === 'string') return value[0]
  throw badRequest('invalid_prompt', 'prompt must be one text; lists of several prompts or of token ids are not supported.', 'prompt')
}

function sampling(fields: Body): Sampling {
  const chosen: { [K in keyof Sampling]: Sampling[K] | null } = {
    temperature: numeric(fields, 'temperature', 0, 2),
    topP: numeric(fields, 'top_p', 0, 1),
    topK: integer(fields, 'top_k', 0, 1_000_000),
    minP: numeric(fields, 'min_p', 0, 1),
    repeatPenalty: numeric(fields, 'repeat_penalty', 0.01, 10),
    frequencyPenalty: numeric(fields, 'frequency_penalty', -2, 2),
    presencePenalty: numeric(fields, 'presence_penalty', -2, 2),
    logitBias: logitBias(fields.logit_bias),
  }
  return Object.fromEntries(Object.entries(chosen).filter(([, value]) => value !== null)) as Sampling
}

function logitBias(value: unknown): Record<string, number> | null {
  if (value === undefined || value === null) return null
  if (!isObject(value)) throw badRequest('invalid_logit_bias', 'logit_bias must map token ids to numbers.', 'logit_bias')
  const entries = Object.entries(value)
  if (entries.length > 10_000) throw badRequest('invalid_logit_bias', 'logit_bias may name at most 10000 tokens.', 'logit_bias')
  for (const [token, bias] of entries)
    if (!/^\d{1,9}$/.test(token) || typeof bias !== 'number' || !(bias >= -100 && bias <= 100))
      throw badRequest(
        'invalid_logit_bias',
        `logit_bias maps token ids to numbers from -100 to 100; "${token.slice(0, 20)}" does not.`,
        'logit_bias',
      )
  return entries.length === 0 ? null : (value as Record<string, number>)
}

function stops(value: unknown): string[] {
  if (value === undefined || value === null) return []
  const list: unknown[] = Array.isArray(value) ? value : [value]
  if (list.length > STOPS_MAX) throw badRequest('invalid_stop', `stop may hold at most ${STOPS_MAX} texts, not ${list.length}.`, 'stop')
  return list.map((item) => {
    if (typeof item !== 'string' || item === '' || item.length > STOP_LENGTH_MAX)
      throw badRequest('invalid_stop', `stop must be a text of 1 to ${STOP_LENGTH_MAX} characters, or a list of such.`, 'stop')
    return item
  })
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

function never(): boolean {
  return false
}
