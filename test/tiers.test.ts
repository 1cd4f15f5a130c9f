import { describe, expect, test } from 'vitest'
import type { Hold, ModelOffer } from '../coordinator/core/fleet.ts'
import type { AcceptedJob } from '../coordinator/core/inputs.ts'
import type { JobError, JobId, Tier, WorkerId } from '../coordinator/core/job.ts'
import { stateOf } from '../coordinator/core/provider-state.ts'
import { ANY_TIER, DEFAULT_PATIENCE, type Patience, pinnedTo } from '../coordinator/core/tiers.ts'
import { offer, SchedulerWorld } from './support/simulation.ts'

/** Which tier a job goes to, and when: every rule of patience on the bare scheduler, under a hand-driven clock. */

function cloud(
  world: SchedulerWorld,
  name = 'cloud',
  settings: { maxParallel?: number; models?: string[]; paid?: boolean; requests?: number; tokens?: number } = {},
): void {
  const { maxParallel = 8, models = ['m'], paid = true, requests, tokens = null } = settings
  const offers = models.map(
    (model): ModelOffer => ({
      ...offer(model, maxParallel, `${name}/${model}`),
      tier: 'cloud',
      abilities: ['tools'],
      startsOver: true,
      paid,
    }),
  )
  for (const model of models) world.mostSlots.set(`${name}/${model}`, maxParallel)
  world.apply({
    kind: 'provider-set',
    worker: name as WorkerId,
    name,
    offers,
    terms: { maxParallel, firstTokenTimeoutMs: null, nextTokenTimeoutMs: null },
    quota: { requestsPerMinute: requests ?? null, tokensPerMinute: tokens },
  })
}

function startedAt(world: SchedulerWorld, job: string): Tier | null {
  const start = world.effects.findLast((effect) => effect.kind === 'start-attempt' && effect.job === job)
  return start?.kind === 'start-attempt' ? start.tier : null
}

type Local = 'free' | 'busy' | 'away' | 'never_seen'
type Rule = { policy: string; patience: Patience; local: Local; waits: number; goes: Tier | null }

const AFTER_3: Patience = { gpu: 0, cli: 'never', cloud: 3_000 }
const OFFLINE: Patience = { gpu: 0, cli: 'never', cloud: 'when_offline' }
const NEVER: Patience = { gpu: 0, cli: 'never', cloud: 'never' }
const AT_ONCE: Patience = { gpu: 0, cli: 'never', cloud: 0 }

const RULES: Rule[] = [
  { policy: 'default', patience: DEFAULT_PATIENCE, local: 'free', waits: 0, goes: 'gpu' },
  { policy: 'default', patience: DEFAULT_PATIENCE, local: 'busy', waits: 29_000, goes: null },
  { policy: 'default', patience: DEFAULT_PATIENCE, local: 'busy', waits: 31_000, goes: 'cloud' },
  { policy: 'default', patience: DEFAULT_PATIENCE, local: 'never_seen', waits: 0, goes: 'cloud' },
  { policy: 'default', patience: DEFAULT_PATIENCE, local: 'away', waits: 29_000, goes: null },
  { policy: 'after 3 s', patience: AFTER_3, local: 'busy', waits: 2_000, goes: null },
  { policy: 'after 3 s', patience: AFTER_3, local: 'busy', waits: 3_500, goes: 'cloud' },
  { policy: 'after 3 s', patience: AFTER_3, local: 'free', waits: 0, goes: 'gpu' },
  { policy: 'when offline', patience: OFFLINE, local: 'busy', waits: 600_000, goes: null },
  { policy: 'when offline', patience: OFFLINE, local: 'away', waits: 0, goes: 'cloud' },
  { policy: 'when offline', patience: OFFLINE, local: 'never_seen', waits: 0, goes: 'cloud' },
  { policy: 'never', patience: NEVER, local: 'busy', waits: 600_000, goes: null },
  { policy: 'never', patience: NEVER, local: 'away', waits: 600_000, goes: null },
  { policy: 'at once', patience: AT_ONCE, local: 'busy', waits: 0, goes: 'cloud' },
  { policy: 'at once', patience: AT_ONCE, local: 'free', waits: 0, goes: 'gpu' },
  { policy: 'pinned to the cloud', patience: pinnedTo('cloud'), local: 'free', waits: 0, goes: 'cloud' },
  { policy: 'pinned to gpu', patience: pinnedTo('gpu'), local: 'away', waits: 600_000, goes: null },
]

for (const { policy, patience, local, waits, goes } of RULES)
  test(`${policy}, local model ${local.replace('_', ' ')}: after ${waits / 1000} s ${goes === null ? 'it waits' : `it runs on ${goes}`}`, () => {
    const world = new SchedulerWorld()
    if (local !== 'never_seen') world.connect('a', { m: 1 })
    if (local === 'busy') world.enqueue('hog')
    if (local === 'away') world.apply({ kind: 'worker-disconnected', worker: 'a' as WorkerId })
    cloud(world)
    world.enqueue('job', { patience })
    // The worker says that it is there; time passes in steps, as it does.
    for (let passed = 0; passed < waits; passed += 1_000) {
      if (local === 'busy') world.report('a', { m: 1 })
      world.pass(Math.min(1_000, waits - passed))
    }
    expect(startedAt(world, 'job')).toBe(goes)
    if (goes === null)
      expect(world.scheduler.waiting(world.nowMs, 'job' as JobId)?.reason).toMatch(/all_slots_busy|no_provider_for_model|tier_not_open_yet/)
  })

