import type Anthropic from '@anthropic-ai/sdk'
import type OpenAI from 'openai'
import { fitting } from '../../proto/abilities.ts'
import { anthropicBody } from '../../proto/anthropic-wire-request.ts'
import { AnthropicReader } from '../../proto/anthropic-wire-answer.ts'
import { OpenAiReader } from '../../proto/openai-wire-answer.ts'
import { OPENAI_PATHS, openAiBody } from '../../proto/openai-wire-request.ts'
import type { GenerationRequest } from '../../proto/request.ts'
import { isJson, type Json, type WireEnd, type WireFailure, type WirePiece, type WireUsage } from '../../proto/wire.ts'
import { type RequestHead, requestHead, send, type UpstreamAnswer, upstreamFetch } from './upstream-http.ts'

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
  /** What was told of it so far, which is not the end of it. */
  readonly usage: WireUsage | null
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

/**
 * A package's own way to ask: its address, its headers and credential, its errors. Apart from their bodies it builds all
 * requests to one path alike, so that it is asked for one of each and no more.
 */
class PackageDoor<Client extends PackageClient> {
  readonly client: Client
  readonly #errors: PackageErrors
  readonly #heads = new Map<string, Promise<RequestHead>>()

  constructor(client: Client, errors: PackageErrors) {
    this.client = client
    this.#errors = errors
  }

  /** Rejects with the package's errors. */
  async post(path: string, body: unknown, { signal, onSent }: AskOptions, headers?: Record<string, string>): Promise<UpstreamAnswer> {
    const head = await this.#head(path)
    const text = JSON.stringify(body)
    onSent?.()
    const answer = await send(headers === undefined ? head : { ...head, headers: { ...head.headers, ...headers } }, text, signal).catch(
      (cause: unknown) => {
        throw new this.#errors.APIConnectionError({ cause: cause instanceof Error ? cause : new Error(String(cause)) })
      },
    )
    if (answer.ok) return answer
    const said = await answer.text().catch((error: unknown) => String(error))
    const json = parsed(said)
    throw this.#errors.APIError.generate(
      answer.status,
      json && this.#errors.told(json),
      json === undefined ? said : undefined,
      answer.headers,
    )
  }

  #head(path: string): Promise<RequestHead> {
    let head = this.#heads.get(path)
    if (head === undefined) {
      const build = async (): Promise<RequestHead> => {
        const { req, url } = await this.client.buildRequest({ method: 'post', path, body: {} })
        return requestHead(url, 'POST', req.headers as Headers)
      }
      head = build()
      this.#heads.set(path, head)
    }
    return head
  }
}

type PackageClient = {
  buildRequest(options: { method: 'post'; path: string; body: unknown }): Promise<{ req: { headers?: unknown }; url: string }>
}
/** The classes of a package's errors, both of which give them the same form. */
type PackageErrors = {
  APIConnectionError: new (facts: { cause: Error }) => Error
  /** The body of a refusal as the package reads it. */
  told: (body: Json) => object
  APIError: { generate(status: number, error: object | undefined, message: string | undefined, headers: Headers): Error }
}

/** Undefined unless it is an object in JSON, or a list of one, as Google answers. */
function parsed(text: string): Json | undefined {
  try {
    const told: unknown = JSON.parse(text)
    const value: unknown = Array.isArray(told) && told.length === 1 ? told[0] : told
    return isJson(value) ? value : undefined
  } catch {
    return undefined
  }
}

/** Its package reads nothing but `error`; servers of the dialect tell a refusal as `detail`, or as the body itself, as well. */
function openAiRefusal(body: Json): object {
  const told = body.error ?? body.detail ?? body
  return { error: typeof told === 'string' ? { message: told } : told }
}

class OpenAiUpstream implements Upstream {
  readonly #baseUrl: string
  readonly #secret: string | null
  readonly #maxTokensName: 'max_tokens' | 'max_completion_tokens'
  #opened: Promise<PackageDoor<OpenAI>> | undefined

