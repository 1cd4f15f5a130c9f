import { expect, test } from 'vitest'
import type { JobError, JobId, WorkerId } from '../coordinator/core/job.ts'
import { offer, plainJob, RULES, SchedulerWorld } from './support/simulation.ts'

const id = (job: string): JobId => job as JobId

test('a job whose worker falls silent runs again elsewhere, from the front of the line', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  world.enqueue('first')
  world.connect('b', { m: 1 })
  world.enqueue('second')
  world.enqueue('third')
  for (let heard = 0; heard <= RULES.deadAfterMs; heard += 1_000) {
    world.report('b', { m: 1 })
    world.pass(1_000)
  }
  expect(world.scheduler.findWorker('a' as WorkerId)?.state).toBe('offline')
  expect(world.kinds('first')).toContain('job-requeued')
  world.finish('second')
  expect(world.startedOn('b')).toEqual(['second', 'first'])
})

test('the number of an attempt that a crash of the coordinator forgot is not given out again', () => {
  const world = new SchedulerWorld()
  world.enqueue('x')
  // Started by a coordinator that died before it stored that.
  world.connect('a', { m: 2 }, [{ job: 'x', attempt: 3 }])
  const told = world.effects.filter(({ kind }) => kind === 'stop-attempt' || kind === 'start-attempt')
  expect(told).toMatchObject([
    { kind: 'stop-attempt', job: 'x', attempt: 3 },
    { kind: 'start-attempt', job: 'x', attempt: 4 },
  ])
})

test('a worker is suspect before it is dead, and a suspect gets no work', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 4 })
  world.pass(RULES.suspectAfterMs + 200)
  world.enqueue('late')
  expect(world.scheduler.findWorker('a' as WorkerId)?.state).toBe('suspect')
  expect(world.live.size).toBe(0)
  world.report('a', { m: 4 })
  expect(world.startedOn('a')).toEqual(['late'])
})

test('more jobs than slots wait in order, with position and reason', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 2 })
  for (const job of ['1', '2', '3', '4', '5']) world.enqueue(job)
  expect(world.startedOn('a')).toEqual(['1', '2'])
  expect(world.scheduler.waiting(world.nowMs, id('3'))).toMatchObject({ reason: 'all_slots_busy', position: 1 })
  expect(world.scheduler.waiting(world.nowMs, id('5'))).toMatchObject({ position: 3 })
  expect(world.scheduler.waiting(world.nowMs, id('1'))).toBeUndefined()
  world.finish('2')
  expect(world.startedOn('a')).toEqual(['1', '2', '3'])
  expect(world.scheduler.waiting(world.nowMs, id('5'))).toMatchObject({ position: 2 })
})

test('the reason tells apart nobody, loading and busy', () => {
  const world = new SchedulerWorld()
  world.enqueue('x')
  expect(world.scheduler.waiting(world.nowMs, id('x'))?.reason).toBe('no_provider_for_model')
  world.apply({
    kind: 'worker-connected',
    worker: 'a' as WorkerId,
    name: 'a',
    offers: [{ ...offer('m', 0), state: 'loading' }],
    held: [],
    draining: false,
  })
  expect(world.scheduler.waiting(world.nowMs, id('x'))?.reason).toBe('model_loading')
  world.report('a', { m: 1 })
  world.enqueue('y')
  expect(world.scheduler.waiting(world.nowMs, id('y'))?.reason).toBe('all_slots_busy')
})

test('an estimate comes from what answers took, and is not made up before', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  world.enqueue('1')
  world.enqueue('2')
  world.enqueue('3')
  expect(world.scheduler.waiting(world.nowMs, id('3'))?.estimateMs).toBeNull()
  world.nowMs += 4_000
  world.finish('1')
  expect(world.scheduler.waiting(world.nowMs, id('3'))?.estimateMs).toBe(4_000)
})

