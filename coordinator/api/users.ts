import type { FastifyInstance, FastifyRequest } from 'fastify'
import { badRequest, Fault, notFound } from '../core/fault.ts'
import { recorded } from '../store/events.ts'
import { findTeam } from '../store/teams.ts'
import { archiveUser, changeUser, findUser, listUsers, ROLES, saveUser, type UserRecord } from '../store/users.ts'
import { requireAdmin } from './auth.ts'
import { type Body, changedTo, fieldsOf, listOf, oneOf, required, text } from './body.ts'
import type { ApiParts } from './health.ts'
import { type Making, madeOnce } from './made-once.ts'
import { page, readCursor, readLimit, readQuery, rfc3339 } from './paging.ts'

type ById = { Params: { id: string } }

/** People: a role says what their personal keys may do, their teams whose work they see. */
export function registerUsers(app: FastifyInstance, parts: ApiParts): void {
  app.get('/api/users', async (request) => {
    requireAdmin(request.caller)
    const query = readQuery(request.query, ['limit', 'cursor'])
    const limit = readLimit(query.limit)
    return page(await listUsers(parts.db, { before: readCursor(query.cursor), limit: limit + 1 }), limit, userView)
  })

  app.get<ById>('/api/users/:id', async (request) => userView(await getUser(parts, request)))

  app.post('/api/users', async (request, reply) => {
    requireAdmin(request.caller)
    const fields = fieldsOf(request.body, ['email', 'name', 'role', 'teams'])
    const email = required(text(fields, 'email', 254), 'email')
    if (!/^[^\s@]+@[^\s@]+$/.test(email)) throw badRequest('invalid_email', 'email must be an address such as ann@example.com.', 'email')
    const settings = {
      email,
      name: text(fields, 'name', 128) ?? email,
      role: oneOf(fields, 'role', ROLES) ?? 'member',
      teams: await readTeams(parts, fields),
    }
    refuseOwner(request, settings.role)
    const make = async ({ id, claim }: Making): Promise<UserRecord> => {
      const user = await recorded(
        parts.db,
        (query) => saveUser(query, { id, ...settings }),
        ({ role, teams }) => parts.newEvent('user.created', request.caller.actor, { user: id, role, teams }),
        claim,
      )
      if (user === undefined) throw new Fault('email_taken', `There is a user ${email} already.`, { status: 409, param: 'email' })
      return user
    }
    const made = await madeOnce(parts, request, make, (id) => findUser(parts.db, id))
    return reply.code(201).send(userView(made))
  })

  app.patch<ById>('/api/users/:id', async (request) => {
    const known = await getUser(parts, request)
    const fields = fieldsOf(request.body, ['name', 'role', 'teams'])
    const settings = {
      email: known.email,
      name: changedTo(fields, 'name', known.name, () => text(fields, 'name', 128)),
      role: changedTo(fields, 'role', known.role, () => oneOf(fields, 'role', ROLES)),
      teams: fields.teams === undefined ? known.teams : await readTeams(parts, fields),
    }
    refuseOwner(request, settings.role)
    refuseOwner(request, known.role)
    const changed = await recorded(
      parts.db,
      (query) => changeUser(query, known.id, settings),
      ({ id, role, teams }) => parts.newEvent('user.changed', request.caller.actor, { user: id, role, teams }),
    )
    await parts.reload()
    return userView(changed ?? known)
  })

  app.delete<ById>('/api/users/:id', async (request) => {
    const known = await getUser(parts, request)
    refuseOwner(request, known.role)
    await recorded(
      parts.db,
      (query) => archiveUser(query, known.id),
      ({ id }) => parts.newEvent('user.archived', request.caller.actor, { user: id }),
    )
    await parts.reload()
    return { ...userView(known), archived: true }
  })
}

/** An admin who could make owners would be one. */
function refuseOwner(request: FastifyRequest, role: string): void {
  if (role === 'owner' && request.caller.role !== 'owner')
    throw new Fault('forbidden', 'Only an owner can make, change or archive an owner.', { status: 403 })
}

async function readTeams(parts: ApiParts, fields: Body): Promise<string[]> {
  const names: string[] = []
  for (const idOrName of listOf(fields, 'teams', null, 100) ?? []) {
    const team = await findTeam(parts.db, idOrName)
    if (team === undefined) throw badRequest('unknown_team', `There is no team "${idOrName}".`, 'teams')
    if (!names.includes(team.name)) names.push(team.name)
  }
  return names
}

async function getUser(parts: ApiParts, request: FastifyRequest<ById>): Promise<UserRecord> {
  requireAdmin(request.caller)
  const user = await findUser(parts.db, request.params.id)
  if (user === undefined) throw notFound(`There is no user ${request.params.id.slice(0, 100)}.`)
  return user
}

function userView(user: UserRecord): Record<string, unknown> {
  const { id, email, name, role, teams, createdMs } = user
  return { id, email, name, role, teams, created_at: rfc3339(createdMs) }
}
