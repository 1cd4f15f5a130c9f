import type { FastifyInstance, FastifyRequest } from 'fastify'
import { badRequest, Fault, notFound } from '../core/fault.ts'
import {
  type CredentialRecord,
  findCredential,
  listCredentials,
  removeCredential,
  renameCredential,
  revokeCredential,
  rotateCredential,
  saveCredential,
} from '../store/credentials.ts'
import { recorded } from '../store/events.ts'
import { requireAdmin } from './auth.ts'
import { type Body, boolean, fieldsOf, named, required, text } from './body.ts'
import type { ApiParts } from './health.ts'
import { type Making, madeOnce } from './made-once.ts'
import { page, readCursor, readLimit, readQuery, rfc3339 } from './paging.ts'

type ById = { Params: { id: string } }

/** What providers are called with: written, rotated and revoked here, and never read back. */
export function registerCredentials(app: FastifyInstance, parts: ApiParts): void {
  app.get('/api/credentials', async (request) => {
    requireAdmin(request.caller)
    const query = readQuery(request.query, ['limit', 'cursor'])
    const limit = readLimit(query.limit)
    return page(await listCredentials(parts.db, { before: readCursor(query.cursor), limit: limit + 1 }), limit, credentialView)
  })

  app.get<ById>('/api/credentials/:id', async (request) => credentialView(await getCredential(parts, request)))

  app.post('/api/credentials', async (request, reply) => {
    requireAdmin(request.caller)
    const fields = fieldsOf(request.body, ['name', 'secret'])
    const name = named(required(text(fields, 'name', 64), 'name'))
    const secret = secretOf(fields)
    const make = async ({ id, claim }: Making): Promise<CredentialRecord> => {
      const credential = await recorded(
        parts.db,
        async (query) => saveCredential(query, { id, name, sealed: await parts.seal(query, secret) }),
        () => parts.newEvent('credential.created', request.caller.actor, { credential: id, name }),
        claim,
      )
      if (credential === undefined) throw nameTaken(name)
      return credential
    }
    const made = await madeOnce(parts, request, make, (id) => findCredential(parts.db, id))
    await parts.reload()
    return reply.code(201).send(credentialView(made))
  })

  app.post('/api/credentials/rotate_master_key', async (request) => {
    if (request.caller.role !== 'owner') throw new Fault('forbidden', 'Only an owner can change the master key.', { status: 403 })
    const fields = fieldsOf(request.body ?? {}, ['master_key'])
    const given = text(fields, 'master_key', 1_024)
    if (given !== null && given.length < MASTER_KEY_LEAST)
      throw badRequest('invalid_type', `master_key must have at least ${MASTER_KEY_LEAST} characters.`, 'master_key')
    const { secrets, key } = await parts.rotateMasterKey(given)
    await recorded(
      parts.db,
      async () => secrets,
      () => parts.newEvent('credential.rotated', request.caller.actor, { credential: 'master key', secrets }),
    )
    return {
      secrets,
      master_key: key,
      next:
        key === null
          ? 'The new key lies in master.key of the data directory.'
          : 'Set HOLDFAST_MASTER_KEY to this key before the next start; it is not shown again.',
    }
  })

  app.patch<ById>('/api/credentials/:id', async (request) => {
    const known = await getCredential(parts, request)
    const name = named(required(text(fieldsOf(request.body, ['name']), 'name', 64), 'name'))
    if (name === known.name) return credentialView(known)
    const renamed = await recorded(
      parts.db,
      (query) => renameCredential(query, known.id, name),
      () => parts.newEvent('credential.changed', request.caller.actor, { credential: known.id, name, was: known.name }),
    )
    if (renamed === undefined) throw nameTaken(name)
    await parts.reload()
    return credentialView(renamed)
  })

  app.delete<ById>('/api/credentials/:id', async (request) => {
    const { id, name } = await getCredential(parts, request)
    const user = [...parts.registry.providers].find((provider) => provider.credential === name)
    const gone =
      user === undefined &&
      (await recorded(
        parts.db,
        (query) => removeCredential(query, id),
        () => parts.newEvent('credential.archived', request.caller.actor, { credential: id, name }),
      ))
    if (gone === false || gone === undefined)
      throw new Fault('credential_in_use', `Provider "${user?.name ?? '?'}" is called with "${name}": give it another credential first.`, {
        status: 409,
      })
    await parts.reload()
    return { id, name, archived: true }
  })

  app.post<ById>('/api/credentials/:id/rotate', async (request) => {
    const known = await getCredential(parts, request)
    const { id, name } = known
    const fields = fieldsOf(request.body, ['secret', 'if_changed'])
    const secret = secretOf(fields)
    // Without this the same secret counts as a new one: whoever paid a bill wants the provider to be tried again.
    if (boolean(fields, 'if_changed') === true && known.revokedMs === null && parts.vault.open(known.sealed) === secret)
      return credentialView(known)
    const rotated = await recorded(
      parts.db,
      async (query) => rotateCredential(query, id, await parts.seal(query, secret)),
      () => parts.newEvent('credential.rotated', request.caller.actor, { credential: id, name }),
    )
    await parts.reload()
    return credentialView(rotated ?? (await getCredential(parts, request)))
  })

  app.post<ById>('/api/credentials/:id/revoke', async (request) => {
    const { id, name } = await getCredential(parts, request)
    await recorded(
      parts.db,
      (query) => revokeCredential(query, id),
      () => parts.newEvent('credential.revoked', request.caller.actor, { credential: id, name }),
    )
    await parts.reload()
    return credentialView(await getCredential(parts, request))
  })
}

/** It goes into a header. */
function secretOf(fields: Body): string {
  const secret = required(text(fields, 'secret', SECRET_MAX), 'secret').trim()
  if (!/^[\x21-\x7e][\x20-\x7e]*$/.test(secret))
    throw badRequest('invalid_type', 'secret must be printable ASCII characters in one line, as a header takes them.', 'secret')
  return secret
}

const SECRET_MAX = 16_384
const MASTER_KEY_LEAST = 16

function nameTaken(name: string): Fault {
  return new Fault('name_taken', `There is a credential "${name}" already; rotate it instead.`, { status: 409, param: 'name' })
}

async function getCredential(parts: ApiParts, request: FastifyRequest<ById>): Promise<CredentialRecord> {
  requireAdmin(request.caller)
  const credential = await findCredential(parts.db, request.params.id)
  if (credential === undefined) throw notFound(`There is no credential ${request.params.id.slice(0, 100)}.`)
  return credential
}

function credentialView(credential: CredentialRecord): Record<string, unknown> {
  return {
    id: credential.id,
    name: credential.name,
    version: credential.version,
    created_at: rfc3339(credential.createdMs),
    rotated_at: rfc3339(credential.rotatedMs),
    revoked_at: rfc3339(credential.revokedMs),
  }
}
