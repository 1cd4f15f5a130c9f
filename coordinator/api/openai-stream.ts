import type { ServerResponse } from 'node:http'
import type { Fault } from '../core/fault.ts'
import type { Waiting } from '../core/job.ts'
import type { Dispatcher } from '../engine/dispatcher.ts'
import type { Follower, LiveJob, Prefill } from '../engine/live-job.ts'
import { completionLogprobsView, logprobsView, toolCallView, usageOf } from './openai-answer.ts'
import { faultOf, interrupted, stopping } from './submit.ts'
import { openAiError } from './server.ts'
import { isSettled, prefillComment, SseSink, waitingComment } from './sse.ts'
import { answeringModel } from './job-view.ts'

/**
 * One caller's stream of the jobs that are its choices, nearly always one. It ends when the last of them has ended, or with
 * the first that failed. Cutting off a reader that does not read cancels its jobs, unless they were detached: an unread
 * answer would hold a slot for nobody.
 */
export class OpenAiStream {
  readonly #dispatcher: Dispatcher
  readonly #sink: SseSink
  readonly #options: StreamOptions
  readonly #choices: ChoiceStream[]
  readonly #frame: Record<string, unknown>
  #open: number

  constructor(dispatcher: Dispatcher, lives: readonly [LiveJob, ...LiveJob[]], response: ServerResponse, options: StreamOptions) {
    this.#dispatcher = dispatcher
    this.#options = options
    this.#frame = frameOf(lives[0], options.chat)
    this.#open = lives.length
    this.#sink = new SseSink(response, {
      onRoom: () => this.#each((choice) => choice.grown()),
      onClosed: () => this.#each((choice) => choice.leave()),
    })
    const parts = {
      sink: this.#sink,
      frame: this.#frame,
      options,
      onEnded: (last: string) => this.#choiceEnded(last),
      onFailed: (fault: Fault) => this.#fail(fault),
    }
    this.#choices = lives.map((live, index) => new ChoiceStream(live, index, parts))
  }

  open(): void {
    this.#sink.open(this.#options.headers)
    // Head and first event leave in one write.
    if (!this.#options.chat) this.#sink.flush()
    this.#each((choice) => choice.open(this.#dispatcher))
  }

  #choiceEnded(last: string): void {
    this.#open -= 1
    if (this.#open > 0) {
      this.#sink.write(last)
      return
    }
    const { includeUsage } = this.#options
    const usage = includeUsage ? usageOf(this.#choices.map((choice) => choice.live)) : null
    const spent = includeUsage ? `data: ${JSON.stringify({ ...this.#frame, choices: [], usage })}\n\n` : ''
    this.#sink.end(`${last}${spent}data: [DONE]\n\n`)
  }

  #fail(fault: Fault): void {
    this.#each((choice) => choice.leave())
    this.#options.onFailed?.()
    this.#sink.end(`data: ${JSON.stringify(openAiError(fault))}\n\n`)
  }

  #each(act: (choice: ChoiceStream) => void): void {
    for (const choice of this.#choices) act(choice)
  }
}

type StreamOptions = {
  chat: boolean
  includeUsage: boolean
  headers: Record<string, string>
  /** One of several choices failed: nobody waits for the others any more. */
  onFailed?: () => void
}

type ChoiceParts = {
  sink: SseSink
  frame: Record<string, unknown>
  options: StreamOptions
  onEnded: (last: string) => void
  onFailed: (fault: Fault) => void
}

/** Writes one job's answer from where this caller stands. Plain text is the hot path: its event is two prepared halves. */
class ChoiceStream implements Follower {
  readonly live: LiveJob
  readonly #index: number
  readonly #parts: ChoiceParts
  readonly #before: string
  readonly #after: string
  #sent = 0
  #reasoningSent = 0
  #refusalSent = 0
  #annotationsSent = 0
  #logprobsSent = 0
  /** Length of their tokens. */
  #logprobsChars = 0
  /** Per tool call, how much of its arguments. */
  readonly #argumentsSent: number[] = []
  #over = false

  constructor(live: LiveJob, index: number, parts: ChoiceParts) {
    this.live = live
    this.#index = index
    this.#parts = parts
    const { chat, includeUsage } = parts.options
    this.#before = `data: ${JSON.stringify(parts.frame).slice(0, -1)},"choices":[{"index":${index},${chat ? '"delta":{"content":' : '"text":'}`
    this.#after = `${chat ? '}' : ''},"logprobs":null,"finish_reason":null}]${includeUsage ? ',"usage":null' : ''}}\n\n`
  }

