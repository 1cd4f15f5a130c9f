import { type GenerationRequest, textsOf } from '../../proto/request.ts'

/** Per million tokens, in millionths of a dollar; null: nobody set one. */
type Prices = { inputMicros: number | null; outputMicros: number | null; cachedInputMicros?: number | null }
/** `promptTokens` include the cached ones. */
type Tokens = { promptTokens: number; completionTokens: number; cachedTokens: number }

/** A price that nobody set is not known to be none. */
export function isFree({ inputMicros, outputMicros, cachedInputMicros = null }: Prices): boolean {
  return inputMicros === 0 && outputMicros === 0 && (cachedInputMicros ?? 0) === 0
}

/** What a call is about to cost: set aside until it is known. */
export function estimatedCost(model: Prices, request: GenerationRequest): number {
  const completionTokens = Math.min(request.maxTokens ?? ANSWER_TOKENS, ANSWER_TOKENS_MAX)
  return costOf(model, { promptTokens: promptTokens(request), completionTokens, cachedTokens: 0 })
}

/** In millionths of a dollar, rounded up: prices are per million tokens. */
export function costOf({ inputMicros, outputMicros, cachedInputMicros }: Prices, tokens: Tokens): number {
  const cached = Math.min(tokens.cachedTokens, tokens.promptTokens)
  const prompt = (tokens.promptTokens - cached) * (inputMicros ?? 0) + cached * (cachedInputMicros ?? inputMicros ?? 0)
  return Math.ceil((prompt + tokens.completionTokens * (outputMicros ?? 0)) / 1_000_000)
}

/** About four bytes each, where nobody has counted. */
export function promptTokens(request: GenerationRequest): number {
  return Math.ceil(textsOf(request.prompt).reduce((bytes, text) => bytes + Buffer.byteLength(text), 0) / BYTES_PER_TOKEN)
}

// What an answer without a limit takes, until it is there.
const ANSWER_TOKENS = 256
// More than any model says at once.
const ANSWER_TOKENS_MAX = 262_144
const BYTES_PER_TOKEN = 4
