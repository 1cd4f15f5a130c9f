import type { AnswerDelta, FinishReason } from '../../proto/answer.ts'
import type { GenerationRequest } from '../../proto/request.ts'
import { UNTOLD_TOKEN } from '../../proto/wire.ts'
import type { JobId, Tier, WorkerId } from '../core/job.ts'

/** Sending to a worker that is not connected does nothing: the scheduler hears of the loss by another way. */
export interface WorkerLink {
  start(worker: WorkerId, start: AttemptStart): void
  cancel(worker: WorkerId, job: JobId, attempt: number): void
  resume(worker: WorkerId, job: JobId, attempt: number, first: number): void
  acknowledge(worker: WorkerId, job: JobId, attempt: number): void
  drop(worker: WorkerId): void
}

type AttemptStart = {
  job: JobId
  attempt: number
  model: string
  /** The GenerationRequest of proto/request.ts as JSON. */
  request: string
  /** The same before it became JSON, while it is at hand: a long prompt is not read anew for the call that follows at once. */
  generation?: GenerationRequest
  continuation: number[]
  /** Somebody may read the answer while it grows. */
  stream: boolean
  /** The seed was the caller's own choice. */
  seedGiven: boolean
}

/** What an attempt has brought since the last time. */
export type AttemptOutput = {
  job: JobId
  attempt: number
  /** Place in the answer of the first token here. */
  first: number
  tokenIds: number[]
  text: string
  deltas?: readonly AnswerDelta[]
  promptTokens: number
  cachedTokens: number
  /** How much of the prompt is computed, before the first token; 0 or absent: not said. */
  promptProcessed?: number
  /** What comes next may take as long as a first token; alone, where nothing came but a sign of life. */
  isPatient?: boolean
}

export type AttemptEnd = {
  job: JobId
  attempt: number
  tokens: number
  text: string
  deltas?: readonly AnswerDelta[]
  finishReason: FinishReason
  stopSequence?: string | null
  promptTokens: number
  completionTokens: number
  cachedTokens: number
  reasoningTokens?: number | null
  /** Those of the prompt that a provider wrote to its cache. */
  cacheWriteTokens?: number
  totalMs: number
  /** What the provider is owed for it; absent: nothing. */
  costMicros?: number
}

/** Nobody can go on from what was told so far: its provider told no tokens. */
export function isUntold(tier: Tier | null, tokenIds: readonly number[]): boolean {
  return tier === 'cloud' || tier === 'cli' || tokenIds[0] === UNTOLD_TOKEN
}
