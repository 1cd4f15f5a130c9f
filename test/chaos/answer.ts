import { readEvents } from '../support/sse.ts'
import type { Visit } from './visit.ts'

/** Reads a streamed completion to its end, as the OpenAI dialect has it; a connection that ends earlier broke. */
export async function readAnswer(response: Response, seen: Visit, onPiece: () => void): Promise<void> {
  try {
    if (response.body === null) return
    for await (const { data } of readEvents(response.body)) {
      if (data === undefined) continue
      if (data === '[DONE]') {
        seen.end('success')
        continue
      }
      if (seen.told !== 'nothing') seen.complaints.push('something came after the end')
      take(seen, JSON.parse(data) as Chunk, onPiece)
    }
  } catch (error) {
    if (error instanceof SyntaxError) throw error
    // The connection broke, or this caller hung up itself.
  }
  if (seen.told === 'nothing' && seen.leftAtMs === null) seen.broke()
}

type Chunk = {
  error?: { code: string; message: string }
  usage?: { completion_tokens: number } | null
  choices?: { delta?: { content?: string }; finish_reason?: string | null }[]
}

function take(seen: Visit, chunk: Chunk, onPiece: () => void): void {
  if (chunk.error) seen.end('error', `${chunk.error.code}: ${chunk.error.message}`)
  if (chunk.usage) seen.completionTokens = chunk.usage.completion_tokens
  const choice = chunk.choices?.[0]
  if (choice?.finish_reason) seen.finish = choice.finish_reason
  if (choice?.delta?.content) {
    seen.hear(choice.delta.content)
    onPiece()
  }
}
