import type { ModelMessage } from '../proto/link.ts'
import { prefixesOf } from '../proto/prefix-hash.ts'
import type { GenerationRequest } from '../proto/request.ts'
import type { Generation, GenerationSink } from './engines/engine.ts'
import type { OpenedModel } from './models.ts'

/** The worker's models and their slots. The worker owns them: it refuses what does not fit, whoever asks. */
export class Slots {
  readonly #models = new Map<string, ServedModel>()
  draining = false

  add(opened: OpenedModel): void {
    this.#models.set(opened.name, {
      opened,
      busy: 0,
      promptTokens: 0,
      cachedTokens: 0,
      generatedTokens: 0,
      reported: { tokens: 0, atMs: performance.now(), rates: { tokensPerSecond: 0, firstTokenMs: 0 } },
      firstTokens: [],
      conversations: [],
    })
  }

  /** Why a job for the model cannot begin now; undefined when it can. */
  refusal(model: string): 'draining' | 'unknown_model' | 'not_ready' | 'full' | undefined {
    const served = this.#models.get(model)
    if (this.draining) return 'draining'
    if (served === undefined) return 'unknown_model'
    const { phase, slots } = served.opened.engine.state()
    if (phase !== 'ready') return 'not_ready'
    return served.busy >= slots ? 'full' : undefined
  }

  /** Runs one generation in a slot, which is free again when the sink hears its end. */
  generate(model: string, key: string, request: GenerationRequest, continuation: readonly number[], sink: GenerationSink): Generation {
    const served = this.#models.get(model)
    if (served === undefined) throw new Error(`model ${model} is not served here`)
    served.busy += 1
    const beganMs = performance.now()
    let first = true
    let generated = 0
    rememberConversation(served, request)
    return served.opened.engine.generate(key, request, continuation, {
      accepted: (promptTokens, cachedTokens) => {
        served.promptTokens += promptTokens
        served.cachedTokens += cachedTokens
        sink.accepted(promptTokens, cachedTokens)
      },
      prefilled: (processed, total) => sink.prefilled?.(processed, total),
      tokens: (ids, text, delta) => {
        served.generatedTokens += ids.length
        generated += ids.length
        if (first) served.firstTokens.push(performance.now() - beganMs)
        first = false
        sink.tokens(ids, text, delta)
      },
      finished: (end) => {
        served.busy -= 1
        // Engines that do not say which tokens they are come in pieces of any size.
        served.generatedTokens += Math.max(0, end.completionTokens - continuation.length - generated)
        sink.finished(end)
      },
      failed: (failure) => {
        served.busy -= 1
        sink.failed(failure)
      },
    })
  }

  get busy(): number {
    let busy = 0
    for (const served of this.#models.values()) busy += served.busy
    return busy
  }

  /** What goes into greeting and heartbeat. */
  models(): ModelMessage[] {
    return [...this.#models.values()].map((served) => {
      const state = served.opened.engine.state()
      // What a process held is gone with it.
      if (state.phase !== 'ready') served.conversations = []
      return {
        name: served.opened.name,
        engine: served.opened.kind,
        state: state.phase,
        detail: state.detail,
        slots: state.slots,
        busy: served.busy,
        contextTokens: state.contextTokens,
        maxTokenBytes: state.maxTokenBytes,
        sha256: state.sha256,
        sizeBytes: state.sizeBytes,
        prefixes: [...new Set(served.conversations.flat())],
        restarts: state.restarts,
        abilities: [...state.abilities],
        tier: state.tier ?? 'gpu',
        startsOver: state.startsOver === true,
        limitedUntilMs: state.quota?.limitedUntilMs ?? 0,
        hasQuota: state.quota !== undefined && state.quota.remainingRatio !== null,
        quotaRatio: state.quota?.remainingRatio ?? 0,
        needsPerson: state.needsPerson === true,
        firstTokenTimeoutMs: served.opened.firstTokenTimeoutMs ?? 0,
        nextTokenTimeoutMs: served.opened.nextTokenTimeoutMs ?? 0,
        promptTokens: served.promptTokens,
        cachedTokens: served.cachedTokens,
        generatedTokens: served.generatedTokens,
        ...ratesOf(served),
      }
    })
  }

  async close(): Promise<void> {
    await Promise.all([...this.#models.values()].map((served) => served.opened.engine.close()))
  }
}

type ServedModel = {
  opened: OpenedModel
  busy: number
  promptTokens: number
  cachedTokens: number
  generatedTokens: number
  reported: { tokens: number; atMs: number; rates: Rates }
  firstTokens: number[]
  /** Prefixes of the conversations its slots were last used for, the latest at the end. */
  conversations: string[][]
}

/** A slot holds its last conversation until another one needs it, so as many as there are slots are still there. */
function rememberConversation(served: ServedModel, request: GenerationRequest): void {
  const prefixes = prefixesOf(request.prompt)
  const [opening] = prefixes
  if (opening === undefined) return
  // The next turn of a conversation takes the place of the one before it.
  const earlier = served.conversations.findIndex((conversation) => prefixes.includes(conversation.at(-1) ?? ''))
  if (earlier >= 0) served.conversations.splice(earlier, 1)
  served.conversations.push(prefixes)
  if (served.conversations.length > served.opened.engine.state().slots) served.conversations.shift()
}

type Rates = { tokensPerSecond: number; firstTokenMs: number }

/** Of the last second or more: several coordinators ask, and each change is told at once. */
function ratesOf(served: ServedModel): Rates {
  const nowMs = performance.now()
  const seconds = (nowMs - served.reported.atMs) / 1000
  if (seconds < RATES_OVER_S) return served.reported.rates
  const tokensPerSecond = (served.generatedTokens - served.reported.tokens) / seconds
  const firsts = served.firstTokens.splice(0)
  const firstTokenMs = firsts.length === 0 ? 0 : firsts.reduce((sum, ms) => sum + ms, 0) / firsts.length
  served.reported = { tokens: served.generatedTokens, atMs: nowMs, rates: { tokensPerSecond, firstTokenMs } }
  return served.reported.rates
}

// Heartbeats of several coordinators come at any time; of one they come no sooner than this by default.
const RATES_OVER_S = 0.9
