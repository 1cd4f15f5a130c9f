import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { writeRecurrentModel } from './support/recurrent-model.ts'
import { begin, complete, openTiny, type TinyEngine } from './support/tiny-engine.ts'

const text = (content: string) => ({ kind: 'text' as const, text: content })
const LONG = text('the keeper of the lamp went down to the harbour and counted the boats '.repeat(12))

describe('a model whose state forgets no single token', () => {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-recurrent-'))
  const path = join(folder, 'recurrent.gguf')
  let engine: TinyEngine

  beforeAll(async () => {
    writeRecurrentModel(path)
    engine = await openTiny({ path, speculation: 'lookup' })
  })

  afterAll(async () => {
    await engine.close()
    rmSync(folder, { recursive: true })
  })

  test('says that guessing does nothing for it', () => {
    expect(engine.logged.join('\n')).toContain('speculation=lookup does nothing for this model')
  })

  test('answers the same again in a slot that holds the prompt and an answer', async () => {
    const first = await complete(engine, LONG, { maxTokens: 30 })
    expect(new Set(first.ids).size).toBeGreaterThan(1)
    const again = await complete(engine, LONG, { maxTokens: 30 })
    expect(again.ids).toEqual(first.ids)
    // What has to be computed anew was not there.
    expect(again.cachedTokens).toBe(0)
  })

  test('goes on where a conversation stopped', async () => {
    const first = await complete(engine, LONG, { maxTokens: 30 })
    const rest = await complete(engine, LONG, { maxTokens: 60, continuation: first.ids })
    expect(rest.cachedTokens).toBe(rest.end.promptTokens)
    expect((await complete(engine, LONG, { maxTokens: 60 })).ids).toEqual([...first.ids, ...rest.ids])
  })

  test('answers the same after another prompt that begins like it', async () => {
    const alone = await complete(engine, LONG, { maxTokens: 30 })
    await complete(engine, text(`${LONG.text} and then it rained`), { maxTokens: 10 })
    expect((await complete(engine, LONG, { maxTokens: 30 })).ids).toEqual(alone.ids)
  })

  test('goes on from any of its own tokens with the rest of the same answer', async () => {
    const whole = await complete(engine, LONG, { maxTokens: 24 })
    for (const cut of [1, 7, 23]) {
      const rest = await complete(engine, LONG, { maxTokens: 24, continuation: whole.ids.slice(0, cut) })
      expect(rest.ids).toEqual(whole.ids.slice(cut))
    }
  })

  test('goes on from a checkpoint of a very long prompt', async () => {
    const long = await openTiny({ path, slots: 1, contextTokens: 12_000 })
    try {
      const common = LONG.text.repeat(14)
      const fresh = await complete(long, text(`${common} a boat`), { maxTokens: 10 })
      expect(fresh).toMatchObject({ cachedTokens: 0 })
      expect(fresh.end.promptTokens).toBeGreaterThan(8_800)
      await complete(long, text('something else'), { maxTokens: 2 })
      await complete(long, text(`${common} rain`), { maxTokens: 10 })
      const again = await complete(long, text(`${common} a boat`), { maxTokens: 10 })
      expect(again.cachedTokens).toBeGreaterThan(8_000)
      expect(again.cachedTokens).toBeLessThan(fresh.end.promptTokens)
      expect(again.ids).toEqual(fresh.ids)
    } finally {
      await long.close()
    }
  })

  test('serves several at once, each as if it were alone', async () => {
    const prompts = ['the lamp', 'a boat in the harbour', 'nobody counted', 'rain'].map(text)
    const alone = []
    for (const prompt of prompts) alone.push((await complete(engine, prompt, { maxTokens: 25 })).ids)
    const together = await Promise.all(prompts.map((prompt) => complete(engine, prompt, { maxTokens: 25 })))
    expect(together.map(({ ids }) => ids)).toEqual(alone)
  })

  test('is free again when a client is gone in mid-answer', async () => {
    const gone = begin(engine, LONG, { maxTokens: 1000 })
    await gone.firstToken
    gone.cancel()
    expect((await gone.answer).end.reason).toBe('cancelled')
    expect((await complete(engine, text('the lamp'), { maxTokens: 5 })).ids).toHaveLength(5)
  })
})
