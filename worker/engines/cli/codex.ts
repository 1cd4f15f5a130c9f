import type { CliAdapter, CliEvent, CliReader, QuotaWindow } from './adapter.ts'
import { at, numberAt, textAt } from './json.ts'
import { inOneText } from './prompt.ts'

/** Codex, `codex exec --json`. Read and tried with 0.169. */
export const codex: CliAdapter = {
  program: 'codex',
  login: 'Give it a key (option env=CODEX_API_KEY) or name the home of a user who is logged in (option home=…).',
  launch: ({ prompt, model, tools }) => ({
    args: [
      ...['exec', '--json', '--skip-git-repo-check', '--ephemeral', '--ignore-user-config', '--ignore-rules'],
      ...['--sandbox', tools === 'off' ? 'read-only' : 'workspace-write'],
      ...(tools === 'off'
        ? [...TOOL_FEATURES.map((name) => `features.${name}=false`), 'web_search="disabled"'].flatMap((set) => ['-c', set])
        : []),
      ...(model === undefined ? [] : ['--model', model]),
      '-',
    ],
    stdin: inOneText(prompt),
  }),
  reader: () => new CodexReader(),
}

/** What it would offer the model. One that a version does not know is ignored when it is set this way. */
const TOOL_FEATURES = [
  'shell_tool',
  'unified_exec',
  'multi_agent',
  'goals',
  'view_image',
  'apps',
  'plugins',
  'hooks',
  'image_generation',
  'browser_use',
  'computer_use',
]

class CodexReader implements CliReader {
  readonly format = 'jsonl'
  /** Characters of each item that were taken. */
  readonly #taken = new Map<string, number>()
  #hasText = false

  read(said: unknown, nowMs: number): CliEvent[] {
    const events = quotaOf(said, nowMs)
    const type = textAt(said, 'type') ?? ''
    if (type.startsWith('item.')) events.push(...this.#item(at(said, 'item')))
    // `error` alone is a notice ("Reconnecting… 2/5"); a turn that is lost says so.
    if (type === 'turn.failed')
      events.push({ kind: 'failed', trouble: { message: textAt(said, 'error', 'message') ?? 'it gives no reason' } })
    if (type === 'turn.completed') events.push(...usageOf(at(said, 'usage')), { kind: 'ended', reason: 'stop' })
    return events
  }

  #item(item: unknown): CliEvent[] {
    const kind = textAt(item, 'type')
    const whole = textAt(item, 'text') ?? ''
    if (kind !== 'agent_message' && kind !== 'reasoning') return []
    const id = textAt(item, 'id') ?? ''
    const taken = this.#taken.get(id) ?? 0
    if (whole.length <= taken) return []
    this.#taken.set(id, whole.length)
    const text = whole.slice(taken)
    if (kind === 'reasoning') return [{ kind, text }]
    const gap = this.#hasText && taken === 0 ? '\n\n' : ''
    this.#hasText = true
    return [{ kind: 'text', text: gap + text }]
  }
}

function usageOf(usage: unknown): CliEvent[] {
  const completionTokens = numberAt(usage, 'output_tokens') ?? 0
  if (completionTokens === 0) return []
  return [
    {
      kind: 'usage',
      promptTokens: numberAt(usage, 'input_tokens') ?? 0,
      completionTokens,
      cachedTokens: numberAt(usage, 'cached_input_tokens') ?? 0,
      reasoningTokens: numberAt(usage, 'reasoning_output_tokens') ?? 0,
    },
  ]
}

/** `rate_limits` stands in an event of its own, beside the token count, or inside `msg` or `payload`, as versions go. */
function quotaOf(said: unknown, nowMs: number): CliEvent[] {
  const limits = [said, at(said, 'info'), at(said, 'msg'), at(said, 'payload')]
    .map((place) => at(place, 'rate_limits'))
    .find((found) => found !== undefined)
  const credits = at(limits, 'credits')
  const paysBeyond = at(credits, 'has_credits') === true || at(credits, 'unlimited') === true
  const windows = ['primary', 'secondary'].flatMap((name) => windowOf(name, at(limits, name), nowMs, paysBeyond))
  return windows.length === 0 ? [] : [{ kind: 'quota', windows }]
}

function windowOf(name: string, window: unknown, nowMs: number, paysBeyond: boolean): QuotaWindow[] {
  const used = numberAt(window, 'used_percent')
  if (used === undefined) return []
  const inS = numberAt(window, 'resets_in_seconds') ?? numberAt(window, 'reset_after_seconds')
  const atS = numberAt(window, 'resets_at')
  const resetsAtMs = atS === undefined ? (inS === undefined ? undefined : nowMs + inS * 1000) : atS * 1000
  const minutes = numberAt(window, 'window_minutes')
  return [
    {
      name: minutes === undefined ? name : `${minutes} min`,
      remainingRatio: 1 - used / 100,
      usedUp: used >= 100 && !paysBeyond,
      ...(resetsAtMs === undefined ? {} : { resetsAtMs }),
    },
  ]
}
