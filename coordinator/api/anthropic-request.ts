import type { IncomingHttpHeaders } from 'node:http'
import type { Effort, GenerationRequest, Reasoning, Sampling } from '../../proto/request.ts'
import { badRequest, Fault } from '../core/fault.ts'
import { THREAD_NOT_FOUND } from './anthropic-answer.ts'
import { readConversation, readSystem } from './anthropic-messages.ts'
import { readTooling } from './anthropic-tools.ts'
import { type MemberSorts, Untranslated } from './anthropic-untranslated.ts'
import { type Body, boolean, integer, isObject, numeric, objectBody, oneOf, required } from './body.ts'
import type { ParsedRequest } from './openai-request.ts'
import { MAX_TOKENS, readStops } from './openai-sampling.ts'
import { checkSchema } from './schema-check.ts'

/**
 * Reads the body of `messages`, and the dialect's own headers. Whatever would change the answer is honoured or refused by
 * name; nothing is coerced.
 */
export function parseMessagesRequest(body: unknown, headers: IncomingHttpHeaders = {}): ParsedRequest {
  const { thread, ...fields } = objectBody(body)
  refuseContinued(thread)
  const untranslated = new Untranslated()
  const betas = readBetas(headers['anthropic-beta']).filter((name) => !THREADS.test(name))
  const userProfile = readUserProfile(headers)
  if (betas.length > 0 || userProfile !== undefined) untranslated.keep()
  untranslated.sort(fields, '', MESSAGES)
  const parsed = parsedOf(fields, untranslated)
  const { generation } = parsed
  if (fields.max_tokens === 0)
    throw badRequest(
      'out_of_range',
      'max_tokens 0, which only fills a cache of prompts, is not supported here: ask for at least 1.',
      'max_tokens',
    )
  generation.maxTokens = required(integer(fields, 'max_tokens', 1, MAX_TOKENS), 'max_tokens')
  if (typeof fields.stop_sequences === 'string')
    throw badRequest('invalid_stop', 'stop_sequences must be a list of texts.', 'stop_sequences')
  generation.stop = readStops(fields.stop_sequences, 'stop_sequences')
  generation.sampling = sampling(fields)
  checkMetadata(fields.metadata)
  oneOf(fields, 'service_tier', ['auto', 'standard_only'])
  const budget = generation.reasoning?.maxTokens
  if (budget !== undefined && budget >= generation.maxTokens)
    throw badRequest(
      'out_of_range',
      'thinking.budget_tokens must be less than max_tokens, which it is a part of.',
      'thinking.budget_tokens',
    )
  if (untranslated.isEmpty) return parsed
  generation.verbatim = {
    dialect: 'anthropic',
    body: fields,
    ...(betas.length === 0 ? {} : { betas }),
    ...(userProfile === undefined ? {} : { userProfile }),
    ...(untranslated.tokens === 0 ? {} : { tokens: untranslated.tokens }),
  }
  const [first] = untranslated.changing
  return first === undefined ? parsed : { ...parsed, onlyDialect: 'anthropic', onlyDialectFor: first }
}

/** Reads the body of `count_tokens`: what of a request is read by the model. `beyond`: tokens that its prompt does not show. */
export function parseCountRequest(body: unknown): { parsed: ParsedRequest; beyond: number } {
  const fields = objectBody(body)
  const untranslated = new Untranslated()
  untranslated.sort(fields, '', COUNTED)
  return { parsed: parsedOf(fields, untranslated), beyond: untranslated.tokens }
}

const PROMPT = ['model', 'messages', 'system', 'tools', 'tool_choice', 'thinking', 'output_config', 'context_management']
const COUNTED: MemberSorts = {
  read: new Set(PROMPT),
  kept: new Set(['cache_control', 'speed']),
  changing: new Set(['mcp_servers']),
}
const MESSAGES: MemberSorts = {
  read: new Set([...PROMPT, 'max_tokens', 'stream', 'stop_sequences', 'temperature', 'top_p', 'top_k']),
  kept: new Set(['cache_control', 'metadata', 'service_tier', 'diagnostics', 'speed']),
  // Where it is computed is no matter of taste.
  changing: new Set(['inference_geo', 'container', 'mcp_servers', 'fallbacks']),
}
/** The vendor's words: to set it is the same as not to set any. */
const DEFAULT_EFFORT = 'high'
const BUDGET = 'thinking.budget_tokens'
const BUDGET_LEAST = 1_024
const BETAS_MAX = 64

