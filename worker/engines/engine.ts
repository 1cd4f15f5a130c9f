import type { Ability } from '../../proto/abilities.ts'
import type { AnswerDelta, FinishReason } from '../../proto/answer.ts'
import type { GenerationRequest } from '../../proto/request.ts'

/**
 * What a worker runs one model with. An engine owns a fixed number of slots; the worker never starts more generations
 * than `state().slots`. An engine outlives crashes of whatever it drives: it reports `down`, restarts by itself with
 * backoff, and fails what was running with a retryable failure.
 */
export interface Engine {
  state(): EngineState
  /** Begins one generation; everything about it is told to the sink, ending in exactly one `finished` or `failed`. */
  generate(key: string, request: GenerationRequest, continuation: readonly number[], sink: GenerationSink): Generation
  /** Resolves when every process and timer of the engine is gone. Generations still running fail as retryable. */
  close(): Promise<void>
}

export type EngineState = {
  phase: 'loading' | 'ready' | 'down'
  /** Why it is not ready, or what it does meanwhile ("loading 40 %", "restarts in 4 s: exited with SIGKILL"). */
  detail: string
  /** Jobs at once; 0 unless ready. */
  slots: number
  /** Per slot; 0 = no limit. */
  contextTokens: number
  /** Most bytes of text one token stands for; 0 = not known. */
  maxTokenBytes: number
  /** Names what defines the answers; two engines with the same hash continue each other's text. */
  sha256: string
  sizeBytes: number
  restarts: number
  /** What it can honour beyond plain text; a request that needs more never comes. */
  abilities: readonly Ability[]
  /** Absent: gpu. */
  tier?: 'gpu' | 'cli'
  /** It cannot go on from token ids: `continuation` is always empty, and a second attempt begins the answer anew. */
  startsOver?: boolean
  /** It is down until a person changes something: `detail` says what. */
  needsPerson?: boolean
  /** Quota of what the engine talks to: until when it is used up (Unix ms; null: it is not), and how much is left, 0 … 1. */
  quota?: { limitedUntilMs: number | null; remainingRatio: number | null }
}

export interface GenerationSink {
  /** The prompt is in a slot. `cachedTokens` of its tokens were not computed anew. */
  accepted(promptTokens: number, cachedTokens: number): void
  /**
   * So many of the prompt's `total` tokens are computed. Told between `accepted` and the first token, a few times a second at
   * most, and not at all of a prompt that is computed at once.
   */
  prefilled?(processed: number, total: number): void
  /**
   * New tokens after the forced ones, in order. `text` is what they release: it may lag behind the ids, because half a
   * character or half a stop string is held back. One call may carry several tokens. `delta` is what they release besides
   * text: reasoning, parts of tool calls, log probabilities. An engine whose model tells no token ids gives `UNTOLD_TOKEN` for each piece.
   */
  tokens(ids: number[], text: string, delta?: AnswerDelta): void
  finished(end: GenerationEnd): void
  failed(failure: GenerationFailure): void
}

export type GenerationEnd = {
  /** `stop`: the model ended or a stop string matched; `length`: maxTokens or the context; `cancelled`: by cancel(). */
  reason: FinishReason
  /** Text held back that the end releases ('' after a matched stop string). */
  text: string
  promptTokens: number
  /** Forced ones included; the end-of-text token is not counted. */
  completionTokens: number
  cachedTokens: number
  /** Held back besides text. */
  delta?: AnswerDelta
  /** The stop string that matched. */
  stopSequence?: string
  /** Tokens of reasoning among the completion's. */
  reasoningTokens?: number
}

/** `layer` is one of the trace's layers; `code` is stable; `message` is for people and names what to change. */
export type GenerationFailure = {
  layer: 'ingress' | 'provider' | 'model'
  code: string
  message: string
  retryable: boolean
  /** Nothing may be asked of this model before then (Unix ms). */
  retryAtMs?: number
  /** HTTP status or exit code of what the engine talked to. */
  providerStatus?: number
}

export interface Generation {
  /** Idempotent; the sink hears `finished` with reason `cancelled` soon after, whatever the generation was doing. */
  cancel(): void
}

/** Called whenever `state()` changed. */
export type StateListener = () => void
