import { readFileSync } from 'node:fs'
import { parse } from 'yaml'
import { type Row, type Show, showWorkers, table } from './client-output.ts'
import { Fault } from './core/fault.ts'

/** One way to use a command: what is typed behind its name, and the request that it stands for. */
export type Usage = {
  /** Words as they are typed; in angle brackets, what the caller puts there. */
  words: string
  /** Flags with what they take; null: nothing. */
  flags?: Partial<Record<Flag, string | null>>
  ask(named: string[], flags: Flags): Ask
  /** A thing as JSON unless told. */
  show?: Show
}

export type Ask = { method: 'GET' | 'POST' | 'PATCH' | 'DELETE'; target: string; body?: Row }
export type Flags = { [F in Flag]?: string | boolean }
export type Flag = (typeof FLAGS)[number]

export const FLAGS = [
  ...['status', 'model', 'severity', 'type', 'job', 'limit', 'cursor', 'name', 'team', 'weight', 'max-parallel'],
  ...['expires-at', 'user', 'worker', 'from'],
] as const

/** Wrong usage; the command line shows how it is meant, and ends with 2. */
export class UsageError extends Error {
  override readonly name = 'UsageError'
}

const PAGED = { limit: 'N', cursor: 'C' }

export const USAGES: Record<string, Usage[]> = {
  jobs: [
    list('jobs', table('id', 'status', 'model', 'worker', 'queue_ms', 'created_at'), { status: 'S', model: 'M', ...PAGED }),
    show('jobs', 'id'),
    { words: 'decision <id>', ask: ([id]) => get(`jobs/${id}/decision`) },
    act('jobs', 'cancel', 'id'),
    act('jobs', 'release', 'id'),
  ],
  batches: [
    list('batches', table('id', 'status', 'team', 'rows', 'counts', 'created_at')),
    show('batches', 'id'),
    act('batches', 'cancel', 'id'),
  ],
  teams: [
    list('teams', table('name', 'weight', 'max_parallel', 'signs_callbacks', 'created_at')),
    show('teams', 'name'),
    {
      words: 'create <name>',
      flags: { weight: 'W', 'max-parallel': 'N' },
      ask: ([name], flags) =>
        post('teams', { name, ...given({ weight: number(flags, 'weight'), max_parallel: number(flags, 'max-parallel') }) }),
    },
    archive('teams', 'name'),
    act('teams', 'rotate-secret', 'name', 'rotate_webhook_secret'),
  ],
  keys: [
    list('keys', table('id', 'name', 'kind', 'team', 'ends_with', 'created_at', 'revoked_at')),
    show('keys', 'id'),
    {
      words: 'create',
      flags: { name: 'N', team: 'T', user: 'EMAIL', worker: null, 'expires-at': 'TIME' },
      ask: (_, flags) => post('keys', newKey(flags)),
    },
    { words: 'change <id>', flags: { from: 'FILE' }, ask: ([id], flags) => patch(`keys/${id}`, definition(flags)) },
    act('keys', 'revoke', 'id'),
  ],
  providers: [
    ...defined('providers', 'name', table('name', 'tier', 'state', 'reason', 'until', 'busy', 'max_parallel')),
    act('providers', 'drain', 'name'),
    act('providers', 'activate', 'name'),
    act('providers', 'revoke', 'name'),
  ],
  policies: defined('policies', 'name', table('name', 'tiers', 'spend_micros_per_day', 'spent_micros_today')),
  users: defined('users', 'email', table('email', 'name', 'role', 'teams')),
  credentials: [
    list('credentials', table('name', 'version', 'created_at', 'rotated_at', 'revoked_at')),
    show('credentials', 'name'),
    {
      words: 'create',
      flags: { name: 'N', from: 'FILE' },
      ask: (_, flags) => post('credentials', { name: needed(flags, 'name'), secret: content(flags) }),
    },
    {
      words: 'rotate <name>',
      flags: { from: 'FILE' },
      ask: ([name], flags) => post(`credentials/${name}/rotate`, { secret: content(flags) }),
    },
    { words: 'rename <name>', flags: { name: 'N' }, ask: ([name], flags) => patch(`credentials/${name}`, { name: needed(flags, 'name') }) },
    act('credentials', 'revoke', 'name'),
    archive('credentials', 'name'),
    { words: 'rotate-master-key', ask: () => post('credentials/rotate_master_key', {}) },
  ],
  workers: [
    list('workers', showWorkers),
    { words: 'show <name>', ask: ([name]) => get(`workers/${name}`) },
    act('workers', 'drain', 'name'),
    act('workers', 'revoke', 'name'),
    archive('workers', 'name'),
    {
      words: 'invite',
      flags: { name: 'N', 'expires-at': 'TIME' },
      ask: (_, flags) => post('workers/invites', given({ name: flags.name, expires_at: flags['expires-at'] })),
    },
  ],
  models: [
    { words: '', ask: () => ({ method: 'GET', target: '/v1/models' }), show: table('id') },
    { words: 'show <name>', ask: ([name]) => get(`models/${name}`) },
  ],
  quotas: [list('quotas', table('kind', 'name', 'limit', 'allowed', 'used', 'remaining', 'resets_at'))],
  events: [list('events', table('at', 'severity', 'type', 'actor', 'job', 'worker'), { job: 'ID', type: 'T', severity: 'S', ...PAGED })],
  health: [{ words: '', ask: () => get('health') }],
}

