import type { AnswerDelta, FinishReason } from '../../proto/answer.ts'
import { type GenerationRequest, textsOf } from '../../proto/request.ts'
import { SseReader } from '../../proto/sse.ts'
import type { WireFailure, WirePiece } from '../../proto/wire.ts'
import { COORDINATOR_RESTARTED } from '../core/attempt-errors.ts'
import type { Hold } from '../core/fleet.ts'
import type { JobError, JobId, WorkerId } from '../core/job.ts'
import { vectorsOf } from './embeddings.ts'
import { openUpstream, type Upstream, type UpstreamReader } from './upstream.ts'
import type { UpstreamAnswer } from './upstream-http.ts'
import { failure, type Refusal, refusalOf, usedUpUntil } from './upstream-errors.ts'

/**
 * The cloud tier: each running attempt is one call to a provider. It speaks to the dispatcher as workers do; what it has
 * begun ends with the coordinator's process, and nobody can go on from there.
 */
export class CloudTier {
  readonly #parts: CloudParts
  readonly #providers = new Map<WorkerId, Provider>()
  readonly #calls = new Map<string, Call>()

  constructor(parts: CloudParts) {
    this.#parts = parts
  }

  has(provider: WorkerId): boolean {
    return this.#providers.has(provider)
  }

  /** New, or with other settings or another secret; calls that run go on. `onModels` hears what it lists, now and then. */
  configure(access: CloudAccess, onModels: (models: CloudModel[]) => void): void {
    const known = this.#providers.get(access.id)
    clearTimeout(known?.discovery)
    const provider: Provider = {
      access,
      upstream: openUpstream(access.kind, access.baseUrl, access.secret),
      discovered: known?.discovered ?? [],
      refusals: 0,
      discovery: undefined,
    }
    this.#providers.set(access.id, provider)
    provider.discovery = setTimeout(() => void this.#discover(provider, onModels), 0)
  }

  remove(id: WorkerId): void {
    clearTimeout(this.#providers.get(id)?.discovery)
    this.#providers.delete(id)
  }

  /** What the provider listed last. */
  discovered(id: WorkerId): CloudModel[] {
    return this.#providers.get(id)?.discovered ?? []
  }

  close(): void {
    for (const { discovery } of this.#providers.values()) clearTimeout(discovery)
    for (const call of this.#calls.values()) call.abort.abort()
  }

  start(id: WorkerId, { job, attempt, model, request, generation = parsed(request), stream, seedGiven }: CloudStart): void {
    const provider = this.#providers.get(id)
    const offered = provider === undefined ? undefined : modelOf(provider, model)
    if (provider === undefined || offered === undefined) {
      const error = failure('provider_lacks_model', `The provider does not offer ${model} any more.`, true)
      setImmediate(() => this.#parts.reports.attemptFailed(id, { job, attempt }, error))
      return
    }
    const estimate = costOf(offered, promptTokens(generation), generation.maxTokens ?? ANSWER_TOKENS)
    if (!this.#parts.spending.reserve(id, job, estimate)) {
      setImmediate(() => this.#parts.reports.attemptRefused(id, { job, attempt, reason: 'spend_limit' }))
      return
    }
    const call: Call = {
      job,
      attempt,
      offered,
      generation,
      estimate,
      stream,
      seedGiven,
      abort: new AbortController(),
      pieces: 0,
      beganMs: performance.now(),
    }
    this.#calls.set(keyOf(job, attempt), call)
    void this.#run(id, provider, call).finally(() => this.#calls.delete(keyOf(job, attempt)))
  }

  cancel(_id: WorkerId, job: JobId, attempt: number): void {
    this.#calls.get(keyOf(job, attempt))?.abort.abort()
  }

  /** An attempt that this process does not know ended with the one before it. */
  resume(id: WorkerId, job: JobId, attempt: number): void {
    if (!this.#calls.has(keyOf(job, attempt)))
      setImmediate(() => this.#parts.reports.attemptFailed(id, { job, attempt }, COORDINATOR_RESTARTED))
  }

  async #run(id: WorkerId, provider: Provider, call: Call): Promise<void> {
    const { job, attempt, offered, estimate } = call
    let paid = 0
    try {
      const { stream, seedGiven, generation } = call
      const response = await provider.upstream.ask(generation, offered, { stream, seedGiven, signal: call.abort.signal })
      this.#noteLimits(id, response.headers)
      const outcome = await this.#read(id, provider.upstream.reader(), response, call)
      provider.refusals = 0
      if ('end' in outcome) {
        paid = outcome.end.costMicros
        this.#parts.spending.settle(id, job, estimate, paid)
        this.#parts.reports.attemptFinished(id, {
          job,
          attempt,
          tokens: call.pieces,
          text: '',
          totalMs: performance.now() - call.beganMs,
          ...outcome.end,
        })
        return
      }
      this.#parts.spending.settle(id, job, estimate, 0)
      this.#parts.reports.attemptFailed(id, { job, attempt }, outcome.error)
    } catch (cause) {
      this.#parts.spending.settle(id, job, estimate, paid)
      this.#refused(id, provider, call, cause)
    }
  }

  #refused(id: WorkerId, provider: Provider, { job, attempt, abort }: Call, cause: unknown): void {
    if (abort.signal.aborted) {
      // Whoever told it to stop does not listen any more; the slot is free from here on.
      this.#parts.reports.attemptFailed(id, { job, attempt }, failure('cancelled', 'The call was cancelled.', true))
      return
    }
    const refusal = refusalOf(cause, this.#parts.now(), provider.refusals)
    if (refusal.hold?.state === 'cooling_down') provider.refusals += 1
    this.#note(id, provider, refusal)
    this.#parts.reports.attemptFailed(id, { job, attempt }, refusal.error, refusal.hold)
  }

  #note(id: WorkerId, provider: Provider, { badCredential, error }: Refusal): void {
    if (badCredential !== true) return
    this.#parts.log.warn(`The provider "${provider.access.name}" refused its credential: ${error.message}`)
    this.#parts.onBadCredential(id)
  }

  /** A limit that its headers say is used up is not worth the next call. */
  #noteLimits(id: WorkerId, headers: Headers): void {
    const untilMs = usedUpUntil(headers, this.#parts.now())
    if (untilMs !== null && untilMs > this.#parts.now())
      this.#parts.reports.holdProvider(id, { state: 'over_quota', untilMs, why: 'its rate limit is used up, as its answers say' })
  }

  async #read(id: WorkerId, reader: UpstreamReader, response: UpstreamAnswer, call: Call): Promise<{ end: CallEnd } | { error: JobError }> {
    const { prompt } = call.generation
    if (prompt.kind === 'embed' || prompt.kind === 'rank') return this.#readVectors(id, await response.json(), call)
    let failed: JobError | null = null
    if (call.stream) {
      const events = new SseReader()
      await response.read((bytes) => {
        const pieces = events.push(bytes).map((event) => (event.kind === 'event' ? reader.readData(event.data) : event))
        failed = this.#grow(id, call, pieces)
        return failed === null
      })
    } else failed = this.#grow(id, call, [reader.read(await response.json())])
    if (failed !== null) return { error: failed }
    const { end } = reader
    if (end === null)
      return { error: failure('provider_cut_answer', 'The provider closed the connection before its answer had ended.', true) }
    return { end: endOf(call, end) }
  }

  #readVectors(id: WorkerId, body: unknown, call: Call): { end: CallEnd } | { error: JobError } {
    const read = vectorsOf(body, call.generation.prompt)
    if (read === null)
      return { error: failure('upstream_malformed', 'The provider answered without the vectors or scores asked for.', true) }
    this.#grow(id, call, [{ kind: 'piece', text: read.text }])
    const usage = {
      promptTokens: read.promptTokens ?? promptTokens(call.generation),
      completionTokens: 0,
      cachedTokens: 0,
      reasoningTokens: null,
    }
    return { end: endOf(call, { finishReason: 'stop', usage }) }
  }

  /** What came in one piece of the connection goes on as one; answers what is wrong with it, or null. */
  #grow(id: WorkerId, call: Call, pieces: (WirePiece | WireFailure | null)[]): JobError | null {
    let text = ''
    let count = 0
    const deltas: AnswerDelta[] = []
    let failed: JobError | null = null
    for (const piece of pieces) {
      if (piece === null) continue
      if (piece.kind === 'failure') {
        failed = failure(piece.code, piece.message, piece.retryable, piece.providerStatus)
        break
      }
      count += 1
      text += piece.text
      if (piece.delta !== undefined) deltas.push(piece.delta)
    }
    if (count > 0) {
      const { job, attempt } = call
      // The provider tells no token ids: pieces are counted instead, and nobody continues from them.
      const tokenIds = count === 1 ? ONE_PIECE : Array.from<number>({ length: count }).fill(0)
      this.#parts.reports.attemptGrew(id, { job, attempt, first: call.pieces, tokenIds, text, deltas, promptTokens: 0, cachedTokens: 0 })
      call.pieces += count
    }
    return failed
  }

  async #discover(provider: Provider, onModels: (models: CloudModel[]) => void): Promise<void> {
    const { id, name } = provider.access
    try {
      const names = await provider.upstream.list(AbortSignal.timeout(DISCOVERY_TIMEOUT_MS))
      if (this.#providers.get(id) !== provider) return
      provider.discovered = names
        .slice(0, DISCOVERED_MAX)
        .map((upstream) => ({ name: upstream, upstream, inputMicros: 0, outputMicros: 0, abilities: null }))
      onModels(provider.discovered)
    } catch (cause) {
      if (this.#providers.get(id) !== provider) return
      const refusal = refusalOf(cause, this.#parts.now(), 0)
      this.#parts.log.warn(`The models of the provider "${name}" could not be listed: ${refusal.error.message}`)
      if (refusal.badCredential === true && refusal.hold !== undefined) {
        this.#note(id, provider, refusal)
        this.#parts.reports.holdProvider(id, refusal.hold)
      }
    }
    provider.discovery = setTimeout(() => void this.#discover(provider, onModels), DISCOVERY_EVERY_MS).unref()
  }
}

export type CloudModel = { name: string; upstream: string; inputMicros: number; outputMicros: number; abilities: string[] | null }

export type CloudAccess = {
  id: WorkerId
  name: string
  kind: 'openai' | 'anthropic'
  baseUrl: string
  secret: string | null
  models: CloudModel[]
}

export type CloudStart = {
  job: JobId
  attempt: number
  model: string
  /** As JSON, and as it was read where that is at hand. */
  request: string
  generation?: GenerationRequest
  stream: boolean
  seedGiven: boolean
}

type Provider = {
  access: CloudAccess
  upstream: Upstream
  discovered: CloudModel[]
  /** In a row, of those that did not say until when. */
  refusals: number
  discovery: NodeJS.Timeout | undefined
}

type Call = {
  job: JobId
  attempt: number
  offered: CloudModel
  generation: GenerationRequest
  estimate: number
  stream: boolean
  seedGiven: boolean
  abort: AbortController
  pieces: number
  beganMs: number
}

type CallEnd = {
  finishReason: FinishReason
  stopSequence: string | null
  promptTokens: number
  completionTokens: number
  cachedTokens: number
  reasoningTokens: number | null
  costMicros: number
}

type Growth = {
  job: JobId
  attempt: number
  first: number
  tokenIds: number[]
  text: string
  deltas: readonly AnswerDelta[]
  promptTokens: number
  cachedTokens: number
}

type CloudParts = {
  /** The dispatcher, as workers' sessions know it too. */
  reports: {
    attemptGrew(provider: WorkerId, growth: Growth): void
    attemptFinished(provider: WorkerId, end: CallEnd & { job: JobId; attempt: number; tokens: number; text: string; totalMs: number }): void
    attemptFailed(provider: WorkerId, report: { job: JobId; attempt: number }, error: JobError, hold?: Hold): void
    attemptRefused(provider: WorkerId, report: { job: JobId; attempt: number; reason: string }): void
    holdProvider(provider: WorkerId, hold: Hold): void
  }
  spending: {
    /** Sets an estimated price aside; false when somebody who pays for the job has nothing left. */
    reserve(provider: WorkerId, job: JobId, micros: number): boolean
    settle(provider: WorkerId, job: JobId, reserved: number, paid: number): void
  }
  onBadCredential(provider: WorkerId): void
  now(): number
  log: { warn(text: string): void }
}

const ONE_PIECE = [0]
const DISCOVERY_EVERY_MS = 600_000
const DISCOVERY_TIMEOUT_MS = 30_000
const DISCOVERED_MAX = 2_000
const ANSWER_TOKENS = 256
const BYTES_PER_TOKEN = 4

function parsed(request: string): GenerationRequest {
  return JSON.parse(request) as GenerationRequest
}

function keyOf(job: JobId, attempt: number): string {
  return `${job}/${attempt}`
}

function modelOf({ access, discovered }: Provider, name: string): CloudModel | undefined {
  return [...access.models, ...discovered].find((model) => model.name === name)
}

/** Where the provider tells no usage, its answer is estimated: a bill of nothing would be further from the truth. */
function endOf(call: Call, { finishReason, stopSequence, usage }: NonNullable<UpstreamReader['end']>): CallEnd {
  const told = usage ?? {
    promptTokens: promptTokens(call.generation),
    completionTokens: call.pieces,
    cachedTokens: 0,
    reasoningTokens: null,
  }
  const costMicros = costOf(call.offered, told.promptTokens, told.completionTokens)
  return { finishReason, stopSequence: stopSequence ?? null, ...told, costMicros }
}

/** In millionths of a dollar, rounded up: prices are per million tokens. */
function costOf(model: CloudModel, promptTokenCount: number, completionTokens: number): number {
  return Math.ceil((promptTokenCount * model.inputMicros + completionTokens * model.outputMicros) / 1_000_000)
}

function promptTokens(request: GenerationRequest): number {
  return Math.ceil(textsOf(request.prompt).reduce((bytes, text) => bytes + Buffer.byteLength(text), 0) / BYTES_PER_TOKEN)
}
