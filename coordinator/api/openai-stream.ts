import type { ServerResponse } from 'node:http'
import { isFinal, type JobStatus, type Waiting } from '../core/job.ts'
import type { Dispatcher } from '../engine/dispatcher.ts'
import type { Follower, LiveJob } from '../engine/live-job.ts'
import { usageView } from './job-view.ts'
import { faultOf } from './openai.ts'
import { openAiError } from './server.ts'

/**
 * One caller's stream of one job. It writes the job's text from where this caller stands, so a slow reader costs no
 * buffer of its own: while its socket is full nothing is written, and then what has gathered goes as one chunk. A reader
 * that does not read at all is cut off, or its unread answer would hold a slot and memory for nobody.
 */
export class OpenAiStream implements Follower {
  readonly #dispatcher: Dispatcher
  readonly #live: LiveJob
  readonly #response: ServerResponse
  readonly #options: StreamOptions
  readonly #before: string
  readonly #after: string
  #sent = 0
  #blocked = false
  #blockedTimer: NodeJS.Timeout | undefined

  constructor(dispatcher: Dispatcher, live: LiveJob, response: ServerResponse, options: StreamOptions) {
    this.#dispatcher = dispatcher
    this.#live = live
    this.#response = response
    this.#options = options
    const { chat } = options
    this.#before = `data: ${JSON.stringify(this.#frame()).slice(0, -1)},"choices":[{"index":0,${chat ? '"delta":{"content":' : '"text":'}`
    this.#after = `${chat ? '}' : ''},"logprobs":null,"finish_reason":null}]${options.includeUsage ? ',"usage":null' : ''}}\n\n`
  }

  open(): void {
    const response = this.#response
    response.on('drain', () => this.#unblock())
    response.on('close', () => {
      clearTimeout(this.#blockedTimer)
      this.#live.unfollow(this)
    })
    response.writeHead(200, {
      ...this.#options.headers,
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-cache',
      'x-accel-buffering': 'no',
    })
    // Head and first event leave in one write.
    this.#live.follow(this)
    if (this.#options.chat)
      this.#write(
        `data: ${JSON.stringify({ ...this.#frame(), choices: [{ index: 0, delta: { role: 'assistant', content: '', refusal: null }, logprobs: null, finish_reason: null }], ...this.#usageIfAsked(null) })}\n\n`,
      )
    else response.flushHeaders()
    this.grown()
    if (settled(this.#live.record.status)) this.ended()
    else this.#dispatcher.announceWaiting(this.#live)
  }

  grown(): void {
    const { text } = this.#live
    if (this.#blocked) {
      if (text.length - this.#sent > UNREAD_CHARS_MAX) this.#cut()
      return
    }
    if (text.length === this.#sent) return
    const part = this.#sent === 0 ? text : text.slice(this.#sent)
    this.#sent = text.length
    this.#write(this.#before + JSON.stringify(part) + this.#after)
  }

  waits(waiting: Waiting): void {
    if (!this.#blocked) this.#write(waitingComment(waiting))
  }

  ended(): void {
    // What a full socket held back goes first; Node keeps the order.
    this.#blocked = false
    this.grown()
    this.#live.unfollow(this)
    const { record } = this.#live
    if (record.status !== 'succeeded') {
      this.#response.end(`data: ${JSON.stringify(openAiError(faultOf(record)))}\n\n`)
      return
    }
    const choice = this.#options.chat
      ? { index: 0, delta: {}, logprobs: null, finish_reason: record.finishReason }
      : { index: 0, text: '', logprobs: null, finish_reason: record.finishReason }
    let last = `data: ${JSON.stringify({ ...this.#frame(), choices: [choice], ...this.#usageIfAsked(null) })}\n\n`
    if (this.#options.includeUsage) last += `data: ${JSON.stringify({ ...this.#frame(), choices: [], usage: usageView(record) })}\n\n`
    this.#response.end(`${last}data: [DONE]\n\n`)
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

  #write(text: string): void {
    if (this.#response.write(text) || this.#blocked) return
    this.#blocked = true
    this.#blockedTimer = setTimeout(() => this.#cut(), BLOCKED_MS_MAX)
  }

  #unblock(): void {
    clearTimeout(this.#blockedTimer)
    if (!this.#blocked) return
    this.#blocked = false
    this.grown()
  }

  /** Closing the connection cancels the job, unless it was detached: see `serve` in openai.ts. */
  #cut(): void {
    this.#response.destroy()
  }
}

type StreamOptions = { chat: boolean; includeUsage: boolean; headers: Record<string, string> }

// A caller this far behind, or this long without reading a byte, has gone without saying so.
const UNREAD_CHARS_MAX = 1_000_000
const BLOCKED_MS_MAX = 60_000

function settled(status: JobStatus): boolean {
  return isFinal(status) || status === 'parked'
}

function waitingComment(waiting: Waiting): string {
  const until = waiting.untilMs === null ? '' : ` until=${new Date(waiting.untilMs).toISOString()}`
  return `: waiting reason=${waiting.reason} position=${waiting.position} estimate_ms=${waiting.estimateMs ?? 'unknown'}${until}\n\n`
}