test('work goes to the least busy worker', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 4 })
  world.connect('b', { m: 4 })
  for (const job of ['1', '2', '3', '4']) world.enqueue(job)
  expect([world.startedOn('a').length, world.startedOn('b').length]).toEqual([2, 2])
})

test('a conversation returns to the worker that holds its prefix, unless that one is far busier', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 4 })
  world.connect('b', { m: 4 })
  world.enqueue('1', { prefix: ['h1'] })
  const owner = world.live.get(id('1'))?.worker
  world.enqueue('2', { prefix: ['h1', 'h2'] })
  expect(world.live.get(id('2'))?.worker).toBe(owner)
  world.enqueue('3', { prefix: ['h1', 'h2', 'h3'] })
  expect(world.live.get(id('3'))?.worker).toBe(owner)
  world.enqueue('4', { prefix: ['h1', 'h2', 'h3', 'h4'] })
  expect(world.live.get(id('4'))?.worker).not.toBe(owner)
})

test('a request pinned to a provider is never sent elsewhere', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  world.connect('b', { m: 1 })
  world.enqueue('1', { provider: 'a' })
  world.enqueue('2', { provider: 'a' })
  expect(world.startedOn('b')).toEqual([])
  world.enqueue('3')
  expect(world.startedOn('b')).toEqual(['3'])
})

test('a late report of a lost attempt changes nothing and is counted', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  world.enqueue('1')
  world.apply({ kind: 'worker-disconnected', worker: 'a' as WorkerId })
  world.connect('b', { m: 1 })
  world.pass(1_000)
  expect(world.live.get(id('1'))).toMatchObject({ worker: 'b', attempt: 2 })
  const effects = world.apply({ kind: 'attempt-finished', job: id('1'), attempt: 1, worker: 'a' as WorkerId, cost: 1 })
  expect(effects.map((effect) => effect.kind)).toEqual(['stale-report'])
  expect(world.live.get(id('1'))).toMatchObject({ worker: 'b', attempt: 2 })
  world.finish('1')
  expect(world.outcomes.get(id('1'))).toEqual(['job-succeeded'])
})

test('a late report of an older attempt on the same worker is stale', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  world.enqueue('1')
  world.apply({ kind: 'worker-disconnected', worker: 'a' as WorkerId })
  world.connect('a', { m: 1 })
  const effects = world.apply({ kind: 'attempt-finished', job: id('1'), attempt: 1, worker: 'a' as WorkerId, cost: 1 })
  expect(effects.map((effect) => effect.kind)).toEqual(['stale-report'])
  expect(world.live.get(id('1'))).toMatchObject({ worker: 'a', attempt: 2 })
})

test('the right attempt from the wrong worker is stale too', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  world.connect('b', { m: 1 })
  world.enqueue('1', { provider: 'a' })
  const effects = world.apply({ kind: 'attempt-finished', job: id('1'), attempt: 1, worker: 'b' as WorkerId, cost: 1 })
  expect(effects.map((effect) => effect.kind)).toEqual(['stale-report'])
  expect(world.live.has(id('1'))).toBe(true)
})

test('a worker that blinks keeps its attempt; it is resumed, not restarted', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  world.connect('b', { m: 1 })
  world.enqueue('1', { provider: 'a' })
  world.apply({ kind: 'worker-disconnected', worker: 'a' as WorkerId })
  world.pass(RULES.returnGraceMs - 200)
  world.connect('a', { m: 1 }, [{ job: '1', attempt: 1 }])
  expect(world.kinds('1')).toContain('resume-attempt')
  expect(world.kinds('1')).not.toContain('job-requeued')
  world.finish('1')
})

test('a worker that comes back without the attempt has lost it', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  world.enqueue('1')
  world.apply({ kind: 'worker-disconnected', worker: 'a' as WorkerId })
  world.connect('a', { m: 1 })
  expect(world.live.get(id('1'))).toMatchObject({ worker: 'a', attempt: 2 })
})

test('what a worker holds and nobody wants is stopped', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 }, [{ job: 'ghost', attempt: 7 }])
  expect(world.effects).toContainEqual({ kind: 'stop-attempt', job: 'ghost', attempt: 7, worker: 'a' })
})

