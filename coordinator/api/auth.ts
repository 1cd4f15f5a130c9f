import { timingSafeEqual } from 'node:crypto'
import { badRequest, Fault } from '../core/fault.ts'
import { sha256 } from '../secrets.ts'
import type { KeyKind, KeyRecord } from '../store/keys.ts'
import type { Role } from '../store/users.ts'

/**
 * Who calls. An owner or admin sees and changes everything; an operator sees everything and handles the fleet and its jobs;
 * the others see and make the jobs of their team, viewers only see them. A key may be narrower than its holder.
 */
export type Caller = {
  key: string
  name: string
  /** Whose jobs it makes. */
  team: string
  /** Whose work it sees. */
  teams: readonly string[]
  /** The team whose jobs it would make is none any more: it sees them, and makes none. */
  isTeamArchived: boolean
  role: Role
  actor: string
  admin: boolean
  scopes: readonly Scope[] | null
  models: readonly string[] | null
  tiers: readonly string[] | null
}

/** `inference`: make jobs and handle one's own · `read`: see · `admin`: change what is everybody's, as far as the role goes. */
export const SCOPES = ['inference', 'read', 'admin'] as const
export type Scope = (typeof SCOPES)[number]

/**
 * Who may call. Keys are random, so one SHA-256 and a look into a map decide: a flood of wrong keys costs as little as a
 * flood of right ones, and neither touches PostgreSQL.
 */
export class Keyring {
  #byHash = new Map<string, Entry>()
  readonly #byId = new Map<string, Entry>()
  /** What a connection came with last: whoever keeps one open comes with the same key again, which need not be hashed anew. */
  readonly #known = new WeakMap<object, { authorization: string; entry: Entry; of: ReadonlyMap<string, Entry> }>()
  /** Those that may ask only so often, by id: every request looks here. */
  readonly #limited = new Map<string, Entry>()
  readonly #now: () => number
  readonly #onRefused: (address: string) => void

  constructor(now: () => number, onRefused: (address: string) => void) {
    this.#now = now
    this.#onRefused = onRefused
  }

  replace(keys: KeyRecord[]): void {
    const before = this.#byHash
    this.#byHash = new Map()
    this.#byId.clear()
    this.#limited.clear()
    for (const key of keys) {
      const name = key.hash.toString('base64')
      const { hash, kind, requestsPerMinute, singleUse } = key
      // Spent here a moment ago, it may not be written yet.
      const spentBy = key.spentBy ?? before.get(name)?.spentBy ?? null
      // An invite has to be used in time; from then on it is its worker's own.
      const expiresMs = spentBy === null ? key.expiresMs : null
      // What was asked in this minute counts on: keys are read anew every few seconds.
      const minute = before.get(name)?.minute ?? { startMs: 0, requests: 0 }
      const entry: Entry = { caller: callerOf(key), kind, hash, expiresMs, requestsPerMinute, minute, singleUse, spentBy }
      this.#byHash.set(name, entry)
      this.#byId.set(key.id, entry)
      if (requestsPerMinute !== null) this.#limited.set(key.id, entry)
    }
  }

  /** Throws a Fault with status 401 unless one of the headers holds a key that is in force. */
  identify(headers: KeyHeaders, address: string, connection: object): Caller {
    const { authorization } = headers
    const known = this.#known.get(connection)
    const isKnown = authorization !== undefined && known?.of === this.#byHash && isSame(known.authorization, authorization)
    return isKnown ? this.#inForce(known.entry, address) : this.#identify(headers, address, connection)
  }

