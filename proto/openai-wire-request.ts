import type { Ability } from './abilities.ts'
import {
  type ChatMessage,
  type Content,
  type GenerationRequest,
  joinedTurns,
  type JsonSchema,
  type Prompt,
  textOf,
  type Tool,
} from './request.ts'
import type { Json } from './wire.ts'

/** How an upstream differs from others of its dialect. */
export type OpenAiUpstream = {
  /** The caller chose the seed; one that Holdfast chose is not sent, because it slows some servers down. */
  seedGiven: boolean
  /** An open server (vLLM, SGLang, llama-server …), which knows more members than OpenAI's own cloud, and another name of one. */
  extended: boolean
  /** Absent: `max_tokens` for an open server, `max_completion_tokens` for others. */
  maxTokensName?: 'max_tokens' | 'max_completion_tokens'
}

/** Below the upstream's base URL, which ends in /v1. */
export const OPENAI_PATHS: Record<Prompt['kind'], string> = {
  chat: '/chat/completions',
  text: '/completions',
  embed: '/embeddings',
  rank: '/rerank',
}

/** What the dialect has words for; a provider of it may claim no more, and less where its server or model cannot do it. */
export const OPENAI_ABILITIES: readonly Ability[] = [
  'completions',
  'embeddings',
  'images',
  'tools',
  'tool_choice',
  'parallel_tool_calls',
  'json_object',
  'json_schema',
  'logprobs',
  'reasoning_effort',
  'reasoning_none',
  'temperature',
  'temperature_above_1',
  'top_p',
  'seed',
  'frequency_penalty',
  'presence_penalty',
  'logit_bias',
  'openai_dialect',
]

/** And what open servers have words for besides. */
export const OPEN_SERVER_ABILITIES: readonly Ability[] = [
  ...OPENAI_ABILITIES,
  'rerank',
  'reasoning_max_tokens',
  'reasoning_max_tokens_below_1024',
  'min_tokens',
  'top_k',
  'min_p',
  'repeat_penalty',
]

/** The body with which an upstream of the dialect is asked for the request. What needs other abilities never comes here. */
export function openAiBody(request: GenerationRequest, model: string, stream: boolean, upstream: OpenAiUpstream): Json {
  const { prompt, verbatim } = request
  if (verbatim?.dialect === 'openai') return { ...verbatimBody(verbatim.body, model, stream), ...ownNames(request, upstream) }
  if (prompt.kind === 'embed')
    return {
      model,
      input: prompt.inputs,
      encoding_format: 'float',
      ...optional('dimensions', prompt.dimensions),
      ...aside(request, upstream),
    }
  if (prompt.kind === 'rank') return { model, query: prompt.query, documents: prompt.documents }
  const body: Json =
    prompt.kind === 'text'
      ? { model, prompt: prompt.text, ...optional('max_tokens', request.maxTokens), ...optional('logprobs', request.logprobs) }
      : { model, messages: messagesOf(joinedTurns(prompt.messages), upstream.extended), ...chatOptions(request, upstream) }
  Object.assign(body, sampling(request, upstream), aside(request, upstream))
  if (stream) Object.assign(body, { stream, stream_options: { include_usage: true } })
  return body
}

/** An open server may refuse what it does not know, and has no accounts that it would matter to. */
function aside({ passthrough = {} }: GenerationRequest, { extended }: OpenAiUpstream): Json {
  return extended ? {} : passthrough
}

/** One job is one answer: where the caller wanted several, the door made a job of each. */
function verbatimBody(original: Json, model: string, stream: boolean): Json {
  const { n: _n, stream_options: streamOptions, repeat_penalty: _penalty, reasoning_max_tokens: _cap, ...body } = original
  const asked = typeof streamOptions === 'object' ? streamOptions : {}
  return { ...body, model, stream, ...(stream ? { stream_options: { ...asked, include_usage: true } } : {}) }
}

/** What the door calls by names that no upstream knows. */
function ownNames({ sampling, reasoning }: GenerationRequest, { extended }: OpenAiUpstream): Json {
  const { maxTokens } = reasoning ?? {}
  return {
    ...optional('repetition_penalty', sampling.repeatPenalty),
    ...(maxTokens === undefined ? {} : reasoningOf({ maxTokens }, extended)),
  }
}

function chatOptions(request: GenerationRequest, upstream: OpenAiUpstream): Json {
  const { tools, toolChoice, format, logprobs } = request
  return {
    ...optional(upstream.maxTokensName ?? (upstream.extended ? 'max_tokens' : 'max_completion_tokens'), request.maxTokens),
    ...(tools === undefined ? {} : { tools: tools.map(toolOf) }),
    ...(tools === undefined || toolChoice === undefined
      ? {}
      : { tool_choice: typeof toolChoice === 'string' ? toolChoice : { type: 'function', function: { name: toolChoice.name } } }),
    ...(tools === undefined ? {} : optional('parallel_tool_calls', request.parallelToolCalls)),
    ...(format === undefined ? {} : { response_format: formatOf(format) }),
    ...(logprobs === undefined ? {} : { logprobs: true, top_logprobs: logprobs }),
    ...reasoningOf(request.reasoning, upstream.extended),
  }
}

