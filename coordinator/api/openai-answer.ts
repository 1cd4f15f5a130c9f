import type { TokenLogprob } from '../../proto/answer.ts'
import type { ToolCall } from '../../proto/request.ts'
import type { LiveJob } from '../engine/live-job.ts'
import { usageView } from './job-view.ts'

/** Succeeded jobs as the unstreamed answer of their endpoint: one job is one choice, and the first names the answer. */
export function answerBody(live: LiveJob, ...others: readonly LiveJob[]): Record<string, unknown> {
  const lives = [live, ...others]
  const { record } = live
  const chat = record.type === 'chat'
  return {
    id: `${chat ? 'chatcmpl' : 'cmpl'}-${record.id}`,
    object: chat ? 'chat.completion' : 'text_completion',
    created: Math.floor(record.createdMs / 1000),
    model: record.model,
    choices: lives.map(chat ? chatChoice : completionChoice),
    usage: usageOf(lives),
  }
}

function chatChoice({ record, answer }: LiveJob, index: number): Record<string, unknown> {
  const { text, reasoning, toolCalls, logprobs } = answer
  const message: Record<string, unknown> = { role: 'assistant', content: text === '' && toolCalls.length > 0 ? null : text, refusal: null }
  if (reasoning !== '') message.reasoning_content = reasoning
  if (toolCalls.length > 0) message.tool_calls = toolCalls.map(toolCallView)
  return { index, message, logprobs: logprobsView(logprobs), finish_reason: record.finishReason }
}

function completionChoice({ record, text }: LiveJob, index: number): Record<string, unknown> {
  return { index, text, logprobs: null, finish_reason: record.finishReason }
}

function toolCallView(call: ToolCall): Record<string, unknown> {
  return { id: call.id, type: 'function', function: { name: call.name, arguments: call.arguments } }
}

export function logprobsView(logprobs: readonly TokenLogprob[]): Record<string, unknown> | null {
  return logprobs.length === 0 ? null : { content: logprobs, refusal: null }
}

/** All choices have one prompt, so it counts once; what was generated is added up. */
export function usageOf(lives: readonly LiveJob[]): Record<string, unknown> | null {
  const [first] = lives
  const usage = first === undefined ? null : usageView(first.record)
  if (usage === null) return null
  const prompt = first?.record.promptTokens ?? 0
  const completion = lives.reduce((sum, { record }) => sum + (record.completionTokens ?? 0), 0)
  const known = lives.filter((live) => live.reasoningTokens !== null)
  const reasoning = known.reduce((sum, live) => sum + (live.reasoningTokens ?? 0), 0)
  return {
    ...usage,
    completion_tokens: completion,
    total_tokens: prompt + completion,
    ...(known.length === 0 ? {} : { completion_tokens_details: { reasoning_tokens: reasoning } }),
  }
}
