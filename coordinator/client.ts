import { existsSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { SettingError, Settings } from '../proto/settings.ts'
import { type Ask, FLAGS, type Flags, type Usage, UsageError, USAGES, usageOf } from './client-commands.ts'
import { showOne } from './client-output.ts'
import { Fault } from './core/fault.ts'

/** The commands that ask a running coordinator over its HTTP door. */
export async function runClient([command = '', ...rest]: string[], env: NodeJS.ProcessEnv): Promise<void> {
  const { request, show, json } = read(command, rest)
  const settings = new Settings(env)
  const door = { url: addressOf(settings), key: keyFrom(settings) }
  const answer = await ask(door, request)
  if (json) showOne(answer)
  else show(answer)
  if (command === 'health' && (answer as { ok?: boolean }).ok !== true) process.exitCode = 1
}

/** What was typed, as a request; a word or flag too many is a mistake, and may stand for something else than was meant. */
function read(command: string, args: string[]): { request: Ask; show: (answer: unknown) => void; json: boolean } {
  try {
    const { json, flags, words } = parse(args)
    const { usage, named } = find(command, words)
    const odd = Object.keys(flags).find((flag) => !Object.hasOwn(usage.flags ?? {}, flag))
    if (odd !== undefined) throw new UsageError(`${[command, usage.words].join(' ').trim()} takes no --${odd}.`)
    return { request: usage.ask(named.map(inPath), flags), show: usage.show ?? showOne, json }
  } catch (error) {
    if (error instanceof UsageError) error.message += `\n\n${usageOf(command)}`
    throw error
  }
}

/** Of a path, which these two would leave. */
function inPath(name: string): string {
  if (name === '.' || name === '..') throw new UsageError(`Nothing is named "${name}".`)
  return encodeURIComponent(name)
}

function parse(args: string[]): { json: boolean; flags: Flags; words: string[] } {
  const kinds = FLAGS.map((flag) => [flag, { type: flag === 'worker' ? 'boolean' : 'string' }] as const)
  const options = { ...Object.fromEntries(kinds), json: { type: 'boolean' } } as const
  try {
    const { values, positionals } = parseArgs({ args, allowPositionals: true, options })
    const { json = false, ...flags } = values as Flags & { json?: boolean }
    return { json, flags, words: positionals }
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error))
  }
}

/** The usage that the words fit. A word that some usage begins with is that usage's, and no name. */
function find(command: string, words: string[]): { usage: Usage; named: string[] } {
  const all = (USAGES[command] ?? []).map((usage) => ({ usage, tokens: usage.words.split(' ').filter((token) => token !== '') }))
  const begun = all.filter(({ tokens }) => tokens[0] !== undefined && tokens[0] === words[0])
  for (const { usage, tokens } of begun.length > 0 ? begun : all) {
    if (tokens.length !== words.length) continue
    if (tokens.every((token, index) => token.startsWith('<') || token === words[index]))
      return { usage, named: words.filter((_, index) => tokens[index]?.startsWith('<')) }
  }
  throw new UsageError(`There is no "${['holdfast', command, ...words].join(' ')}".`)
}

async function ask(door: { url: string; key: string }, { method, target, body }: Ask): Promise<unknown> {
  let response: Response
  try {
    const content = body === undefined ? {} : { body: JSON.stringify(body) }
    const type = body === undefined ? {} : { 'content-type': 'application/json' }
    response = await fetch(door.url + target, { method, headers: { authorization: `Bearer ${door.key}`, ...type }, ...content })
  } catch (cause) {
    throw new Fault('unreachable', `No coordinator answers at ${door.url}: start one, or set HOLDFAST_URL.`, { cause })
  }
  const answer = parsed(await response.text(), door.url, response.status)
  if (response.ok) return answer
  const error = (answer as { error?: { message?: string; code?: string } } | null)?.error
  throw new Fault(error?.code ?? 'refused', error?.message ?? `The coordinator answered ${response.status}.`)
}

function parsed(text: string, url: string, status: number): unknown {
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new Fault('no_coordinator', `What answers at ${url} with ${status} is no coordinator: set HOLDFAST_URL to one.`, { cause })
  }
}

function addressOf(settings: Settings): string {
  const url = settings.text('HOLDFAST_URL', 'http://127.0.0.1:8080')
  if (!/^https?:$/.test(URL.parse(url)?.protocol ?? ''))
    throw new SettingError('HOLDFAST_URL', `must be the address of a coordinator, such as http://127.0.0.1:8080, not "${url}".`)
  return url.replace(/\/$/, '')
}

function keyFrom(settings: Settings): string {
  const file = path.join(path.resolve(settings.text('HOLDFAST_DATA_DIR', '.holdfast')), 'admin.key')
  const key = settings.secret('HOLDFAST_ADMIN_KEY') ?? (existsSync(file) ? readFileSync(file, 'utf8').trim() : undefined)
  if (key === undefined)
    throw new Fault(
      'no_key',
      `No key: set HOLDFAST_ADMIN_KEY, or HOLDFAST_DATA_DIR to the folder that holds admin.key (looked in ${file}).`,
    )
  return key
}
