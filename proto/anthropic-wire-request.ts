import type { Ability } from './abilities.ts'
import { type ChatMessage, type Content, type GenerationRequest, type JsonSchema, textOf, type Tool } from './request.ts'
import { thinkingBlocks } from './thinking.ts'
import { isJson, type Json } from './wire.ts'

/** What is sent where the caller set no limit, because the dialect demands one: a model refuses more than it can say. */
function mostTokens(model: string): number {
  if (!isVendors(model) || /claude-(2|instant|3-(opus|sonnet|haiku))/.test(model)) return LEAST
  return /claude-3[-.]5/.test(model) ? 8_192 : 32_000
}

const LEAST = 4_096

function isVendors(model: string): boolean {
  return model.includes('claude-')
}

/** What the dialect has words for; a provider of it may claim no more, and less where its model cannot do it. */
export const ANTHROPIC_ABILITIES: readonly Ability[] = [
  'images',
  'tools',
  'tool_choice',
  'parallel_tool_calls',
  'json_schema',
  'reasoning_effort',
  'reasoning_max_tokens',
  'reasoning_none',
  'temperature',
  'top_p',
  'top_k',
  'anthropic_dialect',
]

/** The body with which an upstream of the dialect is asked for a chat. What needs other abilities never comes here. */
export function anthropicBody(request: GenerationRequest, model: string, stream: boolean): Json {
  const { verbatim, prompt, stop, sampling } = request
  if (verbatim?.dialect === 'anthropic') return unthinking({ ...verbatim.body, ...signedOnly(verbatim.body.messages), model, stream })
  const { system, messages } = conversation(prompt.kind === 'chat' ? prompt.messages : [])
  const choice = toolChoice(request)
  return unthinking({
    model,
    max_tokens: request.maxTokens ?? Math.max(mostTokens(model), (request.reasoning?.maxTokens ?? 0) + LEAST),
    messages,
    stream,
    ...(system === '' ? {} : { system }),
    ...(stop.length === 0 ? {} : { stop_sequences: stop }),
    ...optional('temperature', sampling.temperature),
    ...optional('top_p', sampling.topP),
    ...optional('top_k', sampling.topK),
    ...(request.tools === undefined ? {} : { tools: request.tools.map(toolOf) }),
    ...(choice === undefined ? {} : { tool_choice: choice }),
    ...thinking(request),
    ...outputConfig(request),
  })
}

/**
 * A turn that called tools without thinking first, as other models do, is gone on with only without thinking by budget: the
 * vendor's models demand a signed thought at its beginning, and there is none.
 */
function unthinking(body: Json): Json {
  const { thinking: wished, context_management: editing, messages, ...others } = body
  if (!isJson(wished) || wished.type !== 'enabled' || !isVendors(String(body.model)) || !isUnthoughtTurn(messages)) return body
  if (!isJson(editing) || !Array.isArray(editing.edits)) return { ...others, messages, ...optional('context_management', editing) }
  // It clears thoughts only where there are some.
  const edits = editing.edits.filter((edit) => !isJson(edit) || !String(edit.type).startsWith('clear_thinking'))
  return { ...others, messages, ...(edits.length === 0 ? {} : { context_management: { ...editing, edits } }) }
}

/** The turn that is not over: all behind the last message of the user that brings no results. */
function isUnthoughtTurn(messages: unknown): boolean {
  if (!Array.isArray(messages)) return false
  const begins = messages.findLastIndex((message) => isJson(message) && message.role === 'user' && !has(message, RESULTS))
  const first: unknown = messages.slice(begins + 1).find((message) => isJson(message) && message.role === 'assistant')
  if (!isJson(first) || !has(first, CALLS)) return false
  const [block] = blocksIn(first.content)
  return !isJson(block) || !THOUGHTS.has(String(block.type))
}

function has(message: Json, types: Set<string>): boolean {
  return blocksIn(message.content).some((block) => isJson(block) && types.has(String(block.type)))
}

