import type { FastifyReply, FastifyRequest } from 'fastify'
import { badRequest } from '../core/fault.ts'
import { isFinal } from '../core/job.ts'
import type { LiveJob } from '../engine/live-job.ts'
import type { ApiParts } from './health.ts'
import type { ParsedRequest } from './openai-request.ts'
import { isSettled } from './sse.ts'
import { admit, ended, faultOf, stopping, type Submission, submit } from './submit.ts'
import { readIdempotencyKey } from './wishes.ts'

type Lives = readonly [LiveJob, ...LiveJob[]]

/**
 * The jobs behind one request, one for each answer that it wants, and the caller that waits for them. When the caller
 * leaves, what nobody else waits for is cancelled; when one fails, so is the whole.
 */
export class Choices {
  readonly lives: Lives
  readonly #parts: ApiParts
  readonly #actor: string
  /** The caller has left. */
  gone = false

  private constructor(parts: ApiParts, actor: string, lives: Lives) {
    this.#parts = parts
    this.#actor = actor
    this.lives = lives
  }

  /** Resolves once they are durable; throws what speaks against accepting them. */
  static async accept(parts: ApiParts, request: FastifyRequest, reply: FastifyReply, submission: Submission): Promise<Choices> {
    const accepted = await submitAll(parts, request, submission)
    const choices = new Choices(parts, request.caller.actor, accepted.lives)
    // Registered before the jobs are stored: a caller may leave meanwhile.
    reply.raw.once('close', () => choices.leave())
    if (reply.raw.destroyed) choices.leave()
    try {
      await accepted.stored
    } catch (error) {
      choices.cancelOthers()
      throw error
    }
    return choices
  }

  get first(): LiveJob {
    return this.lives[0]
  }

  leave(): void {
    if (this.gone) return
    this.gone = true
    for (const live of this.lives) {
      live.callers -= 1
      if (live.callers <= 0 && !isFinal(live.record.status) && !live.record.detached)
        this.#parts.dispatcher.cancel(live.record.id, `${this.#actor} (disconnected)`)
    }
  }

  /** Resolves when all have succeeded; throws why the first one did not. */
  async succeeded(): Promise<void> {
    try {
      await Promise.all(this.lives.map((live) => succeeded(this.#parts, live)))
    } catch (fault) {
      this.cancelOthers()
      throw fault
    }
  }

  /** An answer with a part missing is none. A single job that may be shared is left alone. */
  cancelOthers(): void {
    if (this.lives.length === 1) return
    for (const { record } of this.lives)
      if (!isFinal(record.status)) this.#parts.dispatcher.cancel(record.id, `${this.#actor} (another choice failed)`)
  }
}

async function succeeded(parts: ApiParts, live: LiveJob): Promise<void> {
  await ended(parts, live)
  const { id, status } = live.record
  if (!isSettled(status)) throw stopping(id)
  if (status !== 'succeeded') throw faultOf(live.record)
}

async function submitAll(
  parts: ApiParts,
  request: FastifyRequest,
  submission: Submission,
): Promise<{ lives: Lives; stored: Promise<unknown> }> {
  const { choices = 1 } = submission.parsed
  if (choices === 1) {
    const { live, stored } = await submit(parts, request, submission)
    return { lives: [live], stored }
  }
  if (readIdempotencyKey(request) !== undefined)
    throw badRequest('unsupported_parameter', 'n above 1 is as many jobs, and an idempotency-key names one. Leave out one of the two.', 'n')
  // All of them or none.
  admit(parts, request, choices)
  const first = await submit(parts, request, { ...submission, isAdmitted: true, parsed: choiceOf(submission.parsed, 0) })
  const accepted = [first]
  try {
    for (let index = 1; index < choices; index++)
      accepted.push(await submit(parts, request, { ...submission, isAdmitted: true, parsed: choiceOf(submission.parsed, index) }))
  } catch (error) {
    for (const { live } of accepted) parts.dispatcher.cancel(live.record.id, 'coordinator')
    throw error
  }
  return {
    lives: [first.live, ...accepted.slice(1).map(({ live }) => live)],
    stored: Promise.all(accepted.map(({ stored }) => stored)),
  }
}

/** The same request with the next seed: with one for all they would be one answer. Without any each job chooses its own. */
function choiceOf({ choices: _choices, ...parsed }: ParsedRequest, index: number): ParsedRequest {
  if (parsed.seed === null) return { ...parsed, isOneOfMany: true }
  const seed = (parsed.seed + index) >>> 0
  const { verbatim } = parsed.generation
  if (verbatim === undefined) return { ...parsed, seed }
  return { ...parsed, seed, generation: { ...parsed.generation, verbatim: { ...verbatim, body: { ...verbatim.body, seed } } } }
}
