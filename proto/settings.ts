import { readFileSync } from 'node:fs'

/**
 * Settings are environment variables, parsed once. Coordinator and worker each read their own, but either may find the
 * other's in its environment, so what counts as unknown is decided here for both.
 */
export class Settings {
  readonly #env: NodeJS.ProcessEnv

  constructor(env: NodeJS.ProcessEnv) {
    this.#env = env
    for (const [name, value = ''] of Object.entries(env))
      if (isOfKubernetes(name, value)) throw new SettingError(name, OF_KUBERNETES)
      else if (name.startsWith('HOLDFAST_') && !KNOWN.has(name)) throw new SettingError(name, `is not a setting.${didYouMean(name)}`)
    // Also those that only another command reads: what is malformed there is malformed here.
    for (const name of Object.keys(NUMBERS) as (keyof typeof NUMBERS)[]) this.integer(name)
    for (const name of Object.keys(SECONDS) as (keyof typeof SECONDS)[]) this.ms(name)
    levelOf(this.optional(LOG_LEVEL))
  }

  text(name: SettingName, fallback: string): string {
    return this.optional(name) ?? fallback
  }

  optional(name: SettingName): string | undefined {
    const value = this.#env[name]?.trim()
    return value === undefined || value === '' ? undefined : value
  }

  /** A whole number within its bounds. */
  integer(name: keyof typeof NUMBERS): number {
    return numberOf(name, this.optional(name))
  }

  /** Seconds, fractions allowed; answered in milliseconds. */
  ms(name: keyof typeof SECONDS): number {
    return Math.round(secondsOf(name, this.optional(name)) * 1000)
  }

  get logLevel(): string {
    return levelOf(this.optional(LOG_LEVEL))
  }

  /** A key or token: long enough not to be guessed, and fit for a header. */
  secret(name: SettingName): string | undefined {
    const value = this.optional(name)
    if (value === undefined) return undefined
    if (!isSecret(value)) throw new SettingError(name, 'must be at least 16 characters, printable and without spaces.')
    return value
  }
}

type Bounds = { fallback: number; least: number; most: number }

const NUMBERS = {
  HOLDFAST_HTTP_PORT: { fallback: 8080, least: 0, most: 65_535 },
  HOLDFAST_GRPC_PORT: { fallback: 8081, least: 0, most: 65_535 },
  HOLDFAST_QUEUE_LIMIT: { fallback: 1_000_000, least: 1, most: 10_000_000 },
} satisfies Partial<Record<SettingName, Bounds>>

const SECONDS = {
  HOLDFAST_HEARTBEAT_S: { fallback: 5, least: 0.1, most: 3_600 },
  HOLDFAST_DEAD_AFTER_S: { fallback: 15, least: 0.3, most: 36_000 },
  HOLDFAST_FIRST_TOKEN_TIMEOUT_S: { fallback: 300, least: 0.1, most: 86_400 },
  HOLDFAST_NEXT_TOKEN_TIMEOUT_S: { fallback: 60, least: 0.1, most: 86_400 },
  HOLDFAST_DRAIN_TIMEOUT_S: { fallback: 15, least: 0, most: 86_400 },
} satisfies Partial<Record<SettingName, Bounds>>

const LOG_LEVEL = 'HOLDFAST_LOG_LEVEL'
const LOG_LEVELS = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent']

function numberOf(name: keyof typeof NUMBERS, value: string | undefined): number {
  const { fallback, least, most } = NUMBERS[name]
  if (value === undefined) return fallback
  const number = decimal(value)
  if (Number.isInteger(number) && number >= least && number <= most) return number
  throw new SettingError(name, `must be a whole number from ${least} to ${most}, not "${value}".`)
}

function secondsOf(name: keyof typeof SECONDS, value: string | undefined): number {
  const { fallback, least, most } = SECONDS[name]
  if (value === undefined) return fallback
  const number = decimal(value)
  if (number >= least && number <= most) return number
  throw new SettingError(name, `must be seconds from ${least} to ${most}, not "${value}".`)
}