test('a tier that opens later is the reason to wait, with its time, when nobody else could serve it', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  world.apply({ kind: 'worker-disconnected', worker: 'a' as WorkerId })
  cloud(world)
  world.enqueue('job', { patience: AFTER_3 })
  expect(world.scheduler.waiting(world.nowMs, 'job' as JobId)).toMatchObject({ reason: 'tier_not_open_yet', untilMs: world.nowMs + 3_000 })
})

test('a cloud that is added while a job waits opens to it as if it had been there', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  world.enqueue('hog')
  world.enqueue('job', { patience: AFTER_3 })
  world.pass(2_000)
  cloud(world)
  expect(startedAt(world, 'job')).toBeNull()
  world.pass(1_200)
  expect(startedAt(world, 'job')).toBe('cloud')
})

test('auto takes any model of the first tier that has a free slot', () => {
  const world = new SchedulerWorld()
  world.connect('a', { small: 1 })
  cloud(world, 'cloud', { models: ['big'] })
  world.enqueue('one', { model: 'auto', patience: AT_ONCE })
  world.enqueue('two', { model: 'auto', patience: AT_ONCE })
  expect([startedAt(world, 'one'), startedAt(world, 'two')]).toEqual(['gpu', 'cloud'])
})

test('a job goes only where everything it needs is there', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  cloud(world)
  world.enqueue('tools', { needs: ['tools'], patience: ANY_TIER })
  world.enqueue('logprobs', { needs: ['logprobs'], patience: ANY_TIER })
  expect([startedAt(world, 'tools'), startedAt(world, 'logprobs')]).toEqual(['cloud', null])
})

test('max_parallel holds over all models of a provider', () => {
  const world = new SchedulerWorld()
  cloud(world, 'cloud', { maxParallel: 3, models: ['x', 'y'] })
  for (const [index, model] of ['x', 'y', 'x', 'y', 'x'].entries()) world.enqueue(`j${index}`, { model, patience: ANY_TIER })
  expect(world.startedOn('cloud')).toEqual(['j0', 'j1', 'j2'])
  world.finish('j0')
  expect(world.startedOn('cloud')).toEqual(['j0', 'j1', 'j2', 'j3'])
})

// Nobody's fault that the scheduler would see.
const GIVEN_UP = { code: 'given_up', retryable: false }
const BUSY: JobError = { code: 'provider_rate_limited', message: '429', layer: 'provider', retryable: true, providerStatus: 429 }

test('429 parks the provider and not the job: no strike, no other attempt before its time', () => {
  const world = new SchedulerWorld()
  cloud(world)
  world.enqueue('job', { patience: ANY_TIER })
  for (let round = 1; round <= 5; round++) {
    const hold = { state: 'cooling_down' as const, untilMs: world.nowMs + 4_000, why: 'asked too much' }
    world.fail('job', BUSY, hold)
    expect(world.scheduler.waiting(world.nowMs, 'job' as JobId)).toMatchObject({ reason: 'cooling_down', untilMs: hold.untilMs })
    world.pass(3_900)
    expect(world.startedOn('cloud')).toHaveLength(round)
    world.pass(300)
    expect(world.startedOn('cloud')).toHaveLength(round + 1)
  }
  expect(world.kinds('job')).not.toContain('job-parked')
})

const BROKEN: JobError = { code: 'provider_failed', message: '500', layer: 'provider', retryable: true, providerStatus: 500 }

test('an outage of the only cloud parks nobody, and whoever is there is served when it is over', () => {
  const world = new SchedulerWorld()
  cloud(world, 'cloud', { maxParallel: 1 })
  for (const job of ['1', '2']) world.enqueue(job, { patience: ANY_TIER })
  for (let tries = 0; tries < 12; tries++) {
    const [running] = world.live.keys()
    if (running === undefined) throw new Error('nobody tries it')
    world.fail(running, BROKEN)
    for (const job of ['1', '2'] as JobId[]) expect(world.scheduler.waiting(world.nowMs, job)).toMatchObject({ reason: 'cooling_down' })
    world.pass(60_600)
  }
  expect(new Set(world.startedOn('cloud'))).toEqual(new Set(['1', '2']))
  for (let served = 0; served < 2; served++) {
    const [running] = world.live.keys()
    world.finish(running ?? '')
    world.pass(1_600)
  }
  expect([...world.outcomes.values()]).toEqual([['job-succeeded'], ['job-succeeded']])
})

test('three clouds that had served before and fail together park nobody', () => {
  const world = new SchedulerWorld()
  for (const name of ['a', 'b', 'c']) cloud(world, name, { maxParallel: 1 })
  for (const job of ['1', '2', '3']) world.enqueue(job, { patience: ANY_TIER })
  for (const job of ['1', '2', '3']) world.finish(job)
  world.enqueue('job', { patience: ANY_TIER })
  for (let tries = 0; tries < 12; tries++) {
    world.fail('job', BROKEN)
    world.pass(60_600)
  }
  for (const name of ['a', 'b', 'c']) expect(world.startedOn(name)).toContain('job')
  world.finish('job')
  expect(world.outcomes.get('job' as JobId)).toEqual(['job-succeeded'])
})

test('a poison prompt is parked after three tries at a cloud that had served before', () => {
  const world = new SchedulerWorld()
  cloud(world, 'cloud', { maxParallel: 1 })
  world.enqueue('0', { patience: ANY_TIER })
  world.finish('0')
  world.enqueue('poison', { patience: ANY_TIER })
  for (let others = 1; others < 4; others++) world.enqueue(`${others}`, { patience: ANY_TIER })
  for (let turn = 0; turn < 12; turn++) {
    const [running] = world.live.keys()
    if (running === 'poison') world.fail('poison', BROKEN)
    else if (running !== undefined) world.finish(running)
    world.pass(1_600)
  }
  expect(world.startedOn('cloud').filter((job) => job === 'poison')).toHaveLength(3)
  expect(world.outcomes.get('poison' as JobId)).toEqual(['job-parked'])
})

