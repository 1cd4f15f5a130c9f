import type { ToolCall } from './request.ts'

/** What an answer grows by besides plain text. Travels in `Chunk.delta` as JSON, one object or a list in order. */
export type AnswerDelta = {
  reasoning?: string
  /** Proof of the reasoning by the provider that made it, which wants it back with the next turn. */
  reasoningSignature?: string
  /** What the model says instead of an answer, where its provider tells the two apart. */
  refusal?: string
  toolCalls?: ToolCallDelta[]
  logprobs?: TokenLogprob[]
  asides?: Aside[]
  /** What a provider of the OpenAI dialect says of its text, such as where it read it; kept for callers of chat completions. */
  annotations?: unknown[]
}

/**
 * What a provider says in an answer beyond these words, in the place where it came: after so many characters of text. A
 * thought begins anew behind text, after so many characters of reasoning and of its signature. The others are of the
 * Anthropic dialect and kept for its callers: a block is whole; citations are of the text block that ends there; the end comes
 * with what the provider said of the whole message.
 */
export type Aside = { at: number } & (
  | { kind: 'thought'; reasoning: number; signature: number }
  | { kind: 'text-block' }
  | { kind: 'citations'; citations: unknown[] }
  | { kind: 'block'; block: Record<string, unknown> }
  | ({ kind: 'end' } & MessageEnd)
)

/** Members of the message and of its usage beyond these words; `stopReason` where it is none of these. */
export type MessageEnd = { stopReason?: string; message: Record<string, unknown>; usage: Record<string, unknown> }

/** `index` counts the answer's calls from 0. `id`, `name` and `custom` come with a call's first delta; `arguments` grow. */
export type ToolCallDelta = { index: number } & Partial<ToolCall>

/** As OpenAI shows it: natural logarithms; `bytes` are the token's UTF-8. */
export type TokenLogprob = { token: string; logprob: number; bytes: number[] | null; top_logprobs: Omit<TokenLogprob, 'top_logprobs'>[] }

/**
 * An answer as far as it has come. Everything in it only grows, so a reader needs to remember no more than lengths.
 * `JSON.stringify` of it is what is stored and what `Answer.from` reads.
 */
export class Answer {
  text = ''
  reasoning = ''
  reasoningSignature = ''
  refusal = ''
  readonly toolCalls: ToolCall[] = []
  readonly logprobs: TokenLogprob[] = []
  readonly asides: Aside[] = []
  readonly annotations: unknown[] = []
  /** Where it went on behind calls: mostly nowhere, because calls come last. */
  readonly resumed: Resumption[] = []

  append(text: string, delta?: AnswerDelta): void {
    if (this.toolCalls.length > 0) this.#resume(text, delta)
    this.text += text
    if (delta === undefined) return
    if (delta.reasoning !== undefined) this.reasoning += delta.reasoning
    if (delta.reasoningSignature !== undefined) this.reasoningSignature += delta.reasoningSignature
    if (delta.refusal !== undefined) this.refusal += delta.refusal
    for (const call of delta.toolCalls ?? []) this.#grow(call)
    // One by one: a call has room for only so many arguments.
    for (const logprob of delta.logprobs ?? []) this.logprobs.push(logprob)
    for (const aside of delta.asides ?? []) this.asides.push(aside)
    for (const annotation of delta.annotations ?? []) this.annotations.push(annotation)
  }

  /** Back to nothing: another provider begins anew. */
  clear(): void {
    this.text = ''
    this.reasoning = ''
    this.reasoningSignature = ''
    this.refusal = ''
    this.toolCalls.length = 0
    this.logprobs.length = 0
    this.asides.length = 0
    this.annotations.length = 0
    this.resumed.length = 0
  }

  /** What was thought and then said, in turn: mostly all of it at once. The last stretch grows. */
  stretches(): Stretch[] {
    const ends: Place[] = [{ text: 0, reasoning: 0, signature: 0 }]
    for (const aside of this.asides) if (aside.kind === 'thought') ends.push({ text: aside.at, ...aside })
    ends.push({ text: this.text.length, reasoning: this.reasoning.length, signature: this.reasoningSignature.length })
    return ends.slice(1).map((to, index) => ({ from: ends[index] as Place, to }))
  }

  /** Members that are empty are left out, `text` never is. */
  toJSON(): AnswerJson {
    const json: AnswerJson = { text: this.text }
    if (this.reasoning !== '') json.reasoning = this.reasoning
    if (this.reasoningSignature !== '') json.reasoning_signature = this.reasoningSignature
    if (this.refusal !== '') json.refusal = this.refusal
    if (this.toolCalls.length > 0) json.tool_calls = this.toolCalls
    if (this.logprobs.length > 0) json.logprobs = this.logprobs
    if (this.asides.length > 0) json.asides = this.asides
    if (this.annotations.length > 0) json.annotations = this.annotations
    if (this.resumed.length > 0) json.resumed = this.resumed
    return json
  }

  static from(json: Partial<AnswerJson>): Answer {
    const answer = new Answer()
    answer.text = json.text ?? ''
    answer.reasoning = json.reasoning ?? ''
    answer.reasoningSignature = json.reasoning_signature ?? ''
    answer.refusal = json.refusal ?? ''
    for (const call of json.tool_calls ?? []) answer.toolCalls.push(call)
    for (const resumption of json.resumed ?? []) answer.resumed.push(resumption)
    const { logprobs, asides, annotations } = json
    answer.append('', {
      ...(logprobs === undefined ? {} : { logprobs }),
      ...(asides === undefined ? {} : { asides }),
      ...(annotations === undefined ? {} : { annotations }),
    })
    return answer
  }

  /** What is told as done when a call begins may not grow behind it. */
  #resume(text: string, delta: AnswerDelta = {}): void {
    const calls = this.toolCalls.length
    const { reasoning = '', reasoningSignature = '', refusal = '', asides = [] } = delta
    if (calls === (this.resumed.at(-1)?.calls ?? 0) || text + reasoning + reasoningSignature + refusal === '') return
    // Of what comes joined the text comes first; a thought says itself where it stood.
    const thought = asides.find(({ kind }) => kind === 'thought')
    this.resumed.push({
      text: thought?.at ?? this.text.length,
      reasoning: this.reasoning.length,
      signature: this.reasoningSignature.length,
      refusal: this.refusal.length,
      logprobs: this.logprobs.length,
      calls,
    })
  }

  #grow({ index, id, name, arguments: grown, custom }: ToolCallDelta): void {
    // One that is begun before those before it leaves no hole.
    const call = (this.toolCalls[Math.min(index, this.toolCalls.length)] ??= { id: '', name: '', arguments: '' })
    if (id !== undefined) call.id = id
    if (name !== undefined) call.name = name
    if (custom === true) call.custom = true
    if (grown !== undefined) call.arguments += grown
  }
}

/** Characters of an answer that lie before a place in it. */
export type Place = { text: number; reasoning: number; signature: number }

export type Stretch = { from: Place; to: Place }

/** So many calls had begun, and more was said. */
export type Resumption = Place & { refusal: number; logprobs: number; calls: number }

export type AnswerJson = {
  text: string
  reasoning?: string
  reasoning_signature?: string
  refusal?: string
  tool_calls?: ToolCall[]
  logprobs?: TokenLogprob[]
  asides?: Aside[]
  annotations?: unknown[]
  resumed?: Resumption[]
}

/** Why an answer ended: by itself or at a stop string, at a limit of tokens, to have tools called, filtered, or cancelled. */
export type FinishReason = 'stop' | 'length' | 'tool_calls' | 'content_filter' | 'cancelled'
