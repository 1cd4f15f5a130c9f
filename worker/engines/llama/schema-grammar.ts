import { nameOfStep } from '../../../proto/json-pointer.ts'
import type { JsonSchema } from '../../../proto/request.ts'
import { integerRange, integersWithin } from './integer-range.ts'

/** The schema says something that no answer could be held to; `keyword` is what to take out of it. */
export class UnsupportedSchema extends Error {
  readonly keyword: string

  constructor(keyword: string, why: string) {
    super(`the schema's "${keyword}" ${why}`)
    this.keyword = keyword
  }
}

/**
 * Writes grammars (GBNF, what llama.cpp holds an answer to while it is generated) for JSON of a schema. The language of a
 * grammar holds all that the schema allows up to order of members, and where a keyword only narrows (`multipleOf`, `not`,
 * `if`, `uniqueItems`, bounds of numbers that need not be whole …) more than that: the finished answer is validated as well. Members come in the schema's order, for
 * a grammar of every order would have a rule for every subset; texts of a format are its plain cases.
 */
export class GrammarWriter {
  readonly #rules = new Map<string, string>()
  /** Rules of schemas that are named by references, by where they are. */
  readonly #references = new Map<string, string>()
  /** References that are being followed, with nothing of JSON between them and here. */
  #entered = new Set<string>()
  /** Rules of bounded integers, by what they match. */
  readonly #integers = new Map<string, string>()
  #root: JsonSchema = true
  /** References with a note in whose place stands what they lead to, around here. */
  #inlined = new Set<string>()

  /** A rule for one JSON value of the schema; returns what matches it. */
  value(schema: JsonSchema): string {
    this.#root = schema
    this.#references.clear()
    this.#entered.clear()
    this.#inlined.clear()
    return this.#any(schema, 0)
  }

  /** A rule of one's own; returns its name. */
  rule(body: string): string {
    const name = `r${this.#rules.size}`
    this.#add(name, body)
    return name
  }

  /** The whole grammar, with this as its beginning. */
  grammar(root: string): string {
    return ['root ::= ' + root, ...[...this.#rules].map(([name, body]) => `${name} ::= ${body}`)].join('\n')
  }

  #add(name: string, body: string): void {
    // Grammars are parsed while nobody's next token comes.
    if (this.#rules.size >= RULES_MAX) throw new UnsupportedSchema('properties', `make more than ${RULES_MAX} rules: send a smaller schema`)
    this.#rules.set(name, body)
  }

  #named(name: keyof typeof SHARED): string {
    if (!this.#rules.has(name)) {
      this.#add(name, SHARED[name])
      for (const other of Object.keys(SHARED) as (keyof typeof SHARED)[])
        if (new RegExp(`\\b${other}\\b`).test(SHARED[name])) this.#named(other)
    }
    return name
  }

  #any(schema: JsonSchema, depth: number): string {
    if (depth > DEPTH_MAX) throw new UnsupportedSchema('properties', `are nested deeper than ${DEPTH_MAX}: flatten the schema`)
    if (schema === true) return this.#named('value')
    if (schema === false) throw new UnsupportedSchema('false', 'allows nothing: remove it')
    for (const keyword of UNSUPPORTED) if (keyword in schema) throw new UnsupportedSchema(keyword, 'cannot be honoured here: remove it')
    if (typeof schema.$ref === 'string') return this.#reference(schema.$ref, depth)
    if (Array.isArray(schema.enum)) return alternatives(schema.enum.map(literalOf))
    if ('const' in schema) return literalOf(schema.const)
    const choices = schema.anyOf ?? schema.oneOf
    if (Array.isArray(choices)) {
      const beside = besideChoices(schema)
      const bodies = (choices as JsonSchema[]).map((choice) =>
        beside === undefined ? this.#any(choice, depth + 1) : this.#joined(beside, [choice], depth),
      )
      return this.rule(alternatives(bodies))
    }
    if (Array.isArray(schema.allOf)) {
      const { allOf, ...beside } = schema
      const [only, ...others] = allOf as JsonSchema[]
      // So that a note may stand beside a reference: it stays one rule, however often it is referred to.
      if (only !== undefined && others.length === 0 && !asserts(beside)) return this.#any(only, depth + 1)
      return this.#joined(beside, allOf as JsonSchema[], depth)
    }
    return this.#typed(schema, depth)
  }

