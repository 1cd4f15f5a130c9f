import type { World } from '../support/world.ts'
import { allJobs, becomesQuiet, faultsOfFleet, faultsOfLastWave, successesThatAreNotOne, survivors } from './audit.ts'
import { visit } from './caller.ts'
import { expectedText } from './expected.ts'
import { type Fault, judge, judgeStored, type Stored, type Verdict } from './judge.ts'
import type { Killer } from './killer.ts'
import type { Caller } from './plan.ts'
import type { Scene } from './scene.ts'
import type { Visit } from './visit.ts'

/** Everything one run brought to light. */
export type Outcome = {
  visits: { seen: Visit; stored: Stored | undefined; expected: string | null; verdict: Verdict }[]
  /** Jobs of requests whose connection broke before a head: accepted after all, and finished for nobody. */
  turnedUp: { stored: Stored; faults: Fault[] }[]
  unanswered: number
  /** What is wrong with the whole and not with a single job. */
  faults: string[]
  killer: Killer
  events: Map<string, unknown>
  logs: Scene['logs']
}

/** Sends everybody at their times, kills meanwhile, waits for quiet, and looks into everything. Stops the scene. */
export async function run(scene: Scene, callers: Caller[], rate: number, killer: Killer): Promise<Outcome> {
  const { world } = scene
  const expected = await Promise.all(callers.map(expectedText))
  killer.start()
  const seen = await openLoop(scene, callers, rate)
  await killer.stop()
  const faults: string[] = []
  if (!(await becomesQuiet(world, 60_000))) faults.push('jobs are still live a minute after the last caller')
  faults.push(...(await faultsOfFleet(scene)))
  const jobs = await allJobs(world)
  faults.push(...(await successesThatAreNotOne(world, jobs)))
  const byTrace = new Map([...jobs.values()].map((job) => [job.trace_id, job]))
  const visits = seen.map((one, index) => {
    const stored = jobs.get(one.job) ?? byTrace.get(one.trace)
    const text = expected[index] ?? null
    return { seen: one, stored, expected: text, verdict: judge(one, stored, text, scene.coordinatorDeathsMs) }
  })
  const turnedUp = seen.flatMap((one, index) =>
    one.unanswered.flatMap((trace) => {
      const stored = byTrace.get(trace)
      if (stored === undefined || stored.id === visits[index]?.stored?.id) return []
      const second: Fault[] = one.hasKey && !one.hung ? [{ kind: 'twice', detail: 'a second job for the same idempotency key' }] : []
      return [{ stored, faults: [...second, ...judgeStored(stored, expected[index] ?? null)] }]
    }),
  )
  const known = new Set([...visits.map(({ stored }) => stored?.id), ...turnedUp.map(({ stored }) => stored.id)])
  for (const id of jobs.keys()) if (!known.has(id)) faults.push(`job ${id} belongs to no request that was sent`)
  const broken = [...visits.filter(({ verdict }) => verdict.faults.length > 0), ...turnedUp.filter((one) => one.faults.length > 0)]
  const events = await eventsOf(
    world,
    broken.flatMap(({ stored }) => (stored === undefined ? [] : [stored.id])),
  )
  faults.push(...(await faultsOfLastWave(scene)))
  await scene.stop()
  faults.push(...(await survivors(world.dir)), ...scene.surprises)
  const unanswered = seen.reduce((sum, one) => sum + one.unanswered.length, 0)
  return { visits, turnedUp, unanswered, faults, killer, events, logs: scene.logs }
}

/** Open loop: who comes next does not wait for who came before. */
async function openLoop(scene: Scene, callers: Caller[], rate: number): Promise<Visit[]> {
  const began = performance.now()
  return await Promise.all(
    callers.map(async (caller, index) => {
      await new Promise((resolve) => setTimeout(resolve, Math.max(0, began + (index * 1000) / rate - performance.now())))
      return await visit(scene, caller)
    }),
  )
}

async function eventsOf(world: World, jobs: string[]): Promise<Map<string, unknown>> {
  const found = new Map<string, unknown>()
  for (const job of jobs.slice(0, 50)) found.set(job, await world.events(`&job=${job}`))
  return found
}
