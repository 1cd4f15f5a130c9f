import { batches } from './batches.ts'
import { chat } from './chat.ts'
import { credentials } from './credentials.ts'
import { events } from './events.ts'
import { files } from './files.ts'
import { health } from './health.ts'
import { jobs } from './jobs.ts'
import { keys } from './keys.ts'
import { messages } from './messages.ts'
import { models } from './models.ts'
import type { Answer, Noun, RequestBody, Route } from './noun.ts'
import { policies } from './policies.ts'
import { providers } from './providers.ts'
import { quotas } from './quotas.ts'
import { responses } from './responses.ts'
import { flag, oneOf, orNull, ref, type Schema, text, view, whole } from './schema.ts'
import { teams } from './teams.ts'
import { users } from './users.ts'
import { vectors } from './vectors.ts'
import { workers } from './workers.ts'

/** Dialects first, then what is Holdfast's own, then what an admin sets. */
export const NOUNS: readonly Noun[] = [
  chat,
  responses,
  messages,
  vectors,
  models,
  files,
  jobs,
  batches,
  events,
  workers,
  providers,
  policies,
  credentials,
  teams,
  users,
  keys,
  quotas,
  health,
]

export type OpenApiDocument = {
  openapi: string
  info: { title: string; version: string; description: string; license: { name: string; identifier: string } }
  paths: Record<string, Record<string, Operation>>
  components: { schemas: Record<string, Schema>; [kind: string]: unknown }
  [member: string]: unknown
}

export type Operation = {
  operationId: string
  summary: string
  description?: string
  tags: string[]
  parameters: Parameter[]
  requestBody?: { required: boolean; content: Content }
  responses: Record<string, { description: string; content: Content }>
  security?: never[]
}

export type Parameter = { name: string; in: 'path' | 'query' | 'header'; required: boolean; description?: string; schema: Schema }
export type Content = Record<string, { schema?: Schema; example?: unknown }>

/** Every route of the server as one OpenAPI 3.1 document. */
export function openApiDocument(version: string): OpenApiDocument {
  const paths: OpenApiDocument['paths'] = {}
  for (const noun of NOUNS) for (const route of noun.routes) (paths[route.path] ??= {})[route.method] = operationOf(noun, route)
  return {
    openapi: '3.1.0',
    info: { title: 'Holdfast', version, description: INTRODUCTION, license: { name: 'Apache-2.0', identifier: 'Apache-2.0' } },
    servers: [{ url: '/' }],
    security: [{ bearer: [] }, { apiKey: [] }],
    tags: NOUNS.map(({ name, about }) => ({ name, description: about })),
    paths,
    components: {
      securitySchemes: {
        bearer: { type: 'http', scheme: 'bearer' },
        apiKey: { type: 'apiKey', in: 'header', name: 'x-api-key' },
      },
      schemas: Object.assign({}, ...NOUNS.map((noun) => noun.schemas), ERRORS) as Record<string, Schema>,
    },
  }
}

const INTRODUCTION =
  'Language-model work on your own GPUs first. A key goes into "Authorization: Bearer" or "x-api-key". Lists are newest first (models and quotas by name) and come in pages; unknown parameters are refused and named. Everything that is not answered with success is an error with a stable code.'

/** Headers that say how the jobs of a request are to be run. */
const WORK_HEADERS: Record<string, Schema> = {
  'x-holdfast-priority': oneOf(['interactive', 'normal', 'batch']),
  'x-holdfast-max-wait': { type: 'number', description: 'Seconds in line after which it ends with 504' },
  'x-holdfast-max-run': { type: 'number', description: 'Seconds of running after which it ends with 504' },
  'x-holdfast-detach': { type: 'string', enum: ['true', 'false'], description: 'It goes on when the caller hangs up' },
  'x-holdfast-provider': text('It runs at this provider and nowhere else'),
  'x-holdfast-tier': oneOf(['gpu', 'cli', 'cloud'], 'It runs in this tier and nowhere else'),
  'x-holdfast-policy': text('The policy it is under'),
  traceparent: text("W3C trace context; its trace id becomes the job's"),
}

