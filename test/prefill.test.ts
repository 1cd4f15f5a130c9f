import { afterAll, beforeAll, expect, test } from 'vitest'
import type { GenerationRequest } from '../proto/request.ts'
import { Attempt } from '../worker/attempts.ts'
import { Generation, type Vocabulary } from '../worker/engines/llama/generation.ts'
import { Lockstep } from '../worker/engines/llama/lockstep.ts'
import { PrefixStore } from '../worker/engines/llama/prefixes.ts'
import type { GenerationNews } from '../worker/engines/llama/protocol.ts'
import type { Sequence } from '../worker/engines/llama/sequence.ts'
import { begin, chat, openTiny } from './support/tiny-engine.ts'
import { readJobStream } from './support/job-stream.ts'
import { readEvents } from './support/sse.ts'
import { World } from './support/world.ts'

let world: World

beforeAll(async () => {
  world = await World.open()
  await world.coordinator({ HOLDFAST_FIRST_TOKEN_TIMEOUT_S: '2.5' })
  await world.worker('a', 'slow=fake:?slots=8&first_token_ms=4000 stuck=fake:?stall_on=STALL')
})
afterAll(() => world.close())

const PROMPT = Array.from({ length: 100 }, (_, index) => `word${index}`).join(' ')
const messages = [{ role: 'user', content: PROMPT }]

test('while a long prompt is computed every stream says how far it is, and that is no stall', async () => {
  const made = (await (await world.request('POST', '/api/jobs', { model: 'slow', messages, max_tokens: 3 })).json()) as {
    id: string
  }
  const [job, ...streams] = await Promise.all([
    readJobStream(world, made.id).then(({ comments }) => comments),
    commentsOf('/v1/chat/completions', { model: 'slow', messages, max_tokens: 3 }),
    commentsOf('/v1/completions', { model: 'slow', prompt: PROMPT, max_tokens: 3 }),
    commentsOf('/v1/responses', { model: 'slow', input: PROMPT, max_output_tokens: 16 }),
    commentsOf('/v1/messages', { model: 'slow', messages, max_tokens: 3 }),
  ])
  for (const comments of [job, ...streams]) {
    const said = comments.map((comment) => /^prefill processed=(\d+) total=100$/.exec(comment)).filter((match) => match !== null)
    const processed = said.map((match) => Number(match[1]))
    expect(processed.length).toBeGreaterThanOrEqual(2)
    expect(processed).toEqual([...new Set(processed)].toSorted((one, other) => one - other))
    expect(processed.every((tokens) => tokens > 0 && tokens <= 100)).toBe(true)
  }
  // Its first token came later than the time that a silent attempt is given.
  expect(await world.job(made.id)).toMatchObject({ status: 'succeeded', attempts: [{ number: 1, status: 'succeeded' }] })
})

test('a prompt that does not get on is a stall all the same', async () => {
  const response = await world.request('POST', '/v1/completions', { model: 'stuck', prompt: 'STALL', max_tokens: 3 })
  expect(await response.json()).toMatchObject({ error: { code: 'first_token_timeout' } })
})

test('a model that computes a prompt in shares tells how far it is', async () => {
  const engine = await openTiny()
  const told: [processed: number, total: number][] = []
  const { answer } = begin(engine, chat(PROMPT.repeat(2)), { maxTokens: 1 }, (processed, total) => told.push([processed, total]))
  const { end } = await answer
  await engine.close()
  expect(told.length).toBeGreaterThan(0)
  for (const [processed, total] of told) {
    expect(total).toBe(end.promptTokens)
    expect(processed).toBeGreaterThan(0)
    expect(processed).toBeLessThan(total)
  }
})

test('a prompt whose caller has gone is computed no further than the share that was under way', async () => {
  const shares: number[] = []
  const held: number[] = []
  const sequence: Sequence = {
    id: 0,
    cutsAnywhere: true,
    held: () => held,
    prefill: async (tokens) => {
      shares.push(tokens.length)
      held.push(...tokens)
      if (shares.length === 2) lockstep.cancel(1)
    },
    decode: () => expect.fail('the prompt was read to its end'),
    keep: async (length) => length,
    save: async () => 0,
    load: async () => {},
  }
  const { promise: ended, resolve } = Promise.withResolvers<GenerationNews>()
  const lockstep = new Lockstep({
    sequences: [sequence],
    prefixes: new PrefixStore('', 0),
    tell: (news) => news.filter(({ finished, failed }) => finished ?? failed).forEach(resolve),
    warn: (text) => expect.fail(text),
    now: () => performance.now(),
  })
  const prompt = Array.from({ length: 5_000 }, (_, index) => index)
  const words: Vocabulary = { bytesOf: () => new Uint8Array(), markOf: () => undefined, endsGeneration: () => false, size: prompt.length }
  const request: GenerationRequest = { prompt: { kind: 'text', text: '' }, stop: [], sampling: { temperature: 0 }, seed: 1 }
  lockstep.start(new Generation(1, prompt, [], request, 10_000, words))
  void lockstep.run()
  expect(await ended).toMatchObject({ finished: { reason: 'cancelled', completionTokens: 0 } })
  expect(shares).toHaveLength(2)
  expect(held.length).toBeLessThan(prompt.length)
})

test('only the latest progress leaves, in a chunk without tokens, and none once there is a token', () => {
  const attempt = new Attempt('job', 1, 'm', 5)
  attempt.prefill(10, 100)
  attempt.prefill(20, 100)
  expect(attempt.hasMore).toBe(true)
  expect(attempt.takeChunk()).toMatchObject({ first: 5, tokenIds: [], text: '', promptProcessed: 20, promptTokens: 100 })
  expect(attempt.hasMore).toBe(false)
  attempt.prefill(30, 100)
  attempt.add([7], 'seven')
  expect(attempt.takeChunk()).toMatchObject({ first: 5, tokenIds: [7], promptProcessed: 0 })
  attempt.prefill(40, 100)
  expect(attempt.hasMore).toBe(false)
})

async function commentsOf(target: string, body: Record<string, unknown>): Promise<string[]> {
  const response = await world.request('POST', target, { ...body, stream: true })
  const comments: string[] = []
  for await (const { comment } of readEvents(response.body!)) if (comment !== undefined) comments.push(comment)
  return comments
}
