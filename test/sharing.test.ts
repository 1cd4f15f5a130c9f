import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { JobError, JobId, WorkerId } from '../coordinator/core/job.ts'
import { PRIORITIES } from '../coordinator/core/line.ts'
import { SchedulerWorld } from './support/simulation.ts'

/** Who gets how much of a busy fleet: classes, teams, limits. Every figure comes from a simulated clock. */

function startedOrder(world: SchedulerWorld): string[] {
  return world.effects.flatMap((effect) => (effect.kind === 'start-attempt' ? [effect.job] : []))
}

/** Ends the oldest running job, again and again; answers what was started meanwhile, in order. */
function serve(world: SchedulerWorld, jobs: number, cost = 100): string[] {
  const before = startedOrder(world).length
  for (let index = 0; index < jobs && world.live.size > 0; index++) world.finish([...world.live.keys()][0] ?? '', cost)
  return startedOrder(world).slice(before)
}

function share(jobs: string[], prefix: string): number {
  return jobs.filter((job) => job.startsWith(prefix)).length
}

test('an interactive job passes batch jobs that wait, and they still move', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  world.enqueue('first')
  for (let index = 0; index < 20; index++) world.enqueue(`batch${index}`, { priority: 'batch' })
  serve(world, 3)
  world.enqueue('now', { priority: 'interactive' })
  expect(serve(world, 2)).toContain('now')
})

test('under a flood of every class each gets its reserved share, and none starves', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  for (let index = 0; index < 400; index++) for (const priority of PRIORITIES) world.enqueue(`${priority}${index}`, { priority })
  const served = serve(world, 210)
  expect(share(served, 'interactive')).toBeGreaterThanOrEqual(155)
  expect(share(served, 'normal')).toBeGreaterThanOrEqual(37)
  expect(share(served, 'batch')).toBeGreaterThanOrEqual(9)
})

test('what a class leaves the others take', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  for (let index = 0; index < 30; index++) world.enqueue(`batch${index}`, { priority: 'batch' })
  expect(share(serve(world, 20), 'batch')).toBe(20)
})

test('a class that was idle saves nothing up', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  for (let index = 0; index < 300; index++) world.enqueue(`normal${index}`)
  serve(world, 100)
  for (let index = 0; index < 300; index++) world.enqueue(`batch${index}`, { priority: 'batch' })
  expect(share(serve(world, 100), 'normal')).toBeGreaterThanOrEqual(78)
})

test('a hog that came first does not push back nine small teams', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 4 })
  for (let index = 0; index < 300; index++) world.enqueue(`hog${index}`, { team: 'hog' })
  for (let index = 0; index < 20; index++)
    for (let team = 0; team < 9; team++) world.enqueue(`small${team}-${index}`, { team: `small${team}` })
  const served = serve(world, 100)
  for (const team of ['hog', ...Array.from({ length: 9 }, (_, index) => `small${index}-`)]) {
    expect(share(served, team)).toBeGreaterThanOrEqual(9)
    expect(share(served, team)).toBeLessThanOrEqual(11)
  }
})

test('teams share by weight', () => {
  const world = new SchedulerWorld()
  world.setTeam('light', null, 1)
  world.setTeam('heavy', null, 3)
  world.connect('a', { m: 1 })
  for (let index = 0; index < 200; index++) for (const team of ['light', 'heavy']) world.enqueue(`${team}${index}`, { team })
  const served = serve(world, 80)
  expect(share(served, 'heavy')).toBeGreaterThanOrEqual(59)
  expect(share(served, 'heavy')).toBeLessThanOrEqual(61)
})

test('what is shared are tokens, not jobs', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  for (let index = 0; index < 100; index++) {
    world.enqueue(`long${index}`, { team: 'long', cost: 400 })
    world.enqueue(`short${index}`, { team: 'short', cost: 100 })
  }
  const before = startedOrder(world).length
  for (let index = 0; index < 100; index++) {
    const job = [...world.live.keys()][0] ?? ''
    world.finish(job, job.startsWith('long') ? 400 : 100)
  }
  const served = startedOrder(world).slice(before)
  expect(share(served, 'short')).toBeGreaterThanOrEqual(78)
})

