import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { GenerationRequest } from '../proto/request.ts'
import { Generation, type Vocabulary } from '../worker/engines/llama/generation.ts'
import { Lockstep } from '../worker/engines/llama/lockstep.ts'
import { Lookup } from '../worker/engines/llama/lookup.ts'
import { PrefixStore } from '../worker/engines/llama/prefixes.ts'
import type { GenerationNews } from '../worker/engines/llama/protocol.ts'
import type { Sequence } from '../worker/engines/llama/sequence.ts'
import { Speculation } from '../worker/engines/llama/speculation.ts'
import { parseModels } from '../worker/models.ts'
import { type Answer, chat, complete, openTiny, type TinyEngine, type Wish } from './support/tiny-engine.ts'

describe('what is guessed', () => {
  test('is what came after the same three tokens, the last time they stood there', () => {
    const lookup = new Lookup([1, 2, 3, 4, 5, 1, 2, 3, 6, 7, 8, 1, 2, 3])
    expect(lookup.guess(8)).toEqual([6, 7, 8, 1, 2, 3])
    expect(lookup.guess(2)).toEqual([6, 7])
    lookup.add(4)
    expect(lookup.guess(2)).toEqual([5, 1])
  })

  test('is nothing where the end of the text is new, or there is no room', () => {
    expect(new Lookup([1, 2, 3, 4, 5]).guess(8)).toEqual([])
    expect(new Lookup([1, 2]).guess(8)).toEqual([])
    expect(new Lookup([1, 2, 3, 1, 2, 3]).guess(0)).toEqual([])
  })

  test('has odds that follow what came of the guesses', () => {
    const lookup = new Lookup([])
    for (let round = 0; round < 20; round += 1) lookup.judge([1, 2, 3], [1, 2, 3])
    expect(lookup.odds).toBeGreaterThan(0.99)
    for (let round = 0; round < 20; round += 1) lookup.judge([1, 2, 3], [9, 2, 3])
    expect(lookup.odds).toBeLessThan(0.2)
    const before = lookup.odds
    lookup.judge([], [1])
    expect(lookup.odds).toBe(before)
  })
})

describe('how much is guessed', () => {
  test('is what the measured times make worth it', () => {
    const gpu = measured({ plainMs: 10, tokenMs: 0.2 })
    expect(gpu.worth(1, 0.95)).toBe(8)
    expect(gpu.worth(1, 0.5)).toBeGreaterThan(1)
    expect(gpu.worth(1, 0.05)).toBe(0)
    const cpu = measured({ plainMs: 10, tokenMs: 4 })
    expect(cpu.worth(1, 0.95)).toBeGreaterThan(2)
    expect(cpu.worth(1, 0.4)).toBe(0)
    expect(measured({ plainMs: 10, tokenMs: 9.5 }).worth(1, 1)).toBe(0)
  })

  test('is weighed for one stream, however many others are in the step', () => {
    const gpu = measured({ plainMs: 10, tokenMs: 0.01 }, 100)
    expect(gpu.worth(100, 0.9)).toBeGreaterThan(2)
    expect(gpu.worth(100, 0.05)).toBe(0)
    // What the step takes longer costs everybody.
    expect(measured({ plainMs: 10, tokenMs: 0.2 }, 100).worth(100, 0.95)).toBe(0)
  })

  test('is nothing before a step without guesses was measured, and a few once to learn the price', () => {
    const speculation = new Speculation()
    expect(speculation.worth(1, 1)).toBe(0)
    speculation.learn(10, 1, 0)
    expect(speculation.worth(1, 0.1)).toBe(4)
    expect(speculation.worth(2, 1)).toBe(0)
    speculation.learn(50, 1, 4)
    expect(speculation.worth(1, 0.9)).toBe(0)
  })

  test('is tried again after a while: a price that was measured on a busy host goes down', () => {
    const speculation = measured({ plainMs: 10, tokenMs: 12 })
    expect(speculation.worth(1, 0.95)).toBe(0)
    for (let step = 0; step < 2_000; step += 1) speculation.learn(10, 1, 0)
    expect(speculation.worth(1, 0.95)).toBeGreaterThan(0)
  })

  test('fits into a batch beside so many streams', () => {
    const first = (streams: number): number => {
      const speculation = new Speculation()
      speculation.learn(10, streams, 0)
      return speculation.worth(streams, 1)
    }
    expect([4, 128, 256].map(first)).toEqual([4, 3, 1])
  })
})

