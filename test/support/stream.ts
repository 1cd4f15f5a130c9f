import { readEvents } from './sse.ts'
import type { World } from './world.ts'

type Seen = {
  status: number
  job: string
  text: string
  deltas: number
  comments: string[]
  finish: string | null
  usage: { prompt_tokens: number; completion_tokens: number } | null
  error: { code: string; message: string; job: string | null } | null
  done: boolean
}

export type Stream = { seen: Seen; done: Promise<Seen>; abort(): void }

/** One streamed chat completion at temperature 0; `seen` fills while it runs. */
export function chatStream(
  world: World,
  model: string,
  content: string,
  extra: Record<string, unknown> = {},
  headers: Record<string, string> = {},
): Stream {
  const controller = new AbortController()
  const seen: Seen = { status: 0, job: '', text: '', deltas: 0, comments: [], finish: null, usage: null, error: null, done: false }
  const body = {
    model,
    messages: [{ role: 'user', content }],
    temperature: 0,
    stream: true,
    stream_options: { include_usage: true },
    ...extra,
  }
  const done = follow(world, body, headers, controller.signal, seen)
  // Whoever aborts does not await the rejection.
  done.catch(() => {})
  return { seen, done, abort: () => controller.abort() }
}

async function follow(world: World, body: unknown, headers: Record<string, string>, signal: AbortSignal, seen: Seen): Promise<Seen> {
  const response = await world.request('POST', '/v1/chat/completions', body, headers, signal)
  seen.status = response.status
  seen.job = response.headers.get('x-holdfast-job') ?? ''
  if (!response.ok || response.body === null) {
    seen.error = ((await response.json()) as { error: Seen['error'] }).error
    return seen
  }
  for await (const event of readEvents(response.body)) {
    if (event.comment !== undefined) seen.comments.push(event.comment)
    if (event.data === undefined) continue
    if (event.data === '[DONE]') seen.done = true
    else take(seen, JSON.parse(event.data) as Chunk)
  }
  return seen
}

type Chunk = { error?: Seen['error']; usage?: Seen['usage']; choices?: { delta?: { content?: string }; finish_reason?: string | null }[] }

function take(seen: Seen, chunk: Chunk): void {
  if (chunk.error) seen.error = chunk.error
  if (chunk.usage) seen.usage = chunk.usage
  const choice = chunk.choices?.[0]
  if (choice?.delta?.content) {
    seen.text += choice.delta.content
    seen.deltas += 1
  }
  if (choice?.finish_reason) seen.finish = choice.finish_reason
}
