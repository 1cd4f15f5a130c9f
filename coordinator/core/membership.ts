import { COORDINATOR_RESTARTED, PROVIDER_REMOVED, WORKER_LOST, WORKER_RESTARTED, WORKER_SILENT } from './attempt-errors.ts'
import type { Attempts } from './attempts.ts'
import type { Board } from './board.ts'
import { type FleetWorker, type ModelOffer, occupationKey, SPENT } from './fleet.ts'
import type { InputOf } from './inputs.ts'
import type { JobError, JobId, WorkerId } from './job.ts'
import { Quota } from './quota.ts'

/** Who can run something: workers that come, are heard and go, and the providers that the coordinator calls itself. */
export class Membership {
  readonly #board: Board
  readonly #attempts: Attempts

  constructor(board: Board, attempts: Attempts) {
    this.#board = board
    this.#attempts = attempts
  }

  /** From an earlier run of the coordinator. */
  know(input: InputOf<'worker-known'>): void {
    const worker = this.#board.know(input.worker, input.name)
    const offers = input.offers.map((offer): ModelOffer => ({ ...offer, slots: 0, state: 'down' }))
    if (input.wasOnline === true) worker.expectBack(this.#board.nowMs + this.#board.rules.recoveryGraceMs)
    this.#board.setOffers(worker, offers)
  }

  connect(input: InputOf<'worker-connected'>): void {
    const worker = this.#board.know(input.worker, input.name)
    // A new machine under an old name replaces the old one, which is gone: names are what people pin requests to.
    for (const other of this.#board.workers.values())
      if (other !== worker && other.name === input.name && !other.connected && other.cloud === null) this.#remove(other)
    worker.connected = true
    worker.draining = input.draining
    worker.lastHeardMs = this.#board.nowMs
    worker.lostAtMs = null
    this.#board.setOffers(worker, input.offers)
    this.#board.setState(worker, input.draining ? 'draining' : 'online')
    this.#reconcile(worker, input.held)
    worker.recovering = false
    this.#board.fillWorker(worker.id)
  }

  /** The greeting is the truth about what the worker still holds; what it does not name is gone. */
  #reconcile(worker: FleetWorker, held: { job: JobId; attempt: number }[]): void {
    const unclaimed = new Map(held.map((item) => [occupationKey(item.job, item.attempt), item]))
    for (const { job: id, attempt } of [...worker.occupied.values()]) {
      const key = occupationKey(id, attempt)
      const job = this.#board.jobs.get(id)
      const live = job !== undefined && job.worker === worker && job.attempt === attempt
      if (unclaimed.has(key)) {
        if (!live) continue
        job.progressedMs = this.#board.nowMs
        // A coordinator that took the job up may hear only now whether anybody can go on from what this one brings.
        job.startsOver ||= worker.models.get(job.served)?.offer.startsOver === true
        this.#board.emit({ kind: 'resume-attempt', job: id, attempt, worker: worker.id })
        unclaimed.delete(key)
        continue
      }
      worker.vacate(id, attempt)
      if (live) this.#attempts.endBadly(job, 'lost', worker.recovering ? COORDINATOR_RESTARTED : WORKER_RESTARTED)
    }
    for (const { job: id, attempt } of unclaimed.values()) {
      // A coordinator that died before it stored the start: the number is spent all the same, or two attempts would share it.
      const job = this.#board.jobs.get(id)
      if (job !== undefined) job.numbersSpent = Math.max(job.numbersSpent, attempt)
      this.#board.emit({ kind: 'stop-attempt', job: id, attempt, worker: worker.id })
    }
  }

  heard(id: WorkerId, offers: ModelOffer[]): void {
    const worker = this.#board.workers.get(id)
    if (worker === undefined || !worker.connected) return
    worker.lastHeardMs = this.#board.nowMs
    this.#board.setOffers(worker, offers)
    // What was started since the worker looked is not in what it said.
    for (const { job } of worker.occupied.values()) this.#board.remember(worker, this.#board.jobs.get(job))
    this.#board.setState(worker, worker.draining ? 'draining' : 'online')
    this.#board.fillWorker(id)
  }

  drain(id: WorkerId): void {
    const worker = this.#board.workers.get(id)
    if (worker === undefined || !worker.connected) return
    worker.draining = true
    worker.lastHeardMs = this.#board.nowMs
    this.#board.setState(worker, 'draining')
    // Jobs that avoided the other workers may have nobody else now.
    this.#board.fillModels(worker)
  }

  disconnect(id: WorkerId): void {
    const worker = this.#board.workers.get(id)
    if (worker === undefined || !worker.connected) return
    worker.connected = false
    if (worker.occupied.size === 0) {
      this.#lose(worker, WORKER_LOST)
      return
    }
    worker.lostAtMs = this.#board.nowMs + this.#board.rules.returnGraceMs
    this.#board.setState(worker, 'suspect')
    this.#board.fillModels(worker)
  }

  #lose(worker: FleetWorker, error: JobError): void {
    worker.connected = false
    worker.lostAtMs = null
    worker.recovering = false
    for (const entry of worker.models.values()) {
      entry.offer = { ...entry.offer, slots: 0 }
      entry.prefixes.clear()
    }
    this.#board.setState(worker, 'offline')
    for (const { job: id, attempt } of [...worker.occupied.values()]) {
      worker.vacate(id, attempt)
      const job = this.#board.jobs.get(id)
      if (job?.worker === worker && job.attempt === attempt) this.#attempts.endBadly(job, 'lost', error)
    }
    this.#board.fillModels(worker)
  }

