import { existsSync, readFileSync } from 'node:fs'
import { parse } from 'yaml'
import { SettingError } from '../proto/settings.ts'

/**
 * What HOLDFAST_DEFINITIONS names: a YAML or JSON file of credentials, policies, providers and aliases that are to be there.
 * At every start what is missing is made and what differs is changed, through the same doors that people use, so everything
 * is checked, and told in the ledger, alike. What the file does not name is left alone. Where one of them is refused, what was
 * made before it is archived and what was changed is changed back: the file is in force, or it is not.
 */
export async function applyDefinitions(file: string, env: NodeJS.ProcessEnv, ask: Ask): Promise<string[]> {
  const definitions = read(file)
  const secrets = list(definitions, 'credentials').map((credential, index) => readSecret(file, `credentials[${index}]`, credential, env))
  const work = new Work(file, ask)
  try {
    for (const { at, name, secret } of secrets) await work.make(at, '/api/credentials', name, { secret })
    for (const noun of ['policies', 'providers'] as const)
      for (const [index, { name, ...rest }] of list(definitions, noun).entries())
        if (!(await work.make(`${noun}[${index}]`, `/api/${noun}`, name, rest)))
          await work.change(`${noun}[${index}]`, `/api/${noun}`, name, rest)
    for (const [index, { name, target }] of list(definitions, 'aliases').entries()) await work.alias(`aliases[${index}]`, name, target)
    // Last, because what a secret was before is not known here.
    for (const { at, name, secret } of secrets)
      await work.asked(at, 'POST', `/api/credentials/${encodeURIComponent(String(name))}/rotate`, { secret, if_changed: true })
  } catch (error) {
    const left = await work.undo()
    if (left.length === 0) throw error
    throw wrong(
      file,
      `${error instanceof Error ? error.message : String(error)} What was done before could not be undone: ${left.join('; ')}.`,
    )
  }
  return work.done
}

type Ask = (method: 'GET' | 'POST' | 'PATCH' | 'PUT' | 'DELETE', path: string, body?: Item) => Promise<{ status: number; body: Item }>
type Item = Record<string, unknown>

const NOUNS = ['credentials', 'policies', 'providers', 'aliases']

/** What was done, and how it is undone. */
class Work {
  readonly done: string[] = []
  readonly #file: string
  readonly #ask: Ask
  readonly #undo: Parameters<Ask>[] = []

  constructor(file: string, ask: Ask) {
    this.#file = file
    this.#ask = ask
  }

  /** False where the name is taken. */
  async make(at: string, collection: string, name: unknown, fields: Item): Promise<boolean> {
    if (typeof name !== 'string' || name === '') throw wrong(this.#file, `${at} needs a name.`)
    this.done.push(`${collection.slice('/api/'.length)}/${name}`)
    const made = await this.#ask('POST', collection, { name, ...fields })
    if (made.status === 409) return false
    this.#taken(at, made)
    this.#undo.push(['DELETE', `${collection}/${encodeURIComponent(name)}`])
    return true
  }

  /** A provider's tier is said when it is made and never changed. */
  async change(at: string, collection: string, name: unknown, { tier: _tier, ...fields }: Item): Promise<void> {
    const path = `${collection}/${encodeURIComponent(String(name))}`
    const was = await this.asked(at, 'GET', path)
    await this.asked(at, 'PATCH', path, fields)
    this.#undo.push(['PATCH', path, Object.fromEntries(Object.keys(fields).map((field) => [field, was[field] ?? null]))])
  }

  async alias(at: string, name: unknown, target: unknown): Promise<void> {
    if (typeof name !== 'string') throw wrong(this.#file, `${at} must hold name and target.`)
    const path = `/api/models/aliases/${encodeURIComponent(name)}`
    const was = await this.#aliasNow(at, name)
    await this.asked(at, 'PUT', path, { target })
    this.#undo.push(was === undefined ? ['DELETE', path] : ['PUT', path, { target: was.target }])
    this.done.push(`aliases/${name}`)
  }

  async #aliasNow(at: string, name: string): Promise<Item | undefined> {
    let cursor = ''
    for (;;) {
      const page = await this.asked(at, 'GET', `/api/models/aliases?limit=200${cursor}`)
      const { data, next } = page as { data: Item[]; next: string | null }
      const found = data.find((alias) => alias.name === name)
      if (found !== undefined || next === null) return found
      cursor = `&cursor=${next}`
    }
  }

  async asked(at: string, ...asked: Parameters<Ask>): Promise<Item> {
    return this.#taken(at, await this.#ask(...asked))
  }

  #taken(at: string, { status, body }: Awaited<ReturnType<Ask>>): Item {
    if (status < 300) return body
    const error = body.error as { message?: string } | undefined
    throw wrong(this.#file, `${at}: ${error?.message ?? `it was refused with ${status}`}`)
  }

  /** Says what of it was refused. */
  async undo(): Promise<string[]> {
    const left: string[] = []
    for (const [method, path, body] of this.#undo.toReversed()) {
      const { status } = await this.#ask(method, path, body)
      if (status >= 300) left.push(`${method} ${path} was refused with ${status}`)
    }
    return left
  }
}

function readSecret(
  file: string,
  at: string,
  { name, secret_env: variable, ...rest }: Item,
  env: NodeJS.ProcessEnv,
): { at: string; name: unknown; secret: string } {
  if (typeof variable !== 'string' || Object.keys(rest).length > 0)
    throw wrong(file, `${at} must hold name and secret_env, the name of the environment variable that holds the secret.`)
  const secret = env[variable]
  if (secret === undefined || secret === '') throw wrong(file, `${at}: the environment variable ${variable} is not set.`)
  return { at, name, secret }
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