  constructor(baseUrl: string, secret: string | null) {
    this.#baseUrl = baseUrl
    this.#secret = secret
    this.#maxTokensName = maxTokensName(baseUrl)
  }

  async #door(): Promise<PackageDoor<OpenAI>> {
    this.#opened ??= vendors.openai().then(({ OpenAI, APIConnectionError, APIError }) => {
      const headers = this.#secret === null ? { defaultHeaders: { authorization: null } } : {}
      const nothing = { organization: null, project: null, webhookSecret: null }
      const client = new OpenAI({ ...PATIENT, apiKey: this.#secret ?? 'none', baseURL: this.#baseUrl, ...nothing, ...headers })
      return new PackageDoor(client, { APIConnectionError, APIError, told: openAiRefusal })
    })
    return this.#opened
  }

  async ask(request: GenerationRequest, model: UpstreamModel, options: AskOptions): Promise<UpstreamAnswer> {
    const { stream, seedGiven } = options
    const door = await this.#door()
    // An open server, which honours more than the vendor's own cloud, was declared with abilities that only those have.
    const extended = model.abilities?.some((ability) => OPEN_SERVERS_ONLY.has(ability)) === true
    const streams = stream && request.prompt.kind !== 'embed' && request.prompt.kind !== 'rank'
    // One whose abilities were not told has them all.
    const wished = model.abilities === null ? request : fitting(request, model.abilities)
    const body = openAiBody(wished, model.upstream, streams, { seedGiven, extended, maxTokensName: this.#maxTokensName })
    return door.post(OPENAI_PATHS[request.prompt.kind], body, options)
  }

  reader(): UpstreamReader {
    return new OpenAiReader()
  }

  async prepare(): Promise<void> {
    await this.#door()
  }

  async list(signal: AbortSignal): Promise<string[]> {
    const { client } = await this.#door()
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
  #opened: Promise<PackageDoor<Anthropic>> | undefined

  constructor(baseUrl: string, secret: string | null) {
    // The package adds /v1 itself; people paste addresses with it and without.
    this.#baseUrl = baseUrl.replace(/\/v1$/, '')
    this.#secret = secret
  }

  async #door(): Promise<PackageDoor<Anthropic>> {
    this.#opened ??= vendors.anthropic().then(({ Anthropic, APIConnectionError, APIError }) => {
      const headers = this.#secret === null ? { defaultHeaders: { 'x-api-key': null, authorization: null } } : {}
      const client = new Anthropic({ ...PATIENT, apiKey: this.#secret ?? 'none', authToken: null, baseURL: this.#baseUrl, ...headers })
      return new PackageDoor(client, { APIConnectionError, APIError, told: (body) => body })
    })
    return this.#opened
  }

  async ask(request: GenerationRequest, model: UpstreamModel, options: AskOptions): Promise<UpstreamAnswer> {
    const door = await this.#door()
    const body = anthropicBody(request, model.upstream, options.stream)
    const { betas, userProfile } = request.verbatim?.dialect === 'anthropic' ? request.verbatim : {}
    const headers: Record<string, string> = {}
    if (betas !== undefined) headers['anthropic-beta'] = betas.join(',')
    if (userProfile !== undefined) headers['anthropic-user-profile-id'] = userProfile
    return door.post('/v1/messages', body, options, headers)
  }

  reader(): UpstreamReader {
    return new AnthropicReader()
  }

  async prepare(): Promise<void> {
    await this.#door()
  }

  async list(signal: AbortSignal): Promise<string[]> {
    const { client } = await this.#door()
    const names: string[] = []
    for await (const model of client.models.list({ limit: 1_000 }, { signal, timeout: LIST_TIMEOUT_MS })) names.push(model.id)
    return names
  }
}

const OPEN_SERVERS_ONLY = new Set(['top_k', 'min_p', 'repeat_penalty', 'min_tokens', 'rerank'])
const LIST_TIMEOUT_MS = 30_000
