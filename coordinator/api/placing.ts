import { type Ability, needsOf } from '../../proto/abilities.ts'
import { badRequest, Fault } from '../core/fault.ts'
import type { ModelOffer } from '../core/fleet.ts'
import type { Tier } from '../core/job.ts'
import { allOffers, offersOf as namedOffers } from '../core/offers.ts'
import { AUTO, isAble, speaks } from '../core/routing.ts'
import { TIERS } from '../core/tiers.ts'
import type { Terms } from '../engine/new-job.ts'
import type { Caller } from './auth.ts'
import type { ApiParts } from './health.ts'
import type { ParsedRequest } from './openai-request.ts'
import { unknownModel } from './submit.ts'
import type { Wishes } from './wishes.ts'

/** Where a request may run: which model its name means, what that must be able to do, and when which tier opens to it. */
export type Placing = {
  model: string
  policy: string | null
  terms: Terms
  needs: Ability[]
  /** Those of its model that anybody has ever made. */
  offers: ModelOffer[]
}

/** Throws what speaks against it for ever: what may change by waiting is no reason to refuse. */
export function place(parts: ApiParts, caller: Caller, parsed: ParsedRequest, wishes: Wishes): Placing {
  const model = parts.registry.resolveModel(parsed.model)
  if (caller.models !== null && !caller.models.includes(parsed.model) && !caller.models.includes(model))
    throw new Fault(
      'model_not_allowed',
      `The key "${caller.name}" may not use "${parsed.model.slice(0, 100)}". It may use: ${caller.models.join(', ')}.`,
      {
        status: 403,
        layer: 'routing',
        param: 'model',
      },
    )
  const offers = offersOf(parts, model)
  if (offers.length === 0) throw unknownModel(parts, caller, parsed.model)
  const policy = parts.registry.policyOf(wishes.policy, caller.team)
  const { pinnedTier, pinnedProvider } = wishes
  const terms = parts.registry.termsOf({ policy, team: caller.team, pinnedTier, pinnedProvider, key: caller.key })
  refuseClosed(parts, terms, model, policy, caller, wishes)
  const needs = needsOf(parsed.generation, parsed.seed !== null)
  if (parsed.onlyDialect !== undefined) needs.push(`${parsed.onlyDialect}_dialect`)
  refuseUnable(parts, needs, offers, wishes, parsed)
  return { model, policy, terms, needs, offers }
}

function offersOf(parts: ApiParts, model: string): ModelOffer[] {
  const named = namedOffers(model, parts.scheduler.providers)
  if (named.length > 0 || model !== AUTO) return named
  return allOffers(parts.scheduler.providers).filter((offer) => speaks(offer.abilities))
}

/** A pin to what its policy or key never opens would wait for ever. */
function refuseClosed(
  parts: ApiParts,
  { patience }: Terms,
  model: string,
  policy: string | null,
  caller: Caller,
  { pinnedTier, pinnedProvider }: Wishes,
): void {
  const wanted = pinnedProvider === null ? TIERS : tiersOf(parts, pinnedProvider, model)
  if (wanted.some((tier) => patience[tier] !== 'never')) return
  const tier = pinnedTier ?? wanted.join(', ')
  const byKey = caller.tiers !== null && !wanted.some((name) => caller.tiers?.includes(name) && (pinnedTier ?? name) === name)
  const pins = pinnedTier !== null && pinnedProvider !== null && !wanted.includes(pinnedTier)
  const by = pins ? `the pin to "${pinnedProvider}"` : byKey ? `the key "${caller.name}"` : `the policy "${policy ?? 'default'}"`
  throw new Fault('tier_never_opens', `The tier ${tier} is closed by ${by}: the job could never run.`, {
    status: 403,
    layer: 'routing',
    param: pinnedTier !== null ? 'x-holdfast-tier' : pinnedProvider !== null ? 'x-holdfast-provider' : 'x-holdfast-policy',
  })
}