function levelOf(value = 'info'): string {
  if (LOG_LEVELS.includes(value)) return value
  throw new SettingError(LOG_LEVEL, `must be one of ${LOG_LEVELS.join(', ')}, not "${value}".`)
}

/** A number as people write it, and nothing that only programs would take for one; NaN for anything else. */
export function decimal(text: string): number {
  return /^-?\d+(\.\d+)?$/.test(text.trim()) ? Number(text) : Number.NaN
}

/** What a file of one key or token holds. An empty one would let in whoever sends nothing. */
export function secretIn(file: string): string {
  const value = readFileSync(file, 'utf8').trim()
  if (!isSecret(value)) throw new SettingError(file, 'is damaged: restore it, or delete it and the next start makes a new one.')
  return value
}

function isSecret(value: string): boolean {
  return value.length >= 16 && /^[\x21-\x7e]+$/.test(value)
}

/** Stops the start; its message names the setting. */
export class SettingError extends Error {
  constructor(name: string, problem: string) {
    super(`${name} ${problem}`)
    this.name = 'SettingError'
  }
}

export type SettingName = (typeof NAMES)[number]

const NAMES = [
  'DATABASE_URL',
  'REDIS_URL',
  'HOLDFAST_ADMIN_KEY',
  'HOLDFAST_ALLOW_PRIVATE_ADDRESSES',
  'HOLDFAST_COORDINATOR',
  'HOLDFAST_DATA_DIR',
  'HOLDFAST_DEAD_AFTER_S',
  'HOLDFAST_DRAIN_TIMEOUT_S',
  'HOLDFAST_FIRST_TOKEN_TIMEOUT_S',
  'HOLDFAST_GRPC_PORT',
  'HOLDFAST_HEARTBEAT_S',
  'HOLDFAST_HOST',
  'HOLDFAST_HTTP_PORT',
  'HOLDFAST_LOG_LEVEL',
  'HOLDFAST_DEFINITIONS',
  'HOLDFAST_MASTER_KEY',
  'HOLDFAST_MODELS',
  'HOLDFAST_NEXT_TOKEN_TIMEOUT_S',
  'HOLDFAST_QUEUE_LIMIT',
  'HOLDFAST_URL',
  'HOLDFAST_WORKER_NAME',
  'HOLDFAST_WORKER_TOKEN',
] as const

// Read by the project's own tests and benches, never by the product.
const FOR_TESTS = [
  'HOLDFAST_TEST_MODEL',
  'HOLDFAST_TEST_SEED',
  'HOLDFAST_TEST_DATABASE_URL',
  'HOLDFAST_TEST_REDIS_URL',
  'HOLDFAST_TEST_TEMPLATE',
  'HOLDFAST_BENCH_CASES',
  'HOLDFAST_BENCH_LLAMA_SERVER',
  'HOLDFAST_BENCH_PROFILE',
]

const KNOWN = new Set<string>([...NAMES, ...FOR_TESTS])

/**
 * Kubernetes tells every pod of every Service in its namespace by variables: of one called holdfast-http as HOLDFAST_HTTP_SERVICE_HOST
 * and HOLDFAST_HTTP_PORT=tcp://10.0.0.7:80, which would even take a setting's place.
 */
function isOfKubernetes(name: string, value: string): boolean {
  return OF_A_SERVICE.test(name) || (/^HOLDFAST_\w*PORT$/.test(name) && /^(tcp|udp|sctp):\/\//.test(value))
}

const OF_A_SERVICE = /^HOLDFAST_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)$/
const OF_KUBERNETES =
  'is no setting: Kubernetes made it from a Service of that name. Set `enableServiceLinks: false` in the spec of the pod.'

function didYouMean(name: string): string {
  const words = name.split('_')
  const near = NAMES.filter((known) => known.startsWith('HOLDFAST_') && known.split('_').filter((word) => words.includes(word)).length >= 2)
  return near.length > 0 && near.length < 6 ? ` Did you mean ${near.join(' or ')}?` : ` Known: ${NAMES.join(', ')}.`
}