test('an estimate that was wrong is corrected when the answer is there', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  // Both say 100; one of them really takes 900.
  for (let index = 0; index < 200; index++) for (const team of ['liar', 'honest']) world.enqueue(`${team}${index}`, { team, cost: 100 })
  const before = startedOrder(world).length
  for (let index = 0; index < 100; index++) {
    const job = [...world.live.keys()][0] ?? ''
    world.finish(job, job.startsWith('liar') ? 900 : 100)
  }
  expect(share(startedOrder(world).slice(before), 'liar')).toBeLessThanOrEqual(12)
})

test('what a class was charged for answers that never came is given back', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  for (let index = 0; index < 40; index++) world.enqueue(`batch${index}`, { priority: 'batch' })
  for (const end of ['cancelled', 'failed']) {
    world.enqueue(end, { priority: 'interactive', cost: 1_000_000 })
    while (!world.live.has(end as JobId)) serve(world, 1)
    if (end === 'failed') world.fail(end, { retryable: false })
    else {
      const { attempt = 0 } = world.live.get(end as JobId) ?? {}
      world.apply({ kind: 'job-cancelled', job: end as JobId })
      world.apply({ kind: 'attempt-failed', job: end as JobId, attempt, worker: 'a' as WorkerId, error: STOPPED })
    }
  }
  world.enqueue('now', { priority: 'interactive' })
  expect(serve(world, 2)).toContain('now')
})

test('a prompt that was computed is paid for, though its caller did not wait for the answer', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  let read = 0
  for (let index = 0; index < 60; index++) {
    world.enqueue(`hasty${index}`, { team: 'hasty', cost: 5_100, promptCost: 5_000 })
    world.enqueue(`other${index}`, { team: 'other', cost: 200, promptCost: 100 })
    const [running = '' as JobId] = world.live.keys()
    if (running.startsWith('other')) {
      world.finish(running, 200)
      continue
    }
    const { attempt = 0 } = world.live.get(running) ?? {}
    world.apply({ kind: 'job-cancelled', job: running })
    world.apply({ kind: 'attempt-failed', job: running, attempt, worker: 'a' as WorkerId, error: STOPPED })
    read += 1
  }
  expect(read).toBeLessThan(6)
})

const STOPPED: JobError = { code: 'cancelled', message: 'stopped', layer: 'provider', retryable: true }

test('inside a team it is first in, first out, also after an attempt was lost', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  for (const job of ['1', '2', '3']) world.enqueue(job)
  world.fail('1')
  expect(world.live.has('1' as JobId)).toBe(true)
  world.finish('1')
  serve(world, 2)
  expect(startedOrder(world)).toEqual(['1', '1', '2', '3'])
})

test('a team at its limit waits for itself, says so, and leaves free slots to others', () => {
  const world = new SchedulerWorld()
  world.setTeam('small', 2)
  world.connect('a', { m: 4 })
  for (let index = 0; index < 5; index++) world.enqueue(`small${index}`, { team: 'small' })
  expect(world.live.size).toBe(2)
  expect(world.scheduler.waiting(world.nowMs, 'small2' as JobId)).toMatchObject({ reason: 'team_limit', position: 1 })
  expect(world.scheduler.waitingByReason(world.nowMs)).toEqual([{ model: 'm', reason: 'team_limit', count: 3 }])
  world.enqueue('other', { team: 'big' })
  expect(world.live.has('other' as JobId)).toBe(true)
  world.finish('small0')
  expect(world.live.has('small2' as JobId)).toBe(true)
  world.setTeam('small', null)
  expect(world.live.size).toBe(4)
})

test('a limit counts attempts over all models', () => {
  const world = new SchedulerWorld()
  world.setTeam('small', 1)
  world.connect('a', { m: 2, n: 2 })
  world.enqueue('on-m', { team: 'small' })
  world.enqueue('on-n', { team: 'small', model: 'n' })
  expect([...world.live.keys()]).toEqual(['on-m'])
  world.finish('on-m')
  expect([...world.live.keys()]).toEqual(['on-n'])
})

