import { Heap } from './heap.ts'
import type { Priority, Tier } from './job.ts'
import { Ordered } from './ordered.ts'
import { Route, type RouteKey, routeId } from './routing.ts'

/**
 * The line of one model: which job is next.
 *
 *   class    interactive, normal, batch: each has a reserved share of the tokens, and what one leaves the others take
 *    └ team  weighted fair queueing by tokens
 *       └ flow   first in, first out; one per route, because only some workers may run what is pinned or already begun
 *
 * Both upper levels are start-time fair queueing: whoever is served gets its tag raised by tokens / weight, the lowest tag
 * is next, and whoever was idle starts at the tag served last, so idling saves nothing up. Tokens are estimated when a job
 * starts and corrected when it ends.
 */
export class Line<J extends LineJob<J>> {
  readonly model: string
  /** The tiers in which the model was offered when its jobs last judged how those stand to them. */
  offering: ReadonlySet<Tier>
  readonly #routes = new Map<string, Route<Flow<J>>>()
  /** The flows that a limited account pays for: they change their route when it is empty, and when it is full again. */
  readonly #flowsByPurse = new Map<string, Set<Flow<J>>>()
  /** Some flows in which nobody stands, the last at the end: the next job mostly wants the one that the last job left. */
  readonly #idle: Flow<J>[] = []
  readonly #accounts: Map<string, Account<J>>[] = [new Map(), new Map(), new Map()]
  readonly #classTags = [0, 0, 0]
  readonly #classWaiting = [0, 0, 0]
  readonly #classCosts = [0, 0, 0]
  readonly #teamTime = [0, 0, 0]
  #classTime = 0

  constructor(model: string, offering: ReadonlySet<Tier>) {
    this.model = model
    this.offering = offering
  }

