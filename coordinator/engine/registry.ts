import { AUTO } from '../core/routing.ts'
import { withPlain } from '../../proto/abilities.ts'
import { ANTHROPIC_ABILITIES } from '../../proto/anthropic-wire-request.ts'
import { OPENAI_ABILITIES } from '../../proto/openai-wire-request.ts'
import type { Hold, ModelOffer } from '../core/fleet.ts'
import type { Tier, WorkerId } from '../core/job.ts'
import { ANY_TIER, DEFAULT_PATIENCE, type Patience, pinnedTo, TIERS } from '../core/tiers.ts'
import { allAliases } from '../store/aliases.ts'
import { allCredentials, type CredentialRecord } from '../store/credentials.ts'
import type { Db } from '../store/db.ts'
import { activePolicies, archivedTiers, type PolicyRecord } from '../store/policies.ts'
import { activeProviders, type ProviderModel, type ProviderRecord } from '../store/providers.ts'
import type { TeamRecord } from '../store/teams.ts'
import type { CloudAccess, CloudTier } from '../tiers/cloud.ts'
import { isFree } from '../tiers/price.ts'
import type { Dispatcher } from './dispatcher.ts'
import type { Terms } from './new-job.ts'

/**
 * What people have set about where work may go: providers, what they are paid with, policies of patience, aliases. The
 * rows are the truth; this is the copy that decisions are made from, read anew after a change here and every few seconds
 * for changes elsewhere.
 */
export class Registry {
  readonly #parts: RegistryParts
  readonly #providers = new Map<WorkerId, Configured>()
  readonly #policies = new Map<string, PolicyRecord>()
  readonly #aliases = new Map<string, string>()
  readonly #teams = new Map<string, TeamRecord>()
  /** Of policies that are archived. */
  readonly #tiersBefore = new Map<string, Patience>()
  readonly #tiersByKey = new Map<string, readonly string[]>()
  #loading: Promise<void> | undefined

  constructor(parts: RegistryParts) {
    this.#parts = parts
  }

