import { isDeepStrictEqual } from 'node:util'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { badRequest, Fault, notFound } from '../core/fault.ts'
import type { FleetWorker } from '../core/fleet.ts'
import { stateOf } from '../core/provider-state.ts'
import { AUTO } from '../core/routing.ts'
import { findCredential } from '../store/credentials.ts'
import { recorded } from '../store/events.ts'
import {
  archiveProvider,
  changeProvider,
  drainProvider,
  findProvider,
  type ProviderModel,
  type ProviderRecord,
  type ProviderSettings,
  saveProvider,
} from '../store/providers.ts'
import { type Caller, requireAdmin, requireOperator } from './auth.ts'
import { type Body, fieldsOf, inside, integer, isObject, listOf, named, numeric, oneOf, required, text } from './body.ts'
import type { ApiParts } from './health.ts'
import { type Making, madeOnce } from './made-once.ts'
import { newestFirst, pageOfAll, readQuery, rfc3339 } from './paging.ts'
import { spendLimit } from './policies.ts'
import { cutOff, drainWorker } from './workers.ts'
import { quotaLeft } from '../quota-left.ts'
import { ABILITIES, type Ability } from '../../proto/abilities.ts'

type ById = { Params: { id: string } }

/** Everything that can run a job, in one shape: workers, which say themselves what they are, and clouds, which are set here. */
export function registerProviders(app: FastifyInstance, parts: ApiParts): void {
  app.get('/api/providers', async (request) => {
    const query = readQuery(request.query, ['limit', 'cursor'])
    const placeOf = ({ name, id }: FleetWorker): string =>
      newestFirst(parts.registry.findProvider(id)?.createdMs ?? parts.facts.find(id)?.joinedMs ?? 0, `${name} ${id}`)
    return pageOfAll(parts.scheduler.providers, query, placeOf, (provider) => providerView(parts, provider))
  })

  app.get<ById>('/api/providers/:id', async (request) => {
    return providerView(parts, anyProvider(parts, request.params.id))
  })

  app.post('/api/providers', async (request, reply) => {
    requireAdmin(request.caller)
    const fields = fieldsOf(request.body, ['name', 'tier', ...SETTINGS])
    const name = named(required(text(fields, 'name', 64), 'name'))
    refuseTier(fields)
    refuseWorkerName(parts, name)
    const settings = await readSettings(parts, fields, null)
    const make = async ({ id, claim }: Making): Promise<ProviderRecord> => {
      const provider = await recorded(
        parts.db,
        (query) => saveProvider(query, { id, name, ...settings }),
        (saved) => parts.newEvent('provider.created', request.caller.actor, eventDetails(saved)),
        claim,
      )
      if (provider === undefined) throw new Fault('name_taken', `There is a provider "${name}" already.`, { status: 409, param: 'name' })
      return provider
    }
    const made = await madeOnce(parts, request, make, (id) => findProvider(parts.db, id))
    await parts.reload()
    return reply.code(201).send(viewOf(parts, made))
  })

  app.patch<ById>('/api/providers/:id', async (request) => {
    const known = await getProvider(parts, request)
    const fields = fieldsOf(request.body, ['name', 'tier', ...SETTINGS])
    // Who reads, changes and writes back says these too; a provider of another name is another provider.
    if (fields.name !== undefined && fields.name !== known.name)
      throw badRequest('unchangeable', `A provider keeps its name: this one is "${known.name}". Make a new one and archive this.`, 'name')
    if (fields.tier !== undefined) refuseTier(fields)
    const settings = await readSettings(parts, fields, known)
    const same = Object.entries(settings).every(([name, value]) => isDeepStrictEqual(value, known[name as keyof ProviderSettings]))
    if (same) return viewOf(parts, known)
    const changed = await recorded(
      parts.db,
      (query) => changeProvider(query, known.id, settings),
      (provider) => parts.newEvent('provider.changed', request.caller.actor, eventDetails(provider)),
    )
    await parts.reload()
    return viewOf(parts, changed ?? known)
  })

  app.post<ById>('/api/providers/:id/drain', async (request) => {
    requireOperator(request.caller)
    const provider = anyProvider(parts, request.params.id)
    if (provider.cloud === null) drainWorker(parts, provider, request.caller)
    else await setDrained(parts, provider, request.caller, true)
    return providerView(parts, provider)
  })

  app.post<ById>('/api/providers/:id/activate', async (request) => {
    requireOperator(request.caller)
    const provider = anyProvider(parts, request.params.id)
    if (provider.cloud === null)
      throw new Fault('provider_is_worker', `${provider.name} is a worker: one that was drained is started again on its host.`, {
        status: 409,
      })
    await setDrained(parts, provider, request.caller, false)
    // Who activates it wants it tried now, whatever it said of itself.
    if (provider.hold?.state === 'cooling_down' || provider.hold?.state === 'over_quota') parts.dispatcher.holdProvider(provider.id, null)
    return providerView(parts, provider)
  })

  app.post<ById>('/api/providers/:id/revoke', async (request) => {
    requireAdmin(request.caller)
    const provider = anyProvider(parts, request.params.id)
    if (provider.cloud !== null)
      throw new Fault('provider_is_cloud', `${provider.name} is a cloud: revoke the credential that it is called with, or archive it.`, {
        status: 409,
      })
    await cutOff(parts, provider, request.caller)
    return providerView(parts, provider)
  })

  app.delete<ById>('/api/providers/:id', async (request) => {
    const known = await getProvider(parts, request)
    await recorded(
      parts.db,
      (query) => archiveProvider(query, known.id),
      () => parts.newEvent('provider.archived', request.caller.actor, { provider: known.name }),
    )
    await parts.reload()
    return { id: known.id, name: known.name, archived: true }
  })
}

