import { printTable } from '../bench/measure.ts'
import { Chance } from './chance.ts'
import { Killer, type Kind } from './killer.ts'
import type { Options } from './options.ts'
import { planCallers } from './plan.ts'
import { reportFaults, rowOf } from './report.ts'
import { type Outcome, run } from './run.ts'
import { Scene } from './scene.ts'

/** The same mixture of callers twice: first a fifth of them undisturbed, then all of them while everything is killed. */
export async function all(options: Options): Promise<boolean> {
  console.log(`${options.jobs} jobs at ${options.rate.toFixed(1)} a second, something dies every ${options.every} s, seed ${options.seed}.`)
  const control = await once(options, Math.ceil(options.jobs / 5), [])
  const chaos = await once(options, options.jobs, KINDS)
  printTable('chaos: everything dies, no answer does', [rowOf('control, no kills', control), rowOf('chaos', chaos)])
  const sound = [reportFaults('control', options, control), reportFaults('chaos', options, chaos)]
  return sound.every(Boolean)
}

// Workers die most often in life, and so here. The one engine dies once in a bag: it comes back later with every death
// within a minute, up to half a minute later, and would be away for most of the run.
const KINDS: readonly Kind[] = ['worker', 'worker', 'engine', 'freeze', 'coordinator', 'postgres']

async function once(options: Options, jobs: number, kinds: readonly Kind[]): Promise<Outcome> {
  const fake = 'fake=fake:?slots=16&rate=90'
  await using scene = await Scene.open({ a: fake, b: fake, c: `${fake} tiny=builtin:tiny?slots=4` })
  if (kinds.length > 0)
    console.log(
      scene.hasJobsDoor
        ? 'Jobs come by POST /api/jobs, and with idempotency keys.'
        : 'There is no POST /api/jobs yet: jobs come as detached streams.',
    )
  const killer = new Killer(scene, new Chance(options.seed, 'killer'), options.every * 1000, kinds)
  return await run(scene, planCallers(jobs, new Chance(options.seed, 'callers')), options.rate, killer)
}
