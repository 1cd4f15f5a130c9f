import { type GenerationRequest, textsOf } from '../../proto/request.ts'

/** Per million tokens, in millionths of a dollar; null: nobody set one. */
type Prices = {
  inputMicros: number | null
  outputMicros: number | null
  cachedInputMicros?: number | null
  cacheWriteInputMicros?: number | null
}
/** `promptTokens` include those that were read from a cache and those that were written to one. */
type Tokens = { promptTokens: number; completionTokens: number; cachedTokens: number; cacheWriteTokens?: number }

/** A price that nobody set is not known to be none. */
export function isFree({ inputMicros, outputMicros, cachedInputMicros, cacheWriteInputMicros }: Prices): boolean {
  return inputMicros === 0 && outputMicros === 0 && (cachedInputMicros ?? 0) === 0 && (cacheWriteInputMicros ?? 0) === 0
}

/** What a call is about to cost: set aside until it is known. */
export function estimatedCost(model: Prices, request: GenerationRequest): number {
  const completionTokens = Math.min(request.maxTokens ?? ANSWER_TOKENS, ANSWER_TOKENS_MAX)
  return costOf(model, { promptTokens: promptTokens(request), completionTokens, cachedTokens: 0 })
}

/** In millionths of a dollar, rounded up: prices are per million tokens. */
export function costOf(prices: Prices, { promptTokens, completionTokens, cachedTokens, cacheWriteTokens = 0 }: Tokens): number {
  const input = prices.inputMicros ?? 0
  const cached = Math.min(cachedTokens, promptTokens)
  const written = Math.min(cacheWriteTokens, promptTokens - cached)
  const prompt =
    (promptTokens - cached - written) * input +
    cached * (prices.cachedInputMicros ?? input) +
    written * (prices.cacheWriteInputMicros ?? input)
  return Math.ceil((prompt + completionTokens * (prices.outputMicros ?? 0)) / 1_000_000)
}

/** About four bytes each, where nobody has counted. */
export function promptTokens(request: GenerationRequest): number {
  const bytes = textsOf(request.prompt).reduce((sum, text) => sum + Buffer.byteLength(text), 0)
  return Math.ceil(bytes / BYTES_PER_TOKEN) + (request.verbatim?.tokens ?? 0)
}

// What an answer without a limit takes, until it is there.
const ANSWER_TOKENS = 256
// More than any model says at once.
const ANSWER_TOKENS_MAX = 262_144
const BYTES_PER_TOKEN = 4