  #typed(schema: SchemaObject, depth: number): string {
    const { type } = schema
    if (Array.isArray(type)) return this.rule(alternatives(type.map((one) => this.#typed({ ...schema, type: one as string }, depth))))
    if (type === 'object' || (type === undefined && ('properties' in schema || 'additionalProperties' in schema)))
      return this.#within(() => this.#object(schema, depth))
    if (type === 'array' || (type === undefined && ('items' in schema || 'prefixItems' in schema)))
      return this.#within(() => this.#array(schema, depth))
    if (type === 'string') return this.#string(schema)
    if (type === 'integer') return this.#integer(schema)
    if (type === 'number') return this.#number(schema)
    if (type === 'boolean' || type === 'null') return this.#named(type)
    if (type === undefined) return this.#named('value')
    throw new UnsupportedSchema('type', `names ${JSON.stringify(type).slice(0, 50)}, which is no type of JSON`)
  }

  #object(schema: SchemaObject, depth: number): string {
    const properties = Object.entries((schema.properties ?? {}) as Record<string, JsonSchema>)
    const required = new Set(Array.isArray(schema.required) ? schema.required : [])
    const members = properties.map(([name, value]) => ({
      member: this.rule(`${literalOf(name)} ${this.#named('ws')} ":" ws ${this.#any(value, depth + 1)}`),
      required: required.has(name),
    }))
    for (const name of required) if (!properties.some(([known]) => known === name)) members.push(this.#unnamed(schema, String(name), depth))
    const more = this.#additional(schema, depth)
    return this.rule(`"{" ${this.#named('ws')} ${this.#members(members, more)} ws "}"`)
  }

  #unnamed(schema: SchemaObject, name: string, depth: number): Member {
    const { additionalProperties } = schema
    if (additionalProperties === false)
      throw new UnsupportedSchema(
        'required',
        `names ${JSON.stringify(name.slice(0, 50))}, which "additionalProperties" forbids: describe it in "properties"`,
      )
    const value = (additionalProperties ?? true) as JsonSchema
    return { member: this.rule(`${literalOf(name)} ${this.#named('ws')} ":" ws ${this.#any(value, depth + 1)}`), required: true }
  }

  /** What members without a name of their own match; a schema that names members and does not ask for others gets none. */
  #additional(schema: SchemaObject, depth: number): string | undefined {
    const { additionalProperties = schema.properties === undefined } = schema
    if (additionalProperties === false) return undefined
    const value = this.#any(additionalProperties as JsonSchema, depth + 1)
    return this.rule(`${this.#named('string')} ${this.#named('ws')} ":" ws ${value}`)
  }

