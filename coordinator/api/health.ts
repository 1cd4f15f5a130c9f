import type { FastifyInstance } from 'fastify'
import { stateOf } from '../core/provider-state.ts'
import type { EventRecord, EventType } from '../core/event.ts'
import type { WorkerId } from '../core/job.ts'
import type { Scheduler } from '../core/scheduler.ts'
import type { BatchCancels } from '../engine/batch-cancels.ts'
import type { Dispatcher } from '../engine/dispatcher.ts'
import type { FleetFacts } from '../fleet-facts.ts'
import type { Metrics } from '../metrics.ts'
import type { Db, Query } from '../store/db.ts'
import type { EventFeed } from '../engine/event-feed.ts'
import type { Purses } from '../engine/purses.ts'
import type { Registry } from '../engine/registry.ts'
import type { CloudTier } from '../tiers/cloud.ts'
import type { Outbound } from '../engine/outbound.ts'
import type { Vault } from '../vault.ts'
import type { Keyring } from './auth.ts'
import type { PendingKeys } from './idempotency.ts'
import { rfc3339 } from './paging.ts'

/** What the routes work with; `main` puts it together. */
export type ApiParts = {
  /** This process, as the owner of what is accepted here. */
  coordinator: string
  db: Db
  dispatcher: Dispatcher
  feed: EventFeed
  scheduler: Scheduler
  facts: FleetFacts
  keyring: Keyring
  metrics: Metrics
  vault: Vault
  /** A secret as it is stored, in the transaction that stores it. */
  seal(query: Query, secret: string): Promise<Buffer>
  outbound: Outbound
  /** Idempotency keys whose jobs are being stored right now. */
  pendingKeys: PendingKeys
  /** Batches that are being stored right now, and their rows: let in, and not in the line yet. */
  coming: { rows: number; batches: Set<string> }
  queueLimit: number
  version: string
  now(): number
  /** Why no work can be accepted; null when it can. */
  notReady(): string | null
  newEvent(type: EventType, actor: string, details: Record<string, unknown>): EventRecord
  /** Resolves when all that was changed so far is durable. */
  stored(): Promise<void>
  /** Reads keys anew. */
  reloadKeys(): Promise<void>
  /** A claim of a job was perhaps carried out. */
  doubtOwned(): void
  /** Reads keys, teams, policies and providers anew, after a change here or by another coordinator. */
  reload(): Promise<void>
  /** Has other coordinators look at what was changed in PostgreSQL. */
  tellOthers(): void
  /** `key` is told only where a setting holds the old one. */
  rotateMasterKey(given: string | null): Promise<{ secrets: number; key: string | null }>
  fleet: {
    /** Asks a worker to finish and go; false when it is not connected. */
    drain(worker: WorkerId): boolean
    /** It is cut off, and refused from now on. */
    revoke(worker: WorkerId): void
    /** It was put away. */
    forget(worker: WorkerId): void
  }
  registry: Registry
  purses: Purses
  batchCancels: BatchCancels
  cloud: CloudTier
  log: { error(text: string): void }
}

export function registerHealth(app: FastifyInstance, parts: ApiParts): void {
  app.get('/', async () => ({
    name: 'Holdfast coordinator',
    version: parts.version,
    try: [
      'GET /docs',
      'GET /api/openapi.json',
      'GET /healthz',
      'GET /readyz',
      'GET /metrics',
      'GET /v1/models',
      'POST /v1/chat/completions',
      'POST /v1/responses',
      'POST /v1/embeddings',
      'POST /v1/rerank',
      'POST /v1/messages',
      'POST /v1/messages/count_tokens',
      'GET /api/health',
      'POST /api/jobs',
      'GET /api/jobs',
      'GET /api/jobs/{id}/stream',
      'POST /api/batches',
      'GET /api/teams',
      'GET /api/keys',
      'GET /api/workers',
      'POST /api/workers/invites',
      'GET /api/quotas',
      'GET /api/events',
      'GET /api/events/stream',
    ],
  }))

  app.get('/healthz', async () => ({ status: 'ok' }))

  app.get('/readyz', async (_request, reply) => {
    const why = parts.notReady()
    return reply.code(why === null ? 200 : 503).send(why === null ? { status: 'ready' } : { status: 'not_ready', reason: why })
  })

  app.get('/metrics', async (_request, reply) => reply.header('content-type', parts.metrics.contentType).send(await parts.metrics.text()))

  app.get('/api/health', async () => {
    const workers = { online: 0, suspect: 0, draining: 0, offline: 0 }
    for (const worker of parts.scheduler.workers) workers[worker.state] += 1
    const problems = problemsOf(parts)
    return {
      ok: problems.length === 0,
      problems,
      version: parts.version,
      workers,
      jobs: {
        running: parts.scheduler.runningCount,
        waiting: parts.scheduler.waitingCount,
        waiting_by_reason: parts.scheduler.waitingByReason(parts.now()),
      },
      database: { reachable: !parts.db.down },
    }
  })
}

function problemsOf(parts: ApiParts): string[] {
  const problems: string[] = []
  const why = parts.notReady()
  if (why !== null) problems.push(why)
  const served = new Set<string>()
  for (const provider of parts.scheduler.providers) {
    if (provider.cloud === null) continue
    const { state, reason, untilMs } = stateOf(provider, parts.now())
    if (state !== 'online' && state !== 'busy' && state !== 'draining')
      problems.push(`provider ${provider.name} is ${state}${untilMs === null ? '' : ` until ${rfc3339(untilMs)}`}: ${reason}`)
    for (const model of provider.models.keys()) served.add(model)
  }
  for (const worker of parts.scheduler.workers) {
    if (worker.state !== 'online' && !parts.facts.isRetired(worker, parts.now())) problems.push(`worker ${worker.name} is ${worker.state}`)
    for (const { offer } of worker.models.values()) {
      if (worker.serves(offer.name)) served.add(offer.name)
      else if (worker.state === 'online') problems.push(`model ${offer.name} on worker ${worker.name} is ${offer.state}: ${offer.detail}`)
    }
  }
  // What somebody serves, and a job may not use, is that job's own matter.
  for (const { model, reason, count } of parts.scheduler.waitingByReason(parts.now()))
    if (reason === 'no_provider_for_model' && !served.has(model))
      problems.push(`${count} job(s) wait for ${model}, which nobody serves now`)
  if (served.size === 0) problems.push('nobody serves any model')
  return problems
}
