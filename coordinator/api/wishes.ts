import type { FastifyRequest } from 'fastify'
import { badRequest, Fault } from '../core/fault.ts'
import type { Priority, Tier } from '../core/job.ts'
import { PRIORITIES } from '../core/line.ts'
import { TIERS } from '../core/tiers.ts'
import { newId } from '../ids.ts'
import { decimal } from '../../proto/settings.ts'
import type { ApiParts } from './health.ts'

/** What a caller wishes of Holdfast rather than of the model: the x-holdfast headers, checked. */
export type Wishes = {
  priority: Priority
  maxWaitMs: number | null
  maxRunMs: number | null
  pinnedProvider: string | null
  pinnedTier: Tier | null
  /** The policy that the request names. */
  policy: string | null
  detached: boolean
  traceId: string
}

export function readWishes(parts: ApiParts, request: FastifyRequest): Wishes {
  const { headers } = request
  // Most requests wish for nothing.
  const wishes: Wishes = {
    priority: 'normal',
    maxWaitMs: null,
    maxRunMs: null,
    pinnedProvider: null,
    pinnedTier: null,
    policy: null,
    detached: false,
    traceId: traceIdOf(headers.traceparent),
  }
  for (const name in headers) {
    if (!name.startsWith('x-holdfast-')) continue
    const value = headers[name]
    if (typeof value !== 'string') continue
    const read = Object.hasOwn(READERS, name) ? READERS[name] : undefined
    if (read === undefined)
      throw badRequest(
        'unsupported_header',
        `The header ${name.slice(0, 100)} is not supported by this version, and ignoring it would change what happens.`,
        name.slice(0, 100),
      )
    read(wishes, value, parts)
  }
  return wishes
}

const READERS: Record<string, (wishes: Wishes, value: string, parts: ApiParts) => void> = {
  'x-holdfast-priority': (wishes, value) => {
    const found = PRIORITIES.find((priority) => priority === value)
    if (found === undefined)
      throw badRequest('invalid_header', `x-holdfast-priority must be one of ${PRIORITIES.join(', ')}.`, 'x-holdfast-priority')
    wishes.priority = found
  },
  'x-holdfast-max-wait': (wishes, value) => {
    wishes.maxWaitMs = milliseconds('x-holdfast-max-wait', value)
  },
  'x-holdfast-max-run': (wishes, value) => {
    wishes.maxRunMs = milliseconds('x-holdfast-max-run', value)
  },
  'x-holdfast-detach': (wishes, value) => {
    if (value !== 'true' && value !== 'false')
      throw badRequest('invalid_header', 'x-holdfast-detach must be true or false.', 'x-holdfast-detach')
    wishes.detached = value === 'true'
  },
  'x-holdfast-tier': (wishes, value) => {
    const found = TIERS.find((tier) => tier === value)
    if (found === undefined)
      throw badRequest(
        'unknown_tier',
        `x-holdfast-tier must be one of ${TIERS.join(', ')}, not "${value.slice(0, 40)}".`,
        'x-holdfast-tier',
      )
    wishes.pinnedTier = found
  },
  'x-holdfast-policy': (wishes, value, parts) => {
    const found = [...parts.registry.policies.values()].find((policy) => policy.name === value || policy.id === value)
    if (found === undefined) {
      const names = [...parts.registry.policies.keys()].join(', ')
      throw new Fault('unknown_policy', `There is no policy "${value.slice(0, 100)}". There are: ${names || 'none yet'}.`, {
        status: 404,
        param: 'x-holdfast-policy',
      })
    }
    wishes.policy = found.name
  },
  'x-holdfast-provider': (wishes, value, parts) => {
    const providers = [...parts.scheduler.providers]
    const names = providers.map((provider) => provider.name)
    const found = providers.find((provider) => provider.name === value || provider.id === value || encodeURI(provider.name) === value)
    if (found === undefined)
      throw new Fault('unknown_provider', `There is no provider "${value.slice(0, 100)}". There are: ${names.join(', ') || 'none yet'}.`, {
        status: 404,
        param: 'x-holdfast-provider',
      })
    wishes.pinnedProvider = found.name
  },
}

function milliseconds(name: string, value: string): number {
  const seconds = decimal(value)
  if (!(seconds >= 0.001 && seconds <= SECONDS_MAX))
    throw badRequest('invalid_header', `${name} must be seconds from 0.001 to ${SECONDS_MAX}, not "${value.slice(0, 40)}".`, name)
  return Math.round(seconds * 1000)
}

const SECONDS_MAX = 30 * 86_400

/** Undefined when the caller gave none. */
export function readIdempotencyKey(request: FastifyRequest): string | undefined {
  const key = request.headers['idempotency-key']
  if (key === undefined) return undefined
  if (typeof key !== 'string' || !/^[\x21-\x7e]([\x20-\x7e]{0,253}[\x21-\x7e])?$/.test(key))
    throw badRequest('invalid_header', 'idempotency-key must be 1 to 255 printable characters.', 'idempotency-key')
  return key
}

/** Version 00 has no more members; a later one may. Version ff and identities of zeros are not valid. */
const TRACEPARENT = /^(?:00(?!.{54})|(?!00|ff)[0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-|$)/

/** The caller's trace when it sent a valid one (W3C trace context), else a new one that sorts by time. */
function traceIdOf(traceparent: string | string[] | undefined): string {
  const hex = typeof traceparent === 'string' ? TRACEPARENT.exec(traceparent)?.[1] : undefined
  if (hex === undefined) return newId()
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
}
