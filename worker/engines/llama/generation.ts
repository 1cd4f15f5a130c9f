import type { AnswerDelta, TokenLogprob } from '../../../proto/answer.ts'
import type { GenerationRequest, Sampling } from '../../../proto/request.ts'
import { drawsAnew, seedAfter } from '../../seeds.ts'
import type { GenerationEnd, GenerationFailure } from '../engine.ts'
import { AnswerReader, type ReaderOptions, type Released } from './answer-reader.ts'
import { schemaMismatch } from './constraint.ts'
import { logprobOf } from './logprobs.ts'
import { Lookup } from './lookup.ts'
import type { Choice, Chosen, GrammarState, Sequence, TokenSource } from './sequence.ts'

/** What the model's own vocabulary says about tokens. */
export interface Vocabulary {
  bytesOf(token: number): Uint8Array
  /** Bytes of a token that has none as text but is a mark of how the model writes calls and reasoning. */
  markOf(token: number): Uint8Array | undefined
  endsGeneration(token: number): boolean
  /** How many tokens there are, numbered from 0. */
  readonly size: number
}

/** How one answer is read, held and judged. What is absent costs nothing. */
export type AnswerPlan = {
  reader?: Omit<ReaderOptions, 'stops'>
  grammar?: GrammarState
  faultOf?: (text: string) => string | undefined
  faultOfCall?: (name: string, given: string) => string | undefined
  /** The answer ends with its first call. */
  oneCall?: boolean
  /** Tokens that open and close reasoning, where it is dictated when it begins or ends. `mayEnd`: the answer, within a thought. */
  reasoning?: { maxTokens: number; opening: readonly number[]; closing: readonly number[]; mayEnd: boolean }
}

/**
 * One answer on its way. It goes forward through these, and may end from each:
 *
 *   waiting ── has a slot ──▶ prefilling ── all of `target` computed ──▶ decoding
 *
 * `target` is the prompt and the forced beginning of the answer; `position` counts how much of it the slot holds.
 */
export class Generation {
  readonly id: number
  readonly target: readonly number[]
  readonly promptTokens: number
  readonly answer: number[] = []
  readonly #reader: AnswerReader
  readonly #vocabulary: Vocabulary
  readonly #plan: AnswerPlan
  readonly #sampling: Sampling
  readonly #seed: number
  readonly #drawsAnew: boolean
  readonly #maxTokens: number
  readonly #minTokens: number
  readonly #logprobs: number | undefined
  /** What must come next, token by token. */
  readonly #dictated: number[] = []
  #reasoningTokens = 0
  #reasoningCut = false

  sequence: Sequence | undefined
  source: TokenSource | undefined
  position = 0
  cachedTokens = 0
  /** When it was last told how far the prompt is. */
  prefillToldMs = Number.NEGATIVE_INFINITY
  /** Where the slot's first state comes from is decided. */
  prepared = false
  /** Guesses what comes; undefined: nothing is guessed. */
  lookup: Lookup | undefined
  /** An earlier newcomer is computing a prefix that this one will copy once that many tokens are there. */
  awaits: { leader: Generation; tokens: number } | undefined
  cancelled = false

  /** Throws where the forced tokens do not fit the plan's grammar. */
  constructor(
    id: number,
    prompt: readonly number[],
    continuation: readonly number[],
    request: GenerationRequest,
    contextTokens: number,
    vocabulary: Vocabulary,
    plan: AnswerPlan = {},
  ) {
    this.id = id
    this.target = [...prompt, ...continuation]
    this.promptTokens = prompt.length
    this.#reader = new AnswerReader({ stops: request.stop, ...plan.reader })
    this.#vocabulary = vocabulary
    this.#plan = plan
    this.#sampling = request.sampling
    this.#seed = request.seed
    this.#drawsAnew = drawsAnew(request)
    this.#maxTokens = Math.min(request.maxTokens ?? Number.POSITIVE_INFINITY, contextTokens - prompt.length)
    this.#minTokens = request.minTokens ?? 0
    this.#logprobs = request.logprobs
    if (plan.reasoning !== undefined) this.#dictated.push(...plan.reasoning.opening)
    // Forced tokens were delivered before: they run silently, so that what is held back is what it was then.
    for (const token of continuation) {
      this.#grammarNow()?.accept(token)
      this.#take(token)
    }
  }

  get slot(): number {
    return this.sequence?.id ?? -1
  }

  /** From here on what comes is guessed, unless more decides between tokens than their likelihood. */
  beginGuessing(): void {
    const { grammar, reasoning } = this.#plan
    const { frequencyPenalty = 0, presencePenalty = 0, repeatPenalty = 1, logitBias = {} } = this.#sampling
    const isFree = grammar === undefined && reasoning === undefined && this.#minTokens <= this.answer.length && this.#logprobs === undefined
    const isPlain = frequencyPenalty === 0 && presencePenalty === 0 && repeatPenalty === 1 && Object.keys(logitBias).length === 0
    if (isFree && isPlain) this.lookup = new Lookup(this.target)
  }

