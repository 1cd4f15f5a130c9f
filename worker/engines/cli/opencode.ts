import type { CliAdapter, CliEvent, CliReader, Trouble } from './adapter.ts'
import { at, numberAt, textAt } from './json.ts'
import { inOneText } from './prompt.ts'

/** OpenCode, `opencode run --format json`, the prompt on its standard input. Read and tried with 1.18. */
export const opencode: CliAdapter = {
  program: 'opencode',
  login: 'Give it the key of its provider (option env=…) or name the home of a user who ran "opencode auth login" (option home=…).',
  launch: ({ prompt, model, tools }) => ({
    // A title of our own spares the request to a model that it would make for one.
    args: ['run', '--pure', '--format', 'json', '--title', 'holdfast', ...(model === undefined ? [] : ['--model', model])],
    stdin: inOneText(prompt),
    env: {
      OPENCODE_DISABLE_AUTOUPDATE: '1',
      OPENCODE_DISABLE_SHARE: '1',
      ...(tools === 'off' ? { OPENCODE_PERMISSION: '{"*":"deny"}' } : {}),
    },
  }),
  reader: () => new OpenCodeReader(),
}

class OpenCodeReader implements CliReader {
  readonly format = 'jsonl'
  #hasText = false
  #promptTokens = 0
  #completionTokens = 0
  #cachedTokens = 0
  #reasoningTokens = 0

  read(said: unknown, nowMs: number): CliEvent[] {
    const text = textAt(said, 'part', 'text') ?? ''
    switch (textAt(said, 'type')) {
      case 'text': {
        const gap = this.#hasText ? '\n\n' : ''
        this.#hasText = true
        return [{ kind: 'text', text: gap + text }]
      }
      case 'reasoning':
        return [{ kind: 'reasoning', text }]
      case 'step_finish':
        return this.#stepEnded(at(said, 'part'))
      case 'error':
        return [{ kind: 'failed', trouble: troubleOf(at(said, 'error'), nowMs) }]
      default:
        return []
    }
  }

  /** Every step is a request of its own; one that calls tools is followed by another. */
  #stepEnded(part: unknown): CliEvent[] {
    const tokens = at(part, 'tokens')
    const cached = numberAt(tokens, 'cache', 'read') ?? 0
    const reasoning = numberAt(tokens, 'reasoning') ?? 0
    this.#promptTokens += (numberAt(tokens, 'input') ?? 0) + cached + (numberAt(tokens, 'cache', 'write') ?? 0)
    this.#completionTokens += (numberAt(tokens, 'output') ?? 0) + reasoning
    this.#cachedTokens += cached
    this.#reasoningTokens += reasoning
    const reason = textAt(part, 'reason')
    // Of a step that ended without a word it does not know what to think either, and takes another.
    if (reason === 'tool-calls' || reason === 'unknown') return []
    const ends = ENDS.get(reason ?? '')
    if (ends === undefined) return [{ kind: 'failed', trouble: { message: `its answer ended with "${reason ?? ''}"` } }]
    const usage: CliEvent = {
      kind: 'usage',
      promptTokens: this.#promptTokens,
      completionTokens: this.#completionTokens,
      cachedTokens: this.#cachedTokens,
      reasoningTokens: this.#reasoningTokens,
    }
    const ended: CliEvent = { kind: 'ended', reason: ends }
    return this.#completionTokens > 0 ? [usage, ended] : [ended]
  }
}

const ENDS = new Map<string, 'stop' | 'length' | 'content_filter'>([
  ['stop', 'stop'],
  ['length', 'length'],
  ['content-filter', 'content_filter'],
])

function troubleOf(error: unknown, nowMs: number): Trouble {
  const status = numberAt(error, 'data', 'statusCode')
  const retryAfterS = Number(textAt(error, 'data', 'responseHeaders', 'retry-after'))
  return {
    message: textAt(error, 'data', 'message') ?? textAt(error, 'name') ?? 'it gives no reason',
    ...(status === undefined ? {} : { status }),
    ...(retryAfterS > 0 ? { retryAtMs: nowMs + retryAfterS * 1000 } : {}),
  }
}
