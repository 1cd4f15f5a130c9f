import type { AnswerDelta, FinishReason } from '../../proto/answer.ts'
import type { GenerationRequest } from '../../proto/request.ts'
import { SseReader } from '../../proto/sse.ts'
import { storable, type WireFailure, type WirePiece, type WireUsage } from '../../proto/wire.ts'
import { numbersOf } from '../../proto/wire-numbers.ts'
import { COORDINATOR_RESTARTED, SPEND_LIMIT } from '../core/attempt-errors.ts'
import type { Setback } from '../core/cooldown.ts'
import type { Hold } from '../core/fleet.ts'
import type { JobError, JobId, WorkerId } from '../core/job.ts'
import { costOf, estimatedCost, isFree, promptTokens } from './price.ts'
import { openUpstream, type Upstream, type UpstreamReader } from './upstream.ts'
import { redacted } from '../../proto/redaction.ts'
import { BrokenOff, failure, pageInPlaceOfAnswer, type Refusal, refusalOf, refusalWithin, usedUpUntil } from './upstream-errors.ts'
import type { UpstreamAnswer } from './upstream-http.ts'

/**
 * The cloud tier: each running attempt is one call to a provider. It speaks to the dispatcher as workers do; what it has
 * begun ends with the coordinator's process, and nobody can go on from there.
 */
