import { Validator } from '@seriousme/openapi-schema-validator'
import { Ajv2020 } from 'ajv/dist/2020.js'
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { parseCountRequest, parseMessagesRequest } from '../coordinator/api/anthropic-request.ts'
import type { ApiParts } from '../coordinator/api/health.ts'
import { parseEmbeddingsRequest } from '../coordinator/api/openai-embeddings.ts'
import { parseChatRequest, parseCompletionRequest } from '../coordinator/api/openai-request.ts'
import { parseResponseRequest } from '../coordinator/api/openai-responses-request.ts'
import { openApiDocument } from '../coordinator/api/openapi/document.ts'
import type { Schema } from '../coordinator/api/openapi/schema.ts'
import { buildServer } from '../coordinator/api/server.ts'
import { Fault } from '../coordinator/core/fault.ts'
import { ADMIN_KEY, World } from './support/world.ts'

const registered = vi.hoisted(() => [] as { method: string; url: string }[])

vi.mock('fastify', async (original) => {
  const { default: fastify } = await original<typeof import('fastify')>()
  return {
    default: (options: object) => {
      const app = fastify(options)
      app.addHook('onRoute', ({ method, url }) => {
        for (const one of [method].flat()) if (one !== 'HEAD') registered.push({ method: one, url })
      })
      return app
    },
  }
})

const document = openApiDocument('0.0.0')
const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) => ({
    method: method.toUpperCase(),
    path,
    operation,
    name: `${method.toUpperCase()} ${path}`,
  })),
)

test('every route of the server is described, and nothing else', async () => {
  const app = buildServer({ version: '0.0.0' } as ApiParts)
  await app.ready()
  const known = registered.map(({ method, url }) => `${method} ${url.replaceAll(/:(\w+)/g, '{$1}')}`)
  expect(operations.map(({ name }) => name).toSorted()).toEqual([...new Set(known)].toSorted())
  await app.close()
})

test('the document is valid OpenAPI 3.1, and all that it refers to is there', async () => {
  const { valid, errors } = await new Validator().validate(structuredClone(document) as Record<string, unknown>)
  expect({ valid, errors }).toEqual({ valid: true, errors: undefined })
  const refs = [...JSON.stringify(document).matchAll(/"#\/components\/schemas\/(\w+)"/g)].map((match) => match[1] ?? '')
  expect(refs.filter((name) => document.components.schemas[name] === undefined)).toEqual([])
  expect(Object.keys(document.components.schemas).filter((name) => !refs.includes(name))).toEqual([])
  const ids = operations.map(({ operation }) => operation.operationId)
  expect(new Set(ids).size).toBe(ids.length)
  for (const { name, path, operation } of operations) {
    const declared = operation.parameters.filter((parameter) => parameter.in === 'path').map((parameter) => parameter.name)
    expect([name, declared]).toEqual([name, [...path.matchAll(/\{(\w+)\}/g)].map((match) => match[1])])
  }
})

test('every example is what its schema asks for', () => {
  for (const { name, operation } of operations)
    for (const { schema, example } of Object.values(operation.requestBody?.content ?? {}))
      if (example !== undefined) expect([name, faultsOf(schema ?? {}, example)]).toEqual([name, []])
})

test.each<[string, (body: unknown) => unknown]>([
  ['/v1/chat/completions', parseChatRequest],
  ['/v1/completions', parseCompletionRequest],
  ['/v1/responses', parseResponseRequest],
  ['/v1/messages', parseMessagesRequest],
  ['/v1/messages/count_tokens', parseCountRequest],
  ['/v1/embeddings', parseEmbeddingsRequest],
])('the members of %s that are described are those that are taken', (path, parse) => {
  const schema = document.paths[path]?.post?.requestBody?.content['application/json']?.schema ?? {}
  expect(schema.additionalProperties).toBe(false)
  const described = Object.keys(schema.properties as object)
  const codeOf = (name: string): string => {
    try {
      parse({ [name]: 1 })
    } catch (error) {
      if (error instanceof Fault && error.param === name) return error.code
    }
    return 'taken'
  }
  // Whatever could be the name of one stands somewhere in the code that reads them.
  const folder = new URL('../coordinator/api/', import.meta.url)
  const files = readdirSync(folder).filter((file) => /^(openai|anthropic)/.test(file))
  const words = new Set(files.flatMap((file) => readFileSync(new URL(file, folder), 'utf8').match(/\b[a-z][a-z_0-9]*\b/g) ?? []))
  const taken = [...words].filter((name) => !['unknown_parameter', 'unsupported_parameter'].includes(codeOf(name)))
  expect(described.filter((name) => codeOf(name) === 'unknown_parameter')).toEqual([])
  expect(taken.filter((name) => !described.includes(name))).toEqual([])
})

