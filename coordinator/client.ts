import { existsSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { Settings } from '../proto/settings.ts'
import { Fault } from './core/fault.ts'

/** The commands that ask a running coordinator over its HTTP door. */
export async function runClient(args: string[], env: NodeJS.ProcessEnv): Promise<void> {
  const [command = '', ...rest] = args
  const { values, positionals } = parse(rest)
  const settings = new Settings(env)
  const door = { url: settings.text('HOLDFAST_URL', 'http://127.0.0.1:8080').replace(/\/$/, ''), key: keyFrom(settings) }
  const { method, target, body, show } = plan(command, positionals, values)
  const answer = await ask(door, method, target, body)
  if (values.json) console.log(JSON.stringify(answer, null, 2))
  else show(answer)
  if (command === 'health' && (answer as { ok?: boolean }).ok !== true) process.exitCode = 1
}

type Row = Record<string, unknown>
type Plan = { method: 'GET' | 'POST' | 'DELETE'; target: string; body?: Row; show: (answer: unknown) => void }
type Options = ReturnType<typeof parse>['values']

function parse(args: string[]) {
  try {
    return parseArgs({
      args,
      allowPositionals: true,
      options: {
        json: { type: 'boolean', default: false },
        status: { type: 'string' },
        model: { type: 'string' },
        severity: { type: 'string' },
        type: { type: 'string' },
        job: { type: 'string' },
        limit: { type: 'string' },
        cursor: { type: 'string' },
        name: { type: 'string' },
        team: { type: 'string' },
        weight: { type: 'string' },
        'max-parallel': { type: 'string' },
        'expires-at': { type: 'string' },
        user: { type: 'string' },
        worker: { type: 'boolean', default: false },
        from: { type: 'string' },
      },
    })
  } catch (error) {
    throw usageError(error instanceof Error ? error.message : String(error))
  }
}

function plan(command: string, positionals: string[], values: Options): Plan {
  const query = (...names: ('status' | 'model' | 'severity' | 'type' | 'job' | 'limit' | 'cursor')[]): string => {
    const given = names.filter((name) => values[name] !== undefined).map((name): [string, string] => [name, values[name] ?? ''])
    return given.length === 0 ? '' : `?${new URLSearchParams(given).toString()}`
  }
  const [first, second] = positionals
  if (command === 'jobs' && (first === 'cancel' || first === 'release')) {
    if (second === undefined) throw usageError(`jobs ${first} needs the id of a job.`)
    return { method: 'POST', target: `/api/jobs/${encodeURIComponent(second)}/${first}`, show: showOne }
  }
  if (command === 'jobs' && first === 'decision')
    return { method: 'GET', target: `/api/jobs/${named(second, 'jobs decision')}/decision`, show: showOne }
  if (command === 'jobs' && first !== undefined) return { method: 'GET', target: `/api/jobs/${encodeURIComponent(first)}`, show: showOne }
  if (command === 'jobs')
    return {
      method: 'GET',
      target: `/api/jobs${query('status', 'model', 'limit', 'cursor')}`,
      show: table('id', 'status', 'model', 'worker', 'queue_ms', 'created_at'),
    }
  if (command === 'events')
    return {
      method: 'GET',
      target: `/api/events${query('severity', 'type', 'job', 'limit', 'cursor')}`,
      show: table('at', 'severity', 'type', 'actor', 'job', 'worker'),
    }
  if (command === 'keys') return planKeys(positionals, values, query('limit', 'cursor'))
  if (command === 'teams') return planTeams(positionals, values, query('limit', 'cursor'))
  if (command === 'batches') return planBatches(positionals, query('limit', 'cursor'))
  if (command === 'credentials') return planCredentials(positionals, values, query('limit', 'cursor'))
  const columns = Object.hasOwn(DEFINED, command) ? DEFINED[command] : undefined
  if (columns !== undefined) return planDefined(command, columns, positionals, values)
  if (command === 'workers') return { method: 'GET', target: '/api/workers', show: showWorkers }
  if (command === 'models') return { method: 'GET', target: '/v1/models', show: table('id') }
  return { method: 'GET', target: '/api/health', show: showOne }
}

function planKeys([verb, id]: string[], values: Options, page: string): Plan {
  if (verb === 'create') {
    const holders = [values.team, values.user, values.worker ? 'worker' : undefined].filter((holder) => holder !== undefined)
    if (values.name === undefined || holders.length !== 1)
      throw usageError('keys create needs --name and one of --team, --user and --worker.')
    const body = {
      name: values.name,
      ...(values.team !== undefined
        ? { kind: 'team', team: values.team }
        : values.user !== undefined
          ? { kind: 'personal', user: values.user }
          : { kind: 'worker' }),
      ...(values['expires-at'] === undefined ? {} : { expires_at: values['expires-at'] }),
    }
    return { method: 'POST', target: '/api/keys', body, show: showOne }
  }
  if (verb === 'revoke') return { method: 'POST', target: `/api/keys/${named(id, 'keys revoke')}/revoke`, show: showOne }
  if (verb !== undefined) return { method: 'GET', target: `/api/keys/${encodeURIComponent(verb)}`, show: showOne }
  return { method: 'GET', target: `/api/keys${page}`, show: table('id', 'name', 'kind', 'team', 'ends_with', 'created_at', 'revoked_at') }
}

/** What is made from a file, with the columns of its list. */
const DEFINED: Record<string, string[]> = {
  providers: ['name', 'tier', 'state', 'reason', 'until', 'busy', 'max_parallel'],
  policies: ['name', 'tiers', 'spend_micros_per_day', 'spent_micros_today'],
  users: ['email', 'name', 'role', 'teams'],
}

function planDefined(noun: string, columns: string[], [verb, name]: string[], values: Options): Plan {
  const target = `/api/${noun}`
  if (verb === 'create') return { method: 'POST', target, body: definitionFrom(values.from, `${noun} create`), show: showOne }
  if (verb === 'archive') return { method: 'DELETE', target: `${target}/${named(name, `${noun} archive`)}`, show: showOne }
  if (verb !== undefined) return { method: 'GET', target: `${target}/${encodeURIComponent(verb)}`, show: showOne }
  return { method: 'GET', target, show: table(...columns) }
}

function planCredentials([verb, name]: string[], values: Options, page: string): Plan {
  const target = '/api/credentials'
  if (verb === 'rotate-master-key') return { method: 'POST', target: `${target}/rotate_master_key`, body: {}, show: showOne }
  if (verb === 'create') {
    if (values.name === undefined) throw usageError('credentials create needs --name.')
    return { method: 'POST', target, body: { name: values.name, secret: textFrom(values.from, 'credentials create') }, show: showOne }
  }
  if (verb === 'rotate') {
    const body = { secret: textFrom(values.from, 'credentials rotate') }
    return { method: 'POST', target: `${target}/${named(name, 'credentials rotate')}/rotate`, body, show: showOne }
  }
  if (verb === 'revoke') return { method: 'POST', target: `${target}/${named(name, 'credentials revoke')}/revoke`, show: showOne }
  if (verb !== undefined) return { method: 'GET', target: `${target}/${encodeURIComponent(verb)}`, show: showOne }
  return { method: 'GET', target: `${target}${page}`, show: table('name', 'version', 'created_at', 'rotated_at', 'revoked_at') }
}

/** A secret on a command line would stand in the list of processes and in the shell's history. */
function textFrom(file: string | undefined, what: string): string {
  if (file === undefined) throw usageError(`${what} needs --from with a file, or - for standard input.`)
  try {
    return readFileSync(file === '-' ? 0 : file, 'utf8').trim()
  } catch (cause) {
    throw new Fault('unreadable_file', `${file} cannot be read: ${cause instanceof Error ? cause.message : String(cause)}.`, { cause })
  }
}

function definitionFrom(file: string | undefined, what: string): Row {
  const content = textFrom(file, what)
  try {
    return JSON.parse(content) as Row
  } catch (cause) {
    throw new Fault('invalid_json', `${file === '-' ? 'Standard input' : file} is not valid JSON.`, { cause })
  }
}

function planTeams([verb, name]: string[], values: Options, page: string): Plan {
  if (verb === 'create') {
    if (name === undefined) throw usageError('teams create needs a name.')
    const body: Row = { name }
    if (values.weight !== undefined) body.weight = Number(values.weight)
    if (values['max-parallel'] !== undefined) body.max_parallel = Number(values['max-parallel'])
    return { method: 'POST', target: '/api/teams', body, show: showOne }
  }
  if (verb === 'archive') return { method: 'DELETE', target: `/api/teams/${named(name, 'teams archive')}`, show: showOne }
  if (verb === 'rotate-secret')
    return { method: 'POST', target: `/api/teams/${named(name, 'teams rotate-secret')}/rotate_webhook_secret`, show: showOne }
  if (verb !== undefined) return { method: 'GET', target: `/api/teams/${encodeURIComponent(verb)}`, show: showOne }
  return { method: 'GET', target: `/api/teams${page}`, show: table('name', 'weight', 'max_parallel', 'signs_callbacks', 'created_at') }
}

function planBatches([verb, id]: string[], page: string): Plan {
  if (verb === 'cancel') return { method: 'POST', target: `/api/batches/${named(id, 'batches cancel')}/cancel`, show: showOne }
  if (verb !== undefined) return { method: 'GET', target: `/api/batches/${encodeURIComponent(verb)}`, show: showOne }
  return { method: 'GET', target: `/api/batches${page}`, show: table('id', 'status', 'team', 'rows', 'counts', 'created_at') }
}

function named(id: string | undefined, what: string): string {
  if (id === undefined) throw usageError(`${what} needs an id or a name.`)
  return encodeURIComponent(id)
}

async function ask(door: { url: string; key: string }, method: string, target: string, body: Row | undefined): Promise<unknown> {
  let response: Response
  try {
    const content = body === undefined ? {} : { body: JSON.stringify(body) }
    const type = body === undefined ? {} : { 'content-type': 'application/json' }
    response = await fetch(door.url + target, { method, headers: { authorization: `Bearer ${door.key}`, ...type }, ...content })
  } catch (cause) {
    throw new Fault('unreachable', `No coordinator answers at ${door.url}: start one, or set HOLDFAST_URL.`, { cause })
  }
  const text = await response.text()
  if (response.ok) return JSON.parse(text)
  const error = (JSON.parse(text) as { error?: { message?: string; code?: string } }).error
  throw new Fault(error?.code ?? 'refused', error?.message ?? `The coordinator answered ${response.status}.`)
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

function table(...columns: string[]): (answer: unknown) => void {
  return (answer) => {
    const { data = [], next } = answer as { data?: Row[]; next?: string | null }
    const rows = [columns, ...data.map((row) => columns.map((column) => cell(row[column])))]
    const widths = columns.map((_, index) => Math.max(...rows.map((row) => row[index]?.length ?? 0)))
    for (const row of rows)
      console.log(
        row
          .map((cell, index) => cell.padEnd(widths[index] ?? 0))
          .join('  ')
          .trimEnd(),
      )
    if (next) console.log(`More: --cursor ${next}`)
  }
}

function cell(value: unknown): string {
  if (value === null || value === undefined) return '-'
  return typeof value === 'string' ? value : JSON.stringify(value)
}

function showWorkers(answer: unknown): void {
  const { data = [] } = answer as { data?: Row[] }
  const models = (row: Row): string =>
    (row.models as Row[])
      .map((model) => `${String(model.name)} ${String(model.state)} ${String(model.busy)}/${String(model.slots)}`)
      .join(', ')
  table('name', 'state', 'last_heartbeat_at', 'models')({ data: data.map((row) => ({ ...row, models: models(row) })) })
}

function showOne(answer: unknown): void {
  console.log(JSON.stringify(answer, null, 2))
}

function usageError(message: string): Error {
  const error = new Error(message)
  error.name = 'UsageError'
  return error
}