  /** Rule i stands for the members from i on when one stands before them, so commas are where they belong. */
  #members(members: readonly Member[], more: string | undefined): string {
    let after = more === undefined ? '' : this.rule(`("," ${this.#named('ws')} ${more})*`)
    let first = more === undefined ? '""' : `(${more} ${after})?`
    for (const { member, required } of members.toReversed()) {
      const here = `${member} ${after}`
      first = required ? here : this.rule(`${here} | ${first}`)
      const following = `"," ${this.#named('ws')} ${here}`
      after = this.rule(required ? following : `${following} | ${after === '' ? '""' : after}`)
    }
    return first
  }

  #array(schema: SchemaObject, depth: number): string {
    const tuple = Array.isArray(schema.items) ? schema.items : Array.isArray(schema.prefixItems) ? schema.prefixItems : []
    const rest = (Array.isArray(schema.items) ? schema.additionalItems : schema.items) as JsonSchema | undefined
    const first = (tuple as JsonSchema[]).map((item) => this.#any(item, depth + 1))
    const least = bounded(schema.minItems) ?? 0
    const most = rest === false ? first.length : bounded(schema.maxItems)
    if (most !== undefined && least > most)
      throw new UnsupportedSchema('minItems', 'is above what the list may hold, so none fits: widen the bounds')
    const item = rest === false ? undefined : this.#any(rest ?? true, depth + 1)
    const comma = `"," ${this.#named('ws')}`
    const places: string[] = []
    // Nested optional places: the third item only after the second.
    for (let place = Math.max(first.length, least) - 1; place >= 0; place--) {
      const here = `${place > 0 ? `${comma} ` : ''}${first[place] ?? item ?? this.#named('value')}`
      const following = places[0] ?? (item === undefined ? '' : this.#moreItems(Math.max(first.length, least), most, item, comma))
      places.unshift(place < least ? `${here} ${following}` : this.rule(`(${here} ${following})?`))
    }
    const inside = places[0] ?? (item === undefined ? '' : this.#moreItems(0, most, item, comma))
    return this.rule(`"[" ws ${inside} ws "]"`)
  }

  #moreItems(before: number, most: number | undefined, item: string, comma: string): string {
    if (most !== undefined && most <= before) return ''
    if (before > 0) return `(${comma} ${item})${most === undefined ? '*' : `{0,${most - before}}`}`
    return `(${item} (${comma} ${item})${most === undefined ? '*' : `{0,${most - 1}}`})?`
  }

  #string(schema: SchemaObject): string {
    if (typeof schema.format === 'string') {
      const format = Object.hasOwn(FORMATS, schema.format) ? FORMATS[schema.format] : undefined
      if (format === undefined)
        throw new UnsupportedSchema('format', `may be one of ${Object.keys(FORMATS).join(', ')}, not "${schema.format.slice(0, 50)}"`)
      return this.rule(format)
    }
    const least = bounded(schema.minLength) ?? 0
    const most = bounded(schema.maxLength)
    if (least === 0 && most === undefined) return this.#named('string')
    if (most !== undefined && least > most)
      throw new UnsupportedSchema('minLength', 'is above maxLength, so no text fits: widen the bounds')
    return this.rule(`"\\"" ${this.#named('char')}{${least},${most ?? ''}} "\\""`)
  }

  /** Bounds only narrow it: the finished answer is validated. */
  #number(schema: SchemaObject): string {
    const { minimum, exclusiveMinimum, maximum, exclusiveMaximum } = schema
    const numbers = (values: unknown[]): number[] => values.filter((value): value is number => typeof value === 'number')
    const least = Math.max(...numbers([minimum, exclusiveMinimum]))
    const most = Math.min(...numbers([maximum, exclusiveMaximum]))
    if (least > most || (least === most && (least === exclusiveMinimum || most === exclusiveMaximum)))
      throw new UnsupportedSchema(boundOf(schema), 'leaves no number to answer with: widen the bounds')
    return this.#named('number')
  }

  #integer(schema: SchemaObject): string {
    const range = integerRange(schema)
    if (range === undefined) return this.#named('integer')
    if (range.least > range.most) throw new UnsupportedSchema(boundOf(schema), 'leaves no integer to answer with: widen the bounds')
    const body = integersWithin(range)
    // Lists of like members would otherwise spell the same digits again and again.
    const rule = this.#integers.get(body) ?? this.rule(body)
    this.#integers.set(body, rule)
    return rule
  }

  /** Whatever is in brackets may refer to what is around them. */
  #within(make: () => string): string {
    const around = this.#entered
    this.#entered = new Set()
    const rule = make()
    this.#entered = around
    return rule
  }

  #reference(pointer: string, depth: number): string {
    if (this.#entered.has(pointer))
      throw new UnsupportedSchema('$ref', `leads to itself (${pointer.slice(0, 100)}), which nothing can match: let it lead somewhere`)
    const known = this.#references.get(pointer)
    if (known !== undefined) return known
    const name = `ref${this.#rules.size}`
    this.#references.set(pointer, name)
    this.#entered.add(pointer)
    // A place for it first: the schema may refer to itself.
    this.#add(name, '')
    this.#rules.set(name, this.#any(this.#target(pointer), depth + 1))
    this.#entered.delete(pointer)
    return name
  }

  /** All of them at once, with what references lead to in their place. */
  #joined(beside: SchemaObject, parts: readonly JsonSchema[], depth: number): string {
    const around = new Set(this.#inlined)
    const rule = this.#any(parts.map((part) => this.#resolved(part)).reduce(joined, beside), depth + 1)
    this.#inlined = around
    return rule
  }

  #resolved(schema: JsonSchema): JsonSchema {
    let found = schema
    for (let steps = 0; typeof found === 'object' && typeof found.$ref === 'string'; steps++) {
      const { $ref, ...beside } = found
      // A circle is told of by its name.
      if (steps >= DEPTH_MAX) return found
      // With a note beside it, it is the same, but for one that is being written already and would be without end.
      if (asserts(beside) || (Object.keys(beside).length > 0 && this.#inlined.has($ref))) return found
      if (Object.keys(beside).length > 0) this.#inlined.add($ref)
      found = this.#target($ref)
    }
    return found
  }

  #target(pointer: string): JsonSchema {
    if (!pointer.startsWith('#'))
      throw new UnsupportedSchema('$ref', `leads outside of the schema (${pointer.slice(0, 100)}): write it inside`)
    if (!/^#(\/|$)/.test(pointer))
      throw new UnsupportedSchema('$ref', `leads to an anchor (${pointer.slice(0, 100)}): write its path, such as #/$defs/name`)
    let found: unknown = this.#root
    for (const step of pointer.slice(1).split('/').slice(1))
      found = typeof found === 'object' && found !== null ? Reflect.get(found, nameOfStep(step)) : undefined
    if (typeof found !== 'boolean' && (typeof found !== 'object' || found === null))
      throw new UnsupportedSchema('$ref', `leads to nothing (${pointer.slice(0, 100)})`)
    return found as JsonSchema
  }
}

