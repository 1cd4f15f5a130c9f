import type { ServerResponse } from 'node:http'
import type { Aside, Stretch } from '../../proto/answer.ts'
import { type ThinkingBlock, thoughtsOf } from '../../proto/thinking.ts'
import type { ToolCall } from '../../proto/request.ts'
import type { Fault } from '../core/fault.ts'
import type { Waiting } from '../core/job.ts'
import type { Dispatcher } from '../engine/dispatcher.ts'
import type { Follower, LiveJob, Prefill } from '../engine/live-job.ts'
import { anthropicError, DIRECT, endOf, messageHead, stopOf, usageOf } from './anthropic-answer.ts'
import { isWhole } from './calls.ts'
import { isSettled, prefillComment, SseSink, waitingComment } from './sse.ts'
import { faultOf, interrupted, stopping } from './submit.ts'

/**
 * One caller's stream of one job as the dialect's events:
 *
 *   message_start ─▶ ping ─▶ (content_block_start ─▶ content_block_delta … ─▶ content_block_stop) … ─▶ message_delta ─▶ message_stop
 *
 * Blocks follow one another: thinking and text in turn, a refusal, which is text as well, and one for each call. A block is begun by its first content and ended by the
 * next block's. What comes while a call is not whole waits until it is, or until the answer ends. Cutting off a reader that does not read cancels its job, unless that was detached.
 */
export class AnthropicStream implements Follower {
  readonly #dispatcher: Dispatcher
  readonly #live: LiveJob
  readonly #sink: SseSink
  readonly #options: StreamOptions
  #isBegun = false
  #open: string | null = null
  #blocks = 0
  #textSent = 0
  #refusalSent = 0
  #reasoningSent = 0
  #signatureSent = 0
  /** Which stretch of the answer is being told, which of its blocks of thinking, and how much of that has been. */
  #stretch = 0
  #thought = 0
  #thoughtSent = 0
  /** Its signature is told when it can no longer grow. */
  #signatureDue = false
  #asidesTold = 0
  #callsBegun = 0
  /** Of the arguments of the last of them. */
  #argumentsSent = 0
  /** Everything before a text, once for each block: the text is the hot path. */
  #beforeText = ''

  constructor(dispatcher: Dispatcher, live: LiveJob, response: ServerResponse, options: StreamOptions) {
    this.#dispatcher = dispatcher
    this.#live = live
    this.#options = options
    this.#sink = new SseSink(response, { onRoom: () => this.grown(), onClosed: () => live.unfollow(this) })
  }