test('a cloud that refuses the request of a trial is there', () => {
  const world = new SchedulerWorld()
  cloud(world)
  for (const job of ['1', '2']) world.enqueue(job, { patience: ANY_TIER })
  for (const job of ['1', '2']) world.fail(job, BUSY, { state: 'offline', untilMs: 'untold', why: 'refused' })
  world.pass(1_000)
  world.fail('1', { ...BUSY, code: 'provider_refused_request', retryable: false, providerStatus: 400 })
  expect([...world.scheduler.providers][0]?.hold).toBeNull()
})

test('an answer that was begun waits for its model file, and not for a tier that opens to others', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  cloud(world)
  world.enqueue('1', { patience: { gpu: 0, cli: 'never', cloud: 5_000 }, restartable: false })
  world.progress('1', 3)
  world.apply({ kind: 'worker-disconnected', worker: 'a' as WorkerId })
  world.pass(2_000)
  expect(world.scheduler.waiting(world.nowMs, '1' as JobId)).toMatchObject({
    reason: 'no_provider_for_model',
    untilMs: null,
    detail: expect.stringContaining('same model file'),
  })
})

test('a wait that its caller limits goes on through calls that are turned away', () => {
  const world = new SchedulerWorld()
  cloud(world)
  world.enqueue('1', { patience: ANY_TIER, maxWaitMs: 2_500 })
  for (let round = 0; round < 5 && world.live.has('1' as JobId); round++) {
    world.fail('1', BUSY, { state: 'cooling_down', untilMs: world.nowMs + 1_000, why: '429' })
    world.pass(1_000)
  }
  world.pass(1_000)
  expect(world.outcomes.get('1' as JobId)).toEqual(['job-failed'])
  expect(world.startedOn('cloud').length).toBeLessThanOrEqual(3)
})

test('a poison prompt does not keep others from the only cloud, and is parked after three tries between which they were served', () => {
  const world = new SchedulerWorld()
  cloud(world, 'cloud', { maxParallel: 1 })
  world.enqueue('poison', { patience: ANY_TIER })
  for (let others = 0; others < 6; others++) world.enqueue(`${others}`, { patience: ANY_TIER })
  for (let turn = 0; turn < 20; turn++) {
    const [running] = world.live.keys()
    if (running === 'poison') world.fail('poison', BROKEN)
    else if (running !== undefined) world.finish(running)
    world.pass(1_600)
  }
  expect(world.startedOn('cloud').filter((job) => job === 'poison')).toHaveLength(4)
  expect(world.outcomes.get('poison' as JobId)).toEqual(['job-parked'])
  expect(world.outcomes.size).toBe(7)
})

test('a job that a cloud turns away every time, without saying until when, keeps it from nobody, and is tried ever more seldom', () => {
  const world = new SchedulerWorld()
  cloud(world, 'cloud', { maxParallel: 4 })
  world.enqueue('poison', { patience: ANY_TIER })
  let others = 0
  for (let second = 0; second < 600; second++) {
    // Two a second come and are answered at once.
    for (let each = 0; each < 2; each++) world.enqueue(`${others++}`, { patience: ANY_TIER })
    for (const job of world.live.keys())
      if (job === 'poison')
        world.fail('poison', { ...BROKEN, providerStatus: 504 }, { state: 'cooling_down', untilMs: 'untold', why: '504' })
      else world.finish(job)
    world.pass(1_000)
  }
  expect(world.startedOn('cloud').filter((job) => job === 'poison').length).toBeLessThan(20)
  expect(world.outcomes.get('poison' as JobId)).toBeUndefined()
  expect(world.outcomes.size).toBeGreaterThan(others - 20)
})

test('what one model of a cloud is turned away for keeps none of its others waiting', () => {
  const world = new SchedulerWorld()
  cloud(world, 'cloud', { maxParallel: 4, models: ['a', 'b'] })
  world.enqueue('poison', { patience: ANY_TIER, model: 'a' })
  let others = 0
  for (let second = 0; second < 300; second++) {
    world.enqueue(`${others++}`, { patience: ANY_TIER, model: 'b' })
    for (const job of world.live.keys())
      if (job === 'poison')
        world.fail('poison', { ...BROKEN, providerStatus: 504 }, { state: 'cooling_down', untilMs: 'untold', why: '504' })
      else world.finish(job)
    world.pass(1_000)
  }
  expect(world.startedOn('cloud').filter((job) => job === 'poison').length).toBeLessThan(16)
  expect(world.outcomes.size).toBeGreaterThan(others - 10)
})

test('who lets others go first at a cloud is taken by whoever else can take it', () => {
  const world = new SchedulerWorld()
  cloud(world, 'cloud', { maxParallel: 1 })
  for (const job of ['first', 'other']) world.enqueue(job, { patience: ANY_TIER })
  world.fail('first', { ...BROKEN, providerStatus: 503 }, { state: 'cooling_down', untilMs: 'untold', why: '503' })
  expect(world.scheduler.waiting(world.nowMs, 'first' as JobId)).toMatchObject({ reason: 'cooling_down', detail: '503' })
  world.connect('a', { m: 4 })
  world.pass(200)
  expect(world.startedOn('a')).toEqual(expect.arrayContaining(['first', 'other']))
})

