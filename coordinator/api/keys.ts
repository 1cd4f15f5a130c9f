import { randomBytes } from 'node:crypto'
import type { FastifyInstance } from 'fastify'
import { validate as isUuid } from 'uuid'
import { badRequest, Fault, notFound } from '../core/fault.ts'
import { newId } from '../ids.ts'
import { sha256 } from '../secrets.ts'
import { recorded } from '../store/events.ts'
import { findKey, type KeyRecord, listKeys, revokeKey, saveKey } from '../store/keys.ts'
import { requireAdmin } from './auth.ts'
import { type Body, fieldsOf, required, text } from './body.ts'
import type { ApiParts } from './health.ts'
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
    const fields = fieldsOf(request.body, ['name', 'kind', 'team', 'expires_at'])
    if (fields.kind !== 'team')
      throw badRequest('unsupported_kind', 'kind must be "team": keys of other kinds are not part of this version.', 'kind')
    const key = `hf_team_${randomBytes(24).toString('base64url')}`
    const made = {
      id: newId(),
      name: required(text(fields, 'name', 128), 'name'),
      kind: 'team',
      team: required(text(fields, 'team', 64), 'team'),
      hash: sha256(key),
      lastFour: key.slice(-4),
      expiresMs: expiry(fields, parts.now()),
    }
    const stored = await recorded(
      parts.db,
      (query) => saveKey(query, made),
      ({ id, name, kind, team }) => parts.newEvent('key.created', request.caller.actor, { key: id, name, kind, team }),
    )
    if (stored === undefined)
      throw new Fault('unknown_team', `There is no team "${String(fields.team).slice(0, 64)}".`, { status: 404, param: 'team' })
    await parts.reloadKeys()
    return reply.code(201).send({ ...keyView(stored), key })
  })

  app.post<ById>('/api/keys/:id/revoke', async (request) => {
    requireAdmin(request.caller)
    const { id } = await getKey(parts, request.params.id)
    const revoked = await recorded(
      parts.db,
      (query) => revokeKey(query, id),
      ({ name, team }) => parts.newEvent('key.revoked', request.caller.actor, { key: id, name, team }),
    )
    if (revoked === undefined) {
      const key = await getKey(parts, id)
      if (key.kind === 'bootstrap')
        throw new Fault(
          'key_needed',
          'The admin key cannot be revoked; start the coordinator with another HOLDFAST_ADMIN_KEY to replace it.',
          {
            status: 409,
          },
        )
      return keyView(key)
    }
    await parts.reloadKeys()
    return keyView(revoked)
  })
}

async function getKey(parts: ApiParts, id: string): Promise<KeyRecord> {
  const key = isUuid(id) ? await findKey(parts.db, id) : undefined
  if (key === undefined) throw notFound(`There is no key ${id.slice(0, 100)}.`)
  return key
}

function expiry(fields: Body, nowMs: number): number | null {
  const value = text(fields, 'expires_at', 64)
  if (value === null) return null
  const ms = /^\d{4}-\d{2}-\d{2}T/.test(value) ? Date.parse(value) : Number.NaN
  if (!(ms > nowMs)) throw badRequest('out_of_range', 'expires_at must be a time to come, as in 2030-01-31T12:00:00Z.', 'expires_at')
  return ms
}

function keyView(key: KeyRecord): Record<string, unknown> {
  return {
    id: key.id,
    name: key.name,
    kind: key.kind,
    team: key.team,
    ends_with: key.lastFour,
    created_at: rfc3339(key.createdMs),
    expires_at: rfc3339(key.expiresMs),
    revoked_at: rfc3339(key.revokedMs),
  }
}
