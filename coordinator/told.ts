import { validate as isUuid } from 'uuid'
import { SAMPLING_ABILITIES, withPlain } from '../proto/abilities.ts'
import type { AnswerDelta, Aside, FinishReason, TokenLogprob, ToolCallDelta } from '../proto/answer.ts'
import {
  PROTOCOL_MAJOR,
  PROTOCOL_MINOR,
  type ToldHello,
  type ToldHost,
  type ToldModel,
  WORKER_NAME,
  WORKER_NAME_FORM,
} from '../proto/link.ts'
import { isJson, isShallow, type Json, TOOL_CALLS_MAX } from '../proto/wire.ts'
import type { Layer } from './core/fault.ts'
import type { Hold, ModelOffer } from './core/fleet.ts'
import type { JobError } from './core/job.ts'

/**
 * What workers say, read: a greeting that cannot be let in is told why, and of the rest whatever no honest worker says is
 * bounded before anybody keeps it, so that its nonsense costs a worker no more than the nonsense.
 */
export function problemWith(hello: ToldHello): string | undefined {
  if (hello.protocolMajor !== PROTOCOL_MAJOR)
    return `This coordinator speaks protocol ${PROTOCOL_MAJOR}.${PROTOCOL_MINOR}, the worker ${hello.protocolMajor}.${hello.protocolMinor}: upgrade the older one.`
  if (!isUuid(hello.worker)) return 'Hello.worker must be a UUID.'
  if (!WORKER_NAME.test(hello.name)) return `Hello.name ${WORKER_NAME_FORM}`
  if (hello.models.length > MODELS_MAX) return `A worker may offer at most ${MODELS_MAX} models, not ${hello.models.length}.`
  return hello.models.map(problemWithModel).find((problem) => problem !== undefined)
}

function problemWithModel({ name, sha256 }: ToldModel): string | undefined {
  if (name === '' || name.length > 200 || UNPRINTABLE.test(name) || !name.isWellFormed())
    return 'A model needs a name of 1 to 200 printable characters.'
  return sha256.length > 200 || UNPRINTABLE.test(sha256) ? 'Model.sha256 must be at most 200 printable characters.' : undefined
}

// PostgreSQL stores no NUL, and people read these in logs.
const UNPRINTABLE = /\p{Cc}/u

/** Those of its models that a greeting would be let in with. */
export function keptModels(models: ToldModel[]): ToldModel[] {
  return models
    .filter((model) => problemWithModel(model) === undefined)
    .slice(0, MODELS_MAX)
    .map((model) => ({
      ...model,
      engine: words(model.engine, 64),
      detail: words(model.detail, 1_000),
      abilities: model.abilities.slice(0, ABILITIES_MAX).map((ability) => words(ability, 64)),
      limitedUntilMs: time(model.limitedUntilMs),
    }))
}

export function keptHost(host: ToldHost | null): ToldHost | null {
  if (host === null) return null
  const gpus = host.gpus.slice(0, GPUS_MAX).map((gpu) => ({ ...gpu, name: words(gpu.name, 200) }))
  return { ...host, platform: words(host.platform, 200), cpuModel: words(host.cpuModel, 200), gpus }
}

export function keptHello(hello: ToldHello): ToldHello {
  return { ...hello, version: words(hello.version, 64), models: keptModels(hello.models), host: keptHost(hello.host) }
}

const GPUS_MAX = 64

/** PostgreSQL stores no NUL and no half of a character. */
export function words(text: string, lengthMax: number): string {
  return text.slice(0, lengthMax).replaceAll('\u0000', '\uFFFD').toWellFormed()
}

/** One that can be written as a date. */
function time(ms: number): number {
  return Math.min(ms, LATEST_MS)
}

const LATEST_MS = Date.UTC(9999, 11, 31)

const MODELS_MAX = 64

export function offerOf(model: ToldModel): ModelOffer {
  const state = model.state === 'ready' || model.state === 'loading' ? model.state : 'down'
  return {
    name: model.name,
    engine: model.engine,
    state,
    detail: model.detail,
    slots: state === 'ready' ? model.slots : 0,
    contextTokens: model.contextTokens,
    maxTokenBytes: model.maxTokenBytes,
    sha256: model.sha256,
    prefixes: model.prefixes.slice(0, PREFIXES_MAX),
    tier: model.tier === 'cli' ? 'cli' : 'gpu',
    abilities: abilitiesOf(model),
    startsOver: model.startsOver,
    limitedUntilMs: model.limitedUntilMs === 0 ? null : model.limitedUntilMs,
    needsPerson: state === 'down' && model.needsPerson,
    firstTokenTimeoutMs: model.firstTokenTimeoutMs === 0 ? null : model.firstTokenTimeoutMs,
    nextTokenTimeoutMs: model.nextTokenTimeoutMs === 0 ? null : model.nextTokenTimeoutMs,
  }
}

