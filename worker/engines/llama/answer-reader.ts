import { createHash } from 'node:crypto'
import type { AnswerDelta } from '../../../proto/answer.ts'
import { heldBackLength, StopMatcher } from '../text.ts'
import { type CallForm, ToolCallParser } from './tool-calls.ts'

export type ReaderOptions = {
  stops: readonly string[]
  /** Absent: there are no calls to look for. `must`: the answer can be nothing but calls. */
  calls?: { form: CallForm; idOf: (index: number) => string; names: ReadonlySet<string>; must: boolean }
  /** Absent: all is answer. `begun`: the prompt ends inside of the reasoning. */
  reasoning?: { open: string; close: string; begun: boolean }
}

export type Released = { text: string; delta?: AnswerDelta }

/**
 * Takes an answer apart while it is generated:
 *
 *   bytes ──decoder──▶ characters ──▶ reasoning
 *                                 └─▶ calls
 *                                 └─▶ text ──held back while it could begin a stop string──▶ text
 *
 * Stop strings are looked for in the text alone: one that happens to stand in a thought or in the arguments of a call was
 * not said to the caller. What is released depends only on the bytes, so a continuation that is fed the same tokens holds
 * back what was held back then.
 */
export class AnswerReader {
  readonly #decoder = new TextDecoder('utf-8', { ignoreBOM: true })
  readonly #stops: StopMatcher
  readonly #calls: ToolCallParser | undefined
  readonly #mustCall: boolean
  readonly #reasoning: ReasoningSplitter | undefined
  #text = ''
  readonly #called: { name: string; arguments: string }[] = []

  constructor(options: ReaderOptions) {
    this.#stops = new StopMatcher(options.stops)
    const { calls } = options
    this.#mustCall = calls?.must === true
    if (calls !== undefined) this.#calls = new ToolCallParser(calls.form, calls.idOf, calls.names, calls.must)
    if (options.reasoning !== undefined) this.#reasoning = new ReasoningSplitter(options.reasoning)
  }

  /** The stop string that ended the text. */
  get stopped(): string | undefined {
    return this.#stops.matched
  }

  /** Whether what comes next is thought. */
  get reasons(): boolean {
    return this.#reasoning?.inside === true
  }

  /** A call was begun and its end has not come, or there can be nothing beside calls. */
  get inCall(): boolean {
    return this.#calls !== undefined && (this.#mustCall || this.#calls.begun > this.#calls.ended)
  }

  get callsBegun(): number {
    return this.#calls?.begun ?? 0
  }

  get callsEnded(): number {
    return this.#calls?.ended ?? 0
  }

  /** All calls so far. */
  get called(): readonly { name: string; arguments: string }[] {
    return this.#called
  }

  /** All text so far. */
  get text(): string {
    return this.#text
  }

  /** Not armed: stop strings do not end the answer yet. */
  feed(bytes: Uint8Array, armed: boolean): Released {
    return this.#release(this.#split(this.#decoder.decode(bytes, { stream: true })), armed)
  }

  /** No more bytes will come: releases everything that was held back. */
  end(): Released {
    if (this.stopped !== undefined) return { text: '' }
    const last = this.#split(this.#decoder.decode())
    const thought = this.#reasoning?.end()
    const answered = this.#parse(thought?.answer ?? '')
    const unread = this.#calls?.end()
    const parts: Split = {
      reasoning: last.reasoning + (thought?.reasoning ?? ''),
      text: last.text + answered.text + (unread?.text ?? ''),
      calls: [...last.calls, ...answered.calls, ...(unread?.calls ?? [])],
    }
    const released = this.#release(parts, true)
    const rest = this.stopped === undefined ? this.#stops.end() : ''
    this.#text += rest
    return { ...released, text: released.text + rest }
  }

