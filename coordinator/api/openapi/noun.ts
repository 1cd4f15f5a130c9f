import type { Schema } from './schema.ts'

/** The routes of one noun and the schemas that they speak in. */
export type Noun = {
  name: string
  about: string
  routes: Route[]
  schemas: Record<string, Schema>
}

/** One route, described. The parts that all routes of its kind share are added by document.ts. */
export type Route = {
  method: 'get' | 'post' | 'put' | 'patch' | 'delete'
  /** With its parameters as `{id}`. */
  path: string
  summary: string
  about?: string
  /** What each parameter of the path is. */
  params?: Record<string, string>
  query?: Record<string, Schema>
  headers?: Record<string, Schema>
  body?: RequestBody
  /** Status → what is answered with it. */
  answers: Record<number, Answer>
  /** Needs no key. */
  open?: true
  /** Makes jobs, and so takes the headers that say how. */
  makesWork?: true
  /** Takes an `idempotency-key`. */
  repeatable?: true
}

export type RequestBody = { schema: Schema; example?: unknown; type?: string; optional?: true; alsoAs?: Record<string, Schema> }

export type Answer = { about: string; schema?: Schema; type?: string; alsoAs?: Record<string, Schema> }

/** The answer as JSON. */
export function json(schema: Schema, about: string): Answer {
  return { about, schema }
}

/** The body as JSON, with an example. */
export function sent(schema: Schema, example: unknown): RequestBody {
  return { schema, example }
}

export const PAGED: Record<string, Schema> = {
  limit: { type: 'integer', minimum: 1, maximum: 200, default: 50, description: 'Rows of a page' },
  cursor: { type: 'string', format: 'uuid', description: 'The "next" of the page before' },
}

/** Of lists whose rows are known by names. */
export const PAGED_BY_NAME: Record<string, Schema> = {
  ...PAGED,
  cursor: { type: 'string', description: 'The "next" of the page before' },
}

export const NAME_OR_ID = { id: 'Its id or name' }