function measured({ plainMs, tokenMs }: { plainMs: number; tokenMs: number }, streams = 1): Speculation {
  const speculation = new Speculation()
  speculation.learn(plainMs, streams, 0)
  speculation.learn(plainMs + 4 * tokenMs, streams, 4)
  return speculation
}

describe('a model that guesses', () => {
  let plain: TinyEngine
  /** What the toy tells; it goes on by the last three tokens, so that it tells again what stands there. */
  let told: number[]

  beforeAll(async () => {
    plain = await openTiny()
    told = (await complete(plain, PROMPT, { maxTokens: 400 })).ids
  })

  afterAll(() => plain.close())

  /** By a model that is new, and so guesses as soon as it can: it does not know yet what that costs. */
  const guessed = async (wish: Wish, options: Parameters<typeof openTiny>[0] = {}): Promise<Answer> => {
    const engine = await openTiny({ ...options, speculation: 'lookup' })
    try {
      expect(engine.state().detail).toMatch(/guessing by lookup/)
      return await complete(engine, PROMPT, wish)
    } finally {
      await engine.close()
    }
  }
  const both = async (wish: Wish) => [await complete(plain, PROMPT, wish), await guessed(wish)] as const

  test('answers word for word as it would have without, whether guesses are right, wrong or cut short', async () => {
    const again = [...told.slice(0, 200), ...told.slice(20, 24)]
    // Where the fourth token of each run is another one than the toy says, every guess is wrong.
    const altered = told.slice(0, 200).map((token, place) => (place % 4 === 3 ? told[(place * 7) % 200]! : token))
    const beginnings = [
      again,
      [...altered, ...told.slice(20, 24)],
      [...told.slice(0, 100), ...altered.slice(0, 100), ...told.slice(60, 64)],
    ]
    const { length } = again
    // Each of the first words is stopped at, wherever in the first guess it stands; what was there before does not end it.
    const first = await complete(plain, PROMPT, { continuation: again, maxTokens: length + 8 })
    const words = first.text.trim().split(' ').slice(2, 6)
    const stops = words.map((stop) => ({ stop: [stop], minTokens: length, continuation: again }))
    const wishes = beginnings.flatMap((continuation) => [{ maxTokens: 350, continuation }, { continuation }])
    for (const wish of [...wishes, ...stops, { maxTokens: length + 7, continuation: again }] satisfies Wish[]) {
      const [one, other] = await both(wish)
      expect(other.text).toBe(one.text)
      expect(other.ids).toEqual(one.ids)
      expect(other.end).toMatchObject({ reason: one.end.reason, completionTokens: one.end.completionTokens })
    }
  })

  test('writes to the end of its context, and guesses nothing beyond', async () => {
    const sizes = { slots: 1, contextTokens: 256 }
    const small = await Promise.all([openTiny(sizes), openTiny({ ...sizes, speculation: 'lookup' })])
    try {
      // Room for five more: the first guess would be of four, after two.
      const continuation = [...told.slice(0, 215), ...told.slice(20, 44)]
      const [one, other] = await Promise.all(small.map((engine) => complete(engine, PROMPT, { continuation })))
      expect(one!.ids).toHaveLength(5)
      expect(other!.ids).toEqual(one!.ids)
      // What it holds now is what it has computed: nothing was pushed out of a full context.
      const [cached, otherCached] = await Promise.all(small.map((engine) => complete(engine, PROMPT, { maxTokens: 1 })))
      expect(otherCached!.cachedTokens).toBe(cached!.cachedTokens)
    } finally {
      await Promise.all(small.map((engine) => engine.close()))
    }
  })

  test('computes several tokens at once where it guesses right', async () => {
    const speculation = measured({ plainMs: 1_000, tokenMs: 0 })
    const steps: number[] = []
    const lockstep = new Lockstep({
      sequences: [sequenceThatSays(told, steps)],
      prefixes: new PrefixStore('', 0),
      tell: (news) => news.filter(({ finished, failed }) => finished ?? failed).forEach(resolve),
      warn: (text) => expect.fail(text),
      now: () => performance.now(),
      speculation,
    })
    const { promise: ended, resolve } = Promise.withResolvers<GenerationNews>()
    const request: GenerationRequest = { prompt: { kind: 'text', text: '' }, stop: [], sampling: {}, seed: 1, maxTokens: 60 }
    const words: Vocabulary = { bytesOf: () => new Uint8Array(), markOf: () => undefined, endsGeneration: () => false, size: 1_000 }
    lockstep.start(new Generation(1, told.slice(0, 200), [], request, 2_048, words))
    void lockstep.run()
    expect(await ended).toMatchObject({ finished: { reason: 'length', completionTokens: 60 } })
    expect(steps.length).toBeLessThan(15)
  })

  test('draws the same tokens for a seed, with guesses, without them, and after a part of the answer that was there', async () => {
    const continuation = [...told.slice(0, 200), ...told.slice(20, 24)]
    const wish: Wish = { seed: 3, sampling: { temperature: 1 }, maxTokens: 324 }
    const whole = await guessed({ ...wish, continuation })
    expect(whole.ids).toHaveLength(120)
    // Each begins to guess at another place, and none within its first two tokens.
    for (const given of [1, 2, 3, 40]) {
      const rest = await guessed({ ...wish, continuation: [...continuation, ...whole.ids.slice(0, given)] })
      expect(rest.ids).toEqual(whole.ids.slice(given))
    }
  })

  test('guesses nothing where more decides than how likely a token is', async () => {
    const continuation = [...told.slice(0, 100), ...told.slice(20, 24)]
    const wishes: Wish[] = [
      { sampling: { temperature: 0, frequencyPenalty: 2 } },
      { sampling: { temperature: 0, logitBias: { 300: 20 } } },
      { logprobs: 2 },
      { minTokens: 150 },
    ]
    for (const wish of wishes) {
      const [one, other] = await both({ maxTokens: 160, continuation, ...wish })
      expect(other.ids).toEqual(one.ids)
      expect(other.whole.logprobs?.length).toBe(one.whole.logprobs?.length)
    }
    const schema = { type: 'array', items: { const: 'so' }, minItems: 9, maxItems: 9 }
    const [one, other] = await both({ maxTokens: 160, format: { kind: 'schema', name: 'so', schema, strict: true } })
    expect(other.text).toBe(one.text)
  })

  test('serves many at once', async () => {
    const guessing = await openTiny({ speculation: 'lookup' })
    const continuations = [20, 60, 100, 140].map((start) => [...told.slice(0, 200), ...told.slice(start, start + 4)])
    const answers = await Promise.all(continuations.map((continuation) => complete(guessing, PROMPT, { continuation, maxTokens: 254 })))
    await guessing.close()
    expect(answers.map(({ ids }) => ids)).toEqual([20, 60, 100, 140].map((start) => told.slice(start + 4, start + 54)))
  })
})