test('a provider that has no slot is no reason to try the one that turns a job away', () => {
  const world = new SchedulerWorld()
  cloud(world, 'cloud', { maxParallel: 4 })
  cloud(world, 'full', { maxParallel: 1 })
  world.enqueue('poison', { patience: ANY_TIER, provider: null })
  let others = 0
  for (let second = 0; second < 240; second++) {
    for (let each = 0; each < 2; each++) world.enqueue(`${others++}`, { patience: ANY_TIER })
    for (const [job, { worker }] of world.live)
      if (worker === 'full') continue
      else if (job === 'poison')
        world.fail('poison', { ...BROKEN, providerStatus: 503 }, { state: 'cooling_down', untilMs: 'untold', why: '503' })
      else world.finish(job)
    world.pass(1_000)
  }
  expect(world.outcomes.size).toBeGreaterThan(others - 20)
})

test.each(['503', '500'])('who met a sick cloud (%s) is not overtaken at the one that is well', (status) => {
  const world = new SchedulerWorld()
  for (const name of ['sick', 'well']) cloud(world, name, { maxParallel: 1 })
  world.enqueue('first', { patience: ANY_TIER })
  world.enqueue('mine', { patience: ANY_TIER, priority: 'interactive', maxWaitMs: 10_000 })
  const [onSick] = [...world.live].find(([, { worker }]) => worker === 'sick') ?? []
  expect(['first', 'mine']).toContain(onSick)
  const late = (): void => {
    for (let index = 0; index < 3; index++) world.enqueue(`${Math.round(world.nowMs)}-${index}`, { patience: ANY_TIER, priority: 'batch' })
  }
  late()
  const error = { ...BROKEN, providerStatus: Number(status) }
  const hold = { state: 'cooling_down' as const, untilMs: 'untold' as const, why: status }
  world.fail(onSick ?? '', error, status === '503' ? hold : undefined)
  const before = world.startedOn('well').length
  for (let second = 0; second < 3 && world.startedOn('well').length === before; second++) {
    const [onWell] = [...world.live].find(([, { worker }]) => worker === 'well') ?? []
    world.finish(onWell ?? '')
    late()
    world.pass(1_000)
  }
  expect(world.startedOn('well')[before]).toBe(onSick)
})

test('what one cloud forbids is asked of the other, though the job lets others go first there', () => {
  const world = new SchedulerWorld()
  for (const name of ['a', 'b']) cloud(world, name, { maxParallel: 1 })
  world.enqueue('job', { patience: ANY_TIER })
  const first = world.live.get('job' as JobId)?.worker
  world.fail('job', BROKEN)
  expect(world.live.get('job' as JobId)?.worker).not.toBe(first)
  world.fail('job', { ...BROKEN, code: 'provider_forbids', providerStatus: 403 })
  expect(world.outcomes.get('job' as JobId)).toBeUndefined()
  world.pass(3_000)
  expect(world.live.get('job' as JobId)?.worker).toBe(first)
})

test('a cloud at which it failed already is no way out for who lets others go first at the next', () => {
  const world = new SchedulerWorld()
  cloud(world, 'failed', { maxParallel: 1 })
  world.enqueue('x', { patience: ANY_TIER })
  world.fail('x', { ...BROKEN, code: 'provider_cut_answer' })
  cloud(world, 'sick', { maxParallel: 1 })
  if (world.live.get('x' as JobId)?.worker === 'failed') world.fail('x', { ...BROKEN, code: 'provider_cut_answer' })
  world.pass(2_000)
  expect(world.live.get('x' as JobId)?.worker).toBe('sick')
  // It works for long.
  world.enqueue('long', { patience: ANY_TIER })
  for (let index = 0; index < 8; index++) world.enqueue(`${index}`, { patience: ANY_TIER })
  for (let second = 0; second < 120; second++) {
    for (const [job, { worker }] of world.live)
      if (worker === 'failed') continue
      else if (job === 'x') world.fail('x', BROKEN)
      else world.finish(job)
    world.pass(1_000)
  }
  expect(world.outcomes.size).toBeGreaterThan(6)
})

test('a rate that is used up keeps nobody away for longer than all', () => {
  const world = new SchedulerWorld()
  cloud(world, 'cloud', { maxParallel: 1 })
  world.enqueue('often', { patience: ANY_TIER })
  for (let round = 0; round < 6; round++) {
    world.enqueue(`other${round}`, { patience: ANY_TIER })
    const limited = { state: 'cooling_down' as const, untilMs: 'untold' as const, why: '429' }
    if (world.live.has('often' as JobId)) world.fail('often', { ...BUSY, code: 'provider_rate_limited', providerStatus: 429 }, limited)
    world.pass(1_200)
    world.finish(`other${round}`)
    world.pass(1_000)
  }
  expect(world.startedOn('cloud').filter((job) => job === 'often')).toHaveLength(7)
})

test('of a limit per minute a call that was refused takes nothing, and one that was cancelled its prompt and what it brought', () => {
  const world = new SchedulerWorld()
  cloud(world, 'cloud', { tokens: 1_000 })
  for (const job of ['refused', 'cancelled']) {
    world.enqueue(job, { patience: ANY_TIER, cost: 900_000, promptCost: job === 'refused' ? 800_000 : 10 })
    expect(world.scheduler.waiting(world.nowMs, job as JobId)).toBeUndefined()
    if (job === 'refused') world.fail(job, { ...BUSY, code: 'provider_refused_request', retryable: false, providerStatus: 400 })
    else world.apply({ kind: 'job-cancelled', job: job as JobId })
  }
  world.enqueue('next', { patience: ANY_TIER, cost: 9_000, promptCost: 9_000 })
  expect(startedAt(world, 'next')).toBe('cloud')
  world.apply({ kind: 'job-cancelled', job: 'next' as JobId })
  world.enqueue('late', { patience: ANY_TIER })
  expect(world.scheduler.waiting(world.nowMs, 'late' as JobId)?.reason).toBe('over_quota')
})

