import type { Setback } from './cooldown.ts'
import type { CloudTerms, Hold, ModelOffer } from './fleet.ts'
import type { JobError, JobId, Priority, WorkerId } from './job.ts'
import type { QuotaLimits } from './quota.ts'
import type { Patience } from './tiers.ts'

/** Everything the scheduler can be told. */
export type Input =
  | { kind: 'job-accepted'; job: AcceptedJob }
  | {
      kind: 'job-recovered'
      job: AcceptedJob
      attempt: number
      /** The worker that ran it when the last coordinator died; null: it was queued. */
      worker: { id: WorkerId; name: string } | null
      tokens: number
      sha256: string | null
      /** The model that its last attempt ran; null: the one it asked for. */
      served: string | null
      strikes: number
      failures: number
      /** Its last attempt was on an engine that cannot go on from what it had begun. */
      startsOver?: boolean
      /** How long its attempt has run under the coordinator before this one. */
      ranMs?: number
    }
  /** From jobs of an earlier life: estimates begin with it. */
  | { kind: 'service-time-known'; model: string; meanMs: number }
  | { kind: 'job-cancelled'; job: JobId }
  /** What waiting costs them and who pays has changed for these. */
  | { kind: 'terms-set'; jobs: readonly { job: JobId; patience: Patience; purses: readonly string[] }[] }
  | { kind: 'team-set'; team: TeamRules }
  /** A provider that the coordinator calls itself, new or changed. */
  | { kind: 'provider-set'; worker: WorkerId; name: string; offers: ModelOffer[]; terms: CloudTerms; quota: QuotaLimits }
  | { kind: 'provider-removed'; worker: WorkerId }
  /** Null: it was set anew, and nothing that was against it before counts. */
  | { kind: 'provider-held'; worker: WorkerId; hold: Hold | null }
  /** An account has nothing left until then; null: it has. */
  | { kind: 'purse-set'; purse: string; spentUntilMs: number | null }
  /** One that the last coordinator knew; whether it was there then. */
  | { kind: 'worker-known'; worker: WorkerId; name: string; offers: ModelOffer[]; wasOnline?: boolean }
  | {
      kind: 'worker-connected'
      worker: WorkerId
      name: string
      offers: ModelOffer[]
      held: { job: JobId; attempt: number }[]
      draining: boolean
    }
  | { kind: 'worker-reported'; worker: WorkerId; offers: ModelOffer[] }
  | { kind: 'worker-draining'; worker: WorkerId }
  | { kind: 'worker-disconnected'; worker: WorkerId }
  /** `tokens` is the length of the answer so far; patient: what comes next may take as long as a first token. */
  | ({ kind: 'attempt-progressed'; tokens: number; isPatient?: boolean } & Report)
  /** `purses`: those that pay for it by now, where that is what spoke against it. */
  | ({ kind: 'attempt-refused'; reason: string; purses?: readonly string[] } & Report)
  /** `cost` is what it took in tokens, prompt and answer. */
  | ({ kind: 'attempt-finished'; cost: number } & Report)
  /** With a hold it was the provider that could not take more: the job is not blamed. */
  | ({ kind: 'attempt-failed'; error: JobError; hold?: Setback } & Report)
  /** It is to end like this, whatever its provider is still doing. */
  | ({ kind: 'attempt-stopped'; error: JobError } & Report)
  /** This process did not run for so long: nobody was silent who was not heard meanwhile. */
  | { kind: 'paused'; ms: number }
  | { kind: 'time-passed' }

export type InputOf<K extends Input['kind']> = Extract<Input, { kind: K }>

/** The most tokens that one job is charged for: a number that somebody made up must not put its class and team behind all others. */
export const COST_MAX = 10_000_000

export type AcceptedJob = {
  id: JobId
  model: string
  /** A provider's name when the request is pinned to it. */
  provider: string | null
  patience: Patience
  needs: readonly string[]
  purses: readonly string[]
  restartable: boolean
  /** A cloud is asked to tell the answer while it grows; absent: it is. */
  streamed?: boolean
  /** How long it has waited already: it may come from another coordinator. */
  waitedMs: number
  team: string
  priority: Priority
  /** Estimated tokens, prompt and answer, and of those the prompt's. */
  cost: number
  promptCost: number
  maxWaitMs: number | null
  maxRunMs: number | null
  /** Hashes of the conversation's growing prefixes, shortest first. */
  prefix: readonly string[]
}

/** About one attempt, by the worker that says it runs it. */
export type Report = { job: JobId; attempt: number; worker: WorkerId }

export type SchedulerRules = {
  suspectAfterMs: number
  deadAfterMs: number
  /** How long a worker whose stream closed may take to come back before its attempts run elsewhere. */
  returnGraceMs: number
  /** The same after the coordinator's own start, when every worker has to find it again. */
  recoveryGraceMs: number
  firstTokenTimeoutMs: number
  nextTokenTimeoutMs: number
  attemptsMax: number
  retryBackoffMs: number
  refusalPauseMs: number
  /** Failures of different jobs in a row after which a model on a worker gets nothing for a while. */
  breakerFailures: number
  /** How long, the first time; twice as long each time its one trial job fails too. */
  breakerOpenMs: number
  breakerMaxMs: number
}

export type TeamRules = { name: string; weight: number; maxParallel: number | null }