test('a cancelled job holds its slot until the worker confirms', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  world.enqueue('1')
  world.enqueue('2')
  world.apply({ kind: 'job-cancelled', job: id('1') })
  expect(world.outcomes.get(id('1'))).toEqual(['job-cancelled'])
  expect(world.startedOn('a')).toEqual(['1'])
  const effects = world.apply({ kind: 'attempt-finished', job: id('1'), attempt: 1, worker: 'a' as WorkerId, cost: 1 })
  expect(effects.map((effect) => effect.kind)).toEqual(['start-attempt'])
})

test('a queued job that is cancelled leaves the line', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  for (const job of ['1', '2', '3']) world.enqueue(job)
  world.apply({ kind: 'job-cancelled', job: id('2') })
  expect(world.scheduler.waitingCount).toBe(1)
  world.finish('1')
  expect(world.startedOn('a')).toEqual(['1', '3'])
})

test('a poison prompt is parked after three attempts that brought nothing', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  world.enqueue('bad')
  for (let attempt = 1; attempt <= 3; attempt++) {
    expect(world.live.get(id('bad'))?.attempt).toBe(attempt)
    world.fail('bad')
    world.pass(2_000)
    world.report('a', { m: 1 })
  }
  expect(world.outcomes.get(id('bad'))).toEqual(['job-parked'])
  expect(world.scheduler.waitingCount).toBe(0)
})

const MISMATCH: JobError = { code: 'schema_mismatch', message: 'not what was asked for', layer: 'model', retryable: true }

test('an answer that does not fit its schema is made anew, three times at most, and closes its model to nobody', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  for (const job of ['1', '2', '3', '4', '5', '6', '7', '8']) {
    world.enqueue(job)
    for (let attempt = 1; attempt <= 3; attempt++) {
      world.progress(job, 20)
      world.fail(job, MISMATCH)
      world.pass(2_000)
      world.report('a', { m: 1 })
    }
    expect(world.outcomes.get(id(job))).toEqual(['job-failed'])
  }
  expect(world.effects.filter(({ kind }) => kind === 'discard-answer')).toHaveLength(24)
  expect(world.effects.filter(({ kind }) => kind === 'breaker-changed')).toEqual([])
  world.enqueue('innocent')
  expect(world.live.get(id('innocent'))?.attempt).toBe(1)
})

test('an answer that somebody has read is not made anew', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  world.enqueue('read', { restartable: false })
  world.progress('read', 20)
  world.fail('read', MISMATCH)
  expect(world.outcomes.get(id('read'))).toEqual(['job-failed'])
})

test('what dies with a poison prompt is no poison: those that died together before start apart, and who dies alone is it', () => {
  for (const order of [
    ['poison', 'a', 'b', 'c'],
    ['a', 'b', 'c', 'poison'],
  ]) {
    const world = new SchedulerWorld({ breakerFailures: 1_000 })
    world.connect('w', { m: 8 })
    for (const job of order) world.enqueue(job)
    const crash = (): void => {
      for (const job of [...world.live.keys()]) world.fail(job)
    }
    crash()
    expect(world.live.size).toBe(4)
    // From here on all four are under suspicion, and come back a second after one another.
    crash()
    const since = new Map<JobId, number>()
    for (let turn = 0; world.outcomes.size < 4 && turn < 600; turn++) {
      world.pass(200)
      world.report('w', { m: 8 })
      if (world.live.has(id('poison'))) crash()
      for (const job of since.keys()) if (!world.live.has(job)) since.delete(job)
      // The others take a second and a half: the next has come meanwhile.
      for (const job of world.live.keys()) {
        if (!since.has(job)) since.set(job, world.nowMs)
        if (world.nowMs - (since.get(job) ?? 0) > 1_500) world.finish(job)
      }
    }
    const succeeded = ['job-succeeded']
    expect(Object.fromEntries(world.outcomes)).toEqual({ a: succeeded, b: succeeded, c: succeeded, poison: ['job-parked'] })
  }
})

