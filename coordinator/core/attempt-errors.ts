import type { JobError } from './job.ts'

/** Why attempts end that nobody reported as failed. */

function lost(code: string, message: string): JobError {
  return { code, message, layer: 'provider', retryable: true }
}

export const WORKER_LOST = lost('worker_lost', 'The connection to the worker closed and it did not come back in time.')
export const WORKER_SILENT = lost('worker_silent', 'The worker sent no heartbeat within the dead time.')
export const WORKER_RESTARTED = lost('worker_restarted', 'The worker came back without the attempt: its process had died.')
export const COORDINATOR_RESTARTED = lost(
  'coordinator_restarted',
  'After a restart of the coordinator the worker did not offer the attempt again.',
)

export function silent(code: string, limitMs: number): JobError {
  return lost(code, `The provider produced no token for ${Math.round(limitMs / 1000)} s.`)
}

export const INTERRUPTED = lost(
  'answer_interrupted',
  'The provider broke off in the middle of the answer, and no other can go on from there. Ask again for a whole one.',
)
export const PROVIDER_REMOVED = lost('provider_removed', 'The provider was taken out of use.')

/** Why an attempt was refused whose call nobody may pay for. */
export const SPEND_LIMIT = 'spend_limit'

/** Running again would take as long again. */
export function tooLong(limitMs: number): JobError {
  const message = `The job ran for ${limitMs / 1000} s, which is as long as its caller allows (x-holdfast-max-run).`
  return { code: 'max_run_exceeded', message, layer: 'provider', retryable: false }
}

/** Whoever makes it would make it as large again. */
export function tooLarge(chars: number): JobError {
  return { code: 'answer_too_large', message: `The answer is longer than ${chars} characters.`, layer: 'provider', retryable: false }
}

/** The caller allowed no longer wait. */
export function waitedTooLong(limitMs: number, reason: string): JobError {
  const message = `The job waited ${limitMs / 1000} s, which is as long as its caller allows (x-holdfast-max-wait); it waited because: ${reason}.`
  return { code: 'max_wait_exceeded', message, layer: 'routing', retryable: true }
}

/** An answer that is not what its schema asks for, as the worker that made it judged. */
export const SCHEMA_MISMATCH = 'schema_mismatch'

// What no prompt and no provider can be blamed for.
export const BLAMELESS = new Set(['worker_draining', 'coordinator_restarted', 'attempt_unknown', 'provider_removed'])

export const GIVEN_BACK = lost('worker_draining', 'The worker gave the job back.')

export const CONTEXT_FULL: JobError = {
  code: 'context_full',
  message: 'The answer filled the context of its worker and goes on at one that serves the model with a larger one.',
  layer: 'model',
  retryable: true,
}
