import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parseModels } from '../worker/models.ts'
import type { GenerationNews } from '../worker/engines/llama/protocol.ts'
import { VectorQueue } from '../worker/engines/llama/vectors.ts'
import { tokenizerMetadata } from '../worker/tiny-model.ts'
import { encodeGguf, type GgufValue } from '../worker/tiny-model/gguf.ts'
import { buildNetwork } from '../worker/tiny-model/network.ts'
import { FEED_FORWARD, HEAD_SIZE, HEADS, KEY_VALUE_HEADS, ROPE_BASE, WIDTH } from '../worker/tiny-model/shape.ts'
import { buildVocabulary } from '../worker/tiny-model/vocabulary.ts'
import { begin, chat, complete, failureOf, openTiny, type TinyEngine } from './support/tiny-engine.ts'

function vectorsOf(text: string): number[][] {
  return (JSON.parse(text) as string[]).map((encoded) => {
    const bytes = Buffer.from(encoded, 'base64')
    return Array.from({ length: bytes.length / 4 }, (_, place) => bytes.readFloatLE(place * 4))
  })
}

function product(left: readonly number[], right: readonly number[]): number {
  return left.reduce((sum, value, place) => sum + value * right[place]!, 0)
}

describe('a model served for embeddings', () => {
  let engine: TinyEngine

  beforeAll(async () => {
    engine = await openTiny({ purpose: 'embed', contextTokens: 256 })
  })

  afterAll(() => engine.close())

  test('offers embeddings and nothing else', () => {
    expect(engine.state()).toMatchObject({ phase: 'ready', abilities: ['embeddings'], slots: 4, contextTokens: 256 })
  })

  test('makes a vector of length 1 of every input, in their order', async () => {
    const inputs = ['the queue', 'a worker', 'the queue']
    const { text, ids, end } = await complete(engine, { kind: 'embed', inputs })
    const vectors = vectorsOf(text)
    expect(vectors).toHaveLength(3)
    for (const vector of vectors) expect(product(vector, vector)).toBeCloseTo(1, 5)
    expect(vectors[2]).toEqual(vectors[0])
    expect(product(vectors[0]!, vectors[1]!)).toBeLessThan(0.999)
    expect(ids).toEqual([0])
    expect(end).toMatchObject({ reason: 'stop', completionTokens: 0 })
    expect(end.promptTokens).toBeGreaterThan(10)
  })

  test('answers many requests at once, each with its own vectors', async () => {
    const words = ['queue', 'worker', 'token', 'stream', 'job', 'model']
    const alone = await complete(engine, { kind: 'embed', inputs: words })
    const together = await Promise.all(words.map((word) => complete(engine, { kind: 'embed', inputs: [word] })))
    expect(together.map(({ text }) => vectorsOf(text)[0])).toEqual(vectorsOf(alone.text))
  })

  test('does not say again what was delivered', async () => {
    const { ids, text, end } = await complete(engine, { kind: 'embed', inputs: ['queue'] }, { continuation: [0] })
    expect([ids, text, end.reason]).toEqual([[], '', 'stop'])
  })

  test('stops between inputs when it is cancelled', async () => {
    const long = begin(engine, { kind: 'embed', inputs: Array.from({ length: 2_000 }, () => 'the queue of the worker') })
    const short = await complete(engine, { kind: 'embed', inputs: ['queue'] })
    expect(short.end.reason).toBe('stop')
    long.cancel()
    expect((await long.answer).end.reason).toBe('cancelled')
  })

  test('gives back at once what is cancelled before its turn', async () => {
    const ends: string[] = []
    const many = (): Promise<unknown> => {
      const one = begin(engine, { kind: 'embed', inputs: Array.from({ length: 300 }, () => 'the queue of the worker') })
      waiting.push(one)
      return one.answer.then(({ end }) => ends.push(end.reason))
    }
    const waiting: { cancel: () => void }[] = []
    const answers = [many(), many(), many()]
    waiting[1]?.cancel()
    await answers[1]
    expect(ends).toEqual(['cancelled'])
    for (const one of waiting) one.cancel()
    await Promise.all(answers)
  })

  test('refuses an input that is too long, with both numbers, and one that is nothing it can do', async () => {
    const long = await failureOf(complete(engine, { kind: 'embed', inputs: ['short', 'x '.repeat(300)] }))
    expect(long).toMatchObject({ layer: 'ingress', code: 'context_length_exceeded', retryable: false })
    expect(long.message).toMatch(/input 1 has 60\d tokens .* 256/)
    expect(await failureOf(complete(engine, chat('hello')))).toMatchObject({ code: 'wrong_kind_of_model', retryable: false })
  })

  test('cuts vectors short only where they are known to bear it', async () => {
    const refused = await failureOf(complete(engine, { kind: 'embed', inputs: ['queue'], dimensions: 16 }))
    expect(refused).toMatchObject({ layer: 'ingress', code: 'unsupported_dimensions', retryable: false })
    expect(refused.message).toContain('matryoshka=true')
    const nested = await openTiny({ purpose: 'embed', matryoshka: true })
    try {
      const [vector] = vectorsOf((await complete(nested, { kind: 'embed', inputs: ['queue'], dimensions: 16 })).text)
      expect(vector).toHaveLength(16)
      expect(product(vector!, vector!)).toBeCloseTo(1, 5)
      const tooMany = await failureOf(complete(nested, { kind: 'embed', inputs: ['queue'], dimensions: 100_000 }))
      expect(tooMany.message).toMatch(/100000 .* have \d+/)
    } finally {
      await nested.close()
    }
  })
})

