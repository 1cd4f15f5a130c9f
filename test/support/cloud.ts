import { Upstream } from './upstream.ts'
import type { World } from './world.ts'

/** An upstream of its own, and the cloud provider that leads to it, offering one model that nobody else has. */
export type Cloud = { name: string; model: string; upstream: Upstream; credential: string; id: string }

export type CloudSettings = {
  kind?: 'openai' | 'anthropic'
  /** The name that callers know the model by. */
  model?: string
  /** Besides name, address, credential and the one model. */
  [setting: string]: unknown
}

/** A dollar for a million tokens of prompt, four for as many of an answer. */
const PRICES = { input_micros_per_mtok: 1_000_000, output_micros_per_mtok: 4_000_000 }
export const SECRET = 'sk-very-secret-'
let made = 0

export async function addCloud(world: World, { kind = 'openai', model, ...settings }: CloudSettings = {}): Promise<Cloud> {
  const upstream = await Upstream.open()
  const name = `cloud-${++made}`
  const offered = model ?? `${name}-model`
  const credential = `${name}-key`
  upstream.key = SECRET + name
  await send(world, 'POST', '/api/credentials', { name: credential, secret: upstream.key })
  const { id } = await send(world, 'POST', '/api/providers', {
    name,
    tier: 'cloud',
    kind,
    base_url: kind === 'openai' ? `${upstream.url}/v1` : upstream.url,
    credential,
    models: [{ name: offered, upstream: 'large', ...PRICES }],
    ...settings,
  })
  return { name, model: offered, upstream, credential, id: String(id) }
}

/** A request that must succeed. */
export async function send(
  world: World,
  method: string,
  path: string,
  body?: unknown,
  headers: Record<string, string> = {},
): Promise<Record<string, unknown>> {
  const response = await world.request(method, path, body, headers)
  const text = await response.text()
  if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text.slice(0, 500)}`)
  return JSON.parse(text) as Record<string, unknown>
}

export type Refused = { status: number; code: string; param: string | null; message: string; retryAfter: string | null }

/** A request that must be refused. */
export async function refused(
  world: World,
  method: string,
  path: string,
  body?: unknown,
  headers: Record<string, string> = {},
): Promise<Refused> {
  const response = await world.request(method, path, body, headers)
  const { error } = (await response.json()) as { error?: { code: string; param: string | null; message: string } }
  if (response.ok || error === undefined) throw new Error(`${method} ${path} was not refused: ${response.status}`)
  return { status: response.status, ...pick(error), retryAfter: response.headers.get('retry-after') }
}

function pick({
  code,
  param,
  message,
}: {
  code: string
  param: string | null
  message: string
}): Pick<Refused, 'code' | 'param' | 'message'> {
  return { code, param, message }
}

/** An asynchronous job of one word. */
export async function enqueue(
  world: World,
  model: string,
  headers: Record<string, string> = {},
  extra: Record<string, unknown> = {},
): Promise<string> {
  const body = { model, messages: [{ role: 'user', content: 'hello' }], ...extra }
  return String((await send(world, 'POST', '/api/jobs', body, headers)).id)
}

export type Job = {
  id: string
  status: string
  model: string
  provider: string | null
  worker: string | null
  tier: string | null
  cost_micros: number
  attempts: {
    number: number
    provider: string
    status: string
    started_at: string
    error: { code: string; provider_status: number | null } | null
  }[]
  waiting: { reason: string; until: string | null; detail: string | null } | null
  output: { text: string } | null
  error: { code: string; message: string; provider_status: number | null } | null
  usage: { prompt_tokens: number; completion_tokens: number } | null
}

export async function readJob(world: World, id: string): Promise<Job> {
  return (await world.get(`/api/jobs/${id}`)) as Job
}

/** The job once it has ended, or was parked. */
export function ended(world: World, id: string): Promise<Job> {
  return world.until(`job ${id} ends`, async () => {
    const job = (await world.get(`/api/jobs/${id}?wait_s=10`)) as Job
    return ['succeeded', 'failed', 'cancelled', 'parked'].includes(job.status) && job
  })
}

/** The job while it waits for the given reason. */
export function waitsFor(world: World, id: string, reason: string): Promise<Job> {
  return world.until(`job ${id} waits: ${reason}`, async () => {
    const job = await readJob(world, id)
    return job.status === 'queued' && job.waiting?.reason === reason && job
  })
}

export type Provider = {
  state: string
  reason: string | null
  until: string | null
  busy: number
  spent_micros_today: number
  models: { name: string }[]
}

export async function readProvider(world: World, name: string): Promise<Provider> {
  return (await world.get(`/api/providers/${name}`)) as Provider
}

/** The provider once it is in the given state. */
export function inState(world: World, name: string, state: string): Promise<Provider> {
  return world.until(`provider ${name} is ${state}`, async () => {
    const provider = await readProvider(world, name)
    return provider.state === state && provider
  })
}