/** Where a provider offers the model; every tier while it does not say. */
function tiersOf(parts: ApiParts, name: string, model: string): readonly Tier[] {
  const provider = [...parts.scheduler.providers].find((one) => one.name === name)
  const tiers = [...(provider?.models.values() ?? [])]
    .filter(({ offer }) => model === AUTO || offer.name === model)
    .map(({ offer }) => offer.tier ?? 'gpu')
  return tiers.length === 0 ? TIERS : TIERS.filter((tier) => tiers.includes(tier))
}

/** Never accepted and ignored: what nobody who offers the model can honour is refused by the name of the parameter. */
function refuseUnable(parts: ApiParts, needs: Ability[], offers: ModelOffer[], wishes: Wishes, parsed: ParsedRequest): void {
  const wordless = needs.includes('embeddings') || needs.includes('rerank') ? [] : offers.filter((offer) => !speaks(offer.abilities))
  if (wordless.length > 0 && wordless.length === offers.length)
    throw badRequest('unsupported_parameter', `The model "${parsed.model.slice(0, 100)}" makes vectors or scores, not answers.`, 'model')
  if (needs.length === 0) return
  const inTier = offers.filter((offer) => wishes.pinnedTier === null || (offer.tier ?? 'gpu') === wishes.pinnedTier)
  const provider =
    wishes.pinnedProvider === null ? undefined : [...parts.scheduler.providers].find(({ name }) => name === wishes.pinnedProvider)
  const asked = provider === undefined ? inTier : inTier.filter((offer) => provider.models.get(offer.name)?.offer === offer)
  // Of an offer of an older version it is not known yet what it can.
  if (asked.length === 0 || asked.some((offer) => offer.abilities === undefined || isAble(needs, offer.abilities))) return
  const missing = needs.find((need) => !asked.some((offer) => isAble([need], offer.abilities))) ?? needs.at(-1)
  const isDialect = missing === 'openai_dialect' || missing === 'anthropic_dialect'
  const param = (isDialect ? parsed.onlyDialectFor : undefined) ?? parameterFor(missing, parsed)
  const lacking = LACKING[missing ?? '']
  if (lacking !== undefined)
    throw badRequest('unsupported_parameter', `The model "${parsed.model.slice(0, 100)}" ${lacking} where it is served.`, param)
  throw badRequest(
    'unsupported_parameter',
    `${param}${VALUE_OF[missing ?? ''] ?? ''} is not supported by the model "${parsed.model.slice(0, 100)}" where it is served, and ignoring it would change the answer.`,
    param,
  )
}

/** Where no parameter says it, but what is asked about or for. */
const LACKING: Record<string, string> = {
  images: 'sees no images',
  embeddings: 'makes no embeddings',
  rerank: 'ranks no documents',
}

/** Where it is not the parameter but its value. */
const VALUE_OF: Record<string, string> = {
  temperature_above_1: ' above 1',
  reasoning_max_tokens_below_1024: ' below 1024, or with max_tokens below 1025,',
}

/** A caller looks for what it wrote, in the words of its dialect. */
function parameterFor(missing: Ability | undefined, { parameterOf = {}, generation }: ParsedRequest): string {
  if (missing === undefined) return 'model'
  if (missing === 'reasoning_none' && parameterOf.reasoning_none === undefined) {
    const said = generation.reasoning?.maxTokens === 0 ? 'reasoning_max_tokens' : 'reasoning_effort'
    return parameterOf[said] ?? said
  }
  return parameterOf[missing] ?? PARAMETER_OF[missing] ?? missing
}

/** Where the ability has another name than the parameter. */
const PARAMETER_OF: Record<string, string> = {
  images: 'messages',
  temperature_above_1: 'temperature',
  reasoning_max_tokens_below_1024: 'reasoning_max_tokens',
  json_object: 'response_format',
  json_schema: 'response_format',
  completions: 'model',
  embeddings: 'model',
  rerank: 'model',
}
