import { readEvents } from './sse.ts'
import type { World } from './world.ts'

export type JobRead = {
  text: string
  tokens: number
  /** Id of the last event. */
  last: string | undefined
  states: { status: string; attempt: number }[]
  comments: string[]
  finished: { status: string; finish_reason: string | null; error: { code: string } | null } | null
  error: { code: string } | null
}

/** Reads a job's own stream from after an event, until it ends, breaks, or so many token events were read. */
export async function readJobStream(world: World, id: string, after?: string, leaveAfter = Number.POSITIVE_INFINITY): Promise<JobRead> {
  const read: JobRead = { text: '', tokens: 0, last: after, states: [], comments: [], finished: null, error: null }
  const controller = new AbortController()
  const headers = after === undefined ? {} : { 'last-event-id': after }
  const response = await world.request('GET', `/api/jobs/${id}/stream`, undefined, headers, controller.signal)
  if (!response.ok || response.body === null) throw new Error(`job stream: ${response.status} ${await response.text()}`)
  try {
    for await (const event of readEvents(response.body)) {
      if (event.comment !== undefined) read.comments.push(event.comment)
      if (event.data === undefined) continue
      if (event.id !== undefined) read.last = event.id
      take(read, event.event ?? '', JSON.parse(event.data))
      if (read.tokens >= leaveAfter) break
    }
  } catch (error) {
    // The coordinator died under the reader: what was read counts.
    if (!/terminated|abort|socket|fetch failed/i.test(String(error))) throw error
  }
  controller.abort()
  return read
}

function take(read: JobRead, event: string, data: Record<string, unknown>): void {
  if (event === 'token') {
    if (data.position !== undefined && read.tokens > 0 && data.text === '') throw new Error('an empty token event')
    read.text += String(data.text)
    read.tokens += 1
  } else if (event === 'state') read.states.push(data as JobRead['states'][number])
  else if (event === 'finished') read.finished = data as JobRead['finished']
  else if (event === 'error') read.error = (data as { error: { code: string } }).error
}
