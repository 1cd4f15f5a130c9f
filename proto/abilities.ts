import type { Content, GenerationRequest } from './request.ts'

/**
 * What a provider can honour of a model, beyond plain text with `max_tokens` and `stop`. A request
 * needs some of them, a model on a provider has some, and goes only where all that it needs is there: no parameter is ever
 * accepted and ignored. Names are those of the parameters, which is what a caller is told when nobody has one.
 */
export const ABILITIES = [
  'completions',
  'embeddings',
  'rerank',
  'images',
  'tools',
  'tool_choice',
  'parallel_tool_calls',
  'json_object',
  'json_schema',
  'logprobs',
  'reasoning_effort',
  'reasoning_max_tokens',
  // One that is too small for a dialect whose caps begin at 1,024 tokens and stay below `max_tokens`.
  'reasoning_max_tokens_below_1024',
  // None at all: what can be told how much to think can be told not to, and what never thinks need not be told.
  'reasoning_none',
  'min_tokens',
  'temperature',
  // Beyond what one dialect takes.
  'temperature_above_1',
  'top_p',
  'seed',
  'top_k',
  'min_p',
  'repeat_penalty',
  'frequency_penalty',
  'presence_penalty',
  'logit_bias',
  // Members of the dialect that Holdfast has no words for: sent on as they came.
  'openai_dialect',
  'anthropic_dialect',
] as const

export type Ability = (typeof ABILITIES)[number]

/** What every model honours but a command-line agent, and one that says otherwise. */
const PLAIN_SAMPLING: readonly Ability[] = ['temperature', 'temperature_above_1', 'top_p']

/**
 * The abilities of a model where they were written down before these had names: it had them all the same. `plain` are those of
 * its dialect.
 */
export function withPlain(abilities: readonly string[], plain: readonly string[] = PLAIN_SAMPLING): string[] {
  if (PLAIN_SAMPLING.some((ability) => abilities.includes(ability))) return [...abilities]
  const small = plain.includes('temperature_above_1') && abilities.includes('reasoning_max_tokens')
  return [
    ...abilities,
    ...PLAIN_SAMPLING.filter((ability) => plain.includes(ability)),
    ...(small ? ['reasoning_max_tokens_below_1024'] : []),
  ]
}

/** Every choice of the next token that a local engine leaves open. */
export const SAMPLING_ABILITIES: readonly Ability[] = [
  ...PLAIN_SAMPLING,
  'completions',
  'seed',
  'top_k',
  'min_p',
  'repeat_penalty',
  'frequency_penalty',
  'presence_penalty',
  'logit_bias',
]

/** What the request needs. A seed that Holdfast chose itself is no wish of the caller's. */
export function needsOf(request: Omit<GenerationRequest, 'seed'>, seedGiven: boolean): Ability[] {
  const { prompt, sampling } = request
  const needs: Ability[] = []
  const need = (ability: Ability, when: boolean): void => {
    if (when) needs.push(ability)
  }
  need('completions', prompt.kind === 'text')
  need('embeddings', prompt.kind === 'embed')
  need('rerank', prompt.kind === 'rank')
  need('images', prompt.kind === 'chat' && prompt.messages.some((message) => hasImage(message.content)))
  need('tools', request.tools !== undefined || (prompt.kind === 'chat' && prompt.messages.some(speaksOfTools)))
  need('tool_choice', request.toolChoice !== undefined && request.toolChoice !== 'auto')
  need('parallel_tool_calls', request.parallelToolCalls === false)
  need('json_object', request.format?.kind === 'json')
  need('json_schema', request.format?.kind === 'schema')
  need('logprobs', request.logprobs !== undefined)
  const { effort, maxTokens: cap, effortIsDefault } = request.reasoning ?? {}
  need('reasoning_effort', effort !== undefined && effort !== 'none' && effortIsDefault !== true)
  need('reasoning_max_tokens', cap !== undefined && cap > 0)
  need('reasoning_none', isNone(request))
  need('reasoning_max_tokens_below_1024', isSmallCap(request))
  need('min_tokens', request.minTokens !== undefined)
  need('temperature', sampling.temperature !== undefined)
  need('temperature_above_1', sampling.temperature !== undefined && sampling.temperature > 1)
  need('top_p', sampling.topP !== undefined)
  need('seed', seedGiven)
  need('top_k', sampling.topK !== undefined)
  need('min_p', sampling.minP !== undefined)
  need('repeat_penalty', sampling.repeatPenalty !== undefined)
  need('frequency_penalty', sampling.frequencyPenalty !== undefined)
  need('presence_penalty', sampling.presencePenalty !== undefined)
  need('logit_bias', sampling.logitBias !== undefined)
  return needs
}

/** The request without what a model of these abilities need not be told. */
export function fitting<R extends Pick<GenerationRequest, 'reasoning'>>(request: R, abilities: readonly string[]): R {
  if (isNone(request) && !REASONS.some((ability) => abilities.includes(ability))) {
    const { reasoning: _reasoning, ...rest } = request
    return rest as R
  }
  // Whoever has no word for a cap has one for none.
  if (isNone(request) && !abilities.includes('reasoning_max_tokens')) return { ...request, reasoning: { effort: 'none', maxTokens: 0 } }
  if (request.reasoning?.effortIsDefault !== true || abilities.includes('reasoning_effort')) return request
  const { effort: _, effortIsDefault: __, ...others } = request.reasoning
  const { reasoning: ___, ...rest } = request
  return (Object.keys(others).length === 0 ? rest : { ...rest, reasoning: others }) as R
}

const REASONS: readonly Ability[] = ['reasoning_effort', 'reasoning_max_tokens']

function isNone({ reasoning }: Pick<GenerationRequest, 'reasoning'>): boolean {
  return reasoning?.effort === 'none' || reasoning?.maxTokens === 0
}

/** None at all is no cap. */
function isSmallCap({ reasoning, maxTokens = Number.POSITIVE_INFINITY }: Omit<GenerationRequest, 'seed'>): boolean {
  const cap = reasoning?.maxTokens ?? 0
  return cap > 0 && Math.min(cap, maxTokens - 1) < 1_024
}

function hasImage(content: Content): boolean {
  return typeof content !== 'string' && content.some((part) => part.kind === 'image')
}

function speaksOfTools(message: { role: string; toolCalls?: unknown[] }): boolean {
  return message.role === 'tool' || message.toolCalls !== undefined
}
