import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, expect, test } from 'vitest'

/** What people copy to set Holdfast up, tried as far as it can be without their systemd, Docker and Kubernetes. */

const ROOT = fileURLToPath(new URL('..', import.meta.url))
const dir = mkdtempSync(path.join(os.tmpdir(), 'holdfast-deploy-'))
afterAll(() => rmSync(dir, { recursive: true, force: true }))

test('the unit of a worker hands it the token that systemd keeps as a credential, in versions that know no %d', () => {
  const unit = read('deploy/systemd/holdfast-worker.service')
  const [, line = ''] = /^ExecStart=(.+)$/m.exec(unit) ?? []
  const credentials = path.join(dir, 'credentials')
  const data = path.join(dir, 'data')
  for (const folder of [credentials, data]) mkdirSync(folder)
  writeFileSync(path.join(credentials, 'worker.token'), 'hf_worker_of_this_test')
  const holdfast = path.join(dir, 'holdfast')
  writeFileSync(holdfast, '#!/bin/sh\necho "$1 $(cat "$HOLDFAST_DATA_DIR/worker.token")"\n', { mode: 0o755 })
  // As systemd reads the line: two dollars are one. Before 252 it told the folder of credentials to ExecStart alone.
  const command = line.replaceAll('$$', '$').replace('/opt/holdfast/coordinator/holdfast', holdfast)
  const env = { PATH: process.env.PATH, CREDENTIALS_DIRECTORY: credentials, HOLDFAST_DATA_DIR: data }
  const start = (): string => execFileSync('sh', ['-c', command], { env, encoding: 'utf8' })
  expect(start()).toBe('worker hf_worker_of_this_test\n')
  // The second one finds the link of the first.
  expect(start()).toBe('worker hf_worker_of_this_test\n')
  expect(unit).not.toMatch(/^ExecStartPre=/m)
})

test('no unit uses a specifier that systemd 247 does not have', () => {
  for (const name of ['coordinator', 'worker']) {
    const lines = read(`deploy/systemd/holdfast-${name}.service`).split('\n')
    const used = lines.filter((line) => !line.startsWith('#')).flatMap((line) => line.match(/%./g) ?? [])
    expect([...new Set(used)]).toEqual(['%S'])
  }
})

test('.env.example can be loaded by a shell, also with the models that it shows in quotes', () => {
  const [, shown = ''] = /^# (HOLDFAST_MODELS='.+')$/m.exec(read('.env.example')) ?? []
  const file = path.join(dir, 'my.env')
  writeFileSync(file, `${read('.env.example')}\n${shown}\n`)
  const print = 'set -a; . "$0"; set +a; printf %s "$HOLDFAST_MODELS"'
  expect(execFileSync('sh', ['-eu', '-c', print, file], { encoding: 'utf8' })).toBe(
    'qwen=/models/qwen.gguf?slots=4&context=8192 tiny=builtin:tiny',
  )
})

function read(file: string): string {
  return readFileSync(path.join(ROOT, file), 'utf8')
}
