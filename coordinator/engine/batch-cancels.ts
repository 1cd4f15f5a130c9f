import { setImmediate as nextTurn } from 'node:timers/promises'
import { isFinal } from '../core/job.ts'
import { recentlyCancelled } from '../store/batches.ts'
import type { Db } from '../store/db.ts'
import type { Dispatcher } from './dispatcher.ts'

/** Carries out here what was cancelled at another coordinator: each runs rows of its own. */
export class BatchCancels {
  readonly #db: Db
  readonly #dispatcher: Dispatcher
  /** Those carried out. */
  #done = new Set<string>()

  constructor(db: Db, dispatcher: Dispatcher) {
    this.#db = db
    this.#dispatcher = dispatcher
  }

  async carryOut(): Promise<void> {
    const cancelled = await recentlyCancelled(this.#db)
    const before = this.#done
    this.#done = new Set(cancelled)
    for (const batch of cancelled) if (!before.has(batch)) await cancelRows(this.#dispatcher, batch, 'coordinator')
  }
}

/**
 * Some at a time: a hundred thousand in one turn would keep everybody waiting for seconds. The last of the line first: the
 * place of one that runs would be given to the next, to be cancelled in the next turn.
 */
export async function cancelRows(dispatcher: Dispatcher, batch: string, actor: string): Promise<void> {
  const rows = [...dispatcher.liveJobs].filter(({ record }) => record.batch === batch).toReversed()
  for (const [place, { record }] of rows.entries()) {
    if (place % CANCELS_A_TURN === CANCELS_A_TURN - 1) await nextTurn()
    if (!isFinal(record.status)) dispatcher.cancel(record.id, actor)
  }
}

const CANCELS_A_TURN = 200
