import { execFileSync, fork } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { restartDelayMs } from '../worker/engines/llama.ts'
import { flashAttention } from '../worker/engines/llama/fit.ts'
import { BATCH_TOKENS, PrefillPace } from '../worker/engines/llama/pace.ts'
import { chooseSlot, nextMove } from '../worker/engines/llama/slots.ts'
import { seedAfter } from '../worker/seeds.ts'
import { begin, chat, complete, failureOf, openTiny, type TinyEngine, toyPath } from './support/tiny-engine.ts'

const PROMPT = chat('What is the queue for?')

describe('an engine that serves', () => {
  let engine: TinyEngine

  beforeAll(async () => {
    engine = await openTiny()
  })

  afterAll(() => engine.close())

  test('says what it can hold', () => {
    expect(engine.state()).toMatchObject({ phase: 'ready', slots: 4, contextTokens: 2048, sha256: 'toy', restarts: 0 })
    expect(engine.state().sizeBytes).toBeGreaterThan(500_000)
    expect(engine.state().maxTokenBytes).toBeGreaterThan(8)
  })

  test('answers the same prompt alone with the same text, in any slot and from any prefix', async () => {
    const first = await complete(engine, PROMPT)
    const again = await complete(engine, PROMPT)
    expect(again.text).toBe(first.text)
    expect(first.end).toMatchObject({ reason: 'stop', completionTokens: first.ids.length })
    expect(again.cachedTokens).toBeGreaterThan(first.cachedTokens)
  })

  test('goes on from any of its own tokens with the rest of the same answer', async () => {
    const whole = await complete(engine, PROMPT)
    for (const forced of [1, 7, 64, 300, whole.ids.length]) {
      const rest = await complete(engine, PROMPT, { continuation: whole.ids.slice(0, forced) })
      expect(rest.ids).toEqual(whole.ids.slice(forced))
      expect(rest.end).toMatchObject({ reason: 'stop', completionTokens: whole.ids.length, promptTokens: whole.end.promptTokens })
      expect(whole.text.endsWith(rest.text)).toBe(true)
    }
  })

  test('ends before a stop string that spans tokens, and holds back what could begin one', async () => {
    const { text } = await complete(engine, PROMPT)
    const stop = text.slice(23, 41)
    const stopped = await complete(engine, PROMPT, { stop: ['never said', stop] })
    expect(stopped.text).toBe(text.slice(0, 23))
    expect(stopped.end).toMatchObject({ reason: 'stop', text: '' })
  })

  test('a continuation stops where the undisturbed answer would have, also when forced tokens hold part of the stop string', async () => {
    const { ids, text } = await complete(engine, PROMPT)
    const stop = [text.slice(40, 62)]
    const undisturbed = await complete(engine, PROMPT, { stop })
    for (const forced of Array.from({ length: undisturbed.ids.length }, (_, index) => index)) {
      const rest = await complete(engine, PROMPT, { stop, continuation: ids.slice(0, forced) })
      expect(undisturbed.text.endsWith(rest.text)).toBe(true)
      expect(rest.end.completionTokens).toBe(undisturbed.end.completionTokens)
    }
    const finishedBefore = await complete(engine, PROMPT, { stop, continuation: undisturbed.ids })
    expect(finishedBefore).toMatchObject({ ids: [], text: '', end: { reason: 'stop', completionTokens: undisturbed.ids.length } })
  })

  test('counts forced tokens towards the most it may generate', async () => {
    const whole = await complete(engine, PROMPT, { maxTokens: 20 })
    expect(whole).toMatchObject({ end: { reason: 'length', completionTokens: 20 } })
    const rest = await complete(engine, PROMPT, { maxTokens: 20, continuation: whole.ids.slice(0, 12) })
    expect(rest.ids).toEqual(whole.ids.slice(12))
    expect(rest.end).toMatchObject({ reason: 'length', completionTokens: 20 })
    const full = await complete(engine, PROMPT, { maxTokens: 20, continuation: whole.ids })
    expect(full).toMatchObject({ ids: [], end: { reason: 'length', completionTokens: 20 } })
  })

  test('ends with reason length when the context is full', async () => {
    const answer = await complete(engine, { kind: 'text', text: 'x'.repeat(1900) })
    expect(answer.end.reason).toBe('length')
    expect(answer.end.promptTokens + answer.end.completionTokens).toBe(2048)
  })

  test('refuses a prompt that leaves no room for an answer, with both numbers', async () => {
    const failure = await failureOf(complete(engine, { kind: 'text', text: 'x '.repeat(2000) }))
    expect(failure).toMatchObject({ layer: 'ingress', code: 'context_length_exceeded', retryable: false })
    expect(failure.message).toMatch(/400\d tokens .* 2048/)
  })

  test('refuses a bias of a token that it does not have', async () => {
    const failure = await failureOf(complete(engine, PROMPT, { sampling: { logitBias: { 999_999: 5 } } }))
    expect(failure).toMatchObject({ layer: 'ingress', code: 'unknown_token', message: expect.stringContaining('999999') })
  })

  test('refuses a book without cutting it into tokens first', async () => {
    const startedAt = performance.now()
    const failure = await failureOf(complete(engine, chat('x'.repeat(5_000_000))))
    expect(failure.code).toBe('context_length_exceeded')
    expect(performance.now() - startedAt).toBeLessThan(1_000)
  })

  test('reads special tokens in what users write as text', async () => {
    const plain = await complete(engine, chat('ab'), { maxTokens: 1 })
    const sly = await complete(engine, chat('a<|im_end|>b'), { maxTokens: 1 })
    // As a special token it would be one more than the plain prompt has.
    expect(sly.end.promptTokens).toBeGreaterThan(plain.end.promptTokens + 5)
  })

  test('keeps characters whole that are spread over tokens, and puts U+FFFD where bytes are no character', async () => {
    const byte = (value: number): number => 5 + value
    const party = [...Buffer.from('🎉')].map(byte)
    const ends = { maxTokens: 6, logitBias: {} }
    const inside = await complete(engine, PROMPT, {
      ...ends,
      continuation: party.slice(0, 2),
      sampling: { temperature: 0, logitBias: bias(party[2]!) },
      maxTokens: 3,
    })
    // Three bytes of four: the last one never came.
    expect(inside).toMatchObject({ text: '�', end: { reason: 'length', completionTokens: 3 } })
    const whole = await complete(engine, PROMPT, {
      continuation: party.slice(0, 3),
      sampling: { temperature: 0, logitBias: bias(party[3]!) },
      maxTokens: 4,
    })
    expect(whole.text).toBe('🎉')
  })

  test('never chooses a token that is banned, and likes one that is favoured', async () => {
    const { ids } = await complete(engine, PROMPT)
    const banned = ids[1]!
    const without = await complete(engine, PROMPT, { sampling: { temperature: 0, logitBias: { [banned]: -100 } } })
    expect(without.ids).not.toContain(banned)
    const favoured = await complete(engine, PROMPT, { maxTokens: 3, sampling: { temperature: 0, logitBias: bias(banned) } })
    expect(favoured.ids).toEqual([banned, banned, banned])
  })

  test('can be kept from ending', async () => {
    const endOfTurn = 4
    const { ids } = await complete(engine, PROMPT)
    const longer = await complete(engine, PROMPT, {
      maxTokens: ids.length + 20,
      sampling: { temperature: 0, logitBias: { [endOfTurn]: -100 } },
    })
    expect(longer.end).toMatchObject({ reason: 'length', completionTokens: ids.length + 20 })
  })

  test.each([{ frequencyPenalty: 2 }, { presencePenalty: 2 }, { repeatPenalty: 1.8 }])('writes another answer with %o', async (penalty) => {
    const plain = await complete(engine, PROMPT, { maxTokens: 200 })
    const penalised = await complete(engine, PROMPT, { maxTokens: 200, sampling: { temperature: 0, ...penalty } })
    expect(penalised.ids).not.toEqual(plain.ids)
  })

  test('tires of a word by its frequency in the answer', async () => {
    const word = (await complete(engine, PROMPT)).ids[1]!
    const often = async (frequencyPenalty: number): Promise<number> => {
      const sampling = { temperature: 0, logitBias: { [word]: 60 }, frequencyPenalty }
      const { ids } = await complete(engine, PROMPT, { maxTokens: 100, sampling })
      return ids.filter((id) => id === word).length
    }
    expect(await often(0)).toBe(100)
    // A bias of 60 is used up after about 30 times, give or take what the word is worth by itself.
    expect(await often(2)).toBeGreaterThan(15)
    expect(await often(2)).toBeLessThan(45)
  })

  test.each([{ frequencyPenalty: 2 }, { presencePenalty: 2 }, { repeatPenalty: 1.8 }, { repeatPenalty: 10 }])(
    '%o counts forced tokens as generated ones',
    async (penalty) => {
      const prompt = chat('Tell me about the queue.')
      const sampling = { temperature: 0, ...penalty }
      const whole = await complete(engine, prompt, { maxTokens: 120, sampling })
      // Within the window of what repeats, and beyond it.
      for (const cut of [10, 60]) {
        const rest = await complete(engine, prompt, { maxTokens: 120, sampling, continuation: whole.ids.slice(0, cut) })
        expect(rest.ids).toEqual(whole.ids.slice(cut))
      }
    },
  )

  test('draws by its seed, also after forced tokens', async () => {
    const sampling = { temperature: 1.5, topK: 0, topP: 1, minP: 0 }
    const drawn = await complete(engine, PROMPT, { sampling, seed: 7, maxTokens: 200 })
    expect((await complete(engine, PROMPT, { sampling, seed: 7, maxTokens: 200 })).ids).toEqual(drawn.ids)
    expect((await complete(engine, PROMPT, { sampling, seed: 8, maxTokens: 200 })).ids).not.toEqual(drawn.ids)
    const continuation = drawn.ids.slice(0, 50)
    const rest = await complete(engine, PROMPT, { sampling, seed: 7, maxTokens: 200, continuation })
    expect((await complete(engine, PROMPT, { sampling, seed: 7, maxTokens: 200, continuation })).ids).toEqual(rest.ids)
  })

  test.each([{ topK: 1 }, { topP: 0 }, { minP: 1 }])('with %o chance has no choice', async (narrow) => {
    const greedy = await complete(engine, PROMPT, { maxTokens: 200 })
    const hot = { temperature: 2, topK: 0, topP: 1, minP: 0 }
    const free = await complete(engine, PROMPT, { maxTokens: 200, sampling: hot })
    const narrowed = await complete(engine, PROMPT, { maxTokens: 200, sampling: { ...hot, ...narrow } })
    expect(free.ids).not.toEqual(greedy.ids)
    expect(narrowed.ids).toEqual(greedy.ids)
  })

  test('frees the slot of an answer that is cancelled while it is written', async () => {
    const four = Array.from({ length: 4 }, () => begin(engine, { kind: 'text', text: '' }, { sampling: { temperature: 1 } }))
    const waiting = begin(engine, PROMPT, { maxTokens: 5 })
    await Promise.all(four.map(({ firstToken }) => firstToken))
    for (const { cancel } of four) cancel()
    for (const { answer } of four) expect((await answer).end).toMatchObject({ reason: 'cancelled' })
    expect((await waiting.answer).end.reason).toBe('length')
  })

  test('frees the slot of an answer that is cancelled while its prompt is read', async () => {
    const reading = begin(engine, { kind: 'text', text: 'y'.repeat(1900) })
    await reading.accepted
    reading.cancel()
    reading.cancel()
    const { end, ids } = await reading.answer
    expect(end.reason).toBe('cancelled')
    expect(end.completionTokens).toBe(ids.length)
  })

  test('reads a long common beginning once, and copies it for those who come with it', async () => {
    const common = `${'z'.repeat(1000)} and so on`
    const four = ['one', 'two', 'three', 'four'].map((end) => begin(engine, { kind: 'text', text: `${common} ${end}` }, { maxTokens: 30 }))
    const answers = await Promise.all(four.map(({ answer }) => answer))
    const computed = answers.map(({ end, cachedTokens }) => end.promptTokens - cachedTokens)
    expect(computed.filter((tokens) => tokens > 900)).toHaveLength(1)
    expect(computed.filter((tokens) => tokens < 30)).toHaveLength(3)
    for (const [index, end] of ['one', 'two', 'three', 'four'].entries()) {
      const alone = await complete(engine, { kind: 'text', text: `${common} ${end}` }, { maxTokens: 30 })
      expect(answers[index]!.text).toBe(alone.text)
    }
  })

  test('brings streams together whose neighbours left, without a word changed', async () => {
    const prompts = ['worker', 'queue', 'token', 'stream'].map((topic) => chat(`what is a ${topic}`))
    const four = prompts.map((prompt) => begin(engine, prompt))
    await Promise.all(four.map(({ firstToken }) => firstToken))
    for (const middle of four.slice(1, 3)) middle.cancel()
    for (const edge of [0, 3]) expect((await four[edge]!.answer).text).toBe((await complete(engine, prompts[edge]!)).text)
  })

  test('serves on when saved prefixes have vanished, in every slot', async () => {
    const common = `${'v'.repeat(700)} and so on`
    const ask = (end: string) => begin(engine, { kind: 'text', text: `${common} ${end}` }, { maxTokens: 8 }).answer
    const four = ['a', 'b', 'c', 'd']
    const before = await Promise.all(four.map(ask))
    await Promise.all(four.map((end) => complete(engine, { kind: 'text', text: end.repeat(40) }, { maxTokens: 4 })))
    for (const folder of prefixFolders(process.pid)) for (const file of readdirSync(folder)) if (file !== 'pid') rmSync(join(folder, file))
    for (let round = 0; round < 2; round++)
      expect((await Promise.all(four.map(ask))).map(({ text }) => text)).toEqual(before.map(({ text }) => text))
  })

  test('gives a prefix to others also when the one who read it went away', async () => {
    const common = 'w'.repeat(1500)
    const leader = begin(engine, { kind: 'text', text: common })
    const follower = begin(engine, { kind: 'text', text: `${common} too` }, { maxTokens: 5 })
    await leader.accepted
    leader.cancel()
    expect((await leader.answer).end.reason).toBe('cancelled')
    expect((await follower.answer).end.completionTokens).toBe(5)
  })
})

