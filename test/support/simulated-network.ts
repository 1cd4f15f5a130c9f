import type { CoordinatorEnd, LinkDialler, WorkerEnd } from '../../proto/link.ts'
import type { SimulatedProcess, VirtualTime } from './simulated-time.ts'

/**
 * The network in the place of gRPC: ordered streams between the real ends of a session (worker/link.ts and
 * coordinator/link.ts) that are late, stall, break with everything in flight, and of whose end either side may hear late.
 */
export class SimulatedNetwork {
  readonly time: VirtualTime
  #server: { process: SimulatedProcess; open: (end: CoordinatorEnd) => void } | null = null
  readonly #streams = new Map<string, SimulatedStream>()
  /** Hosts that reach nobody. */
  readonly cutOff = new Set<string>()
  /** How late a message usually is. */
  latencyMs = 2

  constructor(time: VirtualTime) {
    this.time = time
  }

  listen(process: SimulatedProcess, open: (end: CoordinatorEnd) => void): void {
    this.#server = { process, open }
  }

  /** What the worker process holds in its hand instead of a gRPC client. */
  dialler(host: string, process: SimulatedProcess): LinkDialler {
    return { open: () => this.#dial(host, process).worker as unknown as WorkerEnd, close: () => {} }
  }

  streamOf(host: string): SimulatedStream | undefined {
    return this.#streams.get(host)
  }

  /** Breaks the stream; each side hears of it after its own delay. */
  cut(host: string, workerHearsMs: number, coordinatorHearsMs: number): void {
    this.#streams.get(host)?.cut(workerHearsMs, coordinatorHearsMs)
  }

  /** The coordinator's process ended: every host sees its stream reset. */
  coordinatorDied(): void {
    this.#server = null
    for (const stream of this.#streams.values()) stream.cut(this.time.chance.between(1, 30), 0)
  }

  #dial(host: string, process: SimulatedProcess): SimulatedStream {
    const server = this.#server
    const stream = new SimulatedStream(this, process, server?.process ?? process)
    if (server === null || this.cutOff.has(host)) {
      stream.cut(this.time.chance.between(1, 300), 0)
      return stream
    }
    this.#streams.set(host, stream)
    stream.coordinator.clearMs = this.time.nowMs + this.latencyMs
    this.time.after(this.latencyMs, () => server.open(stream.coordinator as unknown as CoordinatorEnd), server.process)
    return stream
  }
}

/** From now on the workers that dial are in this network. */
export function playIn(network: SimulatedNetwork): void {
  current = network
}

/** Takes the place of proto/link.ts's door to gRPC (see simulation.test.ts): a worker dials by its own name. */
export function dialSimulated(host: string): LinkDialler {
  const process = current?.time.running ?? null
  if (current === undefined || process === null) throw new Error('nobody dials outside of a scenario')
  return current.dialler(host, process)
}

let current: SimulatedNetwork | undefined

class SimulatedStream {
  readonly worker: End
  readonly coordinator: End
  /** The last reports of the worker, to be heard again. */
  readonly reports: Message[] = []
  #broken = false
  readonly #network: SimulatedNetwork

  constructor(network: SimulatedNetwork, worker: SimulatedProcess, coordinator: SimulatedProcess) {
    this.#network = network
    this.worker = new End(worker, (name, value) => this.#carry(this.coordinator, name, value))
    this.coordinator = new End(coordinator, (name, value) => this.#carry(this.worker, name, value))
  }

  cut(workerHearsMs: number, coordinatorHearsMs: number): void {
    if (this.#broken) return
    this.#broken = true
    const { time } = this.#network
    time.after(workerHearsMs, () => this.worker.hear('error', new Error('the connection broke')), this.worker.process)
    time.after(coordinatorHearsMs, () => this.coordinator.hear('cancelled', undefined), this.coordinator.process)
  }

  /** Nothing comes through for a while, and then all of it, in the order in which it was sent. */
  stall(ms: number): void {
    for (const end of [this.worker, this.coordinator]) end.clearMs = Math.max(end.clearMs, this.#network.time.nowMs + ms)
  }

  /** The coordinator hears the worker's reports a second time. */
  echo(): void {
    const { process } = this.coordinator
    if (!process.alive || process.frozen) return
    this.#network.time.as(process, () => {
      for (const report of [...this.reports]) this.coordinator.hear('data', report)
    })
  }

  #carry(to: End, name: string, value: unknown): void {
    if (this.#broken) return
    const { time, latencyMs } = this.#network
    to.clearMs = Math.max(to.clearMs, time.nowMs + latencyMs * (0.5 + time.chance.next()))
    const told = name === 'data' ? this.#encoded(to, value as Message) : value
    time.after(to.clearMs - time.nowMs, () => this.#broken || to.hear(name, told), to.process)
  }

  /** What protobuf makes of a message: a copy, with the lists that were not set, and the name of what was. */
  #encoded(to: End, message: Message): unknown {
    if (to === this.worker) {
      const { start } = message
      return start === undefined ? message : { start: { ...start, continuation: start.continuation?.slice() ?? [] } }
    }
    const output = message.output === undefined ? undefined : { chunks: [], finished: [], failed: [], ...message.output }
    const told: Message = { ...message, ...(output === undefined ? {} : { output }), message: Object.keys(message)[0] }
    if (output !== undefined || 'refused' in message) this.reports.push(told)
    return told
  }
}

type Message = { start?: { continuation?: number[] }; output?: object; message?: string | undefined }

/** One end of a stream, with as much of a gRPC call's face as the product uses. */
class End {
  readonly process: SimulatedProcess
  /** When the way to here is clear of what was sent before. */
  clearMs = 0
  readonly #listeners = new Map<string, (value: unknown) => void>()
  readonly #send: (name: string, value: unknown) => void
  #over = false

  constructor(process: SimulatedProcess, send: (name: string, value: unknown) => void) {
    this.process = process
    this.#send = send
  }

  on(name: string, listener: (value: unknown) => void): this {
    this.#listeners.set(name, listener)
    return this
  }

  hear(name: string, value: unknown): void {
    this.#listeners.get(name)?.(value)
  }

  write(message: unknown): void {
    if (!this.#over) this.#send('data', message)
  }

  end(): void {
    if (!this.#over) this.#send('end', undefined)
    this.#over = true
  }

  /** How a server refuses a call. */
  emit(name: string, value: unknown): void {
    if (!this.#over) this.#send(name, value)
    this.#over = true
  }
}
