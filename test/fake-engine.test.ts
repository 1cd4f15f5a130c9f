import { Ajv2020 } from 'ajv/dist/2020.js'
import { expect, test } from 'vitest'
import { Answer, type AnswerDelta } from '../proto/answer.ts'
import type { GenerationRequest, JsonSchema } from '../proto/request.ts'
import type { Engine, GenerationEnd, GenerationFailure } from '../worker/engines/engine.ts'
import { openFakeEngine } from '../worker/engines/fake.ts'
import { sampleOf } from '../worker/engines/fake/schema-sample.ts'
import { scriptOf } from '../worker/engines/fake/script.ts'
import { Chance } from '../worker/engines/fake/words.ts'
import { parseModels } from '../worker/models.ts'

/** The fake must be as good as a real one where the coordinator's tests lean on it. */

const options = { name: 'f', slots: 2, contextTokens: 0, rate: 0, firstTokenMs: 0 }

test('its text is a pure function of prompt and position: continued anywhere it is the same', async () => {
  const engine = openFakeEngine(options, () => {})
  const whole = await generate(engine, ask('hello', { maxTokens: 50 }))
  for (const cut of [1, 7, 31, 49, 50]) {
    const rest = await generate(engine, ask('hello', { maxTokens: 50 }), whole.ids.slice(0, cut))
    const before = whole.words.slice(0, cut).join(' ')
    expect(before + rest.text).toBe(whole.text)
    expect(rest.end).toMatchObject({ reason: 'length', completionTokens: 50 })
  }
  expect((await generate(engine, ask('other', { maxTokens: 50 }))).text).not.toBe(whole.text)
  await engine.close()
})

test('a stop string that crosses the cut of a continuation is still found', async () => {
  const engine = openFakeEngine(options, () => {})
  const whole = await generate(engine, ask('hello', { maxTokens: 20 }))
  const stop = `${whole.words[9]} ${whole.words[10]}`
  const stopped = await generate(engine, ask('hello', { maxTokens: 20, stop: [stop] }))
  expect(stopped.end?.reason).toBe('stop')
  for (const cut of [8, 9, 10]) {
    const rest = await generate(engine, ask('hello', { maxTokens: 20, stop: [stop] }), whole.ids.slice(0, cut))
    expect(rest.end?.reason).toBe('stop')
    expect(whole.text.startsWith(stopped.text)).toBe(true)
    expect(stopped.text.endsWith(rest.text)).toBe(true)
  }
  await engine.close()
})

test('the seed counts, but not at temperature 0', async () => {
  const engine = openFakeEngine(options, () => {})
  const text = async (seed: number, temperature: number) => (await generate(engine, { ...ask('x'), seed, sampling: { temperature } })).text
  expect(await text(1, 1)).not.toBe(await text(2, 1))
  expect(await text(1, 0)).toBe(await text(2, 0))
  await engine.close()
})

test('a crash fails everything that runs, offers no slots, and comes back', async () => {
  let states = 0
  let back: () => void = () => {}
  const returned = new Promise<void>((resolve) => {
    back = resolve
  })
  const engine = openFakeEngine({ ...options, rate: 50, crashOn: 'CRASH' }, () => {
    states += 1
    if (engine.state().phase === 'ready') back()
  })
  const bystander = generate(engine, ask('innocent', { maxTokens: 1_000 }))
  const culprit = await generate(engine, ask('CRASH'))
  expect(culprit.failure).toMatchObject({ code: 'model_process_died', retryable: true })
  expect((await bystander).failure).toMatchObject({ code: 'model_process_died' })
  expect(engine.state()).toMatchObject({ phase: 'down', slots: 0, restarts: 1 })
  await returned
  expect([engine.state().slots, states]).toEqual([2, 2])
  await engine.close()
})

test('a stop string before the fewest tokens is text, as at a real model', async () => {
  const engine = openFakeEngine(options, () => {})
  const { end: plain, text } = await generate(engine, ask('hello', { stop: ['e'], maxTokens: 40 }))
  expect([plain?.reason, plain?.stopSequence]).toEqual(['stop', 'e'])
  const longer = await generate(engine, ask('hello', { stop: ['e'], minTokens: 20, maxTokens: 40 }))
  expect(longer.end?.completionTokens).toBeGreaterThan(20)
  expect(longer.text.startsWith(`${text}e`)).toBe(true)
  await engine.close()
})