describe('an engine whose process dies', () => {
  test('fails what runs as retryable, is down, and comes back', async () => {
    const engine = await openTiny()
    const running = begin(engine, { kind: 'text', text: '' }, { sampling: { temperature: 1 } })
    const failure = failureOf(running.answer)
    await running.firstToken
    process.kill(modelProcesses(process.pid)[0]!, 'SIGKILL')
    expect(await failure).toMatchObject({ layer: 'model', code: 'model_process_died', retryable: true })
    const down = engine.state()
    expect(down).toMatchObject({ phase: 'down', slots: 0, restarts: 0 })
    expect(down.detail).toMatch(/restarts in 0\.[23] s: .* SIGKILL/)
    expect(await failureOf(complete(engine, PROMPT))).toMatchObject({ code: 'model_not_ready', retryable: true })
    await engine.until(({ phase }) => phase === 'ready')
    expect(engine.state().restarts).toBe(1)
    expect((await complete(engine, PROMPT, { maxTokens: 5 })).ids).toHaveLength(5)
    await engine.close()
  })

  test('waits longer with each failure in a row, never more than half a minute, and never in step', () => {
    const waits = [0, 1, 2, 3, 10, 1000].map((failures) => restartDelayMs('died', failures, 0.5))
    expect(waits).toEqual([250, 500, 1000, 2000, 30_000, 30_000])
    expect(restartDelayMs('died', 3, 0)).toBeLessThan(restartDelayMs('died', 3, 1))
    expect(restartDelayMs('unloadable', 0, 0.5)).toBe(5000)
  })

  test('leaves no process and no folder when it is closed, and fails what still runs', async () => {
    const engine = await openTiny()
    const running = begin(engine, { kind: 'text', text: '' }, { sampling: { temperature: 1 } })
    const failure = failureOf(running.answer)
    await running.firstToken
    const processes = modelProcesses(process.pid)
    await engine.close()
    expect(await failure).toMatchObject({ code: 'engine_closed', retryable: true })
    expect(processes.filter(isAlive)).toEqual([])
    expect(prefixFolders(process.pid)).toEqual([])
  })

  test('that finds another file in the place of its own when it starts again says so, or stays down where that is not wanted', async () => {
    const found = ['another', new Error('it is not the one that was asked for')]
    const identify = async (): Promise<string> => {
      const next = found.shift() ?? ''
      if (next instanceof Error) throw next
      return next
    }
    const engine = await openTiny({ identify })
    expect(engine.state().sha256).toBe('toy')
    process.kill(modelProcesses(process.pid)[0]!, 'SIGKILL')
    await engine.until(({ phase, restarts }) => phase === 'ready' && restarts === 1)
    expect(engine.state().sha256).toBe('another')
    expect(engine.logged.join()).toContain('its file has changed')
    process.kill(modelProcesses(process.pid)[0]!, 'SIGKILL')
    await engine.until(({ detail }) => detail.includes('not the one that was asked for'))
    expect(engine.state()).toMatchObject({ phase: 'down', slots: 0 })
    await engine.close()
  })

  test('takes its process with it when the worker is killed', async () => {
    const worker = fork(fileURLToPath(new URL('support/tiny-worker.ts', import.meta.url)), [toyPath()], { execArgv: [] })
    await once(worker, 'message')
    const processes = modelProcesses(worker.pid!)
    expect(processes).toHaveLength(1)
    worker.kill('SIGKILL')
    await once(worker, 'exit')
    await expect.poll(() => processes.filter(isAlive), { timeout: 5_000 }).toEqual([])
    expect(prefixFolders(worker.pid!)).toEqual([])
  })

  test('ignores a Ctrl-C, which the worker decides about', async () => {
    const engine = await openTiny()
    const running = begin(engine, PROMPT)
    await running.firstToken
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.kill(modelProcesses(process.pid)[0]!, signal)
    expect((await running.answer).end.reason).toBe('stop')
    await engine.close()
  })

  test('keeps the worker’s secrets from its process', async () => {
    process.env.HOLDFAST_WORKER_TOKEN = 'secret'
    const engine = await openTiny()
    const environment = execFileSync('cat', [`/proc/${modelProcesses(process.pid)[0]}/environ`], { encoding: 'utf8' })
    delete process.env.HOLDFAST_WORKER_TOKEN
    expect(environment).toContain('UV_THREADPOOL_SIZE=1')
    expect(environment).not.toContain('HOLDFAST')
    await engine.close()
  })
})

