import type { GenerationFailure } from '../engine.ts'
import { type Generation, mergedDelta } from './generation.ts'
import { PrefillPace } from './pace.ts'
import type { PrefixStore } from './prefixes.ts'
import type { GenerationNews } from './protocol.ts'
import { NoTokenLeft, type Sequence } from './sequence.ts'
import type { Speculation } from './speculation.ts'
import { chooseSlot, commonPrefixLength, nextMove, PREFIX_TOKENS_MIN } from './slots.ts'

export type LockstepParts = {
  sequences: readonly Sequence[]
  prefixes: PrefixStore
  /** All news of one step, in one call. */
  tell: (news: GenerationNews[]) => void
  warn: (message: string) => void
  now: () => number
  /** Undefined: nothing is guessed. */
  speculation?: Speculation | undefined
}

/**
 * Drives every answer of one context in step: each step advances every decoding stream by one token and the
 * longest-waiting prompts by a share, as one batch in rising order of sequences; then the next step.
 *
 *   settle: cancels, newcomers into slots, prefixes copied ──▶ step, and tell of the one before ──▶ settle …   (sleeps while there is nothing to do)
 *
 * Streams left to run freely never fill a batch: each waits for the one before it. Between steps nothing is being
 * computed, so states can be cut, saved and loaded without waiting for a lock.
 */
export class Lockstep {
  readonly #parts: LockstepParts
  readonly #pace = new PrefillPace()
  /** First come, first served. */
  readonly #waiting: Generation[] = []
  /** In slots, in order of arrival. */
  readonly #running = new Map<number, Generation>()
  readonly #news = new Map<number, GenerationNews>()
  #wake: () => void = () => {}
  #toldAt = 0
  /** Steps for which busy slots have not been together. */
  #scatteredSteps = 0

  constructor(parts: LockstepParts) {
    this.#parts = parts
  }

  start(generation: Generation): void {
    this.#waiting.push(generation)
    this.#wake()
  }

  cancel(id: number): void {
    const generation = this.#running.get(id) ?? this.#waiting.find((waiting) => waiting.id === id)
    if (generation === undefined) return
    generation.cancelled = true
    this.#wake()
  }

