import type { FastifyInstance, FastifyRequest } from 'fastify'
import { validate as isUuid } from 'uuid'
import { badRequest, Fault, notFound } from '../core/fault.ts'
import { sha256 } from '../secrets.ts'
import { recorded } from '../store/events.ts'
import { changeKey, findKey, type KeyChange, type KeyKind, type KeyRecord, listKeys, revokeKey, saveKey } from '../store/keys.ts'
import { TIERS } from '../core/tiers.ts'
import { findTeam } from '../store/teams.ts'
import { findUser } from '../store/users.ts'
import { requireAdmin, SCOPES } from './auth.ts'
import { boundsView, type KeyBounds, refuseWider } from './key-bounds.ts'
import { type Body, fieldsOf, inside, integer, listOf, oneOf, required, text } from './body.ts'
import { spendLimit } from './policies.ts'
import type { ApiParts } from './health.ts'
import { madeOnce } from './made-once.ts'
import { page, readCursor, readLimit, readQuery, rfc3339 } from './paging.ts'

type ById = { Params: { id: string } }

/** Keys are shown once and stored as SHA-256; revoking one takes effect with its next request. */
export function registerKeys(app: FastifyInstance, parts: ApiParts): void {
  app.get('/api/keys', async (request) => {
    requireAdmin(request.caller)
    const query = readQuery(request.query, ['limit', 'cursor'])
    const limit = readLimit(query.limit)
    return page(await listKeys(parts.db, { before: readCursor(query.cursor), limit: limit + 1 }), limit, keyView)
  })

  app.get<ById>('/api/keys/:id', async (request) => {
    requireAdmin(request.caller)
    return keyView(await getKey(parts, request.params.id))
  })

  app.post('/api/keys', async (request, reply) => {
    requireAdmin(request.caller)
    const fields = fieldsOf(request.body, FIELDS)
    const kind = required(oneOf(fields, 'kind', KINDS), 'kind')
    const holder = await holderOf(parts, request, kind, fields)
    const limits = limitsOf(fields)
    const wanted = {
      name: required(text(fields, 'name', 128), 'name'),
      kind,
      ...holder,
      expiresMs: expiry(fields, parts.now()),
      scopes: allowed(listOf(fields, 'scopes', SCOPES, SCOPES.length), 'scopes'),
      models: allowed(listOf(fields, 'models', null, 1_000), 'models'),
      tiers: allowed(listOf(fields, 'tiers', TIERS, TIERS.length), 'tiers'),
      requestsPerMinute: inside('limits', () => integer(limits, 'requests_per_minute', 1, 10_000_000)),
      spendMicrosPerDay: inside('limits', () => spendLimit(limits, 'spend_micros_per_day')),
    }
    if (kind === 'personal' || kind === 'team') refuseWider(await ownKey(parts, request), wanted)
    const { team, owner } = holder
    const { id, key } = await madeOnce(
      parts,
      request,
      async (making) => {
        const key = newKey(kind, making.secret)
        const made = { ...wanted, id: making.id, hash: sha256(key), lastFour: key.slice(-4) }
        const stored = await recorded(
          parts.db,
          (query) => saveKey(query, made),
          (id) =>
            parts.newEvent('key.created', request.caller.actor, {
              ...{ key: id, name: made.name, kind, team, user: owner },
              ...(kind === 'worker' ? {} : boundsView(made)),
            }),
          making.claim,
        )
        if (stored === undefined)
          throw new Fault('unknown_team', `There is no team "${String(team).slice(0, 64)}".`, { status: 404, param: 'team' })
        return { id: stored, key }
      },
      async (id, secret) => ({ id, key: newKey(kind, secret) }),
    )
    await parts.reloadKeys()
    return reply.code(201).send({ ...keyView(await getKey(parts, id)), key })
  })

  app.patch<ById>('/api/keys/:id', async (request) => {
    const known = await changeable(parts, request)
    const fields = fieldsOf(request.body, CHANGEABLE)
    const change = readChange(parts, known, fields)
    refuseWider(await ownKey(parts, request), namedBounds(fields, change))
    const changed = await recorded(
      parts.db,
      (query) => changeKey(query, known.id, change),
      (id) => parts.newEvent('key.changed', request.caller.actor, { key: id, name: change.name, team: known.team, ...boundsView(change) }),
    )
    if (changed === undefined) throw new Fault('key_revoked', 'The key was revoked; make a new one.', { status: 409 })
    await parts.reloadKeys()
    return keyView(await getKey(parts, known.id))
  })

  const revoke = async (request: FastifyRequest<ById>): Promise<Record<string, unknown>> => {
    const known = await changeable(parts, request)
    await recorded(
      parts.db,
      (query) => revokeKey(query, known.id),
      (id) => parts.newEvent('key.revoked', request.caller.actor, { key: id, name: known.name, team: known.team }),
    )
    await parts.reloadKeys()
    return keyView(await getKey(parts, known.id))
  }
  app.post<ById>('/api/keys/:id/revoke', revoke)
  app.delete<ById>('/api/keys/:id', revoke)
}

