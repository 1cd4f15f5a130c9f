import type { Effect } from '../../coordinator/core/effects.ts'
import type { Input } from '../../coordinator/core/inputs.ts'
import { isFinal, type JobRecord } from '../../coordinator/core/job.ts'
import { SimulatedClient } from './simulated-client.ts'
import { SimulatedCoordinator } from './simulated-coordinator.ts'
import { SimulatedDatabase } from './simulated-database.ts'
import { SimulatedHost } from './simulated-host.ts'
import { playIn, SimulatedNetwork } from './simulated-network.ts'
import { type Plan, planFor } from './simulated-plan.ts'
import { VirtualTime } from './simulated-time.ts'
import { TokenBook } from './simulated-tokens.ts'
import { Violation } from './simulated-violation.ts'

/** Everything of one scenario: hosts, network, database, callers, and one coordinator after another. */
export class SimulatedWorld {
  readonly time: VirtualTime
  readonly plan: Plan
  readonly network: SimulatedNetwork
  readonly database = new SimulatedDatabase()
  readonly hosts: SimulatedHost[]
  readonly clients: SimulatedClient[]
  readonly book: TokenBook
  coordinator: SimulatedCoordinator | null = null
  coordinatorDeaths = 0
  clockAheadMs = 0
  healed = false
  readonly trace: string[] | null
  #lives = 0
  #hash = 0x811c_9dc5

  constructor(seed: number, traced: boolean) {
    this.time = new VirtualTime(seed)
    this.trace = traced ? [] : null
    this.plan = planFor(this.time.chance)
    this.book = new TokenBook(this.plan.noisy)
    this.network = new SimulatedNetwork(this.time)
    playIn(this.network)
    this.network.latencyMs = this.plan.latencyMs
    this.hosts = this.plan.hosts.map((host) => new SimulatedHost(host, this.time, this.network, this.book))
    this.clients = this.plan.clients.map((client) => new SimulatedClient(client, this.database))
    this.database.onChanged = (row) => this.#stored(row)
    // One row in fifty is one that PostgreSQL refuses.
    for (const { id } of this.clients) if (!this.plan.calm && this.time.chance.maybe(0.02)) this.database.refused.add(id)
  }

  /** What happened, as one number: two runs of one seed must agree in it. */
  get fingerprint(): number {
    return this.#hash >>> 0
  }

  startCoordinator(): void {
    if (this.coordinator !== null) return
    if (this.database.down) {
      this.time.after(200, () => this.startCoordinator(), null)
      return
    }
    this.note('coordinator starts')
    const { time, network, database, plan } = this
    const clockAheadMs = (): number => this.clockAheadMs
    const onDecided = (input: Input, effects: Effect[]): void => this.#decided(input, effects)
    this.coordinator = new SimulatedCoordinator({ time, network, database, teams: plan.teams, clockAheadMs, onDecided }, ++this.#lives)
    this.coordinator.judge.sharesCount = plan.calm
    const coordinator = this.coordinator
    for (const client of this.clients) coordinator.process.run(() => client.comeBack(coordinator))
  }

  coordinatorGone(afterMs: number): void {
    this.coordinator = null
    this.coordinatorDeaths += 1
    // What nobody remembers may be made anew, with other words where generations differ.
    if (this.plan.noisy) for (const client of this.clients) client.mayDiverge = true
    this.time.after(afterMs, () => this.startCoordinator(), null)
  }

  /** Runs at the coordinator as soon as there is one that listens. */
  atCoordinator(call: (coordinator: SimulatedCoordinator) => void): void {
    const { coordinator } = this
    if (coordinator === null || !coordinator.canAnswer || this.database.down) this.time.after(150, () => this.atCoordinator(call), null)
    else coordinator.process.run(() => call(coordinator))
  }

  get isOver(): boolean {
    if (!this.healed || this.coordinator?.writer.idle !== true) return false
    if (this.clients.some((client) => !client.sent)) return false
    for (const { status } of this.database.jobs.values()) if (!isFinal(status)) return false
    for (const worker of this.coordinator.scheduler.workers) if (worker.occupied.size > 0) return false
    return this.hosts.every((host) => host.busy === 0)
  }

  checkEnd(): void {
    if (!this.isOver) throw new Violation(`not over long after everything was healed: ${this.#unfinished()}`)
    for (const client of this.clients) client.checkEnd(this.coordinatorDeaths)
    const { scheduler } = this.coordinator as SimulatedCoordinator
    if (scheduler.waitingCount !== 0) throw new Violation(`${scheduler.waitingCount} jobs are counted as waiting, and all have ended`)
    if (scheduler.runningCount !== 0) throw new Violation(`${scheduler.runningCount} jobs are counted as running, and all have ended`)
  }

  note(text: string): void {
    this.trace?.push(`${(this.time.nowMs / 1000).toFixed(3).padStart(8)}  ${text}`)
  }

  #unfinished(): string {
    const rows = [...this.database.jobs.values()].filter(({ status }) => !isFinal(status)).map((row) => `${row.id} ${row.status}`)
    const busy = this.hosts.filter((host) => host.busy > 0).map((host) => `${host.plan.name} runs ${host.busy}`)
    const workers = [...(this.coordinator?.scheduler.workers ?? [])].filter(({ occupied }) => occupied.size > 0)
    const kept = workers.map((worker) => `${worker.name} keeps slots for ${[...worker.occupied.keys()].join()}`)
    return [...rows, ...busy, ...kept].join(', ')
  }

  #stored(row: JobRecord): void {
    this.#mix(`${row.id}${row.status}${row.attempt}`)
    this.note(`  stored: ${row.id} ${row.status}, attempt ${row.attempt}, version ${row.version}`)
    if (row.status === 'succeeded') this.#checkAnswer(row)
  }

  #checkAnswer(row: JobRecord): void {
    const live = this.coordinator?.dispatcher.find(row.id)
    if (live !== undefined) this.book.check(row.id, live.tokenIds)
  }

  #decided(input: Input, effects: Effect[]): void {
    for (const effect of effects) this.#mix(nameOf(effect))
    if (this.trace === null || (effects.length === 0 && (input.kind === 'time-passed' || input.kind === 'worker-reported'))) return
    this.note(brief(input))
    for (const effect of effects) this.note(`  → ${brief(effect)}`)
  }

  #mix(text: string): void {
    let hash = this.#hash ^ this.time.nowMs
    for (let index = 0; index < text.length; index++) hash = Math.imul(hash ^ text.charCodeAt(index), 0x0100_0193)
    this.#hash = hash
  }
}

function nameOf(effect: Effect): string {
  if (!('job' in effect)) return effect.kind + effect.worker
  return `${effect.kind}${effect.job}${'attempt' in effect ? effect.attempt : ''}${'worker' in effect ? effect.worker : ''}`
}

function brief({ kind, ...rest }: Input | Effect): string {
  return `${kind} ${JSON.stringify(rest, (name, value: unknown) => (name === 'offers' ? offersOf(value) : value))}`
}

function offersOf(offers: unknown): string {
  return (offers as { name: string; slots: number }[]).map(({ name, slots }) => `${name}:${slots}`).join()
}
