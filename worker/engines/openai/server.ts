import type { Ability } from '../../../proto/abilities.ts'
import { isJson, type Json } from '../../../proto/wire.ts'
import { bodyOf, callHttp } from './http-call.ts'

/** What a server says of itself and of the model that it is asked for. */
export type ServerFacts = {
  model: string
  kind: ServerKind
  abilities: readonly Ability[]
  /** Absent: it does not say. */
  contextTokens?: number
  slots?: number
  /** It was asked for more about the model, and did not answer. */
  isPartial?: true
}

export type ServerKind = 'llama-server' | 'ollama' | 'other'

export type Probe = { kind: 'serves'; facts: ServerFacts } | { kind: 'loading' | 'unfit' | 'unreachable'; why: string }

export type Upstream = {
  /** Ends in /v1 as a rule, and never in a slash. */
  baseUrl: string
  key?: string
  /** Absent: the one that Holdfast's name of it is, or the only one that the server has. */
  model?: string
  /** What it is called here. */
  name?: string
}

/** Asks the server whether it is there, and what it serves. */
export async function probe(upstream: Upstream, signal: AbortSignal): Promise<Probe> {
  const within = AbortSignal.any([signal, AbortSignal.timeout(PROBE_WITHIN_MS)])
  let read: Read
  try {
    read = await readJson(upstream, `${upstream.baseUrl}/models`, within)
  } catch (error) {
    return { kind: 'unreachable', why: `${upstream.baseUrl} does not answer: ${reasonOf(error)}` }
  }
  const { status, json } = read
  if (status === 503) return { kind: 'loading', why: `${upstream.baseUrl} is not ready yet (status 503)` }
  if (status === 401 || status === 403)
    return {
      kind: 'unfit',
      why: `${upstream.baseUrl} refuses the key (status ${status}): set option key_env=NAME to the variable that holds it`,
    }
  if (status !== 200) return { kind: 'unreachable', why: `${upstream.baseUrl}/models answers with status ${status}` }
  const entry = entryOf(json, upstream)
  if (typeof entry === 'string') return { kind: 'unfit', why: entry }
  return { kind: 'serves', facts: await factsOf(upstream, entry, within) }
}

const PROBE_WITHIN_MS = 5_000
const ANSWER_BYTES_MAX = 4 * 1024 * 1024

type Entry = Json & { id: string }

/** The model's entry in the list, or what is wrong. */
function entryOf(json: unknown, { baseUrl, model, name }: Upstream): Entry | string {
  const entries = listOf(json).filter((entry): entry is Entry => isJson(entry) && typeof entry.id === 'string')
  const names = entries
    .slice(0, NAMES_SHOWN)
    .map((entry) => entry.id)
    .join(', ')
  if (model === undefined) {
    const [only] = entries
    const namesake = entries.length > 1 ? entries.find(({ id }) => id === name || id === `${name}:latest`) : undefined
    if (namesake !== undefined) return namesake
    if (only !== undefined && entries.length === 1) return only
    if (only === undefined) return `${baseUrl}/models lists no model`
    return `${baseUrl} serves ${entries.length} models; say which by openai:${baseUrl}#name: ${names}`
  }
  // Ollama's names may be called without the tag that every model has.
  const found = entries.find((entry) => entry.id === model) ?? entries.find((entry) => entry.id === `${model}:latest`)
  return found ?? `${baseUrl} serves no model "${model}"; it has ${names === '' ? 'none' : names}`
}

const NAMES_SHOWN = 10

function listOf(json: unknown): unknown[] {
  const list = isJson(json) ? (json.data ?? json.models) : json
  return Array.isArray(list) ? list : []
}

const KIND_OF: Record<string, ServerKind> = { llamacpp: 'llama-server', library: 'ollama' }

async function factsOf(upstream: Upstream, entry: Entry, signal: AbortSignal): Promise<ServerFacts> {
  const owner = typeof entry.owned_by === 'string' ? entry.owned_by.toLowerCase() : ''
  const kind = KIND_OF[owner] ?? 'other'
  const facts: ServerFacts = { model: entry.id, kind, abilities: ABILITIES_OF[kind] }
  const told = count(entry.max_model_len)
  if (told !== undefined) facts.contextTokens = told
  const root = upstream.baseUrl.replace(/\/v1$/, '')
  if (kind === 'llama-server') return { ...facts, ...(await llamaServerFacts(upstream, root, signal)) }
  if (owner === 'vllm') return { ...facts, ...(await vllmFacts(upstream, root, signal)) }
  return facts
}