describe('a running coordinator', () => {
  let world: World
  const ids: Record<string, string> = {}

  beforeAll(async () => {
    world = await World.open()
    await world.coordinator()
    await world.worker('a', 'tiny=fake:?slots=2')
    const messages = [{ role: 'user', content: 'x' }]
    ids.jobs = await idOf('/api/jobs', { model: 'tiny', messages, max_tokens: 2 })
    ids.batches = await idOf('/api/batches', { model: 'tiny', rows: [{ row_key: 'a', messages, max_tokens: 2 }] })
    ids.teams = await idOf('/api/teams', { name: 'red' })
    ids.users = await idOf('/api/users', { email: 'ann@example.com' })
    ids.keys = await idOf('/api/keys', { name: 'k', kind: 'team', team: 'red' })
    ids.credentials = await idOf('/api/credentials', { name: 'c', secret: 'a secret' })
    ids.policies = await idOf('/api/policies', { name: 'p', tiers: { gpu: 'at_once', cloud: { after_s: 5 } } })
    const cloud = { name: 'far', tier: 'cloud', kind: 'openai', base_url: 'http://127.0.0.1:9/v1', models: [{ name: 'm' }] }
    ids.providers = await idOf('/api/providers', cloud)
    ids.workers = 'a'
    ids.models = 'tiny'
    ids.responses = await idOf('/v1/responses', { model: 'tiny', input: 'x', max_output_tokens: 16 })
    const form = new FormData()
    form.set('purpose', 'batch')
    const line = { custom_id: 'a', method: 'POST', url: '/v1/chat/completions', body: { model: 'tiny', messages, max_tokens: 2 } }
    form.set('file', new File([JSON.stringify(line)], 'rows.jsonl'))
    const file = await fetch(`${world.url}/v1/files`, { method: 'POST', headers: { authorization: `Bearer ${ADMIN_KEY}` }, body: form })
    ids.files = ((await file.json()) as { id: string }).id
    ids['v1/batches'] = await idOf('/v1/batches', { input_file_id: ids.files, endpoint: '/v1/chat/completions', completion_window: '24h' })
    await world.request('PUT', '/api/models/aliases/other', { target: 'tiny' })
    await world.until('the job has ended', async () => (await world.job(ids.jobs ?? '')).status === 'succeeded')
  })
  afterAll(() => world.close())

  test('answers what is described, without a member more', async () => {
    let checked = 0
    for (const { method, path, operation, name } of operations) {
      const schema = operation.responses['200']?.content['application/json']?.schema
      if (method !== 'GET' || schema === undefined) continue
      const response = await world.request('GET', targetOf(path))
      expect([name, response.status, faultsOf(schema, await response.json(), true)]).toEqual([name, 200, []])
      checked += 1
    }
    expect(checked).toBeGreaterThan(25)
  })

  test('answers to work, refusals and things made are as described too', async () => {
    const messages = [{ role: 'user', content: 'x' }]
    const asked: [string, string, unknown, number][] = [
      ['post', '/v1/chat/completions', { model: 'tiny', messages, max_tokens: 2 }, 200],
      ['post', '/v1/completions', { model: 'tiny', prompt: 'x', max_tokens: 2, logprobs: 1 }, 200],
      ['post', '/v1/responses', { model: 'tiny', input: 'x' }, 200],
      ['post', '/v1/messages', { model: 'tiny', messages, max_tokens: 2 }, 200],
      ['post', '/v1/messages/count_tokens', { model: 'tiny', messages }, 200],
      ['post', '/v1/embeddings', { model: 'tiny', input: 'x' }, 200],
      ['post', '/v1/rerank', { model: 'tiny', query: 'x', documents: ['y'], return_documents: true }, 200],
      ['post', '/api/teams', { name: 'blue' }, 201],
      ['post', '/api/keys', { name: 'other', kind: 'worker' }, 201],
      ['post', '/api/teams', {}, 400],
      ['post', '/v1/chat/completions', {}, 400],
      ['post', '/v1/messages', {}, 400],
    ]
    for (const [method, path, body, status] of asked) {
      const responses = document.paths[path]?.[method]?.responses
      const schema = (responses?.[status] ?? responses?.default)?.content['application/json']?.schema ?? {}
      const response = await world.request('POST', path, body)
      expect([path, response.status, faultsOf(schema, await response.json(), true)]).toEqual([path, status, []])
    }
  })

  test('knows the query parameters and the members of bodies that are described, and no others', async () => {
    for (const { method, path, operation, name } of operations) {
      if (method === 'GET') {
        const known = await namesKnown(await world.request('GET', `${targetOf(path)}?no_such_name=1`))
        const described = operation.parameters.filter((parameter) => parameter.in === 'query').map((parameter) => parameter.name)
        // Of one route the answer's shape decides which there are.
        if (path !== '/v1/models') expect([name, known?.toSorted() ?? []]).toEqual([name, described.toSorted()])
        continue
      }
      const schema = operation.requestBody?.content['application/json']?.schema
      if (schema?.additionalProperties !== false) continue
      const known = await namesKnown(await world.request(method, targetOf(path), { no_such_name: 1 }))
      if (known !== undefined) expect([name, known.toSorted()]).toEqual([name, Object.keys(schema.properties as object).toSorted()])
      else expect(path).toMatch(/^\/v1\//)
    }
  })

  test('shows the description to who has no key, as a page that loads nothing and runs nothing', async () => {
    expect(await (await fetch(`${world.url}/api/openapi.json`)).json()).toMatchObject({ openapi: '3.1.0', paths: { '/api/jobs': {} } })
    const response = await fetch(`${world.url}/docs`)
    expect([response.status, response.headers.get('content-type')]).toEqual([200, 'text/html; charset=utf-8'])
    const page = await response.text()
    expect(page).not.toMatch(/<(script|link|img|iframe|form)\b|@import|url\(|\son\w+=|style=/)
    const style = /<style>([^<]*)<\/style>/.exec(page)?.[1] ?? ''
    const policy = response.headers.get('content-security-policy') ?? ''
    expect(policy).toContain(`style-src 'sha256-${createHash('sha256').update(style).digest('base64')}'`)
    expect(policy).toContain("default-src 'none'")
    const anchors = [...page.matchAll(/\sid="([^"]+)"/g)].map((match) => match[1])
    expect(new Set(anchors).size).toBe(anchors.length)
    const links = [...page.matchAll(/href="([^"]+)"/g)].map((match) => match[1] ?? '')
    expect(links.filter((link) => !anchors.includes(link.slice(1)))).toEqual(['/api/openapi.json'])
    for (const { operation } of operations) expect(anchors).toContain(operation.operationId)
  })

  async function idOf(target: string, body: unknown): Promise<string> {
    const response = await world.request('POST', target, body)
    if (!response.ok) throw new Error(`POST ${target}: ${response.status} ${await response.text()}`)
    return ((await response.json()) as { id: string }).id
  }

  function targetOf(path: string): string {
    const [, root = '', noun = ''] = path.split('/')
    const id = path.startsWith('/v1/models') ? 'tiny' : (ids[`${root}/${noun}`] ?? ids[noun] ?? 'none')
    return path.replace('{id}', id).replace('{name}', 'other')
  }
})

/** What the refusal of an unknown name says are the known ones; undefined where it was not refused for that. */
async function namesKnown(response: Response): Promise<string[] | undefined> {
  const text = response.headers.get('content-type')?.startsWith('application/json') === true ? await response.text() : ''
  await response.body?.cancel().catch(() => {})
  const known = /Known: ([\w, -]*)\./.exec(text)?.[1]
  return known === undefined ? undefined : known.split(', ').filter((name) => name !== '')
}

/** `exactly`: what is not described may not be there. */
function faultsOf(schema: Schema, value: unknown, exactly = false): string[] {
  const whole = { ...schema, components: document.components }
  const ajv = new Ajv2020({ strict: false, validateFormats: false, allErrors: true })
  const validate = ajv.compile(exactly ? (closed(whole) as Schema) : whole)
  if (validate(value)) return []
  return (validate.errors ?? []).map(({ instancePath, message, params }) => `${instancePath} ${message} ${JSON.stringify(params)}`)
}

function closed(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(closed)
  if (typeof value !== 'object' || value === null) return value
  const schema = Object.fromEntries(Object.entries(value).map(([name, member]) => [name, closed(member)]))
  const isView = schema.type === 'object' && schema.properties !== undefined && schema.additionalProperties === undefined
  return isView ? { ...schema, additionalProperties: false } : schema
}
