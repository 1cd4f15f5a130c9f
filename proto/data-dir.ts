import { accessSync, constants, existsSync, mkdirSync, statSync } from 'node:fs'
import path from 'node:path'
import { SettingError } from './settings.ts'

/** Makes it where it is missing; stops the start where nothing can be written. */
export function openDataDir(dir: string): void {
  makeDataDir(dir)
  try {
    accessSync(dir, constants.W_OK | constants.X_OK)
  } catch {
    throw new SettingError('HOLDFAST_DATA_DIR', `cannot be written to: ${dir} belongs to somebody else, or is read-only.`)
  }
}

/** Makes the folder, and what is missing above it: one after the other, because mkdir's own way never ends in /proc. */
function makeDataDir(dir: string): void {
  if (!existsSync(dir)) {
    makeDataDir(path.dirname(dir))
    try {
      mkdirSync(dir, { mode: 0o700 })
    } catch (cause) {
      if (!existsSync(dir)) throw new SettingError('HOLDFAST_DATA_DIR', `cannot be made (${(cause as Error).message}).`)
    }
  }
  if (!statSync(dir).isDirectory()) throw new SettingError('HOLDFAST_DATA_DIR', `cannot be made: ${dir} is no folder.`)
}
