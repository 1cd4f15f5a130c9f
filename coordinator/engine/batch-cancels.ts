import { setImmediate as nextTurn } from 'node:timers/promises'
import { isFinal } from '../core/job.ts'
import { recentlyCancelled } from '../store/batches.ts'
import type { Db } from '../store/db.ts'
import { claimParkedRows, readProgress } from '../store/jobs.ts'
import type { Dispatcher } from './dispatcher.ts'

/** Cancels the rows of batches: those that run or wait here, and those that are parked. */
export class BatchCancels {
  readonly #parts: BatchCancelsParts
  /** Those of the last hour that were carried out here. */
  #done = new Set<string>()

  constructor(parts: BatchCancelsParts) {
    this.#parts = parts
  }

  /** Carries out here what was cancelled at another coordinator: each runs rows of its own. */
  async carryOut(): Promise<void> {
    const cancelled = await recentlyCancelled(this.#parts.db)
    const fresh = cancelled.filter((batch) => !this.#done.has(batch))
    if (fresh.length > 0) await this.cancel(new Set(fresh), 'coordinator')
    this.#done = new Set(cancelled)
  }

  /** Resolves when all that is so in PostgreSQL. */
  async cancel(batches: ReadonlySet<string>, actor: string): Promise<void> {
    await cancelRows(this.#parts.dispatcher, batches, actor)
    for (const batch of batches) await this.#cancelParked(batch, actor)
  }

  async #cancelParked(batch: string, actor: string): Promise<void> {
    const { db, dispatcher, coordinator, stored } = this.#parts
    for (;;) {
      // What was parked a moment ago is on its way to its row.
      await stored()
      const rows = await claimParkedRows(db, batch, coordinator, ROWS_A_CLAIM)
      if (rows.length === 0) return
      const ids = rows.map(({ id }) => id)
      const progress = await readProgress(db, ids)
      // Nobody is called back about a row.
      for (const record of rows) dispatcher.cancelParked(record, progress.get(record.id), actor, false)
    }
  }
}

/**
 * Some at a time: a hundred thousand in one turn would keep everybody waiting for seconds. The last of the line first: the
 * place of one that runs would be given to the next, to be cancelled in the next turn.
 */
export async function cancelRows(dispatcher: Dispatcher, batches: ReadonlySet<string>, actor: string): Promise<void> {
  const rows = [...dispatcher.liveJobs].filter(({ record }) => record.batch !== null && batches.has(record.batch)).toReversed()
  for (const [place, { record }] of rows.entries()) {
    if (place % CANCELS_A_TURN === CANCELS_A_TURN - 1) await nextTurn()
    if (!isFinal(record.status)) dispatcher.cancel(record.id, actor)
  }
}

type BatchCancelsParts = {
  db: Db
  dispatcher: Dispatcher
  coordinator: string
  /** Resolves when all that was changed so far is durable. */
  stored: () => Promise<void>
}

const CANCELS_A_TURN = 200
const ROWS_A_CLAIM = 500
