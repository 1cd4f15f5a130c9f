import { isDeepStrictEqual } from 'node:util'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { badRequest, Fault, notFound } from '../core/fault.ts'
import type { Tier } from '../core/job.ts'
import { DEFAULT_PATIENCE, type Opening, type Patience, TIERS } from '../core/tiers.ts'
import { recorded } from '../store/events.ts'
import { archivePolicy, changePolicy, findPolicy, type PolicyRecord, savePolicy } from '../store/policies.ts'
import { requireAdmin } from './auth.ts'
import { isFree } from '../tiers/price.ts'
import { type Body, fieldsOf, integer, isObject, named, required, text } from './body.ts'
import type { ApiParts } from './health.ts'
import { type Making, madeOnce } from './made-once.ts'
import { newestFirst, pageOfAll, readQuery, rfc3339 } from './paging.ts'

type ById = { Params: { id: string } }

/** Policies of patience: when a tier opens to a job, and how much may be spent under one in a day. */
export function registerPolicies(app: FastifyInstance, parts: ApiParts): void {
  app.get('/api/policies', async (request) => {
    const query = readQuery(request.query, ['limit', 'cursor'])
    const placeOf = ({ createdMs, name }: PolicyRecord): string => newestFirst(createdMs, name)
    const view = (policy: PolicyRecord): unknown => policyView(parts, policy)
    return { ...pageOfAll(parts.registry.policies.values(), query, placeOf, view), default: tiersView(DEFAULT_PATIENCE) }
  })

  app.get<ById>('/api/policies/:id', async (request) => policyView(parts, await getPolicy(parts, request)))

  app.post('/api/policies', async (request, reply) => {
    requireAdmin(request.caller)
    const fields = fieldsOf(request.body, ['name', 'tiers', 'spend_micros_per_day'])
    const name = named(required(text(fields, 'name', 64), 'name'))
    const settings = { tiers: readTiers(fields.tiers), spendMicrosPerDay: spendLimit(fields, 'spend_micros_per_day') }
    refusePenniless(parts, settings)
    const make = async ({ id, claim }: Making): Promise<PolicyRecord> => {
      const policy = await recorded(
        parts.db,
        (query) => savePolicy(query, { id, name, ...settings }),
        (saved) => changed(parts, request, saved, 'created'),
        claim,
      )
      if (policy === undefined) throw new Fault('name_taken', `There is a policy "${name}" already.`, { status: 409, param: 'name' })
      return policy
    }
    const made = await madeOnce(parts, request, make, (id) => findPolicy(parts.db, id))
    await parts.reload()
    return reply.code(201).send(policyView(parts, made))
  })

  app.patch<ById>('/api/policies/:id', async (request) => {
    requireAdmin(request.caller)
    const known = await getPolicy(parts, request)
    const fields = fieldsOf(request.body, ['tiers', 'spend_micros_per_day'])
    const settings = {
      tiers: fields.tiers === undefined ? known.tiers : readTiers(fields.tiers),
      spendMicrosPerDay: fields.spend_micros_per_day === undefined ? known.spendMicrosPerDay : spendLimit(fields, 'spend_micros_per_day'),
    }
    refusePenniless(parts, settings)
    if (isDeepStrictEqual(settings, { tiers: known.tiers, spendMicrosPerDay: known.spendMicrosPerDay })) return policyView(parts, known)
    const policy = await recorded(
      parts.db,
      (query) => changePolicy(query, known.id, settings),
      (now) => changed(parts, request, now, 'changed'),
    )
    await parts.reload()
    return policyView(parts, policy ?? known)
  })

  app.delete<ById>('/api/policies/:id', async (request) => {
    requireAdmin(request.caller)
    const known = await getPolicy(parts, request)
    const archived = await recorded(
      parts.db,
      (query) => archivePolicy(query, known.id),
      (policy) => changed(parts, request, policy, 'archived'),
    )
    if (archived === undefined)
      throw new Fault('policy_in_use', `A team is under the policy "${known.name}": give it another one first.`, { status: 409 })
    await parts.reload()
    return { ...policyView(parts, known), archived: true }
  })
}

export function spendLimit(fields: Body, name: string): number | null {
  return integer(fields, name, 0, Number.MAX_SAFE_INTEGER)
}