type SchemaObject = Exclude<JsonSchema, boolean>
type Member = { member: string; required: boolean }

/** Text as a grammar writes it. */
export function quoted(text: string): string {
  return `"${text.replace(/[\\"]/g, '\\$&').replaceAll('\n', '\\n').replaceAll('\r', '\\r').replaceAll('\t', '\\t')}"`
}

const RULES_MAX = 5_000
const DEPTH_MAX = 64

/** `pattern` would have to be tried on the answer, and the regular expressions of strangers can take for ever. */
const UNSUPPORTED = ['pattern', 'patternProperties', '$dynamicRef', '$recursiveRef']

/** Spelled out repetitions beyond this make grammars slow; the answer is validated anyway. */
const REPETITIONS_MAX = 512

/** The keyword to name where bounds contradict each other. */
function boundOf(schema: SchemaObject): string {
  return BOUNDS.find((keyword) => typeof schema[keyword] === 'number') ?? 'minimum'
}

function bounded(value: unknown): number | undefined {
  return typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= REPETITIONS_MAX ? value : undefined
}

/** Few white spaces in a row: a model that likes them would never come to its answer. Numbers have as many digits as can be meant. */
const SHARED = {
  ws: '(" " | "\\n" [ ]{0,16})?',
  char: '[^"\\\\\\x7F\\x00-\\x1F] | "\\\\" (["\\\\bfnrt/] | "u" [0-9a-fA-F]{4})',
  string: '"\\"" char* "\\""',
  integer: '"-"? ("0" | [1-9] [0-9]{0,15})',
  number: '"-"? ("0" | [1-9] [0-9]{0,15}) ("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,2})?',
  boolean: '"true" | "false"',
  null: '"null"',
  object: '"{" ws (string ws ":" ws value (ws "," ws string ws ":" ws value)*)? ws "}"',
  array: '"[" ws (value (ws "," ws value)*)? ws "]"',
  value: 'object | array | string | number | boolean | null',
} as const

const DAY = '[0-9]{4} "-" ("0" [1-9] | "1" [0-2]) "-" ("0" [1-9] | [12] [0-9] | "3" [01])'
const TIME =
  '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{1,6})? ("Z" | [-+] ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9])'