test('those that die together every time are parked in the end, all of them', () => {
  const world = new SchedulerWorld({ retryBackoffMs: 0, breakerFailures: 100 })
  world.connect('w', { m: 8 })
  for (const job of ['a', 'b']) world.enqueue(job)
  for (let death = 0; death < 8; death++) {
    expect(world.live.size).toBe(2)
    for (const job of [...world.live.keys()]) world.fail(job)
  }
  expect(world.outcomes.size).toBe(0)
  for (const job of [...world.live.keys()]) world.fail(job)
  expect([...world.outcomes.values()]).toEqual([['job-parked'], ['job-parked']])
})

test('an answer that gets on between deaths is not poison', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  world.enqueue('long')
  for (let attempt = 1; attempt <= 10; attempt++) {
    world.progress('long', attempt * 20)
    world.fail('long')
  }
  expect(world.outcomes.has(id('long'))).toBe(false)
  world.finish('long')
  expect(world.outcomes.get(id('long'))).toEqual(['job-succeeded'])
})

test('even an answer that always gets on has a last attempt', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  world.enqueue('endless')
  for (let attempt = 1; attempt <= 30; attempt++) {
    world.progress('endless', attempt * 20)
    world.fail('endless')
  }
  expect(world.outcomes.get(id('endless'))).toEqual(['job-parked'])
})

test('after a failure another worker is preferred, and the same one used when there is no other', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 2 })
  world.enqueue('1')
  world.connect('b', { m: 1 })
  world.fail('1')
  expect(world.live.get(id('1'))?.worker).toBe('b')
  world.apply({ kind: 'worker-disconnected', worker: 'b' as WorkerId })
  // The grace for the worker to return, and the pause after a second failure.
  world.pass(RULES.returnGraceMs + RULES.retryBackoffMs + 400)
  expect(world.live.get(id('1'))?.worker).toBe('a')
})

test('a failure that another try cannot mend ends the job', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  world.enqueue('1')
  world.fail('1', { retryable: false })
  expect(world.outcomes.get(id('1'))).toEqual(['job-failed'])
})

test('a delivered answer goes on only on the same model file', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  world.enqueue('1')
  world.progress('1', 5)
  world.apply({
    kind: 'worker-connected',
    worker: 'b' as WorkerId,
    name: 'b',
    offers: [offer('m', 1, 'other file')],
    held: [],
    draining: false,
  })
  world.apply({ kind: 'worker-disconnected', worker: 'a' as WorkerId })
  world.pass(1_000)
  expect(world.live.has(id('1'))).toBe(false)
  expect(world.scheduler.waiting(world.nowMs, id('1'))?.reason).toBe('no_provider_for_model')
  world.connect('a', { m: 1 })
  expect(world.live.get(id('1'))?.worker).toBe('a')
})

test('a model whose process died takes no jobs until it is back', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 2 })
  world.report('a', { m: 0 })
  world.enqueue('1')
  expect(world.live.size).toBe(0)
  world.report('a', { m: 2 })
  expect(world.startedOn('a')).toEqual(['1'])
})

test('a refusal puts the job back in front and leaves the worker alone for a moment', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 2 })
  world.enqueue('1')
  world.apply({ kind: 'attempt-refused', job: id('1'), attempt: 1, worker: 'a' as WorkerId, reason: 'full' })
  expect(world.live.size).toBe(0)
  world.pass(RULES.refusalPauseMs + 200)
  expect(world.live.get(id('1'))).toMatchObject({ worker: 'a', attempt: 2 })
})

