import type { FleetWorker } from './fleet.ts'
import type { JobId, WorkerId } from './job.ts'
import type { AcceptedJob } from './inputs.ts'
import { type Flow, PRIORITIES, type Team } from './line.ts'
import type { Patience } from './tiers.ts'

/** A job as the scheduler knows it, until its end. */
export type ScheduledJob = {
  readonly id: JobId
  /** The place in line, kept over every attempt: what comes back goes to the front. */
  readonly order: number
  readonly model: string
  readonly provider: string | null
  patience: Patience
  readonly needs: readonly string[]
  purses: readonly string[]
  /** Nobody has read any of its answer: one that cannot be continued may be made anew. */
  readonly restartable: boolean
  /** A cloud is asked to tell the answer while it grows. */
  readonly streamed: boolean
  readonly team: Team<ScheduledJob>
  readonly rank: number
  readonly cost: number
  readonly promptCost: number
  readonly maxWaitMs: number | null
  readonly maxRunMs: number | null
  /** Time spent in attempts that ended. */
  ranMs: number
  waitLimit: WaitLimit | null
  /** How long it waited before this wait, and when this one began. */
  waitedMs: number
  waitingSinceMs: number
  /** The wait that its caller limits: it goes on through calls that were turned away. */
  waitBeganMs: number
  lastWaitMs: number
  /** How the tiers stand to it, as of the last time it joined the line; and when that changes by waiting. */
  tiers: string
  opening: WaitLimit | null
  /** Set once text was delivered: only the same model file continues it. */
  sha256: string | null
  avoid: readonly WorkerId[]
  /** Contexts of up to so many tokens were too small for it; 0: none. */
  outgrown: number
  /** How many answers a cloud had given when the job last failed there; null: it failed nowhere. */
  answersSeen: Map<WorkerId, number> | null
  /** How often a cloud turned it away that had answered others since the last time. */
  turnedAway: number
  /** How many answers each had given by then; null: none has. */
  turnedAwayBy: Map<WorkerId, number> | null
  /** Where it stands in line; null while it does not. */
  flow: Flow<ScheduledJob> | null
  readonly prefix: readonly string[]
  phase: 'queued' | 'delayed' | 'running'
  /** Number of the current or last attempt; 0 before the first. */
  attempt: number
  /** The highest number that a worker greeted with. */
  numbersSpent: number
  /** Attempts in a row that failed without getting on. */
  strikes: number
  /** All that failed; a refusal is none. */
  failures: number
  /** Tokens that its last attempt took, prompt and answer. */
  spent: number
  /** Length of the answer so far, over all attempts. */
  tokens: number
  tokensAtStart: number
  startedMs: number
  progressedMs: number
  /** Its next token may take as long as a first one. */
  isPatient: boolean
  notBeforeMs: number
  /** Until then it goes nowhere at all. */
  backoffUntilMs: number
  /** Why it is delayed, while it is. */
  delayedBy: 'retry_backoff' | 'cooling_down'
  /** What was said of it, and at whom. */
  delayedWhy: string | null
  delayedAt: FleetWorker | null
  worker: FleetWorker | null
  /** The model that its current or last attempt runs: another name than `model` where that is `auto`. */
  served: string
  /** The current attempt is on an engine that cannot continue what another one began. */
  startsOver: boolean
}

/** When its wait is over, or changes; a place in a heap. */
export type WaitLimit = { job: ScheduledJob; atMs: number; heapIndex: number }

/** A job as it enters the scheduler, before its first wait. */
export function enlisted(accepted: AcceptedJob, order: number, team: Team<ScheduledJob>): ScheduledJob {
  const {
    id,
    model,
    provider,
    patience,
    needs,
    purses,
    restartable,
    streamed = true,
    waitedMs,
    cost,
    promptCost,
    maxWaitMs,
    maxRunMs,
    prefix,
  } = accepted
  return {
    id,
    order,
    model,
    provider,
    patience,
    needs,
    purses,
    restartable,
    streamed,
    team,
    rank: PRIORITIES.indexOf(accepted.priority),
    cost,
    promptCost,
    maxWaitMs,
    maxRunMs,
    ranMs: 0,
    waitLimit: null,
    waitedMs,
    waitingSinceMs: 0,
    waitBeganMs: 0,
    lastWaitMs: 0,
    tiers: '',
    opening: null,
    sha256: null,
    avoid: NOBODY,
    outgrown: 0,
    answersSeen: null,
    turnedAway: 0,
    turnedAwayBy: null,
    flow: null,
    prefix,
    phase: 'queued',
    attempt: 0,
    numbersSpent: 0,
    strikes: 0,
    failures: 0,
    spent: 0,
    tokens: 0,
    tokensAtStart: 0,
    startedMs: 0,
    progressedMs: 0,
    isPatient: false,
    notBeforeMs: 0,
    backoffUntilMs: 0,
    delayedBy: 'retry_backoff',
    delayedWhy: null,
    delayedAt: null,
    worker: null,
    served: model,
    startsOver: false,
  }
}

const NOBODY: readonly WorkerId[] = []