const LABEL = '[a-z0-9] ([a-z0-9-]{0,30} [a-z0-9])?'
const HOST = `${LABEL} ("." ${LABEL}){0,4}`
const OCTET = '("25" [0-5] | "2" [0-4] [0-9] | "1" [0-9] [0-9] | [1-9]? [0-9])'
const COUNT = '[0-9]{1,4}'
const CLOCK = `"T" (${COUNT} "H" (${COUNT} "M")? (${COUNT} "S")? | ${COUNT} "M" (${COUNT} "S")? | ${COUNT} "S")`
/** Of what is of a format the plain cases: no quoted name before an @, no shortened address. */
const FORMATS: Readonly<Record<string, string>> = {
  date: `"\\"" ${DAY} "\\""`,
  time: `"\\"" ${TIME} "\\""`,
  'date-time': `"\\"" ${DAY} "T" ${TIME} "\\""`,
  duration: `"\\"" "P" (${COUNT} "W" | ${COUNT} "Y" (${COUNT} "M")? (${COUNT} "D")? (${CLOCK})? | ${COUNT} "M" (${COUNT} "D")? (${CLOCK})? | ${COUNT} "D" (${CLOCK})? | ${CLOCK}) "\\""`,
  email: `"\\"" [a-z0-9_+-]{1,20} ("." [a-z0-9_+-]{1,20}){0,2} "@" ${LABEL} ("." ${LABEL}){1,3} "\\""`,
  hostname: `"\\"" ${HOST} "\\""`,
  ipv4: `"\\"" ${OCTET} ("." ${OCTET}){3} "\\""`,
  ipv6: '"\\"" [0-9a-f]{1,4} (":" [0-9a-f]{1,4}){7} "\\""',
  uri: `"\\"" "http" "s"? "://" ${HOST} ("/" [a-zA-Z0-9._~-]{0,40}){0,6} "\\""`,
  uuid: '"\\"" [0-9a-f]{8} "-" [0-9a-f]{4} "-" [0-9a-f]{4} "-" [0-9a-f]{4} "-" [0-9a-f]{12} "\\""',
}

/** What holds beside each of the choices; undefined: nothing, so that a choice that is a reference stays one. */
function besideChoices({ anyOf: _anyOf, oneOf: _oneOf, ...schema }: SchemaObject): SchemaObject | undefined {
  return asserts(schema) ? schema : undefined
}

function asserts(schema: SchemaObject): boolean {
  return Object.keys(schema).some((keyword) => ASSERTIONS.has(keyword))
}

/** Keywords that a grammar has words for. Others say nothing that it could hold, and there are many of them. */
const ASSERTIONS = new Set([
  ...['$ref', 'type', 'enum', 'const', 'anyOf', 'oneOf', 'allOf', 'properties', 'required', 'additionalProperties', 'items', 'prefixItems'],
  ...['additionalItems', 'minItems', 'maxItems', 'minLength', 'maxLength', 'format'],
  ...['minimum', 'exclusiveMinimum', 'maximum', 'exclusiveMaximum', 'pattern', 'patternProperties', '$dynamicRef', '$recursiveRef'],
])

function alternatives(bodies: readonly string[]): string {
  if (bodies.length === 0) throw new UnsupportedSchema('enum', 'offers nothing to choose from')
  return bodies.length === 1 ? bodies[0]! : `(${bodies.join(' | ')})`
}

function literalOf(value: unknown): string {
  return quoted(JSON.stringify(value))
}

const BOUNDS = ['minimum', 'exclusiveMinimum', 'maximum', 'exclusiveMaximum'] as const

/** Both schemas at once, as far as a grammar needs it: members together, the narrower bound, the right one's word for the rest. */
function joined(left: JsonSchema, right: JsonSchema): JsonSchema {
  if (left === false || right === false) return false
  if (left === true) return right
  if (right === true) return left
  const both: Record<string, unknown> = { ...left, ...right }
  if (left.properties !== undefined || right.properties !== undefined)
    both.properties = { ...(left.properties as object | undefined), ...(right.properties as object | undefined) }
  if (Array.isArray(left.required) || Array.isArray(right.required))
    both.required = [...((left.required as string[] | undefined) ?? []), ...((right.required as string[] | undefined) ?? [])]
  for (const bound of BOUNDS) {
    const [one, other] = [left[bound], right[bound]]
    if (typeof one === 'number' && typeof other === 'number')
      both[bound] = bound === 'minimum' || bound === 'exclusiveMinimum' ? Math.max(one, other) : Math.min(one, other)
  }
  return both
}
