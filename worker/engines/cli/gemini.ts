import type { CliAdapter, CliEvent, CliReader, Trouble } from './adapter.ts'
import { at, numberAt, textAt } from './json.ts'
import { inOneText } from './prompt.ts'

/** Gemini CLI, `gemini --output-format stream-json`, the prompt on its standard input. Read and tried with 0.61. */
export const gemini: CliAdapter = {
  program: 'gemini',
  login: 'Give it a key (option env=GEMINI_API_KEY) or name the home of a user who is logged in (option home=…).',
  launch: ({ prompt, model, tools, filesDir }) => ({
    args: [
      // The working directory is ours and empty; an untrusted one would be refused.
      ...['--output-format', 'stream-json', '--skip-trust', '--approval-mode', 'default'],
      ...['--extensions', 'none', '--allowed-mcp-server-names', 'none'],
      ...(tools === 'off' ? ['--policy', `${filesDir}/${POLICY_FILE}`] : []),
      ...(model === undefined ? [] : ['--model', model]),
    ],
    stdin: inOneText(prompt),
    ...(tools === 'off' ? { files: { [POLICY_FILE]: '[[rule]]\ntoolName = "*"\ndecision = "deny"\npriority = 999\n' } } : {}),
  }),
  reader: () => new GeminiReader(),
}

const POLICY_FILE = 'policy.toml'

class GeminiReader implements CliReader {
  readonly format = 'jsonl'

  read(said: unknown): CliEvent[] {
    const type = textAt(said, 'type')
    if (type === 'message' && textAt(said, 'role') === 'assistant') return [{ kind: 'text', text: textAt(said, 'content') ?? '' }]
    if (type !== 'result') return []
    if (textAt(said, 'status') !== 'success') {
      const message = textAt(said, 'error', 'message') ?? 'it gives no reason'
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
  const completionTokens = numberAt(stats, 'output_tokens') ?? 0
  if (completionTokens === 0) return []
  const promptTokens = numberAt(stats, 'input_tokens') ?? 0
  return [{ kind: 'usage', promptTokens, completionTokens, cachedTokens: numberAt(stats, 'cached') ?? 0, reasoningTokens: 0 }]
}
