import { randomUUID } from 'node:crypto'
import type { JobView, World } from '../support/world.ts'
import type { Visit } from './visit.ts'

/**
 * Asks until it is accepted, as a patient client would: again after "not now", again when nobody is there, and again when
 * the connection broke before a head. Undefined: refused for good, and the visit says why.
 */
export async function ask(
  world: World,
  seen: Visit,
  target: string,
  body: Record<string, unknown>,
  headers: Record<string, string>,
  signal: AbortSignal,
): Promise<Response | undefined> {
  for (;;) {
    const trace = seen.newTrace()
    let response: Response
    try {
      response = await world.request('POST', target, body, { ...headers, traceparent: traceparent(trace) }, signal)
    } catch (error) {
      if (!isNobodyThere(error)) seen.unanswered.push(trace)
      signal.throwIfAborted()
      await pause(RETRY_MS, signal)
      continue
    }
    seen.trace = trace
    if (response.ok) {
      seen.job = response.headers.get('x-holdfast-job') ?? ''
      return response
    }
    const said = await response.text().catch(() => '')
    if (response.status !== 503 && response.status !== 429) {
      seen.job = response.headers.get('x-holdfast-job') ?? jobIn(said)
      seen.end('error', `${response.status} ${said.slice(0, 300)}`)
      return undefined
    }
    seen.refusals += 1
    if (!response.headers.has('retry-after')) seen.complaints.push(`a ${response.status} without Retry-After`)
    await pause(Number(response.headers.get('retry-after') ?? 1) * 1_000, signal)
  }
}

/** Asks for a job until it is over. Undefined: it does not exist, which is how a lost job looks. */
export async function pollJob(world: World, seen: Visit, signal: AbortSignal): Promise<JobView | undefined> {
  for (;;) {
    const response = await world.request('GET', `/api/jobs/${seen.job}`, undefined, {}, signal).catch(() => undefined)
    signal.throwIfAborted()
    if (response?.status === 404) {
      seen.complaints.push('lost: the coordinator does not know this job')
      return undefined
    }
    const found = response?.ok === true ? ((await response.json().catch(() => undefined)) as JobView | undefined) : undefined
    if (found !== undefined && found.status !== 'queued' && found.status !== 'running') return found
    await pause(RETRY_MS, signal)
  }
}

const RETRY_MS = 250

/** A closed door has certainly not taken the request in; any other broken connection may have. */
function isNobodyThere(error: unknown): boolean {
  return ((error as { cause?: { code?: string } }).cause?.code ?? '') === 'ECONNREFUSED'
}

function traceparent(trace: string): string {
  return `00-${trace}-${randomUUID().replaceAll('-', '').slice(0, 16)}-01`
}

function jobIn(body: string): string {
  return /"job":"([0-9a-f-]{36})"/.exec(body)?.[1] ?? ''
}

export function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(done, ms)
    signal.addEventListener('abort', done)
    function done(): void {
      clearTimeout(timer)
      signal.removeEventListener('abort', done)
      if (signal.aborted) reject(signal.reason as Error)
      else resolve()
    }
    if (signal.aborted) done()
  })
}
