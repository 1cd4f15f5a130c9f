import { afterAll, beforeAll, expect, test } from 'vitest'
import { Purses } from '../coordinator/engine/purses.ts'
import { addCloud, type Cloud, ended, enqueue, readJob, readProvider, refused, send, waitsFor } from './support/cloud.ts'
import { type Running, World } from './support/world.ts'

/** Patience and purses on a running system: when a job may go where it costs money, and who may spend how much. */

let world: World
let coordinator: Running
let worker: Running
let cloud: Cloud
/** Holds the only local slot of the model that the cloud offers too. */
let hog: string

beforeAll(async () => {
  world = await World.open()
  coordinator = await world.coordinator()
  worker = await world.worker('a', 'shared=fake:?slots=1&rate=20 own=fake:?slots=4')
  cloud = await addCloud(world, { model: 'shared' })
  hog = await enqueue(world, 'shared', { 'x-holdfast-tier': 'gpu' }, { max_tokens: 100_000 })
  await world.until('the local slot is taken', async () => (await readJob(world, hog)).status === 'running')
  await policy('at-once', { gpu: 'at_once', cloud: 'at_once' })
  await policy('soon', { gpu: 'at_once', cloud: { after_s: 2 } })
  await policy('offline', { gpu: 'at_once', cloud: 'when_offline' })
  await policy('local', { gpu: 'at_once', cloud: 'never' })
})
afterAll(() => world.close())

function policy(name: string, tiers: Record<string, unknown>, extra: Record<string, unknown> = {}): Promise<Record<string, unknown>> {
  return send(world, 'POST', '/api/policies', { name, tiers, ...extra })
}

const under = (name: string): Record<string, string> => ({ 'x-holdfast-policy': name })

/** The headers of a key of a new team. */
async function team(
  name: string,
  rules: Record<string, unknown> = {},
  limits: Record<string, unknown> = {},
): Promise<{ headers: Record<string, string>; key: string }> {
  await send(world, 'POST', '/api/teams', { name, ...rules })
  const { id, key } = await send(world, 'POST', '/api/keys', { name: `${name}-app`, kind: 'team', team: name, limits })
  return { headers: { authorization: `Bearer ${String(key)}` }, key: String(id) }
}

type Candidate = { provider: string; tier: string; eligible: boolean; why_not: string | null }
type Decision = {
  rule: string
  policy: string
  chosen: string | null
  candidates: Candidate[]
  waited_ms: number
  history?: Decision[]
}

async function decision(id: string): Promise<Decision> {
  return (await world.get(`/api/jobs/${id}/decision`)) as Decision
}

function whyNot({ candidates }: Decision): Record<string, string | null> {
  return Object.fromEntries(candidates.map((candidate) => [candidate.provider, candidate.why_not]))
}

test('the header names the policy, else the team does, else the default holds', async () => {
  const rich = await team('rich', { policy: 'at-once' })
  expect(await ended(world, await enqueue(world, 'shared', under('at-once')))).toMatchObject({ tier: 'cloud', policy: 'at-once' })
  expect(await ended(world, await enqueue(world, 'shared', rich.headers))).toMatchObject({ tier: 'cloud', policy: 'at-once' })
  const waiting = [await enqueue(world, 'shared', { ...rich.headers, ...under('local') }), await enqueue(world, 'shared')]
  for (const [index, id] of waiting.entries()) {
    expect((await waitsFor(world, id, 'all_slots_busy')).attempts).toEqual([])
    expect(await decision(id)).toMatchObject({ rule: 'waiting', chosen: null, policy: index === 0 ? 'local' : 'default' })
    expect(whyNot(await decision(id))).toEqual({
      a: 'all_slots_busy',
      [cloud.name]: index === 0 ? 'tier_never_opens' : 'tier_not_open_yet',
    })
    await send(world, 'POST', `/api/jobs/${id}/cancel`, {})
  }
  // A team's policy can be taken from it, and then it is under the default one.
  await send(world, 'PATCH', '/api/teams/rich', { policy: null })
  expect(await readJob(world, await enqueue(world, 'shared', rich.headers))).toMatchObject({ status: 'queued', policy: null })
})