  /** Never returns; a rejection is a bug, not a failure of a generation. */
  async run(): Promise<never> {
    for (;;) {
      await this.#settle()
      const step = this.#plan()
      const taken = this.#take(step)
      // The step's batch is on its way: what the one before brought is told meanwhile.
      await Promise.resolve()
      this.#tell(step.some(({ tokens }) => tokens > 0))
      await taken
      if (this.#waiting.length + this.#running.size > 0) continue
      this.#tell(true)
      await this.#work()
    }
  }

  #work(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve
    })
  }

  async #settle(): Promise<void> {
    for (const generation of [...this.#waiting, ...this.#running.values()]) if (generation.cancelled) await this.#cancel(generation)
    while (this.#waiting.length > 0 && (await this.#admit(this.#waiting[0]!))) this.#waiting.shift()
    for (const generation of this.#running.values()) if (!generation.prepared) await this.#prepare(generation)
    await this.#bringTogether()
  }

  /**
   * Moves the state of one stream per step into a gap between busy slots, once the gap has stayed for a while: a newcomer
   * fills it for nothing. Measured with 8 streams in every other of 16 slots: what a move costs is won back in two steps.
   */
  async #bringTogether(): Promise<void> {
    const busy = new Map([...this.#running.values()].map((running) => [running.slot, running]))
    const move = nextMove(new Set(busy.keys()))
    this.#scatteredSteps = move === undefined ? 0 : this.#scatteredSteps + 1
    const generation = move === undefined ? undefined : busy.get(move.from)
    if (move === undefined || generation?.source === undefined || this.#scatteredSteps < SCATTERED_STEPS_MIN) return
    await this.#move(generation, this.#parts.sequences[move.to]!)
  }

  async #move(generation: Generation, to: Sequence): Promise<void> {
    const { prefixes, warn } = this.#parts
    try {
      if (!(await prefixes.copy(generation.sequence!, to))) return
      await generation.source!.close()
      generation.moveTo(to)
    } catch (error) {
      this.#scatteredSteps = Number.NEGATIVE_INFINITY
      warn(`a stream could not be moved beside the others: ${(error as Error).message}`)
      await to.keep(0)
    }
  }

  async #cancel(generation: Generation): Promise<void> {
    const place = this.#waiting.indexOf(generation)
    if (place !== -1) this.#waiting.splice(place, 1)
    Object.assign(this.#newsOf(generation), generation.outcome('cancelled'))
    await this.#leave(generation)
  }

  /** Gives the newcomer a slot; false when all are busy. */
  async #admit(generation: Generation): Promise<boolean> {
    const end = generation.endReached()
    if (end !== undefined) {
      Object.assign(this.#newsOf(generation), end)
      return true
    }
    const busy = new Set([...this.#running.values()].map((running) => running.slot))
    const free = this.#parts.sequences.filter((sequence) => !busy.has(sequence.id))
    const held = free.map((sequence) => ({ id: sequence.id, heldTokens: commonPrefixLength(sequence.held(), generation.target) }))
    const slot = chooseSlot(held, busy)
    if (slot === undefined) return false
    generation.sequence = this.#parts.sequences[slot.id]!
    if (this.#parts.speculation !== undefined) generation.beginGuessing()
    this.#running.set(generation.id, generation)
    await this.#keep(generation, slot.heldTokens)
    return true
  }

  /** Decides where the newcomer's first state comes from: its slot, another slot, a saved state, or a prompt being computed now. */
  async #prepare(generation: Generation): Promise<void> {
    const { awaits } = generation
    if (
      awaits !== undefined &&
      awaits.leader.source === undefined &&
      this.#running.has(awaits.leader.id) &&
      awaits.leader.position < awaits.tokens
    )
      return
    if (generation.sequence!.cutsAnywhere) {
      generation.awaits = this.#leaderOf(generation)
      if (generation.awaits !== undefined) return
      await this.#copyPrefix(generation)
    }
    generation.prepared = true
    generation.cachedTokens = Math.min(generation.position, generation.promptTokens)
    this.#newsOf(generation).accepted = { promptTokens: generation.promptTokens, cachedTokens: generation.cachedTokens }
  }

  /** The earlier newcomer whose prompt, once computed, gives this one more than anything does now. */
  #leaderOf(generation: Generation): Generation['awaits'] {
    let best: Generation['awaits']
    for (const leader of this.#running.values()) {
      if (leader === generation) break
      if (leader.source !== undefined) continue
      const tokens = commonPrefixLength(leader.target, generation.target)
      const better = Math.max(leader.position, generation.position, best?.tokens ?? 0) + PREFIX_TOKENS_MIN <= tokens
      if (better) best = { leader, tokens: Math.min(tokens, leader.target.length - 1) }
    }
    if (best === undefined) return undefined
    const found = this.#parts.prefixes.find(generation.target)?.length ?? 0
    return found + PREFIX_TOKENS_MIN > best.tokens ? undefined : best
  }

  async #copyPrefix(generation: Generation): Promise<void> {
    const { prefixes, sequences, warn } = this.#parts
    const worth = generation.position + PREFIX_TOKENS_MIN
    let found = prefixes.find(generation.target)
    let holder: Sequence | undefined
    let most = Math.max(worth - 1, found?.length ?? 0)
    for (const sequence of sequences) {
      if (sequence === generation.sequence) continue
      const length = commonPrefixLength(sequence.held(), generation.target)
      if (length > most) [holder, most] = [sequence, length]
    }
    try {
      if (holder !== undefined) {
        const saved = await prefixes.save(holder)
        if (saved !== undefined) found = { saved, length: most }
      }
      if (found === undefined || found.length < worth) return
      await prefixes.load(found.saved, generation.sequence!)
      await this.#keep(generation, found.length)
    } catch (error) {
      // A full or vanished folder costs time, not answers: the prompt is computed as if nothing had been found.
      warn(`a prompt prefix could not be copied between slots, it is computed again: ${(error as Error).message}`)
      await this.#keep(generation, 0)
    }
  }

  /** The last token of the target is always computed: the first choice needs what comes out of it. */
  async #keep(generation: Generation, tokens: number): Promise<void> {
    generation.position = await generation.sequence!.keep(Math.min(tokens, generation.target.length - 1))
  }

  #plan(): Move[] {
    const running = [...this.#running.values()]
    const moves: Move[] = running.filter(({ source }) => source !== undefined).map((generation) => ({ generation, tokens: 0, guess: [] }))
    let share = this.#pace.share(moves.length)
    for (const generation of running) {
      if (generation.source !== undefined || !generation.prepared || share === 0) continue
      const tokens = Math.min(share, generation.target.length - generation.position)
      share -= tokens
      moves.push({ generation, tokens, guess: [] })
    }
    if (moves.every(({ tokens }) => tokens === 0)) this.#guess(moves)
    // llama.cpp joins neighbouring sequences into one computation only when they come in rising order.
    return moves.sort((left, right) => left.generation.slot - right.generation.slot)
  }

  /** While prompts are computed there is no room: those who wait for their first token come first. */
  #guess(moves: Move[]): void {
    const { speculation } = this.#parts
    if (speculation === undefined) return
    for (const move of moves) {
      const { lookup } = move.generation
      if (lookup !== undefined) move.guess = move.generation.guess(speculation.worth(moves.length, lookup.odds))
    }
  }

  async #take(step: Move[]): Promise<void> {
    const startedAt = this.#parts.now()
    await Promise.all(step.map((move) => this.#advance(move)))
    const tookMs = this.#parts.now() - startedAt
    const prefilled = step.reduce((sum, { tokens }) => sum + tokens, 0)
    const guessed = step.reduce((sum, { guess }) => sum + guess.length, 0)
    if (guessed === 0) this.#pace.learn(tookMs, prefilled, step.filter(({ tokens }) => tokens === 0).length)
    if (prefilled === 0) this.#parts.speculation?.learn(tookMs, step.length, guessed)
    for (const { generation } of step) if (this.#hasEnded(generation)) await this.#leave(generation)
  }

  async #advance({ generation, tokens, guess }: Move): Promise<void> {
    try {
      if (tokens === 0) await this.#decode(generation, guess)
      else await this.#prefill(generation, tokens)
    } catch (error) {
      this.#newsOf(generation).failed = computationFailed(error as Error)
    }
  }

  async #prefill(generation: Generation, tokens: number): Promise<void> {
    const share = generation.target.slice(generation.position, generation.position + tokens)
    if (generation.position + tokens < generation.target.length) await generation.sequence!.prefill(share)
    else {
      generation.source = generation.sequence!.decode(share, generation.choice())
      await this.#decode(generation, [])
    }
    generation.position += tokens
    if (generation.source === undefined) this.#notePrefill(generation)
  }

  /** Forced tokens of an earlier attempt are computed after the prompt and are not of it. */
  #notePrefill(generation: Generation): void {
    const now = this.#parts.now()
    if (now - generation.prefillToldMs < PREFILL_TOLD_EVERY_MS) return
    generation.prefillToldMs = now
    const { position, promptTokens } = generation
    this.#newsOf(generation).prefilled = { processed: Math.min(position, promptTokens), total: promptTokens }
  }

  async #decode(generation: Generation, guess: readonly number[]): Promise<void> {
    // Where nothing is made of it, it is still seen whether it would have been right.
    const expected = guess.length > 0 ? guess : generation.guess(1)
    const { chosen, ended } = await generation.source!.next(guess)
    generation.lookup?.judge(
      expected,
      chosen.map(({ token }) => token),
    )
    const news = this.#newsOf(generation)
    for (const one of chosen) {
      const released = generation.take(one)
      news.tokens ??= { ids: [], text: '' }
      news.tokens.ids.push(one.token)
      news.tokens.text += released.text
      if (released.delta !== undefined) news.tokens.delta = mergedDelta(news.tokens.delta, released.delta)
      const end = generation.endReached()
      if (end === undefined) continue
      Object.assign(news, end)
      return
    }
    if (ended) Object.assign(news, generation.outcome('stop'))
  }

  #hasEnded(generation: Generation): boolean {
    const news = this.#news.get(generation.id)
    return news?.finished !== undefined || news?.failed !== undefined
  }

  async #leave(generation: Generation): Promise<void> {
    this.#running.delete(generation.id)
    await generation.source?.close()
    // After a failure nobody knows what the slot holds.
    if (this.#news.get(generation.id)?.failed !== undefined) await generation.sequence?.keep(0)
  }

  #newsOf(generation: Generation): GenerationNews {
    let news = this.#news.get(generation.id)
    if (news === undefined) this.#news.set(generation.id, (news = { id: generation.id }))
    return news
  }

  /** `atOnce`: the next chance comes late. Tokens of very fast steps are gathered, for telling them one by one costs more than they do; ends are not. */
  #tell(atOnce: boolean): void {
    const now = this.#parts.now()
    if (this.#news.size === 0 || (!atOnce && now - this.#toldAt < TELL_EVERY_MS && !this.#hasEnds())) return
    this.#toldAt = now
    this.#parts.tell([...this.#news.values()])
    this.#news.clear()
  }

  #hasEnds(): boolean {
    return [...this.#news.keys()].some((id) => !this.#running.has(id))
  }
}

/** Newcomers of a busy model come sooner than this and fill the gap. */
const SCATTERED_STEPS_MIN = 4

/** Nobody reads faster than this, and only the built-in model writes faster. */
const TELL_EVERY_MS = 2

/** People watch it; a GPU computes shares far more often. */
const PREFILL_TOLD_EVERY_MS = 250

/** One generation's part of a step: a share of its prompt, or with 0 tokens the next token of its answer, and what may come after it. */
type Move = { generation: Generation; tokens: number; guess: readonly number[] }

function computationFailed(error: Error): GenerationFailure {
  if (error instanceof NoTokenLeft)
    return {
      layer: 'ingress',
      code: 'no_token_left',
      message:
        'No token is left that may come next: the form that the answer must have, logit_bias and min_tokens forbid one another. Ask for less of them.',
      retryable: false,
    }
  return {
    layer: 'model',
    code: 'computation_failed',
    message: `the model could not compute the next token: ${error.message}`,
    retryable: true,
  }
}
