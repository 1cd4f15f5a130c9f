import type { FastifyInstance } from 'fastify'
import { sha256 } from '../secrets.ts'
import { recorded } from '../store/events.ts'
import { findKey, saveKey } from '../store/keys.ts'
import { requireAdmin } from './auth.ts'
import { fieldsOf, text } from './body.ts'
import type { ApiParts } from './health.ts'
import { expiry, newKey } from './keys.ts'
import { madeOnce } from './made-once.ts'
import { rfc3339 } from './paging.ts'

/** A token that one worker may join with, in time; from then on it is that worker's own, until it is revoked as a key. */
export function registerInvites(app: FastifyInstance, parts: ApiParts): void {
  app.post('/api/workers/invites', async (request, reply) => {
    requireAdmin(request.caller)
    const fields = fieldsOf(request.body ?? {}, ['name', 'expires_at'])
    const expiresMs = expiry(fields, parts.now()) ?? parts.now() + INVITED_MS
    const wanted = {
      ...{ name: text(fields, 'name', 128) ?? 'invite', kind: 'worker' as const, team: null, owner: null, expiresMs, singleUse: true },
      ...{ scopes: null, models: null, tiers: null, requestsPerMinute: null, spendMicrosPerDay: null },
    }
    const invite = await madeOnce(
      parts,
      request,
      async ({ id, secret, claim }) => {
        const token = newKey('worker', secret)
        const made = { ...wanted, id, hash: sha256(token), lastFour: token.slice(-4) }
        await recorded(
          parts.db,
          (query) => saveKey(query, made),
          () => parts.newEvent('key.created', request.caller.actor, { key: id, name: made.name, kind: 'worker', single_use: true }),
          claim,
        )
        return { id, name: made.name, token, expiresMs }
      },
      async (id, secret) => {
        const made = await findKey(parts.db, id)
        return made?.revokedMs === null ? { id, name: made.name, token: newKey('worker', secret), expiresMs: made.expiresMs } : undefined
      },
    )
    await parts.reloadKeys()
    return reply.code(201).send({ id: invite.id, name: invite.name, token: invite.token, expires_at: rfc3339(invite.expiresMs) })
  })
}

// Long enough to walk over to the machine.
const INVITED_MS = 3_600_000
