import { timingSafeEqual } from 'node:crypto'
import { Fault } from '../core/fault.ts'
import { sha256 } from '../secrets.ts'
import type { KeyRecord } from '../store/keys.ts'

/** An admin sees and changes everything; others see the jobs of their team. */
export type Caller = { key: string; name: string; team: string; actor: string; admin: boolean }

/**
 * Who may call. Keys are random, so one SHA-256 and a look into a map decide: a flood of wrong keys costs as little as a
 * flood of right ones, and neither touches PostgreSQL.
 */
export class Keyring {
  readonly #byHash = new Map<string, { caller: Caller; hash: Buffer; expiresMs: number | null }>()
  readonly #now: () => number
  readonly #onRefused: (address: string) => void

  constructor(now: () => number, onRefused: (address: string) => void) {
    this.#now = now
    this.#onRefused = onRefused
  }

  replace(keys: KeyRecord[]): void {
    this.#byHash.clear()
    for (const { id, name, team, kind, hash, expiresMs } of keys) {
      if (kind === 'worker' || kind === 'intake') continue
      this.#byHash.set(hash.toString('base64'), {
        caller: { key: id, name, team, actor: `key:${name}`, admin: kind === 'bootstrap' },
        hash,
        expiresMs,
      })
    }
  }

  /** Throws a Fault with status 401 unless one of the headers holds a key that is in force. */
  identify(headers: { authorization?: string | undefined; 'x-api-key'?: string | string[] | undefined }, address: string): Caller {
    const presented = bearer(headers.authorization) ?? (typeof headers['x-api-key'] === 'string' ? headers['x-api-key'] : undefined)
    if (presented === undefined) {
      this.#onRefused(address)
      throw new Fault('missing_key', 'No key: send "Authorization: Bearer <key>" or "x-api-key: <key>".', {
        status: 401,
        hint: 'npm start prints where the admin key lies.',
      })
    }
    const hash = sha256(presented)
    const found = this.#byHash.get(hash.toString('base64'))
    // The map has decided already; the comparison in constant time keeps that so should the map's key ever shrink.
    if (found === undefined || !timingSafeEqual(found.hash, hash)) {
      this.#onRefused(address)
      throw new Fault('invalid_key', 'The key is wrong or was revoked.', { status: 401 })
    }
    if (found.expiresMs !== null && found.expiresMs <= this.#now()) {
      this.#onRefused(address)
      throw new Fault('expired_key', 'The key has expired.', { status: 401 })
    }
    return found.caller
  }
}

/** Throws a Fault with status 403 unless the caller may change what belongs to everybody. */
export function requireAdmin(caller: Caller): void {
  if (!caller.admin)
    throw new Fault('forbidden', `The key "${caller.name}" belongs to team ${caller.team}; this needs an admin's key.`, { status: 403 })
}

function bearer(header: string | undefined): string | undefined {
  return header !== undefined && /^bearer /i.test(header) ? header.slice('bearer '.length).trim() : undefined
}
