import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { JsonSchema } from '../proto/request.ts'
import { GrammarWriter, UnsupportedSchema } from '../worker/engines/llama/schema-grammar.ts'
import { begin, chat, complete, failureOf, openTiny, type TinyEngine } from './support/tiny-engine.ts'

const PROMPT = chat('What is the queue for?')
const HOT = { temperature: 1.2, topK: 0, topP: 1, minP: 0 }

function schema(schema: JsonSchema) {
  return { format: { kind: 'schema', name: 'answer', schema, strict: true } as const }
}

const TICKET: JsonSchema = {
  type: 'object',
  properties: {
    title: { type: 'string', minLength: 1, maxLength: 12 },
    urgent: { type: 'boolean' },
    tags: { type: 'array', items: { enum: ['red', 'green'] }, maxItems: 2 },
    size: { type: 'integer' },
    due: { anyOf: [{ type: 'string', format: 'date' }, { type: 'null' }] },
  },
  required: ['title', 'urgent', 'tags', 'due'],
  additionalProperties: false,
}

describe('an answer that is to be JSON', () => {
  let engine: TinyEngine

  beforeAll(async () => {
    engine = await openTiny()
  })

  afterAll(() => engine.close())

  test('is what its schema says, whatever chance wants', async () => {
    for (const seed of [1, 2, 3, 4, 5]) {
      const { text, end } = await complete(engine, PROMPT, { ...schema(TICKET), seed, sampling: HOT })
      expect(end.reason).toBe('stop')
      const ticket = JSON.parse(text)
      expect(Object.keys(ticket).filter((name) => name !== 'size')).toEqual(['title', 'urgent', 'tags', 'due'])
      expect([typeof ticket.title, typeof ticket.urgent, Array.isArray(ticket.tags)]).toEqual(['string', 'boolean', true])
      expect(ticket.title.length).toBeLessThanOrEqual(12)
    }
  })

  test('is an object where no schema is given', async () => {
    const { text, end } = await complete(engine, PROMPT, { format: { kind: 'json' }, maxTokens: 1500, sampling: HOT, seed: 3 })
    expect(text.trimStart().startsWith('{')).toBe(true)
    if (end.reason === 'stop') expect(typeof JSON.parse(text)).toBe('object')
  })

  test('goes on from any of its tokens within the same grammar', async () => {
    const whole = await complete(engine, PROMPT, schema(TICKET))
    for (let forced = 0; forced <= whole.ids.length; forced += 17) {
      const rest = await complete(engine, PROMPT, { ...schema(TICKET), continuation: whole.ids.slice(0, forced) })
      expect(rest.ids).toEqual(whole.ids.slice(forced))
      expect(whole.text.endsWith(rest.text)).toBe(true)
    }
  })

  test('stays within its grammar when its stream moves into another slot', async () => {
    const neighbours = Array.from({ length: 2 }, () => begin(engine, { kind: 'text', text: 'a' }, { sampling: { temperature: 1 } }))
    const list: JsonSchema = { type: 'array', items: { type: 'integer' }, minItems: 40, maxItems: 40 }
    const held = begin(engine, PROMPT, { ...schema(list), sampling: HOT })
    await Promise.all([held.firstToken, ...neighbours.map(({ firstToken }) => firstToken)])
    for (const { cancel } of neighbours) cancel()
    expect(JSON.parse((await held.answer).text)).toHaveLength(40)
  })

  test('is not judged when it was cut by a limit or by a stop string', async () => {
    const cut = await complete(engine, PROMPT, { ...schema(TICKET), maxTokens: 4 })
    expect(cut.end.reason).toBe('length')
    const stopped = await complete(engine, PROMPT, { ...schema(TICKET), stop: ['"urgent"'] })
    expect(stopped.end).toMatchObject({ reason: 'stop', stopSequence: '"urgent"' })
    expect(stopped.text).not.toContain('urgent')
  })

  test('fails when it ended by itself and is not what was asked for', async () => {
    const impossible = { type: 'integer', minimum: 1e18 }
    const failure = await failureOf(complete(engine, PROMPT, schema(impossible)))
    expect(failure).toMatchObject({ layer: 'model', code: 'schema_mismatch', retryable: true })
    expect(failure.message).toContain('must be >= 1000000000000000000')
  })

  test.each([
    ['pattern', { type: 'string', pattern: '^(a+)+$' }],
    ['$ref', { $ref: 'https://example.com/schema' }],
    ['$ref', { $ref: '#/$defs/nobody' }],
    ['schema', { type: 'object', minimum: 'three' }],
  ])('is refused before it begins, with the name of the keyword %s', async (keyword, wish) => {
    const failure = await failureOf(complete(engine, PROMPT, schema(wish)))
    expect(failure).toMatchObject({ layer: 'ingress', code: 'unsupported_schema', retryable: false })
    expect(failure.message).toContain(`"${keyword}"`)
  })

  test('follows references that come back to themselves, but not those that say nothing', async () => {
    const node = { type: 'object', properties: { next: { anyOf: [{ $ref: '#/$defs/node' }, { type: 'null' }] } }, required: ['next'] }
    const { text } = await complete(engine, PROMPT, { ...schema({ $ref: '#/$defs/node', $defs: { node } }), sampling: HOT, maxTokens: 900 })
    expect(text.startsWith('{')).toBe(true)
    const failure = await failureOf(complete(engine, PROMPT, schema({ $ref: '#' })))
    expect(failure.retryable).toBe(false)
  })
})

test('a schema that nests or grows without end is refused', () => {
  let deep: JsonSchema = { type: 'string' }
  for (let level = 0; level < 100; level++) deep = { type: 'array', items: deep }
  expect(() => new GrammarWriter().value(deep)).toThrow(UnsupportedSchema)
  const properties = Object.fromEntries(Array.from({ length: 6_000 }, (_, index) => [`p${index}`, { type: 'string' }]))
  expect(() => new GrammarWriter().value({ type: 'object', properties })).toThrow(/smaller schema/)
})
