import { json, NAME_OR_ID, type Noun } from './noun.ts'
import { ID, list, oneOf, orNull, pageOf, ref, text, TIME, view, whole } from './schema.ts'

export const workers: Noun = {
  name: 'Workers',
  about: 'Processes on GPU hosts, which dial in by themselves.',
  routes: [
    { method: 'get', path: '/api/workers', summary: 'List workers', answers: { 200: json(pageOf(ref('Worker')), 'All of them') } },
    {
      method: 'get',
      path: '/api/workers/{id}',
      summary: 'Read a worker',
      params: NAME_OR_ID,
      answers: { 200: json(ref('Worker'), 'The worker') },
    },
  ],
  schemas: {
    Worker: view({
      id: ID,
      name: text(),
      state: oneOf(['online', 'suspect', 'draining', 'offline']),
      version: orNull(text()),
      last_heartbeat_at: orNull(TIME),
      models: list(ref('WorkerModel')),
      host: orNull(ref('Host')),
    }),
    WorkerModel: view({
      name: text(),
      engine: text(),
      state: oneOf(['loading', 'ready', 'down']),
      detail: orNull(text()),
      slots: whole(),
      busy: whole(),
      context_tokens: orNull(whole()),
      cooling_down_until: orNull(TIME),
      prefixes: whole(),
      sha256: orNull(text()),
      size_bytes: orNull(whole()),
      tokens_per_second: orNull({ type: 'number' }),
      time_to_first_token_ms: orNull({ type: 'number' }),
      restarts: orNull(whole()),
    }),
    Host: view({
      platform: text(),
      cpu_model: text(),
      cpu_cores: whole(),
      cpu_ratio: { type: 'number' },
      memory_bytes: whole(),
      memory_used_bytes: whole(),
      gpus: list(
        view({
          name: text(),
          utilization_ratio: { type: 'number' },
          memory_bytes: whole(),
          memory_used_bytes: whole(),
          temperature_celsius: { type: 'number' },
          power_watts: { type: 'number' },
        }),
      ),
    }),
  },
}