const SETTINGS = ['kind', 'base_url', 'credential', 'models', 'max_parallel', 'limits', 'first_token_timeout_s', 'next_token_timeout_s']
/** Null takes every limit away. */
const NO_LIMITS = { requests_per_minute: null, tokens_per_minute: null, spend_micros_per_day: null, spend_micros_per_month: null }
const LIMITS = ['requests_per_minute', 'tokens_per_minute', 'spend_micros_per_day', 'spend_micros_per_month']

function refuseTier(fields: Body): void {
  const tier = required(oneOf(fields, 'tier', ['gpu', 'cli', 'cloud']), 'tier')
  if (tier !== 'cloud')
    throw badRequest(
      'unsupported_tier',
      `A provider of the tier ${tier} is a worker: start one with "holdfast worker" and it is a provider of its own name. Only cloud providers are set here.`,
      'tier',
    )
}

/** Names are what people pin requests to: two providers of one name would be a pin to neither. */
function refuseWorkerName(parts: ApiParts, name: string): void {
  if ([...parts.scheduler.workers].some((worker) => worker.name === name))
    throw new Fault('name_taken', `A worker is named "${name}".`, { status: 409, param: 'name' })
}

/** What is not named in a change stays as it was. */
async function readSettings(parts: ApiParts, fields: Body, known: ProviderRecord | null): Promise<ProviderSettings> {
  const given = <T>(name: string, read: () => T | null, was: T | null, otherwise: T | null): T | null =>
    fields[name] === undefined ? (known === null ? otherwise : was) : read()
  const credential = given('credential', () => text(fields, 'credential', 64), known?.credential ?? null, null)
  const limits = fields.limits === undefined ? {} : inside('limits', () => fieldsOf(fields.limits ?? NO_LIMITS, LIMITS))
  const limit = (name: string, read: () => number | null, was: number | null | undefined): number | null =>
    limits[name] === undefined ? (was ?? null) : inside('limits', read)
  const most = Number.MAX_SAFE_INTEGER
  const settings: ProviderSettings = {
    kind: required(
      given('kind', () => oneOf(fields, 'kind', ['openai', 'anthropic']), known?.kind ?? null, null),
      'kind',
    ),
    baseUrl: required(
      given('base_url', () => baseUrl(fields), known?.baseUrl ?? null, null),
      'base_url',
    ),
    credential: credential === null ? null : await credentialName(parts, credential),
    models: given('models', () => readModels(fields.models), known?.models ?? null, null),
    maxParallel: given('max_parallel', () => integer(fields, 'max_parallel', 1, 100_000), known?.maxParallel ?? null, 16) ?? 16,
    requestsPerMinute: limit('requests_per_minute', () => integer(limits, 'requests_per_minute', 1, 10_000_000), known?.requestsPerMinute),
    tokensPerMinute: limit('tokens_per_minute', () => integer(limits, 'tokens_per_minute', 1, 2_000_000_000), known?.tokensPerMinute),
    spendMicrosPerDay: limit('spend_micros_per_day', () => integer(limits, 'spend_micros_per_day', 0, most), known?.spendMicrosPerDay),
    spendMicrosPerMonth: limit('spend_micros_per_month', () => spendLimit(limits, 'spend_micros_per_month'), known?.spendMicrosPerMonth),
    firstTokenTimeoutMs: given(
      'first_token_timeout_s',
      () => seconds(fields, 'first_token_timeout_s'),
      known?.firstTokenTimeoutMs ?? null,
      null,
    ),
    nextTokenTimeoutMs: given(
      'next_token_timeout_s',
      () => seconds(fields, 'next_token_timeout_s'),
      known?.nextTokenTimeoutMs ?? null,
      null,
    ),
  }
  refuseUnpriced(settings)
  return settings
}