describe('a model that cannot be loaded', () => {
  test.each([
    { what: 'is not there', content: undefined, says: /there is no model file .*missing\.gguf/ },
    { what: 'is no GGUF file', content: 'not a model', says: /missing\.gguf cannot be loaded as a GGUF model/ },
  ])('says so by name when it $what, and tries again slowly', async ({ content, says }) => {
    const folder = mkdtempSync(join(tmpdir(), 'holdfast-bad-model-'))
    const path = join(folder, 'missing.gguf')
    if (content !== undefined) writeFileSync(path, content)
    const engine = await openTiny({ path, wait: false })
    const { detail, slots } = await engine.until(({ phase }) => phase === 'down')
    expect(detail).toMatch(says)
    expect(detail).toMatch(/^restarts in [3-6]\.\d s/)
    expect(slots).toBe(0)
    await engine.close()
    rmSync(folder, { recursive: true })
  })
})

test('the sampler’s seed is the caller’s at first, another after every number of forced tokens, and never llama.cpp’s word for any', () => {
  expect(seedAfter(42, 0)).toBe(42)
  expect(seedAfter(0xffffffff, 0)).not.toBe(0xffffffff)
  const seeds = Array.from({ length: 1000 }, (_, forced) => seedAfter(42, forced))
  expect(new Set(seeds).size).toBe(1000)
})

