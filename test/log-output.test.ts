import { fork } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, openSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'

const LOGGER = fileURLToPath(new URL('support/logger.ts', import.meta.url))

test('a log that nobody reads holds up nothing, keeps what it can, and ends with its last line', async () => {
  const child = fork(LOGGER, ['30000'], {
    execArgv: ['--disable-warning=ExperimentalWarning'],
    stdio: ['ignore', 'pipe', 'inherit', 'ipc'],
  })
  // Nothing is read until it has said, by another way, that it goes on.
  expect(await once(child, 'message')).toEqual(['alive', undefined])
  let text = ''
  child.stdout?.setEncoding('utf8').on('data', (data: string) => (text += data))
  child.send('end')
  const [code] = (await once(child, 'close')) as [number]
  expect(code).toBe(0)
  const lines = text.trimEnd().split('\n')
  expect(lines.every((line) => /^line \d+ x{100}$/.test(line) || line === 'last')).toBe(true)
  expect(lines[0]).toMatch(/^line 0 /)
  expect(lines.at(-1)).toBe('last')
  expect(text.length).toBeGreaterThan(500_000)
})

test.skipIf(process.platform !== 'linux')('a full disk under the log ends nothing', async () => {
  const full = openSync('/dev/full', 'w')
  const child = fork(LOGGER, ['1000'], { execArgv: ['--disable-warning=ExperimentalWarning'], stdio: ['ignore', full, 'inherit', 'ipc'] })
  closeSync(full)
  expect(await once(child, 'message')).toEqual(['alive', undefined])
  child.send('end')
  expect((await once(child, 'exit'))[0]).toBe(0)
})
