/** JSON Schemas (2020-12) in few words. */
export type Schema = {
  minimum?: number
  maximum?: number
  minLength?: number
  maxLength?: number
  maxItems?: number
  [keyword: string]: unknown
}

export function text(description?: string, longest?: number): Schema {
  return said({ type: 'string', ...(longest === undefined ? {} : { minLength: 1, maxLength: longest }) }, description)
}

export function whole(description?: string, least?: number, most?: number): Schema {
  return said({ type: 'integer', ...bounds(least, most) }, description)
}

export function real(description?: string, least?: number, most?: number): Schema {
  return said({ type: 'number', ...bounds(least, most) }, description)
}

export function flag(description?: string): Schema {
  return said({ type: 'boolean' }, description)
}

export function oneOf(values: readonly string[], description?: string): Schema {
  return said({ type: 'string', enum: [...values] }, description)
}

export function list(items: Schema, description?: string, most?: number): Schema {
  return said({ type: 'array', items, ...(most === undefined ? {} : { maxItems: most }) }, description)
}

export function map(values: Schema, description?: string): Schema {
  return said({ type: 'object', additionalProperties: values }, description)
}

export function anything(description?: string): Schema {
  return said({}, description)
}

/** What is answered: every member is there, unless it is named as one that may not be. */
export function view(properties: Record<string, Schema>, optional: readonly string[] = []): Schema {
  return { type: 'object', properties, required: Object.keys(properties).filter((name) => !optional.includes(name)) }
}

/** What is sent: other members are refused. */
export function body(properties: Record<string, Schema>, required: readonly string[] = []): Schema {
  return { type: 'object', properties, ...(required.length === 0 ? {} : { required: [...required] }), additionalProperties: false }
}

export function orNull(schema: Schema): Schema {
  const { description, ...rest } = schema
  return said({ anyOf: [rest, { type: 'null' }] }, description as string | undefined)
}

export function either(schemas: readonly Schema[], description?: string): Schema {
  return said({ anyOf: [...schemas] }, description)
}

export function ref(name: string): Schema {
  return { $ref: `#/components/schemas/${name}` }
}

/** A page of a list, as every list under /api has it. */
export function pageOf(item: Schema, more: Record<string, Schema> = {}): Schema {
  return view({
    data: list(item),
    next: orNull(text('The cursor of the next page; null on the last')),
    scope: view({ teams: either([{ const: 'all' }, list(text())], 'Whose rows could be shown') }),
    ...more,
  })
}

export const ID: Schema = { type: 'string', format: 'uuid' }
export const TIME: Schema = { type: 'string', format: 'date-time' }
export const MICROS: Schema = whole('Millionths of the currency in which prices are set', 0)

function bounds(least: number | undefined, most: number | undefined): Schema {
  return { ...(least === undefined ? {} : { minimum: least }), ...(most === undefined ? {} : { maximum: most }) }
}

function said(schema: Schema, description: string | undefined): Schema {
  return description === undefined ? schema : { ...schema, description }
}
