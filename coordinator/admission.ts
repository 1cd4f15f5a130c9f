import { timingSafeEqual } from 'node:crypto'
import type { WorkerId } from './core/job.ts'
import { sha256 } from './secrets.ts'

/** Which workers may be here: by their token when they dial, and by their identity when they greet. */
export class Admission {
  readonly #parts: AdmissionParts
  #revoked: ReadonlySet<string> = new Set()

  constructor(parts: AdmissionParts) {
    this.#parts = parts
  }

  admits(token: string | undefined): boolean {
    if (token === undefined) return false
    return timingSafeEqual(sha256(token), this.#parts.bootstrap) || this.#parts.keyring.admitsWorker(token)
  }

  /** Why the worker may not be here; undefined: it may. An invite is the worker's own from here on. */
  refusal(worker: WorkerId, token: string | undefined): string | undefined {
    if (this.#revoked.has(worker))
      return 'This worker was revoked. To let the machine in again, remove worker.id from its data directory: it joins as a new worker.'
    const invite = token === undefined ? undefined : this.#parts.keyring.spendInvite(token, worker)
    if (invite === undefined || invite.spentBy === worker) {
      if (invite?.isNew === true) this.#parts.onInviteSpent(invite.key, worker)
      return undefined
    }
    return 'The token is an invite that another worker has joined with: ask for one of its own.'
  }

  setRevoked(workers: Iterable<string>): void {
    this.#revoked = new Set(workers)
  }

  revoke(worker: WorkerId): void {
    this.setRevoked([...this.#revoked, worker])
  }
}

type AdmissionParts = {
  /** SHA-256 of the token in the setting or the data directory. */
  bootstrap: Buffer
  keyring: {
    admitsWorker(token: string): boolean
    spendInvite(token: string, worker: string): { key: string; spentBy: string; isNew: boolean } | undefined
  }
  onInviteSpent(key: string, worker: WorkerId): void
}