  #identify(headers: KeyHeaders, address: string, connection: object): Caller {
    const presented = bearer(headers.authorization) ?? (typeof headers['x-api-key'] === 'string' ? headers['x-api-key'] : undefined)
    if (presented === undefined || presented === '') {
      this.#onRefused(address)
      throw new Fault('missing_key', 'No key: send "Authorization: Bearer <key>" or "x-api-key: <key>".', {
        status: 401,
        hint: 'npm start prints where the admin key lies.',
      })
    }
    const found = this.#find(presented)
    const why = found === undefined ? 'The key is wrong or was revoked.' : OTHER_DOORS[found.kind]
    if (found === undefined || why !== undefined) {
      this.#onRefused(address)
      throw new Fault('invalid_key', why ?? '', { status: 401 })
    }
    const { authorization } = headers
    if (authorization !== undefined) this.#known.set(connection, { authorization, entry: found, of: this.#byHash })
    return this.#inForce(found, address)
  }

  #inForce(found: Entry, address: string): Caller {
    if (found.expiresMs !== null && found.expiresMs <= this.#now()) {
      this.#onRefused(address)
      throw new Fault('expired_key', 'The key has expired.', { status: 401 })
    }
    return found.caller
  }

  /** Counts what makes so many jobs; throws a Fault with status 429, and counts nothing, when that is beyond the key's share of this minute. */
  count(caller: Caller, jobs = 1): void {
    const entry = this.#limited.get(caller.key)
    if (entry === undefined || entry.requestsPerMinute === null) return
    const { minute } = entry
    const nowMs = this.#now()
    if (nowMs >= minute.startMs + MINUTE_MS) Object.assign(minute, { startMs: nowMs, requests: 0 })
    if (minute.requests + jobs <= entry.requestsPerMinute) {
      minute.requests += jobs
      return
    }
    if (jobs > entry.requestsPerMinute)
      throw badRequest(
        'out_of_range',
        `n makes ${jobs} jobs, and the key "${caller.name}" may ask for ${entry.requestsPerMinute} a minute.`,
        'n',
      )
    const retryAfterS = Math.max(1, Math.ceil((minute.startMs + MINUTE_MS - nowMs) / 1000))
    throw new Fault('rate_limit_exceeded', `The key "${caller.name}" may ask ${entry.requestsPerMinute} times a minute.`, {
      status: 429,
      retryable: true,
      retryAfterS,
    })
  }

  /** Who a caller that came a while ago is by now; undefined: its key is not in force any more. */
  present({ key }: Caller): Caller | undefined {
    const found = this.#byId.get(key)
    return found !== undefined && (found.expiresMs === null || found.expiresMs > this.#now()) ? found.caller : undefined
  }

  /** Whether a worker may join with it. */
  admitsWorker(token: string): boolean {
    const found = this.#find(token)
    return found !== undefined && found.kind === 'worker' && (found.expiresMs === null || found.expiresMs > this.#now())
  }

  /** Undefined when the token is no invite; else whose it is now, which is the worker's if it was nobody's. */
  spendInvite(token: string, worker: string): { key: string; spentBy: string; isNew: boolean } | undefined {
    const found = this.#find(token)
    if (found === undefined || !found.singleUse) return undefined
    const isNew = found.spentBy === null
    found.spentBy ??= worker
    if (isNew) found.expiresMs = null
    return { key: found.caller.key, spentBy: found.spentBy, isNew }
  }

  /** Requests that a limited key has made in this minute, and when the next one begins. */
  usage(key: string): { requests: number; resetsMs: number | null } {
    const minute = this.#limited.get(key)?.minute
    const isOver = minute === undefined || this.#now() >= minute.startMs + MINUTE_MS
    return isOver ? { requests: 0, resetsMs: null } : { requests: minute.requests, resetsMs: minute.startMs + MINUTE_MS }
  }

  #find(presented: string): Entry | undefined {
    const hash = sha256(presented)
    const found = this.#byHash.get(hash.toString('base64'))
    // The map has decided already; the comparison in constant time keeps that so should the map's key ever shrink.
    return found !== undefined && timingSafeEqual(found.hash, hash) ? found : undefined
  }
}

type KeyHeaders = { authorization?: string | undefined; 'x-api-key'?: string | string[] | undefined }

type Entry = {
  caller: Caller
  kind: KeyKind
  hash: Buffer
  expiresMs: number | null
  requestsPerMinute: number | null
  minute: { startMs: number; requests: number }
  singleUse: boolean
  spentBy: string | null
}

const MINUTE_MS = 60_000

/** Keys that open no door here. */
const OTHER_DOORS: Partial<Record<KeyKind, string>> = {
  worker: 'This is a worker’s key, which opens the door of workers and no other.',
  intake: 'This is the key of an intake, which opens intakes and no other door.',
}

