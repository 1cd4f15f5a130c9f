import { setTimeout } from 'node:timers/promises'
import { Fault } from '../core/fault.ts'

/**
 * What follows on something that is stored: a look at it, or taking it into force here. Where PostgreSQL does not answer, that is tried again
 * for a moment; what is said then is that it is stored, for "nothing was accepted" would be wrong. `what` begins that sentence.
 */
export async function afterStored<T>(what: string, follow: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries++)
    try {
      return await follow()
    } catch (error) {
      if (!(error instanceof Fault) || error.code !== 'database_unavailable') throw error
      if (tries === TRIES) throw new Fault(error.code, `${what}, and PostgreSQL does not answer now. ${NO_NEED}`, stillAway(error))
      await setTimeout(AGAIN_MS)
    }
}

function stillAway(cause: Fault): { status: number; retryable: boolean; retryAfterS: number; cause: Fault } {
  return { status: 503, retryable: false, retryAfterS: 2, cause }
}

const NO_NEED = 'It need not be asked for again: look in a moment.'
const TRIES = 20
const AGAIN_MS = 250
