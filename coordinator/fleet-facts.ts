import type { ToldHello, ToldHost, ToldModel } from '../proto/link.ts'
import type { FleetWorker } from './core/fleet.ts'
import type { WorkerId } from './core/job.ts'

/** What workers told about themselves that no decision depends on: for people, metrics and the model events. */
export class FleetFacts {
  readonly #facts = new Map<WorkerId, WorkerFacts>()
  readonly #onModelChange: ModelListener

  constructor(onModelChange: ModelListener) {
    this.#onModelChange = onModelChange
  }

  find(worker: WorkerId): WorkerFacts | undefined {
    return this.#facts.get(worker)
  }

  restore(worker: WorkerId, facts: Partial<WorkerFacts> & { version: string; joinedMs: number; heardMs: number }): void {
    this.#facts.set(worker, { models: [], host: null, reason: null, by: null, drained: false, revokedMs: null, ...facts })
  }

  hello(worker: WorkerId, hello: ToldHello, nowMs: number): void {
    const { models: before = [], joinedMs = nowMs } = this.#facts.get(worker) ?? {}
    const { version, models, host } = hello
    const fresh = { reason: null, by: null, drained: false, revokedMs: null }
    this.#facts.set(worker, { version, models, host: host ?? null, joinedMs, heardMs: nowMs, ...fresh })
    this.#compare(worker, before, hello.models)
  }

  heartbeat(worker: WorkerId, models: ToldModel[], host: ToldHost | null, nowMs: number): void {
    const known = this.#facts.get(worker)
    if (known === undefined) return
    const before = known.models
    known.models = models
    known.host = host ?? known.host
    known.heardMs = nowMs
    this.#compare(worker, before, models)
  }

  /** When the worker was last heard: the scheduler's own clock begins anew with the coordinator. */
  heardMs({ id, lastHeardMs }: FleetWorker): number {
    return this.#facts.get(id)?.heardMs ?? lastHeardMs
  }

  /** Gone, and not missed: it said goodbye, was sent away, or nobody has looked for it in a day. */
  isRetired(worker: FleetWorker, nowMs: number): boolean {
    if (worker.state !== 'offline') return false
    const { drained = false, revokedMs = null } = this.#facts.get(worker.id) ?? {}
    return drained || revokedMs !== null || nowMs - this.heardMs(worker) > MISSED_MS
  }

  /** Why it is, or will soon be, as it is: a person's word. */
  note(worker: WorkerId, what: Partial<Pick<WorkerFacts, 'reason' | 'by' | 'drained' | 'revokedMs'>>): void {
    const known = this.#facts.get(worker)
    if (known !== undefined) Object.assign(known, what)
  }

  forget(worker: WorkerId): void {
    this.#facts.delete(worker)
  }

  #compare(worker: WorkerId, before: ToldModel[], after: ToldModel[]): void {
    for (const model of after) {
      const was = before.find((other) => other.name === model.name)?.state
      if (was !== model.state) this.#onModelChange(worker, model, was)
    }
  }
}

export type WorkerFacts = {
  version: string
  models: ToldModel[]
  host: ToldHost | null
  /** When it was first seen. */
  joinedMs: number
  heardMs: number
  /** Why it takes nothing, where a person said so. */
  reason: string | null
  /** Who said so. */
  by: string | null
  /** It said goodbye before it went. */
  drained: boolean
  revokedMs: number | null
}

const MISSED_MS = 86_400_000

type ModelListener = (worker: WorkerId, model: ToldModel, was: string | undefined) => void
