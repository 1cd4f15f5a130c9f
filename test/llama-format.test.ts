import { Ajv2020 } from 'ajv/dist/2020.js'
import * as fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { JsonSchema } from '../proto/request.ts'
import { constraintOf } from '../worker/engines/llama/constraint.ts'
import { integerRange, integersWithin } from '../worker/engines/llama/integer-range.ts'
import { GrammarWriter, UnsupportedSchema } from '../worker/engines/llama/schema-grammar.ts'
import { begin, chat, complete, failureOf, openTiny, type TinyEngine, type Wish } from './support/tiny-engine.ts'

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

  test('fails alone where nothing may come next: the process, and the answers beside it, go on', async () => {
    const beside = begin(engine, PROMPT, { minTokens: 300, maxTokens: 300 })
    await beside.firstToken
    const { restarts } = engine.state()
    const short = schema({ type: 'object', properties: { a: { enum: ['x'] } }, required: ['a'], additionalProperties: false })
    for (const wish of [{}, { logprobs: 2 }]) {
      const failure = await failureOf(complete(engine, PROMPT, { ...short, ...wish, minTokens: 200, maxTokens: 300 }))
      expect(failure).toMatchObject({ code: 'no_token_left', retryable: false, message: expect.stringContaining('min_tokens') as string })
    }
    expect((await beside.answer).ids).toHaveLength(300)
    expect(engine.state()).toMatchObject({ phase: 'ready', restarts })
    expect(JSON.parse((await complete(engine, PROMPT, short)).text)).toEqual({ a: 'x' })
  })

  test.for([
    ['duration', /^P(\d+[YMWD])*(T(\d+[HMS])+)?$/],
    ['email', /^[^@\s]+@[^@\s.]+(\.[^@\s.]+)+$/],
    ['hostname', /^[a-z0-9-]+(\.[a-z0-9-]+)*$/],
    ['ipv4', /^((25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(\.|$)){4}$/],
    ['ipv6', /^([0-9a-f]{1,4}(:|$)){8}$/],
    ['uri', /^https?:\/\/[a-z0-9-]/],
    ['date-time', /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d/],
  ] as const)('has the format %s where its schema says so', async ([format, form]) => {
    const wish = schema({ type: 'object', properties: { v: { type: 'string', format } }, required: ['v'], additionalProperties: false })
    for (const seed of [1, 2, 3]) {
      const { text, end } = await complete(engine, PROMPT, { ...wish, seed, sampling: HOT, maxTokens: 800 })
      expect(end.reason).toBe('stop')
      expect((JSON.parse(text) as { v: string }).v).toMatch(form)
    }
  })

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

  test.each<[string, JsonSchema, (value: never) => boolean]>([
    ['far from zero', { type: 'integer', minimum: 37, maximum: 41 }, (value: number) => value >= 37 && value <= 41],
    ['on both sides of zero', { type: 'integer', exclusiveMinimum: -2, maximum: 0 }, (value: number) => value === -1 || value === 0],
    ['without an end', { type: 'integer', minimum: 123_456 }, (value: number) => value >= 123_456],
    ['or null', { type: ['integer', 'null'], minimum: 0.5, maximum: 1.5 }, (value: number | null) => value === 1 || value === null],
    [
      'narrowed twice',
      {
        allOf: [
          { type: 'integer', minimum: 8 },
          { minimum: 2, maximum: 9 },
        ],
      },
      (value: number) => value === 8 || value === 9,
    ],
    ['in a choice', { type: 'integer', minimum: 5, anyOf: [{ maximum: 6 }, { const: 9 }] }, (value: number) => [5, 6, 9].includes(value)],
  ])('is an integer within its bounds: %s', async (_where, bounds, isWithin) => {
    for (const seed of [1, 2, 3, 4]) {
      const { text, end } = await complete(engine, PROMPT, { ...schema(bounds), seed, sampling: HOT })
      expect([end.reason, text, isWithin(JSON.parse(text) as never)]).toEqual(['stop', text, true])
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

  test.each<[string, Wish, boolean]>([
    ['worth another try, which draws other numbers', { seedIsChosen: true, sampling: {} }, true],
    ['worth another try at any temperature', { seedIsChosen: true, sampling: { temperature: 1.2 } }, true],
    ['final at temperature 0', { seedIsChosen: true, sampling: { temperature: 0 } }, false],
    ['final with the caller’s own seed', { sampling: { temperature: 1.2 } }, false],
  ])('fails when it ended by itself and is not what was asked for: %s', async (_what, wish, retryable) => {
    const impossible = { type: 'boolean', not: { type: 'boolean' } }
    const failure = await failureOf(complete(engine, PROMPT, { ...schema(impossible), ...wish }))
    expect(failure).toMatchObject({ layer: 'model', code: 'schema_mismatch', retryable })
    expect(failure.message).toContain('must NOT be valid')
  })

  test.each([
    ['pattern', { type: 'string', pattern: '^(a+)+$' }],
    ['$ref', { $ref: 'https://example.com/schema' }],
    ['$ref', { $ref: '#/$defs/nobody' }],
    ['$ref', { $ref: '#' }],
    ['$ref', { $ref: '#/$defs/a', $defs: { a: { anyOf: [{ type: 'null' }, { $ref: '#/$defs/b' }] }, b: { $ref: '#/$defs/a' } } }],
    ['schema', { type: 'object', minimum: 'three' }],
    ['minimum', { type: 'integer', minimum: 5, maximum: 4 }],
    ['exclusiveMinimum', { type: 'object', properties: { size: { type: 'integer', exclusiveMinimum: 1, exclusiveMaximum: 2 } } }],
    ['minimum', { type: 'integer', minimum: 0.1, maximum: 0.9 }],
    ['minimum', { type: 'integer', minimum: 1e300 }],
  ])('is refused before it begins, with the name of the keyword %s', async (keyword, wish) => {
    const failure = await failureOf(complete(engine, PROMPT, schema(wish)))
    expect(failure).toMatchObject({ layer: 'ingress', code: 'unsupported_schema', retryable: false })
    expect(failure.message).toContain(`"${keyword}"`)
  })

  test('follows references that come back to themselves', async () => {
    const node = { type: 'object', properties: { next: { anyOf: [{ $ref: '#/$defs/node' }, { type: 'null' }] } }, required: ['next'] }
    const whole = { $ref: '#/$defs/node', $defs: { node } }
    const isOne = new Ajv2020({ strict: false }).compile(whole)
    const depths: number[] = []
    for (let seed = 1; seed <= 8; seed++) {
      const { text, end } = await complete(engine, PROMPT, { ...schema(whole), sampling: HOT, seed })
      expect([end.reason, isOne(JSON.parse(text)), text]).toEqual(['stop', true, text])
      depths.push(text.split('"next"').length - 1)
    }
    expect(Math.min(...depths)).toBe(1)
    expect(Math.max(...depths)).toBeGreaterThan(1)
  })
})

describe('the grammar of a bounded integer', () => {
  test('matches what the schema allows and nothing else', () => {
    const ajv = new Ajv2020({ strict: false })
    fc.assert(
      fc.property(bounds, fc.array(integers), (bounds, some) => {
        const schema = { type: 'integer', ...bounds }
        const allows = ajv.compile(schema)
        const borders = Object.values(bounds).flatMap((bound) => [-2, -1, 0, 1, 2].map((step) => Math.trunc(bound) + step))
        for (const integer of [...some, ...borders, 0, -1, 1].filter(Number.isSafeInteger))
          expect([integer, matches(schema, String(integer))]).toEqual([integer, allows(integer)])
      }),
      { numRuns: 500 },
    )
  })

  test('knows one way to write each', () => {
    fc.assert(
      fc.property(bounds, integers, (bounds, integer) => {
        const schema = { type: 'integer', ...bounds }
        const size = String(Math.abs(integer))
        for (const odd of ['-0', '', '-', `0${size}`, `-0${size}`, `+${size}`, `${size}.0`, `${size}e1`])
          expect([odd, matches(schema, odd)]).toEqual([odd, false])
      }),
    )
  })

  test('of one value is that value, and each border is exact to the last digit', () => {
    const last = Number.MAX_SAFE_INTEGER
    for (const value of [0, 7, -7, 10, -10, 99, 100, last, -last]) {
      const only = { minimum: value, maximum: value }
      expect([value - 1, value, value + 1].map((near) => matches(only, String(near)))).toEqual([false, true, false])
    }
    expect(matches({ minimum: last - 1 }, String(last - 2))).toBe(false)
    expect(matches({ minimum: last - 1 }, String(last - 1))).toBe(true)
    expect(matches({ minimum: 1e18 }, '1000000000000000000')).toBe(true)
    expect(matches({ minimum: 1e18 }, '999999999999999999')).toBe(false)
    expect(matches({ exclusiveMinimum: 2 ** 60 }, String(2n ** 60n + 1n))).toBe(false)
  })

  /** Without its quotes and spaces the rule is a regular expression. */
  function matches(schema: Exclude<JsonSchema, boolean>, text: string): boolean {
    const range = integerRange(schema)!
    if (range.least > range.most) return false
    return new RegExp(`^(?:${integersWithin(range).replaceAll(/["\s]/g, '')})$`).test(text)
  }

  const far = Number.MAX_SAFE_INTEGER - 3
  const powers = fc.tuple(fc.nat(15), fc.integer({ min: -2, max: 2 }), fc.constantFrom(1, -1))
  const integers = fc.oneof(
    fc.integer({ min: -120, max: 120 }),
    fc.integer({ min: -far, max: far }),
    powers.map(([power, step, sign]) => sign * (10 ** power + step)),
  )
  const bound = fc.oneof(
    { weight: 4, arbitrary: integers },
    integers.map((integer) => (Math.abs(integer) < 2 ** 40 ? integer + 0.5 : integer)),
  )
  const every = { minimum: bound, maximum: bound, exclusiveMinimum: bound, exclusiveMaximum: bound }
  const bounds = fc.record(every, { requiredKeys: [] }).filter((bounds) => Object.keys(bounds).length > 0)
})

test('a format that nothing is known of is refused, and what it may be is said', () => {
  for (const format of ['foo', 'constructor', 'Email'])
    expect(() => new GrammarWriter().value({ type: 'string', format })).toThrow(/"format" may be one of date, .*uuid, not/)
  // Of what is no text it says nothing that a grammar holds.
  expect(() => new GrammarWriter().value({ type: 'integer', format: 'int32' })).not.toThrow()
})

test.for<[string, JsonSchema, RegExp]>([
  ['number', { type: 'number', minimum: 5, maximum: 4 }, /"minimum" leaves no number/],
  ['open number', { type: 'number', exclusiveMinimum: 5, maximum: 5 }, /"exclusiveMinimum" leaves no number/],
  ['text', { type: 'string', minLength: 2, maxLength: 1 }, /"minLength" is above maxLength/],
  ['list', { type: 'array', minItems: 3, maxItems: 1 }, /"minItems" is above/],
  ['short list', { prefixItems: [true], items: false, minItems: 2 }, /"minItems" is above/],
  [
    'object',
    { properties: {}, required: ['a"b'], additionalProperties: false },
    /"required" names "a\\"b", which "additionalProperties" forbids/,
  ],
])('a schema that no %s fits is refused before anything is computed', ([, nothing, why]) => {
  expect(() => new GrammarWriter().value({ type: 'array', items: nothing })).toThrow(why)
})

test('a schema that one thing fits is no schema that nothing fits', () => {
  for (const one of [{ type: 'number', minimum: 5, maximum: 5 }, { type: 'string', minLength: 1, maxLength: 1 }, { type: 'number' }])
    expect(() => new GrammarWriter().value(one)).not.toThrow()
})

test('a schema that nests or grows without end is refused', () => {
  let deep: JsonSchema = { type: 'string' }
  for (let level = 0; level < 100; level++) deep = { type: 'array', items: deep }
  expect(() => new GrammarWriter().value(deep)).toThrow(UnsupportedSchema)
  const properties = Object.fromEntries(Array.from({ length: 6_000 }, (_, index) => [`p${index}`, { type: 'string' }]))
  expect(() => new GrammarWriter().value({ type: 'object', properties })).toThrow(/smaller schema/)
})

test('a schema that would take for ever to be held against its answer is given up on', () => {
  const form = { open: '<c>', close: '</c>', argumentsKey: 'arguments', list: false, bare: false } as const
  const pattern: JsonSchema = { enum: [`${'a'.repeat(60)}!`], not: { type: 'string', pattern: '^(a+)+$' } }
  const { faultOf } = constraintOf(schema(pattern), form, false)
  expect(faultOf?.(JSON.stringify(`${'a'.repeat(60)}!`))).toMatch(/too long to be judged/)
  expect(constraintOf(schema({ enum: ['a'] }), form, false).faultOf?.('"a"')).toBeUndefined()
})

test.each<[string, JsonSchema]>([
  [
    'allOf',
    {
      $defs: { A: { type: 'object', properties: { a: {} } } },
      allOf: [{ $ref: '#/$defs/A', description: 'x' }, { properties: { b: {} } }],
    },
  ],
  [
    'anyOf',
    {
      $defs: { A: { $ref: '#/$defs/B' }, B: { type: 'object', properties: { a: {} } } },
      properties: { b: {} },
      anyOf: [{ $ref: '#/$defs/A', title: 'x' }],
    },
  ],
])('what stands beside a reference holds with what it leads to: %s', (_where, schema) => {
  const writer = new GrammarWriter()
  const grammar = writer.grammar(writer.value(schema))
  for (const member of ['a', 'b']) expect(grammar).toContain(`"\\"${member}\\""`)
})

test('references that lead nowhere, to an anchor, or around in a circle are refused by name', () => {
  expect(() => new GrammarWriter().value({ $ref: '#name' })).toThrow(/leads to an anchor/)
  expect(() => new GrammarWriter().value({ $ref: '#/$defs/none' })).toThrow(/leads to nothing/)
  const circle = { A: { $ref: '#/$defs/B' }, B: { $ref: '#/$defs/A' } }
  for (const schema of [{ $ref: '#/$defs/A' }, { allOf: [{ $ref: '#/$defs/A' }] }])
    expect(() => new GrammarWriter().value({ ...schema, $defs: circle })).toThrow(/leads to itself/)
})

const NODE = { $ref: '#/$defs/node' }
test.each<[string, JsonSchema]>([
  ['a note', { ...NODE, description: 'x', nullable: true }],
  ['a type', { ...NODE, type: 'object' }],
  ['what it asks for', { type: 'array', items: { ...NODE, required: ['a'] } }],
  ['allOf around it', { allOf: [{ ...NODE, description: 'x' }] }],
  ['anyOf around it', { type: ['object', 'null'], anyOf: [{ ...NODE, description: 'x' }, { type: 'null' }] }],
])('a schema may refer to itself with %s', (_what, child) => {
  const writer = new GrammarWriter()
  const node: JsonSchema = { type: 'object', properties: { a: { type: 'string' }, child } }
  expect(writer.grammar(writer.value({ ...NODE, $defs: { node } })).length).toBeLessThan(5_000)
})

test('a definition that is used a hundred times is written once', () => {
  const big = {
    type: 'object',
    properties: Object.fromEntries(Array.from({ length: 60 }, (_, index) => [`m${index}`, { type: 'string' }])),
  }
  const uses = Array.from({ length: 100 }, (_, index) => [`p${index}`, { $ref: '#/$defs/big', type: 'object' }])
  expect(new GrammarWriter().value({ $defs: { big }, type: 'object', properties: Object.fromEntries(uses) })).toBeDefined()
})

const BASE: JsonSchema = { type: 'object', properties: { id: { type: 'string' } }, required: ['id'] }
test.each<[string, JsonSchema]>([
  ['allOf', { allOf: [{ $ref: '#/$defs/Base' }], properties: { v: { type: 'integer' } }, required: ['v'] }],
  ['anyOf', { properties: { v: { type: 'integer' } }, required: ['v'], anyOf: [{ $ref: '#/$defs/Base', title: 'x' }] }],
])('levels that share a base have all of it each: %s', (_how, Leaf) => {
  const leaf = { $ref: '#/$defs/Leaf' }
  const root: JsonSchema = {
    allOf: [{ $ref: '#/$defs/Base' }],
    properties: { leaf, again: leaf },
    required: ['leaf'],
    $defs: { Base: BASE, Leaf },
  }
  for (const schema of [root, { ...root, properties: { leaf: Leaf, again: leaf } }]) {
    const writer = new GrammarWriter()
    const rules = new Map(
      writer
        .grammar(writer.value(schema))
        .split('\n')
        .map((line) => line.split(' ::= ', 2) as [string, string]),
    )
    // The root says "id" and "leaf", and each leaf "id" and "v".
    const said = (member: string): number => [...rules.values()].filter((body) => body.startsWith(`"\\"${member}\\""`)).length
    expect([said('id') >= 2, said('v') >= 1, said('leaf')]).toEqual([true, true, 1])
  }
})
