import type { GenerationRequest, Sampling } from '../../../proto/request.ts'
import type { GenerationEnd } from '../engine.ts'
import { TextAssembler } from '../text.ts'
import type { Choice, Sequence, TokenSource } from './sequence.ts'

/** What the model's own vocabulary says about tokens. */
export interface Vocabulary {
  bytesOf(token: number): Uint8Array
  endsGeneration(token: number): boolean
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
  readonly answer: number[]
  readonly #text: TextAssembler
  readonly #vocabulary: Vocabulary
  readonly #sampling: Sampling
  readonly #seed: number
  readonly #maxTokens: number

  sequence: Sequence | undefined
  source: TokenSource | undefined
  position = 0
  cachedTokens = 0
  /** Where the slot's first state comes from is decided. */
  prepared = false
  /** An earlier newcomer is computing a prefix that this one will copy once that many tokens are there. */
  awaits: { leader: Generation; tokens: number } | undefined
  cancelled = false

  constructor(
    id: number,
    prompt: readonly number[],
    continuation: readonly number[],
    request: GenerationRequest,
    contextTokens: number,
    vocabulary: Vocabulary,
  ) {
    this.id = id
    this.target = [...prompt, ...continuation]
    this.promptTokens = prompt.length
    this.answer = [...continuation]
    this.#text = new TextAssembler(request.stop)
    this.#vocabulary = vocabulary
    this.#sampling = request.sampling
    this.#seed = request.seed
    this.#maxTokens = Math.min(request.maxTokens ?? Number.POSITIVE_INFINITY, contextTokens - prompt.length)
    // Forced tokens were delivered before: they run silently, so that what is held back is what it was then.
    for (const token of continuation) this.#text.feed(vocabulary.bytesOf(token))
  }

  get slot(): number {
    return this.sequence?.id ?? -1
  }

  /** What decides between tokens from here on. */
  choice(): Choice {
    return { sampling: this.#sampling, seed: seedAfter(this.#seed, this.answer.length), prompt: this.target, answer: this.answer }
  }

  /** Goes on in another slot that holds the same state: the token chosen last is the only one left to compute there. */
  moveTo(sequence: Sequence): void {
    this.sequence = sequence
    this.source = sequence.decode([this.answer.at(-1)!], this.choice())
  }

  /** The end that is reached already, before another token is chosen. */
  endReached(): GenerationEnd | undefined {
    const last = this.answer.at(-1)
    if (this.#text.stopped) return this.end('stop')
    if (last !== undefined && this.#vocabulary.endsGeneration(last)) return this.end('stop')
    return this.answer.length >= this.#maxTokens ? this.end('length') : undefined
  }

  /** Takes a chosen token and returns the text it releases. */
  take(token: number): string {
    this.answer.push(token)
    return this.#text.feed(this.#vocabulary.bytesOf(token))
  }

  end(reason: GenerationEnd['reason']): GenerationEnd {
    const { promptTokens, cachedTokens } = this
    const text = reason === 'cancelled' ? '' : this.#text.end()
    return { reason, text, promptTokens, completionTokens: this.answer.length, cachedTokens }
  }
}

/** llama.cpp takes this seed for "any"; an answer would differ every time. */
const SEED_FOR_ANY = 0xffffffff

/**
 * The sampler's random numbers cannot be wound forward past forced tokens, so a continuation draws from a seed of its
 * own: not the numbers of an undisturbed run, but the same ones for the same request and the same forced tokens.
 */
export function seedAfter(seed: number, forcedTokens: number): number {
  const mixed = forcedTokens === 0 ? seed : Math.imul(seed ^ Math.imul(forcedTokens, 0x9e3779b1), 0x85ebca6b) >>> 0
  return mixed === SEED_FOR_ANY ? 0 : mixed
}