  #split(characters: string): Split {
    if (this.#reasoning === undefined) return { reasoning: '', ...this.#parse(characters) }
    const { reasoning, answer } = this.#reasoning.feed(characters)
    return { reasoning, ...this.#parse(answer) }
  }

  #parse(characters: string): Omit<Split, 'reasoning'> {
    if (this.#calls === undefined || characters === '') return { text: characters, calls: [] }
    return this.#calls.feed(characters)
  }

  #release({ reasoning, text, calls }: Split, armed: boolean): Released {
    const released = this.#stops.feed(text, armed)
    this.#text += released
    for (const { index, name, arguments: grown = '' } of calls) {
      const call = (this.#called[index] ??= { name: name ?? '', arguments: '' })
      call.arguments += grown
    }
    if (reasoning === '' && calls.length === 0) return { text: released }
    return { text: released, delta: { ...(reasoning === '' ? {} : { reasoning }), ...(calls.length === 0 ? {} : { toolCalls: calls }) } }
  }
}

type Split = { reasoning: string; text: string; calls: NonNullable<AnswerDelta['toolCalls']> }

/**
 * Parts the reasoning from the answer after it. White space around either belongs to the template, not to what was said.
 *
 *   before ──open──▶ inside ──close──▶ after
 *      └──anything else────────────────▲
 */
class ReasoningSplitter {
  readonly #open: string
  readonly #close: string
  #state: 'before' | 'inside' | 'after'
  #held = ''
  #said = false

  constructor({ open, close, begun }: NonNullable<ReaderOptions['reasoning']>) {
    this.#open = open
    this.#close = close
    this.#state = begun ? 'inside' : 'before'
  }

  get inside(): boolean {
    return this.#state === 'inside'
  }

  feed(characters: string): { reasoning: string; answer: string } {
    let rest = this.#held + characters
    this.#held = ''
    if (this.#state === 'before') rest = this.#before(rest)
    let reasoning = ''
    if (this.#state === 'inside') ({ reasoning, rest } = this.#inside(rest))
    return { reasoning, answer: this.#state === 'after' ? this.#answer(rest) : '' }
  }

  end(): { reasoning: string; answer: string } {
    const held = this.#held
    this.#held = ''
    return this.#state === 'inside' ? { reasoning: held.trimEnd(), answer: '' } : { reasoning: '', answer: held }
  }

  #before(rest: string): string {
    const visible = rest.trimStart()
    if (visible.startsWith(this.#open)) {
      this.#state = 'inside'
      return visible.slice(this.#open.length)
    }
    if (this.#open.startsWith(visible)) {
      this.#held = rest
      return ''
    }
    this.#state = 'after'
    this.#said = true
    return rest
  }

  #inside(rest: string): { reasoning: string; rest: string } {
    const at = rest.indexOf(this.#close)
    const heldBack = rest.length - heldBackLength(rest, [this.#close])
    const thought = at >= 0 ? rest.slice(0, at).trimEnd() : rest.slice(0, rest.slice(0, heldBack).trimEnd().length)
    const reasoning = this.#said ? thought : thought.trimStart()
    if (at >= 0) {
      this.#state = 'after'
      this.#said = false
      return { reasoning, rest: rest.slice(at + this.#close.length) }
    }
    this.#said ||= reasoning !== ''
    this.#held = this.#said ? rest.slice(thought.length) : rest.trimStart()
    return { reasoning, rest: '' }
  }

  #answer(rest: string): string {
    if (this.#said) return rest
    const visible = rest.trimStart()
    this.#said = visible !== ''
    return visible
  }
}

const BASE62 = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789'

/**
 * Ids of an answer's calls: the same in every attempt at it, because what was delivered is not said again. The prompt is
 * part of it, for the turns of one conversation may share a seed and must not share ids.
 */
export function callIds(seed: number, prompt: readonly number[]): (index: number) => string {
  let mark: string | undefined
  return (index) => {
    mark ??= createHash('sha256').update(Uint32Array.from(prompt)).digest('hex')
    const bytes = createHash('sha256').update(`${seed}/${mark}/${index}`).digest()
    return `call_${Array.from(bytes.subarray(0, 24), (byte) => BASE62[byte % 62]).join('')}`
  }
}
