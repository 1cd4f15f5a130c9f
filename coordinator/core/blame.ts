import { BLAMELESS, SCHEMA_MISMATCH } from './attempt-errors.ts'
import { type Breaker, trip } from './breaker.ts'
import type { FleetWorker } from './fleet.ts'
import type { JobError, WorkerId } from './job.ts'
import { contextOf, eligiblePlaces, type Fleet, type Place, type RouteKey } from './routing.ts'
import type { ScheduledJob } from './scheduled-job.ts'

/** What an attempt that brought no answer says about its job and about who ran it. */
export type Blame = {
  /** When the model there gets nothing for a while; null: this says nothing about it. */
  breaker: { breakerFailures: number; breakerOpenMs: number; breakerMaxMs: number } | null
  /** It counts against the job, which is parked after some of them, and goes elsewhere if it can. */
  strikes: boolean
  /** It is one of those that no job may have for ever. */
  counts: boolean
  /** Whoever waits for the model there goes first when it is tried again: the job may be what is wrong. */
  yields: boolean
  /** What it brought is no beginning of the answer: the next attempt begins anew, and when there is none no person can help. */
  isVoid: boolean
}

/**
 * At a worker every failure counts against the job. A cloud fails for reasons of its own, so there a job is blamed only when
 * others were answered since it last failed. That tells a poison prompt from an outage: the one is parked after three tries
 * between which others were served, the other parks nobody. Until it is told, the model is left alone there for a while, and the
 * next who tries it is another job.
 */
export function blameOf(
  { served, answersSeen }: ScheduledJob,
  worker: FleetWorker | null,
  error: JobError,
  rules: NonNullable<Blame['breaker']>,
): Blame {
  const blame = { breaker: null, strikes: true, counts: true, yields: false, isVoid: false }
  if (BLAMELESS.has(error.code)) return { ...blame, strikes: false }
  // The model answered, and whoever asks it for something else is answered too.
  if (error.code === SCHEMA_MISMATCH) return { ...blame, isVoid: true }
  if (worker?.cloud == null || !CLOUD_TROUBLES.has(error.code)) return { ...blame, breaker: rules }
  if (error.code === 'provider_lacks_model') return { ...blame, breaker: CLOUD_BREAKER, strikes: false, counts: false }
  if (error.code === 'provider_forbids') return blame
  const answers = worker.models.get(served)?.breaker.answers ?? 0
  // Where several fail together, that it fails at each for the first time says nothing.
  const seen = answersSeen === null ? 0 : (answersSeen.get(worker.id) ?? Number.POSITIVE_INFINITY)
  const strikes = answers > seen
  // A call that went silent has to be paid for.
  return { ...blame, breaker: CLOUD_BREAKER, strikes, counts: strikes || error.code !== 'provider_failed', yields: true }
}

/** What this provider may not do for us another may; where there is none, that is the end of the job. */
export function isForbidden(key: RouteKey, worker: FleetWorker | null, { code }: JobError, fleet: Fleet): boolean {
  if (code !== 'provider_forbids') return false
  return !eligiblePlaces(key, fleet).some(({ worker: other }) => other !== worker && !key.avoid.includes(other.id))
}

/**
 * The context that a prompt, or an answer, has outgrown; null where no other place that is open to it has a larger one. Of one model
 * there may be several sizes: hosts that are short of memory serve a smaller one by themselves.
 */
export function outgrownAt(nowMs: number, key: RouteKey, place: Place, fleet: Fleet): number | null {
  const most = Math.max(key.outgrown, contextOf(place))
  const isLarger = (other: Place): boolean => {
    const hold = other.worker.holding(other.model, nowMs)
    // What only a person ends may be for ever, and of a budget nobody waits for the next month.
    return contextOf(other) > most && (hold === null || (hold.untilMs !== null && hold.untilMs - nowMs <= SOON_MS))
  }
  return eligiblePlaces({ ...key, avoid: [], outgrown: 0 }, fleet).some(isLarger) ? most : null
}

const SOON_MS = 600_000

