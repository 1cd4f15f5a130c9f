import { expect, test } from 'vitest'
import type { JobId, WorkerId } from '../coordinator/core/job.ts'
import { Scheduler } from '../coordinator/core/scheduler.ts'
import { Dispatcher } from '../coordinator/engine/dispatcher.ts'
import type { DispatcherParts } from '../coordinator/engine/dispatcher-parts.ts'
import type { Follower } from '../coordinator/engine/live-job.ts'
import type { NewJob } from '../coordinator/engine/new-job.ts'
import { newId } from '../coordinator/ids.ts'
import type { Writer } from '../coordinator/store/writer.ts'
import { FREE } from './support/free-terms.ts'
import { offer, RULES } from './support/simulation.ts'

/** The dispatcher over a writer that only counts, and a worker that does what the test says. */

const WORKER = newId() as WorkerId

test('who hears of an end and cancels what that end was to start has it cancelled, and nothing runs for nobody', () => {
  const started: JobId[] = []
  const dispatcher = dispatcherOver({ start: (_worker, { job }) => void started.push(job) })
  dispatcher.workerConnected(WORKER, 'w', [offer('m', 1)], [], false)
  const [first, second] = [dispatcher.accept(newJob()), dispatcher.accept(newJob())]
  expect(started).toEqual([first.live.record.id])
  first.live.follow(listening({ ended: () => void dispatcher.cancel(second.live.record.id, 'the caller') }))
  const error = { code: 'bad', message: 'x', layer: 'model' as const, retryable: false }
  dispatcher.attemptFailed(WORKER, { job: first.live.record.id, attempt: 1 }, error)
  const { status, finishedMs } = second.live.record
  expect([status, finishedMs === null]).toEqual(['cancelled', false])
  // What it had begun meanwhile is told to stop, and frees its slot.
  dispatcher.attemptFailed(WORKER, { job: second.live.record.id, attempt: 1 }, { ...error, retryable: true })
  const third = dispatcher.accept(newJob())
  expect(third.live.record.status).toBe('running')
  expect(second.live.record.status).toBe('cancelled')
})

test('of a job that another coordinator had meanwhile all is written again', () => {
  const doubted: unknown[] = []
  const dispatcher = dispatcherOver({}, { doubt: (record) => void doubted.push(record) })
  dispatcher.workerConnected(WORKER, 'w', [offer('m', 1)], [], false)
  const { record } = dispatcher.accept(newJob()).live
  dispatcher.recover({ ...record, version: record.version + 5 }, undefined, false)
  expect([doubted, record.status]).toEqual([[record], 'running'])
  expect(record.version).toBeGreaterThan(5)
})

test('an answer without an end is stopped before it fills the memory', () => {
  const cancelled: JobId[] = []
  const dispatcher = dispatcherOver({ cancel: (_worker, job) => void cancelled.push(job) })
  dispatcher.workerConnected(WORKER, 'w', [offer('m', 1)], [], false)
  const { live } = dispatcher.accept(newJob())
  const job = live.record.id
  const megabyte = 'x'.repeat(1_048_576)
  for (let first = 0; first < 100 && live.record.status === 'running'; first++)
    dispatcher.attemptGrew(WORKER, { job, attempt: 1, first, tokenIds: [1], text: '', deltas: [{ reasoning: megabyte }], ...TOKENS })
  expect(live.record).toMatchObject({ status: 'failed', error: { code: 'answer_too_large', retryable: false } })
  expect([cancelled, live.answer.reasoning.length / megabyte.length]).toEqual([[job], 65])
})

test('all that a job brought is counted at its end, and not what there was when it was parked', () => {
  const dispatcher = dispatcherOver({})
  dispatcher.workerConnected(WORKER, 'w', [offer('m', 1)], [], false)
  const { live } = dispatcher.accept(newJob())
  const { record } = live
  record.completionTokens = 1
  dispatcher.attemptGrew(WORKER, { job: record.id, attempt: 1, first: 0, tokenIds: [1, 2, 3], text: 'abc', deltas: [], ...TOKENS })
  dispatcher.cancel(record.id, 'the caller')
  expect(record).toMatchObject({ status: 'cancelled', completionTokens: 3, tokensBefore: 0 })
})

test('what waits keeps its prompt in memory only as far as there is room, and reads it back when its turn comes', async () => {
  const sent: number[] = []
  const dispatcher = dispatcherOver(
    { start: (_worker, { request }) => void sent.push(request.length) },
    { insertJob: () => Promise.resolve() },
  )
  dispatcher.workerConnected(WORKER, 'w', [offer('m', 1)], [], false)
  const accept = (length: number) => dispatcher.accept({ ...newJob(), request: 'x'.repeat(length) })
  const jobs = [1_000_000, 1_000, 20_000_000, 20_000_000].map(accept)
  await Promise.all(jobs.map(({ stored }) => stored))
  // The first runs.
  expect(jobs.map(({ live }) => live.request?.length ?? null)).toEqual([null, 1_000, null, null])
  const error = { code: 'x', message: 'x', layer: 'model' as const, retryable: false }
  for (const { live } of jobs.slice(0, 2)) dispatcher.attemptFailed(WORKER, { job: live.record.id, attempt: 1 }, error)
  await new Promise(setImmediate)
  expect(sent).toEqual([1_000_000, 1_000, 2])
})

const TOKENS = { promptTokens: 1, cachedTokens: 0 }

function listening(heard: Partial<Follower>): Follower {
  const nothing = (): void => {}
  return { grown: nothing, waits: nothing, discarded: nothing, ended: nothing, stopped: nothing, ...heard }
}

function newJob(): NewJob {
  const plain = {
    type: 'chat',
    team: 'default',
    actor: 'test',
    model: 'm',
    priority: 'normal',
    request: '{}',
    seed: 1,
    cost: 1,
    promptCost: 0,
  } as const
  const none = { pinnedProvider: null, pinnedTier: null, policy: null, key: null, maxWaitMs: null, maxRunMs: null }
  const flags = { restartless: false, streamed: true, detached: false }
  return { ...plain, ...none, ...flags, ...FREE, id: newId() as JobId, needs: [], prefix: [], traceId: newId() }
}

function dispatcherOver(link: Partial<DispatcherParts['link']>, written: Partial<Writer> = {}): Dispatcher {
  const nothing = (): void => {}
  const writer = {
    insertJob: () => new Promise(nothing),
    updateJob: nothing,
    addEvent: nothing,
    addAttempt: nothing,
    addOutput: nothing,
    ...written,
  }
  const parts = {
    coordinator: newId(),
    now: () => 1_000_000,
    link: { start: nothing, cancel: nothing, resume: nothing, acknowledge: nothing, drop: nothing, ...link },
    readRequest: () => Promise.resolve('{}'),
    newEvent: () => ({}),
    termsOf: () => FREE.terms,
    policyOf: () => null,
  }
  const listeners = ['onStarted', 'onDispatched', 'onFirstToken', 'onEnded', 'onPaid', 'onEndStored', 'onStale', 'onHeld', 'onBreaker']
  const told = Object.fromEntries([...listeners, 'onWorkerState', 'onWorkerReplaced'].map((name) => [name, nothing]))
  return new Dispatcher(new Scheduler(RULES), writer as unknown as Writer, { ...parts, ...told } as unknown as DispatcherParts)
}
