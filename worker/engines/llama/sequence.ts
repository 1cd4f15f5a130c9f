import type { Sampling } from '../../../proto/request.ts'

/** One of the parallel sequences of a model's context, as far as the lockstep needs it. Ids count from 0. */
export interface Sequence {
  readonly id: number
  /** False: its state forgets no single token (a recurrent model's), so that a part of it is of no use. */
  readonly cutsAnywhere: boolean
  /** The tokens whose state it holds. */
  held(): readonly number[]
  /** Computes tokens after the held ones without sampling. */
  prefill(tokens: readonly number[]): Promise<void>
  /** Begins to sample: computes `tokens` (at least one) and then, with each `next`, the token before it. */
  decode(tokens: readonly number[], choice: Choice): TokenSource
  /** Forgets what is held after the first `length` tokens, or more where that cannot be cut; returns how many are held then. */
  keep(length: number): Promise<number>
  /** Writes its state to a file and returns the file's bytes. */
  save(file: string): Promise<number>
  load(file: string): Promise<void>
}

/** No token may come next. */
export class NoTokenLeft extends Error {
  override readonly name = 'NoTokenLeft'
}

export interface TokenSource {
  /**
   * The next token. `guess`, which only a source that may guess takes: what may come, computed with it; as far as it comes true, the
   * tokens after are drawn too.
   */
  next(guess: readonly number[]): Promise<Drawn>
  close(): Promise<void>
}

/** `ended`: the model ended its answer after these. */
export type Drawn = { chosen: readonly Chosen[]; ended: boolean }

/** `probabilities`: of the chosen token and of the likeliest ones, likeliest first; only where they were asked for. */
export type Chosen = { token: number; probabilities?: ReadonlyMap<number, number> }

/** What decides between tokens. Everything that changes is looked at before each token. */
export type Choice = {
  sampling: Sampling
  seed: number
  prompt: readonly number[]
  /** Grows as tokens are chosen; it begins with the forced ones. */
  answer: readonly number[]
  /** Their probabilities are wanted with the tokens. */
  wantsProbabilities: boolean
  /** What the next token must fit; undefined: it is free. The state moves on with every token chosen under it. */
  grammar?: () => GrammarState | undefined
  /** The token that must come next, whatever the model thinks. */
  dictated?: () => number | undefined
  /** The answer may not end with the next token. */
  mustGoOn?: () => boolean
  /** Its source may guess: the seed of the token at this place of the answer, so that it is the same with and without guesses. */
  seedAt?: (place: number) => number
}

/** How far an answer has come in its grammar. */
export interface GrammarState {
  /** llama.cpp's own state. */
  readonly native: object
  /** Moves on over a token that was not chosen under it; throws where the grammar does not allow it. */
  accept(token: number): void
}
