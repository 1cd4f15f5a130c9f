import type { GenerationRequest } from '../proto/request.ts'

/** llama.cpp takes this seed for "any"; an answer would differ every time. */
const SEED_FOR_ANY = 0xffffffff

/**
 * The sampler's random numbers cannot be wound forward past forced tokens, so a continuation draws from a seed of its
 * own: not the numbers of an undisturbed run, but the same ones for the same request and the same forced tokens.
 */
export function seedAfter(seed: number, forcedTokens: number): number {
  const mixed = forcedTokens === 0 ? seed : Math.imul(seed ^ Math.imul(forcedTokens, 0x9e3779b1), 0x85ebca6b) >>> 0
  return mixed === SEED_FOR_ANY ? 0 : mixed
}

/**
 * The request as this attempt at it is to run it. An answer that begins anew draws other numbers, or it would fail as the one
 * before it did. A seed that the caller gave stays: the same answer was asked for.
 */
export function requestOfAttempt(request: GenerationRequest, attempt: number, forcedTokens: number): GenerationRequest {
  if (attempt <= 1 || forcedTokens > 0 || request.seedIsChosen !== true) return request
  return { ...request, seed: seedAfter(request.seed, attempt - 1) }
}

/** Whether another attempt at the request can come to another answer. */
export function drawsAnew({ seedIsChosen, sampling }: Pick<GenerationRequest, 'seedIsChosen' | 'sampling'>): boolean {
  return seedIsChosen === true && sampling.temperature !== 0
}
