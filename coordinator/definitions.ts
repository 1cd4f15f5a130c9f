import { existsSync, readFileSync } from 'node:fs'
import { parse } from 'yaml'
import { SettingError } from '../proto/settings.ts'

/**
 * What HOLDFAST_DEFINITIONS names: a YAML or JSON file of credentials, policies, providers and aliases that are to be there.
 * At every start what is missing is made and what differs is changed, through the same doors that people use, so everything
 * is checked, and told in the ledger, alike. What the file does not name is left alone.
 */
export async function applyDefinitions(file: string, env: NodeJS.ProcessEnv, ask: Ask): Promise<string[]> {
  const definitions = read(file)
  const done: string[] = []
  for (const [index, { name, secret_env: variable, ...rest }] of list(definitions, 'credentials').entries()) {
    const at = `credentials[${index}]`
    if (typeof variable !== 'string' || Object.keys(rest).length > 0)
      throw wrong(file, `${at} must hold name and secret_env, the name of the environment variable that holds the secret.`)
    const secret = env[variable]
    if (secret === undefined || secret === '') throw wrong(file, `${at}: the environment variable ${variable} is not set.`)
    done.push(await put(file, at, ask, '/api/credentials', name, { secret }, (path) => ['POST', `${path}/rotate`], { if_changed: true }))
  }
  for (const noun of ['policies', 'providers'] as const)
    for (const [index, { name, ...rest }] of list(definitions, noun).entries())
      done.push(await put(file, `${noun}[${index}]`, ask, `/api/${noun}`, name, rest, (path) => ['PATCH', path]))
  for (const [index, { name, target }] of list(definitions, 'aliases').entries()) {
    const at = `aliases[${index}]`
    if (typeof name !== 'string') throw wrong(file, `${at} must hold name and target.`)
    await answered(file, at, ask('PUT', `/api/models/aliases/${encodeURIComponent(name)}`, { target }))
    done.push(`aliases/${name}`)
  }
  return done
}

type Ask = (method: 'POST' | 'PATCH' | 'PUT', path: string, body: Item) => Promise<{ status: number; body: Item }>
type Item = Record<string, unknown>

const NOUNS = ['credentials', 'policies', 'providers', 'aliases']

/** Makes it, or changes what has the name. A provider's tier is said when it is made and never changed. */
async function put(
  file: string,
  at: string,
  ask: Ask,
  collection: string,
  name: unknown,
  fields: Item,
  change: (path: string) => ['POST' | 'PATCH', string],
  also: Item = {},
): Promise<string> {
  if (typeof name !== 'string' || name === '') throw wrong(file, `${at} needs a name.`)
  const made = await ask('POST', collection, { name, ...fields })
  if (made.status !== 409) await answered(file, at, Promise.resolve(made))
  else {
    const { tier: _tier, ...changing } = fields
    const [method, path] = change(`${collection}/${encodeURIComponent(name)}`)
    await answered(file, at, ask(method, path, { ...changing, ...also }))
  }
  return `${collection.slice('/api/'.length)}/${name}`
}

async function answered(file: string, at: string, asked: ReturnType<Ask>): Promise<void> {
  const { status, body } = await asked
  if (status < 300) return
  const error = body.error as { message?: string } | undefined
  throw wrong(file, `${at}: ${error?.message ?? `it was refused with ${status}`}`)
}

function read(file: string): Item {
  if (!existsSync(file)) throw wrong(file, 'does not exist.')
  let value: unknown
  try {
    value = parse(readFileSync(file, 'utf8'), { maxAliasCount: 100 })
  } catch (cause) {
    throw wrong(file, `is neither YAML nor JSON: ${cause instanceof Error ? cause.message : String(cause)}`)
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw wrong(file, `must be an object with ${NOUNS.join(', ')}.`)
  const odd = Object.keys(value).find((name) => !NOUNS.includes(name))
  if (odd !== undefined) throw wrong(file, `holds "${odd.slice(0, 100)}"; it may hold ${NOUNS.join(', ')}.`)
  return value as Item
}

function list(definitions: Item, noun: string): Item[] {
  const items = definitions[noun] ?? []
  if (!Array.isArray(items) || items.some((item) => typeof item !== 'object' || item === null || Array.isArray(item)))
    throw new SettingError('HOLDFAST_DEFINITIONS', `names a file in which ${noun} is not a list of objects.`)
  return items as Item[]
}

function wrong(file: string, problem: string): SettingError {
  return new SettingError('HOLDFAST_DEFINITIONS', `names ${file}: ${problem}`)
}