test('positions foretell the order across teams and classes', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  world.enqueue('runs')
  for (let index = 0; index < 6; index++) {
    world.enqueue(`x${index}`, { team: 'x' })
    world.enqueue(`y${index}`, { team: 'y' })
    world.enqueue(`batch${index}`, { team: 'y', priority: 'batch' })
  }
  world.enqueue('urgent', { team: 'x', priority: 'interactive' })
  const foretold = new Map<string, number>()
  for (const id of [...Array.from({ length: 6 }, (_, index) => [`x${index}`, `y${index}`, `batch${index}`]).flat(), 'urgent'])
    foretold.set(id, world.scheduler.waiting(world.nowMs, id as JobId)?.position ?? 0)
  const served = serve(world, 30)
  for (const [index, id] of served.entries()) expect(Math.abs((foretold.get(id) ?? 0) - (index + 1)), id).toBeLessThanOrEqual(3)
  expect(foretold.get('urgent')).toBe(1)
})

test('no two jobs have the same position, and none is left out, whatever teams, classes and costs wait', () => {
  const job = fc.record({
    team: fc.constantFrom('x', 'y', 'z'),
    priority: fc.constantFrom(...PRIORITIES),
    cost: fc.constantFrom(100, 100, 100, 37, 1_000),
  })
  fc.assert(
    fc.property(fc.array(job, { minLength: 1, maxLength: 40 }), fc.integer({ min: 0, max: 6 }), (jobs, ended) => {
      const world = new SchedulerWorld()
      world.setTeam('z', null, 3)
      world.connect('a', { m: 1 })
      world.enqueue('runs')
      for (const [index, wish] of jobs.entries()) world.enqueue(`${index}`, wish)
      serve(world, ended)
      const positions = jobs.flatMap((_, index) => world.scheduler.waiting(world.nowMs, `${index}` as JobId)?.position ?? [])
      expect(positions.toSorted((left, right) => left - right)).toEqual(positions.map((_, index) => index + 1))
    }),
    { numRuns: 300 },
  )
})

test('a job that waited as long as its caller allows ends with an error of its own; one that runs does not', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  world.enqueue('runs', { maxWaitMs: 2_000 })
  world.enqueue('waits', { maxWaitMs: 2_000 })
  world.enqueue('patient')
  world.pass(1_800)
  expect(world.outcomes.has('waits' as JobId)).toBe(false)
  world.pass(400)
  expect(world.outcomes.get('waits' as JobId)).toEqual(['job-failed'])
  expect(world.effects.at(-1)).toMatchObject({
    kind: 'job-failed',
    error: { code: 'max_wait_exceeded', layer: 'routing', retryable: true },
    waited: { rule: 'waiting', candidates: [{ provider: 'a', whyNot: 'all_slots_busy' }] },
  })
  expect(world.live.has('runs' as JobId)).toBe(true)
  world.pass(60_000)
  expect(world.outcomes.has('patient' as JobId)).toBe(false)
})

test('each wait is limited by itself, the backoff between two attempts included', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  world.enqueue('1', { maxWaitMs: 3_000 })
  world.pass(10_000)
  world.apply({ kind: 'worker-disconnected', worker: 'a' as never })
  world.pass(3_000)
  expect(world.outcomes.has('1' as JobId)).toBe(false)
  world.pass(1_200)
  expect(world.outcomes.get('1' as JobId)).toEqual(['job-failed'])
})

test('running is limited over all attempts together, whatever they bring', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  world.connect('b', { m: 1 })
  world.enqueue('1', { maxRunMs: 5_000 })
  world.pass(3_000)
  world.progress('1', 10)
  world.fail('1')
  world.pass(1_000)
  world.progress('1', 20)
  expect(world.live.has('1' as JobId)).toBe(true)
  world.pass(1_200)
  expect(world.kinds('1').slice(-3)).toEqual(['stop-attempt', 'attempt-ended', 'job-failed'])
  expect(world.effects.at(-1)).toMatchObject({ error: { code: 'max_run_exceeded', retryable: false } })
})