  open(): void {
    this.#sink.open(this.#options.headers)
    this.#live.follow(this)
    this.grown()
    // It begins with how long its prompt is, which only who runs it knows.
    if (!this.#isBegun && this.#live.record.promptTokens !== null) this.#tell('')
    if (!this.#isBegun) this.#sink.flush()
    if (isSettled(this.#live.record.status)) this.ended()
    else this.#dispatcher.announceWaiting(this.#live)
  }

  grown(): void {
    const { answer } = this.#live
    if (this.#sink.blocked) {
      this.#sink.cutIfFarBehind(answer.text.length + answer.reasoning.length - this.#textSent - this.#reasoningSent)
      return
    }
    this.#write(false)
  }

  waits(waiting: Waiting): void {
    if (!this.#sink.blocked) this.#sink.write(waitingComment(waiting) + this.#ping())
  }

  prefilled(prefill: Prefill): void {
    if (!this.#sink.blocked) this.#sink.write(prefillComment(prefill) + this.#ping())
  }

  /** Only a second reader of a message that was not streamed at first can have read what is void now. */
  discarded(): void {
    if (this.#textSent + this.#refusalSent + this.#reasoningSent + this.#callsBegun === 0) return
    this.#fail(interrupted(this.#live.record.id))
  }

  stopped(): void {
    this.#fail(stopping(this.#live.record.id))
  }

  #fail(fault: Fault): void {
    this.#live.unfollow(this)
    this.#sink.end(event('error', anthropicError(fault, this.#options.requestId)))
  }

  ended(): void {
    // What a full socket held back goes first; Node keeps the order.
    this.#sink.blocked = false
    this.#write(true)
    this.#live.unfollow(this)
    const { record } = this.#live
    if (record.status !== 'succeeded') {
      this.#sink.end(event('error', anthropicError(faultOf(record), this.#options.requestId)))
      return
    }
    const { context_management: edits, ...members } = endOf(this.#live)?.message ?? {}
    const delta = { ...stopOf(this.#live), container: null, ...members }
    const last = { delta, ...(edits === undefined ? {} : { context_management: edits }), usage: usageOf(this.#live) }
    this.#sink.end(this.#beginning() + this.#close() + event('message_delta', last) + event('message_stop', {}))
  }

  #tell(events: string): void {
    this.#sink.write(this.#beginning() + events)
  }

  /** Before the first of them. */
  #beginning(): string {
    if (this.#isBegun) return ''
    this.#isBegun = true
    return event('message_start', { message: { ...messageHead(this.#live), usage: usageOf(this.#live) } }) + event('ping', {})
  }

  /** Nothing stands before the beginning but comments. */
  #ping(): string {
    return this.#isBegun ? event('ping', {}) : ''
  }

  #write(isEnd: boolean): void {
    const { text, refusal, reasoning, reasoningSignature, toolCalls, asides } = this.#live.answer
    let events = this.#growCall()
    // Nothing more is thought before what is said now.
    const isThought = (): boolean =>
      isEnd || text.length > this.#textSent || refusal.length > this.#refusalSent || toolCalls.length > this.#callsBegun
    const isThinking = reasoning.length > this.#reasoningSent || reasoningSignature.length > this.#signatureSent
    if ((isThought() || isThinking || asides.length > this.#asidesTold) && this.#mayGoOn(isEnd)) {
      while (this.#asidesTold < asides.length) events += this.#aside(asides[this.#asidesTold++] as Aside, text)
      if (isThinking || this.#signatureDue) events += this.#thinking(isThought())
      if (text.length > this.#textSent) events += this.#text(text, text.length)
      if (refusal.length > this.#refusalSent) events += this.#refuse(refusal)
      while (this.#callsBegun < toolCalls.length && this.#mayGoOn(isEnd)) events += this.#beginCall()
    }
    if (events !== '') this.#tell(events)
  }

  /** False while the open call is not whole. */
  #mayGoOn(isEnd: boolean): boolean {
    const call = this.#live.answer.toolCalls[this.#callsBegun - 1]
    return isEnd || call === undefined || this.#open !== 'call' || isWhole(call)
  }

  /** After the thinking and the text that came before it. */
  #aside(aside: Aside, text: string): string {
    const thought = this.#thinking(true)
    const before = aside.at > this.#textSent ? thought + this.#text(text, aside.at) : thought
    switch (aside.kind) {
      case 'thought':
        this.#stretch += 1
        this.#thought = 0
        this.#thoughtSent = 0
        return before
      case 'text-block':
        return before + (this.#open === 'text' ? this.#close() : '')
      case 'citations':
        return (
          before +
          this.#beginText() +
          aside.citations.map((citation) => this.#delta({ type: 'citations_delta', citation })).join('') +
          this.#close()
        )
      case 'block':
        return before + this.#begin('aside', () => aside.block) + this.#close()
      default:
        return before
    }
  }

  #text(text: string, to: number): string {
    const begun = this.#beginText()
    const part = text.slice(this.#textSent, to)
    this.#textSent = to
    return `${begun}${this.#beforeText}${JSON.stringify(part)}}}\n\n`
  }

  #beginText(): string {
    if (this.#open === 'text') return ''
    const begun = this.#begin('text', () => ({ type: 'text', text: '', citations: null }))
    this.#beforeText = `event: content_block_delta\ndata: {"type":"content_block_delta","index":${this.#blocks - 1},"delta":{"type":"text_delta","text":`
    return begun
  }

  #refuse(refusal: string): string {
    const begun = this.#begin('refusal', () => ({ type: 'text', text: '', citations: null }))
    const part = refusal.slice(this.#refusalSent)
    this.#refusalSent = refusal.length
    return begun + this.#delta({ type: 'text_delta', text: part })
  }

  /** Of this stretch. All blocks of thinking but the last have come to their end, and so has the last if something else follows. */
  #thinking(isThought: boolean): string {
    const { answer } = this.#live
    const stretch = answer.stretches()[this.#stretch] as Stretch
    this.#reasoningSent = stretch.to.reasoning
    this.#signatureSent = stretch.to.signature
    this.#signatureDue = false
    const blocks = thoughtsOf(answer, stretch)
    let events = ''
    while (this.#thought < blocks.length) {
      const block = blocks[this.#thought] as ThinkingBlock
      const isWhole = isThought || this.#thought < blocks.length - 1
      events += block.kind === 'redacted' ? this.#redacted(block.data) : this.#thoughtOf(block, isWhole)
      if (block.kind === 'thinking' && this.#thought === blocks.length - 1 && (!isWhole || block.signature === '')) {
        this.#signatureDue = block.signature !== ''
        break
      }
      this.#thought += 1
      this.#thoughtSent = 0
    }
    return events
  }

  #thoughtOf(block: { thinking: string; signature: string }, isWhole: boolean): string {
    const thinking = block.thinking.slice(this.#thoughtSent)
    const isSigned = isWhole && block.signature !== ''
    if (thinking === '' && !isSigned) return ''
    this.#thoughtSent = block.thinking.length
    let events = this.#begin('thinking', () => ({ type: 'thinking', thinking: '', signature: '' }))
    if (thinking !== '') events += this.#delta({ type: 'thinking_delta', thinking })
    if (isSigned) events += this.#delta({ type: 'signature_delta', signature: block.signature })
    return isWhole ? events + this.#close() : events
  }

  #redacted(data: string): string {
    return this.#begin('redacted', () => ({ type: 'redacted_thinking', data })) + this.#close()
  }

  #beginCall(): string {
    const { id, name } = this.#live.answer.toolCalls[this.#callsBegun++] as ToolCall
    this.#argumentsSent = 0
    const closed = this.#close()
    return closed + this.#begin('call', () => ({ type: 'tool_use', id, name, input: {}, caller: DIRECT })) + this.#growCall()
  }

  /** What the open call has grown by. */
  #growCall(): string {
    if (this.#open !== 'call') return ''
    const { arguments: written } = this.#live.answer.toolCalls[this.#callsBegun - 1] as ToolCall
    const grown = written.slice(this.#argumentsSent)
    this.#argumentsSent = written.length
    return grown === '' ? '' : this.#delta({ type: 'input_json_delta', partial_json: grown })
  }

  /** '' when the block is the one that is open. */
  #begin(name: string, content: () => Record<string, unknown>): string {
    if (this.#open === name) return ''
    const closed = this.#close()
    this.#open = name
    const index = this.#blocks
    this.#blocks += 1
    return closed + event('content_block_start', { index, content_block: content() })
  }

  #delta(delta: Record<string, unknown>): string {
    return event('content_block_delta', { index: this.#blocks - 1, delta })
  }

  #close(): string {
    if (this.#open === null) return ''
    this.#open = null
    return event('content_block_stop', { index: this.#blocks - 1 })
  }
}

type StreamOptions = { headers: Record<string, string>; requestId: string }

function event(type: string, members: Record<string, unknown>): string {
  return `event: ${type}\ndata: ${JSON.stringify({ type, ...members })}\n\n`
}
