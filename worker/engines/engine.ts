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
}

export interface GenerationSink {
  /** The prompt is in a slot. `cachedTokens` of its tokens were not computed anew. */
  accepted(promptTokens: number, cachedTokens: number): void
  /**
   * New tokens after the forced ones, in order. `text` is what they release: it may lag behind the ids, because half a
   * character or half a stop string is held back. One call may carry several tokens.
   */
  tokens(ids: number[], text: string): void
  finished(end: GenerationEnd): void
  failed(failure: GenerationFailure): void
}

export type GenerationEnd = {
  /** `stop`: the model ended or a stop string matched; `length`: maxTokens or the context; `cancelled`: by cancel(). */
  reason: 'stop' | 'length' | 'cancelled'
  /** Text held back that the end releases ('' after a matched stop string). */
  text: string
  promptTokens: number
  /** Forced ones included; the end-of-text token is not counted. */
  completionTokens: number
  cachedTokens: number
}

/** `layer` is one of the trace's layers; `code` is stable; `message` is for people and names what to change. */
export type GenerationFailure = { layer: 'ingress' | 'provider' | 'model'; code: string; message: string; retryable: boolean }

export interface Generation {
  /** Idempotent; the sink hears `finished` with reason `cancelled` soon after, whatever the generation was doing. */
  cancel(): void
}

/** Called whenever `state()` changed. */
export type StateListener = () => void