export function newKey(kind: KeyKind, secret: Buffer): string {
  return `hf_${kind}_${secret.toString('base64url', 0, 24)}`
}

/** What is not named stays as it was; null takes a limit away. */
function readChange(parts: ApiParts, known: KeyRecord, fields: Body): KeyChange {
  if (known.kind === 'worker') refuseIdle(fields)
  const given = <T>(name: string, was: T, read: () => T): T => (fields[name] === undefined ? was : read())
  const limits = limitsOf(fields)
  const limit = (name: string, was: number | null, read: () => number | null): number | null =>
    fields.limits === null ? null : limits[name] === undefined ? was : inside('limits', read)
  return {
    name: given('name', known.name, () => required(text(fields, 'name', 128), 'name')),
    expiresMs: given('expires_at', known.expiresMs, () => expiry(fields, parts.now())),
    scopes: given('scopes', known.scopes, () => allowed(listOf(fields, 'scopes', SCOPES, SCOPES.length), 'scopes')),
    models: given('models', known.models, () => allowed(listOf(fields, 'models', null, 1_000), 'models')),
    tiers: given('tiers', known.tiers, () => allowed(listOf(fields, 'tiers', TIERS, TIERS.length), 'tiers')),
    requestsPerMinute: limit('requests_per_minute', known.requestsPerMinute, () => integer(limits, 'requests_per_minute', 1, 10_000_000)),
    spendMicrosPerDay: limit('spend_micros_per_day', known.spendMicrosPerDay, () => spendLimit(limits, 'spend_micros_per_day')),
  }
}

/** What a change says of them. */
function namedBounds(fields: Body, change: KeyChange): Partial<KeyBounds> {
  const { scopes, models, tiers, expiresMs, requestsPerMinute, spendMicrosPerDay } = change
  return {
    ...(fields.scopes === undefined ? {} : { scopes }),
    ...(fields.models === undefined ? {} : { models }),
    ...(fields.tiers === undefined ? {} : { tiers }),
    ...(fields.expires_at === undefined ? {} : { expiresMs }),
    ...(fields.limits === undefined ? {} : { requestsPerMinute, spendMicrosPerDay }),
  }
}

/** That of the caller, as it is now. */
function ownKey(parts: ApiParts, request: FastifyRequest): Promise<KeyRecord> {
  return getKey(parts, request.caller.key)
}

function limitsOf(fields: Body): Body {
  return fields.limits === undefined || fields.limits === null ? {} : inside('limits', () => fieldsOf(fields.limits, LIMITS))
}

/** The key, where the caller may change or revoke it. */
async function changeable(parts: ApiParts, request: FastifyRequest<ById>): Promise<KeyRecord> {
  requireAdmin(request.caller)
  const known = await getKey(parts, request.params.id)
  if (known.owner?.role === 'owner' && request.caller.role !== 'owner')
    throw new Fault('forbidden', 'Only an owner can change or revoke the key of an owner.', { status: 403 })
  if (known.kind === 'bootstrap')
    throw new Fault(
      'key_needed',
      'The admin key can be neither changed nor revoked; start the coordinator with another HOLDFAST_ADMIN_KEY to replace it.',
      { status: 409 },
    )
  return known
}