test('it stalls until cancelled, and fails when told to', async () => {
  const engine = openFakeEngine({ ...options, stallOn: 'STALL', failOn: 'FAIL' }, () => {})
  let generation: { cancel(): void } | undefined
  const stalled = new Promise<GenerationEnd>((resolve, reject) => {
    generation = engine.generate('k', ask('STALL'), [], {
      accepted: () => setImmediate(() => generation?.cancel()),
      tokens: reject,
      finished: resolve,
      failed: reject,
    })
  })
  expect((await stalled).reason).toBe('cancelled')
  expect((await generate(engine, ask('FAIL'))).failure).toMatchObject({ code: 'generation_failed', retryable: false })
  await engine.close()
})

const city = { type: 'object', properties: { city: { type: 'string' }, days: { type: 'integer', minimum: 1 } }, required: ['city'] }
const tools = [{ name: 'weather', parameters: city }, { name: 'clock' }]
const PLAYED: [what: string, request: GenerationRequest, reason: string][] = [
  ['reasoning, then words', ask('why', { reasoning: { effort: 'high' }, maxTokens: 20 }), 'length'],
  ['two tool calls', ask('call:weather and call:clock', { tools }), 'tool_calls'],
  ['a forced call after reasoning', ask('hm', { tools, toolChoice: 'required', reasoning: { maxTokens: 3 } }), 'tool_calls'],
  ['a document', ask('x', { format: { kind: 'schema', name: 'c', schema: city, strict: true } }), 'stop'],
  ['log probabilities', ask('x', { logprobs: 2, maxTokens: 6 }), 'length'],
  ['vectors', ask('', { prompt: { kind: 'embed', inputs: ['a b', 'b c', 'd'] } }), 'stop'],
  ['scores', ask('', { prompt: { kind: 'rank', query: 'a b', documents: ['b', 'c', 'b a'] } }), 'stop'],
]

test.each(PLAYED)('%s: continued from any token it releases exactly the rest', async (_what, request, reason) => {
  const engine = openFakeEngine(options, () => {})
  const whole = await generate(engine, request)
  expect(whole.end?.reason).toBe(reason)
  expect(whole.pieces).toHaveLength(whole.ids.length)
  for (let cut = 0; cut <= whole.ids.length; cut++) {
    const rest = await generate(engine, request, whole.ids.slice(0, cut))
    const joined = new Answer()
    for (const { text, delta } of [...whole.pieces.slice(0, cut), ...rest.pieces]) joined.append(text, delta)
    expect(JSON.stringify(joined)).toBe(JSON.stringify(whole.answer))
    expect(rest.end).toEqual(whole.end)
  }
  await engine.close()
})

test('documents and arguments fulfil their schemas', async () => {
  const schema = {
    type: 'object',
    properties: {
      kind: { enum: ['a', 'b'] },
      size: { type: 'number', exclusiveMinimum: 2, maximum: 3 },
      even: { type: 'integer', multipleOf: 2, minimum: 3 },
      tags: { type: 'array', items: { type: 'string', minLength: 12 }, minItems: 2, maxItems: 4 },
      child: { anyOf: [{ $ref: '#/$defs/node' }, { type: 'null' }] },
    },
    required: ['kind', 'size', 'even', 'tags', 'child'],
    additionalProperties: false,
    $defs: { node: { type: 'object', properties: { next: { $ref: '#/$defs/node' }, name: { const: 'x' } }, required: ['name'] } },
  }
  const engine = openFakeEngine(options, () => {})
  const valid = new Ajv2020({ strict: false }).compile(schema)
  for (let seed = 0; seed < 20; seed++) {
    const request = { ...ask('x', { format: { kind: 'schema', name: 's', schema, strict: true } }), seed, sampling: {} }
    expect(valid(JSON.parse((await generate(engine, request)).text)), JSON.stringify(valid.errors)).toBe(true)
  }
  await engine.close()
})

