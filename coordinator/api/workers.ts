import type { FastifyInstance } from 'fastify'
import type { FleetWorker } from '../core/fleet.ts'
import { Fault, notFound } from '../core/fault.ts'
import { recorded } from '../store/events.ts'
import { archiveWorker, revokeWorker } from '../store/workers.ts'
import { type Caller, requireAdmin, requireOperator } from './auth.ts'
import type { ApiParts } from './health.ts'
import { newestFirst, pageOfAll, readQuery, rfc3339 } from './paging.ts'

type ById = { Params: { id: string } }

/** Workers come by themselves; people send them away, for now or for good. */
export function registerWorkers(app: FastifyInstance, parts: ApiParts): void {
  app.get('/api/workers', async (request) => {
    const query = readQuery(request.query, ['limit', 'cursor'])
    const placeOf = ({ name, id }: FleetWorker): string => newestFirst(parts.facts.find(id)?.joinedMs ?? 0, `${name} ${id}`)
    return pageOfAll(parts.scheduler.workers, query, placeOf, (worker) => workerView(parts, worker))
  })

  app.get<ById>('/api/workers/:id', async (request) => workerView(parts, getWorker(parts, request.params.id)))

  app.post<ById>('/api/workers/:id/drain', async (request) => {
    requireOperator(request.caller)
    const worker = getWorker(parts, request.params.id)
    drainWorker(parts, worker, request.caller)
    return workerView(parts, worker)
  })

  app.post<ById>('/api/workers/:id/revoke', async (request) => {
    requireAdmin(request.caller)
    const worker = getWorker(parts, request.params.id)
    await cutOff(parts, worker, request.caller)
    return workerView(parts, worker)
  })

  app.delete<ById>('/api/workers/:id', async (request) => {
    requireAdmin(request.caller)
    const { id, name, state, occupied, recovering } = getWorker(parts, request.params.id)
    if (state !== 'offline' || occupied.size > 0 || recovering)
      throw new Fault(
        'worker_needed',
        `Worker "${name}" is ${recovering ? 'expected back' : state}; only one that is offline can be put away.`,
        {
          status: 409,
        },
      )
    await recorded(
      parts.db,
      (query) => archiveWorker(query, id),
      () => ({ ...parts.newEvent('worker.archived', request.caller.actor, { worker: id }), worker: name, provider: name }),
    )
    parts.fleet.forget(id)
    return { id, name, archived: true }
  })
}

/** It finishes what it runs, hands back what takes longer, and goes; its process starts anew where people start it. */
export function drainWorker(parts: ApiParts, { id, name, state }: FleetWorker, caller: Caller): void {
  const { reason = null, by = null } = parts.facts.find(id) ?? {}
  if (state !== 'draining') parts.facts.note(id, { reason: `drained by ${caller.actor}`, by: caller.actor })
  if (parts.fleet.drain(id)) return
  parts.facts.note(id, { reason, by })
  throw new Fault('worker_offline', `Worker "${name}" is ${state} and cannot be told anything.`, { status: 409, retryable: true })
}

/** What it runs goes on elsewhere, and its identity is refused from now on. */
export async function cutOff(parts: ApiParts, { id, name }: FleetWorker, { actor }: Caller): Promise<void> {
  await recorded(
    parts.db,
    (query) => revokeWorker(query, id),
    () => ({ ...parts.newEvent('worker.revoked', actor, { worker: id }), worker: name, provider: name }),
  )
  parts.fleet.revoke(id)
  parts.facts.note(id, { revokedMs: parts.now(), reason: `revoked by ${actor}` })
  await parts.reload()
}

function getWorker(parts: ApiParts, id: string): FleetWorker {
  const found = [...parts.scheduler.workers].find((worker) => worker.id === id || worker.name === id)
  if (found === undefined) throw notFound(`There is no worker ${id.slice(0, 100)}.`)
  return found
}

function workerView(parts: ApiParts, worker: FleetWorker): Record<string, unknown> {
  const facts = parts.facts.find(worker.id)
  return {
    id: worker.id,
    name: worker.name,
    state: worker.state,
    reason: facts?.reason ?? null,
    revoked_at: rfc3339(facts?.revokedMs ?? null),
    version: facts?.version ?? null,
    last_heartbeat_at: rfc3339(facts?.heardMs ?? worker.lastHeardMs),
    models: [...worker.models.values()].map(({ offer }) => {
      const told = facts?.models.find((model) => model.name === offer.name)
      return {
        name: offer.name,
        engine: offer.engine,
        state: offer.state,
        detail: offer.detail === '' ? null : offer.detail,
        slots: worker.state === 'offline' ? 0 : offer.slots,
        busy: worker.busy(offer.name),
        context_tokens: offer.contextTokens === 0 ? null : offer.contextTokens,
        cooling_down_until: rfc3339(worker.cooling(offer.name, parts.now())),
        prefixes: offer.prefixes?.length ?? 0,
        sha256: offer.sha256,
        size_bytes: told?.sizeBytes ?? null,
        tokens_per_second: told?.tokensPerSecond ?? null,
        time_to_first_token_ms: told?.firstTokenMs ?? null,
        restarts: told?.restarts ?? null,
      }
    }),
    host: hostView(facts?.host ?? null),
  }
}

function hostView(host: NonNullable<ReturnType<ApiParts['facts']['find']>>['host']): Record<string, unknown> | null {
  if (host === null) return null
  return {
    platform: host.platform,
    cpu_model: host.cpuModel,
    cpu_cores: host.cpuCores,
    cpu_ratio: host.cpuRatio,
    memory_bytes: host.memoryBytes,
    memory_used_bytes: host.memoryUsedBytes,
    gpus: host.gpus.map((gpu) => ({
      name: gpu.name,
      utilization_ratio: gpu.utilizationRatio,
      memory_bytes: gpu.memoryBytes,
      memory_used_bytes: gpu.memoryUsedBytes,
      temperature_celsius: gpu.temperatureCelsius,
      power_watts: gpu.powerWatts,
    })),
  }
}
