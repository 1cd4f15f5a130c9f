import path from 'node:path'
import { SettingError, Settings } from '../proto/settings.ts'
import { parseCidrs } from './engine/outbound.ts'

export type CoordinatorConfig = {
  host: string
  httpPort: number
  grpcPort: number
  dataDir: string
  databaseUrl: string | undefined
  adminKey: string | undefined
  workerToken: string | undefined
  masterKey: string | undefined
  redisUrl: string | undefined
  allowedCidrs: string[]
  /** A file of providers, policies, credentials and aliases. */
  definitions: string | undefined
  queueLimit: number
  heartbeatIntervalMs: number
  deadAfterMs: number
  firstTokenTimeoutMs: number
  nextTokenTimeoutMs: number
  drainTimeoutMs: number
  logLevel: string
}

/** Parsed once; a malformed setting throws a SettingError that names it. */
export function readCoordinatorConfig(env: NodeJS.ProcessEnv): CoordinatorConfig {
  const settings = new Settings(env)
  const heartbeatIntervalMs = settings.ms('HOLDFAST_HEARTBEAT_S')
  const deadAfterMs = settings.ms('HOLDFAST_DEAD_AFTER_S')
  // Every worker would be dead between two heartbeats.
  if (deadAfterMs <= heartbeatIntervalMs)
    throw new SettingError(
      'HOLDFAST_DEAD_AFTER_S',
      `must be longer than HOLDFAST_HEARTBEAT_S, and is ${deadAfterMs / 1000} against ${heartbeatIntervalMs / 1000} seconds.`,
    )
  const httpPort = settings.integer('HOLDFAST_HTTP_PORT')
  const grpcPort = settings.integer('HOLDFAST_GRPC_PORT')
  if (httpPort === grpcPort && httpPort !== 0)
    throw new SettingError('HOLDFAST_GRPC_PORT', `is ${grpcPort}, as HOLDFAST_HTTP_PORT is: each door needs a port of its own.`)
  return {
    host: settings.text('HOLDFAST_HOST', '127.0.0.1'),
    httpPort,
    grpcPort,
    dataDir: path.resolve(settings.text('HOLDFAST_DATA_DIR', '.holdfast')),
    databaseUrl: databaseUrl(settings),
    adminKey: settings.secret('HOLDFAST_ADMIN_KEY'),
    workerToken: settings.secret('HOLDFAST_WORKER_TOKEN'),
    masterKey: settings.secret('HOLDFAST_MASTER_KEY'),
    redisUrl: redisUrl(settings),
    allowedCidrs: cidrs(settings),
    definitions: settings.optional('HOLDFAST_DEFINITIONS'),
    queueLimit: settings.integer('HOLDFAST_QUEUE_LIMIT'),
    heartbeatIntervalMs,
    deadAfterMs,
    firstTokenTimeoutMs: settings.ms('HOLDFAST_FIRST_TOKEN_TIMEOUT_S'),
    nextTokenTimeoutMs: settings.ms('HOLDFAST_NEXT_TOKEN_TIMEOUT_S'),
    drainTimeoutMs: settings.ms('HOLDFAST_DRAIN_TIMEOUT_S'),
    logLevel: settings.logLevel,
  }
}

function databaseUrl(settings: Settings): string | undefined {
  const value = settings.optional('DATABASE_URL')
  // Not shown: it holds a password.
  if (value !== undefined && !/^postgres(ql)?:\/\//.test(value))
    throw new SettingError('DATABASE_URL', 'must be an address like postgres://user:password@host:5432/database.')
  return value
}

function redisUrl(settings: Settings): string | undefined {
  const value = settings.optional('REDIS_URL')
  // What it says may hold a password.
  if (value !== undefined && !/^rediss?:$/.test(URL.parse(value)?.protocol ?? ''))
    throw new SettingError('REDIS_URL', 'must be the URL of a Redis, such as redis://127.0.0.1:6379.')
  return value
}

function cidrs(settings: Settings): string[] {
  try {
    return parseCidrs(settings.text('HOLDFAST_ALLOW_PRIVATE_ADDRESSES', ''))
  } catch (error) {
    throw new SettingError('HOLDFAST_ALLOW_PRIVATE_ADDRESSES', `holds something else: ${(error as Error).message}`)
  }
}
