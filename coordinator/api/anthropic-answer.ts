import { inputOf } from '../../proto/anthropic-wire-request.ts'
import type { Answer, MessageEnd } from '../../proto/answer.ts'
import { type ThinkingBlock, thoughtsOf } from '../../proto/thinking.ts'
import type { Fault } from '../core/fault.ts'
import type { LiveJob } from '../engine/live-job.ts'
import { answeringModel } from './job-view.ts'

/** A succeeded job as the dialect's message: thinking and text in turn, then calls. */
export function messageBody(live: LiveJob): Record<string, unknown> {
  const { answer } = live
  const content = spokenBlocks(answer)
  for (const { id, name, arguments: written } of answer.toolCalls)
    content.push({ type: 'tool_use', id, name, input: inputOf(written), caller: DIRECT })
  return { ...messageHead(live), content, ...stopOf(live), ...endOf(live)?.message, usage: usageOf(live) }
}

/** The text, cut where its provider cut it, with what the provider thought and put between. The dialect has no other words for a refusal. */
function spokenBlocks(answer: Answer): Record<string, unknown>[] {
  const { text, refusal, asides } = answer
  const thoughts = answer.stretches().map((stretch) => thoughtsOf(answer, stretch).map(thoughtBlock))
  const blocks: Record<string, unknown>[] = thoughts.shift() ?? []
  let from = 0
  const speak = (to: number, citations: unknown[] | null): void => {
    if (to > from || citations !== null) blocks.push({ type: 'text', text: text.slice(from, to), citations })
    from = to
  }
  for (const aside of asides) {
    speak(aside.at, aside.kind === 'citations' ? aside.citations : null)
    if (aside.kind === 'block') blocks.push(aside.block)
    if (aside.kind === 'thought') blocks.push(...(thoughts.shift() ?? []))
  }
  speak(text.length, null)
  if (refusal !== '') blocks.push({ type: 'text', text: refusal, citations: null })
  return blocks
}

function thoughtBlock(block: ThinkingBlock): Record<string, unknown> {
  return block.kind === 'redacted'
    ? { type: 'redacted_thinking', data: block.data }
    : { type: 'thinking', thinking: block.thinking, signature: block.signature }
}

/** What is known of a message before it has any content. */
export function messageHead(live: LiveJob): Record<string, unknown> {
  const { record } = live
  const model = answeringModel(record)
  return { id: `msg_${record.id}`, type: 'message', role: 'assistant', model, content: [], stop_reason: null, stop_sequence: null }
}

/** The model called the tool itself, and not code that it runs. */
export const DIRECT = { type: 'direct' }

export function stopOf(live: LiveJob): { stop_reason: string; stop_sequence: string | null } {
  const { stopSequence } = live
  const told = endOf(live)?.stopReason
  if (told !== undefined) return { stop_reason: told, stop_sequence: null }
  if (live.answer.refusal !== '') return { stop_reason: 'refusal', stop_sequence: null }
  switch (live.record.finishReason) {
    case 'length':
      return { stop_reason: 'max_tokens', stop_sequence: null }
    case 'tool_calls':
      return { stop_reason: 'tool_use', stop_sequence: null }
    case 'content_filter':
      return { stop_reason: 'refusal', stop_sequence: null }
    default:
      return { stop_reason: stopSequence === null ? 'end_turn' : 'stop_sequence', stop_sequence: stopSequence }
  }
}

/** What the provider, one of the dialect, said of the whole message. */
export function endOf({ answer }: LiveJob): MessageEnd | undefined {
  return answer.asides.findLast((aside) => aside.kind === 'end')
}

/** Tokens that were read from a cache or written to one are counted beside the others, not among them. */
export function usageOf(live: LiveJob): Record<string, unknown> {
  const { promptTokens, completionTokens, cachedTokens } = live.record
  const { reasoningTokens, cacheWriteTokens } = live
  return {
    input_tokens: Math.max(0, (promptTokens ?? 0) - (cachedTokens ?? 0) - cacheWriteTokens),
    cache_creation_input_tokens: cacheWriteTokens,
    cache_read_input_tokens: cachedTokens ?? 0,
    output_tokens: completionTokens ?? 0,
    output_tokens_details: reasoningTokens === null ? null : { thinking_tokens: reasoningTokens },
    ...endOf(live)?.usage,
  }
}

/** The error body of the Anthropic dialect, with Holdfast's own members beside the dialect's. */
export function anthropicError(fault: Fault, requestId: string): Record<string, unknown> {
  const { code, message, param, layer, retryable, providerStatus, job } = fault
  return {
    type: 'error',
    error: {
      ...{ type: typeOf(fault.status), message, code, param, layer, retryable, provider_status: providerStatus, job },
      // By these the official client knows that it has to send the whole conversation.
      ...(code === THREAD_NOT_FOUND ? { details: { error_code: code } } : {}),
    },
    request_id: requestId,
  }
}

export const THREAD_NOT_FOUND = 'thread_not_found'

function typeOf(status: number): string {
  const named = TYPES[status]
  if (named !== undefined) return named
  return status < 500 ? 'invalid_request_error' : 'api_error'
}

const TYPES: Record<number, string> = {
  401: 'authentication_error',
  403: 'permission_error',
  404: 'not_found_error',
  413: 'request_too_large',
  429: 'rate_limit_error',
  503: 'overloaded_error',
  504: 'timeout_error',
  529: 'overloaded_error',
}