describe('the slot of a newcomer', () => {
  const free = (...ids: number[]) => ids.map((id) => ({ id, heldTokens: 0 }))

  test('is the lowest one when nobody is there, and next to those who are', () => {
    expect(chooseSlot(free(0, 1, 2), new Set())?.id).toBe(0)
    expect(chooseSlot(free(0, 1, 3), new Set([2]))?.id).toBe(1)
    expect(chooseSlot(free(1, 4), new Set([0, 2, 3]))?.id).toBe(1)
    expect(chooseSlot([], new Set([0]))).toBeUndefined()
  })

  test('is the one that holds most of its prompt, if that saves more than a copy costs', () => {
    const holding = (tokens: number) => [...free(1), { id: 3, heldTokens: tokens }]
    expect(chooseSlot(holding(200), new Set([0]))?.id).toBe(3)
    expect(chooseSlot(holding(20), new Set([0]))?.id).toBe(1)
  })
})

test('streams move into gaps between busy slots from above, until all are neighbours', () => {
  const busy = new Set([0, 2, 4, 6])
  const moves = []
  for (let move = nextMove(busy); move !== undefined; move = nextMove(busy)) {
    moves.push(move)
    busy.delete(move.from)
    busy.add(move.to)
  }
  expect(moves).toEqual([
    { from: 6, to: 1 },
    { from: 4, to: 3 },
  ])
})

