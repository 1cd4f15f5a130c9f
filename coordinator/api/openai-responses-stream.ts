import type { ServerResponse } from 'node:http'
import type { Answer } from '../../proto/answer.ts'
import type { ToolCall } from '../../proto/request.ts'
import type { Fault } from '../core/fault.ts'
import type { Waiting } from '../core/job.ts'
import type { Dispatcher } from '../engine/dispatcher.ts'
import type { Follower, LiveJob, Prefill } from '../engine/live-job.ts'
import type { Body } from './body.ts'
import { isWhole } from './calls.ts'
import {
  callItem,
  isProof,
  isSilent,
  messageItem,
  outputItems,
  reasoningItem,
  reasoningPart,
  refusalPart,
  type ResponseRequest,
  responseView,
  textPart,
  turnsOf,
  type Words,
  wordsOf,
} from './openai-responses-view.ts'
import type { RecentCuts } from './openai-responses-cuts.ts'
import { isSettled, prefillComment, SseSink, waitingComment } from './sse.ts'
import { interrupted, stopping } from './submit.ts'

/**
 * One caller's stream of one response, as numbered events:
 *
 *   created ─ in_progress ─┬─ item added ─ part added ─ deltas ─ done ─ part done ─ item done ─┬─ completed, incomplete, failed
 *                          └──── for reasoning and message, then each call; mostly once ───────┘
 *
 * A message in which the model refuses has a part for that, behind the one of its text if there is any.
 * An item is done when the next one begins or the answer ends, and what comes behind calls is an item of its own. What comes while a call is not whole waits until it is. Who came back behind an event is given only what follows it.
 */
export class ResponseStream implements Follower {
  readonly #dispatcher: Dispatcher
  readonly #live: LiveJob
  readonly #request: ResponseRequest
  readonly #sink: SseSink
  readonly #cuts: RecentCuts
  readonly #after: number
  #number = 0
  #isBegun = false
  #open: OpenItem | undefined
  /** Which turn of the answer is being told. */
  #turn = 0
  /** Characters of text, reasoning and refusal. */
  #told = 0
  readonly #items = new Map<string, OpenItem>()
  #itemsAdded = 0
  #callsBegun = 0
  #logprobsSent = 0

  constructor(
    dispatcher: Dispatcher,
    live: LiveJob,
    request: ResponseRequest,
    response: ServerResponse,
    { cuts, after = -1 }: { cuts: RecentCuts; after?: number },
  ) {
    this.#cuts = cuts
    this.#after = after
    this.#dispatcher = dispatcher
    this.#live = live
    this.#request = request
    this.#sink = new SseSink(response, { onRoom: () => this.grown(), onClosed: () => live.unfollow(this) })
  }

