import path from 'node:path'
import { ABILITIES, type Ability } from '../proto/abilities.ts'
import { decimal, SettingError } from '../proto/settings.ts'
import type { ToolWish } from './engines/cli/adapter.ts'
import type { Description } from './engines/cli/described.ts'
import { CLI_KINDS, type CliKind } from './engines/cli.ts'

/** What HOLDFAST_MODELS says of models that something outside the worker runs: command-line agents and servers. */

export type CliSpec = {
  kind: CliKind
  slots: number
  contextTokens: number
  command: string[]
  model?: string
  tools: ToolWish
  home?: string
  env: string[]
  description: Description
}

export function parseCliSpec(name: string, source: string, options: URLSearchParams): CliSpec {
  const kind = CLI_KINDS.find((known) => `cli:${known}` === source)
  if (kind === undefined) throw wrong(`gives "${name}" the source "${source}". Command-line agents are ${sources(CLI_KINDS)}.`)
  const spec: CliSpec = { kind, slots: 1, contextTokens: 0, command: [], tools: 'off', env: [], description: { format: 'text' } }
  for (const [option, value] of options) if (!setCliOption(spec, name, option, value)) throw unknownOption(name, option, value)
  if (kind === 'command') checkDescription(name, spec)
  return spec
}

function setCliOption(spec: CliSpec, name: string, option: string, value: string): boolean {
  if (option === 'slots') spec.slots = whole(name, option, value, 1, 256)
  else if (option === 'context') spec.contextTokens = whole(name, option, value, 16, 10_000_000)
  else if (option === 'command') spec.command = commandOf(name, value)
  else if (option === 'home') spec.home = absolute(name, option, value)
  else if (option === 'env') spec.env = variables(name, option, value)
  else if (spec.kind === 'command') return setDescription(spec.description, name, option, value)
  else if (option === 'model') spec.model = notAnOption(name, option, value)
  else if (option === 'tools') spec.tools = toolsOf(spec.kind, name, value)
  else return false
  return true
}

const POINTERS = {
  text: 'text',
  reasoning: 'reasoning',
  error: 'error',
  prompt_tokens: 'promptTokens',
  completion_tokens: 'completionTokens',
} as const

function setDescription(description: Description, name: string, option: string, value: string): boolean {
  if (option === 'format') {
    if (value !== 'text' && value !== 'jsonl') throw wrong(`gives "${name}" format=${value}, which is neither text nor jsonl.`)
    description.format = value
    return true
  }
  const pointer = Object.hasOwn(POINTERS, option) ? POINTERS[option as keyof typeof POINTERS] : undefined
  if (pointer === undefined) return false
  if (!/^(\/[^/]*)+$/.test(value)) throw wrong(`gives "${name}" ${option}=${value}, which is not a JSON pointer such as /message/text.`)
  description[pointer] = value
  return true
}

function checkDescription(name: string, { command, description }: CliSpec): void {
  const { format, ...pointers } = description
  if (command.length === 0) throw wrong(`gives "${name}" the source cli:command without the option command=…, which names the program.`)
  if (format === 'jsonl' && pointers.text === undefined)
    throw wrong(`gives "${name}" format=jsonl without text=/json/pointer, which says where in a line the answer is.`)
  if (format === 'text' && Object.keys(pointers).length > 0) throw wrong(`gives "${name}" JSON pointers, which need format=jsonl.`)
}

/** A JSON list, or words with single spaces between them; no shell ever reads it. */
function commandOf(name: string, value: string): string[] {
  const words = value.startsWith('[') ? listOf(value) : value.split(' ').filter((word) => word !== '')
  if (words === undefined || words.length === 0 || words[0] === '')
    throw wrong(`gives "${name}" command=${value}, which is neither a JSON list of strings nor words (a space is written + or %20).`)
  return words
}

function listOf(json: string): string[] | undefined {
  try {
    const list = JSON.parse(json) as unknown
    return Array.isArray(list) && list.every((item): item is string => typeof item === 'string') ? list : undefined
  } catch {
    return undefined
  }
}

function absolute(name: string, option: string, value: string): string {
  if (!path.isAbsolute(value)) throw wrong(`gives "${name}" ${option}=${value}, which is not an absolute path.`)
  return value
}

function variables(name: string, option: string, value: string, most = 100): string[] {
  const names = value.split(',')
  if (names.length > most) throw wrong(`gives "${name}" ${option}=${value}, which names more than ${most}.`)
  for (const variable of names) {
    if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(variable))
      throw wrong(`gives "${name}" ${option}=${value}; "${variable}" is no name of a variable.`)
    if (/^HOLDFAST_/i.test(variable))
      throw wrong(`gives "${name}" ${option}=${value}; ${variable} is Holdfast's own and goes to no program.`)
    if (['HOME', 'TMPDIR'].includes(variable))
      throw wrong(`gives "${name}" ${option}=${value}; ${variable} is set for each job (HOME: option home=…).`)
  }
  return names
}

