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
  const [holder = Number.NaN, begun] = existsSync(lock) ? readFileSync(lock, 'utf8').split(' ').map(Number) : []
  if (Number.isInteger(holder) && holder !== process.pid && isWorker(holder, begun))
    throw new SettingError('HOLDFAST_DATA_DIR', `must be a folder of its own: another worker (process ${holder}) runs on ${dataDir}.`)
  writeFileSync(lock, `${process.pid} ${begunAt(process.pid) ?? ''}`.trim())
  const file = path.join(dataDir, 'worker.id')
  if (!existsSync(file)) writeWhole(file, randomUUID(), 0o600)
  const id = readFileSync(file, 'utf8').trim()
  if (!isUuid(id)) throw new SettingError(file, 'is damaged: restore it, or delete it and this worker joins as a new one.')
  return id
}

/** In ticks since the host's start, where there is /proc: the number of a process may be another's by now, even another worker's. */
function begunAt(pid: number): number | undefined {
  try {
    // Its name, in brackets, may hold anything.
    const [, rest = ''] = /^.*\) (.*)$/s.exec(readFileSync(`/proc/${pid}/stat`, 'utf8')) ?? []
    return Number(rest.split(' ')[19])
  } catch {
    return undefined
  }
}

/** True when the process that began then lives and is a worker. */
function isWorker(pid: number, begun: number | undefined): boolean {
  if (begun !== undefined && begun !== begunAt(pid)) return false
  try {
    const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')
    const state = /^State:\s+(\w)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]
    return state !== 'Z' && command.some((part) => part.endsWith('coordinator/cli.ts')) && command.includes('worker')
  } catch {
    // No such process, or a system without /proc, where the identity file alone has to do.
    return false
  }
}
