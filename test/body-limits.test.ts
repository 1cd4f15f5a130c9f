import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parseLines } from '../coordinator/api/batches.ts'
import { checkSchema } from '../coordinator/api/schema-check.ts'
import { Turn } from '../coordinator/api/turn.ts'
import { manyValues } from '../coordinator/api/well-formed.ts'
import { World } from './support/world.ts'

/** What is legal by its bytes and would keep everybody else waiting, or end the process. */

let world: World

beforeAll(async () => {
  world = await World.open()
  await world.coordinator()
})
afterAll(() => world.close())

async function refused(target: string, body: string, type: string): Promise<[number, string]> {
  const response = await world.request('POST', target, body, { 'content-type': type })
  return [response.status, ((await response.json()) as { error: { code: string } }).error.code]
}

describe('small things in large numbers', () => {
  test('are counted: objects, lists, names and what stands behind the first in one, and nothing inside a text', () => {
    expect(manyValues('[{},{}]', 3)).toBeInstanceOf(Error)
    expect(manyValues('[{},{}]', 4)).toBeNull()
    expect(manyValues('{"a":"b","c":1}', 3)).toBeInstanceOf(Error)
    expect(manyValues('{"a":"b","c":1}', 4)).toBeNull()
    expect(manyValues('["{[{[\\"{[\\\\","x"]', 3)).toBeNull()
    expect(manyValues('[1,null,true]', 2)).toBeInstanceOf(Error)
    expect(manyValues('[1,null,true]', 3)).toBeNull()
    expect(manyValues('["never closed', 2)).toBeNull()
  })

  test('are refused at the doors, where as many bytes of text are not', async () => {
    const many = `[${'{},'.repeat(600_000)}{}]`
    for (const target of ['/v1/chat/completions', '/v1/responses', '/v1/messages', '/api/jobs'])
      expect(await refused(target, many, 'application/json'), target).toEqual([400, 'too_many_values'])
    const text = JSON.stringify({ model: 'none', messages: [{ role: 'user', content: '{},"[]"'.repeat(400_000) }] })
    expect(await refused('/v1/chat/completions', text, 'application/json')).toEqual([404, 'model_not_found'])
    expect(await refused('/api/batches', `{"row_key":"1","messages":${many}}\n`, 'application/jsonl')).toEqual([400, 'too_many_values'])
    expect(await refused('/api/batches', `[${'{},'.repeat(4_100_000)}{}]`, 'application/json')).toEqual([400, 'too_many_values'])
  })

  test('are refused as lines, and only where lines are taken', async () => {
    expect(await refused('/api/batches', '\n'.repeat(4_000_000), 'application/jsonl')).toEqual([400, 'invalid_rows'])
    expect(await refused('/api/batches', '{}\n'.repeat(100_001), 'application/x-ndjson')).toEqual([400, 'invalid_rows'])
    expect(await refused('/v1/chat/completions', '\n', 'application/jsonl')).toEqual([415, 'unsupported_media_type'])
  })
})

test('lines are parsed with a mark of their byte order, carriage returns and gaps, and others have their turn meanwhile', async () => {
  expect(await parseLines(Buffer.from('\ufeff{"a":1}\r\n\n{"b":"ü"}'))).toEqual([{ a: 1 }, { b: 'ü' }])
  await expect(parseLines(Buffer.from('{}\n{'))).rejects.toThrow('Line 2 is not valid JSON.')
  await expect(parseLines(Buffer.from([0x7b, 0x7d, 0x0a, 0xff]))).rejects.toThrow('Line 2 is not UTF-8.')
  let turns = 0
  const others = setInterval(() => (turns += 1), 0)
  await parseLines(Buffer.from(`{"text":"${'x'.repeat(500)}"}\n`.repeat(90_000)))
  clearInterval(others)
  expect(turns).toBeGreaterThan(0)
  expect(new Turn().isOver).toBe(false)
})

test('that the values of an enum differ is not looked up pair by pair', () => {
  const draft7 = { $schema: 'http://json-schema.org/draft-07/schema#' }
  // A search for pairs would find this one.
  expect(checkSchema({ ...draft7, enum: [[0], [0]] }, 'schema')).toBeDefined()
  expect(checkSchema({ ...draft7, type: 'array', items: [{ type: 'string' }] }, 'schema')).toBeDefined()
  expect(() => checkSchema({ ...draft7, properties: { a: { enum: [] } } }, 'schema')).toThrow('properties.a.enum')
  expect(() => checkSchema({ ...draft7, type: 'thing' }, 'schema')).toThrow('schema is not a valid JSON Schema')
  expect(() => checkSchema({ type: 'thing' }, 'schema')).toThrow('schema is not a valid JSON Schema')
})
