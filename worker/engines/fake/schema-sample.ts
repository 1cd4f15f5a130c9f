import { nameOfStep } from '../../../proto/json-pointer.ts'
import type { JsonSchema } from '../../../proto/request.ts'
import type { Chance } from './words.ts'

/**
 * A value that fulfils a JSON Schema: types, enumerations, bounds, properties, items and references within the schema.
 * `pattern`, `not` and conditions are beyond it, as they are beyond the grammars of most real engines. So is what would be larger than
 * any answer: a schema of four lines can stand for more values than there are atoms.
 */
export function sampleOf(schema: JsonSchema, chance: Chance): unknown {
  return new Sampler(schema, chance).value(schema, 0)
}

class Sampler {
  readonly #root: JsonSchema
  readonly #chance: Chance
  #place = 0
  #steps = 0

  constructor(root: JsonSchema, chance: Chance) {
    this.#root = root
    this.#chance = chance
  }

  value(given: unknown, depth: number): unknown {
    const schema = this.#resolved(given)
    // A schema that requires itself has no finite value; the limits end the attempt to write it down.
    if (schema === undefined || depth > DEPTH_MAX || this.#steps > STEPS_MAX) return null
    if ('const' in schema) return schema.const
    if (Array.isArray(schema.enum) && schema.enum.length > 0) return schema.enum[this.#next() % schema.enum.length]
    const [either] = [...list(schema.anyOf), ...list(schema.oneOf)]
    if (either !== undefined) return this.value(isObject(either) ? { ...withoutChoices(schema), ...either } : either, depth + 1)
    switch (typeOf(schema)) {
      case 'object':
        return this.#object(schema, depth)
      case 'array':
        return this.#array(schema, depth)
      case 'integer':
        return this.#number(schema, 1)
      case 'number':
        return this.#number(schema, 0.5)
      case 'boolean':
        return this.#next() % 2 === 0
      case 'null':
        return null
      default:
        return this.#string(schema)
    }
  }

  #object(schema: Fields, depth: number): Fields {
    const required = list(schema.required)
    const made: Fields = {}
    for (const [name, property] of Object.entries(isObject(schema.properties) ? schema.properties : {}))
      if (depth < OPTIONAL_DEPTH_MAX || required.includes(name)) made[name] = this.value(property, depth + 1)
    for (const name of required) if (typeof name === 'string' && !(name in made)) made[name] = this.#word()
    return made
  }

  #array(schema: Fields, depth: number): unknown[] {
    const tuple = Array.isArray(schema.items) ? schema.items : list(schema.prefixItems)
    const least = Math.max(numeric(schema.minItems) ?? 1, tuple.length)
    const count = Math.min(least, numeric(schema.maxItems) ?? least, ITEMS_MAX)
    const items = Array.isArray(schema.items) ? true : (schema.items ?? true)
    const made: unknown[] = []
    for (let index = 0; index < count && this.#steps <= STEPS_MAX; index++)
      made.push(this.value(index < tuple.length ? tuple[index] : items, depth + 1))
    return made
  }

  #number(schema: Fields, step: number): number {
    const by = numeric(schema.multipleOf) ?? step
    const above = numeric(schema.exclusiveMinimum)
    const below = numeric(schema.exclusiveMaximum)
    const most = numeric(schema.maximum) ?? (below === undefined ? undefined : below - step)
    const least = numeric(schema.minimum) ?? (above === undefined ? undefined : above + step) ?? Math.min(0, most ?? 0)
    const first = Math.ceil(least / by) * by
    const room = Math.floor(((most ?? first + 20 * by) - first) / by)
    return room <= 0 ? first : first + (this.#next() % (Math.min(room, 20) + 1)) * by
  }

  #string(schema: Fields): string {
    const known = typeof schema.format === 'string' ? FORMATS[schema.format] : undefined
    if (known !== undefined) return known
    let made = this.#word()
    while (made.length < Math.min(numeric(schema.minLength) ?? 0, LENGTH_MAX)) made += ` ${this.#word()}`
    this.#steps += Math.ceil(made.length / STEP_CHARS)
    return made.slice(0, numeric(schema.maxLength) ?? made.length)
  }

  /** References are followed and `allOf` is joined; undefined: nothing but null would do. */
  #resolved(schema: unknown, hops = 0): Fields | undefined {
    if (schema === true || schema === undefined) return { type: 'string' }
    this.#steps += 1
    if (!isObject(schema) || hops > DEPTH_MAX || this.#steps > STEPS_MAX) return undefined
    if (typeof schema.$ref === 'string') return this.#resolved(this.#find(schema.$ref), hops + 1)
    let joined = schema
    for (const part of list(schema.allOf)) {
      const resolved = this.#resolved(part, hops + 1) ?? {}
      joined = {
        ...resolved,
        ...joined,
        properties: {
          ...(isObject(joined.properties) ? joined.properties : {}),
          ...(isObject(resolved.properties) ? resolved.properties : {}),
        },
        required: [...list(joined.required), ...list(resolved.required)],
      }
    }
    return joined
  }

  #find(reference: string): unknown {
    let found: unknown = this.#root
    for (const step of reference.replace(/^#\/?/, '').split('/'))
      if (step !== '') found = isObject(found) ? found[nameOfStep(step)] : undefined
    return found
  }

  #word(): string {
    this.#place += 1
    return this.#chance.word(this.#place)
  }

  #next(): number {
    this.#place += 1
    return this.#chance.at(this.#place)
  }
}

type Fields = Record<string, unknown>

const DEPTH_MAX = 32
// Schemas looked into; some milliseconds.
const STEPS_MAX = 10_000
const STEP_CHARS = 100
// Deeper than this only what is required is made: a tree that may have children has none.
const OPTIONAL_DEPTH_MAX = 4
const ITEMS_MAX = 1_000
const LENGTH_MAX = 10_000

const FORMATS: Record<string, string> = {
  date: '2026-01-31',
  'date-time': '2026-01-31T12:00:00Z',
  time: '12:00:00Z',
  duration: 'P1D',
  email: 'amber@example.com',
  hostname: 'example.com',
  ipv4: '192.0.2.1',
  ipv6: '2001:db8::1',
  uri: 'https://example.com/amber',
  uuid: '01900000-0000-7000-8000-000000000000',
}

function typeOf(schema: Fields): unknown {
  const type: unknown = Array.isArray(schema.type) ? schema.type[0] : schema.type
  if (type !== undefined) return type
  if ('properties' in schema || 'required' in schema) return 'object'
  if ('items' in schema || 'prefixItems' in schema) return 'array'
  if (['minimum', 'maximum', 'multipleOf', 'exclusiveMinimum', 'exclusiveMaximum'].some((name) => name in schema)) return 'number'
  return 'string'
}

function withoutChoices({ anyOf: _any, oneOf: _one, ...rest }: Fields): Fields {
  return rest
}

function list(value: unknown): unknown[] {
  return Array.isArray(value) ? value : []
}

function numeric(value: unknown): number | undefined {
  return typeof value === 'number' ? value : undefined
}

function isObject(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
