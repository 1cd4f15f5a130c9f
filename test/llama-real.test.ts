import { existsSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { chat, complete, openTiny, type TinyEngine } from './support/tiny-engine.ts'

/** With a real instruct model, where HOLDFAST_TEST_MODEL names its file; the suite does not depend on one. */
const model = process.env.HOLDFAST_TEST_MODEL ?? ''

describe.skipIf(!existsSync(model))('a real model', () => {
  let engine: TinyEngine

  beforeAll(async () => {
    engine = await openTiny({ path: model, sha256: 'real' })
  })

  afterAll(() => engine.close())

  test('fills a schema with what was asked', async () => {
    const schema = {
      type: 'object',
      properties: { city: { type: 'string', maxLength: 30 }, country: { type: 'string', maxLength: 30 } },
      required: ['city', 'country'],
      additionalProperties: false,
    }
    const prompt = chat('What is the capital of France? Answer as JSON with city and country.')
    const { text, end } = await complete(engine, prompt, {
      format: { kind: 'schema', name: 'capital', schema, strict: true },
      maxTokens: 100,
    })
    expect(end.reason).toBe('stop')
    expect(JSON.parse(text)).toMatchObject({ city: expect.stringContaining('Paris'), country: expect.stringMatching(/france/i) })
  })

  test('calls the function that it must call', async () => {
    const parameters = {
      type: 'object',
      properties: { city: { type: 'string', maxLength: 20 } },
      required: ['city'],
      additionalProperties: false,
    }
    const tools = [{ name: 'weather', description: 'Tells the weather of a city', parameters }]
    const { whole, end } = await complete(engine, chat('What is the weather in Paris?'), {
      tools,
      toolChoice: { name: 'weather' },
      maxTokens: 100,
    })
    expect(end.reason).toBe('tool_calls')
    expect(JSON.parse(whole.toolCalls[0]!.arguments)).toEqual({ city: expect.stringContaining('Paris') })
  })

  test('is sure of what everybody knows', async () => {
    const prompt = chat('What is the capital of France? Answer in one sentence.')
    const { whole, text } = await complete(engine, prompt, { logprobs: 20, maxTokens: 20 })
    expect(text).toContain('Paris')
    const paris = whole.logprobs.find(({ token }) => token.includes('Paris'))!
    expect(Math.exp(paris.logprob)).toBeGreaterThan(0.5)
    expect(paris.top_logprobs).toHaveLength(20)
    expect(whole.logprobs.map(({ token }) => token).join('')).toBe(text)
  })
})
