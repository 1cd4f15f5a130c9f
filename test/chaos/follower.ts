import { readEvents } from '../support/sse.ts'
import type { World } from '../support/world.ts'
import { pause } from './door.ts'
import type { Visit } from './visit.ts'

/**
 * Follows a job by its own stream and comes back after every break with the id of the last event it saw. True once the
 * stream said that the job is over and how; false when there is no such stream and the job must be asked for instead.
 */
export async function followJob(world: World, seen: Visit, patience: AbortSignal): Promise<boolean> {
  const place = { id: '', position: -1, drops: seen.caller.dropsAfter }
  for (;;) {
    const dropping = new AbortController()
    const headers: Record<string, string> = place.id === '' ? {} : { 'last-event-id': place.id }
    const signal = AbortSignal.any([patience, dropping.signal])
    const response = await world.request('GET', `/api/jobs/${seen.job}/stream`, undefined, headers, signal).catch(() => undefined)
    patience.throwIfAborted()
    if (response?.status === 404) return false
    if (response?.ok === true && response.body !== null && (await read(response.body, seen, place, () => dropping.abort()))) return true
    patience.throwIfAborted()
    await pause(RETRY_MS, patience)
  }
}

const RETRY_MS = 250

type Place = { id: string; position: number; drops: number | null }

async function read(body: ReadableStream<Uint8Array>, seen: Visit, place: Place, drop: () => void): Promise<boolean> {
  let dropped = false
  try {
    for await (const { event, id, data } of readEvents(body)) {
      if (event === undefined || data === undefined) continue
      if (id === undefined) seen.complaints.push(`an event ${event} without an id`)
      else place.id = id
      if (event === 'token') takeToken(seen, place, JSON.parse(data) as Token)
      if (event === 'error') return startAgain(seen, place, JSON.parse(data) as Told)
      if (event === 'finished') {
        takeEnd(seen, JSON.parse(data) as End)
        return true
      }
      if (place.drops !== null && seen.pieces >= place.drops) {
        place.drops = null
        dropped = true
        drop()
      }
    }
    seen.broke()
  } catch (error) {
    if (error instanceof SyntaxError) throw error
    // Its own drop is no break: the coordinator did nothing wrong.
    if (!dropped) seen.broke()
  }
  return false
}

type Token = { text: string; position: number }
type End = {
  status?: string
  finish_reason?: string | null
  usage?: { completion_tokens: number } | null
  error?: { code: string; message: string } | null
}

type Told = { error: { code: string; message: string } }

/**
 * The text was made anew, and the stream says so instead of mixing two of them. Rightly so for a real model; the fake
 * one writes the same text again, and nothing of it can diverge.
 */
function startAgain(seen: Visit, place: Place, { error }: Told): boolean {
  if (error.code !== 'stream_diverged' || seen.caller.model === 'fake') {
    seen.end('error', `${error.code}: ${error.message}`)
    return true
  }
  seen.diverged += 1
  seen.text = ''
  place.id = ''
  place.position = -1
  return false
}

/** A position at or before the last one would be text sent again. */
function takeToken(seen: Visit, place: Place, { text, position }: Token): void {
  if (position <= place.position) seen.complaints.push(`position ${position} came after ${place.position}`)
  place.position = position
  if (text !== '') seen.hear(text)
}

function takeEnd(seen: Visit, end: End): void {
  seen.finish = end.finish_reason ?? null
  seen.completionTokens = end.usage?.completion_tokens ?? null
  if (end.status === undefined || end.status === 'succeeded') seen.end('success')
  else seen.end('error', `${end.status}: ${end.error?.code ?? ''} ${end.error?.message ?? ''}`)
}
