import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { chat, complete, openTiny, type TinyEngine } from './support/tiny-engine.ts'

const PROMPT = chat('What is the queue for?')
const END_OF_TURN = 4

describe('what the model thought of its tokens', () => {
  let engine: TinyEngine

  beforeAll(async () => {
    engine = await openTiny()
  })

  afterAll(() => engine.close())

  test('is told with every token, and changes none of them', async () => {
    const plain = await complete(engine, PROMPT, { maxTokens: 40 })
    const { ids, text, whole } = await complete(engine, PROMPT, { maxTokens: 40, logprobs: 5 })
    expect(ids).toEqual(plain.ids)
    expect(whole.logprobs).toHaveLength(ids.length)
    expect(Buffer.from(whole.logprobs.flatMap(({ bytes }) => bytes!)).toString()).toBe(text)
    for (const { token, logprob, top_logprobs } of whole.logprobs) {
      expect(logprob).toBeLessThanOrEqual(0)
      expect(top_logprobs).toHaveLength(5)
      expect(top_logprobs.map((other) => other.logprob)).toEqual(top_logprobs.map((other) => other.logprob).sort((a, b) => b - a))
      const sum = top_logprobs.reduce((total, other) => total + Math.exp(other.logprob), 0)
      expect(sum).toBeLessThanOrEqual(1.0001)
      // Without chance the likeliest is chosen.
      expect(top_logprobs[0]).toMatchObject({ token, logprob })
    }
  })

  test('is the model’s own, whatever temperature, penalties and biases make of it', async () => {
    const [first] = (await complete(engine, PROMPT, { maxTokens: 1, logprobs: 20 })).whole.logprobs
    const sampling = { temperature: 1.7, topK: 3, topP: 0.5, minP: 0.1, logitBias: { [END_OF_TURN]: -5 } }
    const [hot] = (await complete(engine, PROMPT, { maxTokens: 1, logprobs: 20, sampling, seed: 3 })).whole.logprobs
    expect(hot!.top_logprobs[0]!.logprob).toBeCloseTo(first!.top_logprobs[0]!.logprob, 3)
    expect(hot!.top_logprobs[19]!.logprob).toBeCloseTo(first!.top_logprobs[19]!.logprob, 3)
  })

  test('is told of a token that nobody would have expected, too', async () => {
    const unlikely = 5 + 0xff
    const { whole } = await complete(engine, PROMPT, {
      maxTokens: 1,
      logprobs: 0,
      sampling: { temperature: 0, logitBias: { [unlikely]: 100 } },
    })
    expect(whole.logprobs).toEqual([{ token: '�', logprob: expect.any(Number), bytes: [0xff], top_logprobs: [] }])
    expect(whole.logprobs[0]!.logprob).toBeLessThan(-3)
  })

  test('draws the same tokens by the same seed with and without it', async () => {
    const sampling = { temperature: 1.5, topK: 0, topP: 1, minP: 0 }
    const plain = await complete(engine, PROMPT, { maxTokens: 60, sampling, seed: 9 })
    expect((await complete(engine, PROMPT, { maxTokens: 60, sampling, seed: 9, logprobs: 2 })).ids).toEqual(plain.ids)
  })

  test('is told of the rest when an answer goes on, and not of what was delivered', async () => {
    const whole = await complete(engine, PROMPT, { maxTokens: 30, logprobs: 1 })
    const rest = await complete(engine, PROMPT, { maxTokens: 30, logprobs: 1, continuation: whole.ids.slice(0, 18) })
    expect(rest.whole.logprobs.map(({ token }) => token)).toEqual(whole.whole.logprobs.slice(18).map(({ token }) => token))
  })

  test('is not told to those who did not ask', async () => {
    expect((await complete(engine, PROMPT, { maxTokens: 3 })).whole.logprobs).toEqual([])
  })
})

describe('an answer of at least so many tokens', () => {
  let engine: TinyEngine

  beforeAll(async () => {
    engine = await openTiny()
  })

  afterAll(() => engine.close())

  test('does not end by itself before', async () => {
    const plain = await complete(engine, PROMPT)
    const minTokens = plain.ids.length + 15
    const longer = await complete(engine, PROMPT, { minTokens, maxTokens: minTokens + 400 })
    expect(plain.end.reason).toBe('stop')
    expect(longer.ids.length).toBeGreaterThanOrEqual(minTokens)
    expect(longer.ids.slice(0, plain.ids.length)).toEqual(plain.ids)
  })

  test('reads a stop string before that as text, and ends at the next one', async () => {
    const { text } = await complete(engine, PROMPT)
    const stop = [' the']
    const early = await complete(engine, PROMPT, { stop })
    const late = await complete(engine, PROMPT, { stop, minTokens: 60 })
    expect(late.text.length).toBeGreaterThan(early.text.length)
    expect(late.end.completionTokens).toBeGreaterThan(60)
    expect(late.text).toContain(' the')
    expect(text.startsWith(late.text)).toBe(true)
  })

  test('counts forced tokens', async () => {
    const plain = await complete(engine, PROMPT)
    const wish = { minTokens: plain.ids.length + 15, maxTokens: plain.ids.length + 60 }
    const whole = await complete(engine, PROMPT, wish)
    const rest = await complete(engine, PROMPT, { ...wish, continuation: whole.ids.slice(0, plain.ids.length) })
    expect(rest.ids).toEqual(whole.ids.slice(plain.ids.length))
  })
})