/** A model that is not let in gets nothing until a person has seen to it, and one whose limit is used up until then. */
export function holdOf({ code, message }: JobError, retryAtMs: number): Hold | undefined {
  const why = message.slice(0, 300)
  if (code === 'cli_not_authenticated' || code === 'upstream_not_authenticated') return { state: 'parked', untilMs: null, why }
  return retryAtMs === 0 ? undefined : { state: 'over_quota', untilMs: retryTime(retryAtMs), why }
}

/** A limit that is over already would have the next attempt run into it at once, and one beyond any window was misread. */
function retryTime(ms: number): number {
  const nowMs = Date.now()
  return Math.min(Math.max(ms, nowMs + RETRY_MIN_MS), nowMs + RETRY_MAX_MS)
}

const RETRY_MIN_MS = 1_000
const RETRY_MAX_MS = 32 * 86_400_000

/** A worker of protocol 1.1 does not say, and its engines had these. */
function abilitiesOf({ engine, tier, abilities }: ToldModel): readonly string[] {
  if (abilities.length === 0 && (engine === 'llama' || engine === 'fake')) return SAMPLING_ABILITIES
  return tier === 'cli' ? abilities : withPlain(abilities)
}

/** The offer of a worker as it was stored, by this version or an older one. */
export function storedOffer(offer: ModelOffer): ModelOffer {
  return offer.abilities === undefined || offer.tier === 'cli' ? offer : { ...offer, abilities: withPlain(offer.abilities) }
}

const ABILITIES_MAX = 100

// 64 of each of as many slots as one model ever has.
const PREFIXES_MAX = 8_192

export function finishReason(value: string): FinishReason {
  return FINISH_REASONS.find((reason) => reason === value) ?? 'cancelled'
}

const FINISH_REASONS: readonly FinishReason[] = ['stop', 'length', 'tool_calls', 'content_filter']

/** A worker that writes nonsense here loses the nonsense, not its session. */
export function readDeltas(json: string): AnswerDelta[] {
  try {
    const deltas: unknown = JSON.parse(json)
    return Array.isArray(deltas) ? deltas.filter(isJson).map(deltaOf) : []
  } catch {
    return []
  }
}

function deltaOf({ reasoning, reasoningSignature, refusal, toolCalls, logprobs, asides, annotations }: Json): AnswerDelta {
  return {
    ...(typeof reasoning === 'string' ? { reasoning } : {}),
    ...(typeof reasoningSignature === 'string' ? { reasoningSignature } : {}),
    ...(typeof refusal === 'string' ? { refusal } : {}),
    ...(Array.isArray(toolCalls) ? { toolCalls: toolCalls.filter(isJson).flatMap(callOf) } : {}),
    ...(Array.isArray(logprobs) ? { logprobs: logprobs.filter(isLogprob) } : {}),
    ...(Array.isArray(asides) ? { asides: asides.filter(isAside).slice(0, ASIDES_MAX) } : {}),
    ...(Array.isArray(annotations) ? { annotations: annotations.filter((one) => isShallow(one)).slice(0, ASIDES_MAX) } : {}),
  }
}

function isLogprob(value: unknown): value is TokenLogprob {
  return isAlternative(value) && 'top_logprobs' in value && Array.isArray(value.top_logprobs) && value.top_logprobs.every(isAlternative)
}

function isAlternative(value: unknown): value is Omit<TokenLogprob, 'top_logprobs'> {
  if (!isJson(value) || typeof value.token !== 'string' || typeof value.logprob !== 'number') return false
  return (value.bytes ?? null) === null || (Array.isArray(value.bytes) && value.bytes.every(isCount))
}

function isAside(value: unknown): value is Aside {
  if (!isJson(value) || !isCount(value.at)) return false
  switch (value.kind) {
    case 'thought':
      return isCount(value.reasoning) && isCount(value.signature)
    case 'citations':
      return Array.isArray(value.citations) && isShallow(value.citations)
    case 'block':
      return isJson(value.block) && isShallow(value.block)
    case 'end':
      return isJson(value.message) && isJson(value.usage) && isShallow(value) && ['string', 'undefined'].includes(typeof value.stopReason)
    default:
      return value.kind === 'text-block'
  }
}

function isCount(value: unknown): boolean {
  return Number.isInteger(value) && Number(value) >= 0
}

// Of one message.
const ASIDES_MAX = 1_000

function callOf({ index, id, name, arguments: grown, custom }: Json): ToolCallDelta[] {
  if (typeof index !== 'number' || !Number.isInteger(index) || index < 0 || index >= TOOL_CALLS_MAX) return []
  return [
    {
      index,
      ...(typeof id === 'string' ? { id } : {}),
      ...(typeof name === 'string' ? { name } : {}),
      ...(typeof grown === 'string' ? { arguments: grown } : {}),
      ...(custom === true ? { custom } : {}),
    },
  ]
}

export function layer(value: string): Layer {
  return value === 'ingress' || value === 'model' ? value : 'provider'
}
