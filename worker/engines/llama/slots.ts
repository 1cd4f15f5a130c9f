/** A free slot, and how many tokens of the newcomer's prompt it already holds. */
export type FreeSlot = { id: number; heldTokens: number }

/**
 * A prefix shorter than this is computed again rather than let it decide where a newcomer sits, or copied from
 * another slot: computing it costs about what finding and copying it does.
 */
export const PREFIX_TOKENS_MIN = 48

/**
 * Chooses the slot of a newcomer: the one that holds most of its prompt if that is worth it, or else the one that keeps
 * busy slots together. llama.cpp computes only sequences whose ids follow one another in one go; scattered ones
 * cost up to 1.7 times as much for as long as they run (facts of 2026: node-llama-cpp 3.21.1).
 */
export function chooseSlot(free: readonly FreeSlot[], busy: ReadonlySet<number>): FreeSlot | undefined {
  let best: FreeSlot | undefined
  for (const slot of free) if (best === undefined || isBetter(slot, best, busy)) best = slot
  return best
}

function isBetter(slot: FreeSlot, than: FreeSlot, busy: ReadonlySet<number>): boolean {
  const gain = slot.heldTokens - than.heldTokens
  if (Math.abs(gain) >= PREFIX_TOKENS_MIN) return gain > 0
  const neighbours = busyNeighbours(slot.id, busy) - busyNeighbours(than.id, busy)
  return neighbours === 0 ? slot.id < than.id : neighbours > 0
}

function busyNeighbours(id: number, busy: ReadonlySet<number>): number {
  return Number(busy.has(id - 1)) + Number(busy.has(id + 1))
}

/**
 * The next move that brings busy slots together: the highest one into the lowest gap below it, as long as busy slots are in
 * more than one run. Undefined when they are together.
 */
export function nextMove(busy: ReadonlySet<number>): { from: number; to: number } | undefined {
  const ids = [...busy].sort((left, right) => left - right)
  const [lowest = 0] = ids
  const from = ids.at(-1) ?? lowest
  for (let to = lowest + 1; to < from; to++) if (!busy.has(to)) return { from, to }
  return undefined
}

export function commonPrefixLength(left: readonly number[], right: readonly number[]): number {
  const most = Math.min(left.length, right.length)
  let length = 0
  while (length < most && left[length] === right[length]) length++
  return length
}