/** What begins with a dash would be taken for an option of the program. */
function notAnOption(name: string, option: string, value: string): string {
  if (value === '' || value.startsWith('-')) throw wrong(`gives "${name}" ${option}=${value}, which names no model.`)
  return value
}

function toolsOf(kind: CliKind, name: string, value: string): ToolWish {
  if (value === 'on' || value === 'off') return value
  const list = value.split(',')
  if (kind === 'claude' && list.every((tool) => /^[A-Za-z]\w*$/.test(tool))) return list
  throw wrong(`gives "${name}" tools=${value}; it must be on or off, and for cli:claude it may be a list such as Read,Grep.`)
}

function sources(kinds: readonly string[]): string {
  return kinds.map((kind) => `cli:${kind}`).join(', ')
}

export type OpenAiSpec = {
  baseUrl: string
  model?: string
  keyEnv?: string
  slots?: number
  contextTokens?: number
  having: Ability[]
  without: Ability[]
}

/** `openai:http://host:port/v1#upstream-model` */
export function parseOpenAiSpec(name: string, source: string, options: URLSearchParams): OpenAiSpec {
  const spec: OpenAiSpec = { ...parseUpstream(name, source), having: [], without: [] }
  for (const [option, value] of options) if (!setOpenAiOption(spec, name, option, value)) throw unknownOption(name, option, value)
  return spec
}

function parseUpstream(name: string, source: string): { baseUrl: string; model?: string } {
  const [address = '', ...rest] = source.slice('openai:'.length).split('#')
  const model = rest.join('#')
  const url = URL.canParse(address) ? new URL(address) : undefined
  if (url === undefined || !['http:', 'https:'].includes(url.protocol) || url.username !== '' || url.password !== '')
    throw wrong(
      `gives "${name}" the source "${source}", which is not openai:http://host:port/v1#upstream-model (a key goes into key_env=NAME).`,
    )
  return { baseUrl: address.replace(/\/+$/, ''), ...(model === '' ? {} : { model: decoded(name, source, model) }) }
}

function decoded(name: string, source: string, model: string): string {
  try {
    return decodeURIComponent(model)
  } catch {
    throw wrong(`gives "${name}" the source "${source}", in whose model a % begins no escape: a % itself is written %25.`)
  }
}

function setOpenAiOption(spec: OpenAiSpec, name: string, option: string, value: string): boolean {
  if (option === 'slots') spec.slots = whole(name, option, value, 1, 4_096)
  else if (option === 'context') spec.contextTokens = whole(name, option, value, 16, 10_000_000)
  else if (option === 'key_env') spec.keyEnv = variables(name, option, value, 1).join()
  else if (option === 'images') addIf(spec.having, 'images', name, option, value)
  else if (option === 'reasoning') {
    addIf(spec.having, 'reasoning_effort', name, option, value)
    // Said, and not only left out: it never thinks, and need not be told not to.
    if (value === 'false') spec.having.push('reasoning_none')
  } else if (option === 'embedding') addIf(spec.having, 'embeddings', name, option, value)
  else if (option === 'rerank') addIf(spec.having, 'rerank', name, option, value)
  else if (option === 'without') spec.without = abilities(name, option, value)
  else return false
  return true
}

function addIf(having: Ability[], ability: Ability, name: string, option: string, value: string): void {
  if (value === 'true') having.push(ability)
  else if (value !== 'false') throw wrong(`gives "${name}" ${option}=${value}, which is neither true nor false.`)
}

export function whole(name: string, option: string, value: string, least: number, most: number): number {
  const number = decimal(value)
  if (!Number.isInteger(number) || number < least || number > most || value.trim() === '')
    throw wrong(`gives "${name}" ${option}=${value}, which is not a whole number from ${least} to ${most}.`)
  return number
}

/** With a fraction to the millisecond. */
export function seconds(name: string, option: string, value: string): number {
  const number = decimal(value)
  if (!/^\d+(\.\d{1,3})?$/.test(value) || number < 0.1 || number > 86_400)
    throw wrong(`gives "${name}" ${option}=${value}, which is no number of seconds from 0.1 to 86400.`)
  return number
}

export function abilities(name: string, option: string, value: string): Ability[] {
  return value.split(',').map((word) => {
    const found = ABILITIES.find((ability) => ability === word)
    if (found === undefined) throw wrong(`gives "${name}" the option "${option}=${value}"; abilities are ${ABILITIES.join(', ')}.`)
    return found
  })
}

/** Of two values of one option neither is meant more than the other. */
export function once(name: string, options: URLSearchParams): URLSearchParams {
  for (const option of options.keys())
    if (options.getAll(option).length > 1) throw wrong(`gives "${name}" the option "${option}" more than once.`)
  return options
}

export function unknownOption(name: string, option: string, value: string): SettingError {
  return wrong(`gives "${name}" the option "${option}=${value}", which its kind of model does not have.`)
}

export function wrong(problem: string): SettingError {
  return new SettingError('HOLDFAST_MODELS', problem)
}
