import { decimal } from '../../proto/settings.ts'
import { badRequest } from '../core/fault.ts'
import { readOneOf, readQuery } from './paging.ts'

/** One page of the models' names, which are in order. */
export function anthropicModels(query: unknown, names: string[]): Record<string, unknown> {
  const { lifecycle, 'lifecycle[]': listed, ...others } = query as Record<string, unknown>
  const { limit, after_id: after, before_id: before, beta } = readQuery(others, ['limit', 'after_id', 'before_id', 'lifecycle', 'beta'])
  // What the vendor's beta shows besides is of its own models.
  readOneOf('beta', beta, ['true', 'false'])
  if (after !== undefined && before !== undefined)
    throw badRequest('invalid_cursor', 'Give one of after_id and before_id, not both.', 'before_id')
  const count = readPageSize(limit)
  const offered = wantsActive([lifecycle ?? [], listed ?? []].flat()) ? names : []
  const candidates = offered.filter((name) => (after === undefined || name > after) && (before === undefined || name < before))
  const shown = before === undefined ? candidates.slice(0, count) : candidates.slice(-count)
  return {
    data: shown.map(anthropicModel),
    has_more: candidates.length > shown.length,
    first_id: shown[0] ?? null,
    last_id: shown.at(-1) ?? null,
  }
}

export function anthropicModel(id: string): Record<string, unknown> {
  // Nobody knows when a model was made that a worker has on its disk.
  return { type: 'model', id, display_name: id, created_at: '1970-01-01T00:00:00Z', lifecycle: 'active' }
}

/** What is offered here is active; of the other stages there is nothing. */
function wantsActive(stages: unknown[]): boolean {
  if (stages.some((stage) => typeof stage !== 'string' || !STAGES.includes(stage)))
    throw badRequest('out_of_range', `lifecycle may hold ${STAGES.join(', ')}.`, 'lifecycle')
  return stages.length === 0 || stages.includes('active')
}

const STAGES = ['active', 'deprecated', 'retired']
const PAGE_SIZE = 20
const PAGE_SIZE_MAX = 1_000

function readPageSize(value: string | undefined): number {
  if (value === undefined) return PAGE_SIZE
  const size = decimal(value)
  if (!Number.isInteger(size) || size < 1 || size > PAGE_SIZE_MAX)
    throw badRequest('out_of_range', `limit must be a whole number from 1 to ${PAGE_SIZE_MAX}, not ${value.slice(0, 20)}.`, 'limit')
  return size
}
