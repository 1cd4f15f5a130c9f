import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { JobId, WorkerId } from '../coordinator/core/job.ts'
import { SchedulerWorld } from './support/simulation.ts'

/**
 * Seeded chaos against the pure scheduler: workers come, go, blink, freeze, shrink and refuse; jobs come, grow, fail and
 * are cancelled; late and doubled reports arrive. SchedulerWorld checks the invariants after every input.
 */
type Step =
  | { do: 'enqueue'; model: number; pin: number }
  | { do: 'finish' | 'fail' | 'grow' | 'cancel' | 'refuse' | 'late'; pick: number }
  | { do: 'connect' | 'disconnect' | 'drain' | 'blink'; worker: number; slots: number }
  | { do: 'pass'; ms: number }

const MODELS = ['m', 'n']
const WORKERS = ['a', 'b', 'c']

const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ do: fc.constant('enqueue' as const), model: fc.nat(1), pin: fc.nat(8) }) },
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constantFrom(
        'finish' as const,
        'finish' as const,
        'fail' as const,
        'grow' as const,
        'cancel' as const,
        'refuse' as const,
        'late' as const,
      ),
      pick: fc.nat(50),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constantFrom('connect' as const, 'disconnect' as const, 'drain' as const, 'blink' as const),
      worker: fc.nat(2),
      slots: fc.nat(3),
    }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('pass' as const), ms: fc.constantFrom(100, 900, 2_000, 16_000) }) },
)

test('through any sequence of deaths, delays and cancels, every accepted job has exactly one outcome', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 120 }), (steps) => {
      const first = play(steps)
      expect(play(steps)).toEqual(first)
    }),
    { numRuns: 5_000 },
  )
})

/** Plays the steps, then lets a healthy fleet finish everything; answers the effects as text, to be compared. */
function play(steps: Step[]): string {
  const world = new SchedulerWorld()
  const accepted: string[] = []
  for (const one of steps) apply(world, accepted, one)
  for (const worker of WORKERS) world.connect(worker, { m: 2, n: 2 }, heldBy(world, worker))
  for (let round = 0; round < 400 && world.outcomes.size < accepted.length; round++) {
    for (const [job, { worker }] of [...world.live]) if (WORKERS.includes(worker)) world.finish(job)
    for (const worker of WORKERS) world.report(worker, { m: 2, n: 2 })
    for (const worker of world.scheduler.workers)
      for (const [job, { attempt }] of [...worker.occupied])
        if (!world.live.has(job)) world.apply({ kind: 'attempt-finished', job, attempt, worker: worker.id, cost: 1 })
    world.pass(1_000)
  }
  for (const job of accepted) expect(world.outcomes.get(job as JobId)).toHaveLength(1)
  expect(world.scheduler.waitingCount).toBe(0)
  expect(world.scheduler.runningCount).toBe(0)
  return JSON.stringify(world.effects)
}

function apply(world: SchedulerWorld, accepted: string[], one: Step): void {
  if (one.do === 'pass') {
    world.pass(one.ms)
  } else if (one.do === 'enqueue') {
    const job = `j${accepted.length}`
    accepted.push(job)
    world.enqueue(job, { model: MODELS[one.model] ?? 'm', provider: WORKERS[one.pin] ?? null })
  } else if ('pick' in one) {
    disturb(world, accepted, one)
  } else {
    move(world, one)
  }
}

function disturb(world: SchedulerWorld, accepted: string[], one: Extract<Step, { pick: number }>): void {
  const job = [...world.live.keys()][one.pick % Math.max(1, world.live.size)]
  const live = job === undefined ? undefined : world.live.get(job)
  if (one.do === 'cancel')
    world.apply({ kind: 'job-cancelled', job: (accepted[one.pick % Math.max(1, accepted.length)] ?? 'none') as JobId })
  else if (one.do === 'late')
    world.apply({
      kind: 'attempt-finished',
      job: (accepted[one.pick % Math.max(1, accepted.length)] ?? 'none') as JobId,
      attempt: 99,
      worker: 'a' as WorkerId,
      cost: 1,
    })
  else if (job === undefined || live === undefined) return
  else if (one.do === 'finish') world.finish(job)
  else if (one.do === 'fail') world.fail(job, { retryable: one.pick % 5 !== 0 })
  else if (one.do === 'grow') world.progress(job, one.pick)
  else world.apply({ kind: 'attempt-refused', job, attempt: live.attempt, worker: live.worker, reason: 'full' })
}

function move(world: SchedulerWorld, one: Extract<Step, { worker: number }>): void {
  const name = WORKERS[one.worker] ?? 'a'
  const worker = name as WorkerId
  if (one.do === 'connect') world.connect(name, { m: one.slots, n: 1 })
  else if (one.do === 'disconnect') world.apply({ kind: 'worker-disconnected', worker })
  else if (one.do === 'drain') world.apply({ kind: 'worker-draining', worker })
  else {
    world.apply({ kind: 'worker-disconnected', worker })
    world.connect(name, { m: one.slots, n: 1 }, heldBy(world, name))
  }
}

function heldBy(world: SchedulerWorld, name: string): { job: string; attempt: number }[] {
  return [...(world.scheduler.findWorker(name as WorkerId)?.occupied ?? [])].map(([job, { attempt }]) => ({ job, attempt }))
}
