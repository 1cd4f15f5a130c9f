import { hash, randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import path from 'node:path'
import { secretIn } from '../proto/settings.ts'
import { writeWhole } from '../proto/whole-file.ts'

/** The secret from the settings, else from its file, else a new one written there for its owner's eyes only. A damaged file throws SettingError. */
export function secretFrom(
  setting: string | undefined,
  dataDir: string,
  fileName: string,
  prefix: string,
): { value: string; file: string | null } {
  if (setting !== undefined) return { value: setting, file: null }
  const file = path.join(dataDir, fileName)
  if (!existsSync(file)) writeWhole(file, `${prefix}${randomBytes(24).toString('base64url')}\n`, 0o600)
  return { value: secretIn(file), file }
}

export function sha256(text: string): Buffer {
  return hash('sha256', text, 'buffer')
}