const PROMPT = chat('hi')

/** A sequence whose model goes through a text from where its input stands in it; `steps` counts computations. */
function sequenceThatSays(text: readonly number[], steps: number[]): Sequence {
  const held: number[] = []
  return {
    id: 0,
    cutsAnywhere: true,
    held: () => held,
    prefill: async (tokens) => void held.push(...tokens),
    decode: () => {
      let at = 20
      return {
        next: async (guess) => {
          steps.push(guess.length)
          const right = guess.findIndex((token, index) => token !== text[at + index])
          const count = (right === -1 ? guess.length : right) + 1
          at += count
          return { chosen: text.slice(at - count, at).map((token) => ({ token })), ended: false }
        },
        close: async () => {},
      }
    },
    keep: async (length) => length,
    save: async () => 0,
    load: async () => {},
  }
}

test('the setting says that a model guesses, and only for what writes text', () => {
  expect(parseModels('m=/m.gguf?speculation=lookup')).toMatchObject([{ name: 'm', speculation: 'lookup' }])
  expect(() => parseModels('m=/m.gguf?speculation=always')).toThrow(/speculation=always/)
  expect(() => parseModels('m=fake:?speculation=lookup')).toThrow(/speculation=lookup/)
  expect(() => parseModels('m=/m.gguf?speculation=lookup&embedding=true')).toThrow(/nothing that could be guessed/)
})