  /** All that wait, in no particular order; a copy. */
  jobs(): J[] {
    return [...this.#routes.values()].flatMap((route) => [...route.flows.values()].flatMap((flow) => [...flow.jobs]))
  }

  get routes(): Iterable<Route<Flow<J>>> {
    return this.#routes.values()
  }

  get waiting(): number {
    return this.#classWaiting.reduce((sum, count) => sum + count, 0)
  }

  /** True when nobody else in the job's line could have been started instead: then a slot may be free. */
  add(job: J, key: RouteKey, team: Team<J>): boolean {
    const account = this.#account(team, job.rank)
    const flow = this.#flow(key, job.purses, account)
    if (account.waiting === 0) account.tag = Math.max(account.tag, this.#teamTime[job.rank] ?? 0)
    if (this.#classWaiting[job.rank] === 0) this.#classTags[job.rank] = Math.max(this.#classTags[job.rank] ?? 0, this.#classTime)
    job.flow = flow
    flow.jobs.add(job)
    this.#count(account, job, 1)
    const ready = flow.route.ready[job.rank] as Heap<Flow<J>>
    if (flow.jobs.size === 1 && !team.full) ready.add(flow)
    else ready.moved(flow)
    return flow.jobs.size === 1 && readyFlows(flow.route) === 1
  }

  remove(job: J): void {
    const { flow } = job
    if (flow === null || !flow.jobs.remove(job)) return
    job.flow = null
    this.#count(flow.account, job, -1)
    if (flow.jobs.size > 0) {
      flow.route.ready[job.rank]?.moved(flow)
      return
    }
    flow.route.ready[job.rank]?.remove(flow)
    if (flow.isListed) return
    flow.isListed = true
    this.#idle.push(flow)
    if (this.#idle.length > IDLE_FLOWS) this.#unlist(this.#idle.shift() as Flow<J>)
  }

  #unlist(flow: Flow<J>): void {
    flow.isListed = false
    if (flow.jobs.size > 0) return
    this.#leaveRoute(flow)
    flow.account.flows.delete(flow)
    for (const purse of flow.purses) {
      const flows = this.#flowsByPurse.get(purse)
      flows?.delete(flow)
      if (flows?.size === 0) this.#flowsByPurse.delete(purse)
    }
  }

  /** The job to start next among those of the routes. */
  next(routes: Iterable<Route<Flow<J>>>): J | undefined {
    let best: Flow<J> | undefined
    for (const route of routes)
      for (const heap of route.ready) {
        const flow = heap.first()
        if (flow !== undefined && (best === undefined || this.#isBefore(flow, best))) best = flow
      }
    return best?.jobs.first()
  }

  /** An account is empty, or has something again. Costs one look per flow that it pays for, however many jobs wait there. */
  judgePurse(purse: string, isSpent: (purse: string) => boolean): void {
    for (const flow of this.#flowsByPurse.get(purse) ?? []) {
      const broke = flow.purses.some(isSpent)
      if (broke === flow.route.key.broke) continue
      const { key } = flow.route
      this.#leaveRoute(flow)
      this.#joinRoute(flow, this.#route({ ...key, broke }))
      if (!flow.account.team.full && flow.jobs.size > 0) flow.route.ready[flow.account.rank]?.add(flow)
    }
  }

  /** The job's attempt starts: its class and team pay for it. */
  charge(job: J, team: Team<J>): void {
    const account = this.#account(team, job.rank)
    this.#classTime = Math.max(this.#classTime, this.#classTags[job.rank] ?? 0)
    this.#teamTime[job.rank] = Math.max(this.#teamTime[job.rank] ?? 0, account.tag)
    this.adjust(job, team, job.cost)
  }

  /** What it cost turned out to be more or, negative, less; a job that goes back into the line gets all of it back. */
  adjust(job: J, team: Team<J>, tokens: number): void {
    const account = this.#account(team, job.rank)
    account.tag += tokens / team.weight
    this.#classTags[job.rank] = (this.#classTags[job.rank] ?? 0) + tokens / (CLASS_WEIGHTS[job.rank] ?? 1)
    for (const flow of account.flows) flow.route.ready[job.rank]?.moved(flow)
  }

  /** A team reached its limit or is below it again: its flows leave the choice or join it. */
  setFull(team: Team<J>, full: boolean): void {
    for (const [rank, accounts] of this.#accounts.entries())
      for (const flow of accounts.get(team.name)?.flows ?? []) {
        if (full) flow.route.ready[rank]?.remove(flow)
        else if (flow.jobs.size > 0) flow.route.ready[rank]?.add(flow)
      }
  }

  /**
   * The job's place, from 1, which no other has: exact within its own team, and across teams and classes what their tags
   * foretell if nobody new comes and all cost what they cost on average. Costs one look per team with waiting jobs.
   */
  position(job: J): number {
    const { flow } = job
    if (flow === null) return 1
    const { account } = flow
    let ahead = 0
    for (const other of account.flows) ahead += other.jobs.countBefore(job.order)
    const tag = account.tag + (ahead * meanCost(account)) / account.team.weight
    const oldest = oldestOf(account)
    for (const other of this.#accounts[job.rank]?.values() ?? []) {
      if (other === account || other.waiting === 0 || other.team.full) continue
      const queue = { from: other.tag, unit: meanCost(other) / other.team.weight, waiting: other.waiting }
      ahead += servedBefore(tag, queue, oldestOf(other) < oldest)
    }
    return 1 + ahead + this.#fromOtherClasses(job.rank, ahead)
  }

  #fromOtherClasses(rank: number, aheadInClass: number): number {
    const { from, unit } = this.#classQueue(rank)
    const tag = from + aheadInClass * unit
    let ahead = 0
    // At equal tags the higher class goes first.
    for (const [other, waiting] of this.#classWaiting.entries())
      if (other !== rank && waiting > 0) ahead += servedBefore(tag, this.#classQueue(other), other < rank)
    return ahead
  }

  #classQueue(rank: number): Queue {
    const waiting = this.#classWaiting[rank] ?? 0
    const unit = waiting === 0 ? 0 : (this.#classCosts[rank] ?? 0) / waiting / (CLASS_WEIGHTS[rank] ?? 1)
    return { from: this.#classTags[rank] ?? 0, unit, waiting }
  }

  #isBefore(a: Flow<J>, b: Flow<J>): boolean {
    if (a.account.rank !== b.account.rank) {
      const difference = (this.#classTags[a.account.rank] ?? 0) - (this.#classTags[b.account.rank] ?? 0)
      return difference === 0 ? a.account.rank < b.account.rank : difference < 0
    }
    return flowBefore(a, b)
  }

  #count(account: Account<J>, job: J, sign: 1 | -1): void {
    account.waiting += sign
    account.waitingCost += sign * job.cost
    this.#classWaiting[job.rank] = (this.#classWaiting[job.rank] ?? 0) + sign
    this.#classCosts[job.rank] = (this.#classCosts[job.rank] ?? 0) + sign * job.cost
  }

  #account(team: Team<J>, rank: number): Account<J> {
    const accounts = this.#accounts[rank] as Map<string, Account<J>>
    let account = accounts.get(team.name)
    if (account === undefined) {
      account = { team, rank, name: `${rank} ${team.name}`, tag: this.#teamTime[rank] ?? 0, waiting: 0, waitingCost: 0, flows: new Set() }
      accounts.set(team.name, account)
      team.lines.add(this)
    }
    return account
  }

  #flow(key: RouteKey, purses: readonly string[], account: Account<J>): Flow<J> {
    const route = this.#route(key)
    let flow = route.flows.get(flowName(account, purses))
    if (flow !== undefined) return flow
    flow = { route, account, purses, jobs: new Ordered<J>(), heapIndex: -1, isListed: false }
    this.#joinRoute(flow, route)
    account.flows.add(flow)
    for (const purse of purses) {
      const flows = this.#flowsByPurse.get(purse)
      if (flows === undefined) this.#flowsByPurse.set(purse, new Set([flow]))
      else flows.add(flow)
    }
    return flow
  }

  #route(key: RouteKey): Route<Flow<J>> {
    const id = routeId(key)
    let route = this.#routes.get(id)
    if (route === undefined) {
      const { model, provider, tiers, needs, broke, sha256, avoid, outgrown } = key
      route = new Route(id, { model, provider, tiers, needs, broke, sha256, avoid, outgrown }, () => new Heap<Flow<J>>(flowBefore))
      this.#routes.set(id, route)
    }
    return route
  }

  #joinRoute(flow: Flow<J>, route: Route<Flow<J>>): void {
    flow.route = route
    route.flows.set(flowName(flow.account, flow.purses), flow)
  }

  #leaveRoute(flow: Flow<J>): void {
    const { route, account } = flow
    route.ready[account.rank]?.remove(flow)
    route.flows.delete(flowName(account, flow.purses))
    if (route.flows.size === 0) this.#routes.delete(route.id)
  }
}

function flowName(account: { name: string }, purses: readonly string[]): string {
  return purses.length === 0 ? account.name : [account.name, ...purses].join('\u0001')
}

/** What a line needs to know of a job; `rank` is the place of its class in PRIORITIES. */
export type LineJob<J extends LineJob<J>> = {
  readonly order: number
  readonly rank: number
  readonly cost: number
  /** Limited accounts that pay for it. */
  readonly purses: readonly string[]
  flow: Flow<J> | null
}

/** A team as the scheduler sees it, over all models. */
export type Team<J extends LineJob<J>> = {
  readonly name: string
  weight: number
  /** Attempts that may run at once; null: no limit. */
  maxParallel: number | null
  running: number
  full: boolean
  readonly lines: Set<Line<J>>
}

type Account<J extends LineJob<J>> = {
  readonly team: Team<J>
  readonly rank: number
  readonly name: string
  /** Tokens served so far, divided by weight, as far as they count against the others. */
  tag: number
  waiting: number
  waitingCost: number
  readonly flows: Set<Flow<J>>
}

export type Flow<J extends LineJob<J>> = {
  route: Route<Flow<J>>
  readonly account: Account<J>
  readonly purses: readonly string[]
  readonly jobs: Ordered<J>
  heapIndex: number
  /** It stands among the idle ones, though somebody may stand in it again. */
  isListed: boolean
}

// As many as are looked at in vain by whoever looks at all flows of a model.
const IDLE_FLOWS = 8

export const PRIORITIES: readonly Priority[] = ['interactive', 'normal', 'batch']
// Of 21 tokens 16, 4 and 1 are reserved: an interactive flood slows batch to a twentieth, and never to a stop.
export const CLASS_WEIGHTS = [16, 4, 1]

function flowBefore<J extends LineJob<J>>(a: Flow<J>, b: Flow<J>): boolean {
  if (a.account.tag !== b.account.tag) return a.account.tag < b.account.tag
  return (a.jobs.first()?.order ?? 0) < (b.jobs.first()?.order ?? 0)
}

function readyFlows<J extends LineJob<J>>(route: Route<Flow<J>>): number {
  return route.ready.reduce((sum, heap) => sum + heap.size, 0)
}

function meanCost<J extends LineJob<J>>(account: Account<J>): number {
  return account.waiting === 0 ? 0 : account.waitingCost / account.waiting
}

function oldestOf<J extends LineJob<J>>(account: Account<J>): number {
  let oldest = Number.POSITIVE_INFINITY
  for (const flow of account.flows) oldest = Math.min(oldest, flow.jobs.first()?.order ?? oldest)
  return oldest
}

/** So many wait that stand at `from` and go forward by `unit` with each that is served. */
type Queue = { from: number; unit: number; waiting: number }

/** How many of a queue are served before one that stands at `tag`; `isFirst`: before one that stands where they do, too. */
function servedBefore(tag: number, { from, unit, waiting }: Queue, isFirst: boolean): number {
  if (unit <= 0) return from < tag ? waiting : 0
  const steps = (tag - from) / unit
  const whole = Math.round(steps)
  const isEqual = Math.abs(steps - whole) < STEP_ERROR
  const count = isEqual ? whole + (isFirst ? 1 : 0) : Math.ceil(steps)
  return Math.min(waiting, Math.max(0, count))
}

/** Sums of fractions that are equal by reason differ by less. */
const STEP_ERROR = 1e-9
