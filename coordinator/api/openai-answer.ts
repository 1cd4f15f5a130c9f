import type { LiveJob } from '../engine/live-job.ts'
import { usageView } from './job-view.ts'

/** A succeeded job as the unstreamed answer of its endpoint. */
export function answerBody(live: LiveJob): Record<string, unknown> {
  return live.record.type === 'chat' ? chatAnswer(live) : completionAnswer(live)
}

function chatAnswer(live: LiveJob): Record<string, unknown> {
  const { record, text } = live
  return {
    id: `chatcmpl-${record.id}`,
    object: 'chat.completion',
    created: Math.floor(record.createdMs / 1000),
    model: record.model,
    choices: [
      { index: 0, message: { role: 'assistant', content: text, refusal: null }, logprobs: null, finish_reason: record.finishReason },
    ],
    usage: usageView(record),
  }
}

function completionAnswer(live: LiveJob): Record<string, unknown> {
  const { record, text } = live
  return {
    id: `cmpl-${record.id}`,
    object: 'text_completion',
    created: Math.floor(record.createdMs / 1000),
    model: record.model,
    choices: [{ index: 0, text, logprobs: null, finish_reason: record.finishReason }],
    usage: usageView(record),
  }
}
