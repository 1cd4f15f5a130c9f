import type { ServerResponse } from 'node:http'
import { badRequest, Fault } from '../core/fault.ts'
import type { Waiting } from '../core/job.ts'
import type { Dispatcher } from '../engine/dispatcher.ts'
import type { Follower, LiveJob, Prefill } from '../engine/live-job.ts'
import { TextMark } from '../text-mark.ts'
import { usageView, waitingView } from './job-view.ts'
import { nativeError } from './server.ts'
import { isSettled, prefillComment, SseSink, waitingComment } from './sse.ts'
import { faultOf } from './submit.ts'

/**
 * A job's own stream, which can be left and taken up again: events `token`, `state`, `finished`, and `error` where the text
 * cannot go on. An event's id says how many characters were sent and marks which ones, so that after a restart this text is
 * never joined to another: the reader gets exactly what follows what it has, or is told that this is not there any more.
 */
export class JobStream implements Follower {
  readonly #dispatcher: Dispatcher
  readonly #live: LiveJob
  readonly #sink: SseSink
  readonly #after: Place | null
  /** Whether its reader's key is in force still, and opens this job. */
  readonly #mayRead: () => boolean
  readonly #mark = new TextMark()
  #sent = 0
  /** False until the text has grown to the place where the reader left. */
  #joined = false
  #over = false

  constructor(dispatcher: Dispatcher, live: LiveJob, response: ServerResponse, after: Place | null, mayRead: () => boolean) {
    this.#dispatcher = dispatcher
    this.#live = live
    this.#after = after
    this.#mayRead = mayRead
    this.#sink = new SseSink(response, { onRoom: () => this.grown(), onClosed: () => live.unfollow(this) })
  }

  open(headers: Record<string, string>): void {
    this.#sink.open(headers)
    this.#live.follow(this)
    this.#state()
    this.grown()
    if (isSettled(this.#live.record.status)) this.ended()
    else this.#dispatcher.announceWaiting(this.#live)
  }

  grown(): void {
    if (this.#over || !this.#mayGoOn()) return
    const { text } = this.#live
    if (this.#sink.blocked) {
      this.#sink.cutIfFarBehind(text.length - this.#sent)
      return
    }
    if (!this.#joined && !this.#join()) return
    if (text.length === this.#sent) return
    const part = text.slice(this.#sent)
    const position = this.#sent
    this.#sent = text.length
    this.#mark.add(part)
    this.#event('token', { text: part, position })
  }

  changed(): void {
    if (this.#over || !this.#mayGoOn()) return
    this.#state()
  }

  waits(waiting: Waiting): void {
    if (!this.#over && this.#mayGoOn() && !this.#sink.blocked) this.#sink.write(waitingComment(waiting))
  }

  prefilled(prefill: Prefill): void {
    if (!this.#sink.blocked) this.#sink.write(prefillComment(prefill))
  }

  discarded(): void {
    if (this.#sent > 0) this.#diverged()
  }

  /** A reader comes back by itself, with the id of the last event it has. */
  stopped(): void {
    this.#live.unfollow(this)
    this.#sink.end('')
  }

  ended(): void {
    this.#sink.blocked = false
    this.grown()
    if (!this.#over && !this.#joined) this.#diverged()
    if (this.#over) return
    this.#over = true
    this.#live.unfollow(this)
    const { record } = this.#live
    const error = record.status === 'succeeded' ? null : nativeError(faultOf(record)).error
    // Whoever came back late has missed nothing of what is no text.
    const { reasoning, refusal, tool_calls } = this.#live.answer.toJSON()
    const beside = { reasoning, refusal, tool_calls }
    this.#event('finished', { status: record.status, finish_reason: record.finishReason, usage: usageView(record), error, ...beside })
    this.#sink.end('')
  }

  /** False while the text is shorter than what the reader has: a worker that went on alone is about to hand over the rest. */
  #join(): boolean {
    const { text } = this.#live
    const { characters, mark } = this.#after ?? { characters: 0, mark: this.#mark.value }
    if (text.length < characters) return false
    this.#mark.add(text.slice(0, characters))
    this.#sent = characters
    this.#joined = true
    if (this.#mark.value === mark) return true
    this.#joined = false
    this.#diverged()
    return false
  }

  #mayGoOn(): boolean {
    if (this.#mayRead()) return true
    this.#break(new Fault('invalid_key', 'The key was revoked or has expired, or may not see this job any more.', { status: 401 }))
    return false
  }

  #diverged(): void {
    const fault = new Fault(
      'stream_diverged',
      'What you have read is no part of this answer: it was lost with the processes that knew it and made anew from an earlier place, or the Last-Event-ID is of another one. Read it again from the beginning.',
      { status: 409, layer: 'provider', retryable: true, job: this.#live.record.id },
    )
    this.#break(fault)
  }

  #break(fault: Fault): void {
    this.#over = true
    this.#live.unfollow(this)
    this.#sink.end(`event: error\ndata: ${JSON.stringify(nativeError(fault))}\n\n`)
  }

  #state(): void {
    if (this.#sink.blocked) return
    const { record } = this.#live
    const waiting = this.#dispatcher.waiting(record.id)
    const view = waiting === undefined ? null : waitingView(waiting)
    const worker = record.tier === 'cloud' ? null : record.workerName
    this.#event('state', { status: record.status, attempt: record.attempt, worker, provider: record.workerName, waiting: view })
  }

  #event(name: string, data: Record<string, unknown>): void {
    // Before the reader is joined its own place is still the right one to come back to.
    const place = this.#joined || this.#after === null ? { characters: this.#sent, mark: this.#mark.value } : this.#after
    this.#sink.write(`id: ${place.characters}-${place.mark}\nevent: ${name}\ndata: ${JSON.stringify(data)}\n\n`)
  }
}

/** How far a reader has read, and a mark of what. */
export type Place = { characters: number; mark: string }

export function readPlace(lastEventId: string | undefined): Place | null {
  if (lastEventId === undefined || lastEventId === '') return null
  const [, characters, mark] = /^(\d{1,9})-([0-9a-z]{1,7})$/.exec(lastEventId) ?? []
  if (characters === undefined || mark === undefined)
    throw badRequest('invalid_last_event_id', 'Last-Event-ID must be the id of an event of this stream.', 'last-event-id')
  return { characters: Number(characters), mark }
}
