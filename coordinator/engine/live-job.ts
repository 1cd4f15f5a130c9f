import { Answer, type AnswerDelta, type AnswerJson, type FinishReason } from '../../proto/answer.ts'
import type { GenerationRequest } from '../../proto/request.ts'
import type { Decision } from '../core/decision.ts'
import type { AttemptRecord, JobRecord, Waiting, WorkerId } from '../core/job.ts'
import type { StoredProgress } from '../store/jobs.ts'
import type { Terms } from './new-job.ts'

/** A job that is not final yet, or whose end is not durable yet: its record, its answer so far and who follows it. */
export class LiveJob {
  readonly record: JobRecord
  /** The GenerationRequest as JSON; null when it waits in PostgreSQL instead: a long queue must not hold every prompt. */
  request: string | null
  /** The same as it was read; only while the job is being accepted. */
  generation: GenerationRequest | undefined
  readonly tokenIds: number[]
  readonly answer: Answer
  /** How much of the answer is checkpointed. */
  storedTokens: number
  storedChars: number
  /** About what the answer takes. */
  chars = 0
  /** What came besides text since then. */
  unstored: AnswerDelta[] = []
  /** The stop string that ended the answer; null: none did. */
  stopSequence: string | null = null
  /** Tokens of reasoning among those of the answer, where the provider says. */
  reasoningTokens: number | null = null
  /** Tokens of its prompt that the provider wrote to a cache of its own. */
  cacheWriteTokens = 0
  /** Attempts that ended since this process knows the job; earlier ones stand in PostgreSQL. */
  readonly endedAttempts: AttemptRecord[] = []
  /** Why the last attempt went where it went. */
  decision: Decision | null = null
  /** PostgreSQL refused its row: nothing about it is written any more. */
  unstorable = false
  /** Its row is in PostgreSQL, and its prompt with it. */
  isStored = false
  /** Its acceptance is in the ledger. */
  announced = false
  /** How much of its prompt the current attempt has computed; null: not said. */
  prefill: Prefill | null = null
  /** How long the worker says the last attempt took. */
  workerMs: number | null = null
  /** Requests that wait for this answer: more than one where an idempotency key brought a second to the same job. */
  callers = 0
  /** When tiers open to it and who pays, as the scheduler was told last. */
  terms: Terms | null = null
  /** Somebody is to be called back when it ends. */
  hasCallback = false
  /** Somebody may read it while it grows. */
  streamed = true
  /** None until somebody follows: of a million waiting jobs nearly none is. */
  #followers: Set<Follower> = NOBODY

  constructor(record: JobRecord, request: string | null, progress?: Progress) {
    this.record = record
    this.request = request
    this.tokenIds = progress?.tokenIds ?? []
    this.answer = progress?.answer ?? new Answer()
    this.storedTokens = this.tokenIds.length
    this.storedChars = this.answer.text.length
    this.chars = this.answer.text.length + this.answer.reasoning.length
  }

  get text(): string {
    return this.answer.text
  }

  wasStored(waiting: number): void {
    this.isStored = true
    this.unload(waiting)
  }

  /** What is stored and long is read back when it is wanted, and the more wait, the less is long: all of it together stays bounded. */
  unload(waiting: number): void {
    if (!this.isStored || this.request === null) return
    const { length } = this.request
    const isLong = this.record.status === 'queued' ? length * (1 + waiting) > WAITING_REQUESTS_CHARS : length > SENT_REQUEST_CHARS
    if (isLong) this.request = null
  }

  /** What is stored as the job's output. */
  output(): Output {
    const { stopSequence, reasoningTokens, cacheWriteTokens } = this
    return {
      ...this.answer.toJSON(),
      finish_reason: this.record.finishReason,
      ...(stopSequence === null ? {} : { stop_sequence: stopSequence }),
      ...(reasoningTokens === null ? {} : { reasoning_tokens: reasoningTokens }),
      ...(cacheWriteTokens === 0 ? {} : { cache_write_tokens: cacheWriteTokens }),
    }
  }

  /** A job that has ended, from what is stored of it. */
  static ended(record: JobRecord, output: Partial<Output> | null): LiveJob {
    const live = new LiveJob(record, null, { tokenIds: [], answer: Answer.from(output ?? {}) })
    live.stopSequence = output?.stop_sequence ?? null
    live.reasoningTokens = output?.reasoning_tokens ?? null
    live.cacheWriteTokens = output?.cache_write_tokens ?? 0
    return live
  }

  /** A job that is nobody's work any more, with what was delivered of its answer: a release goes on from there. */
  static parked(record: JobRecord, progress: StoredProgress | undefined): LiveJob {
    return new LiveJob(record, null, delivered(progress))
  }

  get followed(): boolean {
    return this.#followers.size > 0
  }