/** A limit on money that no model of the provider is known to cost would never be reached. */
function refuseUnpriced({ models, spendMicrosPerDay, spendMicrosPerMonth }: ProviderSettings): void {
  if (spendMicrosPerDay === null && spendMicrosPerMonth === null) return
  if (models?.some(({ inputMicros, outputMicros }) => (inputMicros ?? 0) > 0 || (outputMicros ?? 0) > 0) === true) return
  throw badRequest(
    'limit_without_prices',
    'A spend limit needs models with input_micros_per_mtok and output_micros_per_mtok: of others it is not known what they cost.',
    'limits',
  )
}

function seconds(fields: Body, name: string): number | null {
  const value = numeric(fields, name, 0.1, 86_400)
  return value === null ? null : Math.round(value * 1000)
}

/** An admin's own word: it may be a private address, and holds no secret. */
function baseUrl(fields: Body): string {
  const value = required(text(fields, 'base_url', 2_000), 'base_url')
  const url = URL.parse(value)
  if (url === null || (url.protocol !== 'http:' && url.protocol !== 'https:'))
    throw badRequest('invalid_url', 'base_url must be an http:// or https:// address.', 'base_url')
  if (url.username !== '' || url.password !== '' || url.search !== '' || url.hash !== '')
    throw badRequest(
      'invalid_url',
      'base_url must hold no user name, password, query or fragment; a key belongs into a credential.',
      'base_url',
    )
  return value.replace(/\/+$/, '')
}

async function credentialName(parts: ApiParts, idOrName: string): Promise<string> {
  const credential = await findCredential(parts.db, idOrName)
  if (credential === undefined)
    throw badRequest('unknown_credential', `There is no credential "${idOrName}": POST /api/credentials makes one.`, 'credential')
  return credential.name
}

function readModels(value: unknown): ProviderModel[] | null {
  if (value === null) return null
  if (!Array.isArray(value) || value.length === 0 || value.length > MODELS_MAX)
    throw badRequest(
      'invalid_models',
      `models must be a list of 1 to ${MODELS_MAX} models; leave it out to offer all that the provider lists.`,
      'models',
    )
  const models = value.map((item: unknown, index) => {
    const at = `models[${index}]`
    if (!isObject(item)) throw badRequest('invalid_models', `${at} must be an object with a name.`, at)
    return inside(at, () => readModel(item))
  })
  const twice = models.find((model, index) => models.findIndex((other) => other.name === model.name) !== index)
  if (twice !== undefined) throw badRequest('duplicate_model', `models names "${twice.name}" twice.`, 'models')
  return models
}

const MODELS_MAX = 1_000
const MODEL_FIELDS = [
  'name',
  'upstream',
  'input_micros_per_mtok',
  'output_micros_per_mtok',
  'cached_input_micros_per_mtok',
  'cache_write_input_micros_per_mtok',
  'abilities',
  'first_token_timeout_s',
  'next_token_timeout_s',
]

function readModel(value: unknown): ProviderModel {
  const fields = fieldsOf(value, MODEL_FIELDS)
  const name = required(text(fields, 'name', 200), 'name')
  if (name === AUTO)
    throw badRequest(
      'invalid_name',
      `"${AUTO}" means any model and cannot name one: choose another name, and say the provider's own as upstream.`,
      'name',
    )
  return {
    name,
    upstream: text(fields, 'upstream', 200) ?? name,
    inputMicros: integer(fields, 'input_micros_per_mtok', 0, 1_000_000_000_000),
    outputMicros: integer(fields, 'output_micros_per_mtok', 0, 1_000_000_000_000),
    cachedInputMicros: integer(fields, 'cached_input_micros_per_mtok', 0, 1_000_000_000_000),
    cacheWriteInputMicros: integer(fields, 'cache_write_input_micros_per_mtok', 0, 1_000_000_000_000),
    abilities: listOf<Ability>(fields, 'abilities', ABILITIES, ABILITIES.length),
    firstTokenTimeoutMs: seconds(fields, 'first_token_timeout_s'),
    nextTokenTimeoutMs: seconds(fields, 'next_token_timeout_s'),
  }
}

/** Calls under way finish; asked for twice, it is so once. */
async function setDrained(parts: ApiParts, { id, name }: FleetWorker, { actor }: Caller, drained: boolean): Promise<void> {
  await recorded(
    parts.db,
    (query) => drainProvider(query, id, drained ? actor : null),
    () => ({ ...parts.newEvent('provider.changed', actor, { provider: name, draining: drained }), provider: name }),
  )
  await parts.reload()
}

function anyProvider(parts: ApiParts, id: string): FleetWorker {
  const found = [...parts.scheduler.providers].find((provider) => provider.id === id || provider.name === id)
  if (found === undefined) throw notFound(`There is no provider ${id.slice(0, 100)}.`)
  return found
}

