import type { Answer, Stretch, TokenLogprob } from '../../proto/answer.ts'
import type { GenerationRequest, ResponseNotes, ToolCall } from '../../proto/request.ts'
import { joinedThinking, thoughtsOf } from '../../proto/thinking.ts'
import type { JobRecord } from '../core/job.ts'
import type { LiveJob } from '../engine/live-job.ts'
import type { Body } from './body.ts'
import { isSettled } from './sse.ts'
import { faultOf } from './submit.ts'
import { answeringModel } from './job-view.ts'

/** The request of a response as it is stored with its job; the seed does not matter here. */
export type ResponseRequest = Omit<GenerationRequest, 'seed'> & { response: ResponseNotes }

/** A job as the response object of the dialect. Its output is shown once there will be no more of it. */
export function responseView(live: LiveJob, request: ResponseRequest): Body {
  const { record } = live
  const { response: notes, sampling, reasoning, format } = request
  const settled = isSettled(record.status)
  return {
    id: `resp_${record.id}`,
    object: 'response',
    created_at: seconds(record.createdMs),
    status: statusOf(record),
    background: notes.background,
    completed_at: statusOf(record) === 'completed' ? seconds(record.finishedMs) : null,
    error: errorOf(record),
    incomplete_details: incompleteOf(record),
    instructions: instructionsOf(request),
    max_output_tokens: request.maxTokens ?? null,
    metadata: notes.metadata,
    model: answeringModel(record),
    output: settled ? outputItems(live, request) : [],
    parallel_tool_calls: request.parallelToolCalls ?? true,
    previous_response_id: notes.previous,
    reasoning: {
      effort: reasoning?.effort ?? null,
      summary: null,
      ...(reasoning?.maxTokens === undefined ? {} : { max_tokens: reasoning.maxTokens }),
    },
    store: notes.store,
    temperature: sampling.temperature ?? null,
    text: { format: formatView(format) },
    tool_choice:
      typeof request.toolChoice === 'object' ? { type: 'function', name: request.toolChoice.name } : (request.toolChoice ?? 'auto'),
    tools: (request.tools ?? []).map(({ name, description = null, parameters = null, strict = false }) => ({
      type: 'function',
      name,
      description,
      parameters,
      strict,
    })),
    top_logprobs: request.logprobs ?? 0,
    top_p: sampling.topP ?? null,
    truncation: 'disabled',
    usage: settled ? usageOf(live) : null,
  }
}

/** In the order in which they come to be. */
export function outputItems({ record, answer }: LiveJob, request: ResponseRequest): Body[] {
  const items: Body[] = []
  const ended = record.status === 'succeeded' && incompleteOf(record) === null
  const stretches = answer.stretches()
  for (const [index, stretch] of stretches.entries()) {
    const { reasoning, text } = wordsOf(answer, stretch)
    if (reasoning !== '')
      items.push(
        reasoningItem(
          record,
          index,
          reasoning,
          request.response.showSignature ? joinedThinking(thoughtsOf(answer, stretch)).signature : '',
        ),
      )
    const isLast = index === stretches.length - 1
    const hasNoWords = answer.text === '' && answer.toolCalls.length === 0 && record.status === 'succeeded'
    if (text !== '' || (isLast && (answer.refusal !== '' || hasNoWords)))
      items.push(
        messageItem(record, index, messageParts(text, index === 0 ? answer.logprobs : [], isLast ? answer.refusal : ''), 'completed'),
      )
  }
  for (const [index, call] of answer.toolCalls.entries()) items.push(callItem(record, index, call, 'completed'))
  // Only the last can have been cut short.
  const last = items.at(-1)
  if (last !== undefined && !ended && 'status' in last) last.status = 'incomplete'
  return items
}

/** Of one stretch. */
export function wordsOf({ reasoning, text }: Answer, { from, to }: Stretch): { reasoning: string; text: string } {
  return { reasoning: reasoning.slice(from.reasoning, to.reasoning), text: text.slice(from.text, to.text) }
}

/** `index`: of its stretch, as in `messageItem`. */
export function reasoningItem({ id }: JobRecord, index: number, reasoning: string, signature: string): Body {
  return {
    id: `rs_${id}${suffix(index)}`,
    type: 'reasoning',
    summary: [],
    content: reasoning === '' ? [] : [reasoningPart(reasoning)],
    ...(signature === '' ? {} : { encrypted_content: signature }),
  }
}

export function reasoningPart(text: string): Body {
  return { type: 'reasoning_text', text }
}

function suffix(index: number): string {
  return index === 0 ? '' : `_${index}`
}

function messageParts(text: string, logprobs: readonly TokenLogprob[], refusal: string): Body[] {
  const refused = refusal === '' ? [] : [refusalPart(refusal)]
  return text === '' && refusal !== '' ? refused : [textPart(text, logprobs), ...refused]
}

export function messageItem({ id }: JobRecord, index: number, content: Body[], status: string): Body {
  return { id: `msg_${id}${suffix(index)}`, type: 'message', status, role: 'assistant', content }
}

export function textPart(text: string, logprobs: readonly unknown[]): Body {
  return { type: 'output_text', text, annotations: [], logprobs }
}

export function refusalPart(refusal: string): Body {
  return { type: 'refusal', refusal }
}

export function callItem({ id }: JobRecord, index: number, call: ToolCall, status: string): Body {
  return { id: `fc_${id}_${index}`, type: 'function_call', status, call_id: call.id, name: call.name, arguments: call.arguments }
}

function statusOf(record: JobRecord): string {
  if (record.status === 'succeeded') return incompleteOf(record) === null ? 'completed' : 'incomplete'
  if (record.status === 'running') return 'in_progress'
  return record.status === 'parked' ? 'failed' : record.status
}

function errorOf(record: JobRecord): Body | null {
  if (record.status !== 'failed' && record.status !== 'parked') return null
  const { code, message } = faultOf(record)
  return { code, message }
}

function incompleteOf({ status, finishReason }: JobRecord): Body | null {
  if (status !== 'succeeded') return null
  if (finishReason === 'length') return { reason: 'max_output_tokens' }
  return finishReason === 'content_filter' ? { reason: 'content_filter' } : null
}

function instructionsOf({ prompt, response }: ResponseRequest): unknown {
  return response.instructed && prompt.kind === 'chat' ? prompt.messages[0]?.content : null
}

function formatView(format: GenerationRequest['format']): Body {
  if (format === undefined) return { type: 'text' }
  if (format.kind === 'json') return { type: 'json_object' }
  return { type: 'json_schema', name: format.name, schema: format.schema, strict: format.strict }
}

function usageOf({ record, reasoningTokens }: LiveJob): Body | null {
  if (record.promptTokens === null && record.completionTokens === null) return null
  const input = record.promptTokens ?? 0
  const output = record.completionTokens ?? 0
  return {
    input_tokens: input,
    input_tokens_details: { cached_tokens: record.cachedTokens ?? 0 },
    output_tokens: output,
    output_tokens_details: { reasoning_tokens: reasoningTokens ?? 0 },
    total_tokens: input + output,
  }
}

function seconds(ms: number | null): number | null {
  return ms === null ? null : Math.floor(ms / 1000)
}
