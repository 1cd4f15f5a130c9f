import type { GenerationRequest, Reasoning } from '../../../proto/request.ts'
import { callIds } from './answer-reader.ts'
import type { ReasoningMarks } from './chat-template.ts'
import { callJudge, constraintOf, mustCall, Reading } from './constraint.ts'
import type { AnswerPlan } from './generation.ts'
import type { GrammarState } from './sequence.ts'
import type { CallForm } from './tool-calls.ts'

/** What the model's template says about how it writes. */
type ChatTraits = { callForm: CallForm; reasoning?: ReasoningMarks | undefined }

export type PlanParts = {
  traits: ChatTraits
  prompt: readonly number[]
  reasoningBegun: boolean
  contextTokens: number
  makeGrammar: (grammar: string) => GrammarState
  tokensOf: (text: string) => number[]
}

/** Whether the request lets the model think; undefined: as the template has it. */
export function thinks({ reasoning }: Pick<GenerationRequest, 'reasoning'>): boolean | undefined {
  if (reasoning === undefined) return undefined
  return reasoning.effort !== 'none' && reasoning.maxTokens !== 0
}

/** How the answer to a request is read, held and judged. Throws `UnsupportedSchema`. */
export function answerPlan(request: GenerationRequest, parts: PlanParts): AnswerPlan {
  // A raw prompt is answered with raw text: whoever writes the template reads the marks too.
  const chat = request.prompt.kind === 'chat'
  const { traits, prompt, reasoningBegun } = parts
  const tools = chat && request.toolChoice !== 'none' ? request.tools : undefined
  const reading = new Reading()
  const wish = { ...request, tools: tools ?? [] }
  const { grammar, faultOf } = constraintOf(wish, traits.callForm, traits.reasoning !== undefined, reading)
  const plan: AnswerPlan = {}
  if (grammar !== undefined) plan.grammar = parts.makeGrammar(grammar)
  if (faultOf !== undefined) plan.faultOf = faultOf
  const faultOfCall = callJudge(tools ?? [], reading)
  if (faultOfCall !== undefined) plan.faultOfCall = faultOfCall
  const reasoning = chat ? traits.reasoning : undefined
  const calls =
    tools === undefined || tools.length === 0
      ? undefined
      : {
          // JSON that nothing announces could as well be the answer that was asked for.
          form: request.format === undefined || mustCall(request) ? traits.callForm : { ...traits.callForm, bare: false },
          idOf: callIds(request.seed, prompt),
          names: new Set(tools.map(({ name }) => name)),
          must: mustCall(request),
        }
  if (reasoning !== undefined || calls !== undefined)
    plan.reader = {
      ...(calls === undefined ? {} : { calls }),
      ...(reasoning === undefined ? {} : { reasoning: { ...reasoning, begun: reasoningBegun } }),
    }
  if (calls !== undefined && (request.parallelToolCalls === false || typeof request.toolChoice === 'object')) plan.oneCall = true
  if (reasoning !== undefined && thinks(request) !== false) plan.reasoning = reasoningPlan(request, reasoning, parts, grammar !== undefined)
  return plan
}

/**
 * Thinking is over at its cap: its end is dictated, and the answer begins. Where the answer is held by a grammar the
 * beginning is dictated too: the model must not have to think inside of the JSON. It may not end within its thought then,
 * and half of the room is left for the answer.
 */
function reasoningPlan(
  { reasoning = {}, maxTokens = Number.POSITIVE_INFINITY }: GenerationRequest,
  { open, close }: ReasoningMarks,
  { reasoningBegun, tokensOf, prompt, contextTokens }: PlanParts,
  held: boolean,
): NonNullable<AnswerPlan['reasoning']> {
  const opening = held && !reasoningBegun ? tokensOf(`${open}\n`) : []
  const room = Math.min(maxTokens, contextTokens - prompt.length)
  const most = held ? Math.min(reasoningCap(reasoning), Math.max(1, Math.floor(room / 2))) : reasoningCap(reasoning)
  return { maxTokens: most, opening, closing: tokensOf(`\n${close}\n\n`), mayEnd: !held }
}

/** Tokens an effort may take. They double and double again: about a paragraph, a page, a few pages, and a chapter. */
const EFFORT_TOKENS = { none: 0, minimal: 256, low: 1_024, medium: 4_096, high: 16_384, xhigh: Number.POSITIVE_INFINITY } as const

function reasoningCap({ effort, maxTokens }: Reasoning): number {
  return Math.min(maxTokens ?? Number.POSITIVE_INFINITY, effort === undefined ? Number.POSITIVE_INFINITY : EFFORT_TOKENS[effort])
}
