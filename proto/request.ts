/**
 * What one attempt is asked to do: the normalised request that travels in `Start.request` as JSON. The coordinator has
 * validated it; a worker trusts its shape. Optional members are absent when the caller did not set them.
 */
export type GenerationRequest = {
  /** Chat messages for the model's own template, or one raw prompt (completions). */
  prompt: { kind: 'chat'; messages: ChatMessage[] } | { kind: 'text'; text: string }
  /** Tokens to generate at most, forced ones included; absent: until the model ends or the context is full. */
  maxTokens?: number
  /** Text that ends the answer and is not part of it; matched across token borders. */
  stop: string[]
  sampling: Sampling
  /** Always set: given by the caller or chosen at acceptance. Unsigned 32 bit. */
  seed: number
}

export type ChatMessage = { role: 'system' | 'user' | 'assistant'; content: string }

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