test('a model that fails job after job gets none for a while, then one on trial, then all again', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 2 })
  for (let index = 0; index < 5; index++) {
    world.enqueue(`${index}`)
    world.fail(`${index}`, { retryable: true })
    world.apply({ kind: 'job-cancelled', job: `${index}` as JobId })
    for (const { job, attempt } of [...(world.scheduler.findWorker('a' as never)?.occupied.values() ?? [])])
      world.apply({
        kind: 'attempt-failed',
        job,
        attempt,
        worker: 'a' as never,
        error: { code: 'x', message: '', layer: 'model', retryable: true },
      })
  }
  world.enqueue('next')
  world.enqueue('after')
  expect(world.scheduler.waiting(world.nowMs, 'next' as JobId)).toMatchObject({ reason: 'cooling_down' })
  expect(world.scheduler.waiting(world.nowMs, 'next' as JobId)?.untilMs).toBeGreaterThan(world.nowMs)
  world.pass(5_200)
  expect([...world.live.keys()]).toEqual(['next'])
  world.finish('next')
  expect([...world.live.keys()]).toEqual(['after'])
  expect(world.effects.filter((effect) => effect.kind === 'breaker-changed').map((effect) => effect.untilMs === null)).toEqual([
    false,
    true,
  ])
})

test('a trial that fails closes the door for twice as long', () => {
  const world = new SchedulerWorld({ breakerFailures: 1, attemptsMax: 10, retryBackoffMs: 0, suspectAfterMs: 60_000, deadAfterMs: 90_000 })
  world.connect('a', { m: 1 })
  world.enqueue('1')
  world.fail('1')
  expect(world.live.size).toBe(0)
  world.pass(5_000)
  expect(world.live.size).toBe(1)
  world.fail('1')
  world.pass(9_800)
  expect(world.live.size).toBe(0)
  world.pass(400)
  expect(world.live.size).toBe(1)
})

test('one prompt that fails again and again opens no breaker', () => {
  const world = new SchedulerWorld({ breakerFailures: 2, attemptsMax: 5, retryBackoffMs: 0 })
  world.connect('a', { m: 1 })
  world.enqueue('poison')
  for (let index = 0; index < 5; index++) world.fail('poison')
  expect(world.outcomes.get('poison' as JobId)).toEqual(['job-parked'])
  world.enqueue('good')
  expect(world.live.has('good' as JobId)).toBe(true)
})

test('an estimate looks at what runs: how much was asked for, how long it has run, and how far it is', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 1 })
  world.enqueue('short', { cost: 10, promptCost: 0 })
  world.pass(200)
  world.finish('short')
  // Ten times what took 200 ms.
  world.enqueue('long', { cost: 100, promptCost: 0 })
  world.enqueue('next', { cost: 10, promptCost: 0 })
  world.enqueue('last', { cost: 10, promptCost: 0 })
  const estimates = (): unknown[] => ['next', 'last'].map((job) => world.scheduler.waiting(world.nowMs, job as JobId)?.estimateMs)
  expect(estimates()).toEqual([2_000, 2_200])
  world.pass(1_000)
  expect(estimates()).toEqual([1_000, 1_200])
  // It is slower than expected: of 100 tokens 80 are told after 4 s.
  world.pass(3_000)
  expect(estimates()).toEqual([4_000, 4_200])
  world.progress('long', 80)
  expect(estimates()).toEqual([1_000, 1_200])
})

test('an estimate says what it was made from', () => {
  const world = new SchedulerWorld()
  world.connect('a', { m: 2 })
  world.enqueue('seen')
  world.pass(4_000)
  world.finish('seen')
  for (let index = 0; index < 6; index++) world.enqueue(`${index}`)
  expect(world.scheduler.waiting(world.nowMs, '5' as JobId)).toMatchObject({
    position: 4,
    basis: { meanServiceMs: 4_000, slots: 2 },
    estimateMs: 8_000,
  })
})
