import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from 'node:crypto'
import { Fault } from './core/fault.ts'

/**
 * Seals small secrets with the master key (AES-256-GCM), so that a copy of the database alone tells none of them. A sealed
 * secret is one byte of version, 12 of nonce, 16 of tag, then the ciphertext.
 */
export class Vault {
  readonly #key: Buffer

  constructor(masterKey: string) {
    this.#key = Buffer.from(hkdfSync('sha256', masterKey, '', 'holdfast vault v1', 32))
  }

  seal(text: string): Buffer {
    const nonce = randomBytes(NONCE_BYTES)
    const cipher = createCipheriv('aes-256-gcm', this.#key, nonce)
    const sealed = Buffer.concat([cipher.update(text, 'utf8'), cipher.final()])
    return Buffer.concat([Buffer.of(VERSION), nonce, cipher.getAuthTag(), sealed])
  }

  /** Throws a Fault when another master key sealed it, or somebody changed it. */
  open(sealed: Buffer): string {
    const nonce = sealed.subarray(1, 1 + NONCE_BYTES)
    const tag = sealed.subarray(1 + NONCE_BYTES, 1 + NONCE_BYTES + TAG_BYTES)
    try {
      if (sealed[0] !== VERSION) throw new Error(`unknown version ${sealed[0]}`)
      const decipher = createDecipheriv('aes-256-gcm', this.#key, nonce, { authTagLength: TAG_BYTES })
      decipher.setAuthTag(tag)
      return Buffer.concat([decipher.update(sealed.subarray(1 + NONCE_BYTES + TAG_BYTES)), decipher.final()]).toString('utf8')
    } catch (cause) {
      throw new Fault('master_key_differs', 'A stored secret cannot be opened: HOLDFAST_MASTER_KEY differs from the one that sealed it.', {
        cause,
      })
    }
  }
}

const VERSION = 1
const NONCE_BYTES = 12
const TAG_BYTES = 16
