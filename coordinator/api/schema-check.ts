import { Ajv, type ValidateFunction } from 'ajv'
import draft7Schema from 'ajv/dist/refs/json-schema-draft-07.json' with { type: 'json' }
import { Ajv2020 } from 'ajv/dist/2020.js'
import { nameOfStep } from '../../proto/json-pointer.ts'
import type { JsonSchema } from '../../proto/request.ts'
import { badRequest } from '../core/fault.ts'
import { isObject } from './body.ts'

/**
 * Refuses what is no JSON Schema, so that a broken one is told to its author and not met by a model. It is held against the
 * meta-schema of its draft, and references and patterns are tried by hand: that is linear in its size, whereas compiling a
 * schema of 170 kB took ajv four seconds, in which nobody else would have been served.
 */
export function checkSchema(schema: unknown, at: string): JsonSchema {
  if (!isObject(schema)) throw badRequest('invalid_schema', `${at} must be a JSON Schema object.`, at)
  const bytes = jsonBytes(schema, at)
  if (bytes > BYTES_MAX) throw wrong(at, `has ${bytes} bytes; at most ${BYTES_MAX} are taken`)
  try {
    new Walk(schema).visit(schema, 0)
  } catch (error) {
    throw wrong(at, (error as Error).message)
  }
  const { $schema, ...plain } = schema
  const meta = typeof $schema === 'string' && /draft-0[4-7]/.test($schema) ? draft7() : draft2020()
  if (meta(plain)) return schema
  const [first] = meta.errors ?? []
  throw wrong(at, `${first?.instancePath.replace(/^\//, '').replaceAll('/', '.') || 'it'} ${first?.message ?? 'does not fit its draft'}`)
}

/** Its size as JSON. What is nested so deep that it cannot be written down again is refused. */
export function jsonBytes(value: unknown, at: string): number {
  try {
    return Buffer.byteLength(JSON.stringify(value))
  } catch (error) {
    if (!(error instanceof RangeError)) throw error
    throw badRequest('nested_too_deep', `${at} is nested too deep.`, at)
  }
}

const BYTES_MAX = 128 * 1024
const DEPTH_MAX = 64

const options = { strict: false, validateFormats: false, logger: false } as const
const draft7 = once(() => new Ajv(options).compile(withoutUniqueValues(draft7Schema)))
const draft2020 = once(() => new Ajv2020(options).getSchema('https://json-schema.org/draft/2020-12/schema') as ValidateFunction)

/** That the values of an enum differ would be looked up pair by pair. */
function withoutUniqueValues(schema: typeof draft7Schema): object {
  const { uniqueItems: _, ...values } = schema.properties.enum
  return { ...schema, $id: 'draft-07', properties: { ...schema.properties, enum: values } }
}

function once<T>(make: () => T): () => T {
  let made: T | undefined
  return () => (made ??= make())
}

function wrong(at: string, why: string): Error {
  return badRequest('invalid_schema', `${at} is not a valid JSON Schema: ${why}.`, at)
}

class Walk {
  readonly #root: Record<string, unknown>

  constructor(root: Record<string, unknown>) {
    this.#root = root
  }

  visit(schema: unknown, depth: number): void {
    if (depth > DEPTH_MAX) throw new Error(`it is nested more than ${DEPTH_MAX} deep`)
    if (Array.isArray(schema)) for (const part of schema) this.visit(part, depth + 1)
    if (!isObject(schema)) return
    if (typeof schema.$ref === 'string') this.#resolve(schema.$ref)
    if (typeof schema.pattern === 'string') compile(schema.pattern)
    for (const [name, part] of Object.entries(schema)) {
      if (VALUES.has(name)) continue
      if (!MAPS.has(name) || !isObject(part)) this.visit(part, depth + 1)
      else
        for (const [key, member] of Object.entries(part)) {
          if (name === 'patternProperties') compile(key)
          this.visit(member, depth + 1)
        }
    }
  }

  #resolve(reference: string): void {
    if (!/^#(\/|$)/.test(reference))
      throw new Error(`"$ref": "${reference.slice(0, 100)}" must point into the schema itself, as "#/$defs/name" does`)
    let found: unknown = this.#root
    for (const step of reference.split('/').slice(1)) {
      const key = nameOfStep(step)
      found = Array.isArray(found) ? found[Number(key)] : isObject(found) && Object.hasOwn(found, key) ? found[key] : undefined
    }
    if (found === undefined) throw new Error(`"$ref": "${reference.slice(0, 100)}" points to nothing`)
  }
}

/** Members that hold values, in which nothing is a schema. */
const VALUES = new Set(['const', 'enum', 'default', 'examples', 'example'])
/** Members that hold schemas by names, which may be any. */
const MAPS = new Set(['properties', 'patternProperties', '$defs', 'definitions', 'dependentSchemas'])

function compile(pattern: string): RegExp {
  try {
    return new RegExp(pattern, 'u')
  } catch {
    throw new Error(`"${pattern.slice(0, 100)}" is not a regular expression`)
  }
}