async function getProvider(parts: ApiParts, request: FastifyRequest<ById>): Promise<ProviderRecord> {
  requireAdmin(request.caller)
  const { id } = request.params
  const provider = await findProvider(parts.db, id)
  if (provider !== undefined) return provider
  if ([...parts.scheduler.workers].some((worker) => worker.id === id || worker.name === id))
    throw new Fault('provider_is_worker', `${id.slice(0, 100)} is a worker: its own settings say what it offers.`, { status: 409 })
  throw notFound(`There is no provider ${id.slice(0, 100)}.`)
}

function viewOf(parts: ApiParts, record: ProviderRecord): Record<string, unknown> {
  const provider = parts.scheduler.findWorker(record.id)
  return provider === undefined ? settingsView(parts, record) : providerView(parts, provider)
}

/** State, reason and until when: the whole provider's, or what all of its models share. */
function providerView(parts: ApiParts, provider: FleetWorker): Record<string, unknown> {
  const nowMs = parts.now()
  const record = parts.registry.findProvider(provider.id)
  const offers = [...provider.models.values()].map(({ offer }) => offer)
  const { state, reason: said, untilMs } = stateOf(provider, nowMs)
  const reason = state === 'draining' || state === 'offline' ? (parts.facts.find(provider.id)?.reason ?? said) : said
  const tiers = [...new Set(offers.map((offer) => offer.tier ?? 'gpu'))]
  return {
    id: provider.id,
    name: provider.name,
    tier: provider.cloud === null ? (tiers[0] ?? 'gpu') : 'cloud',
    kind: provider.cloud === null ? 'worker' : record?.kind,
    state,
    reason,
    until: rfc3339(untilMs),
    busy: provider.occupied.size,
    max_parallel: provider.cloud?.maxParallel ?? offers.reduce((sum, offer) => sum + offer.slots, 0),
    quota_remaining_ratio: quotaLeft(provider, parts.facts, parts.purses, nowMs),
    ...(record === undefined
      ? { models: offers.map((offer) => ({ name: offer.name, slots: offer.slots, state: offer.state })) }
      : settingsView(parts, record)),
  }
}

function settingsView(parts: ApiParts, record: ProviderRecord): Record<string, unknown> {
  return {
    id: record.id,
    name: record.name,
    tier: 'cloud',
    kind: record.kind,
    base_url: record.baseUrl,
    credential: record.credential,
    models: (record.models ?? parts.cloud.discovered(record.id)).map(modelView),
    discovered: parts.cloud.discovered(record.id).map((model) => model.upstream),
    max_parallel: record.maxParallel,
    limits: limitsView(record),
    spent_micros_today: parts.purses.view(`provider:${record.name}`).dayMicros,
    first_token_timeout_s: inSeconds(record.firstTokenTimeoutMs),
    next_token_timeout_s: inSeconds(record.nextTokenTimeoutMs),
    created_at: rfc3339(record.createdMs),
  }
}

function modelView(model: ProviderModel): Record<string, unknown> {
  const { name, upstream, inputMicros, outputMicros, cachedInputMicros = null, cacheWriteInputMicros = null, abilities } = model
  const { firstTokenTimeoutMs = null, nextTokenTimeoutMs = null } = model
  return {
    name,
    upstream,
    input_micros_per_mtok: inputMicros,
    output_micros_per_mtok: outputMicros,
    ...(cachedInputMicros === null ? {} : { cached_input_micros_per_mtok: cachedInputMicros }),
    ...(cacheWriteInputMicros === null ? {} : { cache_write_input_micros_per_mtok: cacheWriteInputMicros }),
    ...(abilities === null ? {} : { abilities }),
    ...(firstTokenTimeoutMs === null ? {} : { first_token_timeout_s: firstTokenTimeoutMs / 1000 }),
    ...(nextTokenTimeoutMs === null ? {} : { next_token_timeout_s: nextTokenTimeoutMs / 1000 }),
  }
}

function eventDetails(provider: ProviderRecord): Record<string, unknown> {
  const { name, kind, baseUrl, credential, maxParallel, models } = provider
  return {
    provider: name,
    kind,
    base_url: baseUrl,
    credential,
    max_parallel: maxParallel,
    models: models?.map(modelView) ?? null,
    limits: limitsView(provider),
    first_token_timeout_s: inSeconds(provider.firstTokenTimeoutMs),
    next_token_timeout_s: inSeconds(provider.nextTokenTimeoutMs),
  }
}

function limitsView(record: ProviderRecord): Record<string, unknown> {
  return {
    requests_per_minute: record.requestsPerMinute,
    tokens_per_minute: record.tokensPerMinute,
    spend_micros_per_day: record.spendMicrosPerDay,
    spend_micros_per_month: record.spendMicrosPerMonth,
  }
}

function inSeconds(ms: number | null): number | null {
  return ms === null ? null : ms / 1000
}
