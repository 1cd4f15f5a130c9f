import type { Sampling } from '../../../proto/request.ts'

/** One of the parallel sequences of a model's context, as far as the lockstep needs it. Ids count from 0. */
export interface Sequence {
  readonly id: number
  /** The tokens whose state it holds. */
  held(): readonly number[]
  /** Computes tokens after the held ones without sampling. */
  prefill(tokens: readonly number[]): Promise<void>
  /** Begins to sample: computes `tokens` (at least one) and then, with each `next`, the token before it. */
  decode(tokens: readonly number[], choice: Choice): TokenSource
  /** Forgets what is held after the first `length` tokens. */
  keep(length: number): Promise<void>
  /** Writes its state to a file and returns the file's bytes. */
  save(file: string): Promise<number>
  load(file: string): Promise<void>
}

export interface TokenSource {
  /** The next token; undefined when the model ended its answer. */
  next(): Promise<number | undefined>
  close(): Promise<void>
}

/** What decides between tokens. */
export type Choice = {
  sampling: Sampling
  seed: number
  prompt: readonly number[]
  /** Grows as tokens are chosen; it begins with the forced ones. */
  answer: readonly number[]
}
