/** The layer of the path an error belongs to; the trace's verdict speaks in the same words. */
export type Layer = 'ingress' | 'routing' | 'provider' | 'model' | 'tool' | 'human' | 'workflow'

/**
 * A fault of the world or of a caller, thrown once and mapped to HTTP or gRPC in one place. `code` is stable and for
 * programs, `message` is for people and says what to change.
 */
export class Fault extends Error {
  readonly code: string
  readonly status: number
  readonly layer: Layer
  readonly retryable: boolean
  readonly param: string | null
  readonly retryAfterS: number | null
  readonly hint: string | null
  /** What the provider itself answered. */
  readonly providerStatus: number | null
  job: string | null

  constructor(code: string, message: string, facts: FaultFacts = {}) {
    super(message, facts.cause === undefined ? {} : { cause: facts.cause })
    this.name = 'Fault'
    this.code = code
    this.status = facts.status ?? 500
    this.layer = facts.layer ?? 'ingress'
    this.retryable = facts.retryable ?? false
    this.param = facts.param ?? null
    this.retryAfterS = facts.retryAfterS ?? null
    this.hint = facts.hint ?? null
    this.providerStatus = facts.providerStatus ?? null
    this.job = facts.job ?? null
  }
}

export type FaultFacts = {
  status?: number
  layer?: Layer
  retryable?: boolean
  param?: string
  retryAfterS?: number
  hint?: string
  providerStatus?: number
  job?: string
  cause?: unknown
}

/** A request that can never succeed as it stands. */
export function badRequest(code: string, message: string, param?: string): Fault {
  return new Fault(code, message, param === undefined ? { status: 400 } : { status: 400, param })
}

export function notFound(message: string): Fault {
  return new Fault('not_found', message, { status: 404 })
}
