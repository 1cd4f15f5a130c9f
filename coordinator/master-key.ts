import { existsSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { randomBytes } from 'node:crypto'
import path from 'node:path'
import { writeWhole } from '../proto/whole-file.ts'
import { secretFrom } from './secrets.ts'
import { anySealed, resealAll } from './store/credentials.ts'
import type { Db } from './store/db.ts'
import { Vault } from './vault.ts'

/**
 * The master key and its change. A new key lies beside the old one while every envelope is written anew in one transaction,
 * and takes the old one's place after that. Whatever dies in between, the next start sees in an envelope which of the two
 * is in force.
 */
export class MasterKey {
  readonly vault: Vault
  readonly #file: string | null

  private constructor(vault: Vault, file: string | null) {
    this.vault = vault
    this.#file = file
  }

  static async open(setting: string | undefined, dataDir: string, db: Db): Promise<MasterKey> {
    const file = path.join(dataDir, FILE)
    if (setting === undefined && existsSync(next(file))) await settle(file, db)
    const { value, file: kept } = secretFrom(setting, dataDir, FILE, PREFIX)
    return new MasterKey(new Vault(value), kept)
  }

  /** `key` is told only when a setting holds the old one: then a person has to put the new one there. */
  async rotate(db: Db, given: string | null): Promise<{ secrets: number; key: string | null }> {
    const key = given ?? `${PREFIX}${randomBytes(24).toString('base64url')}`
    if (this.#file !== null) writeWhole(next(this.#file), `${key}\n`, 0o600)
    const secrets = await resealAll(db, (sealed) => this.vault.reseal(sealed, key))
    if (this.#file !== null) renameSync(next(this.#file), this.#file)
    this.vault.adopt(key)
    return { secrets, key: this.#file === null ? key : null }
  }
}

const FILE = 'master.key'
const PREFIX = 'hf_master_'

function next(file: string): string {
  return `${file}.next`
}

/** A rotation was broken off: the key that the envelopes name is the one that counts. */
async function settle(file: string, db: Db): Promise<void> {
  const sealed = await anySealed(db)
  const isInForce = sealed !== undefined && Vault.isSealedBy(sealed, readFileSync(next(file), 'utf8').trim())
  if (isInForce) renameSync(next(file), file)
  else rmSync(next(file))
}
