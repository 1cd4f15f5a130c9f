import type { JobId, WorkerId } from '../core/job.ts'
import type { CloudTier } from '../tiers/cloud.ts'
import type { WorkerLink } from './dispatcher.ts'

/** The dispatcher's one way to every provider: workers by their sessions, clouds by calls. */
export class ProviderLink implements WorkerLink {
  readonly #workers: WorkerLink
  readonly #cloud: CloudTier

  constructor(workers: WorkerLink, cloud: CloudTier) {
    this.#workers = workers
    this.#cloud = cloud
  }

  start: WorkerLink['start'] = (provider, start) => {
    if (this.#cloud.has(provider)) this.#cloud.start(provider, start)
    else this.#workers.start(provider, start)
  }

  cancel: WorkerLink['cancel'] = (provider, job, attempt) => {
    // A provider that was taken out of use has calls all the same.
    this.#cloud.cancel(provider, job, attempt)
    if (!this.#cloud.has(provider)) this.#workers.cancel(provider, job, attempt)
  }

  resume: WorkerLink['resume'] = (provider, job, attempt, first) => {
    if (this.#cloud.has(provider)) this.#cloud.resume(provider, job, attempt)
    else this.#workers.resume(provider, job, attempt, first)
  }

  acknowledge(provider: WorkerId, job: JobId, attempt: number): void {
    if (!this.#cloud.has(provider)) this.#workers.acknowledge(provider, job, attempt)
  }

  drop(provider: WorkerId): void {
    this.#workers.drop(provider)
  }
}
