import { expect, test } from 'vitest'
import type { ModelOffer } from '../coordinator/core/fleet.ts'
import type { JobId, WorkerId } from '../coordinator/core/job.ts'
import { ANY_TIER, pinnedTo } from '../coordinator/core/tiers.ts'
import { offer, plainJob, SchedulerWorld } from './support/simulation.ts'
import { Line } from '../coordinator/core/line.ts'
import { enlisted, type ScheduledJob } from '../coordinator/core/scheduled-job.ts'

/** Lines that want the same slots, and what makes a line of its own: on the bare scheduler, under a hand-driven clock. */

function serve(world: SchedulerWorld, jobs: number): string[] {
  const started = (): string[] => world.effects.flatMap((effect) => (effect.kind === 'start-attempt' ? [effect.job] : []))
  const before = started().length
  for (let index = 0; index < jobs && world.live.size > 0; index++) world.finish([...world.live.keys()][0] ?? '')
  return started().slice(before)
}

function cloud(world: SchedulerWorld, models: string[]): void {
  const offers = models.map((model): ModelOffer => ({ ...offer(model, 1), tier: 'cloud', startsOver: true, paid: true }))
  for (const model of models) world.mostSlots.set(`c/${model}`, 1)
  const terms = { maxParallel: 1, firstTokenTimeoutMs: null, nextTokenTimeoutMs: null }
  world.apply({
    kind: 'provider-set',
    worker: 'c' as WorkerId,
    name: 'c',
    offers,
    terms,
    quota: { requestsPerMinute: null, tokensPerMinute: null },
  })
}

test('an interactive job for a named model passes batch jobs for auto that came first', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  world.enqueue('busy')
  for (let index = 0; index < 100; index++) world.enqueue(`hog${index}`, { model: 'auto', team: 'hog', priority: 'batch' })
  world.enqueue('now', { team: 'small', priority: 'interactive' })
  expect(serve(world, 2)).toContain('now')
})

test('teams share the slots of a cloud across its models, whoever came first', () => {
  const world = new SchedulerWorld()
  cloud(world, ['x', 'y'])
  for (let index = 0; index < 60; index++) world.enqueue(`hog${index}`, { model: 'x', team: 'hog', patience: ANY_TIER })
  for (let index = 0; index < 30; index++) world.enqueue(`small${index}`, { model: 'y', team: 'small', patience: ANY_TIER })
  const small = serve(world, 40).filter((job) => job.startsWith('small')).length
  expect(small).toBeGreaterThanOrEqual(19)
  expect(small).toBeLessThanOrEqual(21)
})

test('batch work of one line still moves beside an interactive flood of another', () => {
  const world = new SchedulerWorld()
  cloud(world, ['x', 'y'])
  for (let index = 0; index < 100; index++) world.enqueue(`now${index}`, { model: 'x', priority: 'interactive', patience: ANY_TIER })
  for (let index = 0; index < 10; index++) world.enqueue(`later${index}`, { model: 'y', priority: 'batch', patience: ANY_TIER })
  expect(serve(world, 60).filter((job) => job.startsWith('later')).length).toBeGreaterThanOrEqual(3)
})

test('of one team and class, who came first goes first, whatever the line', () => {
  const world = new SchedulerWorld()
  cloud(world, ['x', 'y'])
  for (const [index, model] of ['x', 'y', 'y', 'x'].entries()) world.enqueue(`${index}`, { model, patience: ANY_TIER })
  expect(serve(world, 4)).toEqual(['1', '2', '3'])
})

test('accounts that pay make no routes of their own: an empty one changes the route of its flows', () => {
  const line = new Line<ScheduledJob>('m', new Set(['cloud']))
  const team = { name: 't', weight: 1, maxParallel: null, running: 0, full: false, lines: new Set<Line<ScheduledJob>>() }
  const key = { model: 'm', provider: null, tiers: 'cco', needs: [], sha256: null, avoid: [], outgrown: 0, broke: false }
  const jobs = Array.from({ length: 100 }, (_, order) => enlisted(plainJob(`j${order}`, { purses: [`key:${order}`] }), order, team))
  for (const job of jobs) line.add(job, key, team)
  expect([...line.routes].length).toBe(1)
  line.judgePurse('key:7', (purse) => purse === 'key:7')
  expect([...line.routes].map(({ key: { broke }, flows }) => [broke, flows.size])).toEqual([
    [false, 99],
    [true, 1],
  ])
  line.judgePurse('key:7', () => false)
  expect([...line.routes].length).toBe(1)
  // First in, first out across the accounts of a team.
  expect(line.next(line.routes)?.id).toBe('j0')
  for (const job of jobs) line.remove(job)
  // A few flows are kept for who comes next, however many there were.
  expect([[...line.routes].flatMap(({ flows }) => [...flows]).length, line.waiting]).toEqual([8, 0])
  expect(line.next(line.routes)).toBeUndefined()
})

