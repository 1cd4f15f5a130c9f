import os from 'node:os'
import si from 'systeminformation'
import type { HostMessage } from '../proto/link.ts'

/** The host's load, measured in the background so that a heartbeat never waits for it. The only door to systeminformation. */
export class HostTelemetry {
  #latest: HostMessage = {
    cpuCores: os.availableParallelism(),
    memoryBytes: os.totalmem(),
    memoryUsedBytes: os.totalmem() - os.freemem(),
    platform: `${os.platform()} ${os.release()} ${os.arch()}`,
    cpuModel: os.cpus()[0]?.model ?? '',
    gpus: [],
  }
  #hasGpu = true
  #timer: NodeJS.Timeout | undefined
  readonly #onProblem: (message: string) => void

  constructor(onProblem: (message: string) => void) {
    this.#onProblem = onProblem
  }

  start(): void {
    void this.#measure()
    this.#timer = setInterval(() => void this.#measure(), MEASURE_EVERY_MS)
  }

  stop(): void {
    clearInterval(this.#timer)
  }

  latest(): HostMessage {
    return this.#latest
  }

  async #measure(): Promise<void> {
    try {
      const [load, memory] = await Promise.all([si.currentLoad(), si.mem()])
      const gpus = this.#hasGpu ? await gpuLoads() : []
      // Asking costs a process each time: a host without a GPU is asked once.
      this.#hasGpu = gpus.length > 0
      this.#latest = { ...this.#latest, cpuRatio: load.currentLoad / 100, memoryBytes: memory.total, memoryUsedBytes: memory.active, gpus }
    } catch (error) {
      this.#onProblem(`The host's load could not be measured: ${error instanceof Error ? error.message : String(error)}`)
    }
  }
}

const MEASURE_EVERY_MS = 5_000
const MIB = 1024 * 1024

async function gpuLoads(): Promise<NonNullable<HostMessage['gpus']>> {
  const { controllers } = await si.graphics()
  return controllers
    .filter((gpu) => (gpu.memoryTotal ?? 0) > 0)
    .map((gpu) => ({
      name: gpu.name ?? gpu.model,
      utilizationRatio: (gpu.utilizationGpu ?? 0) / 100,
      memoryBytes: (gpu.memoryTotal ?? 0) * MIB,
      memoryUsedBytes: (gpu.memoryUsed ?? 0) * MIB,
      temperatureCelsius: gpu.temperatureGpu ?? 0,
      powerWatts: gpu.powerDraw ?? 0,
    }))
}
