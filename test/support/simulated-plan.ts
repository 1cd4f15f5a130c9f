import { FREE } from './free-terms.ts'
import type { TeamRules } from '../../coordinator/core/inputs.ts'
import type { JobId, Priority } from '../../coordinator/core/job.ts'
import type { ClientPlan } from './simulated-client.ts'
import { type Prompt, PROMPT_TOKENS } from './simulated-engine.ts'
import type { HostPlan } from './simulated-host.ts'
import type { Chance } from './simulated-time.ts'

/** What a scenario is made of, before anything happens. */
export type Plan = {
  /** A flood of small jobs without faults, limits and pins: only the order of service is at stake. */
  calm: boolean
  /** Generations of one request differ. */
  noisy: boolean
  hosts: HostPlan[]
  clients: ClientPlan[]
  teams: TeamRules[]
  disturbances: { atMs: number; kind: Disturbance }[]
  latencyMs: number
}

export type Disturbance = (typeof DISTURBANCES)[number]

const DISTURBANCES = [
  'cut',
  'half-open',
  'stall-network',
  'cut-off',
  'echo',
  'freeze-host',
  'kill-host',
  'replace-host',
  'drain-host',
  'crash-model',
  'stall-model',
  'crash-coordinator',
  'stop-coordinator',
  'freeze-coordinator',
  'database-down',
  'clock-jump',
  'change-limit',
] as const

export const TROUBLE_MS = 14_000

export function planFor(chance: Chance): Plan {
  const calm = chance.maybe(0.15)
  const hosts = ['a', 'b', 'c'].slice(0, chance.between(1, 3)).map((name) => hostPlan(name, calm, chance))
  const disturbances: Plan['disturbances'] = []
  for (let count = calm ? 0 : chance.between(1, 12); count > 0; count--)
    disturbances.push({ atMs: chance.between(500, TROUBLE_MS), kind: chance.pick(DISTURBANCES) })
  const clients: ClientPlan[] = []
  for (let index = calm ? chance.between(24, 44) : chance.between(4, 24); index > 0; index--)
    clients.push(clientPlan(index, calm, hosts, chance))
  const teams = [
    { name: 'wide', weight: chance.pick([1, 1, 3]), maxParallel: null },
    { name: 'narrow', weight: 1, maxParallel: calm ? null : chance.between(1, 2) },
  ]
  return { calm, noisy: chance.maybe(0.3), hosts, clients, teams, disturbances, latencyMs: chance.pick([1, 5, 40]) }
}

function hostPlan(name: string, calm: boolean, chance: Chance): HostPlan {
  const models = [{ name: 'm', slots: chance.between(1, 3), sha256: !calm && chance.maybe(0.1) ? 'other' : 'sha' }]
  if (chance.maybe(0.3)) models.push({ name: 'n', slots: 1, sha256: 'sha' })
  return { name, models }
}

function clientPlan(index: number, calm: boolean, hosts: HostPlan[], chance: Chance): ClientPlan {
  const tokens = chance.between(1, calm ? 6 : 30)
  const prompt: Prompt = calm ? 'plain' : chance.pick(PROMPTS)
  const seed = Math.floor(chance.next() * 0x7fff_ffff)
  const model = chance.maybe(0.2) && hosts.some((host) => host.models.length > 1) ? 'n' : 'm'
  const serving = hosts.filter((host) => host.models.some(({ name }) => name === model))
  const request = { prompt: { kind: 'text', text: prompt }, maxTokens: tokens, stop: [], sampling: {}, seed }
  // In the flood the estimate is what it costs in the end, so that shares can be told exactly.
  const cost = calm ? PROMPT_TOKENS + tokens : chance.between(PROMPT_TOKENS + tokens, 60)
  const priority = chance.pick(calm ? FLOOD : EVEN)
  const atMs = calm || chance.maybe(0.5) ? chance.between(0, 2_000) : chance.between(0, TROUBLE_MS)
  return {
    prompt,
    tokens,
    atMs,
    follows: chance.maybe(0.7),
    cancelAtMs: !calm && chance.maybe(0.12) ? atMs + chance.between(0, 6_000) : null,
    job: {
      id: `j${index}` as JobId,
      type: 'completion',
      team: chance.pick(['wide', 'wide', 'narrow']),
      actor: 'key:caller',
      model,
      pinnedProvider: !calm && chance.maybe(0.1) ? chance.pick(serving).name : null,
      ...FREE,
      detached: true,
      traceId: `t${index}`,
      priority,
      maxWaitMs: !calm && chance.maybe(0.1) ? chance.between(500, 8_000) : null,
      maxRunMs: !calm && chance.maybe(0.1) ? chance.between(500, 4_000) : null,
      cost,
      promptCost: PROMPT_TOKENS,
      request: JSON.stringify(request),
      seed,
      prefix: chance.maybe(0.3) ? [`p${chance.between(1, 3)}`] : [],
    },
  }
}

const EVEN: readonly Priority[] = ['interactive', 'normal', 'normal', 'batch']
const FLOOD: readonly Priority[] = [...Array.from({ length: 6 }, () => 'interactive' as const), 'normal', 'normal', 'batch']
const PROMPTS: readonly Prompt[] = [...Array.from({ length: 18 }, () => 'plain' as const), 'poison', 'bad']