function callerOf({ id, name, kind, team, owner, scopes, models, tiers }: KeyRecord): Caller {
  const role = kind === 'bootstrap' ? 'owner' : (owner?.role ?? 'member')
  const teams = team === null ? (owner?.teams ?? ['default']) : [team]
  return {
    key: id,
    name,
    team: teams[0] ?? 'default',
    teams,
    isTeamArchived: team === null && owner?.archivedTeams.includes(teams[0] ?? 'default') === true,
    role,
    actor: `key:${name}`,
    admin: role === 'owner' || role === 'admin',
    scopes: scopes as Scope[] | null,
    models,
    tiers,
  }
}

/** Throws a Fault with status 403 unless the caller may change what belongs to everybody. */
export function requireAdmin(caller: Caller): void {
  if (!caller.admin) throw lacksRole(caller, "an admin's")
}

function lacksRole({ name, role, teams }: Caller, needed: string): Fault {
  const whose = teams.length === 0 ? `a ${role} without a team` : `team ${teams[0]}`
  return new Fault('forbidden', `The key "${name}" belongs to ${whose}; this needs ${needed} key.`, { status: 403 })
}

/** The same for handling jobs and workers, which operators may too. */
export function requireOperator(caller: Caller): void {
  if (!handlesAll(caller)) throw lacksRole(caller, "an operator's or admin's")
}

/** Whose jobs, batches and events of every team are to be seen: an operator cannot handle what is hidden. */
export function seesAllTeams(caller: Caller): boolean {
  return mayRead(caller) && handlesAll(caller)
}

/** The teams whose rows a list may show; null: all. A key that may only make jobs sees those of the team it makes them for, whoever holds it. */
export function teamsSeen(caller: Caller): readonly string[] | null {
  if (!mayRead(caller)) return caller.teams.length > 0 || handlesAll(caller) ? [caller.team] : []
  return seesAllTeams(caller) ? null : caller.teams
}

export function seesTeam(caller: Caller, team: string): boolean {
  return teamsSeen(caller)?.includes(team) ?? true
}

export function mayRead({ scopes }: Caller): boolean {
  return scopes === null || scopes.includes('read')
}

function handlesAll({ admin, role }: Caller): boolean {
  return admin || role === 'operator'
}

/** What a list says of whose rows it could hold. */
export function scopeOf(caller: Caller): { teams: 'all' | readonly string[] } {
  return { teams: teamsSeen(caller) ?? 'all' }
}

/** Throws a Fault with status 403 unless the key has the scope and its holder's role allows it. */
export function requireScope(caller: Caller, scope: Scope): void {
  if (caller.scopes !== null && !caller.scopes.includes(scope))
    throw new Fault('missing_scope', `The key "${caller.name}" has the scopes ${caller.scopes.join(', ')}; this needs ${scope}.`, {
      status: 403,
    })
  if (scope === 'inference' && caller.teams.length === 0 && !handlesAll(caller))
    throw new Fault('forbidden', `The holder of the key "${caller.name}" is in no team, and every job is of one.`, { status: 403 })
  if (scope === 'inference' && caller.isTeamArchived)
    throw new Fault(
      'forbidden',
      `The team ${caller.team}, whose jobs the key "${caller.name}" would make, is archived: change its holder's teams.`,
      {
        status: 403,
      },
    )
  if (scope === 'inference' && caller.role === 'viewer')
    throw new Fault('forbidden', `The key "${caller.name}" belongs to a viewer, who sees jobs and makes none.`, { status: 403 })
}

/** In a time that tells nothing of where they differ: connections of several callers may be one behind a proxy. */
function isSame(known: string, presented: string): boolean {
  if (known.length !== presented.length) return false
  let difference = 0
  for (let at = 0; at < known.length; at++) difference |= known.charCodeAt(at) ^ presented.charCodeAt(at)
  return difference === 0
}

function bearer(header: string | undefined): string | undefined {
  return header !== undefined && /^bearer /i.test(header) ? header.slice('bearer '.length).trim() : undefined
}