/** What does not fit into the context at one place may fit elsewhere. */
export const OUT_OF_CONTEXT = new Set(['context_length_exceeded', 'context_full'])

// An answer that broke off, or makes no sense, is not among them: somebody was there who began it.
const CLOUD_TROUBLES = new Set(['provider_failed', 'provider_forbids', 'provider_lacks_model', 'first_token_timeout', 'next_token_timeout'])
const CLOUD_BREAKER = { breakerFailures: 1, breakerOpenMs: 1_000, breakerMaxMs: 60_000 }

/** Tells the breaker of the model that failed; answers whether it opened. */
export function tripFor(breaker: Breaker, nowMs: number, job: ScheduledJob, worker: WorkerId, blame: Blame, error: JobError): boolean {
  if (blame.yields) (job.answersSeen ??= new Map()).set(worker, breaker.answers)
  return blame.breaker !== null && trip(breaker, job.id, nowMs, blame.breaker, error.message)
}

/**
 * A prompt that kills its worker would otherwise be handed to the next worker for ever. Three attempts in a row that brought
 * next to nothing separate bad luck from a bad prompt; after that a person looks. An attempt that got on clears the count: a
 * long answer on a fleet whose hosts die often is not poison.
 */
export function countAgainst(job: ScheduledJob, worker: FleetWorker | null, { strikes, counts, isVoid }: Blame): void {
  if (strikes) job.strikes = isVoid || broughtNothing(job) ? job.strikes + 1 : 0
  if (counts) job.failures += 1
  if (worker !== null && strikes && !job.avoid.includes(worker.id)) job.avoid = [...job.avoid, worker.id]
}

/** Next to nothing, or what nobody can go on from. */
export function broughtNothing(job: ScheduledJob): boolean {
  return job.startsOver || job.tokens - job.tokensAtStart < PROGRESS_TOKENS
}

// Whatever a job achieves between its deaths, this many of them are a case for a person.
export const ATTEMPTS_EVER = 30
// Fewer new tokens than this and an attempt brought next to nothing.
const PROGRESS_TOKENS = 8

/** For how long the job lets others go first there: until they have had time to try the model. */
export function yieldingMs(nowMs: number, served: string, worker: FleetWorker): number {
  const untilMs = worker.cooling(served, nowMs)
  return untilMs === null ? 0 : untilMs - nowMs + OTHERS_FIRST_MS
}

/**
 * The same for one that a cloud turned away, not saying until when. A job that is turned away again and again, while others are
 * answered, waits longer every time: it costs them a pause each. A rate is everybody's.
 */
export function turnedAwayMs(nowMs: number, job: ScheduledJob, worker: FleetWorker, { code }: JobError, othersWait: boolean): number {
  let answers = 0
  for (const { breaker } of worker.models.values()) answers += breaker.answers
  const seen = job.turnedAwayBy?.get(worker.id) ?? Number.POSITIVE_INFINITY
  ;(job.turnedAwayBy ??= new Map()).set(worker.id, answers)
  if (code !== 'provider_rate_limited' && answers > seen) job.turnedAway += 1
  if (!othersWait && job.turnedAway === 0) return 0
  const untilMs = worker.hold?.onTrial === true ? (worker.hold.untilMs ?? nowMs) : nowMs
  const aloneMs = job.turnedAway === 0 ? 0 : Math.min(ALONE_MAX_MS, ALONE_MS * 2 ** (job.turnedAway - 1))
  return Math.max(0, untilMs - nowMs) + OTHERS_FIRST_MS + aloneMs
}

/** Another provider than this one may take it, now or when a slot is free there. */
export function isOpenElsewhere(nowMs: number, key: RouteKey, worker: FleetWorker, fleet: Fleet): boolean {
  return eligiblePlaces(key, fleet).some(
    ({ worker: other, model }) =>
      other !== worker && !key.avoid.includes(other.id) && other.holding(model, nowMs) === null && other.cooling(model, nowMs) === null,
  )
}

const ALONE_MS = 1_000
const ALONE_MAX_MS = 60_000

// Two ticks.
const OTHERS_FIRST_MS = 400
