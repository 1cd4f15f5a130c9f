import type { FastifyInstance } from 'fastify'
import type { FleetWorker } from '../core/fleet.ts'
import { notFound } from '../core/fault.ts'
import type { ApiParts } from './health.ts'
import { readQuery, rfc3339 } from './paging.ts'

export function registerWorkers(app: FastifyInstance, parts: ApiParts): void {
  app.get('/api/workers', async (request) => {
    readQuery(request.query, [])
    // A fleet is small enough for one page; the shape is that of every list.
    const workers = [...parts.scheduler.workers].sort((a, b) => (a.name < b.name ? -1 : 1))
    return { data: workers.map((worker) => workerView(parts, worker)), next: null, scope: { teams: 'all' } }
  })

  app.get<{ Params: { id: string } }>('/api/workers/:id', async (request) => {
    const { id } = request.params
    const found = [...parts.scheduler.workers].find((worker) => worker.id === id || worker.name === id)
    if (found === undefined) throw notFound(`There is no worker ${id.slice(0, 100)}.`)
    return workerView(parts, found)
  })
}

function workerView(parts: ApiParts, worker: FleetWorker): Record<string, unknown> {
  const facts = parts.facts.find(worker.id)
  return {
    id: worker.id,
    name: worker.name,
    state: worker.state,
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
