import { isFinal, type JobId, type JobRecord } from '../../coordinator/core/job.ts'
import type { Follower, LiveJob } from '../../coordinator/engine/live-job.ts'
import type { NewJob } from '../../coordinator/engine/new-job.ts'
import type { SimulatedCoordinator } from './simulated-coordinator.ts'
import type { SimulatedDatabase } from './simulated-database.ts'
import type { Prompt } from './simulated-engine.ts'
import { textOf } from './simulated-tokens.ts'
import { Violation } from './simulated-violation.ts'

export type ClientPlan = { job: NewJob; atMs: number; prompt: Prompt; tokens: number; follows: boolean; cancelAtMs: number | null }

/**
 * A caller: submits one job, reads its text as it grows, comes back after every death of the coordinator, may cancel. What
 * it reads must be one text, each character once.
 */
export class SimulatedClient implements Follower {
  readonly plan: ClientPlan
  readonly #database: SimulatedDatabase
  sent = false
  accepted = false
  cancelled = false
  #refusedRow = false
  #live: LiveJob | null = null
  #text = ''
  /** It heard the end from memory, which a crash may yet take back. */
  #heardEnd = false
  /** Text may legally be lost only where everything that knew it died. */
  mayDiverge = false

  constructor(plan: ClientPlan, database: SimulatedDatabase) {
    this.plan = plan
    this.#database = database
  }

  get id(): JobId {
    return this.plan.job.id
  }

  submit({ dispatcher }: SimulatedCoordinator): void {
    this.sent = true
    const { live, stored } = dispatcher.accept(this.plan.job)
    void stored.then(
      () => this.#stored(),
      () => (this.#refusedRow = true),
    )
    if (this.plan.follows) this.#follow(live)
  }

  cancel({ dispatcher }: SimulatedCoordinator): void {
    this.cancelled = dispatcher.cancel(this.id, 'key:caller') || this.cancelled
  }

  /** A coordinator has started; the old one took its followers with it. */
  comeBack({ dispatcher }: SimulatedCoordinator): void {
    this.#live = null
    if (!this.plan.follows || !this.sent) return
    const live = dispatcher.find(this.id)
    if (live !== undefined) this.#follow(live)
  }

  /** The job lives again: a person released it, or ended it. */
  takeUp(live: LiveJob): void {
    if (this.plan.follows) this.#follow(live)
  }

  grown(): void {
    const { text, tokenIds } = this.#live as LiveJob
    if (text.length < this.#text.length) return
    if (!text.startsWith(this.#text)) {
      if (!this.mayDiverge) throw new Violation(`${this.id}: the reader has "${this.#text}", the answer is "${text}" now`)
      this.#text = ''
    }
    if (!textOf(tokenIds).startsWith(text)) throw new Violation(`${this.id}: "${text}" is not the text of its tokens`)
    this.#text = text
  }

  ended(): void {
    this.#heardEnd = true
  }

  waits(): void {}

  /** Everything is over: what PostgreSQL says and what the reader has must be one story. */
  checkEnd(coordinatorDeaths: number): void {
    const row = this.#database.jobs.get(this.id)
    if (row === undefined) {
      if (this.accepted) throw new Violation(`${this.id} was accepted and is nowhere`)
      return
    }
    if (!isFinal(row.status)) throw new Violation(`${this.id} is ${row.status} for ever`)
    const end = this.#database.ends.get(this.id)
    if (end !== `job.${row.status}`) throw new Violation(`${this.id} is ${row.status}, the audit log says ${end ?? 'nothing'}`)
    const output = this.#database.outputs.get(this.id)
    if (output === undefined) throw new Violation(`${this.id} is ${row.status} and has no output`)
    if (this.#database.progress.has(this.id)) throw new Violation(`${this.id} is ${row.status} and its checkpoints are still there`)
    this.#checkRow(row)
    const { text } = JSON.parse(output) as { text: string }
    if (row.status === 'succeeded' && text.length !== this.plan.tokens)
      throw new Violation(`${this.id} has ${text.length} characters of ${this.plan.tokens}: "${text}"`)
    if (!this.plan.follows || (coordinatorDeaths > 0 && !this.#heardEnd)) return
    if (coordinatorDeaths === 0 && this.accepted && !this.#heardEnd) throw new Violation(`${this.id} ended and its reader was not told`)
    if (!this.mayDiverge && row.status === 'succeeded' && this.#text !== text)
      throw new Violation(`${this.id}: the reader has "${this.#text}", stored is "${text}"`)
  }

  /** No engine here starts over. */
  /** Whoever reads it is cut off with its coordinator. */
  stopped(): void {}

  discarded(): void {
    throw new Violation(`${this.id} was begun anew`)
  }

  #stored(): void {
    this.accepted = true
    if (!this.#database.jobs.has(this.id)) throw new Violation(`${this.id} is told to be accepted and is not stored`)
  }

  #follow(live: LiveJob): void {
    this.#live = live
    live.follow(this)
    this.grown()
    if (isFinal(live.record.status)) this.ended()
  }

  /** Every end needs its cause. */
  #checkRow({ status, error }: JobRecord): void {
    const { job, prompt } = this.plan
    if (status === 'cancelled' && !this.cancelled && !this.#refusedRow) throw new Violation(`${this.id} is cancelled, and nobody did`)
    if (status !== 'failed') return
    const code = error?.code ?? ''
    const caused =
      (code === 'max_wait_exceeded' && job.maxWaitMs !== null) ||
      (code === 'max_run_exceeded' && job.maxRunMs !== null) ||
      (code === 'prompt_too_long' && prompt === 'bad')
    if (!caused) throw new Violation(`${this.id} failed with ${code} without a cause`)
  }
}
