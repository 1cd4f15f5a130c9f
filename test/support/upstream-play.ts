import type { IncomingMessage } from 'node:http'

export type Call = {
  method: string
  path: string
  headers: IncomingMessage['headers']
  body: Record<string, unknown>
  /** The caller hung up before everything was said. */
  closedEarly: boolean
  /** Resolves when the connection of the answer is done with, either way. */
  closed: Promise<void>
}

/** What one call plays. Without any fault it is a plain answer. */
export type Play = {
  reasoning?: string[]
  /** Pieces of the text; cut to the `max_tokens` of the call. */
  text?: string[]
  /** Thought and said after that, in turn. */
  turns?: { reasoning: string; text: string }[]
  /** Said instead of a text; of OpenAI's dialect. */
  refusal?: string[]
  /** Of the text; of OpenAI's dialect. */
  annotations?: unknown[]
  /** Custom ones are of OpenAI's dialect. */
  toolCalls?: { id: string; name: string; pieces: string[]; isCustom?: true }[]
  /** All calls begin before the first has arguments, and then grow by turns; of OpenAI's dialect. */
  isInterleaved?: true
  /** Of the dialect; absent: what follows from the answer. */
  finish?: string
  /** The stop string that is said to have matched. */
  stopSequence?: string
  usage?: 'right' | 'wrong' | 'missing' | 'impossible'
  /** Tokens of the prompt beside the others; of Anthropic's dialect. */
  cache?: { read: number; written: number }
  /** Before the head. */
  delayMs?: number
  /** Between pieces. */
  paceMs?: number
  /** Refused with this status, in the dialect's own words. */
  refuse?: { status: number; message?: string; retryAfterS?: number; code?: string }
  /** A page for people comes in the place of an answer, under this status. */
  page?: number
  /** Told by headers, on success too. */
  quota?: { requestsLeft: number; tokensLeft: number; resetsInS: number }
  /** After so many pieces: the connection breaks, nothing more comes, an error comes, or something that is not JSON. */
  cutAfter?: number
  stallAfter?: number
  failAfter?: number
  garbleAfter?: number
  /** Before the piece behind so many it says nothing for a while, perhaps after a sign that it lives. */
  silence?: { after: number; ms: number; pings?: true }
  /** The connection breaks when all but the last word is said; of OpenAI's dialect. */
  cutAtEnd?: true
  /** The whole in one body, although a stream was asked for. */
  isWhole?: true
  /** The same, behind a mark of its byte order. */
  isMarked?: true
  /** Its events come under another type. */
  isCalledJson?: true
}

/** One dialect. */
export type Voice = {
  /** Every event of the stream; those that carry a piece of the answer say so. */
  events(play: Play, call: Call): { data: string; isPiece: boolean }[]
  /** The unstreamed body, or null where the path is not known. */
  body(play: Play, call: Call): Record<string, unknown> | null
  error(status: number, message: string, code?: string): Record<string, unknown>
  /** An error in the middle of a stream. */
  errorEvent(message: string): string
  quotaHeaders(quota: NonNullable<Play['quota']>): Record<string, string>
}

export function textOf(play: Play, { body }: Call): { pieces: string[]; isCut: boolean } {
  const { text = play.refusal === undefined ? ['Hello', ' from', ' up', 'stream', '.'] : [] } = play
  const most = Number(body.max_completion_tokens ?? body.max_tokens ?? text.length)
  return { pieces: text.slice(0, most), isCut: text.length > most }
}

/** Prompt, completion and reasoning, counted by pieces and thus easily foretold. */
export function usageOf(play: Play, call: Call): { prompt: number; completion: number; reasoning: number } {
  const reasoning = play.reasoning?.length ?? 0
  const called = (play.toolCalls ?? []).reduce((sum, { pieces }) => sum + pieces.length, 0)
  const completion = textOf(play, call).pieces.length + reasoning + called
  if (play.usage === 'impossible') return { prompt: 2 ** 52, completion: 2 ** 52, reasoning: 0 }
  return play.usage === 'wrong' ? { prompt: 0, completion: 0, reasoning: 0 } : { prompt: 11, completion, reasoning }
}
