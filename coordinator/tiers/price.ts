import { type GenerationRequest, textsOf } from '../../proto/request.ts'

/** Per million tokens, in millionths of a dollar. */
type Prices = { inputMicros: number; outputMicros: number }

/** What a call is about to cost: set aside until it is known. */
export function estimatedCost(model: Prices, request: GenerationRequest): number {
  return costOf(model, promptTokens(request), request.maxTokens ?? ANSWER_TOKENS)
}

/** In millionths of a dollar, rounded up: prices are per million tokens. */
export function costOf(model: Prices, promptTokenCount: number, completionTokens: number): number {
  return Math.ceil((promptTokenCount * model.inputMicros + completionTokens * model.outputMicros) / 1_000_000)
}

/** About four bytes each, where nobody has counted. */
export function promptTokens(request: GenerationRequest): number {
  return Math.ceil(textsOf(request.prompt).reduce((bytes, text) => bytes + Buffer.byteLength(text), 0) / BYTES_PER_TOKEN)
}

// What an answer without a limit takes, until it is there.
const ANSWER_TOKENS = 256
const BYTES_PER_TOKEN = 4
