import { parseArgs } from 'node:util'

/** What the command line may say; the same options with the same seed ask the same things and kill in the same order. */
export type Options = {
  mode: 'all' | 'peers'
  jobs: number
  /** Jobs a second, sent at these times whether earlier ones are answered or not. */
  rate: number
  seed: number
  /** Seconds between two kills, on average. */
  every: number
}

export const USAGE = `Usage: npm run chaos -- [--mode all|peers] [--jobs n] [--seconds n | --rate jobs/s] [--seed n] [--every seconds]`

export function readOptions(args: string[], newSeed: () => number): Options {
  const { values } = parseArgs({
    args,
    options: {
      mode: { type: 'string', default: 'all' },
      jobs: { type: 'string' },
      seconds: { type: 'string' },
      rate: { type: 'string' },
      seed: { type: 'string' },
      every: { type: 'string' },
    },
  })
  if (values.mode !== 'all' && values.mode !== 'peers') throw new Error(`--mode is all or peers, not ${values.mode}.`)
  const usual = USUAL[values.mode]
  const jobs = number('jobs', values.jobs, usual.jobs)
  const seconds = values.seconds === undefined ? undefined : number('seconds', values.seconds, 0)
  if (seconds !== undefined && values.rate !== undefined) throw new Error('--seconds and --rate say the same; give one of them.')
  return {
    mode: values.mode,
    jobs,
    rate: seconds === undefined ? number('rate', values.rate, usual.rate) : jobs / seconds,
    seed: number('seed', values.seed, newSeed()),
    every: number('every', values.every, usual.every),
  }
}

/** The command that repeats a run. */
export function commandOf({ mode, jobs, rate, seed, every }: Options): string {
  return `npm run chaos -- --mode ${mode} --jobs ${jobs} --rate ${rate} --every ${every} --seed ${seed}`
}

const USUAL = { all: { jobs: 2_000, rate: 14, every: 4 }, peers: { jobs: 300, rate: 8, every: 3 } }

function number(name: string, text: string | undefined, usual: number): number {
  const value = text === undefined ? usual : Number(text)
  if (!Number.isFinite(value) || value <= 0) throw new Error(`--${name} must be a number above 0, not ${text}.`)
  return value
}