test('a provider that does not say when is tried by one job after a second, then after twice as long, until it is well', () => {
  const world = new SchedulerWorld()
  cloud(world)
  const gone = { state: 'offline' as const, untilMs: 'untold' as const, why: 'refused' }
  const names = ['1', '2', '3']
  for (const job of names) world.enqueue(job, { patience: ANY_TIER })
  const beganMs = world.nowMs
  // All that were under way say the same, which is said once.
  for (const job of names) world.fail(job, BUSY, gone)
  const hold = (): unknown => [...world.scheduler.providers][0]?.hold
  expect(hold()).toMatchObject({ state: 'offline', untilMs: beganMs + 1_000 })
  world.pass(1_000)
  expect([...world.live.keys()]).toEqual(['1'])
  expect(world.scheduler.waiting(world.nowMs, '2' as JobId)).toMatchObject({ reason: 'cooling_down', detail: 'refused' })
  world.fail('1', BUSY, gone)
  world.pass(1_800)
  expect(world.live.size).toBe(0)
  world.pass(200)
  expect(hold()).toMatchObject({ state: 'offline' })
  world.progress('1', 1)
  expect([hold(), world.live.size]).toEqual([null, 3])
  world.finish('1')
  world.fail('2', BUSY, gone)
  expect(hold()).toMatchObject({ untilMs: world.nowMs + 1_000 })
})

test('a busy provider with many slots is not left alone longer and longer for refusals between its answers', () => {
  const world = new SchedulerWorld()
  cloud(world, 'cloud', { maxParallel: 8 })
  const hold = (): Hold | null | undefined => [...world.scheduler.providers][0]?.hold
  for (let round = 0; round < 12; round++) {
    for (const name of ['refused', 'good']) world.enqueue(`${name} ${round}`, { patience: ANY_TIER })
    world.progress(`good ${round}`, 1)
    world.fail(`refused ${round}`, BUSY, { state: 'cooling_down', untilMs: 'untold', why: 'overloaded' })
    expect((hold()?.untilMs ?? 0) - world.nowMs).toBeLessThanOrEqual(1_000)
    world.pass(1_200)
    world.progress(`refused ${round}`, 1)
    // One that began before ends well; the one that tries it is given up before it can.
    world.finish(`good ${round}`)
    world.fail(`refused ${round}`, GIVEN_UP)
  }
})

test.each<[string, (play: Overloaded, round: number) => void]>([
  [
    'a refusal between',
    ({ world, fails, begins }, round) => {
      const [job = ''] = begins(1)
      if (round % 2 === 0) world.progress(job, 1)
      fails(job)
    },
  ],
  [
    'an older break-off behind a refusal',
    ({ world, fails, begins }) => {
      const [tries = ''] = begins(1)
      world.progress(tries, 1)
      const other = begins(2).find((job) => job !== tries) ?? ''
      fails(other)
      fails(tries)
    },
  ],
  [
    'a bad request beside',
    ({ world, fails, begins }, round) => {
      const [tries = ''] = begins(1)
      world.progress(tries, 1)
      const other = begins(2).find((job) => job !== tries) ?? ''
      fails(tries)
      world.fail(other, { ...BUSY, code: 'provider_refused_request', retryable: false, providerStatus: 400 })
      world.enqueue(`another ${round}`, { patience: ANY_TIER })
    },
  ],
])('a provider that breaks answers off is left alone twice as long every time, also with %s', (_what, play) => {
  const world = new SchedulerWorld()
  cloud(world)
  for (const job of ['one', 'two']) world.enqueue(job, { patience: ANY_TIER })
  const fails = (job: string): void => world.fail(job, BUSY, { state: 'cooling_down', untilMs: 'untold', why: 'overloaded' })
  const begins = (count: number): string[] => {
    for (let passes = 0; world.live.size < count && passes < 1_000; passes++) world.pass(200)
    return [...world.live.keys()]
  }
  // The two begin together, and only one of them is heard at first.
  for (const job of begins(2)) fails(job)
  const heldMs: number[] = []
  for (let round = 0; round < 5; round++) {
    const { nowMs } = world
    play({ world, fails, begins }, round)
    expect(world.nowMs).toBeGreaterThan(nowMs)
    heldMs.push(([...world.scheduler.providers][0]?.hold?.untilMs ?? 0) - world.nowMs)
  }
  expect(heldMs).toEqual([1_000, 2_000, 4_000, 8_000, 16_000])
})

type Overloaded = { world: SchedulerWorld; fails: (job: string) => void; begins: (count: number) => string[] }

test('a provider that breaks off every answer after its first token is left alone twice as long every time', () => {
  const world = new SchedulerWorld()
  cloud(world)
  world.enqueue('job', { patience: ANY_TIER })
  const waitedMs: number[] = []
  for (let tries = 0; tries < 8; tries++) {
    world.progress('job', 1)
    const brokenMs = world.nowMs
    world.fail('job', BUSY, { state: 'cooling_down', untilMs: 'untold', why: 'overloaded in mid-answer' })
    while (!world.live.has('job' as JobId)) world.pass(200)
    waitedMs.push(Math.round((world.nowMs - brokenMs) / 1000))
  }
  expect(waitedMs).toEqual([1, 2, 4, 8, 16, 32, 60, 60])
  // Every one of them was paid.
  for (let tries = waitedMs.length; tries < 30; tries++) {
    expect(world.outcomes.get('job' as JobId)).toBeUndefined()
    world.progress('job', 1)
    world.fail('job', BUSY, { state: 'cooling_down', untilMs: 'untold', why: 'overloaded in mid-answer' })
    world.pass(60_400)
  }
  expect(world.outcomes.get('job' as JobId)).toEqual(['job-parked'])
})