const FIELDS = ['name', 'kind', 'team', 'user', 'scopes', 'models', 'tiers', 'expires_at', 'limits']
const CHANGEABLE = ['name', 'scopes', 'models', 'tiers', 'expires_at', 'limits']
const LIMITS = ['requests_per_minute', 'spend_micros_per_day']
const IDLE_FOR_WORKERS = ['user', 'scopes', 'models', 'tiers', 'limits']
const KINDS = ['personal', 'team', 'worker', 'intake'] as const

/** A team key is a team's and so is an intake's, which opens intakes and no other door; a personal one is a user's, a worker's nobody's. */
async function holderOf(
  parts: ApiParts,
  request: FastifyRequest,
  kind: (typeof KINDS)[number],
  fields: Body,
): Promise<{ team: string | null; owner: string | null }> {
  if (kind === 'team' || kind === 'intake') {
    if (fields.user !== undefined) throw badRequest('invalid_holder', `A key of the kind ${kind} names a team, not a user.`, 'user')
    const named = required(text(fields, 'team', 64), 'team')
    return { team: (await findTeam(parts.db, named))?.name ?? named, owner: null }
  }
  if (fields.team !== undefined) throw badRequest('invalid_holder', `A key of the kind ${kind} belongs to no team.`, 'team')
  if (kind === 'worker') {
    refuseIdle(fields)
    return { team: null, owner: null }
  }
  const named = required(text(fields, 'user', 254), 'user')
  const user = await findUser(parts.db, named)
  if (user === undefined) throw new Fault('unknown_user', `There is no user "${named.slice(0, 100)}".`, { status: 404, param: 'user' })
  if (user.role === 'owner' && request.caller.role !== 'owner')
    throw new Fault('forbidden', 'Only an owner can make a key for an owner.', { status: 403 })
  return { team: null, owner: user.id }
}

function refuseIdle(fields: Body): void {
  const idle = IDLE_FOR_WORKERS.find((name) => fields[name] !== undefined && fields[name] !== null)
  if (idle !== undefined)
    throw badRequest('invalid_holder', `A key of the kind worker only lets workers join: ${idle} would mean nothing.`, idle)
}

async function getKey(parts: ApiParts, id: string): Promise<KeyRecord> {
  const key = isUuid(id) ? await findKey(parts.db, id) : undefined
  if (key === undefined) throw notFound(`There is no key ${id.slice(0, 100)}.`)
  return key
}

export function expiry(fields: Body, nowMs: number): number | null {
  const value = text(fields, 'expires_at', 64)
  if (value === null) return null
  const ms = isTime(value) ? Date.parse(value) : Number.NaN
  if (!(ms > nowMs)) throw badRequest('out_of_range', 'expires_at must be a time to come, as in 2030-01-31T12:00:00Z.', 'expires_at')
  return ms
}

/** Of RFC 3339: a day that there is, and with its zone. */
function isTime(value: string): boolean {
  const [whole, year, month, day] = /^(\d{4})-(\d{2})-(\d{2})T\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:[Zz]|[+-]\d{2}:\d{2})$/.exec(value) ?? []
  return whole !== undefined && new Date(Date.UTC(Number(year), Number(month) - 1, Number(day))).getUTCDate() === Number(day)
}

function keyView(key: KeyRecord): Record<string, unknown> {
  return {
    id: key.id,
    name: key.name,
    kind: key.kind,
    team: key.team,
    user: key.owner?.id ?? null,
    ...boundsView(key),
    ends_with: key.lastFour,
    created_at: rfc3339(key.createdMs),
    revoked_at: rfc3339(key.revokedMs),
    single_use: key.singleUse,
    spent_by: key.spentBy,
  }
}

/** A key that may use nothing is none. */
function allowed<T extends string>(list: T[] | null, name: string): T[] | null {
  if (list?.length === 0)
    throw badRequest(
      'out_of_range',
      `${name} is empty, so that the key could be used for nothing: leave it out for all, or make no key.`,
      name,
    )
  return list
}
