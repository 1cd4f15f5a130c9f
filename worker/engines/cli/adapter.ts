import type { FinishReason } from '../../../proto/answer.ts'

/**
 * What the engine knows of one command-line agent. An adapter is a pure mapping: a request's texts become an argument
 * list, and the lines of the program's output become events. Processes, folders and limits are the engine's business.
 */
export type CliAdapter = {
  /** Looked up in PATH when the option `command` names no other. */
  program: string
  /** What a person does about a missing login. */
  login: string
  /** What should be different in a home that the operator names; undefined: nothing. */
  adviceFor?(home: string): string | undefined
  launch(wish: LaunchWish): Launch
  /** Nothing in a prompt means anything to it: neither names of files nor commands. */
  takesPlainText?: true
  /** One reader per job; it may remember what it has read. */
  reader(): CliReader
}

type LaunchWish = {
  prompt: CliPrompt
  /** The program's own name of a model; absent: its default. */
  model?: string
  tools: ToolWish
  /** A private folder of the job, outside the working directory, for the files that the launch asks for. */
  filesDir: string
}

/** `system` is absent when the caller gave none. */
export type CliPrompt = { system?: string; text: string }

/** `off`: none; `on`: those the program has by default, with its own rules of permission; a list: exactly these. */
export type ToolWish = 'off' | 'on' | readonly string[]

type Launch = {
  args: string[]
  /** The prompt goes here and not into an argument, which every process of the host could read and which is limited in size. */
  stdin: string
  /** Settings that only environment variables can carry; never secrets. */
  env?: Record<string, string>
  /** Content by file name, written to `filesDir` before the start. */
  files?: Record<string, string>
  /** The same, written to the working directory, for programs that look nowhere else. */
  workFiles?: Record<string, string>
}

export type CliReader = {
  format: 'jsonl' | 'text'
  /** The program has no word for the end of an answer: exit code 0 after some text is it. */
  endsByExit?: boolean
  /** A parsed line of `jsonl`, or a piece of `text`. */
  read(said: unknown, nowMs: number): CliEvent[]
  /** What an exit code means where the program documents one. */
  exit?(code: number): Trouble | undefined
}

export type CliEvent =
  | { kind: 'text'; text: string }
  | { kind: 'reasoning'; text: string }
  | ({ kind: 'usage' } & CliUsage)
  | { kind: 'quota'; windows: QuotaWindow[] }
  /** The answer is whole. */
  | { kind: 'ended'; reason: FinishReason }
  /** There will be no whole answer. */
  | { kind: 'failed'; trouble: Trouble }

export type CliUsage = { promptTokens: number; completionTokens: number; cachedTokens: number; reasoningTokens: number }

/** A limit that fills and empties with time, such as the five hours and the seven days of a subscription. */
export type QuotaWindow = { name: string; remainingRatio?: number; resetsAtMs?: number; usedUp: boolean }

/** What went wrong, as the program says it; `failures.ts` makes a failure of it. */
export type Trouble = { message: string; kind?: 'auth' | 'limit'; status?: number; retryAtMs?: number }
