import { type GenerationRequest, textsOf } from '../../../proto/request.ts'
import type { GenerationFailure } from '../engine.ts'
import { answerPlan, type PlanParts } from './answer-plan.ts'
import { unsupportedSchema } from './constraint.ts'
import { Generation, type Vocabulary } from './generation.ts'
import type { ModelFacts, ToProcess } from './protocol.ts'
import { UnsupportedSchema } from './schema-grammar.ts'

/** What is asked of a loaded model before the first token is computed. */
export type ReadyModel = Pick<PlanParts, 'traits' | 'makeGrammar' | 'tokensOf'> & {
  facts: ModelFacts
  vocabulary: Vocabulary
  /** The tokens of a prompt; throws where the model's chat template refuses the messages. */
  read: PromptReader
}

export type PromptReader = (request: GenerationRequest) => ReadPrompt
type ReadPrompt = { tokens: number[]; reasoningBegun: boolean }

/** The generation that a request asks for, or why there is none. */
export function takeIn(message: Extract<ToProcess, { kind: 'start' }>, model: ReadyModel): Generation | GenerationFailure {
  const { request } = message
  const { contextTokens, maxTokenBytes } = model.facts
  if (request.prompt.kind === 'embed' || request.prompt.kind === 'rank') return notGenerating(request.prompt.kind)
  const unknown = Object.keys(request.sampling.logitBias ?? {}).find((token) => Number(token) >= model.vocabulary.size)
  if (unknown !== undefined) return unknownToken(unknown, model.vocabulary.size)
  const fewest = Math.ceil(promptBytes(request) / maxTokenBytes)
  // Cutting a book into tokens takes seconds in which nobody's next token would come.
  if (fewest >= contextTokens) return tooLong(`at least ${fewest}`, contextTokens)
  const prompt = promptOrFailure(request, model)
  if ('code' in prompt) return prompt
  if (prompt.tokens.length >= contextTokens) return tooLong(`${prompt.tokens.length}`, contextTokens)
  return generationOrFailure(message, prompt, model)
}

function generationOrFailure(
  { id, request, continuation }: Extract<ToProcess, { kind: 'start' }>,
  { tokens, reasoningBegun }: ReadPrompt,
  model: ReadyModel,
): Generation | GenerationFailure {
  try {
    const plan = answerPlan(request, { ...model, prompt: tokens, reasoningBegun, contextTokens: model.facts.contextTokens })
    return new Generation(id, tokens, continuation, request, model.facts.contextTokens, model.vocabulary, plan)
  } catch (error) {
    if (error instanceof UnsupportedSchema) return unsupportedSchema(error)
    const message = `the answer cannot be held to its schema or tools: ${(error as Error).message}`
    return { layer: 'model', code: 'grammar_failed', message, retryable: false }
  }
}

function unknownToken(token: string, size: number): GenerationFailure {
  const message = `logit_bias names token ${token}, and the model's tokens end at ${size - 1}: leave it out`
  return { layer: 'ingress', code: 'unknown_token', message, retryable: false }
}

function notGenerating(kind: 'embed' | 'rank'): GenerationFailure {
  const [wish, option] = kind === 'embed' ? ['embed', 'embedding=true'] : ['rank', 'rerank=true']
  const message = `this model generates text and does not ${wish}: name a model that is served with ${option}`
  return { layer: 'ingress', code: 'wrong_kind_of_model', message, retryable: false }
}

function promptBytes({ prompt, tools, toolChoice }: GenerationRequest): number {
  let bytes = textsOf(prompt).reduce((sum, text) => sum + Buffer.byteLength(text), 0)
  if (prompt.kind !== 'chat') return bytes
  for (const message of prompt.messages)
    if (message.role === 'assistant') for (const call of message.toolCalls ?? []) bytes += Buffer.byteLength(call.arguments)
  if (tools !== undefined && toolChoice !== 'none')
    bytes += JSON.stringify(tools.map(({ description, parameters }) => [description, parameters])).length
  return bytes
}

function tooLong(promptTokens: string, contextTokens: number): GenerationFailure {
  const message =
    `the prompt has ${promptTokens} tokens and the model's context holds ${contextTokens}, the answer included: ` +
    'shorten the prompt or serve the model with a larger context'
  return { layer: 'ingress', code: 'context_length_exceeded', message, retryable: false }
}

function promptOrFailure(request: GenerationRequest, model: ReadyModel): ReadPrompt | GenerationFailure {
  try {
    const prompt = model.read(request)
    if (prompt.tokens.length > 0) return prompt
    return { layer: 'ingress', code: 'empty_prompt', message: 'the prompt has no tokens: send some text', retryable: false }
  } catch (error) {
    const message = `the model's chat template refuses these messages: ${(error as Error).message}`
    return { layer: 'ingress', code: 'chat_template_refused', message, retryable: false }
  }
}
