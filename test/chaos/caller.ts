import type { JobView, World } from '../support/world.ts'
import { ask, pollJob } from './door.ts'
import { followJob } from './follower.ts'
import { readAnswer } from './answer.ts'
import { bodyOf, type Caller } from './plan.ts'
import type { Scene } from './scene.ts'
import { Visit } from './visit.ts'

/** One caller, from its first request until it has its answer, has left, or has waited longer than anybody should. */
export async function visit(scene: Scene, caller: Caller): Promise<Visit> {
  const seen = new Visit(caller)
  const patience = AbortSignal.timeout(PATIENCE_MS)
  try {
    if (caller.way === 'stream') await stream(scene.world, seen, patience)
    else if (caller.way === 'whole') await whole(scene, seen, patience)
    else if (scene.hasJobsDoor) await job(scene, seen, patience)
    else await detached(scene.world, seen, patience)
  } catch (error) {
    if (patience.aborted) seen.hung = true
    else seen.complaints.push(`the caller itself failed: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`)
  }
  return seen
}

// Kills come every few seconds and a job is done within a few; ten times that is no waiting any more.
const PATIENCE_MS = 90_000

async function stream(world: World, seen: Visit, patience: AbortSignal): Promise<void> {
  const { caller } = seen
  const leaving = new AbortController()
  const body = { ...bodyOf(caller), stream: true, stream_options: { include_usage: true } }
  const response = await ask(world, seen, '/v1/chat/completions', body, {}, AbortSignal.any([patience, leaving.signal]))
  if (response === undefined) return
  const leave = (): void => {
    seen.leftAtMs = Date.now()
    leaving.abort()
  }
  await readAnswer(response, seen, () => {
    if (caller.leavesAfter !== null && seen.pieces === caller.leavesAfter) leave()
  })
  patience.throwIfAborted()
  if (seen.leftAtMs === null && seen.told === 'nothing') await completeByJob(world, seen, patience)
}

/** In one piece: whoever loses the connection has not even the name of the job, and can only ask again. */
async function whole(scene: Scene, seen: Visit, patience: AbortSignal): Promise<void> {
  const response = await ask(scene.world, seen, '/v1/chat/completions', bodyOf(seen.caller), sameJob(scene, seen), patience)
  if (response === undefined) return
  try {
    const answer = (await response.json()) as Whole
    const choice = answer.choices[0]
    seen.hear(choice?.message.content ?? '')
    seen.finish = choice?.finish_reason ?? null
    seen.completionTokens = answer.usage.completion_tokens
    seen.end('success')
  } catch {
    // The head came and the body broke: the head named the job.
    patience.throwIfAborted()
    seen.broke()
    await completeByJob(scene.world, seen, patience)
  }
}

/** With a key of its own, however often a caller has to ask again, it gets the one job that its first request became. */
function sameJob(scene: Scene, seen: Visit): Record<string, string> {
  if (!scene.hasJobsDoor) return {}
  seen.hasKey = true
  return { 'idempotency-key': `chaos-${seen.caller.number}` }
}

async function job(scene: Scene, seen: Visit, patience: AbortSignal): Promise<void> {
  const response = await ask(scene.world, seen, '/api/jobs', bodyOf(seen.caller), sameJob(scene, seen), patience)
  if (response === undefined) return
  try {
    seen.job ||= ((await response.json()) as { id: string }).id
  } catch {
    // Accepted, and gone before it could say its name: the same key asks for it.
    seen.unanswered.push(seen.trace)
    seen.broke()
    await job(scene, seen, patience)
    return
  }
  if (!(await followJob(scene.world, seen, patience))) await completeByJob(scene.world, seen, patience)
}

/** Handed in as a stream that may outlive its reader, who hangs up once it knows the name of its job. */
async function detached(world: World, seen: Visit, patience: AbortSignal): Promise<void> {
  const leaving = new AbortController()
  const signal = AbortSignal.any([patience, leaving.signal])
  const headers = { 'x-holdfast-detach': 'true' }
  const response = await ask(world, seen, '/v1/chat/completions', { ...bodyOf(seen.caller), stream: true }, headers, signal)
  if (response === undefined) return
  leaving.abort()
  await completeByJob(world, seen, patience)
}

/** What was seen before must be how the stored text begins; the judge looks at that. */
async function completeByJob(world: World, seen: Visit, patience: AbortSignal): Promise<void> {
  const found = await pollJob(world, seen, patience)
  if (found === undefined) return
  if (found.status === 'succeeded') takeOutput(seen, found)
  else seen.end('error', `${found.status}: ${found.error?.code ?? ''} ${found.error?.message ?? ''}`)
}

function takeOutput(seen: Visit, found: JobView): void {
  const text = found.output?.text ?? ''
  if (text.startsWith(seen.text)) {
    if (text.length > seen.text.length) seen.hear(text.slice(seen.text.length))
  } else seen.complaints.push(`saw ${JSON.stringify(seen.text.slice(-60))}, and the job went on differently`)
  seen.finish = found.finish_reason
  seen.completionTokens = found.usage?.completion_tokens ?? null
  seen.end('success')
}

type Whole = {
  choices: { message: { content: string }; finish_reason: string }[]
  usage: { completion_tokens: number }
}
