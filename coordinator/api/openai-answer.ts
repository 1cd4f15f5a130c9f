import type { TokenLogprob } from '../../proto/answer.ts'
import type { ToolCall } from '../../proto/request.ts'
import type { LiveJob } from '../engine/live-job.ts'
import { answeringModel, usageView } from './job-view.ts'
import { embeddingsBody } from './openai-embeddings.ts'
import { rankingBody } from './openai-rerank.ts'

/** Succeeded jobs as the unstreamed answer of their endpoint: one job is one choice, and the first names the answer. */
export function answerBody(live: LiveJob, ...others: readonly LiveJob[]): Record<string, unknown> {
  const lives = [live, ...others]
  const { record } = live
  if (record.type === 'embedding') return embeddingsBody(live, false)
  if (record.type === 'rerank') return rankingBody(live)
  const chat = record.type === 'chat'
  return {
    id: `${chat ? 'chatcmpl' : 'cmpl'}-${record.id}`,
    object: chat ? 'chat.completion' : 'text_completion',
    created: Math.floor(record.createdMs / 1000),
    model: answeringModel(record),
    choices: lives.map(chat ? chatChoice : completionChoice),
    usage: usageOf(lives),
  }
}

function chatChoice({ record, answer }: LiveJob, index: number): Record<string, unknown> {
  const { text, reasoning, refusal, toolCalls, logprobs, annotations } = answer
  const content = text === '' && (toolCalls.length > 0 || refusal !== '') ? null : text
  const message: Record<string, unknown> = { role: 'assistant', content, refusal: refusal === '' ? null : refusal }
  if (reasoning !== '') message.reasoning_content = reasoning
  if (annotations.length > 0) message.annotations = annotations
  if (toolCalls.length > 0) message.tool_calls = toolCalls.map(toolCallView)
  return { index, message, logprobs: logprobsView(logprobs), finish_reason: record.finishReason }
}

function completionChoice({ record, answer }: LiveJob, index: number): Record<string, unknown> {
  return { index, text: answer.text, logprobs: completionLogprobsView(answer.logprobs, 0), finish_reason: record.finishReason }
}

export function toolCallView(call: ToolCall): Record<string, unknown> {
  if (call.custom === true) return { id: call.id, type: 'custom', custom: { name: call.name, input: call.arguments } }
  return { id: call.id, type: 'function', function: { name: call.name, arguments: call.arguments } }
}

export function logprobsView(logprobs: readonly TokenLogprob[]): Record<string, unknown> | null {
  return logprobs.length === 0 ? null : { content: logprobs, refusal: null }
}

/** The older form, in which every column is a list. `offset` is where the first token's text begins. */
export function completionLogprobsView(logprobs: readonly TokenLogprob[], offset: number): Record<string, unknown> | null {
  if (logprobs.length === 0) return null
  let place = offset
  const offsets = logprobs.map(({ token }) => {
    place += token.length
    return place - token.length
  })
  return {
    tokens: logprobs.map(({ token }) => token),
    token_logprobs: logprobs.map(({ logprob }) => logprob),
    top_logprobs: logprobs.map(({ top_logprobs }) => Object.fromEntries(top_logprobs.map(({ token, logprob }) => [token, logprob]))),
    text_offset: offsets,
  }
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
  const { cacheWriteTokens } = first as LiveJob
  return {
    ...usage,
    ...(cacheWriteTokens === 0
      ? {}
      : { prompt_tokens_details: { ...(usage.prompt_tokens_details as object), cache_write_tokens: cacheWriteTokens } }),
    completion_tokens: completion,
    total_tokens: prompt + completion,
    ...(known.length === 0 ? {} : { completion_tokens_details: { reasoning_tokens: reasoning } }),
  }
}