test('silence ends an attempt: before the first token after one limit, between tokens after another', () => {
  const world = new SchedulerWorld({ firstTokenTimeoutMs: 5_000, nextTokenTimeoutMs: 2_000 })
  world.connect('a', { m: 1 })
  world.connect('b', { m: 1 })
  world.enqueue('1')
  const first = world.live.get(id('1'))?.worker
  for (let second = 0; second < 4; second++) {
    world.pass(1_000)
    for (const worker of ['a', 'b']) world.report(worker, { m: 1 })
  }
  expect(world.live.get(id('1'))?.attempt).toBe(1)
  world.pass(1_200)
  expect(world.live.get(id('1'))).toMatchObject({ attempt: 2 })
  expect(world.live.get(id('1'))?.worker).not.toBe(first)
  world.progress('1', 3)
  world.pass(1_800)
  expect(world.live.get(id('1'))?.attempt).toBe(2)
  world.pass(400)
  expect(world.kinds('1').filter((kind) => kind === 'attempt-ended')).toHaveLength(2)
})

test('who was heard to live has as long as for a first token, and no longer however often that is heard', () => {
  const world = new SchedulerWorld({ firstTokenTimeoutMs: 5_000, nextTokenTimeoutMs: 2_000 })
  world.connect('a', { m: 1 })
  const pass = (ms: number): void => {
    world.pass(ms)
    world.report('a', { m: 1 })
  }
  world.enqueue('1')
  world.progress('1', 3)
  pass(1_000)
  world.progress('1', 3, true)
  pass(3_000)
  world.progress('1', 4, true)
  pass(4_000)
  expect(world.live.get(id('1'))?.attempt).toBe(1)
  world.progress('1', 5)
  pass(1_000)
  world.progress('1', 5, true)
  pass(2_000)
  world.progress('1', 5, true)
  pass(1_500)
  expect(world.live.get(id('1'))?.attempt).toBe(1)
  pass(700)
  expect(world.effects.find((effect) => effect.kind === 'attempt-ended')).toMatchObject({
    error: { code: 'next_token_timeout', message: expect.stringContaining('for 5 s') as string },
  })
})

test('a draining worker finishes what it runs and gets nothing new', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 2 })
  world.enqueue('1')
  world.apply({ kind: 'worker-draining', worker: 'a' as WorkerId })
  world.enqueue('2')
  expect(world.startedOn('a')).toEqual(['1'])
  world.finish('1')
  expect(world.startedOn('a')).toEqual(['1'])
  expect(world.scheduler.waitingCount).toBe(1)
})

test('after a restart of the coordinator a worker has time to come back and hand over', () => {
  const world = new SchedulerWorld()
  const recovered = { job: plainJob('1'), attempt: 3, tokens: 40, sha256: 'sha', served: null, strikes: 0, failures: 0 }
  world.apply({ kind: 'job-recovered', ...recovered, worker: { id: 'a' as WorkerId, name: 'a' } })
  world.connect('b', { m: 4 })
  world.pass(2_000)
  expect(world.startedOn('b')).toEqual([])
  world.connect('a', { m: 1 }, [{ job: '1', attempt: 3 }])
  expect(world.kinds('1')).toEqual(['resume-attempt'])
})

test('what an engine that cannot go on brings after a restart is void when it fails, though it was not known by then', () => {
  const world = new SchedulerWorld()
  const recovered = { job: plainJob('1'), attempt: 3, tokens: 0, sha256: null, served: null, strikes: 0, failures: 0 }
  world.apply({ kind: 'job-recovered', ...recovered, worker: { id: 'a' as WorkerId, name: 'a' } })
  const offers = [{ ...offer('m', 1), startsOver: true }]
  const held = [{ job: id('1'), attempt: 3 }]
  world.apply({ kind: 'worker-connected', worker: 'a' as WorkerId, name: 'a', offers, held, draining: false })
  const report = { job: id('1'), attempt: 3, worker: 'a' as WorkerId }
  world.apply({ kind: 'attempt-progressed', ...report, tokens: 5 })
  const error = { code: 'upstream_cut', message: 'cut', layer: 'provider', retryable: true } as const
  world.apply({ kind: 'attempt-failed', ...report, error })
  expect(world.kinds('1')).toContain('discard-answer')
})

