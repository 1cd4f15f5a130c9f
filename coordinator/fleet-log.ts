import type { ToldModel } from '../proto/link.ts'
import type { EventRecord, EventType } from './core/event.ts'
import type { Hold, WorkerState } from './core/fleet.ts'
import type { WorkerId } from './core/job.ts'
import type { Scheduler } from './core/scheduler.ts'
import type { WorkerFacts } from './fleet-facts.ts'
import { offerOf } from './told.ts'
import type { Db } from './store/db.ts'
import { saveWorker } from './store/workers.ts'
import type { Writer } from './store/writer.ts'

/** Writes what happens to workers and their models into the ledger: one event per change, and the worker's row. */
export class FleetLog {
  readonly #parts: FleetLogParts
  readonly #joined: Set<WorkerId>
  #saving = Promise.resolve()
  #find: (worker: WorkerId) => WorkerFacts | undefined = () => undefined
  #markDrained: (worker: WorkerId) => void = () => {}

  constructor(parts: FleetLogParts) {
    this.#parts = parts
    this.#joined = new Set(parts.known)
  }

  describe(find: (worker: WorkerId) => WorkerFacts | undefined, markDrained: (worker: WorkerId) => void): void {
    this.#find = find
    this.#markDrained = markDrained
  }

  stateChanged(id: WorkerId, from: string, to: string): void {
    // A cloud has no comings and goings of its own: it was set, or taken away, by a person.
    const known = this.#parts.scheduler.findWorker(id)
    if (known === undefined ? this.#find(id) === undefined : known.cloud !== null) return
    const type = this.#typeOf(id, from as WorkerState, to as WorkerState)
    const name = this.#nameOf(id)
    if (type === 'worker.drained') this.#markDrained(id)
    this.#parts.log[to === 'offline' || to === 'suspect' ? 'warn' : 'info'](`Worker "${name}" is ${to} (was ${from}).`)
    const { reason = null, by = null } = this.#find(id) ?? {}
    const isAsked = type === 'worker.drain_started' || type === 'worker.drained'
    this.#add(type, name, { from, to, ...(reason === null ? {} : { reason }) }, isAsked ? by : null)
    this.#save(id)
  }

  replaced(id: WorkerId): void {
    this.#add('worker.replaced', this.#nameOf(id), { worker: id })
  }

  modelChanged(id: WorkerId, model: ToldModel, was: string | undefined): void {
    if (was === undefined && model.state === 'loading') return
    const type = model.state === 'ready' ? 'model.loaded' : model.state === 'loading' ? 'model.loading' : 'model.crashed'
    this.#parts.log[type === 'model.crashed' ? 'warn' : 'info'](
      `Model "${model.name}" on worker "${this.#nameOf(id)}" is ${model.state}${model.detail === '' ? '' : `: ${unended(model.detail)}`}.`,
    )
    this.#add(type, this.#nameOf(id), {
      model: model.name,
      state: model.state,
      was: was ?? null,
      detail: model.detail,
      slots: model.slots,
      sha256: model.sha256,
    })
    this.#save(id)
  }

  breakerChanged(id: WorkerId, model: string, untilMs: number | null, why: string): void {
    const state = untilMs === null ? 'online' : 'cooling_down'
    const until = untilMs === null ? null : new Date(untilMs).toISOString()
    const name = this.#nameOf(id)
    this.#parts.log.warn(`Model "${model}" on "${name}" is ${state}: ${unended(why)}.`)
    const isWorker = this.#parts.scheduler.findWorker(id)?.cloud === null
    this.#parts.writer.addEvent({
      ...this.#parts.newEvent('provider.state_changed', 'coordinator', { model, state, until, why }),
      provider: name,
      worker: isWorker ? name : null,
    })
  }

  heldChanged(id: WorkerId, model: string | null, hold: Hold | null): void {
    const name = this.#nameOf(id)
    const state = hold?.state ?? 'online'
    const until = hold === null || hold.untilMs === null ? null : new Date(hold.untilMs).toISOString()
    this.#parts.log[hold === null ? 'info' : 'warn'](`Provider "${name}" is ${state}${hold === null ? '' : `: ${unended(hold.why)}`}.`)
    this.#parts.writer.addEvent({
      ...this.#parts.newEvent('provider.state_changed', 'coordinator', { model, state, until, why: hold?.why ?? null }),
      provider: name,
    })
  }

  #typeOf(id: WorkerId, from: WorkerState, to: WorkerState): EventType {
    if (to === 'suspect') return 'worker.suspected'
    if (to === 'draining') return 'worker.drain_started'
    if (to === 'offline') return from === 'draining' ? 'worker.drained' : 'worker.lost'
    const first = !this.#joined.has(id)
    this.#joined.add(id)
    return first ? 'worker.joined' : 'worker.returned'
  }

  #nameOf(id: WorkerId): string {
    return this.#parts.scheduler.findWorker(id)?.name ?? id
  }

  /** `by`: who wanted it, where that was not the worker itself. */
  #add(type: EventType, worker: string, details: Record<string, unknown>, by: string | null = null): void {
    this.#parts.writer.addEvent({ ...this.#parts.newEvent(type, by ?? `worker:${worker}`, details), worker, provider: worker })
  }

  /** One after the other, so that an older state never overwrites a newer one. */
  #save(id: WorkerId): void {
    this.#saving = this.#saving.then(async () => {
      const worker = this.#parts.scheduler.findWorker(id)
      const facts = this.#find(id)
      if (worker === undefined || facts === undefined) return
      const offers = facts.models.length > 0 ? facts.models.map(offerOf) : [...worker.models.values()].map(({ offer }) => offer)
      // What a worker holds now is of no use after a restart.
      const models = offers.map((offer) => ({ ...offer, prefixes: [] }))
      try {
        await saveWorker(this.#parts.db, {
          id,
          name: worker.name,
          state: worker.state,
          version: facts.version,
          models,
          host: { ...facts.host },
          drained: facts.drained,
        })
      } catch (error) {
        // The worker says all of it again when it next connects; the events are with the writer, which does not give up.
        this.#parts.log.warn(
          `The row of worker "${worker.name}" could not be written: ${error instanceof Error ? error.message : String(error)}`,
        )
      }
    })
  }
}

type FleetLogParts = {
  db: Db
  writer: Writer
  scheduler: Scheduler
  newEvent(type: EventType, actor: string, details: Record<string, unknown>): EventRecord
  log: { info(text: string): void; warn(text: string): void }
  known: WorkerId[]
}

/** A reason may be a sentence already. */
function unended(why: string): string {
  return why.replace(/[.\s]+$/, '')
}