function parsedOf(fields: Body, untranslated: Untranslated): ParsedRequest {
  if (typeof fields.model !== 'string' || fields.model === '')
    throw badRequest('missing_model', 'model must name a model; GET /v1/models lists them.', 'model')
  const stream = boolean(fields, 'stream') ?? false
  const messages = readConversation(fields.messages, untranslated)
  const system = fields.system === undefined || fields.system === null ? '' : readSystem(fields.system, 'system', untranslated)
  if (system !== '') messages.unshift({ role: 'system', content: system })
  const generation: Omit<GenerationRequest, 'seed'> = { prompt: { kind: 'chat', messages }, stop: [], sampling: {} }
  Object.assign(generation, readTooling(fields, untranslated))
  if (!clearsNothing(fields.context_management)) untranslated.changes('context_management')
  else if (isObject(fields.context_management)) untranslated.keep()
  const config = outputConfig(fields.output_config, untranslated)
  if (config.format !== undefined) generation.format = config.format
  const reasoning = readThinking(fields.thinking, config.effort, untranslated)
  if (reasoning !== undefined) generation.reasoning = reasoning
  return { model: fields.model, stream, includeUsage: true, generation, seed: null, parameterOf: PARAMETER_OF }
}

const PARAMETER_OF: NonNullable<ParsedRequest['parameterOf']> = {
  json_schema: 'output_config.format',
  reasoning_effort: 'output_config.effort',
  reasoning_max_tokens: 'thinking.budget_tokens',
  reasoning_none: 'thinking.type',
  reasoning_max_tokens_below_1024: 'thinking.budget_tokens',
  parallel_tool_calls: 'tool_choice.disable_parallel_tool_use',
}

/**
 * The official client's tool runner asks for a conversation that is held between requests. None is: the first request says
 * all of it anyway, and from what a later one is told the client knows that it has to do so again.
 */
function refuseContinued(thread: unknown): void {
  if (thread === undefined || thread === null || (isObject(thread) && thread.type === 'create')) return
  if (isObject(thread) && thread.type === 'continue')
    throw new Fault(THREAD_NOT_FOUND, 'No conversation is held here between requests: send the whole of it.', {
      status: 404,
      param: 'thread',
    })
  throw badRequest('out_of_range', 'thread.type must be create or continue.', 'thread.type')
}

const THREADS = /^message-threads-/

/** A beta opens members of the body to a caller, and it is those that change the answer. */
function readBetas(header: string | string[] | undefined): string[] {
  const names = [header ?? []].flat().flatMap((line) => line.split(','))
  const betas = names.map((name) => name.trim()).filter((name) => name !== '')
  if (betas.length > BETAS_MAX || betas.some((name) => !/^[\w.:-]{1,100}$/.test(name)))
    throw badRequest('invalid_header', `anthropic-beta must be at most ${BETAS_MAX} names, separated by commas.`, 'anthropic-beta')
  return betas
}

/** Says who the caller's user is, as `metadata` does. Which workspace pays is not the caller's to say: that comes with the credential. */
function readUserProfile(headers: IncomingHttpHeaders): string | undefined {
  if (headers['anthropic-workspace-id'] !== undefined)
    throw badRequest('unsupported_header', 'anthropic-workspace-id cannot be chosen here.', 'anthropic-workspace-id')
  const told = headers['anthropic-user-profile-id']
  if (told === undefined) return undefined
  if (typeof told === 'string' && /^[\w.:-]{1,200}$/.test(told)) return told
  throw badRequest('invalid_header', 'anthropic-user-profile-id must be an id.', 'anthropic-user-profile-id')
}

function sampling(fields: Body): Sampling {
  const chosen = {
    temperature: numeric(fields, 'temperature', 0, 1),
    topP: numeric(fields, 'top_p', 0, 1),
    topK: integer(fields, 'top_k', 0, 1_000_000),
  }
  return Object.fromEntries(Object.entries(chosen).filter(([, value]) => value !== null)) as Sampling
}

