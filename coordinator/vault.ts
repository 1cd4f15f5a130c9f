import { createCipheriv, createDecipheriv, createHash, createHmac, hkdfSync, randomBytes } from 'node:crypto'
import { Fault } from './core/fault.ts'

/**
 * Seals small secrets so that a copy of the database alone tells none of them (AES-256-GCM, in an envelope): each secret is
 * encrypted with a key of its own, and that one with the master key. A new master key therefore means new envelopes and
 * leaves the contents as they are. A sealed secret is
 *
 *   version (1 byte) · id of the master key (4) · the secret's key, encrypted (60) · the secret, encrypted
 *
 * where everything encrypted is nonce (12), tag (16), ciphertext.
 */
export class Vault {
  #master: MasterKey

  constructor(masterKey: string) {
    this.#master = masterKeyOf(masterKey)
  }

  seal(text: string): Buffer {
    const key = randomBytes(KEY_BYTES)
    return Buffer.concat([this.#envelope(this.#master, key), encrypt(key, Buffer.from(text, 'utf8'))])
  }

  /** Throws a Fault when another master key sealed it, or somebody changed it. */
  open(sealed: Buffer): string {
    return attempt(() => {
      if (sealed[0] === VERSION_WITHOUT_ENVELOPE) return decrypt(this.#master.key, sealed.subarray(1)).toString('utf8')
      return decrypt(this.#secretKey(sealed), sealed.subarray(CONTENT_AT)).toString('utf8')
    })
  }

  /** The same secret in an envelope of another master key. */
  reseal(sealed: Buffer, masterKey: string): Buffer {
    return attempt(() => {
      const master = masterKeyOf(masterKey)
      if (sealed[0] === VERSION_WITHOUT_ENVELOPE) {
        const key = randomBytes(KEY_BYTES)
        return Buffer.concat([this.#envelope(master, key), encrypt(key, decrypt(this.#master.key, sealed.subarray(1)))])
      }
      return Buffer.concat([this.#envelope(master, this.#secretKey(sealed)), sealed.subarray(CONTENT_AT)])
    })
  }

  /** What every envelope of this master key begins with. */
  get mark(): Buffer {
    return Buffer.concat([Buffer.of(VERSION), this.#master.id])
  }

  /** 32 bytes that nobody without this master key can compute. */
  mac(purpose: string, content: string | Buffer): Buffer {
    return createHmac('sha256', this.#master.macKey).update(`${purpose}\n`).update(content).digest()
  }

  /** From here on this is the master key. */
  adopt(masterKey: string): void {
    this.#master = masterKeyOf(masterKey)
  }

  /** Whether this master key sealed it, as the envelope says. */
  static isSealedBy(sealed: Buffer, masterKey: string): boolean {
    return sealed[0] === VERSION && sealed.subarray(1, 1 + ID_BYTES).equals(masterKeyOf(masterKey).id)
  }

  #envelope(master: MasterKey, key: Buffer): Buffer {
    return Buffer.concat([Buffer.of(VERSION), master.id, encrypt(master.key, key)])
  }

  #secretKey(sealed: Buffer): Buffer {
    if (sealed[0] !== VERSION) throw new Error(`unknown version ${sealed[0]}`)
    return decrypt(this.#master.key, sealed.subarray(1 + ID_BYTES, CONTENT_AT))
  }
}

type MasterKey = { key: Buffer; macKey: Buffer; id: Buffer }

const VERSION_WITHOUT_ENVELOPE = 1
const VERSION = 2
const ID_BYTES = 4
export const MARK_BYTES = 1 + ID_BYTES
const KEY_BYTES = 32
const NONCE_BYTES = 12
const TAG_BYTES = 16
const CONTENT_AT = 1 + ID_BYTES + NONCE_BYTES + TAG_BYTES + KEY_BYTES

function masterKeyOf(text: string): MasterKey {
  const key = Buffer.from(hkdfSync('sha256', text, '', 'holdfast vault v1', KEY_BYTES))
  const macKey = Buffer.from(hkdfSync('sha256', text, '', 'holdfast mac v1', KEY_BYTES))
  // Only tells keys apart; of the key itself a hash of a hash tells nothing.
  return { key, macKey, id: createHash('sha256').update(key).digest().subarray(0, ID_BYTES) }
}

function encrypt(key: Buffer, plain: Buffer): Buffer {
  const nonce = randomBytes(NONCE_BYTES)
  const cipher = createCipheriv('aes-256-gcm', key, nonce)
  const content = Buffer.concat([cipher.update(plain), cipher.final()])
  return Buffer.concat([nonce, cipher.getAuthTag(), content])
}

function decrypt(key: Buffer, sealed: Buffer): Buffer {
  const decipher = createDecipheriv('aes-256-gcm', key, sealed.subarray(0, NONCE_BYTES), { authTagLength: TAG_BYTES })
  decipher.setAuthTag(sealed.subarray(NONCE_BYTES, NONCE_BYTES + TAG_BYTES))
  return Buffer.concat([decipher.update(sealed.subarray(NONCE_BYTES + TAG_BYTES)), decipher.final()])
}

function attempt<T>(read: () => T): T {
  try {
    return read()
  } catch (cause) {
    throw new Fault('master_key_differs', 'A stored secret cannot be opened: HOLDFAST_MASTER_KEY differs from the one that sealed it.', {
      cause,
    })
  }
}