const RESULTS = new Set(['tool_result'])
const CALLS = new Set(['tool_use'])
const THOUGHTS = new Set(['thinking', 'redacted_thinking'])

/** A budget is manual thinking, an effort alone leaves to the model how much of it is thinking. */
function thinking({ reasoning, maxTokens: most = Number.POSITIVE_INFINITY }: GenerationRequest): Json {
  if (reasoning === undefined) return {}
  const { effort, maxTokens } = reasoning
  if (maxTokens === 0 || effort === 'none') return { thinking: { type: 'disabled' } }
  // Thinking is part of the answer's tokens, and the dialect refuses a budget that leaves none of them.
  if (maxTokens !== undefined) return { thinking: { type: 'enabled', budget_tokens: Math.min(maxTokens, most - 1) } }
  return effort === undefined ? {} : { thinking: { type: 'adaptive' } }
}

function outputConfig({ reasoning, format }: GenerationRequest): Json {
  const effort = reasoning?.effort === 'minimal' ? 'low' : reasoning?.effort
  const config: Json = {}
  if (effort !== undefined && effort !== 'none') config.effort = effort
  if (format?.kind === 'schema') config.format = { type: 'json_schema', schema: objectOf(format.schema) }
  return Object.keys(config).length === 0 ? {} : { output_config: config }
}

function toolOf({ name, description, parameters, strict }: Tool): Json {
  const schema = objectOf(parameters ?? {})
  return {
    name,
    ...optional('description', description),
    // The dialect takes schemas of objects only, and wants to be told so.
    input_schema: schema.type === undefined ? { ...schema, type: 'object' } : schema,
    ...optional('strict', strict),
  }
}

function objectOf(schema: JsonSchema): Json {
  if (typeof schema !== 'boolean') return schema
  return schema ? {} : { not: {} }
}

function toolChoice({ tools, toolChoice: wanted, parallelToolCalls }: GenerationRequest): Json | undefined {
  if (tools === undefined) return undefined
  if (wanted === 'none') return { type: 'none' }
  const single = parallelToolCalls === undefined ? {} : { disable_parallel_tool_use: !parallelToolCalls }
  if (wanted === 'required') return { type: 'any', ...single }
  if (wanted !== undefined && wanted !== 'auto') return { type: 'tool', name: wanted.name, ...single }
  return wanted === undefined && parallelToolCalls === undefined ? undefined : { type: 'auto', ...single }
}

/** System messages are no part of the dialect's conversation, and neighbours of the same role are one message. */
function conversation(chat: ChatMessage[]): { system: string; messages: Json[] } {
  const systems = chat.filter((message) => message.role === 'system').map((message) => textOf(message.content))
  const system = systems.filter(says).join('\n\n')
  const messages: { role: string; content: Json[] }[] = []
  for (const message of chat) {
    const blocks = message.role === 'system' ? [] : blocksOf(message)
    // A message that says nothing is refused by the dialect, and with it the whole conversation.
    if (blocks.length === 0) continue
    const role = message.role === 'assistant' ? 'assistant' : 'user'
    const last = messages.at(-1)
    if (last?.role === role) last.content.push(...blocks)
    else messages.push({ role, content: blocks })
  }
  // There must be something to answer, and a system prompt alone is meant to be answered.
  if (messages.length === 0) return { system: '', messages: [{ role: 'user', content: system }] }
  return { system, messages: messages.map(({ role, content }) => ({ role, content: plain(content) })) }
}

/** A lone text is written as one, which every server of the dialect reads. */
function plain(blocks: Json[]): string | Json[] {
  const [only] = blocks
  return blocks.length === 1 && only?.type === 'text' ? String(only.text) : blocks
}