/** The ways to use a command, a line each. */
export function usageOf(command: string): string {
  const lines = (USAGES[command] ?? []).map(({ words, flags = {} }) => {
    const options = Object.entries(flags).map(([flag, takes]) => `[--${flag}${takes === null ? '' : ` ${takes}`}]`)
    return ['  holdfast', command, words, ...options, '[--json]'].filter((part) => part !== '').join(' ')
  })
  return `Usage:\n${lines.join('\n')}`
}

function list(noun: string, shown: Show, flags: Usage['flags'] = PAGED): Usage {
  return { words: '', flags, ask: (_, given) => get(`${noun}${query(given)}`), show: shown }
}

function show(noun: string, name: string): Usage {
  return { words: `<${name}>`, ask: ([id]) => get(`${noun}/${id}`) }
}

function act(noun: string, verb: string, name: string, route = verb): Usage {
  return { words: `${verb} <${name}>`, ask: ([id]) => post(`${noun}/${id}/${route}`) }
}

function archive(noun: string, name: string): Usage {
  return { words: `archive <${name}>`, ask: ([id]) => ({ method: 'DELETE', target: `/api/${noun}/${id}` }) }
}

/** What is made from a file. */
function defined(noun: string, name: string, shown: Show): Usage[] {
  return [
    list(noun, shown),
    show(noun, name),
    { words: 'create', flags: { from: 'FILE' }, ask: (_, flags) => post(noun, definition(flags)) },
    archive(noun, name),
  ]
}

function get(path: string): Ask {
  return { method: 'GET', target: `/api/${path}` }
}

function post(path: string, body?: Row): Ask {
  return { method: 'POST', target: `/api/${path}`, ...(body === undefined ? {} : { body }) }
}

function patch(path: string, body: Row): Ask {
  return { method: 'PATCH', target: `/api/${path}`, body }
}

function query(flags: Flags): string {
  if (flags.limit !== undefined) number(flags, 'limit')
  const given = Object.entries(flags).map(([name, value]): [string, string] => [name, String(value)])
  return given.length === 0 ? '' : `?${new URLSearchParams(given).toString()}`
}

function newKey(flags: Flags): Row {
  const { name, team, user, worker } = flags
  const holders = [team, user, worker].filter((holder) => holder !== undefined)
  if (name === undefined || holders.length !== 1) throw new UsageError('keys create needs --name and one of --team, --user and --worker.')
  const holder = team !== undefined ? { kind: 'team', team } : user !== undefined ? { kind: 'personal', user } : { kind: 'worker' }
  return { name, ...holder, ...given({ expires_at: flags['expires-at'] }) }
}

function given(fields: Row): Row {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined))
}

function number(flags: Flags, flag: Flag): number | undefined {
  const value = flags[flag]
  if (value === undefined) return undefined
  const parsed = typeof value === 'string' && value.trim() !== '' ? Number(value) : Number.NaN
  if (Number.isNaN(parsed)) throw new UsageError(`--${flag} must be a number, not "${String(value)}".`)
  return parsed
}

function needed(flags: Flags, flag: Flag): string {
  const value = flags[flag]
  if (typeof value !== 'string') throw new UsageError(`--${flag} is missing.`)
  return value
}

/** A secret on a command line would stand in the list of processes and in the shell's history. */
function content(flags: Flags): string {
  if (flags.from === undefined) throw new UsageError('--from is missing: a file, or - for standard input.')
  const file = needed(flags, 'from')
  try {
    return readFileSync(file === '-' ? 0 : file, 'utf8').trim()
  } catch (cause) {
    throw new Fault('unreadable_file', `${file} cannot be read: ${cause instanceof Error ? cause.message : String(cause)}.`, { cause })
  }
}

function definition(flags: Flags): Row {
  const text = content(flags)
  const from = flags.from === '-' ? 'Standard input' : String(flags.from)
  let read: unknown
  try {
    read = jsonOf(text) ?? parse(text)
  } catch (cause) {
    throw new Fault(
      'invalid_yaml',
      `${from} is neither JSON nor YAML: ${cause instanceof Error ? (cause.message.split('\n')[0] ?? '') : ''}`,
      { cause },
    )
  }
  if (typeof read !== 'object' || read === null || Array.isArray(read))
    throw new Fault('invalid_yaml', `${from} holds no members (name: value), as a definition does.`)
  return read as Row
}

/** Undefined where it is none. */
function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    // Then it is YAML, or neither, which is told.
    return undefined
  }
}
