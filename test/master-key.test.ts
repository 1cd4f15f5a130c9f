import { createCipheriv, hkdfSync, randomBytes } from 'node:crypto'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { MasterKey } from '../coordinator/master-key.ts'
import type { Db } from '../coordinator/store/db.ts'
import { Vault } from '../coordinator/vault.ts'

const folder = mkdtempSync(path.join(tmpdir(), 'holdfast-master-key-'))
afterEach(() => {
  for (const name of ['master.key', 'master.key.next']) rmSync(path.join(folder, name), { force: true })
})

/** A database of sealed secrets that may die in the middle of a transaction. */
class Secrets {
  rows: Buffer[]
  fails = false

  constructor(rows: Buffer[]) {
    this.rows = rows
  }

  maybeOne(): Promise<Record<string, unknown> | undefined> {
    return Promise.resolve(this.rows[0] === undefined ? undefined : { sealed: this.rows[0] })
  }

  async transaction<T>(work: (query: (text: string, values?: unknown[]) => Promise<unknown[]>) => Promise<T>): Promise<T> {
    const changed = [...this.rows]
    const result = await work((text, values = []) => {
      if (text.startsWith('select id, sealed')) return Promise.resolve(this.rows.map((sealed, id) => ({ id, sealed })))
      if (text.startsWith('update credentials')) changed[values[0] as number] = values[1] as Buffer
      return Promise.resolve([])
    })
    if (this.fails) throw new Error('PostgreSQL is gone')
    this.rows = changed
    return result
  }

  get db(): Db {
    return this as unknown as Db
  }
}

/** No other coordinator is at work. */
const alone = (): Promise<boolean> => Promise.resolve(false)

test('what is sealed opens again, differs every time, and not with another key or a changed byte', () => {
  const vault = new Vault('one')
  const sealed = vault.seal('sk-123 ✓')
  expect(vault.open(sealed)).toBe('sk-123 ✓')
  expect(vault.seal('sk-123 ✓').equals(sealed)).toBe(false)
  expect(sealed.includes('sk-123')).toBe(false)
  expect(() => new Vault('two').open(sealed)).toThrow(/HOLDFAST_MASTER_KEY/)
  for (const at of [0, 6, 20, 40, 70, sealed.length - 1]) {
    const changed = Buffer.from(sealed)
    changed[at] = (changed[at] ?? 0) ^ 1
    expect(() => vault.open(changed), `byte ${at}`).toThrow(/cannot be opened/)
  }
})

test('a secret that an earlier version sealed, without an envelope, opens and gets one', () => {
  const key = Buffer.from(hkdfSync('sha256', 'one', '', 'holdfast vault v1', 32))
  const nonce = randomBytes(12)
  const cipher = createCipheriv('aes-256-gcm', key, nonce)
  const content = Buffer.concat([cipher.update('old secret', 'utf8'), cipher.final()])
  const sealed = Buffer.concat([Buffer.of(1), nonce, cipher.getAuthTag(), content])
  const vault = new Vault('one')
  expect(vault.open(sealed)).toBe('old secret')
  expect(new Vault('two').open(vault.reseal(sealed, 'two'))).toBe('old secret')
})

test('a new master key opens everything from the moment it is set, and after the next start', async () => {
  const secrets = new Secrets([])
  const master = await MasterKey.open(undefined, folder, secrets.db, alone)
  secrets.rows = [master.vault.seal('a'), master.vault.seal('b')]
  const old = readFileSync(path.join(folder, 'master.key'), 'utf8')
  expect(await master.rotate(secrets.db, null)).toEqual({ secrets: 2, key: null })
  expect(readFileSync(path.join(folder, 'master.key'), 'utf8')).not.toBe(old)
  expect(secrets.rows.map((sealed) => master.vault.open(sealed))).toEqual(['a', 'b'])
  const { vault } = await MasterKey.open(undefined, folder, secrets.db, alone)
  expect(secrets.rows.map((sealed) => vault.open(sealed))).toEqual(['a', 'b'])
  expect(() => new Vault(old.trim()).open(secrets.rows[0] ?? Buffer.alloc(0))).toThrow(/cannot be opened/)
})

test('a rotation that PostgreSQL did not take changes nothing, also over a restart', async () => {
  const secrets = new Secrets([])
  const master = await MasterKey.open(undefined, folder, secrets.db, alone)
  secrets.rows = [master.vault.seal('a')]
  secrets.fails = true
  await expect(master.rotate(secrets.db, null)).rejects.toThrow(/gone/)
  expect(master.vault.open(secrets.rows[0] ?? Buffer.alloc(0))).toBe('a')
  const { vault } = await MasterKey.open(undefined, folder, secrets.db, alone)
  expect(vault.open(secrets.rows[0] ?? Buffer.alloc(0))).toBe('a')
  expect(existsSync(path.join(folder, 'master.key.next'))).toBe(false)
})

test('a process that dies after the database has the new envelopes finds the new key at its next start', async () => {
  const secrets = new Secrets([])
  const { vault } = await MasterKey.open(undefined, folder, secrets.db, alone)
  const sealed = vault.seal('a')
  secrets.rows = [vault.reseal(sealed, 'the-new-master-key')]
  writeFileSync(path.join(folder, 'master.key.next'), 'the-new-master-key\n', { mode: 0o600 })
  const after = await MasterKey.open(undefined, folder, secrets.db, alone)
  expect(after.vault.open(secrets.rows[0] ?? Buffer.alloc(0))).toBe('a')
  expect(readFileSync(path.join(folder, 'master.key'), 'utf8').trim()).toBe('the-new-master-key')
})

test('a key that stands in a setting is told once, for the person who has to put it there', async () => {
  const secrets = new Secrets([])
  const master = await MasterKey.open('from-a-setting', folder, secrets.db, alone)
  secrets.rows = [master.vault.seal('a')]
  const { key } = await master.rotate(secrets.db, null)
  expect(key).toMatch(/^hf_master_/)
  expect((await MasterKey.open(key ?? '', folder, secrets.db, alone)).vault.open(secrets.rows[0] ?? Buffer.alloc(0))).toBe('a')
  expect(existsSync(path.join(folder, 'master.key'))).toBe(false)
})

test('a key that stands in a setting is not lost with the answer that tells it, nor with a second rotation that breaks off', async () => {
  const secrets = new Secrets([])
  const master = await MasterKey.open('from-a-setting', folder, secrets.db, alone)
  secrets.rows = [master.vault.seal('a')]
  const { key } = await master.rotate(secrets.db, null)
  secrets.fails = true
  await expect(master.rotate(secrets.db, null)).rejects.toThrow(/gone/)
  secrets.fails = false
  const told = await MasterKey.open('from-a-setting', folder, secrets.db, alone)
  expect(told.vault.open(secrets.rows[0] ?? Buffer.alloc(0))).toBe('a')
  expect(told.warning).toContain('master.key.next')
  const set = await MasterKey.open(key ?? '', folder, secrets.db, alone)
  expect(set.warning).toBe(null)
  expect(existsSync(path.join(folder, 'master.key.next'))).toBe(false)
})

test('two rotations at once take turns', async () => {
  const secrets = new Secrets([])
  const master = await MasterKey.open(undefined, folder, secrets.db, alone)
  secrets.rows = [master.vault.seal('a')]
  await Promise.all([master.rotate(secrets.db, null), master.rotate(secrets.db, null)])
  const { vault } = await MasterKey.open(undefined, folder, secrets.db, alone)
  expect([master.vault, vault].map((one) => one.open(secrets.rows[0] ?? Buffer.alloc(0)))).toEqual(['a', 'a'])
})
