import type Anthropic from '@anthropic-ai/sdk'
import type OpenAI from 'openai'
import { fitting } from '../../proto/abilities.ts'
import { anthropicBody } from '../../proto/anthropic-wire-request.ts'
import { AnthropicReader } from '../../proto/anthropic-wire-answer.ts'
import { OpenAiReader } from '../../proto/openai-wire-answer.ts'
import { OPENAI_PATHS, openAiBody } from '../../proto/openai-wire-request.ts'
import type { GenerationRequest } from '../../proto/request.ts'
import type { WireEnd, WireFailure, WirePiece } from '../../proto/wire.ts'
import { type CallInit, type UpstreamAnswer, upstreamFetch } from './upstream-http.ts'

/** One cloud API: the only door to the vendors' packages, which know how each wants to be asked and refuses. */
export interface Upstream {
  /** The answer as it comes, after its head; any status of 400 and above rejects with the package's own error. */
  ask(request: GenerationRequest, model: UpstreamModel, options: AskOptions): Promise<UpstreamAnswer>
  reader(): UpstreamReader
  /** Spares the first call the reading of its package. */
  prepare(): Promise<void>
  /** The names of its models. */
  list(signal: AbortSignal): Promise<string[]>
}

type UpstreamModel = { upstream: string; abilities: readonly string[] | null }
type AskOptions = { stream: boolean; seedGiven: boolean; signal: AbortSignal; onSent?: () => void }

export type UpstreamReader = {
  readonly end: WireEnd | null
  /** It has said its last word. */
  readonly done: boolean
  readData(data: string): WirePiece | WireFailure | null
  read(body: unknown): WirePiece | WireFailure | null
}

export function openUpstream(kind: 'openai' | 'anthropic', baseUrl: string, secret: string | null): Upstream {
  return kind === 'openai' ? new OpenAiUpstream(baseUrl, secret) : new AnthropicUpstream(baseUrl, secret)
}

/**
 * The packages are read when a cloud is first called: they are twenty megabytes of memory and a third of a second of the
 * start, and many an installation has no cloud.
 */
const vendors = { openai: () => import('openai'), anthropic: () => import('@anthropic-ai/sdk') }

/** The scheduler decides about retries and about what is too slow; nothing is read from the coordinator's environment. */
const PATIENT = { maxRetries: 0, timeout: 2_147_483_647, fetch: upstreamFetch }

class OpenAiUpstream implements Upstream {
  readonly #baseUrl: string
  readonly #secret: string | null
  readonly #maxTokensName: 'max_tokens' | 'max_completion_tokens'
  #opened: Promise<OpenAI> | undefined

  constructor(baseUrl: string, secret: string | null) {
    this.#baseUrl = baseUrl
    this.#secret = secret
    this.#maxTokensName = maxTokensName(baseUrl)
  }

  async #client(): Promise<OpenAI> {
    this.#opened ??= vendors.openai().then(({ OpenAI }) => {
      const headers = this.#secret === null ? { defaultHeaders: { authorization: null } } : {}
      const nothing = { organization: null, project: null, webhookSecret: null }
      return new OpenAI({ ...PATIENT, apiKey: this.#secret ?? 'none', baseURL: this.#baseUrl, ...nothing, ...headers })
    })
    return this.#opened
  }

  async ask(request: GenerationRequest, model: UpstreamModel, { stream, seedGiven, signal, onSent }: AskOptions): Promise<UpstreamAnswer> {
    const client = await this.#client()
    // An open server, which honours more than the vendor's own cloud, was declared with abilities that only those have.
    const extended = model.abilities?.some((ability) => OPEN_SERVERS_ONLY.has(ability)) === true
    const streams = stream && request.prompt.kind !== 'embed' && request.prompt.kind !== 'rank'
    // One whose abilities were not told has them all.
    const wished = model.abilities === null ? request : fitting(request, model.abilities)
    const body = openAiBody(wished, model.upstream, streams, { seedGiven, extended, maxTokensName: this.#maxTokensName })
    return answerTo(client.post(OPENAI_PATHS[request.prompt.kind], { body, stream: streams, fetchOptions: callInit(signal, onSent) }))
  }

  reader(): UpstreamReader {
    return new OpenAiReader()
  }

  async prepare(): Promise<void> {
    await this.#client()
  }

  async list(signal: AbortSignal): Promise<string[]> {
    const client = await this.#client()
    const { data } = await client.models.list({ signal, timeout: LIST_TIMEOUT_MS })
    return data.map((model) => model.id)
  }
}

/** The newer name is what OpenAI's own models of reasoning demand; most other servers know the older one alone. */
export function maxTokensName(baseUrl: string): 'max_tokens' | 'max_completion_tokens' {
  return /(^|\.)api\.openai\.com$/.test(URL.parse(baseUrl)?.hostname ?? '') ? 'max_completion_tokens' : 'max_tokens'
}

class AnthropicUpstream implements Upstream {
  readonly #baseUrl: string
  readonly #secret: string | null
  #opened: Promise<Anthropic> | undefined

  constructor(baseUrl: string, secret: string | null) {
    // The package adds /v1 itself; people paste addresses with it and without.
    this.#baseUrl = baseUrl.replace(/\/v1$/, '')
    this.#secret = secret
  }

  async #client(): Promise<Anthropic> {
    this.#opened ??= vendors.anthropic().then(({ Anthropic }) => {
      const headers = this.#secret === null ? { defaultHeaders: { 'x-api-key': null, authorization: null } } : {}
      return new Anthropic({ ...PATIENT, apiKey: this.#secret ?? 'none', authToken: null, baseURL: this.#baseUrl, ...headers })
    })
    return this.#opened
  }

  async ask(request: GenerationRequest, model: UpstreamModel, { stream, signal, onSent }: AskOptions): Promise<UpstreamAnswer> {
    const client = await this.#client()
    const body = anthropicBody(request, model.upstream, stream)
    const { betas = [] } = request.verbatim?.dialect === 'anthropic' ? request.verbatim : {}
    const headers = betas.length === 0 ? {} : { headers: { 'anthropic-beta': betas.join(',') } }
    return answerTo(client.post('/v1/messages', { body, stream, ...headers, fetchOptions: callInit(signal, onSent) }))
  }

  reader(): UpstreamReader {
    return new AnthropicReader()
  }

  async prepare(): Promise<void> {
    await this.#client()
  }

  async list(signal: AbortSignal): Promise<string[]> {
    const client = await this.#client()
    const names: string[] = []
    for await (const model of client.models.list({ limit: 1_000 }, { signal, timeout: LIST_TIMEOUT_MS })) names.push(model.id)
    return names
  }
}

/** Their types know no such member; what they do not know they hand on. */
function callInit(call: AbortSignal, onSent: AskOptions['onSent']): object {
  return { call, ...(onSent === undefined ? {} : { onSent }) } satisfies CallInit
}

/** What `upstreamFetch` made, as the packages hand it on. */
function answerTo(call: { asResponse(): Promise<Response> }): Promise<UpstreamAnswer> {
  return call.asResponse() as Promise<unknown> as Promise<UpstreamAnswer>
}

const OPEN_SERVERS_ONLY = new Set(['top_k', 'min_p', 'repeat_penalty', 'min_tokens', 'rerank'])
const LIST_TIMEOUT_MS = 30_000
