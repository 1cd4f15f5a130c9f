import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { SettingError, Settings } from '../proto/settings.ts'

/** What names may stand in the environment. That every start says so is the matter of start.test.ts. */

const ROOT = fileURLToPath(new URL('..', import.meta.url))

test('what Kubernetes makes of a Service is told as that, with what to do', () => {
  const made: [string, string][] = [
    ['HOLDFAST_COORDINATOR_SERVICE_HOST', '10.96.0.7'],
    ['HOLDFAST_COORDINATOR_SERVICE_PORT', '8080'],
    ['HOLDFAST_COORDINATOR_SERVICE_PORT_HTTP', '8080'],
    ['HOLDFAST_COORDINATOR_PORT', 'tcp://10.96.0.7:8080'],
    ['HOLDFAST_COORDINATOR_PORT_8080_TCP', 'tcp://10.96.0.7:8080'],
    ['HOLDFAST_COORDINATOR_PORT_8080_TCP_ADDR', '10.96.0.7'],
    ['HOLDFAST_SERVICE_HOST', '10.96.0.7'],
    // Of a Service called holdfast-http, in the place of a setting.
    ['HOLDFAST_HTTP_PORT', 'tcp://10.96.0.7:80'],
  ]
  for (const [name, value] of made)
    expect(() => new Settings({ [name]: value }), name).toThrow(
      new SettingError(
        name,
        'is no setting: Kubernetes made it from a Service of that name. Set `enableServiceLinks: false` in the spec of the pod.',
      ),
    )
})

test('a misspelt port is a misspelt setting, and a port is a port', () => {
  expect(() => new Settings({ HOLDFAST_HTPP_PORT: '80' })).toThrow(/HOLDFAST_HTPP_PORT is not a setting\..*HOLDFAST_HTTP_PORT/)
  expect(new Settings({ HOLDFAST_HTTP_PORT: '80', HOLDFAST_COORDINATOR: 'a:1' }).integer('HOLDFAST_HTTP_PORT')).toBe(80)
  expect([
    new Settings({}).integer('HOLDFAST_HTTP_PORT'),
    new Settings({ HOLDFAST_DRAIN_TIMEOUT_S: '2.5' }).ms('HOLDFAST_DRAIN_TIMEOUT_S'),
  ]).toEqual([8080, 2_500])
})

test('whoever has the tests and benches set up in a shell can start Holdfast from it', () => {
  const files = readdirSync(path.join(ROOT, 'test'), { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.ts'))
  const texts = files.map((name) => readFileSync(path.join(ROOT, 'test', name), 'utf8'))
  const names = new Set(
    texts.flatMap((text) => [...text.matchAll(/\bprocess\.env\.(HOLDFAST_(?:TEST|BENCH)_\w+)/g)].map(([, name]) => name ?? '')),
  )
  expect(names.size).toBeGreaterThan(5)
  for (const name of names) expect(() => new Settings({ [name]: 'x' }), name).not.toThrow()
})

test('.env.example names every setting, and nothing else', () => {
  const example = readFileSync(path.join(ROOT, '.env.example'), 'utf8')
  const named = [...example.matchAll(/^([A-Z_]+)=/gm)].map(([, name]) => name ?? '')
  expect(new Set(named).size).toBe(named.length)
  expect(() => new Settings(Object.fromEntries(named.map((name) => [name, ''])))).not.toThrow()
  const readme = readFileSync(path.join(ROOT, 'README.md'), 'utf8')
  const table = [...readme.matchAll(/^\| `([A-Z_]+)` \|/gm)].map(([, name]) => name ?? '')
  expect(named.toSorted()).toEqual(table.toSorted())
})
