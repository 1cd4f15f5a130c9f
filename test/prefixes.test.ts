import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { expect, test } from 'vitest'
import { PrefixStore } from '../worker/engines/llama/prefixes.ts'
import type { Sequence } from '../worker/engines/llama/sequence.ts'

/** A sequence whose state has a fixed part and a part per token, as real ones have. */
function sequence(tokens: number): Sequence {
  const held = Array.from({ length: tokens }, (_, index) => index + tokens * 10_000)
  const never = (): never => {
    throw new Error('not part of this test')
  }
  return {
    id: 0,
    cutsAnywhere: true,
    held: () => held,
    prefill: never,
    decode: never,
    keep: never,
    save: async () => FIXED + tokens * PER_TOKEN,
    load: async () => {},
  }
}

const FIXED = 200_000
const PER_TOKEN = 1_000

test('a short state saved first does not make a long one look too large to keep', async () => {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'holdfast-prefixes-'))
  const store = new PrefixStore(folder, 5_000_000)
  expect(await store.save(sequence(1))).toBeDefined()
  expect(await store.save(sequence(1_000))).toBeDefined()
  rmSync(folder, { recursive: true })
})

test('the bound holds: the least recently used goes first, and what is larger than the bound is not kept', async () => {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'holdfast-prefixes-'))
  const store = new PrefixStore(folder, 2_500_000)
  const [first, second] = [sequence(1_000), sequence(1_001)]
  await store.save(first)
  await store.save(second)
  expect(store.find(first.held())?.length).toBe(1_000)
  await store.save(sequence(1_002))
  expect(store.find(first.held())).toBeUndefined()
  expect(store.find(second.held())?.length).toBe(1_001)
  expect(await store.save(sequence(9_000))).toBeUndefined()
  rmSync(folder, { recursive: true })
})

test('what could not be saved, or not be loaded, leaves no file and is not found again', async () => {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'holdfast-prefixes-'))
  const store = new PrefixStore(folder, 5_000_000)
  const full = {
    ...sequence(1_000),
    save: async (file: string) => {
      writeFileSync(file, 'half of it')
      throw new Error('no space left on device')
    },
  }
  await expect(store.save(full)).rejects.toThrow('no space left')
  expect(readdirSync(folder)).toEqual([])
  const unreadable = {
    ...sequence(2_000),
    load: async () => {
      throw new Error('no such file')
    },
  }
  const written = {
    ...sequence(1_001),
    save: async (file: string) => {
      writeFileSync(file, 'all of it')
      return 1_000
    },
  }
  const saved = await store.save(written)
  await expect(store.load(saved!, unreadable)).rejects.toThrow('no such file')
  expect(store.find(written.held())).toBeUndefined()
  await expect(store.copy(written, unreadable)).rejects.toThrow('no such file')
  expect(readdirSync(folder)).toEqual([])
  rmSync(folder, { recursive: true })
})
