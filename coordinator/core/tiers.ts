import type { Tier } from './job.ts'

/** In the order in which work cascades: what is owned first, what is paid by the call last. */
export const TIERS: readonly Tier[] = ['gpu', 'cli', 'cloud']

/** When a tier opens for a job: after so many milliseconds of waiting, when nobody earlier is there, or never. */
export type Opening = number | 'when_offline' | 'never'

/** The policy of patience, resolved for one job. */
export type Patience = Readonly<Record<Tier, Opening>>

/** Money is never spent while a local provider of the model is merely busy for less than half a minute. */
export const DEFAULT_PATIENCE: Patience = { gpu: 0, cli: 30_000, cloud: 30_000 }

/** What was pinned goes there at once and nowhere else. */
export function pinnedTo(tier: Tier): Patience {
  return { gpu: 'never', cli: 'never', cloud: 'never', [tier]: 0 }
}

export const ANY_TIER: Patience = { gpu: 0, cli: 0, cloud: 0 }

/**
 * How a tier stands to a job at a moment, as one letter of a route's key:
 *
 *   o  open
 *   e  early: it opens when the job has waited; and now, if no provider of an earlier tier has ever offered the model
 *   f  for the case that is offline: open while no provider of an earlier tier is there
 *   c  closed
 */
type Standing = 'o' | 'e' | 'f' | 'c'

/** The standings of all tiers; a tier that nobody offers the model in is closed, which keeps most jobs on one route. */
export function standings(patience: Patience, waitedMs: number, offering: ReadonlySet<Tier>): string {
  let letters = ''
  for (const tier of TIERS) letters += offering.has(tier) ? standing(patience[tier], waitedMs) : 'c'
  return letters
}

/** After how much waiting the next tier opens; null: none will by waiting. */
export function nextOpening(patience: Patience, waitedMs: number, offering: ReadonlySet<Tier>): number | null {
  let next: number | null = null
  for (const tier of TIERS) {
    const opening = patience[tier]
    if (typeof opening !== 'number' || opening <= waitedMs || !offering.has(tier)) continue
    next = next === null ? opening : Math.min(next, opening)
  }
  return next
}

function standing(opening: Opening, waitedMs: number): Standing {
  if (opening === 'never') return 'c'
  if (opening === 'when_offline') return 'f'
  return opening <= waitedMs ? 'o' : 'e'
}

export function sameTiers(a: ReadonlySet<Tier>, b: ReadonlySet<Tier>): boolean {
  return a.size === b.size && [...a].every((tier) => b.has(tier))
}
