import { chatStream } from '../support/stream.ts'
import type { EventView, World } from '../support/world.ts'
import type { Stored } from './judge.ts'
import { commandOf, parentOf, processesOf } from './processes.ts'
import type { Scene } from './scene.ts'

/** Resolves when no job is queued or running any more; false when that never comes. */
export async function becomesQuiet(world: World, withinMs: number): Promise<boolean> {
  const isQuiet = async (): Promise<boolean> => {
    for (const status of ['queued', 'running'])
      if (((await world.get(`/api/jobs?limit=1&status=${status}`)) as { data: unknown[] }).data.length > 0) return false
    return true
  }
  return world.until('no job is live', isQuiet, withinMs).catch(() => false)
}

/** Every job the coordinator knows, with its output, by id. */
export async function allJobs(world: World): Promise<Map<string, Stored>> {
  const ids: string[] = []
  for await (const { id } of pages<{ id: string }>(world, '/api/jobs?limit=200')) ids.push(id)
  const found = new Map<string, Stored>()
  const next = ids.values()
  const read = async (): Promise<void> => {
    for (const id of next) found.set(id, (await world.get(`/api/jobs/${id}`)) as Stored)
  }
  // The ids are shared: each reader takes the next one.
  await Promise.all(Array.from({ length: 8 }, read))
  return found
}

/** Jobs whose success stands in the ledger more than once, or not at all. */
export async function successesThatAreNotOne(world: World, jobs: Map<string, Stored>): Promise<string[]> {
  const counts = new Map<string, number>()
  for await (const { job } of pages<EventView>(world, '/api/events?limit=200&type=job.succeeded'))
    if (job !== null) counts.set(job, (counts.get(job) ?? 0) + 1)
  return [...jobs.values()]
    .filter(({ id, status }) => (counts.get(id) ?? 0) !== (status === 'succeeded' ? 1 : 0))
    .map(({ id, status }) => `job ${id} is ${status} and has ${counts.get(id) ?? 0} events job.succeeded`)
}

/** Every member back, every slot free, and every engine the child of a worker that lives. */
export async function faultsOfFleet(scene: Scene): Promise<string[]> {
  const { world } = scene
  const names = scene.workers.map(({ name }) => name)
  const faults: string[] = []
  const isBack = async (): Promise<boolean> => {
    const found = await Promise.all(names.map((name) => world.findWorker(name)))
    return found.every((worker) => worker?.state === 'online' && worker.models.every(({ slots, busy }) => slots > 0 && busy === 0))
  }
  await world
    .until('every worker is back with all slots free', isBack, 30_000)
    .catch((error: unknown) => faults.push(error instanceof Error ? error.message : String(error)))
  const living = new Set(scene.members.map(({ running }) => running.pid))
  for (const pid of processesOf(world.dir))
    if (commandOf(pid).includes('llama-process') && !living.has(parentOf(pid))) faults.push(`engine ${pid} outlived its worker`)
  return faults
}

/**
 * What the coordinator counts as free must be free at the worker too: as many jobs at once as there are slots all start
 * at the first try.
 */
export async function faultsOfLastWave({ world, workers }: Scene): Promise<string[]> {
  const found = await Promise.all(workers.map(({ name }) => world.findWorker(name)))
  const slots = found.flatMap((worker) => worker?.models ?? []).reduce((sum, model) => sum + (model.name === 'fake' ? model.slots : 0), 0)
  const streams = Array.from({ length: slots }, (_, index) => chatStream(world, 'fake', `last wave ${index}`, { max_tokens: 60 }))
  const ended = await Promise.all(streams.map((stream) => stream.done))
  const jobs = await Promise.all(ended.map(({ job }) => world.job(job)))
  return jobs
    .filter(({ status, attempts }) => status !== 'succeeded' || attempts.length > 1)
    .map(({ id, status, attempts }) => `last wave: job ${id} ${status} after ${attempts.length} attempts: ${JSON.stringify(attempts)}`)
}

/** Once everybody was asked to stop, nothing of the world may live, whoever its parent is. */
export async function survivors(dir: string): Promise<string[]> {
  const endMs = Date.now() + 5_000
  while (processesOf(dir).length > 0 && Date.now() < endMs) await new Promise((resolve) => setTimeout(resolve, 100))
  return processesOf(dir).map((pid) => `process ${pid} outlived everything: ${commandOf(pid).slice(0, 120)}`)
}

async function* pages<T>(world: World, target: string): AsyncGenerator<T> {
  for (let cursor: string | null = ''; cursor !== null; ) {
    const page = (await world.get(target + (cursor === '' ? '' : `&cursor=${cursor}`))) as { data: T[]; next: string | null }
    yield* page.data
    cursor = page.next
  }
}
