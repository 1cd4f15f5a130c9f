import { existsSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { randomBytes } from 'node:crypto'
import path from 'node:path'
import { writeWhole } from '../proto/whole-file.ts'
import { secretFrom } from './secrets.ts'
import { Fault } from './core/fault.ts'
import { anySealed, marksOfEnvelopes, resealAll } from './store/credentials.ts'
import type { Db, Query } from './store/db.ts'
import { MARK_BYTES, Vault } from './vault.ts'

/**
 * The master key and its change. A new key lies beside the old one while every envelope is written anew in one transaction,
 * and takes the old one's place after that. Whatever dies in between, the next start sees in an envelope which of the two
 * is in force. Where a setting holds the old one, the new one stays there until a start is given it.
 */
export class MasterKey {
  readonly vault: Vault
  /** What a person has to set, and has not. */
  readonly warning: string | null
  readonly #file: string
  readonly #isSetting: boolean
  /** No envelope was of this key when it was given: it replaces one that was lost. */
  readonly #isNew: boolean
  readonly #othersAtWork: (query: Query) => Promise<boolean>
  #turn: Promise<unknown> = Promise.resolve()

  private constructor(
    key: string,
    facts: { othersAtWork: (query: Query) => Promise<boolean>; file: string; isSetting: boolean; isNew: boolean; warning: string | null },
  ) {
    this.vault = new Vault(key)
    this.warning = facts.warning
    this.#file = facts.file
    this.#isSetting = facts.isSetting
    this.#isNew = facts.isNew
    this.#othersAtWork = facts.othersAtWork
  }

  static async open(
    setting: string | undefined,
    dataDir: string,
    db: Db,
    othersAtWork: (query: Query) => Promise<boolean>,
  ): Promise<MasterKey> {
    const file = path.join(dataDir, FILE)
    const sealed = await anySealed(db)
    const inForce = existsSync(next(file)) ? keyInForce(next(file), sealed) : undefined
    const isSetting = setting !== undefined
    // A rotation was broken off before it changed anything, or its key has arrived.
    if (existsSync(next(file)) && (inForce === undefined || inForce === setting)) rmSync(next(file))
    if (inForce !== undefined && !isSetting) {
      writeWhole(next(file), `${inForce}\n`, 0o600)
      renameSync(next(file), file)
    }
    const value = isSetting ? (inForce ?? setting) : secretFrom(undefined, dataDir, FILE, PREFIX).value
    const isOld = isSetting && inForce !== undefined && inForce !== setting
    const warning = isOld
      ? `HOLDFAST_MASTER_KEY is the key from before the rotation. The one in force lies in ${next(file)}: set it; it is used meanwhile.`
      : null
    return new MasterKey(value, { othersAtWork, file, isSetting, isNew: sealed !== undefined && !Vault.isSealedBy(sealed, value), warning })
  }

  /** `key` is told only when a setting holds the old one: then a person has to put the new one there. Two at once take turns. */
  rotate(db: Db, given: string | null): Promise<{ secrets: number; key: string | null }> {
    const turn = this.#turn.then(() => this.#rotate(db, given))
    // How it went is told to whoever asked for it; the next goes on from what is then.
    this.#turn = turn.catch(() => undefined)
    return turn
  }

  async #rotate(db: Db, given: string | null): Promise<{ secrets: number; key: string | null }> {
    const key = given ?? `${PREFIX}${randomBytes(24).toString('base64url')}`
    // One that is in force and not set yet must not be lost if this is broken off.
    const others = existsSync(next(this.#file)) ? keysIn(next(this.#file)) : []
    writeWhole(next(this.#file), [key, ...others, ''].join('\n'), 0o600)
    const secrets = await resealAll(db, (sealed) => this.vault.reseal(sealed, key))
    // From here on nothing opens with the old one, whatever becomes of the files.
    this.vault.adopt(key)
    writeWhole(next(this.#file), `${key}\n`, 0o600)
    if (!this.#isSetting) renameSync(next(this.#file), this.#file)
    return { secrets, key: this.#isSetting ? key : null }
  }

  /** There are secrets, none of them is sealed by this key, and others are at work who can open them. */
  async isStranger(db: Db): Promise<boolean> {
    if (!(await this.#othersAtWork((text, values) => db.query(text, values)))) return false
    const marks = await db.transaction((query) => marksOfEnvelopes(query, MARK_BYTES))
    return marks.length > 0 && !marks.some((known) => known.equals(this.vault.mark))
  }

  /** In the transaction that stores it, or a rotation could pass it by. */
  async seal(query: Query, secret: string): Promise<Buffer> {
    const { mark } = this.vault
    const marks = await marksOfEnvelopes(query, MARK_BYTES)
    const isOther = marks.length > 0 && !marks.some((known) => known.equals(mark))
    // A new key replaces one that was lost only where nobody is at work with the one that was.
    if (isOther && (!this.#isNew || (await this.#othersAtWork(query))))
      throw new Fault(
        'master_key_differs',
        'The master key is another than the one that the stored secrets are of: it has just been changed, or this coordinator was given another HOLDFAST_MASTER_KEY than the others. Nothing was stored; try again.',
        {
          status: 503,
          retryable: true,
          retryAfterS: 2,
        },
      )
    return this.vault.seal(secret)
  }
}

const FILE = 'master.key'
const PREFIX = 'hf_master_'

function next(file: string): string {
  return `${file}.next`
}

/** The key of a rotation, if the envelopes are of it. */
function keyInForce(file: string, sealed: Buffer | undefined): string | undefined {
  return sealed === undefined ? undefined : keysIn(file).find((key) => Vault.isSealedBy(sealed, key))
}

function keysIn(file: string): string[] {
  return readFileSync(file, 'utf8')
    .split('\n')
    .filter((line) => line !== '')
}
