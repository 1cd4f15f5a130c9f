import { type ChildProcess, fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'

/**
 * A worker that is killed cannot end its jobs, and a program of a job need not notice. So a process of our own hangs on a
 * channel to the worker, knows the folders of its jobs, and ends and removes what is left of them when the channel closes.
 * It starts with the first job.
 */
export class Leash {
  readonly #warn: (message: string) => void
  readonly #held = new Set<string>()
  #keeper: ChildProcess | undefined
  #closed = false

  constructor(warn: (message: string) => void) {
    this.#warn = warn
  }

  /** From here on the job in this folder ends with the worker. */
  hold(root: string): void {
    this.#held.add(root)
    if (this.#keeper === undefined) this.#start()
    else this.#tell({ kind: 'hold', root })
  }

  release(root: string): void {
    this.#held.delete(root)
    this.#tell({ kind: 'release', root })
  }

  close(): void {
    this.#closed = true
    if (this.#keeper?.connected === true) this.#keeper.disconnect()
  }

  #start(): void {
    const keeper = fork(fileURLToPath(new URL('leash-process.ts', import.meta.url)), [], {
      execArgv: [],
      // Nothing of it needs the worker's secrets; the temporary folder is where the jobs are.
      env: { PATH: process.env.PATH ?? '', ...(process.env.TMPDIR === undefined ? {} : { TMPDIR: process.env.TMPDIR }) },
      // What kills the worker's whole group must leave this one to clear up.
      detached: true,
      stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
    })
    keeper.on('error', (error) => {
      this.#warn(`the process that ends the jobs of a killed worker is not well: ${error.message}`)
      // One that could not start does not end either: the next job tries again.
      if (keeper.pid === undefined) this.#keeper = undefined
    })
    keeper.once('exit', () => {
      this.#keeper = undefined
      if (!this.#closed) this.#warn('the process that ends the jobs of a killed worker died; the next job starts another')
    })
    // Neither it nor its channel keeps a worker alive that has nothing else to do.
    keeper.unref()
    keeper.channel?.unref()
    this.#keeper = keeper
    for (const root of this.#held) this.#tell({ kind: 'hold', root })
  }

  /** What is told to a keeper that is just dying is told again to the next. */
  #tell(message: ToKeeper): void {
    if (this.#keeper?.connected === true) this.#keeper.send(message, () => {})
  }
}

export type ToKeeper = { kind: 'hold' | 'release'; root: string }
