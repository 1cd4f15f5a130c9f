import { randomBytes } from 'node:crypto'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { EventRecord } from '../core/event.ts'
import { badRequest, Fault, notFound } from '../core/fault.ts'
import type { Query } from '../store/db.ts'
import { recorded } from '../store/events.ts'
import {
  archiveTeam,
  changeTeam,
  findTeam,
  giveWebhookSecret,
  listTeams,
  saveTeam,
  setWebhookSecret,
  type TeamRecord,
  type TeamRules,
} from '../store/teams.ts'
import { findWebhookSecret } from '../store/callbacks.ts'
import { findPolicy } from '../store/policies.ts'
import { type Caller, requireAdmin } from './auth.ts'
import { type Body, changedTo, fieldsOf, integer, named, numeric, required, text } from './body.ts'
import type { ApiParts } from './health.ts'
import { madeOnce } from './made-once.ts'
import { spendLimit } from './policies.ts'
import { page, readCursor, readLimit, readQuery, rfc3339 } from './paging.ts'

type ById = { Params: { id: string } }

/** Teams share the fleet by weight; keys, jobs and the secret that signs callbacks belong to one. */
export function registerTeams(app: FastifyInstance, parts: ApiParts): void {
  const changed =
    (request: FastifyRequest, type: 'team.created' | 'team.changed', details: (team: TeamRecord) => Record<string, unknown>) =>
    (team: TeamRecord): EventRecord =>
      parts.newEvent(type, request.caller.actor, { team: team.name, ...details(team) })

  app.get('/api/teams', async (request) => {
    requireAdmin(request.caller)
    const query = readQuery(request.query, ['limit', 'cursor'])
    const limit = readLimit(query.limit)
    return page(await listTeams(parts.db, { before: readCursor(query.cursor), limit: limit + 1 }), limit, teamView)
  })

  app.get<ById>('/api/teams/:id', async (request) => teamView(await getTeam(parts, request)))

  app.post('/api/teams', async (request, reply) => {
    requireAdmin(request.caller)
    const fields = fieldsOf(request.body, ['name', ...RULES])
    const name = named(required(text(fields, 'name', 64), 'name'))
    const rules = await readRules(parts, fields, null)
    const { team, secret } = await madeOnce<{ team: TeamRecord; secret: string | null }>(
      parts,
      request,
      async (making) => {
        const secret = webhookSecret(making.secret)
        const team = await recorded(
          parts.db,
          async (query) => saveTeam(query, { id: making.id, name, ...rules, webhookSecret: await parts.seal(query, secret) }),
          changed(request, 'team.created', rulesView),
          making.claim,
        )
        if (team === undefined)
          throw new Fault('name_taken', `There is a team "${name}" already, or was one.`, { status: 409, param: 'name' })
        return { team, secret }
      },
      async (id, secret) => {
        const team = await findTeam(parts.db, id)
        return team && { team, secret: await stillSigns(parts, team.name, webhookSecret(secret)) }
      },
    )
    await parts.reload()
    return reply.code(201).send({ ...teamView(team), webhook_secret: secret })
  })

  app.patch<ById>('/api/teams/:id', async (request) => {
    const known = await getTeam(parts, request)
    const { id, name } = known
    const rules = await readRules(parts, fieldsOf(request.body, RULES), known)
    const team = await recorded(parts.db, (query) => changeTeam(query, id, rules), changed(request, 'team.changed', rulesView))
    if (team === undefined) throw notFound(`There is no team ${name} any more.`)
    await parts.reload()
    return teamView(team)
  })

  app.delete<ById>('/api/teams/:id', async (request) => {
    const team = await getTeam(parts, request)
    if (team.name === 'default')
      throw new Fault('team_needed', 'The team "default" cannot be archived: the admin key belongs to it.', { status: 409 })
    const archived = () => ({ archived: true })
    await recorded(parts.db, (query) => archiveTeam(query, team.id), changed(request, 'team.changed', archived))
    await parts.reload()
    return { ...teamView(team), archived: true }
  })

  app.post<ById>('/api/teams/:id/rotate_webhook_secret', async (request) => {
    const team = await getTeam(parts, request)
    const secret = webhookSecret()
    const rotated = () => ({ webhook_secret: 'rotated' })
    const set = async (query: Query) => setWebhookSecret(query, team.id, await parts.seal(query, secret))
    await recorded(parts.db, set, changed(request, 'team.changed', rotated))
    return { ...teamView(team), webhook_secret: secret }
  })
}