/** Its properties say how many slots there are, the context of each, and what the model's template and eyes can do. */
async function llamaServerFacts(upstream: Upstream, root: string, signal: AbortSignal): Promise<Partial<ServerFacts>> {
  const read = await aside(upstream, `${root}/props`, signal)
  if (read === null) return { isPartial: true }
  const { json } = read
  if (!isJson(json)) return {}
  const slots = count(json.total_slots)
  const contextTokens = isJson(json.default_generation_settings) ? count(json.default_generation_settings.n_ctx) : undefined
  return {
    abilities: llamaAbilities(json),
    ...(slots === undefined ? {} : { slots }),
    ...(contextTokens === undefined ? {} : { contextTokens }),
  }
}

/** Tools that its model's template does not know it takes and leaves out in silence. */
function llamaAbilities({ chat_template_caps: caps, modalities }: Json): Ability[] {
  const isToolless = isJson(caps) && caps.supports_tools === false && caps.supports_tool_calls === false
  const known = ABILITIES_OF['llama-server'].filter((ability) => !isToolless || !TOOL_ABILITIES.includes(ability))
  return isJson(modalities) && modalities.vision === true ? [...known, 'images'] : known
}

const TOOL_ABILITIES: readonly Ability[] = ['tools', 'tool_choice', 'parallel_tool_calls']

/** Its metrics say how many sequences it runs at once, in the versions that expose it. */
async function vllmFacts(upstream: Upstream, root: string, signal: AbortSignal): Promise<Partial<ServerFacts>> {
  const read = await aside(upstream, `${root}/metrics`, signal)
  if (read === null) return { isPartial: true }
  const slots = count(Number(/max_num_seqs(?:="|(?:\{[^}\n]{0,500}\})? )(\d+)/.exec(read.text)?.[1]))
  return slots === undefined ? {} : { slots }
}

type Read = { status: number; text: string; json: unknown }

/** Null: no answer. What a server does not tell is no fault of it: what is known of it, options and defaults take its place. */
async function aside(upstream: Upstream, url: string, signal: AbortSignal): Promise<Read | null> {
  return readJson(upstream, url, AbortSignal.any([signal, AbortSignal.timeout(ASIDE_WITHIN_MS)])).catch(() => null)
}

const ASIDE_WITHIN_MS = 2_000

async function readJson({ key }: Upstream, url: string, signal: AbortSignal): Promise<Read> {
  const answer = await callHttp({ method: 'GET', url, signal, ...(key === undefined ? {} : { key }) })
  const text = (await bodyOf(answer, ANSWER_BYTES_MAX)) ?? ''
  return { status: answer.statusCode ?? 0, text, json: parsed(text) }
}

export function parsed(text: string): unknown {
  try {
    return JSON.parse(text) as unknown
  } catch {
    return undefined
  }
}

function count(value: unknown): number | undefined {
  return typeof value === 'number' && Number.isSafeInteger(value) && value > 0 ? value : undefined
}

/** `AggregateError` of a host with several addresses has no message of its own. */
export function reasonOf(error: unknown): string {
  const { message, code, name } = error as NodeJS.ErrnoException
  return message !== '' ? message : (code ?? name)
}

const BASE: readonly Ability[] = [
  'completions',
  'temperature',
  'temperature_above_1',
  'top_p',
  'seed',
  'frequency_penalty',
  'presence_penalty',
  'json_object',
  'json_schema',
  'tools',
]
const OPEN: readonly Ability[] = [
  ...BASE,
  'top_k',
  'min_p',
  'repeat_penalty',
  'logit_bias',
  'tool_choice',
  'parallel_tool_calls',
  'logprobs',
]

/** What such servers honour and do not silently leave out. */
export const ABILITIES_OF: Record<ServerKind, readonly Ability[]> = {
  ollama: BASE,
  'llama-server': OPEN,
  other: [...OPEN, 'min_tokens'],
}
