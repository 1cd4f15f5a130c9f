import type { FastifyReply, FastifyRequest } from 'fastify'
import type { LiveJob } from '../engine/live-job.ts'
import type { ApiParts } from './health.ts'
import { cutWhenUnread } from './sse.ts'

/** An answer that was waited for, with its headers. */
export function sendAnswer(
  parts: ApiParts,
  request: FastifyRequest,
  reply: FastifyReply,
  live: LiveJob,
  body: Record<string, unknown>,
): FastifyReply {
  const { record } = live
  // After a second attempt the worker's own figure covers the last part only; all of the running is not ours then.
  const workedMs = record.attempt === 1 && live.workerMs !== null ? live.workerMs : (record.finishedMs ?? 0) - (record.startedMs ?? 0)
  const overheadMs = Math.max(0, performance.now() - request.beganMs - workedMs - (record.queueMs ?? 0))
  parts.metrics.overhead(overheadMs)
  reply.headers({
    ...answerHeaders(live, request),
    'x-holdfast-overhead-ms': overheadMs.toFixed(2),
    'content-type': 'application/json; charset=utf-8',
  })
  const text = JSON.stringify(body)
  // What a socket holds by itself costs nothing while nobody takes it.
  if (text.length > LARGE_CHARS) cutWhenUnread(reply.raw)
  return reply.send(text)
}

/** What a caller may want to know of its job without asking for it. */
export function answerHeaders(live: LiveJob, request: FastifyRequest): Record<string, string> {
  const { record } = live
  const headers: Record<string, string> = {
    'x-holdfast-job': record.id,
    'x-request-id': request.id,
    'x-holdfast-overhead-ms': Math.max(0, performance.now() - request.beganMs).toFixed(2),
  }
  // A stream's head leaves at acceptance: what is not known by then stands in the job.
  if (record.workerName !== null) {
    headers['x-holdfast-provider'] = headerText(record.workerName)
    if (record.tier !== 'cloud') headers['x-holdfast-worker'] = headerText(record.workerName)
  }
  if (record.tier !== null) headers['x-holdfast-tier'] = record.tier
  if (record.queueMs !== null) headers['x-holdfast-queue-ms'] = String(record.queueMs)
  return headers
}

const LARGE_CHARS = 65_536

function headerText(text: string): string {
  return encodeURI(text)
}
