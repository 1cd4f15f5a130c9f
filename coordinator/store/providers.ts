import type { WorkerId } from '../core/job.ts'
import type { Db, Query } from './db.ts'
import { milliseconds, number, numberOrNull, text, textOrNull } from './rows.ts'

/** A provider that the coordinator calls itself. Workers are providers too, and say themselves what they are. */
export type ProviderRecord = ProviderSettings & { id: WorkerId; name: string; version: number; createdMs: number; drainedBy: string | null }

export type ProviderSettings = {
  kind: 'openai' | 'anthropic'
  baseUrl: string
  /** The name of one; null: it wants none. */
  credential: string | null
  /** Null: whatever it lists. */
  models: ProviderModel[] | null
  maxParallel: number
  requestsPerMinute: number | null
  tokensPerMinute: number | null
  spendMicrosPerDay: number | null
  spendMicrosPerMonth: number | null
  firstTokenTimeoutMs: number | null
  nextTokenTimeoutMs: number | null
}

/**
 * `name` is what callers say, `upstream` what the provider calls it; prices are in micro-dollars per million tokens, null where
 * nobody set one; those of tokens read from a cache or written to one are then the prompt's. The limits on silence are absent in rows of an older version; null:
 * the provider's.
 */
export type ProviderModel = {
  name: string
  upstream: string
  inputMicros: number | null
  outputMicros: number | null
  cachedInputMicros?: number | null
  cacheWriteInputMicros?: number | null
  abilities: string[] | null
  firstTokenTimeoutMs?: number | null
  nextTokenTimeoutMs?: number | null
}

export async function activeProviders(db: Db): Promise<ProviderRecord[]> {
  return (await db.query('select * from providers where archived_at is null order by id')).map(parseProvider)
}

export async function findProvider(db: Db, idOrName: string): Promise<ProviderRecord | undefined> {
  const row = await db.maybeOne('select * from providers where archived_at is null and (id::text = $1 or name = $1)', [idOrName])
  return row === undefined ? undefined : parseProvider(row)
}

/** Undefined when the name is taken. */
export async function saveProvider(
  query: Query,
  provider: ProviderSettings & { id: string; name: string },
): Promise<ProviderRecord | undefined> {
  const [row] = await query(
    `insert into providers (id, name, tier, ${COLUMNS.join(', ')}) values ($1, $2, 'cloud', ${places(3)})
     on conflict (name) where archived_at is null do nothing returning *`,
    [provider.id, provider.name, ...valuesOf(provider)],
  )
  return row === undefined ? undefined : parseProvider(row)
}

export async function changeProvider(query: Query, id: string, settings: ProviderSettings): Promise<ProviderRecord | undefined> {
  const [row] = await query(
    `update providers set (${COLUMNS.join(', ')}, version) = (${places(2)}, version + 1) where id = $1 and archived_at is null returning *`,
    [id, ...valuesOf(settings)],
  )
  return row === undefined ? undefined : parseProvider(row)
}

export async function archiveProvider(query: Query, id: string): Promise<ProviderRecord | undefined> {
  const [row] = await query('update providers set archived_at = now() where id = $1 and archived_at is null returning *', [id])
  return row === undefined ? undefined : parseProvider(row)
}

/** `by` null: it takes new work again. Undefined where that is so already. */
export async function drainProvider(query: Query, id: string, by: string | null): Promise<ProviderRecord | undefined> {
  const [row] = await query(
    `update providers set drained_by = $2, drained_at = case when $2::text is null then null else now() end, version = version + 1
      where id = $1 and archived_at is null and (drained_by is null) <> ($2::text is null) returning *`,
    [id, by],
  )
  return row === undefined ? undefined : parseProvider(row)
}

const COLUMNS = [
  'kind',
  'base_url',
  'credential',
  'models',
  'max_parallel',
  'requests_per_minute',
  'tokens_per_minute',
  'spend_micros_per_day',
  'spend_micros_per_month',
  'first_token_timeout_ms',
  'next_token_timeout_ms',
]

function places(first: number): string {
  return COLUMNS.map((_, index) => `$${first + index}`).join(', ')
}

function valuesOf(settings: ProviderSettings): unknown[] {
  return [
    settings.kind,
    settings.baseUrl,
    settings.credential,
    settings.models === null ? null : JSON.stringify(settings.models),
    settings.maxParallel,
    settings.requestsPerMinute,
    settings.tokensPerMinute,
    settings.spendMicrosPerDay,
    settings.spendMicrosPerMonth,
    settings.firstTokenTimeoutMs,
    settings.nextTokenTimeoutMs,
  ]
}

function parseProvider(row: Record<string, unknown>): ProviderRecord {
  return {
    id: text(row.id) as WorkerId,
    name: text(row.name),
    kind: text(row.kind) as ProviderSettings['kind'],
    baseUrl: text(row.base_url),
    credential: textOrNull(row.credential),
    models: row.models as ProviderModel[] | null,
    maxParallel: number(row.max_parallel),
    requestsPerMinute: numberOrNull(row.requests_per_minute),
    tokensPerMinute: numberOrNull(row.tokens_per_minute),
    spendMicrosPerDay: numberOrNull(row.spend_micros_per_day),
    spendMicrosPerMonth: numberOrNull(row.spend_micros_per_month),
    firstTokenTimeoutMs: numberOrNull(row.first_token_timeout_ms),
    nextTokenTimeoutMs: numberOrNull(row.next_token_timeout_ms),
    version: number(row.version),
    createdMs: milliseconds(row.created_at),
    drainedBy: textOrNull(row.drained_by),
  }
}