  /** What may come next, at most so many tokens, and never so many that the answer would be too long. */
  guess(most: number): readonly number[] {
    return this.lookup?.guess(Math.min(most, this.#maxTokens - this.answer.length - 1)) ?? []
  }

  /** What decides between tokens from here on. */
  choice(): Choice {
    const { grammar, reasoning } = this.#plan
    const choice: Choice = {
      sampling: this.#sampling,
      seed: seedAfter(this.#seed, this.answer.length),
      // What was forced is of the answer.
      prompt: this.target.slice(0, this.promptTokens),
      answer: this.answer,
      wantsProbabilities: this.#logprobs !== undefined,
    }
    if (grammar !== undefined) choice.grammar = () => this.#grammarNow()
    if (reasoning !== undefined) choice.dictated = () => this.#dictated[0]
    if (this.#minTokens > this.answer.length || reasoning?.mayEnd === false)
      choice.mustGoOn = () => this.answer.length < this.#minTokens || (reasoning?.mayEnd === false && this.#reader.reasons)
    if (this.lookup !== undefined) choice.seedAt = (place) => seedAfter(this.#seed, place)
    return choice
  }

  /** Reasoning is free, and so is what is dictated: both end before the grammar begins. */
  #grammarNow(): GrammarState | undefined {
    return this.#reader.reasons || this.#dictated.length > 0 ? undefined : this.#plan.grammar
  }

  /** Goes on in another slot that holds the same state: the token chosen last is the only one left to compute there. */
  moveTo(sequence: Sequence): void {
    this.sequence = sequence
    this.source = sequence.decode([this.answer.at(-1)!], this.choice())
  }

  /** The end that is reached already, before another token is chosen. */
  endReached(): Outcome | undefined {
    const last = this.answer.at(-1)
    if (this.#reader.stopped !== undefined) return this.outcome('stop')
    if (last !== undefined && this.#vocabulary.endsGeneration(last)) return this.outcome('stop')
    if (this.#plan.oneCall === true && this.#reader.callsEnded > 0) return this.outcome('stop')
    return this.answer.length >= this.#maxTokens ? this.outcome('length') : undefined
  }

  /** Takes a chosen token and returns what it releases. */
  take(chosen: Chosen): Released {
    const wasText = !this.#isAside()
    const released = this.#take(chosen.token)
    // Reasoning and calls are no text whose likelihood was asked for.
    if (this.#logprobs === undefined || chosen.probabilities === undefined || !wasText || this.#isAside()) return released
    return { text: released.text, delta: { ...released.delta, logprobs: [this.#logprobOf(chosen.token, chosen.probabilities)] } }
  }

  #isAside(): boolean {
    return this.#reader.reasons || this.#reader.inCall
  }

  #logprobOf(token: number, probabilities: ReadonlyMap<number, number>): TokenLogprob {
    return logprobOf(token, probabilities, this.#logprobs!, (id) => this.#vocabulary.bytesOf(id))
  }

  #take(token: number): Released {
    this.answer.push(token)
    this.lookup?.add(token)
    this.#dictated.shift()
    const bytes = this.#plan.reader === undefined ? this.#vocabulary.bytesOf(token) : this.#bytesWithMarks(token)
    const reasoned = this.#reader.reasons
    // A stop string that is complete before the fewest tokens is text: to end there is what the caller did not want.
    const released = this.#reader.feed(bytes, this.answer.length > this.#minTokens)
    if (reasoned || this.#reader.reasons) this.#countReasoning()
    return released
  }

  #bytesWithMarks(token: number): Uint8Array {
    return this.#vocabulary.markOf(token) ?? this.#vocabulary.bytesOf(token)
  }

  #countReasoning(): void {
    this.#reasoningTokens += 1
    const { reasoning } = this.#plan
    if (reasoning === undefined || this.#reasoningCut || !this.#reader.reasons || this.#reasoningTokens < reasoning.maxTokens) return
    this.#reasoningCut = true
    this.#dictated.push(...reasoning.closing)
  }

  /** How it ends; where the end by itself is not what was asked for, that is a failure. */
  outcome(reason: 'stop' | 'length' | 'cancelled'): Outcome {
    const { promptTokens, cachedTokens } = this
    const stopSequence = this.#reader.stopped
    const released = reason === 'cancelled' ? { text: '' } : this.#reader.end()
    const called = this.#reader.callsBegun > 0
    const fault = reason === 'stop' ? this.#fault() : undefined
    if (fault !== undefined) return { failed: schemaMismatch(fault, this.#drawsAnew) }
    const finished: GenerationEnd = {
      reason: reason === 'stop' && called ? 'tool_calls' : reason,
      text: released.text,
      promptTokens,
      completionTokens: this.answer.length,
      cachedTokens,
      ...(released.delta === undefined ? {} : { delta: released.delta }),
      ...(stopSequence === undefined ? {} : { stopSequence }),
      ...(this.#plan.reader?.reasoning === undefined ? {} : { reasoningTokens: this.#reasoningTokens }),
    }
    return { finished }
  }

  /** Why the answer that ended by itself is not what was asked for. */
  #fault(): string | undefined {
    const { faultOf, faultOfCall } = this.#plan
    const { called, stopped, text } = this.#reader
    if (called.length > 0) return called.map((call) => faultOfCall?.(call.name, call.arguments)).find((fault) => fault !== undefined)
    // A stop string cuts JSON too; the caller asked for that, and trying again would cut it again.
    return stopped === undefined ? faultOf?.(text) : undefined
  }
}

export type Outcome = { finished: GenerationEnd } | { failed: GenerationFailure }

/** What two releases are together. */
export function mergedDelta(left: AnswerDelta | undefined, right: AnswerDelta | undefined): AnswerDelta | undefined {
  if (left === undefined || right === undefined) return left ?? right
  const merged: AnswerDelta = { ...left, ...right }
  if (left.reasoning !== undefined && right.reasoning !== undefined) merged.reasoning = left.reasoning + right.reasoning
  if (left.toolCalls !== undefined && right.toolCalls !== undefined) merged.toolCalls = [...left.toolCalls, ...right.toolCalls]
  if (left.logprobs !== undefined && right.logprobs !== undefined) merged.logprobs = [...left.logprobs, ...right.logprobs]
  return merged
}
