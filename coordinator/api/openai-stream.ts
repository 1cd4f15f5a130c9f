import type { ServerResponse } from 'node:http'
import type { Waiting } from '../core/job.ts'
import type { Dispatcher } from '../engine/dispatcher.ts'
import type { Follower, LiveJob } from '../engine/live-job.ts'
import { usageView } from './job-view.ts'
import { faultOf, interrupted } from './submit.ts'
import { openAiError } from './server.ts'
import { isSettled, SseSink, waitingComment } from './sse.ts'

/**
 * One caller's stream of one job. It writes the job's text from where this caller stands. Cutting off a reader that does
 * not read cancels its job, unless that was detached: an unread answer would hold a slot for nobody.
 */
export class OpenAiStream implements Follower {
  readonly #dispatcher: Dispatcher
  readonly #live: LiveJob
  readonly #sink: SseSink
  readonly #options: StreamOptions
  readonly #before: string
  readonly #after: string
  #sent = 0

  constructor(dispatcher: Dispatcher, live: LiveJob, response: ServerResponse, options: StreamOptions) {
    this.#dispatcher = dispatcher
    this.#live = live
    this.#sink = new SseSink(response, { onRoom: () => this.grown(), onClosed: () => live.unfollow(this) })
    this.#options = options
    const { chat } = options
    this.#before = `data: ${JSON.stringify(this.#frame()).slice(0, -1)},"choices":[{"index":0,${chat ? '"delta":{"content":' : '"text":'}`
    this.#after = `${chat ? '}' : ''},"logprobs":null,"finish_reason":null}]${options.includeUsage ? ',"usage":null' : ''}}\n\n`
  }

  open(): void {
    this.#sink.open(this.#options.headers)
    // Head and first event leave in one write.
    this.#live.follow(this)
    if (this.#options.chat)
      this.#sink.write(
        `data: ${JSON.stringify({ ...this.#frame(), choices: [{ index: 0, delta: { role: 'assistant', content: '', refusal: null }, logprobs: null, finish_reason: null }], ...this.#usageIfAsked(null) })}\n\n`,
      )
    else this.#sink.flush()
    this.grown()
    if (isSettled(this.#live.record.status)) this.ended()
    else this.#dispatcher.announceWaiting(this.#live)
  }

  grown(): void {
    const { text } = this.#live
    if (this.#sink.blocked) {
      this.#sink.cutIfFarBehind(text.length - this.#sent)
      return
    }
    if (text.length === this.#sent) return
    const part = this.#sent === 0 ? text : text.slice(this.#sent)
    this.#sent = text.length
    this.#sink.write(this.#before + JSON.stringify(part) + this.#after)
  }

  waits(waiting: Waiting): void {
    if (!this.#sink.blocked) this.#sink.write(waitingComment(waiting))
  }

  /** Only a second caller of a job that was not streamed at first can have read what is void now. */
  discarded(): void {
    if (this.#sent === 0) return
    this.#live.unfollow(this)
    this.#sink.end(`data: ${JSON.stringify(openAiError(interrupted(this.#live.record.id)))}\n\n`)
  }

  ended(): void {
    // What a full socket held back goes first; Node keeps the order.
    this.#sink.blocked = false
    this.grown()
    this.#live.unfollow(this)
    const { record } = this.#live
    if (record.status !== 'succeeded') {
      this.#sink.end(`data: ${JSON.stringify(openAiError(faultOf(record)))}\n\n`)
      return
    }
    const choice = this.#options.chat
      ? { index: 0, delta: {}, logprobs: null, finish_reason: record.finishReason }
      : { index: 0, text: '', logprobs: null, finish_reason: record.finishReason }
    let last = `data: ${JSON.stringify({ ...this.#frame(), choices: [choice], ...this.#usageIfAsked(null) })}\n\n`
    if (this.#options.includeUsage) last += `data: ${JSON.stringify({ ...this.#frame(), choices: [], usage: usageView(record) })}\n\n`
    this.#sink.end(`${last}data: [DONE]\n\n`)
  }

  #frame(): Record<string, unknown> {
    const { id, createdMs, model } = this.#live.record
    const { chat } = this.#options
    return {
      id: `${chat ? 'chatcmpl' : 'cmpl'}-${id}`,
      object: chat ? 'chat.completion.chunk' : 'text_completion',
      created: Math.floor(createdMs / 1000),
      model,
    }
  }

  #usageIfAsked(usage: null): { usage?: null } {
    return this.#options.includeUsage ? { usage } : {}
  }
}

type StreamOptions = { chat: boolean; includeUsage: boolean; headers: Record<string, string> }
