import type { SimulatedClient } from './simulated-client.ts'
import type { SimulatedCoordinator } from './simulated-coordinator.ts'
import type { SimulatedHost } from './simulated-host.ts'
import { type Disturbance, TROUBLE_MS } from './simulated-plan.ts'
import { SimulatedWorld } from './simulated-world.ts'

/** One scenario from its seed: what is planned happens, then all is healed, and then everything must come to its end. */
export function playScenario(seed: number, traced = false): { fingerprint: number; trace: string[]; error: Error | null } {
  const world = new SimulatedWorld(seed, traced)
  let error: Error | null = null
  world.time.inPlaceOfNode(() => {
    try {
      play(world)
    } catch (thrown) {
      error = thrown as Error
    }
  })
  return { fingerprint: world.fingerprint, trace: world.trace ?? [], error }
}

function play(world: SimulatedWorld): void {
  const { time, plan } = world
  world.startCoordinator()
  for (const host of world.hosts) time.after(time.chance.between(0, 1_500), () => host.start(), null)
  for (const client of world.clients) {
    time.after(client.plan.atMs, () => world.atCoordinator((coordinator) => client.submit(coordinator)), null)
    const { cancelAtMs } = client.plan
    if (cancelAtMs !== null) time.after(cancelAtMs, () => world.atCoordinator((coordinator) => client.cancel(coordinator)), null)
  }
  for (const { atMs, kind } of plan.disturbances) time.after(atMs, () => disturb(world, kind), null)
  time.runUntil(TROUBLE_MS)
  heal(world)
  time.runUntil(TROUBLE_MS + HEALED_MS, () => world.isOver)
  world.checkEnd()
}

/** As a network partition, a crash or an operator would do it. */
function disturb(world: SimulatedWorld, kind: Disturbance): void {
  const { time, network } = world
  const { chance } = time
  const host = chance.pick(world.hosts)
  const { name } = host.plan
  const ms = chance.pick([300, 1_500, 4_000, 8_000])
  world.note(`── ${kind} ${name} ${ms} ms`)
  switch (kind) {
    case 'cut':
      network.cut(name, chance.between(0, 100), chance.between(0, 100))
      break
    case 'half-open':
      network.cut(name, chance.maybe(0.5) ? ms : 0, ms)
      break
    case 'stall-network':
      network.streamOf(name)?.stall(ms)
      break
    case 'cut-off':
      network.cutOff.add(name)
      network.cut(name, chance.between(0, 1_000), chance.between(0, 1_000))
      time.after(ms, () => network.cutOff.delete(name), null)
      break
    case 'echo':
      network.streamOf(name)?.echo()
      break
    case 'freeze-host':
      if (host.alive) host.freeze(ms)
      break
    case 'kill-host':
      host.kill()
      time.after(ms, () => host.start(), null)
      break
    case 'replace-host':
      host.replace()
      time.after(ms, () => host.start(), null)
      break
    case 'drain-host':
      drain(world, host)
      break
    case 'crash-model':
      if (host.alive) host.crashModel()
      break
    case 'stall-model':
      host.stallModel(2 * ms)
      break
    case 'change-limit':
      world.atCoordinator(({ dispatcher }) => dispatcher.setTeam({ name: 'narrow', weight: 1, maxParallel: chance.between(1, 3) }))
      break
    case 'database-down':
      world.database.down = true
      time.after(ms, () => (world.database.down = false), null)
      break
    case 'clock-jump':
      world.clockAheadMs += ms
      break
    default:
      disturbCoordinator(world, kind, ms)
  }
}

function disturbCoordinator(world: SimulatedWorld, kind: Disturbance, ms: number): void {
  const { coordinator, time } = world
  if (coordinator?.canAnswer !== true) return
  if (kind === 'freeze-coordinator') {
    coordinator.process.frozen = true
    time.after(ms, () => coordinator.process.thaw(), null)
  } else if (kind === 'crash-coordinator') {
    coordinator.crash()
    world.coordinatorGone(Math.min(ms, 3_000))
  } else {
    coordinator.stop(() => world.coordinator === coordinator && world.coordinatorGone(200))
  }
}

function drain(world: SimulatedWorld, host: SimulatedHost): void {
  if (!host.alive) return
  host.drain()
  // A connection that breaks meanwhile comes back as that of a worker that drains.
  if (world.time.chance.maybe(0.3)) world.time.after(300, () => world.network.cut(host.plan.name, 0, 0), null)
  world.time.after(5_000, () => host.start(), null)
}

/** From here on nothing new goes wrong; what was interrupted comes back by itself. People look at what was parked. */
function heal(world: SimulatedWorld): void {
  const { time } = world
  world.note('── healed')
  world.healed = true
  world.network.cutOff.clear()
  world.database.down = false
  const look = (): void => {
    for (const host of world.hosts) host.start()
    if (world.coordinator?.canAnswer === true) lookAtParked(world, world.coordinator)
    time.after(2_000, look, null)
  }
  look()
}

function lookAtParked(world: SimulatedWorld, coordinator: SimulatedCoordinator): void {
  for (const client of world.clients) {
    const row = world.database.jobs.get(client.id)
    if (row?.status !== 'parked' || coordinator.dispatcher.find(client.id) !== undefined) continue
    coordinator.process.run(() => resolveParked(world, coordinator, client))
  }
}

function resolveParked(world: SimulatedWorld, { dispatcher }: SimulatedCoordinator, client: SimulatedClient): void {
  const row = world.database.jobs.get(client.id)
  if (row === undefined) return
  if (client.plan.prompt === 'plain') dispatcher.release({ ...row }, world.database.readProgress(client.id), 'key:admin', false)
  else {
    client.cancelled = true
    dispatcher.cancelParked({ ...row }, world.database.readProgress(client.id), 'key:admin', false)
  }
  const live = dispatcher.find(client.id)
  if (live !== undefined) client.takeUp(live)
}

const HEALED_MS = 180_000
