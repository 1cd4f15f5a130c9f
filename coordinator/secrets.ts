import { hash, randomBytes } from 'node:crypto'
import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, readFileSync, writeSync } from 'node:fs'
import path from 'node:path'

/** The secret from the settings, else from its file, else a new one written there for its owner's eyes only. */
export function secretFrom(
  setting: string | undefined,
  dataDir: string,
  fileName: string,
  prefix: string,
): { value: string; file: string | null } {
  if (setting !== undefined) return { value: setting, file: null }
  const file = path.join(dataDir, fileName)
  if (!existsSync(file)) {
    mkdirSync(dataDir, { recursive: true, mode: 0o700 })
    const handle = openSync(file, 'wx', 0o600)
    writeSync(handle, `${prefix}${randomBytes(24).toString('base64url')}\n`)
    fsyncSync(handle)
    closeSync(handle)
  }
  return { value: readFileSync(file, 'utf8').trim(), file }
}

export function sha256(text: string): Buffer {
  return hash('sha256', text, 'buffer')
}