  open(dispatcher: Dispatcher): void {
    // Another choice may have failed already.
    if (this.#over) return
    this.live.follow(this)
    // Whose answer it is has no probability, whatever was said by now.
    if (this.#parts.options.chat) this.#parts.sink.write(this.#render({ role: 'assistant', content: '', refusal: null }, null, 0))
    this.grown()
    if (isSettled(this.live.record.status)) this.ended()
    else dispatcher.announceWaiting(this.live)
  }

  grown(fresh = ''): void {
    const { answer } = this.live
    const { sink } = this.#parts
    if (this.#over) return
    if (sink.blocked) {
      sink.cutIfFarBehind(answer.text.length + answer.reasoning.length - this.#sent - this.#reasoningSent)
      return
    }
    if (answer.reasoning.length > this.#reasoningSent) this.#sendReasoning()
    if (answer.text.length > this.#sent) this.#sendText(fresh)
    if (answer.refusal.length > this.#refusalSent) this.#sendRefusal()
    if (answer.annotations.length > this.#annotationsSent) this.#sendAnnotations()
    if (answer.toolCalls.length > 0) this.#sendToolCalls()
  }

  waits(waiting: Waiting): void {
    if (!this.#parts.sink.blocked) this.#parts.sink.write(waitingComment(waiting))
  }

  prefilled(prefill: Prefill): void {
    if (!this.#parts.sink.blocked) this.#parts.sink.write(prefillComment(prefill))
  }

  /** Only a second caller of a job that was not streamed at first can have read what is void now. */
  discarded(): void {
    if (this.#over || this.#sent + this.#reasoningSent + this.#refusalSent + this.#argumentsSent.length === 0) return
    this.leave()
    this.#parts.onFailed(interrupted(this.live.record.id))
  }

  stopped(): void {
    this.leave()
    this.#parts.onFailed(stopping(this.live.record.id))
  }

  ended(): void {
    if (this.#over) return
    // What a full socket held back goes first; Node keeps the order.
    this.#parts.sink.blocked = false
    this.grown()
    this.leave()
    const { record } = this.live
    if (record.status !== 'succeeded') {
      this.#parts.onFailed(faultOf(record))
      return
    }
    this.#parts.onEnded(this.#render({}, record.finishReason))
  }

  leave(): void {
    this.#over = true
    this.live.unfollow(this)
  }

  /** `fresh` is the end of the text: nearly always all that is not sent yet. */
  #sendText(fresh: string): void {
    const { text, logprobs } = this.live.answer
    const part = this.#sent === text.length - fresh.length ? fresh : text.slice(this.#sent)
    this.#sent = text.length
    if (logprobs.length > this.#logprobsSent) this.#event({ content: part })
    else this.#parts.sink.write(this.#before + JSON.stringify(part) + this.#after)
  }

  #sendReasoning(): void {
    const { reasoning, text, logprobs } = this.live.answer
    const part = reasoning.slice(this.#reasoningSent)
    this.#reasoningSent = reasoning.length
    // Where something was said since, they are of that.
    const fresh = text.length > this.#sent ? 0 : logprobs.length - this.#logprobsSent
    // The older endpoint has no place for it.
    if (this.#parts.options.chat) this.#parts.sink.write(this.#render({ reasoning_content: part }, null, fresh))
  }

  #sendRefusal(): void {
    const { refusal } = this.live.answer
    const part = refusal.slice(this.#refusalSent)
    this.#refusalSent = refusal.length
    if (this.#parts.options.chat) this.#event({ refusal: part })
  }

  #sendAnnotations(): void {
    const annotations = this.live.answer.annotations.slice(this.#annotationsSent)
    this.#annotationsSent += annotations.length
    if (this.#parts.options.chat) this.#event({ annotations })
  }

  #sendToolCalls(): void {
    for (const [index, call] of this.live.answer.toolCalls.entries()) {
      let sent = this.#argumentsSent[index]
      if (sent === undefined) {
        this.#event({ tool_calls: [{ index, ...toolCallView({ ...call, arguments: '' }) }] })
        sent = 0
      }
      if (call.arguments.length > sent) {
        const part = call.arguments.slice(sent)
        this.#event({
          tool_calls: [{ index, ...(call.custom === true ? { custom: { input: part } } : { function: { arguments: part } }) }],
        })
      }
      this.#argumentsSent[index] = call.arguments.length
    }
  }

  #event(delta: Record<string, unknown>): void {
    this.#parts.sink.write(this.#render(delta, null))
  }

  /** Log probabilities go with whatever comes next after them: all that were not sent, or so many. */
  #render(delta: Record<string, unknown>, finishReason: string | null, most = Number.POSITIVE_INFINITY): string {
    const { frame, options } = this.#parts
    const fresh = this.live.answer.logprobs.slice(this.#logprobsSent, this.#logprobsSent + most)
    this.#logprobsSent += fresh.length
    const said = options.chat
      ? { delta, logprobs: logprobsView(fresh) }
      : { text: delta.content ?? '', logprobs: completionLogprobsView(fresh, this.#logprobsChars) }
    if (!options.chat) for (const { token } of fresh) this.#logprobsChars += token.length
    const choices = [{ index: this.#index, ...said, finish_reason: finishReason }]
    return `data: ${JSON.stringify({ ...frame, choices, ...(options.includeUsage ? { usage: null } : {}) })}\n\n`
  }
}

function frameOf({ record }: LiveJob, chat: boolean): Record<string, unknown> {
  return {
    id: `${chat ? 'chatcmpl' : 'cmpl'}-${record.id}`,
    object: chat ? 'chat.completion.chunk' : 'text_completion',
    created: Math.floor(record.createdMs / 1000),
    model: answeringModel(record),
  }
}