test('what was set anew is tried at once, whatever went wrong with it before', () => {
  const world = new SchedulerWorld()
  cloud(world)
  world.enqueue('job', { patience: ANY_TIER })
  world.fail('job', { ...BROKEN, code: 'provider_lacks_model', providerStatus: 404 })
  expect(world.scheduler.waiting(world.nowMs, 'job' as JobId)).toMatchObject({ reason: 'cooling_down', detail: '500' })
  world.apply({ kind: 'provider-held', worker: 'cloud' as WorkerId, hold: null })
  cloud(world)
  expect(world.startedOn('cloud')).toHaveLength(2)
})

test('a shorter hold does not end a longer one', () => {
  const world = new SchedulerWorld()
  cloud(world)
  for (const job of ['1', '2']) world.enqueue(job, { patience: ANY_TIER })
  const untilMs = world.nowMs + 30_000
  world.fail('1', BUSY, { state: 'cooling_down', untilMs, why: 'half a minute' })
  world.fail('2', BUSY, { state: 'cooling_down', untilMs: world.nowMs + 1_000, why: 'a second' })
  expect(world.scheduler.waiting(world.nowMs, '1' as JobId)).toMatchObject({ untilMs, detail: 'half a minute' })
})

test('a cloud that is asked for all at once is silent until it is there, which is no stall; a limit set for it is kept', () => {
  const world = new SchedulerWorld()
  cloud(world, 'cloud', { models: ['m', 'n'] })
  const [offered] = [...world.scheduler.providers]
  const entry = offered?.models.get('n')
  if (entry !== undefined) entry.offer = { ...entry.offer, firstTokenTimeoutMs: 2_000 }
  world.enqueue('whole', { patience: ANY_TIER, streamed: false })
  world.enqueue('streamed', { patience: ANY_TIER })
  world.enqueue('limited', { model: 'n', patience: ANY_TIER, streamed: false })
  world.pass(2_200)
  expect([...world.live.keys()]).toEqual(['whole', 'streamed'])
  world.pass(300_000)
  expect(world.live.has('whole' as JobId)).toBe(true)
  expect(world.effects.find((effect) => effect.kind === 'attempt-ended' && effect.job === 'streamed')).toMatchObject({
    error: { code: 'first_token_timeout' },
  })
})

test('a limit per minute is kept to the call, and the wait says until when', () => {
  const world = new SchedulerWorld()
  cloud(world, 'cloud', { requests: 2 })
  for (const job of ['1', '2', '3']) world.enqueue(job, { patience: ANY_TIER })
  expect(world.startedOn('cloud')).toEqual(['1', '2'])
  world.finish('1')
  world.finish('2')
  expect(world.scheduler.waiting(world.nowMs, '3' as JobId)).toMatchObject({ reason: 'over_quota', untilMs: world.nowMs + 60_000 })
  world.pass(60_100)
  expect(world.startedOn('cloud')).toEqual(['1', '2', '3'])
})

test('an empty purse closes what is paid, and only that', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  cloud(world)
  world.apply({ kind: 'purse-set', purse: 'team:blue', spentUntilMs: world.nowMs + 5_000 })
  const blue: Partial<AcceptedJob> = { patience: AT_ONCE, purses: ['team:blue'] }
  for (const job of ['local', 'waits']) world.enqueue(job, blue)
  world.enqueue('others', { patience: AT_ONCE })
  expect([startedAt(world, 'local'), startedAt(world, 'waits'), startedAt(world, 'others')]).toEqual(['gpu', null, 'cloud'])
  world.pass(5_300)
  expect(startedAt(world, 'waits')).toBe('cloud')
})

test('who waits is under the terms that are set, whatever they were when it came', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  cloud(world)
  world.enqueue('hog')
  for (const job of ['1', '2', '3', '4']) world.enqueue(job, { patience: job === '4' ? NEVER : AFTER_3 })
  const set = (patience: Patience, ...jobs: string[]) =>
    world.apply({ kind: 'terms-set', jobs: jobs.map((job) => ({ job: job as JobId, patience, purses: [] })) })
  set(NEVER, 'hog', '1', '2', 'gone')
  world.pass(4_000)
  expect(['1', '2', '3', '4'].map((job) => startedAt(world, job))).toEqual([null, null, 'cloud', null])
  set(AT_ONCE, '4')
  expect(startedAt(world, '4')).toBe('cloud')
  // In the order in which they came.
  world.finish('hog')
  expect([startedAt(world, '1'), startedAt(world, '2')]).toEqual(['gpu', null])
})

const CUT: JobError = { code: 'provider_cut_answer', message: 'cut', layer: 'provider', retryable: true }

