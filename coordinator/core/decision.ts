import type { FleetModel, FleetWorker } from './fleet.ts'
import type { Tier } from './job.ts'
import {
  AUTO,
  type Choice,
  choosePlace,
  contextOf,
  eligiblePlaces,
  type Fleet,
  isAble,
  type Place,
  type RouteKey,
  tierOf,
} from './routing.ts'
import type { Opening, Patience } from './tiers.ts'

/** Why an attempt went where it went, or why a job still waits: stored with the job's events, and read by people. */
export type Decision = {
  /** When the tier opened, and by what the place was chosen in it: `at_once/prefix`, `after_s/least_busy`. */
  rule: string
  chosen: string | null
  candidates: Candidate[]
  /** Of the candidates left out: a fleet of hundreds is not listed job by job. */
  more: number
  waitedMs: number
}

type Candidate = { provider: string; tier: Tier; model: string; eligible: boolean; whyNot: string | null }

export type Question = {
  key: RouteKey
  patience: Patience
  teamFull: boolean
  delayed: boolean
  waitedMs: number
  prefix: readonly string[]
}

/** What would be chosen now, with every provider of the model and why the job cannot start there; null where it could. */
export function decide(nowMs: number, question: Question, fleet: Fleet): Decision {
  const eligible = eligiblePlaces(question.key, fleet)
  const free = eligible.filter(({ worker, model }) => worker.free(model, nowMs) > 0)
  const choice = question.teamFull || question.delayed ? undefined : choosePlace(free, question.prefix)
  return explain(nowMs, question, fleet, eligible, choice)
}

/** The same for a choice that was made among the eligible places. */
export function explain(nowMs: number, question: Question, fleet: Fleet, eligible: readonly Place[], choice: Choice | undefined): Decision {
  const { key, patience, waitedMs } = question
  const able = new Set(eligible.map(({ worker, model }) => worker.models.get(model)))
  const candidates: Candidate[] = []
  let more = 0
  for (const worker of fleet.workers())
    for (const entry of key.model === AUTO ? worker.models.values() : named(worker, key.model)) {
      if (candidates.length >= CANDIDATES_MAX) {
        more += 1
        continue
      }
      const { offer } = entry
      const chosen = choice?.worker === worker && choice.model === offer.name
      const whyNot = chosen ? null : whyNotHere(nowMs, question, worker, offer.name, able.has(entry), choice !== undefined)
      const eligibleHere = able.has(entry) && (whyNot === null || whyNot === 'not_the_best')
      candidates.push({ provider: worker.name, tier: offer.tier ?? 'gpu', model: offer.name, eligible: eligibleHere, whyNot })
    }
  const rule = choice === undefined ? 'waiting' : `${openingName(patience[tierOf(choice)])}/${choice.rule}`
  return { rule, chosen: choice?.worker.name ?? null, candidates, more, waitedMs: Math.round(waitedMs) }
}

function named(worker: FleetWorker, model: string): FleetModel[] {
  const entry = worker.models.get(model)
  return entry === undefined ? [] : [entry]
}

const CANDIDATES_MAX = 32

function whyNotHere(
  nowMs: number,
  { key, patience, teamFull, delayed }: Question,
  worker: FleetWorker,
  model: string,
  able: boolean,
  another: boolean,
): string {
  const offer = worker.models.get(model)?.offer
  const tier = offer?.tier ?? 'gpu'
  if (delayed) return 'retry_backoff'
  if (key.provider !== null && key.provider !== worker.name) return 'not_the_pinned_provider'
  if (patience[tier] === 'never') return 'tier_never_opens'
  if (worker.hold?.state === 'parked') return 'parked'
  if (worker.state !== 'online') return worker.state
  if (offer?.needsPerson === true) return 'parked'
  if (offer === undefined || offer.slots === 0) return offer?.state === 'loading' ? 'model_loading' : 'model_down'
  if (!isAble(key.needs, offer.abilities)) return 'lacks_ability'
  if (key.sha256 !== null && offer.sha256 !== key.sha256) return 'other_model_file'
  if (offer.paid === true && key.broke) return 'spend_limit_reached'
  if (!able && contextOf({ worker, model }) <= key.outgrown) return 'context_too_small'
  if (!able) return key.avoid.includes(worker.id) ? 'failed_before' : 'tier_not_open_yet'
  if (teamFull) return 'team_limit'
  const hold = worker.holding(model, nowMs)
  if (hold !== null) return hold.state
  if (worker.cooling(model, nowMs) !== null) return 'cooling_down'
  if (worker.free(model, nowMs) === 0) return 'all_slots_busy'
  return another ? 'not_the_best' : 'all_slots_busy'
}

function openingName(opening: Opening): string {
  if (typeof opening === 'string') return opening
  return opening === 0 ? 'at_once' : 'after_s'
}

/** A decision as its event tells it, in the contract's words. */
export function decisionDetails({ rule, chosen, candidates, more, waitedMs }: Decision): Record<string, unknown> {
  return {
    rule,
    chosen,
    candidates: candidates.map(({ provider, tier, model, eligible, whyNot }) => ({ provider, tier, model, eligible, why_not: whyNot })),
    ...(more === 0 ? {} : { more_candidates: more }),
    waited_ms: waitedMs,
  }
}
