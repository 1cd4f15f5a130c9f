import { createHash } from 'node:crypto'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { encodeTinyModel, writeTinyModel } from '../worker/tiny-model.ts'
import { chat, complete, openTiny, type TinyEngine } from './support/tiny-engine.ts'

let engine: TinyEngine

beforeAll(async () => {
  engine = await openTiny()
})

afterAll(() => engine.close())

test('the toy is the same file on every host', () => {
  // A change of the toy is a change of its answers: old workers and new ones could no longer continue each other's.
  expect(createHash('sha256').update(encodeTinyModel()).digest('hex')).toBe(
    '8332df489a8e8ae6a5aae58e687c52ea83e80a61ca3229b4bd883e866ee9f01c',
  )
})

test('the toy appears whole or not at all, and leaves nothing beside it', () => {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-toy-'))
  writeTinyModel(join(folder, 'models', 'toy.gguf'))
  expect(readdirSync(join(folder, 'models'))).toEqual(['toy.gguf'])
  expect(readFileSync(join(folder, 'models', 'toy.gguf')).equals(encodeTinyModel())).toBe(true)
  rmSync(folder, { recursive: true })
})

test('the toy answers in words, at length, and comes to an end by itself', async () => {
  const answer = await complete(engine, chat('hi'), { maxTokens: 1200 })
  expect(answer.end.reason).toBe('stop')
  expect(answer.ids.length).toBeGreaterThan(200)
  expect(answer.text).toMatch(/^[A-Z][a-z]+ .*Goodbye\.$/s)
})

test('the toy opens with what the prompt is about', async () => {
  expect((await complete(engine, chat('what does a worker do'))).text).toMatch(/^Workers /)
  expect((await complete(engine, chat('tell me of the heartbeat'))).text).toMatch(/^Heartbeats /)
})

test('the toy says other things with another seed, and the same with the same', async () => {
  const told = async (seed: number): Promise<string> => (await complete(engine, chat('hi'), { seed, sampling: { temperature: 1 } })).text
  const stories = await Promise.all([1, 2, 3, 4, 5, 6].map(told))
  expect(new Set(stories).size).toBeGreaterThan(1)
  expect(await told(3)).toBe(await told(3))
})
