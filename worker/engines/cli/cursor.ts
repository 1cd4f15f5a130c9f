import type { CliAdapter, CliEvent, CliReader } from './adapter.ts'
import { at, listAt, numberAt, textAt } from './json.ts'
import { inOneText } from './prompt.ts'

/** Cursor's agent, `cursor-agent -p`. Written from its documentation: it needs an account to be tried. */
export const cursor: CliAdapter = {
  program: 'cursor-agent',
  login: 'Give it a key (option env=CURSOR_API_KEY) or name the home of a user who is logged in (option home=…).',
  launch: ({ prompt, model, tools }) => ({
    args: [
      ...['-p', '--output-format', 'stream-json', '--stream-partial-output', '--trust'],
      // It has no switch for "no tools": the mode that only asks, and rules that deny every kind, come nearest.
      ...(tools === 'off' ? ['--mode', 'ask'] : []),
      ...(model === undefined ? [] : ['--model', model]),
    ],
    stdin: inOneText(prompt),
    ...(tools === 'off' ? { workFiles: { '.cursor/cli.json': JSON.stringify({ permissions: { allow: [], deny: DENIED } }) } } : {}),
  }),
  reader: () => new CursorReader(),
}

const DENIED = ['Shell(*)', 'Read(**)', 'Write(**)', 'WebFetch(*)', 'Mcp(*:*)']

class CursorReader implements CliReader {
  readonly format = 'jsonl'
  /** Text of the message that is coming piece by piece. */
  #pieces = ''
  #hasText = false

  read(said: unknown): CliEvent[] {
    switch (textAt(said, 'type')) {
      case 'thinking':
        return [{ kind: 'reasoning', text: textAt(said, 'text') ?? '' }]
      case 'assistant':
        return this.#assistant(said)
      case 'result':
        return this.#result(said)
      default:
        return []
    }
  }

  /** Pieces carry a time and no call; the message comes once more as a whole, before a tool is used and at the end. */
  #assistant(said: unknown): CliEvent[] {
    const text = listAt(said, 'message', 'content')
      .map((part) => textAt(part, 'text') ?? '')
      .join('')
    if (at(said, 'timestamp_ms') !== undefined && at(said, 'model_call_id') === undefined) {
      const events = this.#text(text, this.#pieces === '')
      this.#pieces += text
      return events
    }
    const rest = text.startsWith(this.#pieces) ? text.slice(this.#pieces.length) : ''
    const events = this.#text(rest, this.#pieces === '')
    this.#pieces = ''
    return events
  }

  #text(text: string, opens: boolean): CliEvent[] {
    if (text === '') return []
    const gap = opens && this.#hasText ? '\n\n' : ''
    this.#hasText = true
    return [{ kind: 'text', text: gap + text }]
  }

  #result(said: unknown): CliEvent[] {
    const text = textAt(said, 'result') ?? ''
    if (at(said, 'is_error') === true) return [{ kind: 'failed', trouble: { message: text === '' ? 'it gives no reason' : text } }]
    const events = this.#hasText ? [] : this.#text(text, false)
    const usage = at(said, 'usage')
    const completionTokens = numberAt(usage, 'outputTokens') ?? 0
    const cachedTokens = numberAt(usage, 'cacheReadTokens') ?? 0
    const promptTokens = (numberAt(usage, 'inputTokens') ?? 0) + cachedTokens + (numberAt(usage, 'cacheWriteTokens') ?? 0)
    if (completionTokens > 0) events.push({ kind: 'usage', promptTokens, completionTokens, cachedTokens, reasoningTokens: 0 })
    events.push({ kind: 'ended', reason: 'stop' })
    return events
  }
}
