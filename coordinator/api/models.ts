import type { FastifyInstance } from 'fastify'
import { badRequest, notFound } from '../core/fault.ts'
import { AUTO } from '../core/routing.ts'
import { allAliases, removeAlias, saveAlias } from '../store/aliases.ts'
import { recorded } from '../store/events.ts'
import { type Caller, requireAdmin } from './auth.ts'
import { fieldsOf, required, text } from './body.ts'
import { allOffers } from '../core/offers.ts'
import type { ApiParts } from './health.ts'
import { newestFirst, pageOfAll, readQuery, rfc3339 } from './paging.ts'

type ByName = { Params: { name: string } }

/** The models of the fleet with who offers them, and other names for them. */
export function registerModels(app: FastifyInstance, parts: ApiParts): void {
  app.get('/api/models', async (request) => {
    const query = readQuery(request.query, ['limit', 'cursor'])
    return pageOfAll(namesSeen(parts, request.caller), query, String, (name) => modelView(parts, name))
  })

  app.get<{ Params: { id: string } }>('/api/models/:id', async (request) => {
    const { id } = request.params
    if (!namesSeen(parts, request.caller).includes(id)) throw notFound(`There is no model ${id.slice(0, 100)}.`)
    return modelView(parts, id)
  })

  app.get('/api/models/aliases', async (request) => {
    const query = readQuery(request.query, ['limit', 'cursor'])
    return pageOfAll(
      await allAliases(parts.db),
      query,
      ({ createdMs, name }) => newestFirst(createdMs, name),
      ({ name, target, createdMs }) => ({ name, target, created_at: rfc3339(createdMs) }),
    )
  })

  app.put<ByName>('/api/models/aliases/:name', async (request) => {
    requireAdmin(request.caller)
    const name = aliasName(request.params.name)
    const target = required(text(fieldsOf(request.body, ['target']), 'target', 200), 'target')
    await recorded(
      parts.db,
      (query) => saveAlias(query, { name, target }, (known) => refuseCircle(name, target, known)),
      () => parts.newEvent('model.alias_set', request.caller.actor, { name, target }),
    )
    await parts.reload()
    return { name, target }
  })

  app.delete<ByName>('/api/models/aliases/:name', async (request) => {
    requireAdmin(request.caller)
    const { name } = request.params
    const removed = await recorded(
      parts.db,
      (query) => removeAlias(query, name),
      () => parts.newEvent('model.alias_removed', request.caller.actor, { name }),
    )
    if (removed === undefined) throw notFound(`There is no alias ${name.slice(0, 100)}.`)
    await parts.reload()
    return { name, removed: true }
  })
}

/** Every name that somebody offers or that is another for one. */
function namesOf(parts: ApiParts): Set<string> {
  return new Set([...allOffers(parts.scheduler.providers).map(({ name }) => name), ...parts.registry.aliases.keys()])
}

function namesSeen(parts: ApiParts, { models }: Caller): string[] {
  return [...namesOf(parts)].filter((name) => models === null || isAllowed(parts, models, name))
}

function isAllowed(parts: ApiParts, models: readonly string[], name: string): boolean {
  return models.includes(name) || models.includes(parts.registry.resolveModel(name))
}

/** Every name under which the caller can get an answer, in order: an alias may lead to what nobody has offered yet. */
export function namesFor(parts: ApiParts, { models }: Caller): string[] {
  const offered = new Set([...allOffers(parts.scheduler.providers).map(({ name }) => name), AUTO])
  return [...namesOf(parts)]
    .filter((name) => offered.has(parts.registry.resolveModel(name)) && (models === null || isAllowed(parts, models, name)))
    .sort()
}

function aliasName(name: string): string {
  if (name.length > 200 || !/^[\p{L}\p{N}][^\s]*$/u.test(name))
    throw badRequest('invalid_name', 'An alias is 1 to 200 characters without white space, beginning with a letter or digit.', 'name')
  // It means every model there is, the local ones first.
  if (name === AUTO) throw badRequest('invalid_name', `"${AUTO}" means any model and cannot mean another: choose another name.`, 'name')
  return name
}

function refuseCircle(name: string, target: string, known: Map<string, string>): void {
  const path = [name]
  for (let next: string | undefined = target; next !== undefined; next = known.get(next)) {
    path.push(next)
    if (next === name) throw badRequest('alias_cycle', `This would lead in a circle: ${path.join(' → ')}.`, 'target')
  }
}

function modelView(parts: ApiParts, name: string): Record<string, unknown> {
  const target = parts.registry.resolveModel(name)
  const providers = [...parts.scheduler.providers].flatMap((provider) => {
    const offer = provider.models.get(target)?.offer
    return offer === undefined
      ? []
      : [
          {
            provider: provider.name,
            tier: offer.tier ?? 'gpu',
            state: provider.state,
            slots: offer.slots,
            abilities: offer.abilities ?? [],
          },
        ]
  })
  return { name, alias_of: target === name ? null : target, providers }
}
