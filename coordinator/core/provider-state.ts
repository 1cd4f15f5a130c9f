import type { FleetWorker } from './fleet.ts'

/**
 * A provider as people see it: its own state, or what keeps work away from all of its models; `untilMs` null where nobody
 * knows when that ends.
 */
export function stateOf(provider: FleetWorker, nowMs: number): { state: string; reason: string | null; untilMs: number | null } {
  if (provider.state === 'suspect' || provider.state === 'offline') return { state: 'offline', reason: 'no heartbeat', untilMs: null }
  if (provider.state === 'draining') return { state: 'draining', reason: null, untilMs: null }
  const offers = [...provider.models.values()].map(({ offer }) => offer)
  if (offers.length > 0 && offers.every((offer) => offer.needsPerson === true))
    return { state: 'parked', reason: offers[0]?.detail ?? null, untilMs: null }
  const models = [...provider.models.keys()]
  const holds = models.map((model) => provider.holding(model, nowMs))
  const [hold] = provider.hold === null ? holds : [provider.hold]
  if (hold !== null && hold !== undefined && (provider.hold !== null || holds.every((other) => other !== null)))
    return { state: hold.state, reason: hold.why, untilMs: hold.untilMs !== null && hold.untilMs > nowMs ? hold.untilMs : null }
  const cooling = models.map((model) => provider.cooling(model, nowMs))
  if (models.length > 0 && cooling.every((untilMs) => untilMs !== null))
    return {
      state: 'cooling_down',
      reason: whyOf(provider) ?? 'it failed several times in a row',
      untilMs: Math.min(...cooling.map((untilMs) => untilMs ?? nowMs)),
    }
  // None of its models can be given work, whoever asks: they load, or their processes died.
  const down = offers.filter((offer) => offer.slots === 0)
  if (provider.cloud === null && offers.length > 0 && down.length === offers.length)
    return { state: 'offline', reason: down[0]?.detail === '' ? null : (down[0]?.detail ?? null), untilMs: null }
  const full = models.length > 0 && models.every((model) => provider.free(model, nowMs) === 0)
  return { state: full ? 'busy' : 'online', reason: full ? 'all its slots are taken' : null, untilMs: null }
}

/** What the last failure of any of its models said. */
function whyOf(provider: FleetWorker): string | undefined {
  for (const { breaker } of provider.models.values()) if (provider.cloud !== null && breaker.why !== '') return breaker.why
  return undefined
}
