import type { CliAdapter, CliEvent, CliReader, Trouble } from './adapter.ts'
import { pointed } from './json.ts'
import { inOneText } from './prompt.ts'

/** A program that the operator describes by options. It reads the prompt from its standard input and writes the answer. */
export type Description = {
  /** `text`: all that it writes is the answer; `jsonl`: a JSON value per line. */
  format: 'text' | 'jsonl'
  /** JSON pointers into a line of `jsonl`: what the answer grows by, what went wrong, what was used. */
  text?: string
  reasoning?: string
  error?: string
  promptTokens?: string
  completionTokens?: string
}

export function describedCli(description: Description): CliAdapter {
  return {
    program: '',
    login: 'Give it what it authenticates with by the option env=…, or name the home of a user who is logged in (option home=…).',
    launch: ({ prompt }) => ({ args: [], stdin: inOneText(prompt) }),
    takesPlainText: true,
    reader: () => new DescribedReader(description),
  }
}

// Of sysexits.h: the two codes by which a program can say more than "failed".
const EXIT_TEMPFAIL = 75
const EXIT_NOPERM = 77

class DescribedReader implements CliReader {
  readonly format: 'text' | 'jsonl'
  readonly endsByExit = true
  readonly #description: Description

  constructor(description: Description) {
    this.format = description.format
    this.#description = description
  }

  read(said: unknown): CliEvent[] {
    if (this.format === 'text') return [{ kind: 'text', text: String(said) }]
    const { text, reasoning, error, promptTokens, completionTokens } = this.#description
    const events: CliEvent[] = []
    const wrong = error === undefined ? undefined : pointed(said, error)
    if (wrong !== undefined && wrong !== null)
      events.push({ kind: 'failed', trouble: { message: typeof wrong === 'string' ? wrong : JSON.stringify(wrong) } })
    const thought = reasoning === undefined ? undefined : pointed(said, reasoning)
    if (typeof thought === 'string') events.push({ kind: 'reasoning', text: thought })
    const grown = text === undefined ? undefined : pointed(said, text)
    if (typeof grown === 'string') events.push({ kind: 'text', text: grown })
    const used = completionTokens === undefined ? undefined : pointed(said, completionTokens)
    const read = promptTokens === undefined ? undefined : pointed(said, promptTokens)
    if (typeof used === 'number')
      events.push({
        kind: 'usage',
        promptTokens: typeof read === 'number' ? read : 0,
        completionTokens: used,
        cachedTokens: 0,
        reasoningTokens: 0,
      })
    return events
  }

  exit(code: number): Trouble | undefined {
    if (code === EXIT_TEMPFAIL) return { message: `it exited with ${code}, which asks to come back later`, kind: 'limit' }
    if (code === EXIT_NOPERM) return { message: `it exited with ${code}, which says that it has no permission`, kind: 'auth' }
    return undefined
  }
}