test('what does not fit its schema is told as a real model tells it, and a schema that nothing can be judged by is refused', async () => {
  const engine = openFakeEngine({ ...options, sha256: 'f'.repeat(64) }, () => {})
  const asked = (schema: Record<string, unknown>): GenerationRequest =>
    ask('x', { format: { kind: 'schema', name: 's', schema, strict: true } })
  const failure = async (schema: Record<string, unknown>): Promise<unknown> => (await generate(engine, asked(schema))).failure
  const text = { type: 'object', properties: { a: { type: 'string', pattern: '^[0-9]+$' } }, required: ['a'] }
  expect(await failure(text)).toMatchObject({ code: 'schema_mismatch', layer: 'model', retryable: false })
  expect(await failure({ type: 'array', items: { const: 3 }, minItems: 2, uniqueItems: true })).toMatchObject({ code: 'schema_mismatch' })
  expect(await failure({ $ref: '#/nowhere' })).toMatchObject({ code: 'unsupported_schema', layer: 'ingress' })
  // Cut off, it is no document yet, and nothing is said of it.
  expect((await generate(engine, { ...asked(text), maxTokens: 1 })).end?.reason).toBe('length')
  const called = (parameters: Record<string, unknown>, strict: boolean): GenerationRequest =>
    ask('x', { tools: [{ name: 'f', parameters, strict }], toolChoice: 'required' })
  const misfit = await generate(engine, called(text, true))
  expect(misfit.failure).toMatchObject({ code: 'schema_mismatch', message: expect.stringContaining('the arguments for f: /a') as string })
  for (const [parameters, strict] of [
    [text, false],
    [{ ...text, properties: { a: { type: 'string' } } }, true],
  ] as const)
    expect((await generate(engine, called(parameters, strict))).end?.reason).toBe('tool_calls')
  expect(engine.state().sha256).toBe('f'.repeat(64))
  await engine.close()
})

test('a schema that stands for more values than there are is not written down whole, and a list of vectors is no single turn', async () => {
  const self = { $ref: '#' }
  const bombs: JsonSchema[] = [
    { type: 'object', properties: { a: self, b: self, c: self, d: self }, required: ['a', 'b', 'c', 'd'] },
    { type: 'array', minItems: 1_000, items: { type: 'array', minItems: 1_000, items: { type: 'array', minItems: 1_000 } } },
    { type: 'array', minItems: 1_000, items: { type: 'string', minLength: 10_000 } },
    { allOf: Array.from({ length: 8 }, () => self) },
  ]
  for (const bomb of bombs) {
    const made = JSON.stringify(sampleOf(bomb, new Chance('x')))
    expect(made.length).toBeLessThan(2_000_000)
  }
  const inputs = Array.from({ length: 300 }, (_, index) => `text ${index} of several words`)
  const script = scriptOf('fake', { prompt: { kind: 'embed', inputs, dimensions: 65_536 }, sampling: {}, seed: 1 } as never)
  expect(script.length).toBe(300)
  expect(script.piece(299).text.endsWith(']')).toBe(true)
})

test('it is able of everything but other dialects and what it is told to lack', async () => {
  const engine = openFakeEngine({ ...options, without: ['images', 'tools'] }, () => {})
  const { abilities } = engine.state()
  expect(['embeddings', 'json_schema', 'seed'].every((name) => abilities.some((ability) => ability === name))).toBe(true)
  expect(abilities.filter((ability) => ['images', 'tools', 'openai_dialect', 'anthropic_dialect'].includes(ability))).toEqual([])
  expect(() => parseModels('x=fake:?without=flying')).toThrow(/without=flying.*tools/)
  await engine.close()
})

test('after the result of a tool it answers in words', async () => {
  const engine = openFakeEngine(options, () => {})
  const messages = [
    { role: 'user' as const, content: 'call:clock' },
    { role: 'assistant' as const, content: '', toolCalls: [{ id: '1', name: 'clock', arguments: '{}' }] },
    { role: 'tool' as const, toolCallId: '1', content: 'noon' },
  ]
  const made = await generate(engine, ask('', { prompt: { kind: 'chat', messages }, tools, maxTokens: 5 }))
  expect([made.words.length, made.answer.toolCalls, made.end?.reason]).toEqual([5, [], 'length'])
  await engine.close()
})

function ask(content: string, extra: Partial<GenerationRequest> = {}): GenerationRequest {
  return { prompt: { kind: 'chat', messages: [{ role: 'user', content }] }, stop: [], sampling: { temperature: 0 }, seed: 1, ...extra }
}

type Generated = {
  ids: number[]
  pieces: { text: string; delta: AnswerDelta | undefined }[]
  answer: Answer
  text: string
  words: string[]
  end?: GenerationEnd
  failure?: GenerationFailure
}

function generate(engine: Engine, request: GenerationRequest, continuation: number[] = []): Promise<Generated> {
  const made: Generated = { ids: [], pieces: [], answer: new Answer(), text: '', words: [] }
  return new Promise((resolve) => {
    const done = (text: string): void => {
      made.text += text
      made.words = made.text.split(' ')
      resolve(made)
    }
    engine.generate('key', request, continuation, {
      accepted: () => {},
      tokens: (ids, text, delta) => {
        made.ids.push(...ids)
        made.pieces.push({ text, delta })
        made.answer.append(text, delta)
        made.text += text
      },
      finished: (end) => {
        made.end = end
        done(end.text)
      },
      failed: (failure) => {
        made.failure = failure
        done('')
      },
    })
  })
}
