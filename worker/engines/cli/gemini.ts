import { readFileSync } from 'node:fs'
import path from 'node:path'
import type { CliAdapter, CliEvent, CliReader, Trouble } from './adapter.ts'
import { at, numberAt, textAt } from './json.ts'
import { inOneText } from './prompt.ts'

/** Gemini CLI, `gemini --output-format stream-json`, the prompt on its standard input. Read and tried with 0.61. */
export const gemini: CliAdapter = {
  program: 'gemini',
  login: 'Give it a key (option env=GEMINI_API_KEY) or name the home of a user who is logged in (option home=…).',
  adviceFor: (home) => {
    const file = path.join(home, SETTINGS_FILE)
    try {
      if (at(JSON.parse(readFileSync(file, 'utf8')), 'general', 'maxAttempts') === 1) return undefined
    } catch {
      // There is none, or it is the program's own matter what is wrong with it.
    }
    return `it says its answer anew when its connection breaks, behind what it has said already, unless ${file} has {"general": {"maxAttempts": 1}}`
  },
  launch: ({ prompt, model, tools, filesDir }) => ({
    args: [
      // The working directory is ours and empty; an untrusted one would be refused.
      ...['--output-format', 'stream-json', '--skip-trust', '--approval-mode', 'default'],
      ...['--extensions', 'none', '--allowed-mcp-server-names', 'none'],
      ...(tools === 'off' ? ['--policy', `${filesDir}/${POLICY_FILE}`] : []),
      ...(model === undefined ? [] : ['--model', model]),
    ],
    stdin: inOneText(prompt),
    // Asked again in mid-answer, it says its half and then the whole, with nothing between. Read where this folder is its home.
    workFiles: { [SETTINGS_FILE]: JSON.stringify({ general: { maxAttempts: 1, retryFetchErrors: false } }) },
    ...(tools === 'off' ? { files: { [POLICY_FILE]: '[[rule]]\ntoolName = "*"\ndecision = "deny"\npriority = 999\n' } } : {}),
  }),
  reader: () => new GeminiReader(),
}

const POLICY_FILE = 'policy.toml'
const SETTINGS_FILE = '.gemini/settings.json'

class GeminiReader implements CliReader {
  readonly format = 'jsonl'
  /** Told before the result, which does not repeat all of them. */
  #lastError: string | undefined

  read(said: unknown): CliEvent[] {
    const type = textAt(said, 'type')
    if (type === 'error' && textAt(said, 'severity') !== 'warning') this.#lastError = textAt(said, 'message') ?? this.#lastError
    if (type === 'message' && textAt(said, 'role') === 'assistant') return [{ kind: 'text', text: textAt(said, 'content') ?? '' }]
    if (type !== 'result') return []
    if (textAt(said, 'status') !== 'success') {
      const message = textAt(said, 'error', 'message') ?? this.#lastError ?? 'it gives no reason'
      return [{ kind: 'failed', trouble: { message } }]
    }
    return [...usageOf(at(said, 'stats')), { kind: 'ended', reason: 'stop' }]
  }

  exit(code: number): Trouble | undefined {
    return code === EXIT_NOT_AUTHENTICATED ? { message: 'no way to authenticate is set', kind: 'auth' } : undefined
  }
}

const EXIT_NOT_AUTHENTICATED = 41

function usageOf(stats: unknown): CliEvent[] {
  const written = numberAt(stats, 'output_tokens') ?? 0
  const promptTokens = numberAt(stats, 'input_tokens') ?? 0
  // What it thought stands in the total alone.
  const completionTokens = Math.max(written, (numberAt(stats, 'total_tokens') ?? 0) - promptTokens)
  if (completionTokens === 0) return []
  const cachedTokens = numberAt(stats, 'cached') ?? 0
  return [{ kind: 'usage', promptTokens, completionTokens, cachedTokens, reasoningTokens: completionTokens - written }]
}
