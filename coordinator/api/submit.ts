import { randomInt } from 'node:crypto'
import type { FastifyRequest } from 'fastify'
import { prefixesOf } from '../../proto/prefix-hash.ts'
import { type GenerationRequest, textsOf } from '../../proto/request.ts'
import { INTERRUPTED } from '../core/attempt-errors.ts'
import { badRequest, Fault } from '../core/fault.ts'
import type { ModelOffer } from '../core/fleet.ts'
import { COST_MAX } from '../core/inputs.ts'
import type { JobId, JobRecord } from '../core/job.ts'
import type { NewJob } from '../engine/new-job.ts'
import type { LiveJob } from '../engine/live-job.ts'
import { newId } from '../ids.ts'
import { type Caller, requireScope } from './auth.ts'
import type { ApiParts } from './health.ts'
import { once } from './idempotency.ts'
import { namesFor } from './models.ts'
import { place } from './placing.ts'
import { isSettled } from './sse.ts'
import { readIdempotencyKey, readWishes, type Wishes } from './wishes.ts'
import type { ParsedRequest } from './openai-request.ts'

export type Submission = {
  type: JobRecord['type']
  parsed: ParsedRequest
  detached: boolean
  callbackUrl?: string
  /** One of several, that were counted together. */
  isAdmitted?: true
  /** Of what is to be found by its idempotency key not all was read: it cannot be made. */
  isRepeat?: true
}

/**
 * Makes a job of a request, or finds the one that the same idempotency key made before. `stored` resolves once it is
 * durable: nothing may be answered before. Throws what speaks against accepting it.
 */
export async function submit(
  parts: ApiParts,
  request: FastifyRequest,
  submission: Submission,
): Promise<{ live: LiveJob; stored: Promise<void> }> {
  const key = readIdempotencyKey(request)
  if (key === undefined) return accept(parts, request, submission)
  // Asked again, what was there to be wished for may be gone, and the job is there all the same.
  return once(parts, request, key, (along) => accept(parts, request, submission, along))
}

function accept(
  parts: ApiParts,
  request: FastifyRequest,
  submission: Submission,
  idempotency?: { key: string; hash: Buffer },
): { live: LiveJob; stored: Promise<void> } {
  if (submission.isRepeat === true)
    throw new Fault('not_found', 'The answer of this idempotency-key is not there any more. Use a new key to ask again.', { status: 404 })
  const wishes = readWishes(parts, request)
  if (submission.isAdmitted !== true) admit(parts, request, 1)
  const { callbackUrl } = submission
  const job = newJob(parts, request, submission, wishes)
  job.along = {
    ...(idempotency === undefined ? {} : { idempotency }),
    ...(callbackUrl === undefined ? {} : { callback: { id: newId(), url: callbackUrl } }),
  }
  const accepted = parts.dispatcher.accept(job)
  accepted.live.callers += 1
  return accepted
}

/** Throws unless the caller may have so many jobs made now. */
export function admit(parts: ApiParts, request: FastifyRequest, jobs: number): void {
  refuseWhenFull(parts, jobs)
  requireScope(request.caller, 'inference')
  parts.keyring.count(request.caller, jobs)
}

/** Also for the rows of a batch, which are stored another way. */
export function newJob(parts: ApiParts, request: FastifyRequest, submission: Submission, wishes: Wishes): NewJob {
  const { type, parsed } = submission
  if (parsed.choices !== undefined)
    throw badRequest('unsupported_parameter', 'n above 1 is not possible here: one job gives one answer. Send as many of them.', 'n')
  refuseLongerThanItsForm(parsed.generation)
  const { caller } = request
  const placed = place(parts, caller, parsed, wishes)
  if (placed.needs.includes('images')) refusePrivateImages(parts, parsed.generation.prompt)
  const bytes = promptBytes(parsed.generation.prompt)
  refuseWhenTooLong(bytes, placed.offers, promptName(parsed.generation.prompt, request))
  const promptCost = Math.min(COST_MAX, Math.ceil(bytes / BYTES_PER_TOKEN) + (parsed.generation.verbatim?.tokens ?? 0))
  const seed = parsed.seed ?? randomInt(2 ** 32)
  const detached = submission.detached || wishes.detached
  const generation = withSeed(parsed, seed)
  return {
    id: newId() as JobId,
    type,
    team: caller.team,
    actor: caller.actor,
    key: caller.key,
    request: JSON.stringify(generation),
    generation,
    seed,
    prefix: prefixesOf(parsed.generation.prompt),
    cost: Math.min(COST_MAX, promptCost + answerTokens(parsed)),
    promptCost,
    ...wishes,
    model: placed.model,
    policy: placed.policy,
    terms: placed.terms,
    needs: placed.needs,
    restartless: parsed.stream,
    streamed: parsed.stream || detached,
    detached,
  }
}