function sampling({ sampling: chosen, stop, seed, minTokens }: GenerationRequest, { seedGiven, extended }: OpenAiUpstream): Json {
  return {
    ...(stop.length === 0 ? {} : { stop }),
    ...(seedGiven ? { seed } : {}),
    ...optional('temperature', chosen.temperature),
    ...optional('top_p', chosen.topP),
    ...optional('frequency_penalty', chosen.frequencyPenalty),
    ...optional('presence_penalty', chosen.presencePenalty),
    ...optional('logit_bias', chosen.logitBias),
    ...(extended
      ? {
          ...optional('top_k', chosen.topK),
          ...optional('min_p', chosen.minP),
          ...optional('repetition_penalty', chosen.repeatPenalty),
          ...optional('min_tokens', minTokens),
        }
      : {}),
  }
}

/** A cap is a member of vLLM's; OpenAI's own cloud has none, but both can be told not to think at all. */
function reasoningOf(reasoning: GenerationRequest['reasoning'], extended: boolean): Json {
  if (reasoning === undefined) return {}
  const { effort, maxTokens } = reasoning
  const off = maxTokens === 0 || effort === 'none'
  if (extended)
    return {
      ...optional('reasoning_effort', effort),
      ...(off ? { chat_template_kwargs: { enable_thinking: false } } : optional('thinking_token_budget', maxTokens)),
    }
  return optional('reasoning_effort', off ? 'none' : effort)
}

function formatOf(format: NonNullable<GenerationRequest['format']>): Json {
  if (format.kind === 'json') return { type: 'json_object' }
  const { name, schema, strict } = format
  return { type: 'json_schema', json_schema: { name, schema: schemaOf(schema), strict } }
}

function toolOf({ name, description, parameters, strict }: Tool): Json {
  return {
    type: 'function',
    function: {
      name,
      ...optional('description', description),
      ...(parameters === undefined ? {} : { parameters: schemaOf(parameters) }),
      ...optional('strict', strict),
    },
  }
}

/** The two schemas that are no objects, as objects that mean the same. */
function schemaOf(schema: JsonSchema): Json {
  if (typeof schema !== 'boolean') return schema
  return schema ? {} : { not: {} }
}

function messagesOf(messages: readonly ChatMessage[], extended: boolean): Json[] {
  const written: Json[] = []
  // A message of a tool holds text only; what it shows follows once all tools have spoken, because their messages may not be parted.
  let shown: Json[] = []
  for (const [index, message] of messages.entries()) {
    written.push(messageOf(message, extended))
    if (message.role !== 'tool') continue
    if (typeof message.content !== 'string') shown.push(...partsOf(message.content).filter((part) => part.type !== 'text'))
    if (messages[index + 1]?.role === 'tool' || shown.length === 0) continue
    written.push({ role: 'user', content: [{ type: 'text', text: 'Images that the tools returned:' }, ...shown] })
    shown = []
  }
  return written
}

function messageOf(message: ChatMessage, extended: boolean): Json {
  if (message.role === 'tool') {
    const text = textOf(message.content)
    // The dialect has no member that says so, and a model must not take a failure for a result.
    return { role: 'tool', tool_call_id: message.toolCallId, content: message.isError === true ? `Error: ${text}` : text }
  }
  if (message.role !== 'assistant') return { role: message.role, content: contentOf(message.content) }
  const { toolCalls, reasoning } = message
  const silent = toolCalls !== undefined && message.content.length === 0
  return {
    role: 'assistant',
    content: silent ? null : contentOf(message.content),
    // Templates of open models want it back; OpenAI's own cloud refuses the member.
    ...(extended ? optional('reasoning_content', reasoning) : {}),
    ...(toolCalls === undefined
      ? {}
      : {
          tool_calls: toolCalls.map((call) => ({
            id: call.id,
            type: 'function',
            function: { name: call.name, arguments: call.arguments },
          })),
        }),
  }
}

function contentOf(content: Content): string | Json[] {
  return typeof content === 'string' ? content : partsOf(content)
}

function partsOf(content: Exclude<Content, string>): Json[] {
  return content.map((part) =>
    part.kind === 'text'
      ? { type: 'text', text: part.text }
      : { type: 'image_url', image_url: { url: part.url, ...optional('detail', part.detail) } },
  )
}

function optional(name: string, value: unknown): Json {
  return value === undefined ? {} : { [name]: value }
}