test('an empty purse of a provider closes what is paid there, and outlives a limit that ends sooner', () => {
  const world = new SchedulerWorld()
  cloud(world)
  cloud(world, 'free', { models: ['n'], paid: false })
  for (const name of ['cloud', 'free']) world.apply({ kind: 'purse-set', purse: `provider:${name}`, spentUntilMs: world.nowMs + 5_000 })
  world.apply({
    kind: 'provider-held',
    worker: 'cloud' as WorkerId,
    hold: { state: 'cooling_down', untilMs: world.nowMs + 1_000, why: '429' },
  })
  world.enqueue('paid', { patience: ANY_TIER })
  world.enqueue('unpaid', { model: 'n', patience: ANY_TIER })
  world.pass(1_200)
  expect(world.scheduler.waiting(world.nowMs, 'paid' as JobId)).toMatchObject({ reason: 'over_quota' })
  expect([startedAt(world, 'paid'), startedAt(world, 'unpaid')]).toEqual([null, 'cloud'])
  world.pass(4_000)
  expect(startedAt(world, 'paid')).toBe('cloud')
})

test('what a call under way says does not free a provider that a person has to see to', () => {
  const world = new SchedulerWorld()
  cloud(world)
  world.enqueue('job', { patience: ANY_TIER })
  world.apply({ kind: 'provider-held', worker: 'cloud' as WorkerId, hold: { state: 'parked', untilMs: null, why: '401' } })
  world.fail('job', BUSY, { state: 'cooling_down', untilMs: world.nowMs + 1_000, why: '429' })
  world.pass(60_000)
  expect(world.startedOn('cloud')).toHaveLength(1)
  world.apply({ kind: 'provider-held', worker: 'cloud' as WorkerId, hold: null })
  expect(world.startedOn('cloud')).toHaveLength(2)
})

test('a worker that was there before the coordinator’s restart is not offline until it has had time to come back', () => {
  const world = new SchedulerWorld()
  world.apply({ kind: 'worker-known', worker: 'a' as WorkerId, name: 'a', offers: [offer('m', 1)], wasOnline: true })
  world.apply({ kind: 'worker-known', worker: 'b' as WorkerId, name: 'b', offers: [offer('n', 1)], wasOnline: false })
  cloud(world, 'cloud', { models: ['m', 'n'] })
  world.enqueue('patient', { patience: OFFLINE })
  world.enqueue('orphan', { model: 'n', patience: OFFLINE })
  expect([startedAt(world, 'patient'), startedAt(world, 'orphan')]).toEqual([null, 'cloud'])
  world.pass(6_000)
  expect(startedAt(world, 'patient')).toBe('cloud')
})

test('an answer that was cut begins anew where nobody has read it, and elsewhere ends as interrupted', () => {
  const world = new SchedulerWorld()
  cloud(world, 'one')
  cloud(world, 'two')
  world.enqueue('unread', { patience: ANY_TIER, restartable: true })
  world.enqueue('read', { patience: ANY_TIER, restartable: false })
  for (const job of ['unread', 'read']) {
    world.progress(job, 3)
    world.fail(job, CUT)
  }
  expect(world.kinds('unread')).toContain('discard-answer')
  expect(world.live.has('unread' as JobId)).toBe(true)
  expect(world.effects.find((effect) => effect.kind === 'job-failed')).toMatchObject({
    job: 'read',
    error: { code: 'answer_interrupted', retryable: true },
  })
})

test('every start says why: the candidates, what spoke against each, and the rule', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  world.enqueue('hog')
  cloud(world)
  world.enqueue('job', { patience: AFTER_3 })
  for (let passed = 0; passed < 4_000; passed += 1_000) {
    world.report('a', { m: 1 })
    world.pass(1_000)
  }
  const start = world.effects.findLast((effect) => effect.kind === 'start-attempt')
  expect(start?.kind === 'start-attempt' && start.decision).toMatchObject({
    rule: 'after_s/least_busy',
    chosen: 'cloud',
    candidates: [
      { provider: 'a', tier: 'gpu', eligible: false, whyNot: 'all_slots_busy' },
      { provider: 'cloud', tier: 'cloud', eligible: true, whyNot: null },
    ],
  })
})

test('whoever cannot start it now is not eligible, and says why', () => {
  const world = new SchedulerWorld()
  cloud(world)
  const held = { state: 'parked', why: 'the key was refused', untilMs: null } as const
  world.apply({ kind: 'provider-held', worker: 'cloud' as WorkerId, hold: held })
  world.enqueue('job', { patience: ANY_TIER })
  expect(world.scheduler.deliberation(world.nowMs, 'job' as JobId)?.candidates).toMatchObject([
    { provider: 'cloud', eligible: false, whyNot: 'parked' },
  ])
})

test('a worker whose models are all down is offline, with what it says of them, and not busy', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  const state = (): unknown => stateOf(world.scheduler.findWorker('a' as WorkerId)!, world.nowMs)
  expect(state()).toMatchObject({ state: 'online' })
  const down = { ...offer('m', 0), state: 'down' as const, detail: 'it starts again in 4 s' }
  world.apply({ kind: 'worker-reported', worker: 'a' as WorkerId, offers: [down] })
  expect(state()).toEqual({ state: 'offline', reason: 'it starts again in 4 s', untilMs: null })
})

test('what only a person can end has no estimate, whatever was seen before', () => {
  const world = new SchedulerWorld()
  cloud(world)
  world.enqueue('seen', { patience: ANY_TIER })
  world.pass(400)
  world.finish('seen')
  world.apply({ kind: 'provider-held', worker: 'cloud' as WorkerId, hold: { state: 'parked', untilMs: null, why: 'its key is refused' } })
  world.enqueue('waits', { patience: ANY_TIER })
  expect(world.scheduler.waiting(world.nowMs, 'waits' as JobId)).toMatchObject({ reason: 'paused', estimateMs: null, basis: null })
})

