import { randomUUID } from 'node:crypto'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { validate as isUuid } from 'uuid'
import { openDataDir } from '../proto/data-dir.ts'
import { SettingError } from '../proto/settings.ts'
import { writeWhole } from '../proto/whole-file.ts'

/**
 * Who this worker is: a UUID in its data directory, so that it is recognised after a restart, under any name and
 * address. Two processes with one identity would push each other out for ever, so the second one is refused.
 */
export function claimIdentity(dataDir: string): string {
  openDataDir(dataDir)
  const lock = path.join(dataDir, 'worker.pid')
  const holder = existsSync(lock) ? Number(readFileSync(lock, 'utf8')) : Number.NaN
  if (Number.isInteger(holder) && holder !== process.pid && isWorker(holder))
    throw new SettingError('HOLDFAST_DATA_DIR', `must be a folder of its own: another worker (process ${holder}) runs on ${dataDir}.`)
  writeFileSync(lock, String(process.pid))
  const file = path.join(dataDir, 'worker.id')
  if (!existsSync(file)) writeWhole(file, randomUUID(), 0o600)
  const id = readFileSync(file, 'utf8').trim()
  if (!isUuid(id)) throw new SettingError(file, 'is damaged: restore it, or delete it and this worker joins as a new one.')
  return id
}

/** True when the process lives and is a worker; the number may have been given to a stranger since. */
function isWorker(pid: number): boolean {
  try {
    const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')
    const state = /^State:\s+(\w)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]
    return state !== 'Z' && command.some((part) => part.endsWith('coordinator/cli.ts')) && command.includes('worker')
  } catch {
    // No such process, or a system without /proc, where the identity file alone has to do.
    return false
  }
}
