import { expect, test } from 'vitest'
import type { JobRecord, WorkerId } from '../coordinator/core/job.ts'
import { FleetFacts } from '../coordinator/fleet-facts.ts'
import { Metrics } from '../coordinator/metrics.ts'
import type { ToldModel } from '../proto/link.ts'
import { offer, SchedulerWorld } from './support/simulation.ts'

/** What Prometheus is told, where an alert depends on it. */

const DAY_MS = 86_400_000

test('a worker that is gone for good is told of no more, and how long one was silent outlives a restart', async () => {
  const { world, facts, told } = watched()
  world.nowMs = 10 * DAY_MS
  // As the last coordinator left it.
  for (const [name, heardAgoMs, more] of [
    ['missed', 60_000, {}],
    ['drained', 60_000, { drained: true }],
    ['revoked', 60_000, { revokedMs: world.nowMs - 50_000 }],
    ['forgotten', DAY_MS + 1, {}],
  ] as const) {
    facts.restore(name as WorkerId, { version: '1', joinedMs: 0, heardMs: world.nowMs - heardAgoMs, ...more })
    world.apply({ kind: 'worker-known', worker: name as WorkerId, name, offers: [offer('m', 1)] })
  }
  world.connect('here', { m: 1 })

  expect(await told('worker_up')).toEqual({ '{worker="missed"}': 0, '{worker="here"}': 1 })
  expect(await told('worker_heartbeat_age_seconds')).toEqual({ '{worker="missed"}': 60, '{worker="here"}': 0 })
  expect(Object.keys(await told('provider_state'))).toEqual([
    '{provider="missed",tier="gpu",state="offline"}',
    '{provider="here",tier="gpu",state="online"}',
  ])

  // A day later nobody misses it any more; what is drained and comes back counts again.
  world.nowMs += DAY_MS
  world.connect('drained', { m: 1 })
  expect(await told('worker_up')).toEqual({ '{worker="drained"}': 1, '{worker="here"}': 1 })
})

test('slots are free while they may be given work, and a model is up while it is ready', async () => {
  const { world, facts, told } = watched()
  const models = [
    offer('m', 2),
    { ...offer('spent', 2), limitedUntilMs: world.nowMs + 60_000 },
    { ...offer('dead', 0), state: 'down' as const },
  ]
  world.apply({ kind: 'worker-connected', worker: 'a' as WorkerId, name: 'a', offers: models, held: [], draining: false })
  const slots = await told('worker_slots')
  const free = ['m', 'spent', 'dead'].map((model) => slots[`{worker="a",model="${model}",state="free"}`])
  expect(free).toEqual([2, 0, 0])
  const heard = [
    { name: 'm', state: 'ready', needsPerson: false },
    // A login that was refused is tried once more.
    { name: 'trial', state: 'ready', needsPerson: true },
    { name: 'dead', state: 'down', needsPerson: false },
  ]
  const counts = { tokensPerSecond: 0, restarts: 0, firstTokenMs: 0 }
  const said = heard.map((model) => ({ ...counts, ...model })) as ToldModel[]
  facts.restore('a' as WorkerId, { version: '1', joinedMs: 0, heardMs: world.nowMs, models: said })
  expect(await told('model_up')).toEqual({
    '{worker="a",model="m"}': 1,
    '{worker="a",model="trial"}': 0,
    '{worker="a",model="dead"}': 0,
  })
})

test('the wait of batch work can be told from that of people', async () => {
  const { metrics, told } = watched()
  for (const [priority, queueMs] of [
    ['batch', 3_600_000],
    ['interactive', 20],
  ] as const)
    metrics.started({ model: 'm', priority, queueMs } as JobRecord)
  expect(await told('queue_wait_seconds_sum')).toEqual({
    '{model="m",priority="batch"}': 3_600,
    '{model="m",priority="interactive"}': 0.02,
  })
})

function watched(): {
  world: SchedulerWorld
  facts: FleetFacts
  metrics: Metrics
  told: (name: string) => Promise<Record<string, number>>
} {
  const world = new SchedulerWorld()
  const facts = new FleetFacts(() => {})
  const metrics = new Metrics(
    world.scheduler,
    facts,
    () => world.nowMs,
    () => null,
  )
  const told = async (name: string): Promise<Record<string, number>> => {
    const lines = (await metrics.text()).matchAll(new RegExp(`^holdfast_${name}({.*}) (\\S+)$`, 'gm'))
    return Object.fromEntries([...lines].map(([, labels = '', value]) => [labels, Number(value)]))
  }
  return { world, facts, metrics, told }
}