/** A tier that is not named never opens: what a policy allows is what it says. */
function readTiers(value: unknown): Patience {
  if (!isObject(value)) throw badRequest('invalid_tiers', `tiers must be an object with ${TIERS.join(', ')}.`, 'tiers')
  for (const name of Object.keys(value))
    if (!TIERS.includes(name as Tier))
      throw badRequest('unknown_tier', `tiers.${name.slice(0, 40)}: there are ${TIERS.join(', ')}.`, `tiers.${name.slice(0, 40)}`)
  const openings = TIERS.map((tier) => [tier, value[tier] === undefined ? 'never' : readOpening(value[tier], `tiers.${tier}`)] as const)
  const tiers = Object.fromEntries(openings) as Record<Tier, Opening>
  if (TIERS.every((tier) => tiers[tier] === 'never'))
    throw badRequest('policy_never_opens', 'Every tier of the policy is "never": a job under it could never run.', 'tiers')
  const [first] = TIERS.filter((tier) => tiers[tier] !== 'never')
  if (first !== undefined && tiers[first] === 'when_offline')
    throw badRequest(
      'policy_never_opens',
      `tiers.${first} opens when the tiers before it are offline, and none before it ever opens: say "at_once".`,
      `tiers.${first}`,
    )
  return tiers
}

/** Nothing may be spent, and all that ever opens costs something, as far as is known. */
function refusePenniless(parts: ApiParts, { tiers, spendMicrosPerDay }: Pick<PolicyRecord, 'tiers' | 'spendMicrosPerDay'>): void {
  if (spendMicrosPerDay !== 0 || TIERS.some((tier) => tier !== 'cloud' && tiers[tier] !== 'never')) return
  if ([...parts.registry.providers].some(({ models }) => models?.some(isFree) === true)) return
  throw badRequest(
    'policy_never_opens',
    'Only the cloud opens under the policy, and nothing may be spent: a job under it could never run. Open another tier, let it spend something, or set the prices of a cloud model that is free to 0.',
    'spend_micros_per_day',
  )
}

function readOpening(value: unknown, at: string): Opening {
  if (value === 'at_once') return 0
  if (value === 'when_offline' || value === 'never') return value
  if (isObject(value) && Object.keys(value).join() === 'after_s' && typeof value.after_s === 'number') {
    if (value.after_s >= 0 && value.after_s <= AFTER_S_MAX) return Math.round(value.after_s * 1000)
    throw badRequest('out_of_range', `${at}.after_s must be from 0 to ${AFTER_S_MAX}.`, `${at}.after_s`)
  }
  throw badRequest('invalid_tiers', `${at} must be "at_once", {"after_s": seconds}, "when_offline" or "never".`, at)
}

const AFTER_S_MAX = 30 * 86_400

async function getPolicy(parts: ApiParts, request: FastifyRequest<ById>): Promise<PolicyRecord> {
  const policy = await findPolicy(parts.db, request.params.id)
  if (policy === undefined) throw notFound(`There is no policy ${request.params.id.slice(0, 100)}.`)
  return policy
}

function changed(parts: ApiParts, request: FastifyRequest, policy: PolicyRecord, what: string): ReturnType<ApiParts['newEvent']> {
  const { name, tiers, spendMicrosPerDay } = policy
  return parts.newEvent('policy.changed', request.caller.actor, {
    policy: name,
    what,
    tiers: tiersView(tiers),
    spend_micros_per_day: spendMicrosPerDay,
  })
}

function policyView(parts: ApiParts, policy: PolicyRecord): Record<string, unknown> {
  return {
    id: policy.id,
    name: policy.name,
    tiers: tiersView(policy.tiers),
    spend_micros_per_day: policy.spendMicrosPerDay,
    spent_micros_today: parts.purses.view(`policy:${policy.name}`).dayMicros,
    created_at: rfc3339(policy.createdMs),
  }
}

function tiersView(patience: Patience): Record<Tier, unknown> {
  const view = (opening: Opening): unknown =>
    typeof opening === 'string' ? opening : opening === 0 ? 'at_once' : { after_s: opening / 1000 }
  return { gpu: view(patience.gpu), cli: view(patience.cli), cloud: view(patience.cloud) }
}
