import type { GenerationRequest, Reasoning, Sampling } from '../../proto/request.ts'
import { badRequest } from '../core/fault.ts'
import { type Body, integer, isObject, numeric } from './body.ts'

/** How the next token is chosen, what ends an answer, and how long it and its reasoning may be. */
export function readSampling(fields: Body): Sampling {
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

export function readSeed(fields: Body): number | null {
  const seed = integer(fields, 'seed', Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER)
  return seed === null ? null : seed >>> 0
}

/** `name` is what the endpoint calls it. */
export function readStops(value: unknown, name = 'stop'): string[] {
  if (value === undefined || value === null) return []
  const list: unknown[] = Array.isArray(value) ? value : [value]
  if (list.length > STOPS_MAX) throw badRequest('invalid_stop', `${name} may hold at most ${STOPS_MAX} texts, not ${list.length}.`, name)
  return list.map((item) => {
    if (typeof item !== 'string' || item === '' || item.length > STOP_LENGTH_MAX)
      throw badRequest('invalid_stop', `${name} must be a text of 1 to ${STOP_LENGTH_MAX} characters, or a list of such.`, name)
    if (!item.isWellFormed()) throw badRequest('invalid_stop', `${name} must hold whole characters, and has half of one.`, name)
    return item
  })
}

/** `min_tokens` and the length it must fit into. */
export function readLengths(fields: Body, maxTokens: number | null): Pick<GenerationRequest, 'maxTokens' | 'minTokens'> {
  const minTokens = integer(fields, 'min_tokens', 0, MAX_TOKENS)
  if (minTokens !== null && maxTokens !== null && minTokens > maxTokens)
    throw badRequest('out_of_range', `min_tokens (${minTokens}) is more than the most tokens allowed (${maxTokens}).`, 'min_tokens')
  return { ...(maxTokens === null ? {} : { maxTokens }), ...(minTokens === null || minTokens === 0 ? {} : { minTokens }) }
}

/** `effort` is read from where the endpoint has it, `name` is what it is called there. */
export function readReasoning(effort: unknown, name: string, maxTokens: number | null): Reasoning | undefined {
  // As of the Anthropic dialect: the most that every provider has a word for.
  const known = effort === 'max' ? 'xhigh' : EFFORTS.find((value) => value === effort)
  if (effort !== undefined && effort !== null && known === undefined)
    throw badRequest('out_of_range', `${name} must be one of ${EFFORTS.join(', ')}, max.`, name)
  if (known === undefined && maxTokens === null) return undefined
  return { ...(known === undefined ? {} : { effort: known }), ...(maxTokens === null ? {} : { maxTokens }) }
}

/** Undefined: none are asked for. */
export function readLogprobs(wanted: boolean, top: number | null, switchedOnBy = 'logprobs: true'): number | undefined {
  if (!wanted && top !== null && top > 0)
    throw badRequest('invalid_top_logprobs', `top_logprobs needs ${switchedOnBy} beside it.`, 'top_logprobs')
  return wanted ? (top ?? 0) : undefined
}

export const MAX_TOKENS = 10_000_000
const STOPS_MAX = 16
const STOP_LENGTH_MAX = 1_000
const EFFORTS = ['none', 'minimal', 'low', 'medium', 'high', 'xhigh'] as const

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