test('what nobody stands in is ready for nobody, whatever becomes of its team and its accounts meanwhile', () => {
  const line = new Line<ScheduledJob>('m', new Set(['cloud']))
  const team = { name: 't', weight: 1, maxParallel: null, running: 0, full: false, lines: new Set<Line<ScheduledJob>>() }
  const key = { model: 'm', provider: null, tiers: 'cco', needs: [], sha256: null, avoid: [], outgrown: 0, broke: false }
  const [first, second] = [0, 1].map((order) => enlisted(plainJob(`j${order}`, { purses: ['key:k'] }), order, team)) as [
    ScheduledJob,
    ScheduledJob,
  ]
  line.add(first, key, team)
  line.remove(first)
  line.setFull(team, true)
  line.setFull(team, false)
  expect([...line.routes].map(({ isReady }) => isReady)).toEqual([false])
  line.judgePurse('key:k', () => true)
  line.adjust(first, team, 5)
  expect([...line.routes].map(({ isReady, key: { broke } }) => [isReady, broke])).toEqual([[false, true]])
  // The account is full again while nobody stands there, and whoever comes stands where the account puts them.
  line.judgePurse('key:k', () => false)
  expect(line.add(second, key, team)).toBe(true)
  expect(line.next(line.routes)?.id).toBe('j1')
  expect([...line.routes].map(({ isReady, key: { broke }, flows }) => [isReady, broke, flows.size])).toEqual([[true, false, 1]])
  line.remove(second)
  expect([line.next(line.routes), line.waiting, line.jobs()]).toEqual([undefined, 0, []])
})

test('who came and went is counted among those who wait no more', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  for (const job of ['runs', 'waits']) world.enqueue(job)
  expect(world.scheduler.waitingByReason(world.nowMs)).toEqual([{ model: 'm', reason: 'all_slots_busy', count: 1 }])
  for (const job of ['runs', 'waits']) world.finish(job)
  expect(world.scheduler.waitingByReason(world.nowMs)).toEqual([])
})

test('a limited account that is empty keeps its jobs from what costs money until it is full again, and no longer', () => {
  const world = new SchedulerWorld()
  cloud(world, ['m'])
  const paid = { patience: ANY_TIER, purses: ['key:k'] }
  world.enqueue('runs', paid)
  world.enqueue('waits', paid)
  world.apply({ kind: 'purse-set', purse: 'key:k', spentUntilMs: world.nowMs + 3_000 })
  world.finish('runs')
  expect(world.scheduler.waiting(world.nowMs, 'waits' as JobId)).toMatchObject({ reason: 'over_quota', untilMs: world.nowMs + 3_000 })
  world.pass(3_200)
  expect(world.live.has('waits' as JobId)).toBe(true)
})

test('a local model that could never run the job keeps no cloud closed to it', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  const offers = [{ ...offer('m', 1), tier: 'cloud' as const, startsOver: true, abilities: ['images'] }]
  world.mostSlots.set('c/m', 1)
  const terms = { maxParallel: 1, firstTokenTimeoutMs: null, nextTokenTimeoutMs: null }
  world.apply({
    kind: 'provider-set',
    worker: 'c' as WorkerId,
    name: 'c',
    offers,
    terms,
    quota: { requestsPerMinute: null, tokensPerMinute: null },
  })
  world.enqueue('seen', { needs: ['images'], patience: { gpu: 0, cli: 'never', cloud: 'when_offline' } })
  expect(world.startedOn('c')).toEqual(['seen'])
  world.finish('seen')
  world.enqueue('patient', { needs: ['images'], patience: { gpu: 0, cli: 'never', cloud: 30_000 } })
  expect(world.startedOn('c')).toEqual(['seen', 'patient'])
})

test('who waits for a model that is loaded or started again is told so, and only who may use it', () => {
  const world = new SchedulerWorld()
  const loading: ModelOffer = { ...offer('m', 0, ''), state: 'loading', detail: '37 % read' }
  const connected = { kind: 'worker-connected' as const, worker: 'a' as WorkerId, name: 'a', held: [], draining: false }
  world.apply({ ...connected, offers: [loading] })
  world.enqueue('named')
  world.enqueue('any', { model: 'auto' })
  world.enqueue('elsewhere', { patience: pinnedTo('cloud') })
  const waiting = (job: string) => world.scheduler.waiting(world.nowMs, job as JobId)
  expect(waiting('named')).toMatchObject({ reason: 'model_loading', detail: '37 % read' })
  expect(waiting('any')).toMatchObject({ reason: 'model_loading', detail: '37 % read' })
  expect(waiting('elsewhere')).toMatchObject({ reason: 'no_provider_for_model' })
  world.apply({ kind: 'worker-reported', worker: 'a' as WorkerId, offers: [{ ...offer('m', 0), detail: 'restarts in 300 ms' }] })
  expect(waiting('named')).toMatchObject({ reason: 'model_loading', detail: 'restarts in 300 ms' })
})

test('what a cloud was asked is not remembered: it never says what it has forgotten', () => {
  const world = new SchedulerWorld()
  cloud(world, ['m'])
  for (let index = 0; index < 50; index++) {
    world.enqueue(`j${index}`, { patience: ANY_TIER, prefix: [`a${index}`, `b${index}`] })
    world.finish(`j${index}`)
  }
  expect(world.scheduler.findWorker('c' as WorkerId)?.models.get('m')?.prefixes.size).toBe(0)
})