/** Says who the caller's user is, which does not change the answer. */
function checkMetadata(value: unknown): void {
  if (value === undefined || value === null) return
  if (!isObject(value) || Object.entries(value).some(([name, id]) => name !== 'user_id' || (id !== null && typeof id !== 'string')))
    throw badRequest('invalid_metadata', 'metadata must be {"user_id": a text}.', 'metadata')
}

/** Claude Code, for one, always says that all thinking is to be kept. Whatever else is edited away changes what the model reads. */
function clearsNothing(value: unknown): boolean {
  if (value === undefined || value === null) return true
  if (!isObject(value)) throw badRequest('invalid_type', 'context_management must be an object.', 'context_management')
  const { edits, ...others } = value
  if (Object.keys(others).length > 0 || !Array.isArray(edits)) return false
  return edits.every((edit) => isObject(edit) && edit.type === 'clear_thinking_20251015' && edit.keep === 'all')
}

type OutputConfig = { effort: Effort | undefined; format: GenerationRequest['format'] }

function outputConfig(value: unknown, untranslated: Untranslated): OutputConfig {
  if (value === undefined || value === null) return { effort: undefined, format: undefined }
  if (!isObject(value)) throw badRequest('invalid_type', 'output_config must be an object.', 'output_config')
  untranslated.sort(value, 'output_config', { read: new Set(['effort', 'format']) })
  return { effort: readEffort(value.effort, untranslated), format: readFormat(value.format) }
}

function readEffort(value: unknown, untranslated: Untranslated): Effort | undefined {
  if (value === undefined || value === null) return undefined
  if (value === 'low' || value === 'medium' || value === 'high' || value === 'xhigh') return value
  if (value !== 'max')
    throw badRequest('invalid_effort', 'output_config.effort must be low, medium, high, xhigh or max.', 'output_config.effort')
  // A provider of the dialect is told the very word.
  untranslated.keep()
  return 'xhigh'
}

/** The dialect's schemas have no name, and hold strictly. */
function readFormat(value: unknown): GenerationRequest['format'] {
  if (value === undefined || value === null) return undefined
  if (!isObject(value) || value.type !== 'json_schema')
    throw badRequest('invalid_format', 'output_config.format must be {"type": "json_schema", "schema": …}.', 'output_config.format')
  return { kind: 'schema', name: 'answer', schema: checkSchema(value.schema, 'output_config.format.schema'), strict: true }
}

function readThinking(value: unknown, effort: Effort | undefined, untranslated: Untranslated): Reasoning | undefined {
  const wished = effort === undefined ? {} : { effort, ...(effort === DEFAULT_EFFORT ? { effortIsDefault: true as const } : {}) }
  if (value === undefined || value === null) {
    // An effort is also of what is written, so that thinking need not follow from it.
    if (effort !== undefined) untranslated.keep()
    return effort === undefined ? undefined : wished
  }
  if (!isObject(value)) throw badRequest('invalid_thinking', 'thinking must be an object with a type.', 'thinking')
  const { type } = value
  untranslated.sort(value, 'thinking', type === 'enabled' ? THINKING_BY_BUDGET : THINKING)
  if (type === 'disabled') {
    if (effort !== undefined) untranslated.keep()
    return { maxTokens: 0 }
  }
  if (type === 'enabled')
    return { ...wished, maxTokens: required(integer({ [BUDGET]: value.budget_tokens }, BUDGET, BUDGET_LEAST, MAX_TOKENS), BUDGET) }
  if (type === 'between_tools') untranslated.changes('thinking.type')
  else if (type !== 'adaptive')
    throw badRequest('invalid_thinking', 'thinking.type must be enabled, disabled, adaptive or between_tools.', 'thinking.type')
  // Adaptive alone leaves it to the model, as saying nothing does elsewhere.
  else if (effort === undefined) untranslated.keep()
  return effort === undefined ? undefined : wished
}

/** `display` says how much of the thinking is shown, not how much is thought. */
const THINKING: MemberSorts = { read: new Set(['type']), kept: new Set(['display']) }
const THINKING_BY_BUDGET: MemberSorts = { ...THINKING, read: new Set(['type', 'budget_tokens']) }
