import type { WorkerId } from '../../coordinator/core/job.ts'
import { CoordinatorLink } from '../../worker/link.ts'
import { Slots } from '../../worker/slots.ts'
import { SimulatedEngine } from './simulated-engine.ts'
import type { SimulatedNetwork } from './simulated-network.ts'
import { SimulatedProcess, type VirtualTime } from './simulated-time.ts'
import type { TokenBook } from './simulated-tokens.ts'

export type HostPlan = { name: string; models: { name: string; slots: number; sha256: string }[] }

/**
 * A GPU host: the worker's real slots and its real session (worker/link.ts, worker/attempts.ts) over simulated engines, in
 * a process that can be killed, frozen, drained, and replaced by another machine of the same name.
 */
export class SimulatedHost {
  readonly plan: HostPlan
  readonly #time: VirtualTime
  readonly #network: SimulatedNetwork
  readonly #book: TokenBook
  #incarnation = 0
  #identity = 0
  #process: SimulatedProcess
  #slots = new Slots()
  #engines: SimulatedEngine[] = []
  #link: CoordinatorLink | undefined

  constructor(plan: HostPlan, time: VirtualTime, network: SimulatedNetwork, book: TokenBook) {
    this.plan = plan
    this.#time = time
    this.#network = network
    this.#book = book
    this.#process = new SimulatedProcess(time)
    this.#process.alive = false
  }

  get id(): WorkerId {
    const letter = this.plan.name.charCodeAt(0).toString(16)
    return `00000000-0000-7000-8000-0000000${letter}${String(this.#identity).padStart(3, '0')}` as WorkerId
  }

  get alive(): boolean {
    return this.#process.alive
  }

  get busy(): number {
    return this.#slots.busy
  }

  start(): void {
    if (this.#process.alive) return
    this.#process = new SimulatedProcess(this.#time)
    this.#incarnation += 1
    this.#process.run(() => this.#boot())
  }

  kill(): void {
    if (!this.#process.alive) return
    this.#process.alive = false
    this.#network.cut(this.plan.name, 0, this.#time.chance.between(0, 40))
  }

  /** Another machine under the same name: what this one ran is gone with it. */
  replace(): void {
    this.kill()
    this.#identity += 1
  }

  /** SIGSTOP; the coordinator's keepalive gives the stream up only long after its own dead time. */
  freeze(ms: number): void {
    const process = this.#process
    process.frozen = true
    this.#time.after(ms, () => process.thaw(), null)
  }

  crashModel(): void {
    this.#process.run(() => this.#time.chance.pick(this.#engines).crash())
  }

  stallModel(ms: number): void {
    for (const engine of this.#engines) engine.stall(ms)
  }

  /** As worker/main.ts does it: nothing new, a while to finish, then the rest is handed back, and the process ends. */
  drain(): void {
    const process = this.#process
    const link = this.#link
    process.run(() => {
      this.#slots.draining = true
      link?.drain()
      setTimeout(() => link?.handBack(), this.#time.chance.between(100, 3_000))
      setTimeout(() => {
        void link?.close()
        process.alive = false
      }, 4_500)
    })
  }

  #boot(): void {
    const slots = new Slots()
    const changed = (): void => this.#link?.report()
    this.#slots = slots
    this.#engines = []
    for (const { name, slots: count, sha256 } of this.plan.models) {
      const engine = new SimulatedEngine(this.#time.chance, this.#book, count, sha256, changed)
      this.#engines.push(engine)
      slots.add({ name, kind: 'fake', engine })
    }
    this.#link = new CoordinatorLink(this.plan.name, 'token', slots, {
      id: this.id,
      name: this.plan.name,
      session: String(this.#incarnation),
      version: '0',
      log: { info: () => {}, warn: () => {} },
      models: () => slots.models(),
      // As protobuf hands it over: what is not said is there, and empty.
      host: () => ({ platform: '', cpuModel: '', gpus: [] }),
      onDrain: () => {},
      onConnected: () => {},
      onWelcomed: () => {},
      giveUp: () => undefined,
    })
    this.#link.open()
  }
}