  /** Keeps how an attempt ended that did not end the job. */
  endAttempt({ attempt, status, error }: Pick<AttemptRecord, 'status' | 'error'> & { attempt: number }, nowMs: number): AttemptRecord {
    const { id, worker, workerName, tier, attemptStartedMs, createdMs, tokensBefore, traceId } = this.record
    const times = { startedMs: attemptStartedMs ?? createdMs, finishedMs: nowMs }
    const tokens = this.tokenIds.length - tokensBefore
    const ended = { job: id, number: attempt, status, worker, workerName, tier, ...times, tokens, error, traceId }
    this.endedAttempts.push(ended)
    return ended
  }

  /** The attempt ended here, with whatever result. */
  hasEnded(attempt: number, worker: WorkerId): boolean {
    const { record, endedAttempts } = this
    if (record.attempt === attempt && record.worker === worker && record.status !== 'running') return true
    return endedAttempts.some((ended) => ended.number === attempt && ended.worker === worker)
  }

  follow(follower: Follower): void {
    if (this.#followers === NOBODY) this.#followers = new Set()
    this.#followers.add(follower)
  }

  unfollow(follower: Follower): void {
    if (this.#followers !== NOBODY) this.#followers.delete(follower)
  }

  append(tokenIds: number[], text: string, deltas: readonly AnswerDelta[] = NOTHING): void {
    this.chars += text.length
    for (const id of tokenIds) this.tokenIds.push(id)
    if (text === '' && deltas.length === 0) return
    this.answer.append(text)
    for (const delta of deltas) {
      this.chars += sizeOf(delta)
      this.answer.append('', delta)
      this.unstored.push(delta)
    }
    for (const follower of this.#followers) follower.grown(text)
  }

  /** True where it is news: more than before, and possible. */
  prefills(processed: number, total: number): boolean {
    if (processed <= (this.prefill?.processed ?? 0) || processed > total || this.tokenIds.length > this.record.tokensBefore) return false
    this.prefill = { processed, total }
    for (const follower of this.#followers) follower.prefilled?.(this.prefill)
    return true
  }

  /** What was delivered is void. */
  discard(): void {
    this.tokenIds.length = 0
    this.answer.clear()
    this.storedTokens = 0
    this.storedChars = 0
    this.unstored = []
    this.chars = 0
    for (const follower of this.#followers) follower.discarded()
  }

  ended(): void {
    for (const follower of this.#followers) follower.ended()
  }

  changed(): void {
    for (const follower of this.#followers) follower.changed?.()
  }

  stopped(): void {
    for (const follower of this.#followers) follower.stopped()
  }

  waits(waiting: Waiting): void {
    for (const follower of this.#followers) follower.waits(waiting)
  }
}

/** Tokens of a prompt: computed, and all. */
export type Prefill = { processed: number; total: number }

/** What was checkpointed, as an answer that may go on. */
export function delivered(progress: StoredProgress | undefined): Progress | undefined {
  if (progress === undefined) return undefined
  const answer = new Answer()
  answer.append(progress.text)
  for (const delta of progress.extras) answer.append('', delta as AnswerDelta)
  return { tokenIds: progress.tokenIds, answer }
}

type Progress = { tokenIds: number[]; answer: Answer }
export type Output = AnswerJson & {
  finish_reason: FinishReason | null
  stop_sequence?: string
  reasoning_tokens?: number
  cache_write_tokens?: number
}

const NOTHING: readonly AnswerDelta[] = []
const NOBODY = new Set<Follower>()

/** A client's view of one job. It reads `answer` from where it stands; nobody queues anything on its behalf. */
export interface Follower {
  /**
   * There is more in `answer`. `text` is what its text has grown by just now: a long one is built of pieces, and cutting the
   * last off would put all of them together every time.
   */
  grown(text?: string): void
  /** The record is final (or parked) and `answer` complete. */
  ended(): void
  waits(waiting: Waiting): void
  /** The answer begins anew: who has read of it must be told. */
  discarded(): void
  /** This coordinator stops and the job goes on without it. */
  stopped(): void
  /** More of the prompt is computed. */
  prefilled?(prefill: Prefill): void
  /** An attempt started, or the job went back into the line. */
  changed?(): void
}

function sizeOf({ reasoning, reasoningSignature, refusal, toolCalls, logprobs, asides, annotations }: AnswerDelta): number {
  let size = (reasoning?.length ?? 0) + (reasoningSignature?.length ?? 0) + (refusal?.length ?? 0)
  for (const { arguments: grown = '' } of toolCalls ?? []) size += grown.length
  if (asides === undefined && annotations === undefined) return size + (logprobs?.length ?? 0) * LOGPROB_CHARS
  return size + JSON.stringify([asides, annotations, logprobs]).length
}

const WAITING_REQUESTS_CHARS = 32 * 1_024 * 1_024
// Of one that is on its way to its answer, for an attempt that may follow.
const SENT_REQUEST_CHARS = 65_536
// With some alternatives.
const LOGPROB_CHARS = 500
