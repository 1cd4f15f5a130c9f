import { mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { binaryArray, type Element, type ElementType } from '../coordinator/store/binary-array.ts'
import { Db } from '../coordinator/store/db.ts'
import { EmbeddedPostgres } from '../coordinator/store/embedded.ts'

let dir: string
let postgres: EmbeddedPostgres
let db: Db
beforeAll(async () => {
  dir = mkdtempSync(path.join(os.tmpdir(), 'holdfast-test-'))
  postgres = await EmbeddedPostgres.start(dir, { info: () => {}, warn: () => {}, error: () => {}, debug: () => {} })
  db = new Db({ socketDir: postgres.socketDir })
})
afterAll(async () => {
  await db.close()
  await postgres.stop()
  rmSync(dir, { recursive: true, force: true })
})

/** What PostgreSQL makes of the array, element by element, as text. */
async function readBack(type: ElementType, values: Element[], shown: string): Promise<(string | null)[]> {
  const rows = await db.query(`select ${shown} as shown from unnest($1::${type}[]) with ordinality as x(v, n) order by n`, [
    binaryArray(type, values, (value) => value),
  ])
  return rows.map((row) => row.shown as string | null)
}

const text = fc.string({ unit: 'grapheme' }).map((value) => value.replaceAll('\0', ''))
const cases: [ElementType, fc.Arbitrary<Element>, string, (value: Element) => string][] = [
  ['uuid', fc.uuid(), 'v::text', String],
  ['uuid', fc.uuid().map((id) => id.toUpperCase()), 'v::text', (value) => String(value).toLowerCase()],
  ['text', text, 'v', String],
  ['json', fc.json(), 'v::text', String],
  ['bytea', fc.uint8Array().map((bytes) => Buffer.from(bytes)), `encode(v, 'hex')`, (value) => (value as Buffer).toString('hex')],
  ['integer', fc.integer(), 'v::text', String],
  ['bigint', fc.maxSafeInteger(), 'v::text', String],
  ['boolean', fc.boolean(), 'v::text', String],
  ['timestamptz', fc.integer({ min: -60_000_000_000, max: 4_000_000_000_000 }), `(extract(epoch from v) * 1000)::bigint::text`, String],
]

test.each(cases)('an array of %s arrives as it was, nulls included', async (type, value, shown, expected) => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.option(value), { minLength: 1, maxLength: 40 }), async (values) => {
      expect(await readBack(type, values, shown)).toEqual(values.map((one) => (one === null ? null : expected(one))))
    }),
    { numRuns: 60 },
  )
})

test('an array larger than what was set aside for one arrives whole', async () => {
  const values = Array.from({ length: 50 }, (_, index) => `${index}`.repeat(20_000))
  expect(await readBack('text', values, 'v')).toEqual(values)
})
