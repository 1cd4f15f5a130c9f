import { type ChatMessage, type Prompt, textOf } from '../../../proto/request.ts'
import type { CliPrompt } from './adapter.ts'

/**
 * A command-line agent takes one text. A single message of a user is that text as it is; of a conversation every message
 * is introduced by who said it, and a last sentence says what is wanted.
 */
export function promptOf(prompt: Prompt): CliPrompt {
  if (prompt.kind !== 'chat') throw new Error(`a command-line agent is asked for a ${prompt.kind}, which it never offered`)
  const system = prompt.messages.filter((message) => message.role === 'system').map((message) => textOf(message.content))
  const turns = prompt.messages.filter((message) => message.role !== 'system')
  const [only] = turns
  const text = turns.length === 1 && only?.role === 'user' ? textOf(only.content) : `${turns.map(introduced).join('\n\n')}\n\n${CLOSING}`
  return system.length === 0 ? { text } : { system: system.join('\n\n'), text }
}

/**
 * These programs read files of the host into a prompt that names them (`@path`), some even without tools, and take one that
 * begins with a sign of theirs for a command (`/`, `!`, `#`). Whoever wrote the prompt may do neither. A grapheme joiner, which has no
 * width, makes plain words of both: a path that begins with it names no file. It is no format character, which programs may strip.
 */
export function guarded({ system, text }: CliPrompt): CliPrompt {
  const guard = (words: string): string => words.replaceAll(/@(?=\S)/g, `@${GUARD}`).replace(/^(\s*)(?=[/!#?$&])/, `$1${GUARD}`)
  return system === undefined ? { text: guard(text) } : { system: guard(system), text: guard(text) }
}

/** What a model repeats of a guarded prompt, as it was before. */
export function unguarded(text: string): string {
  return text.replaceAll(GUARD, '')
}

const GUARD = '\u034f'

/** For programs that take no system prompt of ours. */
export function inOneText({ system, text }: CliPrompt): string {
  return system === undefined ? text : `Instructions for this conversation:\n${system}\n\n${text}`
}

const CLOSING = 'Write the next message of the assistant, and nothing else.'

function introduced(message: ChatMessage): string {
  return `${message.role === 'assistant' ? 'Assistant' : 'User'}: ${textOf(message.content)}`
}
