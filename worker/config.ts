import os from 'node:os'
import path from 'node:path'
import { WORKER_NAME, WORKER_NAME_FORM } from '../proto/link.ts'
import { Settings, SettingError } from '../proto/settings.ts'
import { type ModelSpec, parseModels } from './models.ts'

export type WorkerConfig = {
  coordinators: string[]
  dataDir: string
  name: string
  token: string | undefined
  models: ModelSpec[]
  drainTimeoutMs: number
  logLevel: string
}

/** Parsed once; a malformed setting throws a SettingError that names it. */
export function readWorkerConfig(env: NodeJS.ProcessEnv): WorkerConfig {
  const settings = new Settings(env)
  return {
    coordinators: coordinators(settings.text('HOLDFAST_COORDINATOR', '127.0.0.1:8081')),
    dataDir: path.resolve(settings.text('HOLDFAST_DATA_DIR', '.holdfast')),
    name: nameOf(settings),
    token: settings.secret('HOLDFAST_WORKER_TOKEN'),
    models: parseModels(settings.text('HOLDFAST_MODELS', 'tiny=builtin:tiny')),
    drainTimeoutMs: settings.ms('HOLDFAST_DRAIN_TIMEOUT_S'),
    logLevel: settings.logLevel,
  }
}

function nameOf(settings: Settings): string {
  const name = settings.text('HOLDFAST_WORKER_NAME', os.hostname())
  if (!WORKER_NAME.test(name)) throw new SettingError('HOLDFAST_WORKER_NAME', `${WORKER_NAME_FORM} "${name.slice(0, 200)}" is not.`)
  return name
}

function isPort(text: string): boolean {
  return Number(text) >= 1 && Number(text) <= 65_535
}

function coordinators(value: string): string[] {
  const addresses = value.split(',').map((part) => part.trim())
  for (const address of addresses)
    if (!/^(\[[0-9a-fA-F:]+\]|[^\s:/]+):\d{1,5}$/.test(address) || !isPort(address.slice(address.lastIndexOf(':') + 1)))
      throw new SettingError('HOLDFAST_COORDINATOR', `must be host:port, several separated by commas; "${address}" is not.`)
  return [...new Set(addresses)]
}
