import { spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, expect, test } from 'vitest'
import { Keyring } from '../coordinator/api/auth.ts'
import { secretFrom, sha256 } from '../coordinator/secrets.ts'
import { writeWhole } from '../proto/whole-file.ts'
import { claimIdentity } from '../worker/identity.ts'

const dir = mkdtempSync(path.join(os.tmpdir(), 'holdfast-secrets-'))
afterAll(() => rmSync(dir, { recursive: true }))

test('a secret is made once, for its owner only, and read from then on', () => {
  const made = secretFrom(undefined, dir, 'made.key', 'hf_')
  expect(made.value).toMatch(/^hf_[\w-]{32}$/)
  expect(statSync(path.join(dir, 'made.key')).mode & 0o777).toBe(0o600)
  expect(secretFrom(undefined, dir, 'made.key', 'hf_')).toEqual(made)
})

test('what a full disk or a power cut left of a key is no key', () => {
  for (const left of ['', '\n', 'hf_adm', 'hf admin with spaces in it']) {
    writeFileSync(path.join(dir, 'admin.key'), left)
    expect(() => secretFrom(undefined, dir, 'admin.key', 'hf_admin_'), left).toThrow(/admin\.key is damaged: restore it, or delete it/)
  }
  writeFileSync(path.join(dir, 'worker.id'), '')
  expect(() => claimIdentity(dir)).toThrow(/worker\.id is damaged/)
})

test.skipIf(!existsSync('/proc/self/stat'))('the number of a worker that is another by now keeps nobody out of the folder', () => {
  const other = spawn(process.execPath, ['-e', 'setTimeout(() => {}, 60_000)', '/coordinator/cli.ts', 'worker'])
  const folder = path.join(dir, 'identity')
  try {
    claimIdentity(folder)
    const begun = Number((/^.*\) (.*)$/s.exec(readFileSync(`/proc/${other.pid}/stat`, 'utf8'))?.[1] ?? '').split(' ')[19])
    writeFileSync(path.join(folder, 'worker.pid'), `${other.pid} ${begun}`)
    expect(() => claimIdentity(folder)).toThrow(/another worker \(process \d+\)/)
    writeFileSync(path.join(folder, 'worker.pid'), `${other.pid} ${begun - 1}`)
    claimIdentity(folder)
    expect(readFileSync(path.join(folder, 'worker.pid'), 'utf8')).toMatch(new RegExp(`^${process.pid} \\d+$`))
    // As an older version wrote it.
    writeFileSync(path.join(folder, 'worker.pid'), String(other.pid))
    expect(() => claimIdentity(folder)).toThrow(/another worker/)
  } finally {
    other.kill('SIGKILL')
  }
})

test('an empty key is a missing one, whatever keys there are', () => {
  const keyring = new Keyring(
    () => 0,
    () => {},
  )
  const key = { id: 'k', name: 'k', kind: 'bootstrap', team: null, owner: null, scopes: null, models: null, tiers: null }
  keyring.replace([{ ...key, hash: sha256(''), expiresMs: null, requestsPerMinute: null, singleUse: false, spentBy: null } as never])
  for (const headers of [{ 'x-api-key': '' }, { authorization: 'Bearer ' }, {}])
    expect(() => keyring.identify(headers, '127.0.0.1', {})).toThrow(/No key/)
})

test('a connection that has shown its key is known by it, and by no other, as long as that key is in force', () => {
  let nowMs = 0
  const refused: string[] = []
  const keyring = new Keyring(
    () => nowMs,
    (address) => refused.push(address),
  )
  const record = (name: string, expiresMs: number | null = null): never =>
    ({
      ...{ id: name, name, kind: 'personal', team: 'default', owner: null, scopes: null, models: null, tiers: null },
      ...{ hash: sha256(`hf_${name}`), expiresMs, requestsPerMinute: null, singleUse: false, spentBy: null },
    }) as never
  const connection = {}
  const ask = (key: string): string => keyring.identify({ authorization: `Bearer hf_${key}` }, 'here', connection).name
  keyring.replace([record('one'), record('two'), record('soon', 1_000)])
  expect([ask('one'), ask('one'), ask('two'), ask('one')]).toEqual(['one', 'one', 'two', 'one'])
  for (const wrong of ['onf', 'ono', 'ne', 'onee', '']) expect(() => ask(wrong), wrong).toThrow()
  expect(ask('one')).toBe('one')
  // Without the header that it came with before, it has shown none.
  expect(() => keyring.identify({}, 'here', connection)).toThrow(/No key/)
  expect(keyring.identify({ 'x-api-key': 'hf_two' }, 'here', connection).name).toBe('two')
  expect([ask('soon'), ask('soon')]).toEqual(['soon', 'soon'])
  nowMs = 1_000
  expect(() => ask('soon')).toThrow(/expired/)
  expect(ask('one')).toBe('one')
  keyring.replace([record('two')])
  expect(() => ask('one')).toThrow(/revoked/)
  expect(refused).toHaveLength(8)
})

test('a file is written whole or not at all', () => {
  const file = path.join(dir, 'new', 'whole')
  writeWhole(file, 'one', 0o600)
  writeWhole(file, 'two', 0o600)
  expect(readFileSync(file, 'utf8')).toBe('two')
  mkdirSync(path.join(dir, 'taken', 'by-a-folder'), { recursive: true })
  expect(() => writeWhole(path.join(dir, 'taken'), 'x', 0o600)).toThrow(/EISDIR|ENOTEMPTY|EEXIST/)
  expect(readdirSync(path.join(dir, 'new'))).toEqual(['whole'])
  expect(readdirSync(dir).filter((name) => name.endsWith('.tmp'))).toEqual([])
})

test('a write that fails midway leaves what was there before, and the half that a kill left is nobody’s', () => {
  const folder = path.join(dir, 'full')
  const file = path.join(folder, 'admin.key')
  const made = secretFrom(undefined, folder, 'admin.key', 'hf_')
  const door = fileURLToPath(new URL('../proto/whole-file.ts', import.meta.url))
  const script = `import('${door}').then(({ writeWhole }) => writeWhole('${file}', 'x'.repeat(100_000), 0o600))`
  // A file may have two blocks, as on a disk that takes no more.
  const { status, stderr } = spawnSync('bash', ['-c', 'ulimit -f 2; exec "$0" -e "$1"', process.execPath, script], { encoding: 'utf8' })
  expect([status, stderr]).toEqual([1, expect.stringContaining('EFBIG')])
  expect([secretFrom(undefined, folder, 'admin.key', 'hf_'), readdirSync(folder)]).toEqual([made, ['admin.key']])
  for (const pid of [process.pid, 1]) writeFileSync(`${file}.${pid}.tmp`, 'hf_ha')
  expect(secretFrom(undefined, folder, 'admin.key', 'hf_')).toEqual(made)
  writeWhole(file, 'hf_next', 0o600)
  expect(readFileSync(file, 'utf8')).toBe('hf_next')
})