const SHARED = {
  message: text('For people: what to change'),
  code: text('Stable, for programs'),
  layer: ref('Layer'),
  retryable: flag(),
  provider_status: orNull(whole()),
  param: orNull(text('What it is about')),
  job: orNull(text('The job that ended so')),
}

const ERRORS: Record<string, Schema> = {
  Error: view({ error: view({ ...SHARED, hint: orNull(text()) }) }),
  OpenAiError: view({ error: view({ ...SHARED, type: text() }) }),
  AnthropicError: view({ type: { const: 'error' }, error: view({ ...SHARED, type: text() }), request_id: text() }),
}

function operationOf(noun: Noun, route: Route): Operation {
  const { summary, about } = route
  return {
    operationId: idOf(route),
    summary,
    ...(about === undefined ? {} : { description: about }),
    tags: [noun.name],
    parameters: parametersOf(route),
    ...(route.body === undefined ? {} : { requestBody: bodyOf(route, route.body) }),
    responses: {
      ...Object.fromEntries(
        Object.entries(route.answers).map(([status, answer]) => [status, { description: answer.about, content: contentOf(answer) }]),
      ),
      ...(isTagged(route) ? { 304: { description: 'It looks as the If-None-Match that was sent says', content: {} } } : {}),
      ...(isGuarded(route)
        ? {
            412: {
              description: 'It is not any more what the If-Match that was sent names',
              content: contentOf({ about: '', schema: ref('Error') }),
            },
          }
        : {}),
      default: { description: 'An error', content: { 'application/json': { schema: ref(errorOf(route.path)) } } },
    },
    ...(route.open === true ? { security: [] } : {}),
  }
}

/** As in `get_api_jobs_id`. */
function idOf({ method, path }: { method: string; path: string }): string {
  return `${method}_${path.replaceAll(/[^a-z0-9]+/gi, '_').replaceAll(/^_|_$/g, '')}`.replace(/_$/, '')
}

function parametersOf(route: Route): Parameter[] {
  const of = (place: Parameter['in'], schemas: Record<string, Schema>): Parameter[] =>
    Object.entries(schemas).map(([name, { description, ...schema }]) => ({
      name,
      in: place,
      required: place === 'path',
      ...(typeof description === 'string' ? { description } : {}),
      schema,
    }))
  return [
    ...of('path', Object.fromEntries(Object.entries(route.params ?? {}).map(([name, what]) => [name, text(what)]))),
    ...of('query', route.query ?? {}),
    ...of('header', {
      ...route.headers,
      ...(route.repeatable === true ? { 'idempotency-key': text('Sent again with it, it is the same thing and not another', 255) } : {}),
      ...(route.makesWork === true ? WORK_HEADERS : {}),
      ...(isTagged(route) ? { 'if-none-match': text('An ETag; 304 while it is the same') } : {}),
      ...(isGuarded(route) ? { 'if-match': text('An ETag; 412 when it is not the same any more') } : {}),
    }),
  ]
}

/** What etags.ts does to the views of single things. */
function isTagged({ method, path }: Route): boolean {
  return method === 'get' && SINGLE_THING.test(path)
}

function isGuarded({ method, path }: Route): boolean {
  return (method === 'patch' || method === 'delete') && SINGLE_THING.test(path)
}

const SINGLE_THING = /^\/api\/[a-z]+\/\{id\}$/

function bodyOf(
  { path }: Route,
  { schema, example, type = 'application/json', optional, alsoAs = {} }: RequestBody,
): NonNullable<Operation['requestBody']> {
  const content: Content = { [type]: { schema, ...(example === undefined ? {} : { example }) } }
  if (path.startsWith('/api/') && type === 'application/json') content['application/yaml'] = { schema }
  for (const [other, its] of Object.entries(alsoAs)) content[other] = { schema: its }
  return { required: optional !== true, content }
}

function contentOf({ schema, type = 'application/json', alsoAs = {} }: Answer): Content {
  const others = Object.entries(alsoAs).map(([other, its]) => [other, { schema: its }])
  return { [type]: schema === undefined ? {} : { schema }, ...Object.fromEntries(others) }
}

function errorOf(path: string): string {
  if (path.startsWith('/v1/messages')) return 'AnthropicError'
  return path.startsWith('/v1/') ? 'OpenAiError' : 'Error'
}
