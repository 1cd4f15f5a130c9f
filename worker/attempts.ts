import type { AnswerDelta } from '../proto/answer.ts'
import type { ChunkMessage, FailedMessage, FinishedMessage } from '../proto/link.ts'
import type { Generation, GenerationEnd, GenerationFailure } from './engines/engine.ts'

/**
 * One attempt and its whole output, kept until the coordinator says that its end is durable. Output goes out from where
 * the last chunk ended, so a slow or absent coordinator gets fewer, larger chunks and a returning one any part again.
 */
export class Attempt {
  readonly job: string
  readonly number: number
  readonly model: string
  readonly key: string
  generation: Generation | undefined
  /** Nobody wants the rest: once it ends there is nothing to keep. */
  unwanted = false
  /** Tells the session that the attempt belongs to now: another coordinator may take it over. */
  onChanged: () => void = () => {}
  readonly #forced: number
  readonly #tokenIds: number[] = []
  /** Text that each token released; joined over any run of tokens it is the text of that run. */
  readonly #texts: string[] = []
  /** What tokens released besides text, by the place of the token that did; nearly all release nothing. */
  readonly #deltas = new Map<number, AnswerDelta[]>()
  #sent = 0
  #end: { finished: FinishedMessage } | { failed: FailedMessage } | undefined
  #endSent = false
  #promptTokens = 0
  #cachedTokens = 0
  /** How much of the prompt is computed, while that is news; 0: it is not. */
  #promptProcessed = 0
  readonly #beganMs = performance.now()
  #firstTokenMs = 0

  constructor(job: string, number: number, model: string, forced: number) {
    this.job = job
    this.number = number
    this.model = model
    this.key = attemptKey(job, number)
    this.#forced = forced
  }

  get ended(): boolean {
    return this.#end !== undefined
  }

  accept(promptTokens: number, cachedTokens: number): void {
    this.#promptTokens = promptTokens
    this.#cachedTokens = cachedTokens
  }

  /** Only the latest counts, and only until the first token. */
  prefill(processed: number, total: number): void {
    if (this.#tokenIds.length > 0) return
    this.#promptTokens = total
    this.#promptProcessed = processed
  }

  add(tokenIds: number[], text: string, delta?: AnswerDelta): void {
    if (isTooLarge(text, delta === undefined ? '' : JSON.stringify(delta))) return this.fail(TOO_LARGE)
    if (this.#tokenIds.length === 0) this.#firstTokenMs = performance.now() - this.#beganMs
    this.#promptProcessed = 0
    for (const id of tokenIds) {
      this.#tokenIds.push(id)
      this.#texts.push('')
    }
    if (this.#texts.length > 0) this.#texts[this.#texts.length - 1] += text
    if (delta === undefined) return
    const place = Math.max(0, this.#texts.length - 1)
    this.#deltas.set(place, [...(this.#deltas.get(place) ?? []), delta])
  }

  finish(end: GenerationEnd): void {
    const delta = end.delta === undefined ? '' : JSON.stringify([end.delta])
    if (isTooLarge(end.text, delta)) return this.fail(TOO_LARGE)
    this.#end ??= {
      finished: {
        job: this.job,
        attempt: this.number,
        tokens: this.#forced + this.#tokenIds.length,
        text: end.text,
        finishReason: end.reason,
        promptTokens: end.promptTokens,
        completionTokens: end.completionTokens,
        cachedTokens: end.cachedTokens,
        firstTokenMs: this.#firstTokenMs,
        totalMs: performance.now() - this.#beganMs,
        delta,
        stopSequence: end.stopSequence ?? '',
        reasoningTokens: end.reasoningTokens ?? 0,
      },
    }
  }

  fail(failure: GenerationFailure): void {
    const { retryAtMs = 0, providerStatus = 0, ...said } = failure
    this.#end ??= { failed: { job: this.job, attempt: this.number, ...said, retryAtMs, providerStatus } }
  }

  /** Everything from this token of the answer on is to be sent (again). */
  rewind(first: number): void {
    this.#sent = Math.min(this.#tokenIds.length, Math.max(0, first - this.#forced))
    this.#endSent = false
  }

  /** Nothing of the text is to be sent any more. */
  skipToEnd(): void {
    this.#sent = this.#tokenIds.length
    this.#promptProcessed = 0
  }

  /** There is output, or an end, that was not sent. */
  get hasMore(): boolean {
    return this.#sent < this.#tokenIds.length || this.#promptProcessed > 0 || (this.#end !== undefined && !this.#endSent)
  }

  /** What was not sent yet, marked as sent; without tokens it says how far the prompt is. */
  takeChunk(): ChunkMessage | undefined {
    const from = this.#sent
    const { to, deltas } = this.#piece(from)
    const promptProcessed = this.#promptProcessed
    if (from >= to && promptProcessed === 0) return undefined
    this.#sent = to
    this.#promptProcessed = 0
    return {
      job: this.job,
      attempt: this.number,
      first: this.#forced + from,
      tokenIds: this.#tokenIds.slice(from, to),
      text: to - from === 1 ? (this.#texts[from] ?? '') : this.#texts.slice(from, to).join(''),
      promptTokens: this.#promptTokens,
      cachedTokens: this.#cachedTokens,
      promptProcessed,
      delta: deltas.length === 0 ? '' : `[${deltas.join()}]`,
    }
  }

  /** Tokens from there on that a message holds, with what they released besides text. */
  #piece(from: number): { to: number; deltas: string[] } {
    const most = Math.min(this.#tokenIds.length, from + CHUNK_TOKENS_MAX)
    const deltas: string[] = []
    let size = 0
    let to = from
    for (; to < most && size < CHUNK_CHARS_MAX; to++) {
      size += this.#texts[to]?.length ?? 0
      if (this.#deltas.size === 0) continue
      for (const delta of this.#deltas.get(to) ?? []) {
        const json = JSON.stringify(delta)
        deltas.push(json)
        size += json.length
      }
    }
    return { to, deltas }
  }

  /** The end, once everything before it was sent. */
  takeEnd(): { finished: FinishedMessage } | { failed: FailedMessage } | undefined {
    if (this.#end === undefined || this.#endSent || this.#sent < this.#tokenIds.length) return undefined
    this.#endSent = true
    return this.#end
  }
}

export function attemptKey(job: string, number: number): string {
  return `${job}/${number}`
}

// Far below the message limit, and a coordinator that is behind gets its output in digestible pieces.
const CHUNK_TOKENS_MAX = 4_096
const CHUNK_CHARS_MAX = 1024 * 1024
// What comes in one piece, such as the vectors of two thousand texts, has to fit in a message of 64 MiB (proto/link.ts).
const PIECE_BYTES_MAX = 48 * 1024 * 1024

function isTooLarge(text: string, delta: string): boolean {
  if (text.length + delta.length < PIECE_BYTES_MAX / 3) return false
  return Buffer.byteLength(text) + Buffer.byteLength(delta) > PIECE_BYTES_MAX
}

const TOO_LARGE: GenerationFailure = {
  layer: 'model',
  code: 'answer_too_large',
  message: `The answer is larger than the ${PIECE_BYTES_MAX / 1024 / 1024} MiB that a worker can send in one piece: ask for less at once.`,
  retryable: false,
}
