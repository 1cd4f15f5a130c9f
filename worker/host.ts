import os from 'node:os'
import si from 'systeminformation'
import type { HostMessage } from '../proto/link.ts'
import { type GpuReading, NvidiaSmi } from './gpus.ts'

/**
 * The host's load, measured in the background so that a heartbeat never waits for it. The only door to systeminformation,
 * of which only that is called which does not wait for another program: it does so with the whole process.
 */
export class HostTelemetry {
  #latest: HostMessage = {
    cpuCores: os.availableParallelism(),
    memoryBytes: os.totalmem(),
    memoryUsedBytes: os.totalmem() - os.freemem(),
    platform: `${os.platform()} ${os.release()} ${os.arch()}`,
    cpuModel: os.cpus()[0]?.model ?? '',
    gpus: [],
  }
  #cpuTimes = cpuTimes()
  #timer: NodeJS.Timeout | undefined
  readonly #problems = new Map<string, string | null>()
  readonly #onProblem: (message: string) => void
  readonly #readGpus: () => Promise<GpuReading>
  readonly #everyMs: number

  constructor(onProblem: (message: string) => void, readGpus = gpuReader(os.platform()), everyMs = MEASURE_EVERY_MS) {
    this.#onProblem = onProblem
    this.#readGpus = readGpus
    this.#everyMs = everyMs
  }

  start(): void {
    this.#measure()
    this.#timer = setInterval(() => this.#measure(), this.#everyMs)
  }

  stop(): void {
    clearInterval(this.#timer)
  }

  latest(): HostMessage {
    return this.#latest
  }

  /** The two know nothing of each other: a GPU that does not answer must not hide the load of the host. */
  #measure(): void {
    void this.#measureHost()
    void this.#measureGpus()
  }

  async #measureHost(): Promise<void> {
    const before = this.#cpuTimes
    const times = cpuTimes()
    this.#cpuTimes = times
    // Two looks within one tick of the kernel's clock tell nothing.
    if (times.total > before.total) this.#latest = { ...this.#latest, cpuRatio: busyShare(before, times) }
    try {
      const { total, active } = await si.mem()
      this.#latest = { ...this.#latest, memoryBytes: total, memoryUsedBytes: active }
      this.#note("The host's memory", null)
    } catch (error) {
      this.#note("The host's memory", error instanceof Error ? error.message : String(error))
    }
  }

  async #measureGpus(): Promise<void> {
    const { gpus, problem } = await this.#readGpus()
    this.#latest = { ...this.#latest, gpus }
    this.#note('The GPUs', problem)
  }

  /** A problem is told when it appears or changes, not every few seconds while it lasts. */
  #note(what: string, problem: string | null): void {
    if (problem !== null && this.#problems.get(what) !== problem) this.#onProblem(`${what} could not be measured: ${problem}`)
    this.#problems.set(what, problem)
  }
}

const MEASURE_EVERY_MS = 5_000
const MIB = 1024 * 1024

/** Milliseconds of all cores since the host started. */
type CpuTimes = { idle: number; total: number }

/** The kernel's count of idle time may run back a little. */
function busyShare(before: CpuTimes, after: CpuTimes): number {
  return Math.min(1, Math.max(0, 1 - (after.idle - before.idle) / (after.total - before.total)))
}

/** Read by Node itself: systeminformation's own figure starts a shell for it on Linux, and everything here waits for that. */
function cpuTimes(): CpuTimes {
  let idle = 0
  let total = 0
  for (const { times } of os.cpus()) {
    idle += times.idle
    total += times.user + times.nice + times.sys + times.irq + times.idle
  }
  return { idle, total }
}

function gpuReader(platform: NodeJS.Platform): () => Promise<GpuReading> {
  if (platform === 'darwin') {
    // Asked once: there it runs a program that takes seconds and tells what the GPUs are, not how busy.
    const reading = graphics()
    return () => reading
  }
  const nvidia = new NvidiaSmi()
  return () => nvidia.read()
}

async function graphics(): Promise<GpuReading> {
  try {
    const { controllers } = await si.graphics()
    const gpus = controllers
      .filter(({ vram }) => (vram ?? 0) > 0)
      .map(({ model, vram, temperatureGpu }) => ({
        name: model,
        memoryBytes: (vram ?? 0) * MIB,
        temperatureCelsius: temperatureGpu ?? 0,
      }))
    return { gpus, problem: null }
  } catch (error) {
    return { gpus: [], problem: error instanceof Error ? error.message : String(error) }
  }
}
