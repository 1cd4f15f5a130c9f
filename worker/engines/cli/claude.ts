import type { CliAdapter, CliEvent, CliReader, QuotaWindow, ToolWish } from './adapter.ts'
import { at, listAt, numberAt, textAt } from './json.ts'

/** Claude Code, `claude -p`. Read and tried with 2.1. */
export const claude: CliAdapter = {
  program: 'claude',
  login:
    'Give it a key (option env=ANTHROPIC_API_KEY) or a token made by "claude setup-token" (env=CLAUDE_CODE_OAUTH_TOKEN), or name the home of a user who is logged in (option home=…).',
  launch: ({ prompt, model, tools, filesDir }) => ({
    args: [
      ...['-p', '--output-format', 'stream-json', '--verbose', '--include-partial-messages'],
      // Nothing that a user of the host once set up may change answers: settings, servers, commands, sessions.
      ...['--setting-sources', '', '--strict-mcp-config', '--disable-slash-commands', '--no-session-persistence'],
      ...toolArgs(tools),
      ...(model === undefined ? [] : ['--model', model]),
      ...(prompt.system === undefined ? [] : ['--system-prompt-file', `${filesDir}/${SYSTEM_FILE}`]),
    ],
    stdin: prompt.text,
    // It asks again unstreamed when a stream breaks, and says the whole answer behind its own half.
    env: { CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK: '1' },
    ...(prompt.system === undefined ? {} : { files: { [SYSTEM_FILE]: prompt.system } }),
  }),
  reader: () => new ClaudeReader(),
}

const SYSTEM_FILE = 'system.txt'

function toolArgs(tools: ToolWish): string[] {
  if (tools === 'off') return ['--tools', '']
  if (tools === 'on') return ['--tools', 'default']
  return ['--tools', tools.join(','), '--allowedTools', tools.join(',')]
}

class ClaudeReader implements CliReader {
  readonly format = 'jsonl'
  /** Messages whose text came piece by piece are not taken a second time when they come whole. */
  readonly #streamed = new Set<string>()
  #message = ''
  #hasText = false
  #messageHasText = false
  /** The message that comes piece by piece is not whole yet. */
  #isHalf = false
  #stopReason = ''
  #limitedUntilMs: number | undefined

  read(said: unknown, nowMs: number): CliEvent[] {
    // What agents below this one say is their business.
    if (typeof at(said, 'parent_tool_use_id') === 'string') return []
    switch (textAt(said, 'type')) {
      case 'stream_event':
        return this.#streamEvent(at(said, 'event'))
      case 'assistant':
        return this.#wholeMessage(said)
      case 'rate_limit_event':
        return this.#rateLimit(at(said, 'rate_limit_info'))
      case 'system':
        return textAt(said, 'subtype') === 'api_retry' ? retryOf(said, nowMs) : []
      case 'result':
        return this.#result(said)
      default:
        return []
    }
  }

  #streamEvent(event: unknown): CliEvent[] {
    const type = textAt(event, 'type')
    if (type === 'message_start') {
      if (this.#isHalf && this.#messageHasText) return ASKED_ANEW
      this.#begin(textAt(event, 'message', 'id') ?? '')
    }
    if (type === 'message_start') this.#isHalf = true
    if (type === 'message_stop' || type === 'message_delta') this.#isHalf = false
    if (type === 'message_delta') this.#stopReason = textAt(event, 'delta', 'stop_reason') ?? this.#stopReason
    if (type !== 'content_block_delta') return []
    this.#streamed.add(this.#message)
    const text = textAt(event, 'delta', 'text')
    if (text !== undefined) return [this.#text(text)]
    const thinking = textAt(event, 'delta', 'thinking')
    return thinking === undefined ? [] : [{ kind: 'reasoning', text: thinking }]
  }

  #begin(message: string): void {
    this.#message = message
    this.#messageHasText = false
  }

