import { FREE } from './free-terms.ts'
import { randomUUID } from 'node:crypto'
import type { JobId, JobRecord } from '../../coordinator/core/job.ts'
import { newRecord } from '../../coordinator/engine/new-job.ts'
import { newId } from '../../coordinator/ids.ts'

/** The record of a job that was just accepted. */
export function record(): JobRecord {
  const job = {
    id: newId() as JobId,
    type: 'chat' as const,
    team: 'default',
    actor: 'test',
    model: RECORDS_MODEL,
    pinnedProvider: null,
    detached: false,
    ...FREE,
    traceId: randomUUID(),
    priority: 'normal' as const,
    maxWaitMs: null,
    maxRunMs: null,
    cost: 10,
    promptCost: 0,
    request: '{}',
    seed: 1,
    prefix: [],
  }
  return newRecord(job, Date.now(), OWNER)
}

export function finish(one: JobRecord): void {
  one.version += 1
  one.status = 'succeeded'
  one.finishedMs = Date.now()
}

export const RECORDS_MODEL = 'writer-test'
export const OWNER = randomUUID()