describe('a model served for ranking', () => {
  let engine: TinyEngine
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-ranker-'))

  beforeAll(async () => {
    const path = join(folder, 'ranker.gguf')
    writeFileSync(path, encodeRanker())
    engine = await openTiny({ purpose: 'rank', path, contextTokens: 256 })
  })

  afterAll(async () => {
    await engine.close()
    rmSync(folder, { recursive: true, force: true })
  })

  test('scores every document from 0 to 1, in their order', async () => {
    expect(engine.state().abilities).toEqual(['rerank'])
    const documents = ['about a queue', 'about a worker', 'about a queue']
    const { text, end } = await complete(engine, { kind: 'rank', query: 'queue', documents })
    const scores = JSON.parse(text) as number[]
    expect(scores).toHaveLength(3)
    for (const score of scores) expect(score >= 0 && score <= 1).toBe(true)
    expect(scores[2]).toBe(scores[0])
    expect(scores[1]).not.toBe(scores[0])
    expect(end.promptTokens).toBeGreaterThan(20)
  })

  test('refuses a document that is too long, with both numbers', async () => {
    const failure = await failureOf(complete(engine, { kind: 'rank', query: 'queue', documents: ['x '.repeat(300)] }))
    expect(failure).toMatchObject({ layer: 'ingress', code: 'context_length_exceeded', retryable: false })
    expect(failure.message).toMatch(/\d{3} tokens .* 256/)
  })
})

test('a model that generates refuses to embed and to rank', async () => {
  const engine = await openTiny()
  try {
    const embedding = await failureOf(complete(engine, { kind: 'embed', inputs: ['a'] }))
    expect(embedding).toMatchObject({ layer: 'ingress', code: 'wrong_kind_of_model', retryable: false })
    const ranking = await failureOf(complete(engine, { kind: 'rank', query: 'a', documents: ['b'] }))
    expect(ranking.message).toContain('rerank=true')
  } finally {
    await engine.close()
  }
})

test('the setting says what a model is served for', () => {
  expect(parseModels('e=/m.gguf?embedding=true&matryoshka=true r=/m.gguf?rerank=true')).toMatchObject([
    { name: 'e', purpose: 'embed', matryoshka: true },
    { name: 'r', purpose: 'rank' },
  ])
  expect(() => parseModels('e=/m.gguf?embedding=true&rerank=true')).toThrow(/one of them/)
  expect(() => parseModels('e=/m.gguf?embedding=perhaps')).toThrow(/embedding=perhaps/)
  expect(() => parseModels('m=/m.gguf?matryoshka=true')).toThrow(/add embedding=true/)
  expect(() => parseModels('r=/m.gguf?rerank=true&matryoshka=false')).toThrow(/add embedding=true/)
})

/** The built-in network as a ranker of the one architecture that needs the fewest tensors more. */
function encodeRanker(): Buffer {
  const vocabulary = buildVocabulary()
  const ones = new Float32Array(HEAD_SIZE).fill(1)
  const classes = Float32Array.from({ length: WIDTH * 2 }, (_, place) => Math.sin(place))
  const tensors = [
    ...buildNetwork(vocabulary),
    { name: 'blk.0.attn_q_norm.weight', dimensions: [HEAD_SIZE], values: ones },
    { name: 'blk.0.attn_k_norm.weight', dimensions: [HEAD_SIZE], values: ones },
    { name: 'cls.output.weight', dimensions: [WIDTH, 2], values: classes },
  ]
  const uint32 = (value: number): GgufValue => ({ kind: 'uint32', value })
  const metadata: Record<string, GgufValue> = {
    'general.architecture': { kind: 'string', value: 'qwen3' },
    'general.alignment': uint32(32),
    'qwen3.context_length': uint32(8192),
    'qwen3.embedding_length': uint32(WIDTH),
    'qwen3.block_count': uint32(1),
    'qwen3.feed_forward_length': uint32(FEED_FORWARD),
    'qwen3.attention.head_count': uint32(HEADS),
    'qwen3.attention.head_count_kv': uint32(KEY_VALUE_HEADS),
    'qwen3.attention.key_length': uint32(HEAD_SIZE),
    'qwen3.attention.value_length': uint32(HEAD_SIZE),
    'qwen3.attention.layer_norm_rms_epsilon': { kind: 'float32', value: 1e-5 },
    'qwen3.rope.freq_base': { kind: 'float32', value: ROPE_BASE },
    'qwen3.pooling_type': uint32(4),
    'qwen3.classifier.output_labels': { kind: 'strings', value: ['yes', 'no'] },
    ...tokenizerMetadata(vocabulary),
  }
  return encodeGguf({ metadata, tensors })
}

test('who leaves while an input is computed has left with it, and does not wait for the turns of others', async () => {
  const news: GenerationNews[] = []
  const computed: (() => void)[] = []
  const embed = (): Promise<number[]> => new Promise((resolve) => computed.push(() => resolve([1])))
  const model = { purpose: 'embed', contextTokens: 100, dimensions: 1, shortens: false, lengthOf: () => 1, embed } as const
  const queue = new VectorQueue(model, (told) => news.push(...told))
  const ask = (id: number): void =>
    queue.start(id, { prompt: { kind: 'embed', inputs: ['a', 'b'] }, stop: [], sampling: {}, seed: 1 }, false)
  ask(1)
  ask(2)
  await expect.poll(() => computed.length).toBe(1)
  queue.cancel(1)
  computed.shift()?.()
  await expect.poll(() => computed.length).toBe(1)
  expect(news).toMatchObject([{ id: 1, finished: { reason: 'cancelled' } }])
})