test('a share of a prompt is as long as fits its time, on machines of any speed', () => {
  const shareAfter = (msPerToken: number): number => {
    const pace = new PrefillPace()
    for (let step = 0; step < 10; step++) pace.learn(pace.share(4) * msPerToken, pace.share(4), 4)
    return pace.share(4)
  }
  expect(shareAfter(3)).toBeGreaterThan(200)
  expect(shareAfter(3)).toBeLessThan(300)
  expect(shareAfter(0.01)).toBe(BATCH_TOKENS - 4)
  expect(shareAfter(1000)).toBe(96)
})

/** A bias that leaves no other choice. */
function bias(token: number): Record<string, number> {
  return { [token]: 100 }
}

function modelProcesses(parent: number): number[] {
  const listed = execFileSync('ps', ['-o', 'pid=,args=', '--ppid', String(parent)], { encoding: 'utf8' })
  return listed
    .split('\n')
    .filter((line) => line.includes('llama-process.ts'))
    .map((line) => Number.parseInt(line, 10))
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

function prefixFolders(owner: number): string[] {
  return ['/dev/shm', tmpdir()]
    .flatMap((base) => readdirSync(base).map((name) => join(base, name)))
    .filter((folder) => new RegExp(`/holdfast-prefixes-.*-${owner}-\\w+$`).test(folder))
}

test('attention is fused where that is faster: not over narrow heads on a CPU', () => {
  const toy = { embedding_length: 128, attention: { head_count: 3, key_length: 32 } }
  const narrow = { embedding_length: 288, attention: { head_count: 6 } }
  const smollm = { embedding_length: 576, attention: { head_count: 9 } }
  const uneven = { embedding_length: 288, attention: { head_count: [6, 4] } }
  expect([toy, narrow].map((heads) => flashAttention(true, heads))).toEqual([false, false])
  expect([smollm, uneven, {}].map((heads) => flashAttention(true, heads))).toEqual(['auto', 'auto', 'auto'])
  expect(flashAttention(false, toy)).toBe('auto')
})