  #remove(worker: FleetWorker): void {
    this.#lose(worker, WORKER_LOST)
    this.#board.workers.delete(worker.id)
    this.#board.emit({ kind: 'worker-replaced', worker: worker.id })
  }

  setProvider({ worker: id, name, offers, terms, quota }: InputOf<'provider-set'>): void {
    const provider = this.#board.know(id, name)
    provider.cloud = terms
    provider.connected = true
    if (provider.quota === null) provider.quota = new Quota(quota)
    else provider.quota.limits = quota
    provider.spentUntilMs = this.#board.spentUntilMs.get(provider.purse) ?? null
    this.#board.setOffers(provider, offers)
    this.#board.setState(provider, 'online')
    this.#board.fillModels(provider)
  }

  removeProvider(id: WorkerId): void {
    const provider = this.#board.workers.get(id)
    if (provider === undefined || (provider.cloud === null && provider.connected)) return
    for (const { job, attempt } of provider.occupied.values()) this.#board.emit({ kind: 'stop-attempt', job, attempt, worker: id })
    this.#lose(provider, PROVIDER_REMOVED)
    this.#board.setOffers(provider, [])
    this.#board.workers.delete(id)
  }

  /** A provider's own purse closes that provider; anybody else's, what is paid to those who pay from it. */
  setPurse(purse: string, spentUntilMs: number | null): void {
    if (spentUntilMs === null) this.#board.spentUntilMs.delete(purse)
    else this.#board.spentUntilMs.set(purse, spentUntilMs)
    for (const provider of this.#board.workers.values()) {
      if (provider.cloud === null || provider.purse !== purse) continue
      provider.spentUntilMs = spentUntilMs
      const hold = spentUntilMs === null ? null : { state: 'over_quota' as const, untilMs: spentUntilMs, why: SPENT }
      this.#board.emit({ kind: 'provider-held', worker: provider.id, model: null, hold })
    }
    for (const line of this.#board.lines.values()) line.judgePurse(purse, this.#board.isSpent)
    for (const model of this.#board.lines.keys()) this.#board.unsettled.add(model)
  }

  judge(worker: FleetWorker): void {
    if (worker.hold?.untilMs != null && worker.hold.untilMs <= this.#board.nowMs && worker.hold.onTrial !== true)
      this.#board.hold(worker.id, null, null)
    // Whether a cloud is there is known by calling it.
    if (worker.cloud !== null) return
    if (!worker.connected) {
      if (worker.lostAtMs !== null && this.#board.nowMs >= worker.lostAtMs)
        this.#lose(worker, worker.recovering ? COORDINATOR_RESTARTED : WORKER_LOST)
      return
    }
    const silentMs = this.#board.nowMs - worker.lastHeardMs
    if (silentMs >= this.#board.rules.deadAfterMs) {
      this.#board.emit({ kind: 'drop-worker', worker: worker.id })
      this.#lose(worker, WORKER_SILENT)
    } else if (silentMs >= this.#board.rules.suspectAfterMs && worker.state === 'online') {
      this.#board.setState(worker, 'suspect')
    }
  }
}