  /** Two at once would apply an older reading over a newer one. */
  async load(): Promise<void> {
    while (this.#loading !== undefined) await this.#loading
    this.#loading = this.#load().finally(() => {
      this.#loading = undefined
    })
    await this.#loading
  }

  get providers(): Iterable<ProviderRecord> {
    return [...this.#providers.values()].map(({ record }) => record)
  }

  get policies(): ReadonlyMap<string, PolicyRecord> {
    return this.#policies
  }

  get teams(): Iterable<TeamRecord> {
    return this.#teams.values()
  }

  findProvider(name: string): ProviderRecord | undefined {
    for (const { record } of this.#providers.values()) if (record.name === name || record.id === name) return record
    return undefined
  }

  setTeams(teams: TeamRecord[]): void {
    this.#teams.clear()
    for (const team of teams) this.#teams.set(team.name, team)
  }

  /** The tiers that keys allow, by id, where they do not allow all; of revoked ones too, for what they have made may still wait. */
  setKeyTiers(tiers: ReadonlyMap<string, readonly string[]>): void {
    replace(this.#tiersByKey, [...tiers])
  }

  /** What terms are made of besides limits; another text when any of it has changed. */
  get rules(): string {
    const policies = [...this.#policies.values()].map(({ name, tiers }) => [name, tiers])
    const teams = [...this.#teams.values()].map(({ name, policy }) => [name, policy])
    return JSON.stringify([policies, teams, [...this.#tiersByKey]])
  }

  /** The model that a name leads to, through aliases. */
  resolveModel(name: string): string {
    let target = name
    // A circle cannot be made, but rows may be written by hand.
    for (let step = 0; step < ALIASES_MAX; step++) {
      // Of an older version's database there may be one for it.
      const next = target === AUTO ? undefined : this.#aliases.get(target)
      if (next === undefined) return target
      target = next
    }
    return name
  }

  get aliases(): ReadonlyMap<string, string> {
    return this.#aliases
  }

  /** The policy that a request is under: the one it names, else its team's; null: the default one. */
  policyOf(named: string | null, team: string): string | null {
    return named ?? this.#teams.get(team)?.policy ?? null
  }

  /**
   * When tiers open to a job, and who pays for it. A pin is a pin: there at once or never. A tier that the policy or the
   * key closes stays closed to a pin as well. A job that was under no policy comes under its team's when that gets one.
   */
  termsOf({ policy: named, team, pinnedTier, pinnedProvider, key }: JobTerms): Terms {
    const policy = this.policyOf(named, team)
    const tiers = key === null ? undefined : this.#tiersByKey.get(key)
    const patience =
      (policy === null ? undefined : (this.#policies.get(policy)?.tiers ?? this.#tiersBefore.get(policy))) ?? DEFAULT_PATIENCE
    const pinned = pinnedTier !== null ? pinnedTo(pinnedTier) : pinnedProvider !== null ? ANY_TIER : patience
    const opened = { ...pinned } as Record<Tier, Patience[Tier]>
    for (const tier of TIERS) if (patience[tier] === 'never' || tiers?.includes(tier) === false) opened[tier] = 'never'
    const purses = [`team:${team}`]
    if (policy !== null) purses.push(`policy:${policy}`)
    if (key !== null) purses.push(`key:${key}`)
    return { patience: opened, purses: purses.filter((purse) => this.#parts.isLimited(purse)) }
  }

  async #load(): Promise<void> {
    const { db } = this.#parts
    const [providers, credentials, policies, before, aliases] = await Promise.all([
      activeProviders(db),
      allCredentials(db),
      activePolicies(db),
      archivedTiers(db),
      allAliases(db),
    ])
    replace(
      this.#policies,
      policies.map((policy) => [policy.name, policy]),
    )
    replace(this.#tiersBefore, [...before])
    replace(
      this.#aliases,
      aliases.map(({ name, target }) => [name, target]),
    )
    const byName = new Map(credentials.map((credential) => [credential.name, credential]))
    for (const record of providers) this.#configure(record, record.credential === null ? null : byName.get(record.credential))
    const kept = new Set(providers.map(({ id }) => id))
    for (const id of this.#providers.keys()) {
      if (kept.has(id)) continue
      this.#providers.delete(id)
      this.#parts.dispatcher.removeProvider(id)
      this.#parts.cloud.remove(id)
    }
  }

  #configure(record: ProviderRecord, credential: CredentialRecord | null | undefined): void {
    const known = this.#providers.get(record.id)
    const version = `${record.version}/${credential?.version ?? 0}`
    if (known?.version === version) return
    const { secret, hold: unusable } = this.#unseal(record, credential)
    const hold = unusable ?? drainOf(record)
    const door = doorOf(record, credential)
    this.#providers.set(record.id, { record, version, door })
    const isTimed = record.firstTokenTimeoutMs !== null || record.nextTokenTimeoutMs !== null
    const access: CloudAccess = { ...record, secret, models: record.models ?? [], isTimed, isUsable: unusable === null }
    this.#parts.cloud.configure(access, (models) => this.#discovered(record.id, models))
    // What it listed before stays until it lists anew: a rotated credential is no reason to have no models for a moment.
    this.#offer(record, record.models ?? this.#parts.cloud.discovered(record.id))
    // What it is called with has changed: that is worth a new try.
    if ((known !== undefined && known.door !== door) || hold !== null) this.#parts.dispatcher.holdProvider(record.id, hold)
  }

  /** A provider without a list of its own offers what it says it has. */
  #discovered(id: WorkerId, models: ProviderModel[]): void {
    const record = this.#providers.get(id)?.record
    if (record !== undefined && record.models === null) this.#offer(record, models)
  }

  #offer(record: ProviderRecord, models: ProviderModel[]): void {
    const { id, name, maxParallel, firstTokenTimeoutMs, nextTokenTimeoutMs, requestsPerMinute, tokensPerMinute } = record
    this.#parts.dispatcher.setProvider({
      id,
      name,
      offers: models.map((model) => offerOf(record, model)),
      terms: { maxParallel, firstTokenTimeoutMs, nextTokenTimeoutMs },
      quota: { requestsPerMinute, tokensPerMinute },
    })
  }

  #unseal(record: ProviderRecord, credential: CredentialRecord | null | undefined): { secret: string | null; hold: Hold | null } {
    const parked = (why: string): { secret: null; hold: Hold } => ({ secret: null, hold: { state: 'parked', untilMs: null, why } })
    if (credential === null) return { secret: null, hold: null }
    if (credential === undefined) return parked(`its credential "${record.credential}" does not exist`)
    if (credential.revokedMs !== null) return parked(`its credential "${credential.name}" was revoked`)
    try {
      return { secret: this.#parts.vault.open(credential.sealed), hold: null }
    } catch (error) {
      return parked(`its credential "${credential.name}" cannot be opened: ${error instanceof Error ? error.message : String(error)}`)
    }
  }
}

type Configured = { record: ProviderRecord; version: string; door: string }

export type JobTerms = {
  policy: string | null
  team: string
  pinnedTier: Tier | null
  pinnedProvider: string | null
  key: string | null
}

type RegistryParts = {
  db: Db
  dispatcher: Dispatcher
  cloud: CloudTier
  vault: { open(sealed: Buffer): string }
  /** Whether anybody set how much the account may spend. */
  isLimited(purse: string): boolean
}

const ALIASES_MAX = 100

/** Where it is called and with what, and whether it may be. */
function doorOf({ kind, baseUrl, credential: name, drainedBy }: ProviderRecord, credential: CredentialRecord | null | undefined): string {
  return JSON.stringify([kind, baseUrl, name, credential?.version, drainedBy])
}

/** Calls under way go on; nothing new is begun. */
function drainOf({ drainedBy }: ProviderRecord): Hold | null {
  return drainedBy === null ? null : { state: 'draining', untilMs: null, why: `drained by ${drainedBy}` }
}

function replace<V>(map: Map<string, V>, entries: [string, V][]): void {
  map.clear()
  for (const [name, value] of entries) map.set(name, value)
}

function offerOf(record: ProviderRecord, model: ProviderModel): ModelOffer {
  return {
    name: model.name,
    engine: record.kind,
    state: 'ready',
    detail: '',
    slots: record.maxParallel,
    contextTokens: 0,
    maxTokenBytes: 0,
    // Names what defines the answer, so that nobody else's text is ever joined to it.
    sha256: `${record.name}/${model.upstream}`,
    tier: 'cloud',
    abilities: withPlain(model.abilities ?? ABILITIES_OF[record.kind], ABILITIES_OF[record.kind]),
    startsOver: true,
    paid: !isFree(model),
    firstTokenTimeoutMs: model.firstTokenTimeoutMs ?? null,
    nextTokenTimeoutMs: model.nextTokenTimeoutMs ?? null,
  }
}

/** What the two APIs can honour, as they document it. A model that can less, or an open server that can more, says so. */
const ABILITIES_OF: Record<ProviderRecord['kind'], string[]> = {
  openai: [...OPENAI_ABILITIES],
  anthropic: [...ANTHROPIC_ABILITIES],
}
