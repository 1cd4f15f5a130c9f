import type { Ability } from '../../../proto/abilities.ts'
import type { AnswerDelta } from '../../../proto/answer.ts'
import type { GenerationRequest } from '../../../proto/request.ts'
import type { GenerationEnd, GenerationFailure } from '../engine.ts'
import type { Purpose } from './abilities.ts'

/** What the worker tells a model process. `id` names a generation between these two; it is never used again. */
export type ToProcess =
  | { kind: 'open'; settings: ModelSettings }
  | { kind: 'start'; id: number; request: GenerationRequest; continuation: readonly number[] }
  | { kind: 'cancel'; id: number }
  /** Answered by `alive`, whatever else it does. */
  | { kind: 'ask' }

export type ModelSettings = {
  path: string
  purpose: Purpose
  /** The beginning of one of its vectors is a vector too; absent: judged by its name. */
  matryoshka?: boolean
  slots?: number
  contextTokens?: number
  threads?: number
  gpuLayers?: number
  /** What comes next is guessed from what stood there before, where that pays. */
  speculation?: 'lookup'
  /** A private folder for states of prompt prefixes; the worker made it and removes it. */
  prefixFolder: string
  prefixBytesMax: number
}

/** What a model process tells the worker. */
export type FromProcess =
  | { kind: 'loading'; percent: number }
  | { kind: 'ready'; model: ModelFacts }
  /** The model cannot be served as asked; the process ends after this. */
  | { kind: 'unloadable'; message: string }
  | { kind: 'log'; level: LogLevel; message: string }
  /** All news of one step in one message: at thousands of tokens a second a message for each would cost more than the tokens. */
  | { kind: 'news'; news: GenerationNews[] }
  | { kind: 'alive' }

export type ModelFacts = {
  slots: number
  contextTokens: number
  maxTokenBytes: number
  sizeBytes: number
  detail: string
  abilities: Ability[]
}

export type LogLevel = 'debug' | 'info' | 'warn' | 'error'

/** Members in the order in which the sink hears them. */
export type GenerationNews = {
  id: number
  accepted?: { promptTokens: number; cachedTokens: number }
  prefilled?: { processed: number; total: number }
  tokens?: { ids: number[]; text: string; delta?: AnswerDelta | undefined }
  finished?: GenerationEnd
  failed?: GenerationFailure
}