/** The secret that was shown, unless another one took its place. */
async function stillSigns(parts: ApiParts, team: string, shown: string): Promise<string | null> {
  const sealed = await findWebhookSecret(parts.db, team)
  return sealed !== undefined && parts.vault.open(sealed) === shown ? shown : null
}

/** Callbacks are signed from the first on: a team that has no secret yet gets one, which a rotation replaces and shows. */
export async function haveWebhookSecret(parts: ApiParts, { team, actor }: Caller): Promise<void> {
  if ((await findTeam(parts.db, team))?.hasWebhookSecret === true) return
  await recorded(
    parts.db,
    async (query) => giveWebhookSecret(query, team, await parts.seal(query, webhookSecret())),
    () => parts.newEvent('team.changed', actor, { team, webhook_secret: 'made' }),
  )
}

async function getTeam(parts: ApiParts, request: FastifyRequest<ById>): Promise<TeamRecord> {
  requireAdmin(request.caller)
  const team = await findTeam(parts.db, request.params.id)
  if (team === undefined) throw notFound(`There is no team ${request.params.id.slice(0, 100)}.`)
  return team
}

/** The form that Standard Webhooks gives symmetric secrets; shown once, stored sealed. */
function webhookSecret(bytes: Buffer = randomBytes(32)): string {
  return `whsec_${bytes.toString('base64')}`
}

const RULES = ['weight', 'max_parallel', 'policy', 'spend_micros_per_day', 'spend_micros_per_month']

/** What is not named stays as it was; null takes a limit away. */
async function readRules(parts: ApiParts, fields: Body, known: TeamRecord | null): Promise<TeamRules> {
  const given = <T>(name: string, was: T | null | undefined, read: () => T | null): T | null =>
    fields[name] === undefined ? (was ?? null) : read()
  const policy = given('policy', known?.policy, () => text(fields, 'policy', 64))
  return {
    weight: changedTo(fields, 'weight', known?.weight, () => numeric(fields, 'weight', 0.001, 1_000_000)) ?? 1,
    maxParallel: given('max_parallel', known?.maxParallel, () => integer(fields, 'max_parallel', 1, 1_000_000)),
    policy: policy === null ? null : await policyName(parts, policy),
    spendMicrosPerDay: given('spend_micros_per_day', known?.spendMicrosPerDay, () => spendLimit(fields, 'spend_micros_per_day')),
    spendMicrosPerMonth: given('spend_micros_per_month', known?.spendMicrosPerMonth, () => spendLimit(fields, 'spend_micros_per_month')),
  }
}

async function policyName(parts: ApiParts, idOrName: string): Promise<string> {
  const policy = await findPolicy(parts.db, idOrName)
  if (policy === undefined) throw badRequest('unknown_policy', `There is no policy "${idOrName}": POST /api/policies makes one.`, 'policy')
  return policy.name
}

function rulesView(team: TeamRecord): Record<string, unknown> {
  return {
    weight: team.weight,
    max_parallel: team.maxParallel,
    policy: team.policy,
    spend_micros_per_day: team.spendMicrosPerDay,
    spend_micros_per_month: team.spendMicrosPerMonth,
  }
}

function teamView(team: TeamRecord): Record<string, unknown> {
  return {
    id: team.id,
    name: team.name,
    ...rulesView(team),
    signs_callbacks: team.hasWebhookSecret,
    created_at: rfc3339(team.createdMs),
  }
}
