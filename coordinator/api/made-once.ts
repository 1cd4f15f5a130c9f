import { randomBytes } from 'node:crypto'
import type { FastifyRequest } from 'fastify'
import { notFound } from '../core/fault.ts'
import { newId } from '../ids.ts'
import { findIdempotencyKey, KeyTaken, type SetUpClaim } from '../store/idempotency.ts'
import { hashOf, refuseOther } from './idempotency.ts'
import type { ApiParts } from './health.ts'
import { readIdempotencyKey } from './wishes.ts'

/** Of one thing that is being made: its id, 32 bytes for the secret that it may be shown with once, and the key it is claimed with. */
export type Making = { id: string; secret: Buffer; claim: SetUpClaim | undefined }

/**
 * What sets Holdfast up is made once per idempotency key: the key is stored in the transaction that makes the thing, and a
 * repeat finds it by its id. Nothing secret is kept for that: what the first answer showed is computed from the master key
 * again. `again` answers undefined when the thing is not there any more.
 *
 * Called when all else about the request has been judged, so that a repeat shows nobody what they may not make.
 */
export async function madeOnce<T>(
  parts: ApiParts,
  request: FastifyRequest,
  make: (making: Making) => Promise<T>,
  again: (id: string, secret: Buffer) => Promise<T | undefined>,
): Promise<T> {
  const key = readIdempotencyKey(request)
  if (key === undefined) return make({ id: newId(), secret: randomBytes(32), claim: undefined })
  const { team } = request.caller
  // A body may hold a secret: without the master key its hash tells nothing.
  const hash = parts.vault.mac('request', hashOf(request))
  const secretOf = (id: string): Buffer => parts.vault.mac('shown once', `${id} ${key}`)
  const known = await findIdempotencyKey(parts.db, team, key)
  if (known === undefined) {
    const id = newId()
    try {
      return await make({ id, secret: secretOf(id), claim: { team, key, hash, made: id } })
    } catch (error) {
      // Sent twice at once: the other one was a moment earlier.
      if (error instanceof KeyTaken) return madeOnce(parts, request, make, again)
      throw error
    }
  }
  refuseOther(known.hash, hash)
  const found = known.made === null ? undefined : await again(known.made, secretOf(known.made))
  if (found === undefined) throw notFound('What was made with this idempotency-key is not there any more. Use a new key to make it again.')
  return found
}
