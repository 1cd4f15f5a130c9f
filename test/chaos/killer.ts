import { descendants } from '../support/world.ts'
import type { Chance } from './chance.ts'
import { commandOf } from './processes.ts'
import type { Member, Scene } from './scene.ts'

export type Kind = 'worker' | 'engine' | 'freeze' | 'coordinator' | 'postgres'

/** Kills something every few seconds until it is stopped; then it thaws what it froze. */
export class Killer {
  readonly counts = new Map<Kind, number>()
  /** What was done when, to lay beside the events of a job. */
  readonly diary: { atMs: number; what: string }[] = []
  readonly #scene: Scene
  readonly #chance: Chance
  readonly #kinds: readonly Kind[]
  readonly #everyMs: number
  readonly #stopping = new AbortController()
  readonly #thawing = new Set<Promise<void>>()
  #bag: Kind[] = []
  #loop: Promise<void> = Promise.resolve()

  constructor(scene: Scene, chance: Chance, everyMs: number, kinds: readonly Kind[]) {
    this.#scene = scene
    this.#chance = chance
    this.#everyMs = everyMs
    this.#kinds = kinds
  }

  start(): void {
    if (this.#kinds.length > 0) this.#loop = this.#run()
  }

  async stop(): Promise<void> {
    this.#stopping.abort()
    await this.#loop
    await Promise.all(this.#thawing)
  }

  get summary(): string {
    return [...this.counts].map(([kind, count]) => `${kind} ${count}`).join(', ') || '–'
  }

  async #run(): Promise<void> {
    for (;;) {
      await pause(this.#everyMs * (0.5 + this.#chance.next()), this.#stopping.signal)
      if (this.#stopping.signal.aborted) return
      // A full bag before any kind comes twice as often as another: every run tries everything.
      if (this.#bag.length === 0) this.#bag = this.#chance.shuffled(this.#kinds)
      const kind = this.#bag.pop() ?? 'worker'
      const what = await this.#do(kind)
      if (what === undefined) continue
      this.counts.set(kind, (this.counts.get(kind) ?? 0) + 1)
      this.diary.push({ atMs: Date.now(), what })
    }
  }

  /** What was done; undefined when there was nobody to do it to. */
  async #do(kind: Kind): Promise<string | undefined> {
    const victim = this.#chance.pick(this.#scene.workers.filter(isUp))
    const restartAfterMs = this.#chance.whole(200, 2_000)
    const alone = this.#chance.is(0.5)
    const frozenMs = this.#chance.whole(1_000, 7_000)
    if (kind === 'coordinator') {
      if (!isUp(this.#scene.coordinator)) return undefined
      this.#scene.kill(this.#scene.coordinator, 0)
      return 'coordinator: kill -9 of its group'
    }
    if (kind === 'postgres') {
      const pid = this.#scene.postmasterPid()
      if (pid === undefined || !isUp(this.#scene.coordinator)) return undefined
      process.kill(pid, 'SIGKILL')
      return `postgres ${pid}: kill -9`
    }
    if (kind === 'engine') return await this.#killEngine()
    if (victim === undefined) return undefined
    if (kind === 'freeze') {
      this.#freeze(victim, frozenMs)
      return `${victim.name}: SIGSTOP for ${frozenMs} ms`
    }
    // The process alone is what the kernel kills when memory is short: its engines must notice by themselves.
    this.#scene.kill(victim, restartAfterMs, alone)
    return `${victim.name}: kill -9 of ${alone ? 'the process' : 'its group'}, back after ${restartAfterMs} ms`
  }

  /** In the middle of its work, if it gets any within three seconds. */
  async #killEngine(): Promise<string | undefined> {
    const { world } = this.#scene
    const isBusy = async (): Promise<boolean> => {
      const { data } = (await world.get('/api/workers')) as { data: { models: { name: string; busy: number }[] }[] }
      return data.some(({ models }) => models.some((model) => model.name === 'tiny' && model.busy > 0))
    }
    await world.until('the model works', isBusy, 3_000).catch(() => {})
    const running = this.#scene.workers.filter(isUp).flatMap((worker) => descendants(worker.running.pid))
    const engine = running.find((pid) => commandOf(pid).includes('llama-process'))
    if (engine === undefined) return undefined
    // A frozen one has to be found and ended by its worker.
    const frozen = this.#chance.is(0.3)
    process.kill(engine, frozen ? 'SIGSTOP' : 'SIGKILL')
    return `engine ${engine}: ${frozen ? 'SIGSTOP for good' : 'kill -9'}`
  }

  #freeze(victim: Member, forMs: number): void {
    const { running } = victim
    victim.frozen = true
    running.kill('SIGSTOP')
    const thawed = pause(forMs, this.#stopping.signal).then(() => {
      running.kill('SIGCONT')
      victim.frozen = false
      this.#thawing.delete(thawed)
    })
    this.#thawing.add(thawed)
  }
}

function isUp(member: Member): boolean {
  return member.running.ended === null && !member.killed && !member.frozen
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms)
    signal.addEventListener('abort', () => {
      clearTimeout(timer)
      resolve()
    })
    if (signal.aborted) resolve()
  })
}