test('a worker that does not come back after the restart loses its jobs without blame', () => {
  const world = new SchedulerWorld()
  for (let restart = 0; restart < 5; restart++) {
    const fresh = new SchedulerWorld()
    fresh.apply({
      kind: 'job-recovered',
      job: plainJob('1'),
      served: null,
      strikes: 0,
      failures: restart,
      attempt: restart + 1,
      worker: { id: 'gone' as WorkerId, name: 'gone' },
      tokens: 0,
      sha256: 'sha',
    })
    fresh.connect('b', { m: 4 })
    fresh.pass(RULES.recoveryGraceMs + 200)
    expect(fresh.live.get(id('1'))).toMatchObject({ worker: 'b', attempt: restart + 2 })
  }
  expect(world.outcomes.size).toBe(0)
})

test('a new machine under an old name takes its place', () => {
  const world = new SchedulerWorld()
  world.apply({ kind: 'worker-known', worker: 'old' as WorkerId, name: 'host', offers: [offer('m', 1)] })
  world.apply({ kind: 'worker-connected', worker: 'new' as WorkerId, name: 'host', offers: [offer('m', 1)], held: [], draining: false })
  expect([...world.scheduler.workers].map((worker) => worker.id)).toEqual(['new'])
  expect(world.effects).toContainEqual({ kind: 'worker-replaced', worker: 'old' })
})

test('a conversation goes where a worker says that it holds the longest part of it', () => {
  const world = new SchedulerWorld()
  for (const name of ['a', 'b', 'c']) world.connect(name, { m: 4 })
  const told = (worker: string, prefixes: string[]): void => {
    world.apply({ kind: 'worker-reported', worker: worker as WorkerId, offers: [{ ...offer('m', 4), prefixes }] })
  }
  told('b', ['system', 'turn-1'])
  told('c', ['system', 'turn-1', 'turn-2'])
  world.enqueue('third turn', { prefix: ['system', 'turn-1', 'turn-2', 'turn-3'] })
  world.enqueue('second turn', { prefix: ['system', 'turn-1', 'other'] })
  expect(world.startedOn('c')).toEqual(['third turn'])
  expect(world.startedOn('b')).toEqual(['second turn'])
})

test('what a worker no longer holds it is no longer chosen for', () => {
  const world = new SchedulerWorld()
  for (const name of ['a', 'b']) world.connect(name, { m: 4 })
  world.apply({ kind: 'worker-reported', worker: 'b' as WorkerId, offers: [{ ...offer('m', 4), prefixes: ['p'] }] })
  world.apply({ kind: 'worker-reported', worker: 'b' as WorkerId, offers: [{ ...offer('m', 4), prefixes: [] }] })
  world.enqueue('1', { prefix: ['p'] })
  expect(world.startedOn('a')).toEqual(['1'])
})

test('a restart of the coordinator gives nobody more time to wait or to run than was asked for', () => {
  const world = new SchedulerWorld()
  const recovered = { attempt: 0, worker: null, tokens: 0, sha256: null, served: null, strikes: 0, failures: 0 }
  world.apply({ kind: 'job-recovered', ...recovered, job: plainJob('waited', { maxWaitMs: 60_000, waitedMs: 50_000 }) })
  const worker = { id: 'a' as WorkerId, name: 'a' }
  world.apply({ kind: 'job-recovered', ...recovered, job: plainJob('ran', { maxRunMs: 60_000 }), attempt: 1, worker, ranMs: 55_000 })
  world.connect('a', { m: 1 }, [{ job: 'ran', attempt: 1 }])
  world.pass(4_000)
  expect([...world.outcomes.keys()]).toEqual([])
  world.pass(2_000)
  expect([...world.outcomes.keys()]).toEqual(['ran'])
  // Its slot stays taken until the worker confirms, so the other one waits to its end.
  world.pass(4_200)
  expect([...world.outcomes.keys()]).toEqual(['ran', 'waited'])
})
