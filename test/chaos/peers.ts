import { printTable } from '../bench/measure.ts'
import { Chance } from './chance.ts'
import { Killer } from './killer.ts'
import type { Options } from './options.ts'
import { planStreams } from './plan.ts'
import { reportFaults, rowOf } from './report.ts'
import { run } from './run.ts'
import { Scene } from './scene.ts'

/** The scene in which other gateways were measured: streams, open loop, two workers, one of them killed -9 every few seconds. */
export async function peers(options: Options): Promise<boolean> {
  console.log(`${options.jobs} streams at ${options.rate} a second, a worker dies every ${options.every} s, seed ${options.seed}.`)
  const fake = 'fake=fake:?slots=32&rate=50'
  await using scene = await Scene.open({ a: fake, b: fake })
  const killer = new Killer(scene, new Chance(options.seed, 'killer'), options.every * 1000, ['worker'])
  const outcome = await run(scene, planStreams(options.jobs, TOKENS), options.rate, killer)
  const row = rowOf('Holdfast', outcome)
  printTable(`peers: ${options.jobs} streams, two workers, one killed -9 every ${options.every} s`, [row])
  printTable('of 300 streams, exact; the others as measured on 2026-11-21 on this kind of machine, not now', [
    { gateway: 'Holdfast, this run', exact: `${row.exact} of ${options.jobs}` },
    { gateway: 'an open-source Go router with a Redis queue, as shipped', exact: '61 to 65' },
    { gateway: 'the same, repaired', exact: '202 to 204' },
    { gateway: 'nginx, round robin', exact: '85' },
  ])
  return reportFaults('peers', options, outcome)
}

// Three seconds of text: every stream lives through a kill, on average.
const TOKENS = 150
