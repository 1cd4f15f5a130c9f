import type { Chance } from './chance.ts'

/**
 * How a caller wants its answer: as a stream of the OpenAI dialect, in one piece, or as a job it follows by itself.
 */
type Way = 'stream' | 'whole' | 'job'

export type Caller = {
  number: number
  way: Way
  /** `tiny` is the real llama.cpp model, whose text nobody can foretell. */
  model: 'fake' | 'tiny'
  content: string
  maxTokens: number
  /** Null: temperature 0, where the seed does not count. */
  seed: number | null
  /** Pieces of text after which this caller hangs up for good. */
  leavesAfter: number | null
  /** Pieces of text after which the one who follows a job drops the connection and comes back. */
  dropsAfter: number | null
}

/** Who comes, and what each of them asks. Half of them stream; one in twenty leaves in mid-stream. */
export function planCallers(count: number, chance: Chance): Caller[] {
  return Array.from({ length: count }, (_, number) => {
    const way: Way = chance.is(0.5) ? 'stream' : chance.is(0.5) ? 'whole' : 'job'
    const leaves = way === 'stream' && chance.is(0.1)
    const model = !leaves && chance.is(0.15) ? 'tiny' : 'fake'
    return {
      number,
      way,
      model,
      content: `Caller ${number} asks about the ${chance.pick(SUBJECTS)} of the ${chance.pick(SUBJECTS)}.`,
      maxTokens:
        model === 'tiny' ? 1_000 : leaves ? chance.whole(600, 900) : chance.is(0.1) ? chance.whole(400, 800) : chance.whole(32, 256),
      seed: chance.is(0.5) ? chance.whole(0, 2 ** 31) : null,
      leavesAfter: leaves ? chance.whole(1, 120) : null,
      dropsAfter: way === 'job' && chance.is(0.3) ? chance.whole(1, 60) : null,
    }
  })
}

/** As many streams of the same length: the scene in which other gateways were measured. */
export function planStreams(count: number, maxTokens: number): Caller[] {
  return Array.from({ length: count }, (_, number) => ({
    number,
    way: 'stream',
    model: 'fake',
    content: `Stream ${number} of the scene of the peers.`,
    maxTokens,
    seed: null,
    leavesAfter: null,
    dropsAfter: null,
  }))
}

/** The body of the request, but for `stream`. The toy answers at temperature 0: that is where it promises to repeat itself. */
export function bodyOf({ model, content, maxTokens, seed }: Caller): Record<string, unknown> {
  const sampling = seed === null || model === 'tiny' ? { temperature: 0 } : { seed }
  return { model, messages: [{ role: 'user', content }], max_tokens: maxTokens, ...sampling }
}

// Words the toy has something to say about.
const SUBJECTS = ['queue', 'worker', 'coordinator', 'job', 'model', 'token', 'stream', 'heartbeat', 'prompt', 'holdfast'] as const