function blocksOf(message: ChatMessage): Json[] {
  if (message.role === 'tool')
    return [
      {
        type: 'tool_result',
        tool_use_id: toolIdOf(message.toolCallId),
        ...resultOf(message.content),
        ...optional('is_error', message.isError),
      },
    ]
  if (message.role !== 'assistant') return contentBlocks(message.content)
  return [
    ...thoughts(message.reasoning ?? '', message.reasoningSignature ?? ''),
    ...contentBlocks(message.content),
    ...(message.toolCalls ?? []).map((call) => ({
      type: 'tool_use',
      id: toolIdOf(call.id),
      name: call.name,
      input: inputOf(call.arguments),
    })),
  ]
}

/** The messages as they came, but for thinking of other providers; nothing where there are none of it. */
function signedOnly(messages: unknown): Json {
  if (!Array.isArray(messages)) return {}
  const isForeign = (block: unknown): boolean => isJson(block) && block.type === 'thinking' && (block.signature ?? '') === ''
  const touched = (message: unknown): boolean => isJson(message) && Array.isArray(message.content) && message.content.some(isForeign)
  if (!messages.some(touched)) return {}
  const kept: Json[] = []
  for (const message of messages as Json[]) {
    const content = touched(message) ? (message.content as unknown[]).filter((block) => !isForeign(block)) : message.content
    const last = kept.at(-1)
    // One that only thought is left out, and those around it are one message: roles take turns, and none may be without content.
    if (Array.isArray(content) && content.length === 0 && touched(message)) continue
    if (last !== undefined && last.role === message.role) last.content = [...blocksIn(last.content), ...blocksIn(content)]
    else kept.push({ ...message, content })
  }
  return { messages: kept }
}

function blocksIn(content: unknown): unknown[] {
  return Array.isArray(content) ? content : [{ type: 'text', text: content }]
}

/** Thinking that its provider did not sign is of another one, and the dialect refuses it. */
function thoughts(reasoning: string, signature: string): Json[] {
  const blocks: Json[] = []
  for (const block of thinkingBlocks(reasoning, signature)) {
    if (block.kind === 'redacted') blocks.push({ type: 'redacted_thinking', data: block.data })
    else if (block.signature !== '') blocks.push({ type: 'thinking', thinking: block.thinking, signature: block.signature })
  }
  return blocks
}

/** A result may have no content, but not one that says nothing. */
function resultOf(content: Content): Json {
  const blocks = contentBlocks(content)
  return blocks.length === 0 ? {} : { content: typeof content === 'string' ? content : blocks }
}

function contentBlocks(content: Content): Json[] {
  if (typeof content === 'string') return says(content) ? [{ type: 'text', text: content }] : []
  return content
    .filter((part) => part.kind === 'image' || says(part.text))
    .map((part) => (part.kind === 'text' ? { type: 'text', text: part.text } : { type: 'image', source: sourceOf(part.url) }))
}

/** Texts of nothing but white space are refused by the dialect. */
function says(text: string): boolean {
  return text.trim() !== ''
}

function sourceOf(url: string): Json {
  const [whole, mediaType] = /^data:([^;,]*)(?:;[^,]*)?;base64,/.exec(url) ?? []
  if (whole === undefined) return { type: 'url', url }
  // The dialect knows images by their proper names only.
  return { type: 'base64', media_type: mediaType === 'image/jpg' ? 'image/jpeg' : mediaType, data: url.slice(whole.length) }
}

/** A call and its result must still fit together, so both are changed alike. */
function toolIdOf(id: string): string {
  return id.replaceAll(/[^a-zA-Z0-9_-]/g, '_')
}

/** The dialect knows arguments as an object only; what a model wrote instead of one is shown as what it wrote. */
export function inputOf(written: string): Json {
  try {
    const input: unknown = JSON.parse(written)
    if (isJson(input)) return input
  } catch {
    // Not JSON: below.
  }
  return written.trim() === '' ? {} : { malformed_arguments: written }
}

function optional(name: string, value: unknown): Json {
  return value === undefined ? {} : { [name]: value }
}
