import type { FastifyInstance } from 'fastify'
import { listKeys } from '../store/keys.ts'
import { type Caller, scopeOf, seesAllTeams } from './auth.ts'
import type { ApiParts } from './health.ts'
import { pageOfAll, readQuery, rfc3339 } from './paging.ts'

/** Every limit that somebody set, with what is used of it and when it is whole again. */
type Quota = {
  kind: 'provider' | 'team' | 'key' | 'policy'
  id: string
  name: string
  limit: string
  allowed: number
  used: number
  resetsMs: number | null
}

export function registerQuotas(app: FastifyInstance, parts: ApiParts): void {
  app.get('/api/quotas', async (request) => {
    const query = readQuery(request.query, ['limit', 'cursor'])
    const { caller } = request
    const all = seesAllTeams(caller)
    const quotas = [...providerQuotas(parts), ...policyQuotas(parts), ...teamQuotas(parts), ...(await keyQuotas(parts))]
    const seen = quotas.filter((quota) => all || isOwn(quota, caller))
    return pageOfAll(seen, query, (quota) => `${quota.kind} ${quota.name} ${quota.id} ${quota.limit}`, quotaView, scopeOf(caller))
  })
}

/** Providers and policies are everybody's. */
function isOwn({ kind, id, name }: Quota, { key, teams }: Caller): boolean {
  return kind === 'provider' || kind === 'policy' || (kind === 'team' ? teams.includes(name) : id === key)
}

function providerQuotas(parts: ApiParts): Quota[] {
  const nowMs = parts.now()
  return [...parts.registry.providers].flatMap((provider) => {
    const { id, name, requestsPerMinute, tokensPerMinute } = provider
    const minute = parts.scheduler.findWorker(id)?.quota?.used(nowMs) ?? { requests: 0, tokens: 0, resetsMs: null }
    const { requests, tokens, resetsMs } = minute
    const subject = { kind: 'provider' as const, id, name }
    return [
      ...quota({ ...subject, limit: 'requests_per_minute', allowed: requestsPerMinute, used: requests, resetsMs }),
      ...quota({ ...subject, limit: 'tokens_per_minute', allowed: tokensPerMinute, used: tokens, resetsMs }),
      ...spending(parts, subject, `provider:${name}`),
    ]
  })
}

function policyQuotas(parts: ApiParts): Quota[] {
  return [...parts.registry.policies.values()].flatMap(({ id, name }) => spending(parts, { kind: 'policy', id, name }, `policy:${name}`))
}

function teamQuotas(parts: ApiParts): Quota[] {
  return [...parts.registry.teams].flatMap(({ id, name }) => spending(parts, { kind: 'team', id, name }, `team:${name}`))
}

async function keyQuotas(parts: ApiParts): Promise<Quota[]> {
  const found: Quota[] = []
  let before: string | null = null
  do {
    const keys = await listKeys(parts.db, { before, limit: KEYS_A_PAGE })
    for (const { id, name, requestsPerMinute, revokedMs } of keys) {
      if (revokedMs !== null) continue
      const { requests, resetsMs } = parts.keyring.usage(id)
      const subject = { kind: 'key' as const, id, name }
      found.push(...quota({ ...subject, limit: 'requests_per_minute', allowed: requestsPerMinute, used: requests, resetsMs }))
      found.push(...spending(parts, subject, `key:${id}`))
    }
    before = keys.length < KEYS_A_PAGE ? null : (keys.at(-1)?.id ?? null)
  } while (before !== null)
  return found
}

const KEYS_A_PAGE = 1_000

function spending(parts: ApiParts, subject: Pick<Quota, 'kind' | 'id' | 'name'>, purse: string): Quota[] {
  const { perDay, perMonth, dayMicros, monthMicros } = parts.purses.view(purse)
  const now = new Date(parts.now())
  const [year, month, day] = [now.getUTCFullYear(), now.getUTCMonth(), now.getUTCDate()]
  return [
    ...quota({ ...subject, limit: 'spend_micros_per_day', allowed: perDay, used: dayMicros, resetsMs: Date.UTC(year, month, day + 1) }),
    ...quota({ ...subject, limit: 'spend_micros_per_month', allowed: perMonth, used: monthMicros, resetsMs: Date.UTC(year, month + 1, 1) }),
  ]
}

/** None where there is no limit. */
function quota({ allowed, ...rest }: Omit<Quota, 'allowed'> & { allowed: number | null }): Quota[] {
  return allowed === null ? [] : [{ allowed, ...rest }]
}

function quotaView({ kind, id, name, limit, allowed, used, resetsMs }: Quota): Record<string, unknown> {
  return { kind, id, name, limit, allowed, used, remaining: Math.max(0, allowed - used), resets_at: rfc3339(resetsMs) }
}