export class CloudTier {
  readonly #parts: CloudParts
  readonly #providers = new Map<WorkerId, Provider>()
  readonly #calls = new Map<string, Call>()
  #isClosing = false

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
      discovery: undefined,
    }
    this.#providers.set(access.id, provider)
    if (!access.isUsable) return
    // Who is told which models to offer needs no list, and a key that may only make answers may not read it.
    // What goes wrong in making it ready is told by the first call.
    if (access.models.length > 0) void provider.upstream.prepare().catch(() => {})
    else provider.discovery = setTimeout(() => void this.#discover(provider, onModels), 0)
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
    if (this.#isClosing) return
    const provider = this.#providers.get(id)
    const offered = provider === undefined ? undefined : modelOf(provider, model)
    if (provider === undefined || offered === undefined) {
      const error = failure('provider_lacks_model', `The provider does not offer ${model} any more.`, true)
      setImmediate(() => this.#parts.reports.attemptFailed(id, { job, attempt }, error))
      return
    }
    const estimate = estimatedCost(offered, generation)
    // What is free is not closed by a purse that is empty.
    const pay = isFree(offered) ? () => {} : this.#parts.reserve(id, job, estimate)
    if (pay === null) {
      setImmediate(() => this.#parts.reports.attemptRefused(id, { job, attempt, reason: SPEND_LIMIT }))
      return
    }
    const call: Call = {
      id,
      job,
      attempt,
      offered,
      generation,
      pay: once(pay),
      // What is told at once cannot be told from what has stalled: limits on silence need a stream.
      stream: stream || (isTimed(provider, offered) && canStream(generation)),
      seedGiven,
      abort: new AbortController(),
      isSent: false,
      reader: provider.upstream.reader(),
      pieces: 0,
      isPatient: false,
      beganMs: performance.now(),
    }
    this.#calls.set(keyOf(job, attempt), call)
    void this.#run(id, provider, call).finally(() => this.#calls.delete(keyOf(job, attempt)))
  }

  cancel(id: WorkerId, job: JobId, attempt: number): void {
    const call = this.#calls.get(keyOf(job, attempt))
    if (call === undefined || call.abort.signal.aborted) return
    // A caller who hangs up before the end has spent what was made by then.
    if (call.isSent) this.#bill(id, call)
    else call.pay(0)
    call.abort.abort()
  }

  /** What an answer without an end has cost, as near as that can be known. */
  #bill(id: WorkerId, call: Call): void {
    const told = storableUsage(call.reader.usage ?? untold(call))
    // What was told of the answer at its beginning is less than what has come since.
    const micros = paidFor(call, { ...told, completionTokens: Math.max(told.completionTokens, call.pieces) }, call.reader.usage)
    this.#parts.reports.attemptCost(id, call, micros)
    call.pay(micros)
  }

  /** This process ends: what its calls have cost by now is told, while that can still be written. */
  breakOff(): void {
    this.#isClosing = true
    for (const { id, job, attempt } of [...this.#calls.values()]) this.cancel(id, job, attempt)
  }

  /** An attempt that this process does not know ended with the one before it. */
  resume(id: WorkerId, job: JobId, attempt: number): void {
    if (!this.#calls.has(keyOf(job, attempt)))
      setImmediate(() => this.#parts.reports.attemptFailed(id, { job, attempt }, COORDINATOR_RESTARTED))
  }

  async #run(id: WorkerId, provider: Provider, call: Call): Promise<void> {
    const { job, attempt, offered, abort } = call
    let isAnswered = false
    try {
      const { stream, seedGiven, generation } = call
      const response = await provider.upstream.ask(generation, offered, {
        ...{ stream, seedGiven, signal: abort.signal },
        onSent: () => (call.isSent = true),
      })
      isAnswered = true
      this.#noteLimits(id, response)
      const outcome = await this.#read(id, response, call)
      if ('end' in outcome) {
        call.pay(outcome.end.costMicros)
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
      if (abort.signal.aborted || outcome.isUnanswered === true) call.pay(0)
      else this.#bill(id, call)
      this.#refused(id, provider, call, outcome.refusal)
    } catch (cause) {
      if (isAnswered && !abort.signal.aborted) this.#bill(id, call)
      else call.pay(0)
      this.#refused(id, provider, call, refusalOf(isAnswered ? new BrokenOff(cause) : cause, this.#parts.now()))
    }
  }

  #refused(id: WorkerId, provider: Provider, { job, attempt, abort }: Call, said: Refusal): void {
    if (abort.signal.aborted) {
      // Whoever told it to stop does not listen any more; the slot is free from here on.
      this.#parts.reports.attemptFailed(id, { job, attempt }, failure('cancelled', 'The call was cancelled.', true))
      return
    }
    const refusal = withoutSecret(said, provider)
    if (refusal.hold !== undefined && this.#providers.get(id) !== provider) {
      // Asked as it was set before: that says nothing about what it is now.
      const hold: Setback = { state: 'cooling_down', untilMs: this.#parts.now(), why: 'it was set anew meanwhile' }
      this.#parts.reports.attemptFailed(id, { job, attempt }, refusal.error, hold)
      return
    }
    this.#note(provider, refusal)
    this.#parts.reports.attemptFailed(id, { job, attempt }, refusal.error, refusal.hold)
  }

  #note(provider: Provider, { badCredential, error }: Refusal): void {
    if (badCredential === true) this.#parts.log.warn(`The provider "${provider.access.name}" refused its credential: ${error.message}`)
  }

  /** A limit that its headers say is used up is not worth the next call. */
  #noteLimits(id: WorkerId, answer: UpstreamAnswer): void {
    const untilMs = usedUpUntil({ get: (name) => answer.header(name) }, this.#parts.now())
    if (untilMs !== null && untilMs > this.#parts.now())
      this.#parts.reports.holdProvider(id, { state: 'over_quota', untilMs, why: 'its rate limit is used up, as its answers say' })
  }

  async #read(id: WorkerId, response: UpstreamAnswer, call: Call): Promise<Outcome> {
    const { reader, generation } = call
    if (response.header('content-type')?.includes('text/html') === true) {
      await response.read(() => false)
      return { refusal: pageInPlaceOfAnswer(response.status), isUnanswered: true }
    }
    if (!canStream(generation)) return this.#readNumbers(id, await response.json(), call)
    let failed: WireFailure | null = null
    if (call.stream) {
      const events = new SseReader()
      // A gateway may answer a stream with the whole of it, or with what went wrong; others only call their events so.
      const isCalledJson = response.header('content-type')?.includes('application/json') === true
      const body: { isWhole: boolean | undefined; parts: Uint8Array[] } = { isWhole: isCalledJson ? undefined : false, parts: [] }
      const take = (bytes: Uint8Array): boolean => {
        body.isWhole ??= beginsJson(bytes)
        if (body.isWhole !== false) return body.parts.push(bytes) > 0
        const pieces: Read[] = []
        for (const event of events.push(bytes)) {
          const piece = event.kind === 'event' ? reader.readData(event.data) : event
          pieces.push(piece)
          if (piece?.kind === 'failure') break
        }
        failed = this.#grow(id, call, pieces)
        // A connection that is kept open after the last word keeps nobody waiting.
        return failed === null && !reader.done
      }
      await response.read(take).catch((cause: unknown) => {
        // One that breaks after all was said takes nothing from an answer that is whole.
        if (reader.end === null || call.abort.signal.aborted) throw cause
      })
      if (body.isWhole === true)
        failed = this.#grow(id, call, [reader.read(JSON.parse(new TextDecoder().decode(Buffer.concat(body.parts))))])
    } else failed = this.#grow(id, call, [reader.read(await response.json())])
    if (failed !== null) return this.#failed(failed, call)
    const { end } = reader
    if (end === null)
      return { refusal: { error: failure('provider_cut_answer', 'The provider closed the connection before its answer had ended.', true) } }
    return { end: endOf(call, end) }
  }

  #readNumbers(id: WorkerId, body: unknown, call: Call): Outcome {
    const read = numbersOf(body, call.generation.prompt)
    if (read.kind === 'failure') return this.#failed(read, call)
    this.#grow(id, call, [{ kind: 'piece', text: read.text }])
    const usage = { ...untold(call), completionTokens: 0, ...(read.promptTokens === null ? {} : { promptTokens: read.promptTokens }) }
    return { end: endOf(call, { finishReason: 'stop', usage }) }
  }

  /** An error in place of an answer costs no more than one with a status of its own. */
  #failed(failed: WireFailure, { pieces, reader }: Call): Outcome {
    const isUnanswered = failed.code === 'upstream_error' && pieces === 0 && reader.usage === null
    return { refusal: refusalWithin(failed, this.#parts.now(), pieces > 0), isUnanswered }
  }

  /** What came in one piece of the connection goes on as one; answers what is wrong with it, or null. */
  #grow(id: WorkerId, call: Call, pieces: Read[]): WireFailure | null {
    let text = ''
    let count = 0
    const deltas: AnswerDelta[] = []
    let failed: WireFailure | null = null
    for (const piece of pieces) {
      if (piece === null) continue
      if (piece.kind === 'failure') {
        failed = piece
        break
      }
      count += 1
      text += piece.text
      if (piece.delta !== undefined) deltas.push(piece.delta)
    }
    const isPatient = isPatientAfter(pieces.at(-1))
    if (count > 0 || (isPatient && !call.isPatient && call.pieces > 0)) {
      const { job, attempt } = call
      // The provider tells no token ids: pieces are counted instead, and nobody continues from them.
      const tokenIds = count === 1 ? ONE_PIECE : Array.from<number>({ length: count }).fill(0)
      // Some tell at the beginning how long the prompt is.
      const { promptTokens = 0, cachedTokens = 0 } = call.reader.usage ?? {}
      const growth = { first: call.pieces, tokenIds, text, deltas, promptTokens, cachedTokens, isPatient }
      this.#parts.reports.attemptGrew(id, { job, attempt, ...growth })
      call.pieces += count
      call.isPatient = isPatient
    }
    return failed
  }

  /** Soon again where that failed, and then less and less often. */
  async #discover(provider: Provider, onModels: (models: CloudModel[]) => void, failures = 0): Promise<void> {
    const { id, name } = provider.access
    let failed = failures + 1
    try {
      const names = await provider.upstream.list(AbortSignal.timeout(DISCOVERY_TIMEOUT_MS))
      if (this.#providers.get(id) !== provider) return
      provider.discovered = names
        .slice(0, DISCOVERED_MAX)
        .map((upstream) => ({ name: upstream, upstream, inputMicros: null, outputMicros: null, abilities: null }))
      failed = 0
      onModels(provider.discovered)
    } catch (cause) {
      if (this.#providers.get(id) !== provider) return
      const refusal = withoutSecret(refusalOf(cause, this.#parts.now()), provider)
      this.#parts.log.warn(`The models of the provider "${name}" could not be listed: ${refusal.error.message}`)
      this.#note(provider, refusal)
      const untilMs = this.#parts.now() + retryMs(failed)
      if (refusal.badCredential === true)
        this.#parts.reports.holdProvider(id, { state: 'parked', untilMs: null, why: refusal.error.message })
      else if (refusal.hold?.state === 'offline') this.#parts.reports.holdProvider(id, { state: 'offline', untilMs, why: refusal.hold.why })
    }
    // Without a list of its own it has no models until this succeeds.
    const waitMs = failed === 0 || provider.discovered.length > 0 ? DISCOVERY_EVERY_MS : retryMs(failed)
    provider.discovery = setTimeout(() => void this.#discover(provider, onModels, failed), waitMs).unref()
  }
}

function retryMs(failures: number): number {
  return Math.min(DISCOVERY_EVERY_MS, DISCOVERY_RETRY_MS * 2 ** Math.min(failures - 1, 10))
}

/** Prices per million tokens; null: nobody set one. */
export type CloudModel = {
  name: string
  upstream: string
  inputMicros: number | null
  outputMicros: number | null
  /** Of what the provider read from its cache, or wrote to it; absent or null: as all of the prompt. */
  cachedInputMicros?: number | null
  cacheWriteInputMicros?: number | null
  abilities: string[] | null
  firstTokenTimeoutMs?: number | null
  nextTokenTimeoutMs?: number | null
}

export type CloudAccess = {
  id: WorkerId
  name: string
  kind: 'openai' | 'anthropic'
  baseUrl: string
  secret: string | null
  models: CloudModel[]
  /** How long it may be silent is limited by a setting of its own. */
  isTimed: boolean
  /** False: it has no secret to be asked with. */
  isUsable: boolean
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
  discovery: NodeJS.Timeout | undefined
}

type Call = {
  id: WorkerId
  job: JobId
  attempt: number
  offered: CloudModel
  generation: GenerationRequest
  /** Once, what it has cost, in place of what was set aside for it; later words change nothing. */
  pay(micros: number): void
  stream: boolean
  seedGiven: boolean
  abort: AbortController
  /** Before that nothing is paid for it. */
  isSent: boolean
  reader: UpstreamReader
  pieces: number
  /** It was told that the next piece may take as long as a first one. */
  isPatient: boolean
  beganMs: number
}

/** Null: nothing for the answer. */
type Read = WirePiece | WireFailure | null
type Outcome = { end: CallEnd } | { refusal: Refusal; isUnanswered?: boolean }

type CallEnd = {
  finishReason: FinishReason
  stopSequence: string | null
  promptTokens: number
  completionTokens: number
  cachedTokens: number
  reasoningTokens: number | null
  cacheWriteTokens?: number
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
  isPatient: boolean
}

type CloudParts = {
  /** The dispatcher, as workers' sessions know it too. */
  reports: {
    attemptGrew(provider: WorkerId, growth: Growth): void
    attemptFinished(provider: WorkerId, end: CallEnd & { job: JobId; attempt: number; tokens: number; text: string; totalMs: number }): void
    attemptFailed(provider: WorkerId, report: { job: JobId; attempt: number }, error: JobError, hold?: Setback): void
    attemptCost(provider: WorkerId, report: { job: JobId; attempt: number }, micros: number): void
    attemptRefused(provider: WorkerId, report: { job: JobId; attempt: number; reason: string }): void
    holdProvider(provider: WorkerId, hold: Hold): void
  }
  /** Sets an estimated price aside, and answers how to pay; null when somebody who pays for the job has nothing left. */
  reserve(provider: WorkerId, job: JobId, micros: number): ((paid: number) => void) | null
  now(): number
  log: { warn(text: string): void }
}

const ONE_PIECE = [0]
const BYTE_ORDER_MARK = new Set([0xef, 0xbb, 0xbf])
const DISCOVERY_EVERY_MS = 600_000
const DISCOVERY_RETRY_MS = 15_000
const DISCOVERY_TIMEOUT_MS = 30_000
const DISCOVERED_MAX = 2_000

/** An attempt that is told to stop while it fails must not pay twice. */
function once(pay: (micros: number) => void): (micros: number) => void {
  let paid = false
  return (micros) => {
    if (paid) return
    paid = true
    pay(micros)
  }
}

/** Undefined where nothing but white space came so far. */
function beginsJson(bytes: Uint8Array): boolean | undefined {
  // Perhaps behind a mark of its byte order.
  const first = bytes.find((byte) => byte > 0x20 && !BYTE_ORDER_MARK.has(byte))
  return first === undefined ? undefined : first === 0x7b || first === 0x5b
}

/** It is writing a call, whose arguments may come all at once after minutes; or all that came was a sign of life. */
function isPatientAfter(last: Read | undefined): boolean {
  return last == null || (last.kind === 'piece' && last.delta?.toolCalls !== undefined)
}

/** An estimate of what a provider does not tell. */
function untold({ generation, pieces }: Call): WireUsage {
  return { promptTokens: promptTokens(generation), completionTokens: pieces, cachedTokens: 0, reasoningTokens: null }
}

function canStream({ prompt }: GenerationRequest): boolean {
  return prompt.kind !== 'embed' && prompt.kind !== 'rank'
}

/** How long it may be silent is limited by a setting of its own. */
function isTimed({ access }: Provider, { firstTokenTimeoutMs = null, nextTokenTimeoutMs = null }: CloudModel): boolean {
  return access.isTimed || firstTokenTimeoutMs !== null || nextTokenTimeoutMs !== null
}

function harmless(text: string, { access: { secret } }: Provider): string {
  return redacted(text, secret ?? '', '[secret]')
}

/** Some providers repeat the key that they refuse. */
function withoutSecret(refusal: Refusal, provider: Provider): Refusal {
  const error = { ...refusal.error, message: harmless(refusal.error.message, provider) }
  if (refusal.hold === undefined) return { ...refusal, error }
  return { ...refusal, error, hold: { ...refusal.hold, why: harmless(refusal.hold.why, provider) } }
}

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
  const counted = storableUsage(usage ?? untold(call))
  const costMicros = paidFor(call, counted, usage)
  return { finishReason, stopSequence: stopSequence ?? null, ...counted, costMicros }
}

function paidFor({ offered }: Call, counted: WireUsage, told: WireUsage | null): number {
  return costOf(offered, counted) + (told?.beside === undefined ? 0 : costOf(offered, told.beside))
}

function storableUsage({ promptTokens, completionTokens, cachedTokens, reasoningTokens, cacheWriteTokens }: WireUsage): WireUsage {
  return {
    promptTokens: storable(promptTokens),
    completionTokens: storable(completionTokens),
    cachedTokens: storable(cachedTokens),
    reasoningTokens: reasoningTokens === null ? null : storable(reasoningTokens),
    ...(cacheWriteTokens === undefined ? {} : { cacheWriteTokens: storable(cacheWriteTokens) }),
  }
}