test('a job that has waited long enough spills, and its record says after what and why not before', async () => {
  const id = await enqueue(world, 'shared', under('soon'))
  await waitsFor(world, id, 'all_slots_busy')
  expect(whyNot(await decision(id))).toEqual({ a: 'all_slots_busy', [cloud.name]: 'tier_not_open_yet' })
  expect(await ended(world, id)).toMatchObject({ status: 'succeeded', tier: 'cloud' })
  const made = await decision(id)
  expect(made).toMatchObject({ rule: expect.stringMatching(/^after_s\//) as string, chosen: cloud.name, policy: 'soon', history: [] })
  expect(whyNot(made)).toEqual({ a: 'all_slots_busy', [cloud.name]: null })
  expect(made.waited_ms).toBeGreaterThanOrEqual(2_000)
})

test('a decision is kept for every attempt', async () => {
  const spare = await addCloud(world)
  const broken = await addCloud(world, { model: spare.model })
  for (const { upstream } of [spare, broken]) upstream.plan({ refuse: { status: 503 } })
  const { history = [], ...last } = await decision((await ended(world, await enqueue(world, spare.model))).id)
  const [first, second] = [history[0]?.chosen ?? '', history[1]?.chosen ?? '']
  expect(new Set([first, second])).toEqual(new Set([spare.name, broken.name]))
  expect(whyNot(history[1] as Decision)).toEqual({ [first]: 'cooling_down', [second]: null })
  expect(last).toMatchObject({ attempt: 3, chosen: expect.any(String) as string })
})

const NEVER = [
  { tiers: { gpu: 'never', cli: 'never', cloud: 'never' }, code: 'policy_never_opens', param: 'tiers' },
  { tiers: {}, code: 'policy_never_opens', param: 'tiers' },
  { tiers: { cloud: 'when_offline' }, code: 'policy_never_opens', param: 'tiers.cloud' },
  { tiers: { gpu: 'when_offline', cloud: 'at_once' }, code: 'policy_never_opens', param: 'tiers.gpu' },
  { tiers: { gpu: 'at_once', moon: 'at_once' }, code: 'unknown_tier', param: 'tiers.moon' },
  { tiers: { gpu: 'now' }, code: 'invalid_tiers', param: 'tiers.gpu' },
  { tiers: { gpu: { after_s: -1 } }, code: 'out_of_range', param: 'tiers.gpu.after_s' },
  { tiers: { gpu: { after_s: '3' } }, code: 'invalid_tiers', param: 'tiers.gpu' },
  { tiers: { gpu: { after_s: 3, or: 4 } }, code: 'invalid_tiers', param: 'tiers.gpu' },
  { tiers: ['gpu'], code: 'invalid_tiers', param: 'tiers' },
  { tiers: undefined, code: 'invalid_tiers', param: 'tiers' },
]
test.each(NEVER)('a policy of $tiers is refused as $code', async ({ tiers, code, param }) => {
  expect(await refused(world, 'POST', '/api/policies', { name: 'odd', tiers })).toMatchObject({ status: 400, code, param })
  expect(await refused(world, 'PATCH', '/api/policies/soon', { tiers: tiers ?? null })).toMatchObject({ status: 400, code, param })
})

test('a policy under which nothing may be spent and only the cloud opens is refused', async () => {
  const penniless = { name: 'penniless', tiers: { cloud: 'at_once' }, spend_micros_per_day: 0 }
  const told = { status: 400, code: 'policy_never_opens', param: 'spend_micros_per_day' }
  expect(await refused(world, 'POST', '/api/policies', penniless)).toMatchObject(told)
  await policy('was-open', { cloud: 'at_once' })
  expect(await refused(world, 'PATCH', '/api/policies/was-open', { spend_micros_per_day: 0 })).toMatchObject(told)
  await policy('at-home-too', { gpu: 'at_once', cloud: 'at_once' }, { spend_micros_per_day: 0 })
})

test('a policy is changed, is not taken from a team that is under it, and is gone when it was archived', async () => {
  await policy('brief', { gpu: 'at_once' })
  expect(await refused(world, 'POST', '/api/policies', { name: 'brief', tiers: { gpu: 'at_once' } })).toMatchObject({
    status: 409,
    code: 'name_taken',
  })
  expect(await send(world, 'PATCH', '/api/policies/brief', { spend_micros_per_day: 5 })).toMatchObject({
    tiers: { gpu: 'at_once', cli: 'never', cloud: 'never' },
    spend_micros_per_day: 5,
  })
  await send(world, 'POST', '/api/teams', { name: 'brief-team', policy: 'brief' })
  expect(await refused(world, 'DELETE', '/api/policies/brief')).toMatchObject({ status: 409, code: 'policy_in_use' })
  await send(world, 'PATCH', '/api/teams/brief-team', { policy: null })
  await send(world, 'DELETE', '/api/policies/brief')
  const body = { model: 'own', messages: [{ role: 'user', content: 'x' }] }
  expect(await refused(world, 'POST', '/v1/chat/completions', body, under('brief'))).toMatchObject({
    status: 404,
    code: 'unknown_policy',
    param: 'x-holdfast-policy',
  })
  expect(await refused(world, 'POST', '/api/teams', { name: 'x', policy: 'brief' })).toMatchObject({
    status: 400,
    code: 'unknown_policy',
    param: 'policy',
  })
})

test('what is set about a policy, a team or a key binds who waits, and an archived policy goes on for those under it', async () => {
  const calls = cloud.upstream.generations.length
  await policy('changing', { gpu: 'at_once', cloud: { after_s: 2 } })
  await policy('leaving', { gpu: 'at_once', cloud: 'never' })
  const plain = await team('changed-team')
  const limited = await send(world, 'POST', '/api/keys', { name: 'local-only', kind: 'team', team: 'changed-team', tiers: ['gpu'] })
  const left = await enqueue(world, 'shared', under('leaving'))
  const ofTeam = await enqueue(world, 'shared', plain.headers)
  const ofKey = await enqueue(world, 'shared', { authorization: `Bearer ${String(limited.key)}`, ...under('at-once') })
  const closed = await enqueue(world, 'shared', under('changing'))
  await send(world, 'PATCH', '/api/policies/changing', { tiers: { gpu: 'at_once', cloud: 'never' } })
  await send(world, 'DELETE', '/api/policies/leaving')
  await new Promise((resolve) => setTimeout(resolve, 3_000))
  await coordinator.stop()
  coordinator = await world.coordinator()
  await world.until('the worker is back', async () => (await world.findWorker('a'))?.state === 'online')
  await new Promise((resolve) => setTimeout(resolve, 1_000))
  for (const job of [closed, left, ofTeam, ofKey]) expect((await readJob(world, job)).status, job).toBe('queued')
  expect(cloud.upstream.generations).toHaveLength(calls)
  expect(whyNot(await decision(left))).toEqual(whyNot(await decision(closed)))
  await send(world, 'PATCH', '/api/teams/changed-team', { policy: 'at-once' })
  await send(world, 'PATCH', '/api/policies/changing', { tiers: { gpu: 'at_once', cloud: 'at_once' } })
  for (const job of [closed, ofTeam]) expect(await ended(world, job)).toMatchObject({ status: 'succeeded', tier: 'cloud' })
  expect((await readJob(world, ofKey)).status).toBe('queued')
  await send(world, 'PATCH', `/api/keys/${String(limited.id)}`, { tiers: null })
  expect(await ended(world, ofKey)).toMatchObject({ status: 'succeeded', tier: 'cloud' })
  expect((await world.request('POST', `/api/jobs/${left}/cancel`)).status).toBe(200)
})

test('a pin to what the policy never opens, or to two places at once, is refused', async () => {
  const body = { model: 'shared', messages: [{ role: 'user', content: 'x' }] }
  const pin = (pins: Record<string, string>) => refused(world, 'POST', '/api/jobs', body, pins)
  const closed = { status: 403, code: 'tier_never_opens' }
  expect(await pin({ ...under('local'), 'x-holdfast-tier': 'cloud' })).toMatchObject({ ...closed, param: 'x-holdfast-tier' })
  const byProvider = await pin({ ...under('local'), 'x-holdfast-provider': cloud.name })
  expect(byProvider).toMatchObject({ ...closed, param: 'x-holdfast-provider' })
  expect(byProvider.message).toContain('the policy "local"')
  expect(await pin({ 'x-holdfast-tier': 'gpu', 'x-holdfast-provider': cloud.name })).toMatchObject({ ...closed, param: 'x-holdfast-tier' })
  expect(await pin({ 'x-holdfast-tier': 'moon' })).toMatchObject({ status: 400, code: 'unknown_tier', param: 'x-holdfast-tier' })
  expect(await pin({ 'x-holdfast-provider': 'nobody' })).toMatchObject({
    status: 404,
    code: 'unknown_provider',
    param: 'x-holdfast-provider',
  })
  const both = await ended(world, await enqueue(world, 'shared', { 'x-holdfast-tier': 'cloud', 'x-holdfast-provider': cloud.name }))
  expect(both).toMatchObject({ status: 'succeeded', provider: cloud.name })
})

function nextMidnight(): string {
  return new Date((Math.floor(Date.now() / 86_400_000) + 1) * 86_400_000).toISOString()
}

/** Who may spend one millionth of a dollar, and how that is changed. Each has a cloud of its own. */
const CAPS = ['team', 'policy', 'key', 'provider'] as const

async function capped(
  by: (typeof CAPS)[number],
): Promise<{ model: string; headers: Record<string, string>; raise: (() => Promise<unknown>) | null; key?: string }> {
  const cap = { spend_micros_per_day: 1 }
  const more = { spend_micros_per_day: 1_000_000 }
  const paid = await addCloud(world, by === 'provider' ? { limits: cap } : {})
  const name = `${by}-capped`
  if (by === 'team')
    return { model: paid.model, headers: (await team(name, cap)).headers, raise: () => send(world, 'PATCH', `/api/teams/${name}`, more) }
  if (by === 'policy') {
    await policy(name, { gpu: 'at_once', cloud: 'at_once' }, cap)
    return { model: paid.model, headers: under(name), raise: () => send(world, 'PATCH', `/api/policies/${name}`, more) }
  }
  // A key's limits are what it was made with.
  if (by === 'key') return { model: paid.model, ...(await team(name, {}, cap)), raise: null }
  return { model: paid.model, headers: {}, raise: () => send(world, 'PATCH', `/api/providers/${paid.name}`, { limits: more }) }
}

test.each(CAPS)('a spent $0 waits until midnight with what costs money, and with nothing else', async (by) => {
  const { model, headers, raise, key } = await capped(by)
  expect(await ended(world, await enqueue(world, model, headers))).toMatchObject({ status: 'succeeded', cost_micros: 11 + 5 * 4 })
  const id = await enqueue(world, model, headers)
  const { waiting, attempts } = await waitsFor(world, id, 'over_quota')
  expect([waiting?.until, attempts.length]).toEqual([nextMidnight(), 0])
  expect(waiting?.detail).toMatch(/spend limit/)
  expect(Object.values(whyNot(await decision(id)))).toEqual([by === 'provider' ? 'over_quota' : 'spend_limit_reached'])
  expect(await ended(world, await enqueue(world, 'own', headers))).toMatchObject({ status: 'succeeded', tier: 'gpu' })
  const told = (await world.events('&type=spend.threshold_reached')).filter(({ details }) => String(details.account).startsWith(`${by}:`))
  expect(told.map(({ details }) => details.ratio)).toContain(1)
  expect(told.every(({ team, provider }) => (by === 'team') === (team !== null) && (by === 'provider') === (provider !== null))).toBe(true)
  if (raise === null) {
    // What a key has asked for is not paid by nobody once that is revoked.
    await send(world, 'POST', `/api/keys/${key}/revoke`, {})
    expect(await waitsFor(world, id, 'over_quota')).toMatchObject({ attempts: [] })
    return
  }
  await raise()
  expect(await ended(world, id)).toMatchObject({ status: 'succeeded', tier: 'cloud' })
})

test('a policy that a team comes under while its jobs wait pays for them from then on', async () => {
  const { headers } = await team('converted')
  const ids = [await enqueue(world, 'shared', headers), await enqueue(world, 'shared', headers)]
  for (const id of ids) await waitsFor(world, id, 'all_slots_busy')
  await policy('thrifty', { gpu: 'at_once', cloud: 'at_once' }, { spend_micros_per_day: 1 })
  await send(world, 'PATCH', '/api/teams/converted', { policy: 'thrifty' })
  expect(await ended(world, ids[0] ?? '')).toMatchObject({ status: 'succeeded', tier: 'cloud' })
  await waitsFor(world, ids[1] ?? '', 'all_slots_busy')
  expect(whyNot(await decision(ids[1] ?? ''))).toEqual({ a: 'all_slots_busy', [cloud.name]: 'spend_limit_reached' })
  await send(world, 'POST', `/api/jobs/${ids[1]}/cancel`, {})
})

test('a cap of nothing closes a cloud of which nobody knows the price, and not one that is known to be free', async () => {
  const unknown = await addCloud(world, { models: [{ name: 'unpriced', upstream: 'large' }] })
  const { headers } = await team('penniless', { spend_micros_per_day: 0 })
  await waitsFor(world, await enqueue(world, 'unpriced', headers), 'over_quota')
  expect(unknown.upstream.generations).toHaveLength(0)
  await addCloud(world, { models: [{ name: 'free', upstream: 'large', input_micros_per_mtok: 0, output_micros_per_mtok: 0 }] })
  expect(await ended(world, await enqueue(world, 'free', headers))).toMatchObject({ status: 'succeeded', cost_micros: 0 })
})

test('calls at once do not spend more than the limit and what one of them reserves', async () => {
  const paid = await addCloud(world)
  paid.upstream.plan({ delayMs: 1_500 }, { delayMs: 1_500 })
  // Two tokens of prompt, ten of an answer: 42 are set aside, 31 are paid.
  const { headers } = await team('crowd', { spend_micros_per_day: 84 })
  const ids: string[] = []
  for (let index = 0; index < 6; index++) ids.push(await enqueue(world, paid.model, headers, { max_tokens: 10 }))
  await world.until('two run', () => paid.upstream.generations.length === 2)
  await waitsFor(world, ids[2] ?? '', 'over_quota')
  for (const id of ids.slice(0, 3)) expect(await ended(world, id)).toMatchObject({ status: 'succeeded', cost_micros: 31 })
  for (const id of ids.slice(3)) expect(await waitsFor(world, id, 'over_quota')).toMatchObject({ cost_micros: 0 })
  expect(paid.upstream.generations).toHaveLength(3)
  const notices = (await world.events('&type=spend.threshold_reached')).filter(({ details }) => details.account === 'team:crowd')
  expect(notices.map(({ details }) => details.ratio)).toContain(0.5)
})

test('a limit that is set while a job waits holds it without trying again and again', async () => {
  const paid = await addCloud(world, { max_parallel: 1 })
  paid.upstream.plan({ stallAfter: 0 })
  const { headers } = await team('late')
  const [first, second] = [await enqueue(world, paid.model, headers), await enqueue(world, paid.model, headers)]
  await world.until('the first runs', () => paid.upstream.generations.length === 1)
  await send(world, 'PATCH', '/api/teams/late', { spend_micros_per_day: 0 })
  await send(world, 'POST', `/api/jobs/${first}/cancel`, {})
  expect((await waitsFor(world, second, 'over_quota')).attempts.length).toBeLessThanOrEqual(1)
  await send(world, 'PATCH', '/api/teams/late', { spend_micros_per_day: null })
  expect(await ended(world, second)).toMatchObject({ status: 'succeeded' })
})

test('a purse is full again with the first call of a day or a month, whoever looks first', () => {
  let nowMs = Date.UTC(2026, 0, 30, 23, 59)
  const told: [string, number | null][] = []
  const purses = pursesAt(
    () => nowMs,
    async () => [],
    told,
  )
  purses.setLimits('team', new Map([['t', { perDay: 10, perMonth: 25 }]]))
  const spend = (micros: number): boolean => {
    const open = purses.reserve(['team:t'], micros)
    if (open) purses.settle(['team:t'], micros, micros)
    return open
  }
  expect([spend(10), spend(1)]).toEqual([true, false])
  expect(told).toEqual([['team:t', Date.UTC(2026, 0, 31)]])
  nowMs = Date.UTC(2026, 0, 31)
  expect([spend(15), spend(1)]).toEqual([true, false])
  expect(told.at(-1)).toEqual(['team:t', Date.UTC(2026, 1, 1)])
  nowMs = Date.UTC(2026, 1, 1)
  expect(purses.view('team:t')).toMatchObject({ dayMicros: 0, monthMicros: 0 })
  expect(spend(9)).toBe(true)
  expect(told.at(-1)).toEqual(['team:t', null])
})

test('every share of a limit that a payment passes is told once, also over a restart', async () => {
  const told: [number, string][] = []
  let nowMs = Date.UTC(2026, 0, 30)
  const paid = { team: 't', policy: null, key: null, provider: 'p', micros: 85 }
  const purses = new Purses({
    readSpending: async () => [paid],
    stored: async () => {},
    now: () => nowMs,
    onThreshold: (_purse, ratio, window) => told.push([ratio, window]),
    onEmpty: () => {},
  })
  purses.setLimits('team', new Map([['t', { perDay: 100, perMonth: null }]]))
  await purses.load()
  expect([told, purses.remaining('team:t'), purses.remaining('team:other')]).toEqual([[], expect.closeTo(0.15), null])
  purses.settle(['team:t'], 0, 5)
  expect(told).toEqual([])
  // What the rows say later is news.
  paid.micros = 90
  await purses.load()
  purses.settle(['team:t'], 0, 40)
  expect(told).toEqual([
    [0.95, 'day'],
    [1, 'day'],
  ])
  // A new day has limits of its own.
  nowMs = Date.UTC(2026, 0, 31)
  paid.micros = 0
  await purses.load()
  purses.settle(['team:t'], 0, 85)
  expect(told.slice(2)).toEqual([
    [0.5, 'day'],
    [0.8, 'day'],
  ])
})

function pursesAt(
  now: () => number,
  readSpending: ConstructorParameters<typeof Purses>[0]['readSpending'],
  told: [string, number | null][] = [],
): Purses {
  return new Purses({ readSpending, stored: async () => {}, now, onThreshold: () => {}, onEmpty: (...args) => told.push(args) })
}

test('what is paid while the rows are read is counted once, and on its own day', async () => {
  let nowMs = Date.UTC(2026, 0, 30, 12)
  const row = { team: 't', policy: null, key: null, provider: 'p', micros: 3 }
  const purses = pursesAt(
    () => nowMs,
    async (_, untilMs) => {
      if (nowMs === untilMs) purses.settle(['team:t'], 0, 4)
      nowMs = Date.UTC(2026, 0, 31)
      return [row]
    },
  )
  await purses.load()
  expect(purses.view('team:t')).toMatchObject({ dayMicros: 0, monthMicros: 7 })
})

test('what was paid is booked on who was paid, and on the day of the payment', async () => {
  const broken = await addCloud(world)
  const spare = await addCloud(world, { model: broken.model })
  broken.upstream.plan({ cutAfter: 2 })
  const id = await enqueue(world, broken.model)
  const job = await ended(world, id)
  expect(job).toMatchObject({ status: 'succeeded', provider: spare.name, cost_micros: 2 + 2 * 4 + (11 + 5 * 4) })
  const spent = async (name: string): Promise<unknown> => (await readProvider(world, name)).spent_micros_today
  expect([await spent(broken.name), await spent(spare.name)]).toEqual([2 + 2 * 4, 11 + 5 * 4])
  const counted = (name: string): RegExp => new RegExp(`holdfast_cost_micros_total\\{provider="${name}"[^}]*\\} (\\d+)`)
  const metrics = await (await world.request('GET', '/metrics')).text()
  expect([broken, spare].map(({ name }) => counted(name).exec(metrics)?.[1])).toEqual(['10', '31'])
  const db = world.database()
  await world.until('both are stored', async () => (await db.query('select 1 from payments where job = $1', [id])).length === 2)
  // As if the first had been paid before midnight, and a job of last year only now.
  await db.query("update payments set at = at - interval '1 day' where job = $1 and provider = $2", [id, broken.name])
  await db.query(
    `insert into payments (job, attempt, at, provider, team, micros)
     values ('01890000-0000-7000-8000-000000000000', 1, now(), $1, 'default', 1000)`,
    [spare.name],
  )
  await db.close()
  coordinator.kill()
  await coordinator.exited
  coordinator = await world.coordinator()
  expect([await spent(broken.name), await spent(spare.name)]).toEqual([0, 11 + 5 * 4 + 1000])
  await world.until('the worker is back', async () => (await readProvider(world, 'a')).state === 'online')
})

test('decisions, spending and what waits for it outlive the coordinator', async () => {
  const spilled = await ended(world, await enqueue(world, 'shared', under('soon')))
  const made = await decision(spilled.id)
  const waiting = await enqueue(world, 'shared', under('local'))
  const paid = await addCloud(world, { limits: { spend_micros_per_day: 1 } })
  await ended(world, await enqueue(world, paid.model))
  const held = await enqueue(world, paid.model)
  await waitsFor(world, held, 'over_quota')
  coordinator.kill()
  await coordinator.exited
  coordinator = await world.coordinator()
  expect(await decision(spilled.id)).toEqual(made)
  // A worker that is being waited for is not offline: nothing is paid because the coordinator was away.
  const patient = await enqueue(world, 'shared', under('offline'))
  await world.until('the worker is back', async () => (await readProvider(world, 'a')).state === 'online')
  expect(await waitsFor(world, patient, 'all_slots_busy')).toMatchObject({ attempts: [] })
  await send(world, 'POST', `/api/jobs/${patient}/cancel`, {})
  expect(whyNot(await decision(waiting))).toEqual({ a: 'all_slots_busy', [cloud.name]: 'tier_never_opens' })
  expect((await waitsFor(world, held, 'over_quota')).waiting?.until).toBe(nextMidnight())
  expect(await readProvider(world, paid.name)).toMatchObject({ state: 'over_quota', until: nextMidnight() })
  await send(world, 'PATCH', `/api/providers/${paid.name}`, { limits: null })
  expect(await ended(world, held)).toMatchObject({ status: 'succeeded' })
})

test('who waits for the local tier to be offline goes to the cloud when it is', async () => {
  const offline = await enqueue(world, 'shared', under('offline'))
  const never = await enqueue(world, 'shared', under('local'))
  await waitsFor(world, offline, 'all_slots_busy')
  expect(whyNot(await decision(offline))).toEqual({ a: 'all_slots_busy', [cloud.name]: 'tier_not_open_yet' })
  worker.kill()
  expect(await ended(world, offline)).toMatchObject({ tier: 'cloud' })
  expect(await decision(offline)).toMatchObject({ rule: expect.stringMatching(/^when_offline\//) as string })
  expect(whyNot(await decision(offline))).toMatchObject({ a: 'offline' })
  expect(await waitsFor(world, never, 'no_provider_for_model')).toMatchObject({ status: 'queued' })
})
