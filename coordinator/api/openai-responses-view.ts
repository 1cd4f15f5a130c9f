import type { Answer, Place, Resumption, Stretch, TokenLogprob } from '../../proto/answer.ts'
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
  let calls = 0
  for (const turn of turnsOf(answer)) {
    for (const words of turn.words) items.push(...spokenItems(record, answer, words, request))
    for (; calls < turn.calls; calls++) items.push(callItem(record, calls, answer.toolCalls[calls] as ToolCall, 'completed'))
  }
  // Only the last can have been cut short.
  const last = items.at(-1)
  const ended = record.status === 'succeeded' && incompleteOf(record) === null
  if (last !== undefined && !ended && 'status' in last) last.status = 'incomplete'
  return items
}

function spokenItems(record: JobRecord, answer: Answer, words: Words, request: ResponseRequest): Body[] {
  const { index, logprobs } = words
  const { reasoning, text, refusal } = wordsOf(answer, words)
  const items: Body[] = []
  if (reasoning !== '' || isProof(words, request))
    items.push(
      reasoningItem(
        record,
        index,
        reasoning,
        request.response.showSignature ? joinedThinking(thoughtsOf(answer, words.stretch)).signature : '',
      ),
    )
  if (text !== '' || refusal !== '' || isSilent(record, answer))
    items.push(messageItem(record, index, messageParts(text, answer.logprobs.slice(...logprobs), refusal), 'completed'))
  return items
}

/** An answer of no words is a message all the same. */
export function isSilent({ status }: JobRecord, { text, refusal, toolCalls }: Answer): boolean {
  return status === 'succeeded' && text === '' && refusal === '' && toolCalls.length === 0
}

/** A reasoning may be told by its proof alone. */
export function isProof({ stretch: { from, to } }: Words, { response }: ResponseRequest): boolean {
  return response.showSignature && to.signature > from.signature
}

/** What was thought and said before calls, in stretches, and how many calls there are at its end. Mostly there is one. */
export type Turn = { words: Words[]; calls: number }

/** One stretch, with what of refusal and log probabilities belongs to it. `index` counts those of the answer. */
export type Words = { index: number; stretch: Stretch; refusal: Range; logprobs: Range }

type Range = [from: number, to: number]

/** What was told as done does not grow: what is said behind calls is said in another turn. */
export function turnsOf(answer: Answer): Turn[] {
  const { text, reasoning, reasoningSignature, refusal, logprobs, toolCalls, resumed } = answer
  const end = {
    ...{ text: text.length, reasoning: reasoning.length, signature: reasoningSignature.length },
    ...{ refusal: refusal.length, logprobs: logprobs.length, calls: toolCalls.length },
  }
  const thoughts = answer.stretches().slice(1)
  let from: Resumption = { text: 0, reasoning: 0, signature: 0, refusal: 0, logprobs: 0, calls: 0 }
  let index = 0
  return [...resumed, end].map((to) => {
    const inside = thoughts.filter((thought) => isBefore(from, thought.from) && isBefore(thought.from, to))
    const places = [from, ...inside.map((thought) => thought.from), to]
    const words = places.slice(1).map((place, position): Words => {
      const isLast = position === inside.length
      return {
        index: index++,
        stretch: { from: places[position] as Place, to: place },
        refusal: isLast ? [from.refusal, to.refusal] : [0, 0],
        logprobs: position === 0 ? [from.logprobs, to.logprobs] : [0, 0],
      }
    })
    from = to
    return { words, calls: to.calls }
  })
}

function isBefore(one: Place, other: Place): boolean {
  return one.text < other.text || (one.text === other.text && one.reasoning + one.signature < other.reasoning + other.signature)
}

export function wordsOf(
  { reasoning, text, refusal }: Answer,
  { stretch: { from, to }, refusal: refused }: Words,
): { reasoning: string; text: string; refusal: string } {
  return {
    reasoning: reasoning.slice(from.reasoning, to.reasoning),
    text: text.slice(from.text, to.text),
    refusal: refusal.slice(...refused),
  }
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

function usageOf({ record, reasoningTokens, cacheWriteTokens }: LiveJob): Body | null {
  if (record.promptTokens === null && record.completionTokens === null) return null
  const input = record.promptTokens ?? 0
  const output = record.completionTokens ?? 0
  return {
    input_tokens: input,
    input_tokens_details: { cached_tokens: record.cachedTokens ?? 0, cache_write_tokens: cacheWriteTokens },
    output_tokens: output,
    output_tokens_details: { reasoning_tokens: reasoningTokens ?? 0 },
    total_tokens: input + output,
  }
}

function seconds(ms: number | null): number | null {
  return ms === null ? null : Math.floor(ms / 1000)
}