  open(headers: Record<string, string>): void {
    this.#sink.open(headers)
    this.#live.follow(this)
    // What nobody waits for is queued, and says when it begins; to who waits it has begun.
    const { background } = this.#request.response
    const response = this.#begun(background ? 'queued' : 'in_progress')
    this.#event('response.created', { response })
    if (background) this.#event('response.queued', { response })
    else this.#begin()
    this.changed()
    this.grown()
    if (isSettled(this.#live.record.status)) this.ended()
    else this.#dispatcher.announceWaiting(this.#live)
  }

  /** Whatever it has come to by now: a second reader is told the same as the first. */
  #begun(status: 'queued' | 'in_progress'): Body {
    const before = { output: [], usage: null, error: null, incomplete_details: null, completed_at: null }
    return { ...responseView(this.#live, this.#request), ...before, status }
  }

  changed(): void {
    if (this.#live.record.startedMs !== null) this.#begin()
  }

  #begin(): void {
    if (this.#isBegun) return
    this.#isBegun = true
    this.#event('response.in_progress', { response: this.#begun('in_progress') })
  }

  grown(): void {
    const { answer } = this.#live
    if (this.#sink.blocked) {
      this.#sink.cutIfFarBehind(spoken(answer) - this.#told)
      return
    }
    for (const [index, turn] of turnsOf(answer).entries()) {
      if (index < this.#turn) continue
      if (!this.#mayGoOn()) return
      this.#turn = index
      for (const words of turn.words) this.#speak(words)
      while (this.#callsBegun < turn.calls && this.#mayGoOn()) this.#growCall(this.#callsBegun++)
      if (this.#callsBegun < turn.calls) return
    }
  }

  #speak(words: Words): void {
    const { record, answer } = this.#live
    const { index } = words
    const { reasoning, text, refusal } = wordsOf(answer, words)
    if (reasoning !== '' || isProof(words, this.#request))
      this.#grow('reasoning', index, reasoning, () => reasoningItem(record, index, '', ''))
    if (text !== '') this.#grow('message', index, text, () => messageItem(record, index, [], 'in_progress'))
    if (refusal !== '') this.#grow('refusal', index, refusal, () => messageItem(record, index, [], 'in_progress'))
  }

  /** False while the open call is not whole, of which all that there is has been told. */
  #mayGoOn(): boolean {
    const { record, answer } = this.#live
    const index = this.#callsBegun - 1
    const call = answer.toolCalls[index]
    if (call === undefined || this.#open?.kind !== 'call' || this.#open.index !== index) return true
    this.#growCall(index)
    return isSettled(record.status) || !this.#hasMore() || isWhole(call)
  }

  /** Something else than the calls that were begun has grown. */
  #hasMore(): boolean {
    const { answer } = this.#live
    return answer.toolCalls.length > this.#callsBegun || spoken(answer) > this.#told
  }

  #growCall(index: number): void {
    const { record, answer } = this.#live
    const call = answer.toolCalls[index] as ToolCall
    this.#grow('call', index, call.arguments, () => callItem(record, index, { ...call, arguments: '' }, 'in_progress'))
  }

  waits(waiting: Waiting): void {
    if (!this.#sink.blocked) this.#sink.write(waitingComment(waiting))
  }

  prefilled(prefill: Prefill): void {
    if (!this.#sink.blocked) this.#sink.write(prefillComment(prefill))
  }

  /** Only a second reader of a response that was not streamed at first can have read what is void now. */
  discarded(): void {
    this.#cuts.forget(this.#live.record.id)
    if (this.#items.size === 0) return
    this.#fail(interrupted(this.#live.record.id))
  }

  /** Who comes back behind the last event finds the rest. */
  stopped(): void {
    this.#fail(stopping(this.#live.record.id))
  }

  #fail({ code, message }: Fault): void {
    this.#live.unfollow(this)
    const response = { ...responseView(this.#live, this.#request), status: 'failed', output: [], error: { code, message } }
    this.#sink.end(this.#render('response.failed', { response }))
  }

  ended(): void {
    // What a full socket held back goes first; Node keeps the order.
    this.#sink.blocked = false
    this.grown()
    this.#live.unfollow(this)
    const { record, answer } = this.#live
    if (isSilent(record, answer)) this.#grow('message', 0, '', () => messageItem(record, 0, [], 'in_progress'))
    this.#close()
    const response = responseView(this.#live, this.#request)
    const ending = response.status === 'completed' || response.status === 'incomplete' ? response.status : 'failed'
    const last = this.#render(`response.${ending}`, { response })
    this.#sink.end(this.#after < this.#number ? last : this.#beyond())
  }

  /** What its reader has cannot be of this response. */
  #beyond(): string {
    const message = `starting_after is ${this.#after}, and the last event of this response is number ${this.#number - 1}.`
    const error = { type: 'error', code: 'out_of_range', message, param: 'starting_after', sequence_number: this.#number }
    return `event: error\ndata: ${JSON.stringify(error)}\n\n`
  }

  #grow(kind: OpenItem['kind'], index: number, whole: string, begun: () => Body): void {
    const key = `${kind} ${index}`
    const item = this.#items.get(key) ?? this.#add(kind, index, begun)
    // What is thought may be told by its proof alone.
    if (whole !== '' || kind === 'message') this.#openPart(item)
    const cuts = this.#cuts.of(this.#live.record.id)
    while (item.sent < whole.length) {
      const end = cuts.end(key, item.deltas, whole.length)
      const part = whole.slice(item.sent, end)
      item.sent = end
      item.deltas += 1
      if (kind !== 'call') this.#told += part.length
      if (kind !== 'message') this.#event(item.deltaEvent, { ...item.place, delta: part })
      else {
        const number = this.#number++
        const logprobs = this.#freshLogprobs(`${key} logprobs`, item.deltas - 1)
        if (number > this.#after) this.#sink.write(`${item.before}${number},"delta":${JSON.stringify(part)},"logprobs":${logprobs}}\n\n`)
      }
    }
  }

  /** Those that came with this delta for whoever read it first. */
  #freshLogprobs(key: string, delta: number): string {
    if (this.#request.logprobs === undefined) return '[]'
    const { record, answer } = this.#live
    const end = this.#cuts.of(record.id).end(key, delta, answer.logprobs.length)
    const fresh = answer.logprobs.slice(this.#logprobsSent, end)
    this.#logprobsSent = end
    return JSON.stringify(fresh)
  }

  #add(kind: OpenItem['kind'], index: number, begun: () => Body): OpenItem {
    // A message that has said something refuses in its next part.
    const before = kind === 'refusal' && this.#open?.kind === 'message' && this.#open.index === index ? this.#open : undefined
    const place = before === undefined ? this.#addItem(begun(), kind in EMPTY_PARTS) : this.#nextPart(before)
    const deltaEvent = DELTAS[kind] ?? 'response.function_call_arguments.delta'
    const beforeNumber = `event: ${deltaEvent}\ndata: ${JSON.stringify({ type: deltaEvent, ...place }).slice(0, -1)},"sequence_number":`
    const item: OpenItem = { kind, index, place, deltaEvent, before: beforeNumber, hasPart: false, sent: 0, deltas: 0 }
    this.#items.set(`${kind} ${index}`, item)
    this.#open = item
    return item
  }

  #addItem(item: Body, hasParts: boolean): Place {
    this.#close()
    const output_index = this.#itemsAdded++
    this.#event('response.output_item.added', { output_index, item })
    return { item_id: item.id, output_index, ...(hasParts ? { content_index: 0 } : {}) }
  }

  #nextPart(before: OpenItem): Place {
    this.#closePart(before)
    return { ...before.place, content_index: 1 }
  }

  #openPart(item: OpenItem): void {
    const part = EMPTY_PARTS[item.kind]?.()
    if (part === undefined || item.hasPart) return
    item.hasPart = true
    this.#event('response.content_part.added', { ...item.place, part })
  }

  /** Whatever is open has said all it had to say. */
  #close(): void {
    const item = this.#open
    if (item === undefined) return
    this.#open = undefined
    this.#closePart(item)
    const { place } = item
    const done = outputItems(this.#live, this.#request).find((made) => made.id === place.item_id)
    // While the answer still grows, what is closed is complete.
    const status = isSettled(this.#live.record.status) ? {} : { status: 'completed' }
    this.#event('response.output_item.done', {
      output_index: place.output_index,
      item: { ...done, ...(done !== undefined && 'status' in done ? status : {}) },
    })
  }

  #closePart({ kind, index, place, hasPart }: OpenItem): void {
    const { answer } = this.#live
    if (kind === 'call') {
      const call = answer.toolCalls[index]
      this.#event('response.function_call_arguments.done', { ...place, name: call?.name, arguments: call?.arguments })
      return
    }
    if (!hasPart) return
    const said = turnsOf(answer).flatMap(({ words }) => words)[index] as Words
    const { reasoning, text, refusal } = wordsOf(answer, said)
    if (kind === 'reasoning') {
      this.#event('response.reasoning_text.done', { ...place, text: reasoning })
      this.#event('response.content_part.done', { ...place, part: reasoningPart(reasoning) })
    } else if (kind === 'refusal') {
      this.#event('response.refusal.done', { ...place, refusal })
      this.#event('response.content_part.done', { ...place, part: refusalPart(refusal) })
    } else {
      const logprobs = answer.logprobs.slice(...said.logprobs)
      this.#event('response.output_text.done', { ...place, text, logprobs })
      this.#event('response.content_part.done', { ...place, part: textPart(text, logprobs) })
    }
  }

  #event(type: string, members: Body): void {
    const text = this.#render(type, members)
    if (text !== '') this.#sink.write(text)
  }

  /** Nothing where the reader has it. */
  #render(type: string, members: Body): string {
    const sequence_number = this.#number++
    if (sequence_number <= this.#after) return ''
    return `event: ${type}\ndata: ${JSON.stringify({ type, sequence_number, ...members })}\n\n`
  }
}

type Place = { item_id: unknown; output_index: number; content_index?: number }

/** An item, or the part of a message that refuses. */
type OpenItem = {
  kind: 'reasoning' | 'message' | 'refusal' | 'call'
  /** Of its words, or of the call. */
  index: number
  place: Place
  deltaEvent: string
  /** All of a delta's event before its number. */
  before: string
  /** Its content was begun: a call has none. */
  hasPart: boolean
  /** Characters of it, in so many deltas. */
  sent: number
  deltas: number
}

function spoken({ text, reasoning, refusal }: Answer): number {
  return text.length + reasoning.length + refusal.length
}

const DELTAS: Record<string, string> = {
  reasoning: 'response.reasoning_text.delta',
  message: 'response.output_text.delta',
  refusal: 'response.refusal.delta',
}

const EMPTY_PARTS: Record<string, () => Body> = {
  reasoning: () => reasoningPart(''),
  message: () => textPart('', []),
  refusal: () => refusalPart(''),
}
