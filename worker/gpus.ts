import { execFile } from 'node:child_process'
import type { HostMessage } from '../proto/link.ts'

/** The GPUs as they are now; `problem`: why they could not be asked, null where all is well. */
export type GpuReading = { gpus: Gpu[]; problem: string | null }

type Gpu = NonNullable<HostMessage['gpus']>[number]

/**
 * GPUs of NVIDIA, asked of the program that comes with their driver. A driver that hangs holds that program, and one that
 * hangs in the kernel cannot even be killed: so there is never more than one of it, and whoever asks meanwhile is told.
 */
export class NvidiaSmi {
  readonly #program: string
  readonly #timeoutMs: number
  #asking = false
  #absent = false

  constructor(program = 'nvidia-smi', timeoutMs = ANSWER_WITHIN_MS) {
    this.#program = program
    this.#timeoutMs = timeoutMs
  }

  async read(): Promise<GpuReading> {
    if (this.#absent) return NO_GPUS
    if (this.#asking) return { gpus: [], problem: SILENT }
    this.#asking = true
    try {
      return await this.#ask()
    } finally {
      this.#asking = false
    }
  }

  #ask(): Promise<GpuReading> {
    // SIGKILL, because a program in trouble may not hear SIGTERM. The locale decides how numbers are written.
    const options = { timeout: this.#timeoutMs, killSignal: 'SIGKILL', env: { ...process.env, LC_ALL: 'C' } } as const
    return new Promise((resolve) => {
      try {
        execFile(this.#program, QUESTION, options, (error, said, complaint) => {
          // A driver may be installed or loaded later, but a program that is missing is not worth a try every few seconds.
          this.#absent = error?.code === 'ENOENT'
          if (this.#absent) resolve(NO_GPUS)
          else if (error === null) resolve(readGpus(said))
          else resolve({ gpus: [], problem: error.killed === true ? SILENT : whyFailed(error, said, complaint) })
        })
      } catch (error) {
        // Node throws what is wrong with a program that is there, such as one that is being replaced.
        resolve({ gpus: [], problem: whyFailed(error as Error, '', '') })
      }
    })
  }
}

/** What the program says to `QUESTION`: a line a GPU, with the name first, which may hold a comma itself. */
export function readGpus(said: string): GpuReading {
  const lines = said.split('\n').filter((line) => line.trim() !== '')
  if (lines.length === 0) return { gpus: [], problem: 'nvidia-smi names no GPU' }
  const gpus: Gpu[] = []
  for (const line of lines) {
    const gpu = gpuOf(line)
    if (gpu === undefined) return { gpus: [], problem: `nvidia-smi said "${line.trim().slice(0, WORDS_MAX)}", which is not understood` }
    gpus.push(gpu)
  }
  return { gpus, problem: null }
}

function gpuOf(line: string): Gpu | undefined {
  const fields = line.split(',')
  const name = fields.slice(0, -FIGURES).join(',').trim()
  const figures = fields.slice(-FIGURES).map((field) => figureOf(field.trim()))
  const [percent, memoryMib, usedMib, celsius, watts] = figures
  if (name === '' || figures.length < FIGURES || figures.some(Number.isNaN)) return undefined
  return {
    name,
    utilizationRatio: (percent ?? 0) / 100,
    memoryBytes: (memoryMib ?? 0) * MIB,
    memoryUsedBytes: (usedMib ?? 0) * MIB,
    temperatureCelsius: celsius ?? 0,
    powerWatts: watts ?? 0,
  }
}

/** What a GPU does not measure is `[N/A]`, `[Not Supported]`, another word in brackets, or nothing: 0. Anything else: NaN. */
function figureOf(field: string): number {
  if (field === '' || field === 'N/A' || /^\[[^\]]*\]$/.test(field)) return 0
  return /^\d+(\.\d+)?$/.test(field) ? Number(field) : Number.NaN
}

/** It complains on its standard output too. */
function whyFailed(error: Error, said: string, complaint: string): string {
  const [words] = `${complaint}\n${said}`.split('\n').filter((line) => line.trim() !== '')
  return `nvidia-smi failed: ${(words ?? error.message).trim().slice(0, WORDS_MAX)}`
}

const QUESTION = ['--query-gpu=name,utilization.gpu,memory.total,memory.used,temperature.gpu,power.draw', '--format=csv,noheader,nounits']
/** Of a line, behind the name. */
const FIGURES = 5
const MIB = 1024 * 1024
const WORDS_MAX = 200
// Less than the pause between two questions. It takes tens of milliseconds, and seconds where no other program has the driver open.
const ANSWER_WITHIN_MS = 4_000
const SILENT = 'nvidia-smi does not answer'
const NO_GPUS: GpuReading = { gpus: [], problem: null }
