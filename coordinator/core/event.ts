/** The vocabulary of the audit log: what happened, as `noun.verb_in_past`, with how much it matters. */
export const EVENT_SEVERITY = {
  'job.accepted': 'debug',
  'job.started': 'debug',
  'job.succeeded': 'debug',
  'job.failed': 'error',
  'job.cancelled': 'info',
  'job.requeued': 'warning',
  'job.parked': 'error',
  'job.released': 'info',
  'job.forgotten': 'info',
  'attempt.refused': 'info',
  'provider.state_changed': 'warning',
  'callback.failed': 'error',
  'team.created': 'info',
  'team.changed': 'info',
  'batch.accepted': 'info',
  'batch.cancelled': 'info',
  'worker.joined': 'info',
  'worker.returned': 'info',
  'worker.suspected': 'warning',
  'worker.lost': 'error',
  'worker.drain_started': 'info',
  'worker.drained': 'info',
  'worker.replaced': 'info',
  'worker.revoked': 'warning',
  'worker.archived': 'info',
  'worker.refused': 'warning',
  'model.loading': 'info',
  'model.loaded': 'info',
  'model.crashed': 'error',
  'provider.created': 'info',
  'provider.changed': 'info',
  'provider.archived': 'warning',
  'policy.changed': 'info',
  'model.alias_set': 'info',
  'model.alias_removed': 'info',
  'credential.created': 'info',
  'credential.rotated': 'info',
  'credential.revoked': 'warning',
  'credential.changed': 'info',
  'credential.archived': 'warning',
  'user.created': 'info',
  'user.changed': 'info',
  'user.archived': 'warning',
  'spend.threshold_reached': 'warning',
  'key.created': 'info',
  'key.replaced': 'warning',
  'key.changed': 'info',
  'key.spent': 'info',
  'key.revoked': 'warning',
  'login.failed': 'warning',
  'coordinator.started': 'info',
  'coordinator.stopped': 'info',
  'coordinator.lost': 'error',
} as const satisfies Record<string, Severity>

export type Severity = 'debug' | 'info' | 'warning' | 'error'
export type EventType = keyof typeof EVENT_SEVERITY

/** `actor` is who caused it: `key:<name>`, `worker:<name or id>`, `worker` and `http` where no name was told, `coordinator`. Details never hold prompts or secrets. */
export type EventRecord = {
  id: string
  atMs: number
  type: EventType
  actor: string
  team: string | null
  job: string | null
  provider: string | null
  worker: string | null
  traceId: string | null
  details: Record<string, unknown>
}