test('where only the time is known, the estimate is that time', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  world.apply({ kind: 'worker-disconnected', worker: 'a' as WorkerId })
  cloud(world)
  world.enqueue('job', { patience: AFTER_3 })
  expect(world.scheduler.waiting(world.nowMs, 'job' as JobId)).toMatchObject({
    reason: 'tier_not_open_yet',
    estimateMs: 3_000,
    basis: null,
  })
})

test('jobs of different lines that want the same slots are served in the order they came', () => {
  const world = new SchedulerWorld()
  cloud(world, 'cloud', { maxParallel: 1, models: ['x', 'y'] })
  for (const [index, model] of ['x', 'x', 'y', 'auto', 'x'].entries()) world.enqueue(`j${index}`, { model, patience: ANY_TIER })
  for (let index = 0; index < 4; index++) world.finish(`j${index}`)
  expect(world.startedOn('cloud')).toEqual(['j0', 'j1', 'j2', 'j3', 'j4'])
})

describe('contexts of several sizes', () => {
  const TOO_LONG = { code: 'context_length_exceeded', layer: 'ingress', retryable: false } as const
  const FULL = { code: 'context_full', layer: 'model', retryable: true } as const

  function worker(world: SchedulerWorld, name: string, models: Record<string, number>, slots = 1): void {
    for (const model of Object.keys(models)) world.mostSlots.set(`${name}/${model}`, slots)
    const offers = Object.entries(models).map(([model, contextTokens]) => ({ ...offer(model, slots), contextTokens }))
    world.apply({ kind: 'worker-connected', worker: name as WorkerId, name, offers, held: [], draining: false })
  }
  const at = (world: SchedulerWorld, job: string): string | undefined => world.live.get(job as JobId)?.worker

  test('a prompt goes to a larger one, also at the same worker, and never back to one that is too small while there is a larger', () => {
    const world = new SchedulerWorld()
    worker(world, 'both', { small: 2_048, big: 32_768 })
    world.enqueue('any', { model: 'auto' })
    world.fail('any', TOO_LONG)
    expect(world.effects.findLast((effect) => effect.kind === 'start-attempt')).toMatchObject({ model: 'big' })
    world.finish('any')
    worker(world, 'A', { m: 2_048 })
    worker(world, 'C', { m: 32_768 })
    world.enqueue('j')
    world.fail('j', TOO_LONG)
    expect(at(world, 'j')).toBe('C')
    // It fails there once, and is asked again all the same.
    world.fail('j')
    world.pass(5_000)
    expect(at(world, 'j')).toBe('C')
    world.finish('j')
    expect(world.outcomes.get('j' as JobId)).toEqual(['job-succeeded'])
  })

  test('where the larger one has left, or is one that nobody may use now, the prompt is refused', () => {
    const world = new SchedulerWorld()
    worker(world, 'A', { m: 2_048 })
    worker(world, 'B', { m: 4_096 })
    worker(world, 'C', { m: 32_768 })
    world.enqueue('j')
    world.fail('j', TOO_LONG)
    if (at(world, 'j') === 'B') world.fail('j', TOO_LONG)
    world.apply({ kind: 'worker-disconnected', worker: 'C' as WorkerId })
    world.pass(2_000)
    for (let tries = 0; tries < 3 && at(world, 'j') !== undefined; tries++) world.fail('j', TOO_LONG)
    expect(world.outcomes.get('j' as JobId)).toEqual(['job-failed'])
    cloud(world)
    world.enqueue('key', { patience: ANY_TIER, provider: 'cloud' })
    world.fail('key', { ...BUSY, code: 'provider_credential_refused' }, { state: 'parked', untilMs: null, why: 'key refused' })
    world.enqueue('k', { patience: ANY_TIER })
    for (let tries = 0; tries < 3 && at(world, 'k') !== undefined; tries++) world.fail('k', TOO_LONG)
    expect(world.outcomes.get('k' as JobId)).toEqual(['job-failed'])
  })

  test('a larger one that is held for a while is waited for', () => {
    const world = new SchedulerWorld()
    worker(world, 'A', { m: 2_048 })
    cloud(world, 'cloud', { requests: 1 })
    for (const job of ['one', 'two']) world.enqueue(job, { patience: ANY_TIER })
    for (const job of ['one', 'two']) if (at(world, job) === 'A') world.fail(job, TOO_LONG)
    for (let passes = 0; world.live.size === 0 && passes < 400; passes++) world.pass(200)
    const [first = ''] = world.live.keys()
    expect(at(world, first)).toBe('cloud')
    world.finish(first)
    for (let passes = 0; world.live.size === 0 && passes < 400; passes++) world.pass(200)
    const [second = ''] = world.live.keys()
    expect([at(world, second), second === first]).toEqual(['cloud', false])
    expect(world.outcomes.size).toBe(1)
  })

  test('answers that fill a small one go on at a larger one, and say nothing against the small one', () => {
    const world = new SchedulerWorld()
    worker(world, 'A', { m: 2_048 }, 8)
    const jobs = Array.from({ length: 8 }, (_, index) => `job ${index}`)
    for (const job of jobs) world.enqueue(job)
    worker(world, 'C', { m: 32_768 }, 8)
    for (const job of jobs) {
      world.progress(job, 2_000)
      expect(world.scheduler.canGrow(job as JobId, 2_047)).toBe(false)
      expect(world.scheduler.canGrow(job as JobId, 2_048)).toBe(true)
      world.fail(job, FULL)
      expect(at(world, job)).toBe('C')
    }
    world.enqueue('next')
    expect(at(world, 'next')).toBe('A')
  })
})
