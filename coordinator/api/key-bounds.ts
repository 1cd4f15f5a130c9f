import { Fault } from '../core/fault.ts'
import type { KeyRecord } from '../store/keys.ts'
import { rfc3339 } from './paging.ts'

/** What a key may do at most; null in any of these: all that its holder may. */
export type KeyBounds = Pick<KeyRecord, 'expiresMs' | 'scopes' | 'models' | 'tiers' | 'requestsPerMinute' | 'spendMicrosPerDay'>

export function boundsView(key: KeyBounds): Record<string, unknown> {
  return {
    scopes: key.scopes,
    models: key.models,
    tiers: key.tiers,
    limits: { requests_per_minute: key.requestsPerMinute, spend_micros_per_day: key.spendMicrosPerDay },
    expires_at: rfc3339(key.expiresMs),
  }
}

/** Throws a Fault with status 403 where a bound would be wider than that of the key that asks for it: it could lift its own. */
export function refuseWider(own: KeyBounds & { name: string }, wanted: Partial<KeyBounds>): void {
  for (const [bound, name] of BOUNDS) {
    const [most, asked] = [own[bound], wanted[bound]]
    if (asked === undefined || most === null || isWithin(asked, most)) continue
    const shown = bound === 'expiresMs' ? rfc3339(most as number) : Array.isArray(most) ? most.join(', ') : String(most)
    throw new Fault('forbidden', `The key "${own.name}" can grant no more than it has: ${name} may be ${shown}, or less.`, {
      status: 403,
      param: name,
    })
  }
}

const BOUNDS = [
  ['scopes', 'scopes'],
  ['models', 'models'],
  ['tiers', 'tiers'],
  ['expiresMs', 'expires_at'],
  ['requestsPerMinute', 'limits.requests_per_minute'],
  ['spendMicrosPerDay', 'limits.spend_micros_per_day'],
] as const satisfies readonly (readonly [keyof KeyBounds, string])[]

function isWithin(asked: string[] | number | null, most: string[] | number): boolean {
  if (asked === null) return false
  if (typeof asked === 'number') return asked <= Number(most)
  return asked.every((item) => (most as string[]).includes(item))
}