  /** Texts of several messages, with tools used in between, are paragraphs of one answer. */
  #text(text: string): CliEvent {
    const gap = this.#hasText && !this.#messageHasText ? '\n\n' : ''
    this.#hasText = true
    this.#messageHasText = true
    return { kind: 'text', text: gap + text }
  }

  #wholeMessage(said: unknown): CliEvent[] {
    const id = textAt(said, 'message', 'id') ?? ''
    // An error that the program words as if the model had said it; the result tells it again.
    if (textAt(said, 'error') !== undefined || this.#streamed.has(id)) return []
    if (this.#isHalf && this.#messageHasText) return ASKED_ANEW
    if (id !== this.#message) this.#begin(id)
    const texts = listAt(said, 'message', 'content').map((part) => textAt(part, 'text') ?? '')
    const text = texts.join('')
    return text === '' ? [] : [this.#text(text)]
  }

  #rateLimit(info: unknown): CliEvent[] {
    const resetsAtMs = millis(numberAt(info, 'resetsAt'))
    const utilization = numberAt(info, 'utilization')
    // A used up window does not stop an account that pays for what goes beyond.
    const usedUp = textAt(info, 'status') === 'rejected' && at(info, 'isUsingOverage') !== true
    if (usedUp) this.#limitedUntilMs = resetsAtMs
    const window: QuotaWindow = { name: textAt(info, 'rateLimitType') ?? 'unnamed', usedUp }
    if (resetsAtMs !== undefined) window.resetsAtMs = resetsAtMs
    if (utilization !== undefined) window.remainingRatio = 1 - utilization
    return [{ kind: 'quota', windows: [window] }]
  }

  #result(said: unknown): CliEvent[] {
    const text = textAt(said, 'result') ?? listAt(said, 'errors').join('; ')
    if (at(said, 'is_error') === true || textAt(said, 'subtype')?.startsWith('error') === true) {
      const status = numberAt(said, 'api_error_status')
      const trouble = { message: text === '' ? (textAt(said, 'subtype') ?? 'it gives no reason') : text }
      const retryAtMs = this.#limitedUntilMs
      return [
        {
          kind: 'failed',
          trouble: { ...trouble, ...(status === undefined ? {} : { status }), ...(retryAtMs === undefined ? {} : { retryAtMs }) },
        },
      ]
    }
    const events: CliEvent[] = this.#hasText || text === '' ? [] : [this.#text(text)]
    const usage = at(said, 'usage')
    const cachedTokens = numberAt(usage, 'cache_read_input_tokens') ?? 0
    const written = numberAt(usage, 'cache_creation_input_tokens') ?? 0
    const promptTokens = (numberAt(usage, 'input_tokens') ?? 0) + cachedTokens + written
    const completionTokens = numberAt(usage, 'output_tokens') ?? 0
    if (completionTokens > 0) events.push({ kind: 'usage', promptTokens, completionTokens, cachedTokens, reasoningTokens: 0 })
    events.push({ kind: 'ended', reason: STOP_REASONS.get(textAt(said, 'stop_reason') ?? this.#stopReason) ?? 'stop' })
    return events
  }
}

/** Two texts are never mixed. */
const ASKED_ANEW: CliEvent[] = [{ kind: 'failed', trouble: { message: 'its answer broke off, and it began another one' } }]

const STOP_REASONS = new Map<string, 'length' | 'content_filter'>([
  ['max_tokens', 'length'],
  ['model_context_window_exceeded', 'length'],
  ['refusal', 'content_filter'],
])

/** The program repeats by itself what may pass soon. A wrong key does not pass, and a long pause is better spent elsewhere. */
function retryOf(said: unknown, nowMs: number): CliEvent[] {
  const error = textAt(said, 'error') ?? ''
  const status = numberAt(said, 'error_status')
  const delayMs = numberAt(said, 'retry_delay_ms') ?? 0
  const known = status === undefined ? {} : { status }
  if (error === 'authentication_failed') return [{ kind: 'failed', trouble: { message: error, kind: 'auth', ...known } }]
  if (error !== 'rate_limit' || delayMs < LONG_PAUSE_MS) return []
  return [{ kind: 'failed', trouble: { message: error, kind: 'limit', retryAtMs: nowMs + delayMs, ...known } }]
}

const LONG_PAUSE_MS = 10_000

function millis(seconds: number | undefined): number | undefined {
  return seconds === undefined ? undefined : seconds * 1000
}