/** JSON, and a call, are over when they are whole. */
function refuseLongerThanItsForm({ minTokens, format, toolChoice }: ParsedRequest['generation']): void {
  if (minTokens === undefined) return
  const mustCall = toolChoice !== undefined && toolChoice !== 'auto' && toolChoice !== 'none'
  if (format === undefined && !mustCall) return
  throw badRequest(
    'unsupported_parameter',
    `min_tokens cannot be honoured beside ${mustCall ? 'a tool_choice that demands a call' : 'an answer that must be JSON'}: that ends where its form ends.`,
    'min_tokens',
  )
}

/** What is embedded or ranked is read only. */
function answerTokens({ generation: { prompt, maxTokens } }: ParsedRequest): number {
  return prompt.kind === 'embed' || prompt.kind === 'rank' ? 0 : Math.min(maxTokens ?? ANSWER_TOKENS, ANSWER_TOKENS_MAX)
}

function withSeed({ generation, seed: given, isOneOfMany }: ParsedRequest, seed: number): GenerationRequest {
  return given === null && isOneOfMany !== true ? { ...generation, seed, seedIsChosen: true } : { ...generation, seed }
}

// What an answer without a limit takes, until it is there: fair sharing is corrected then.
const ANSWER_TOKENS = 256
const BYTES_PER_TOKEN = 4
// What a limit leaves open beyond that is no estimate.
const ANSWER_TOKENS_MAX = 32_768

export function refuseWhenFull(parts: ApiParts, jobs: number): void {
  const why = parts.notReady()
  if (why !== null)
    throw new Fault('not_ready', `No work can be accepted at the moment: ${why}.`, { status: 503, retryable: true, retryAfterS: 2 })
  const waiting = parts.scheduler.waitingCount + parts.coming.rows
  if (waiting + jobs > parts.queueLimit)
    throw new Fault(
      'queue_full',
      `${waiting} jobs are waiting; the limit is ${parts.queueLimit} (HOLDFAST_QUEUE_LIMIT). Nothing was accepted; try again later.`,
      { status: 429, layer: 'routing', retryable: true, retryAfterS: 5 },
    )
}

/** Says which there are for this caller. */
export function unknownModel(parts: ApiParts, caller: Caller, model: string): Fault {
  const names = namesFor(parts, caller)
  const there = names.length === 0 ? 'No provider has offered a model yet.' : `There are: ${names.slice(0, 50).join(', ')}.`
  const target = parts.registry.resolveModel(model)
  const what = target === model ? '' : `: it is another name for "${target.slice(0, 100)}", which nobody has offered`
  return new Fault('model_not_found', `There is no model "${model.slice(0, 100)}"${what}. ${there}`, {
    status: 404,
    layer: 'routing',
    param: 'model',
  })
}

/** A model server inside the network fetches what it is told to. */
function refusePrivateImages(parts: ApiParts, prompt: GenerationRequest['prompt']): void {
  if (prompt.kind !== 'chat') return
  for (const { content } of prompt.messages)
    for (const part of typeof content === 'string' ? [] : content)
      if (part.kind === 'image' && !part.url.startsWith('data:')) parts.outbound.checkPublic(new URL(part.url))
}

