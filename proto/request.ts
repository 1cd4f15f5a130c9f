/**
 * What one attempt is asked to do: the normalised request that every dialect is read into. It is stored with its job and
 * travels in `Start.request` as JSON. The coordinator has validated it; whoever runs it trusts its shape. Optional members
 * are absent when the caller did not set them.
 */
export type GenerationRequest = {
  prompt: Prompt
  /** Tokens to generate at most, forced ones included; absent: until the model ends or the context is full. */
  maxTokens?: number
  /** The model may not end the answer before so many tokens. */
  minTokens?: number
  /** Text that ends the answer and is not part of it; matched across token borders. */
  stop: string[]
  sampling: Sampling
  /** Always set: given by the caller or chosen at acceptance. Unsigned 32 bit. */
  seed: number
  /**
   * Holdfast chose it: an engine whose text is the same every time unless it is told otherwise was not told otherwise. The seed is
   * that of the first attempt; a later one that begins the answer anew draws from another, made from this one and its number.
   */
  seedIsChosen?: true
  /** Functions that the model may call; absent: none. */
  tools?: Tool[]
  /** Absent: `auto`. Only with tools. */
  toolChoice?: 'auto' | 'none' | 'required' | { name: string }
  /** False: at most one call in an answer. */
  parallelToolCalls?: boolean
  /** The answer's text is JSON: of any shape, or of the schema. */
  format?: { kind: 'json' } | { kind: 'schema'; name: string; schema: JsonSchema; strict: boolean }
  /** Log probabilities of the chosen tokens, and of so many alternatives to each (0 … 20). */
  logprobs?: number
  reasoning?: Reasoning
  /**
   * The caller's body as it came, when it holds members that this type has no room for. Only a provider that speaks the same
   * dialect can honour those: it gets this body, with its own model name and `stream`, instead of a translation.
   * `betas` are the names in the header `anthropic-beta`, without which Anthropic refuses some members; `userProfile` is that
   * of `anthropic-user-profile-id`. `tokens`: about how many of them are in what the normal form leaves out.
   */
  verbatim?: { dialect: Dialect; body: Record<string, unknown>; betas?: string[]; userProfile?: string; tokens?: number }
  /**
   * Members of the OpenAI dialect that cannot change the answer, and mean something to a cloud of that dialect: whose user asks,
   * what is kept there. Everybody else looks past them.
   */
  passthrough?: Record<string, unknown>
  /** Whoever runs it looks past this. */
  response?: ResponseNotes
}

/** What a response of the OpenAI dialect is asked to say about itself when it is read again, and no model needs to know. */
export type ResponseNotes = {
  /** Id of the response whose conversation this one goes on with. */
  previous: string | null
  /** The first message is its instructions, which the next response does not inherit. */
  instructed: boolean
  /** It can be read again and gone on with. */
  store: boolean
  background: boolean
  metadata: Record<string, string>
  /** Show the proof of the reasoning with it. */
  showSignature: boolean
}

/** The wire formats in which a body can be sent on as it came. */
export type Dialect = 'openai' | 'anthropic'

/** Chat for the model's own template, one raw text (completions), texts to embed, or documents to rank. */
export type Prompt =
  | { kind: 'chat'; messages: ChatMessage[] }
  | { kind: 'text'; text: string }
  | { kind: 'embed'; inputs: string[]; dimensions?: number }
  | { kind: 'rank'; query: string; documents: string[] }

export type ChatMessage =
  | { role: 'system' | 'user'; content: Content }
  | { role: 'assistant'; content: Content; reasoning?: string; reasoningSignature?: string; toolCalls?: ToolCall[] }
  | { role: 'tool'; toolCallId: string; content: Content; isError?: boolean }

export type Content = string | ContentPart[]
export type ContentPart = { kind: 'text'; text: string } | ImagePart
/** `url` is https:// or a data: URL with base64. */
export type ImagePart = { kind: 'image'; url: string; detail?: 'auto' | 'low' | 'high' | 'original' }

/**
 * `arguments` is the JSON text that the model wrote, which may not be valid. `custom`: of a tool of the OpenAI dialect that is
 * no function; `arguments` is its input then, any text.
 */
export type ToolCall = { id: string; name: string; arguments: string; custom?: true }
export type Tool = { name: string; description?: string; parameters?: JsonSchema; strict?: boolean }
export type JsonSchema = Record<string, unknown> | boolean

/**
 * How much the model may think before it answers. `maxTokens` 0: not at all. `effortIsDefault`: the caller's dialect makes the same
 * effort where nothing is said of it, so a model that knows of none may be asked without.
 */
export type Reasoning = { effort?: Effort; effortIsDefault?: true; maxTokens?: number }
export type Effort = 'none' | 'minimal' | 'low' | 'medium' | 'high' | 'xhigh'

/** Absent: the engine's default, which for every penalty is "off". */
export type Sampling = {
  temperature?: number
  topP?: number
  topK?: number
  minP?: number
  /** Multiplies, 1 = off. */
  repeatPenalty?: number
  frequencyPenalty?: number
  presencePenalty?: number
  /** Added to the logit of a token id, -100 … 100. */
  logitBias?: Record<string, number>
}

/** All text of a prompt, in order; what stands between its parts depends on the model. */
export function textsOf(prompt: Prompt): string[] {
  if (prompt.kind === 'text') return [prompt.text]
  if (prompt.kind === 'embed') return prompt.inputs
  if (prompt.kind === 'rank') return [prompt.query, ...prompt.documents]
  return prompt.messages.map((message) => textOf(message.content))
}

/** What the assistant said in several messages, thinking in between, as one: most models know no other turns than one after another. */
export function joinedTurns(messages: readonly ChatMessage[]): readonly ChatMessage[] {
  const joined: ChatMessage[] = []
  for (const message of messages) {
    const last = joined.at(-1)
    if (last?.role === 'assistant' && message.role === 'assistant' && last.toolCalls === undefined && thinks(message))
      joined.push(bothOf(joined.pop() as Said, message))
    else joined.push(message)
  }
  return joined.length === messages.length ? messages : joined
}

type Said = Extract<ChatMessage, { role: 'assistant' }>

/** It goes on with a thought: whoever sends two messages without one means two. */
function thinks({ reasoning, reasoningSignature }: Said): boolean {
  return reasoning !== undefined || reasoningSignature !== undefined
}

function bothOf(first: Said, second: Said): Said {
  const content =
    typeof first.content === 'string' && typeof second.content === 'string'
      ? first.content + second.content
      : [...partsOf(first.content), ...partsOf(second.content)]
  const reasoning = (first.reasoning ?? '') + (second.reasoning ?? '')
  return { ...second, content, ...(reasoning === '' ? {} : { reasoning }) }
}

function partsOf(content: Content): ContentPart[] {
  if (typeof content !== 'string') return content
  return content === '' ? [] : [{ kind: 'text', text: content }]
}

/** The text of a message, its images left out. */
export function textOf(content: Content): string {
  if (typeof content === 'string') return content
  let text = ''
  for (const part of content) if (part.kind === 'text') text += part.text
  return text
}