function promptBytes(prompt: GenerationRequest['prompt']): number {
  return textsOf(prompt).reduce((sum, text) => sum + Buffer.byteLength(text), 0)
}

/** The coordinator cannot count tokens, but it knows the most text one token can stand for. */
function refuseWhenTooLong(bytes: number, offers: ModelOffer[], param: string): void {
  if (offers.some((offer) => offer.contextTokens === 0 || offer.maxTokenBytes === 0)) return
  const fewest = Math.min(...offers.map((offer) => Math.ceil(bytes / offer.maxTokenBytes)))
  const context = Math.max(...offers.map((offer) => offer.contextTokens))
  if (fewest > context)
    throw badRequest(
      'context_length_exceeded',
      `The prompt has at least ${fewest} tokens, the context of the model ${context}. Shorten it, or use a model with a larger context.`,
      param,
    )
}

/** What the endpoint calls its prompt. */
function promptName({ kind }: GenerationRequest['prompt'], { routeOptions }: FastifyRequest): string {
  if (kind === 'chat') return routeOptions.url === '/v1/responses' ? 'input' : 'messages'
  return kind === 'text' ? 'prompt' : kind === 'embed' ? 'input' : 'documents'
}

/** Resolves when nothing more will happen to the job by itself, when the time is over, or when this coordinator stops. */
export async function ended(parts: ApiParts, live: LiveJob, withinMs?: number): Promise<void> {
  if (isSettled(live.record.status)) return
  await new Promise<void>((resolve) => {
    const done = (): void => {
      clearTimeout(timer)
      live.unfollow(follower)
      resolve()
    }
    const follower = { grown: () => {}, waits: () => {}, discarded: () => {}, ended: done, stopped: done }
    const timer = withinMs === undefined ? undefined : setTimeout(done, withinMs)
    live.follow(follower)
    parts.dispatcher.announceWaiting(live)
  })
}

/** Why a job did not succeed, as an HTTP error for the caller that waited for it. */
export function faultOf(record: JobRecord): Fault {
  if (record.status === 'cancelled') return new Fault('job_cancelled', 'The job was cancelled.', { status: 409, job: record.id })
  const error = record.error
  if (error === null) return new Fault('internal_error', 'The job ended without saying why.', { status: 500, job: record.id })
  const message =
    record.status === 'parked'
      ? `The job was parked after its attempts were used up; an operator can release it. Last error: ${error.message}`
      : error.message
  return new Fault(error.code, message, {
    status: statusOf(record, error),
    layer: error.layer,
    retryable: error.retryable,
    job: record.id,
    ...paramOf(record.type, error.code),
    ...(error.providerStatus === undefined ? {} : { providerStatus: error.providerStatus }),
  })
}

/** What of the request it was, where every dialect calls it the same. */
function paramOf(type: JobRecord['type'], code: string): { param?: string } {
  if (code === 'unsupported_dimensions') return { param: 'dimensions' }
  if (code === 'unknown_token') return { param: 'logit_bias' }
  const param = code === 'context_length_exceeded' ? PROMPTS[type] : undefined
  return param === undefined ? {} : { param }
}

const PROMPTS: Partial<Record<JobRecord['type'], string>> = { completion: 'prompt', embedding: 'input', rerank: 'documents' }

/** For who waits when the coordinator stops: the job does not. */
export function stopping(job: JobId): Fault {
  return new Fault(
    'coordinator_stopping',
    `The coordinator is stopping before the answer is whole. The job goes on after its next start; /api/jobs/${job} has the answer then.`,
    { status: 503, retryable: true, retryAfterS: 5, job },
  )
}

/** For a reader of an answer that begins anew. */
export function interrupted(job: JobId): Fault {
  const { code, message, layer, retryable } = INTERRUPTED
  return new Fault(code, message, { status: 502, layer, retryable, job })
}

function statusOf(record: JobRecord, error: NonNullable<JobRecord['error']>): number {
  if (error.code === 'max_wait_exceeded' || error.code === 'max_run_exceeded') return 504
  if (error.layer === 'ingress') return 400
  return record.status === 'parked' ? 500 : 502
}
