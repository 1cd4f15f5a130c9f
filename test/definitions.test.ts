import { writeFileSync } from 'node:fs'
import path from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { World } from './support/world.ts'

let world: World
let file: string
beforeAll(async () => {
  world = await World.open()
  file = path.join(world.dir, 'holdfast.yaml')
})
afterAll(() => world.close())

const CREDENTIALS = `
credentials:
  - { name: openai, secret_env: TEST_OPENAI_KEY }
policies:
  - name: thrifty
    tiers: { gpu: at_once, cloud: { after_s: 60 } }
`
const PROVIDERS = `
providers:
  - name: openai
    tier: cloud
    kind: openai
    base_url: http://127.0.0.1:9/v1
    credential: openai
    max_parallel: 4
    models: [{ name: big, upstream: gpt-big, input_micros_per_mtok: 1000000 }]
aliases:
  - { name: default, target: big }
`

test('a file of definitions is made at the start, changed at the next, and said once', async () => {
  writeFileSync(file, CREDENTIALS + PROVIDERS)
  const env = { HOLDFAST_DEFINITIONS: file, TEST_OPENAI_KEY: 'sk-one' }
  const first = await world.coordinator(env)
  const named = async (): Promise<unknown> =>
    ((await world.get('/api/providers')) as { data: { name: string }[] }).data.find(({ name }) => name === 'openai')
  expect(await named()).toMatchObject({ tier: 'cloud', max_parallel: 4, models: [{ name: 'big', upstream: 'gpt-big' }] })
  expect(await world.get('/api/policies/thrifty')).toMatchObject({ tiers: { gpu: 'at_once', cli: 'never', cloud: { after_s: 60 } } })
  expect(await world.get('/api/credentials/openai')).toMatchObject({ version: 1 })
  await first.stop()

  writeFileSync(file, (CREDENTIALS + PROVIDERS).replace('max_parallel: 4', 'max_parallel: 9'))
  const second = await world.coordinator(env)
  expect(await named()).toMatchObject({ max_parallel: 9 })
  expect(await world.get('/api/credentials/openai')).toMatchObject({ version: 1 })
  const types = (await world.events()).map((event) => event.type)
  expect(types.filter((type) => type === 'provider.created')).toHaveLength(1)
  expect(types.filter((type) => type === 'provider.changed')).toHaveLength(1)
  expect(types.filter((type) => type === 'policy.changed')).toHaveLength(1)
  await second.stop()
})

test('a file of which one definition is refused is not in force: what was made goes, what was changed is as before', async () => {
  const env = { HOLDFAST_DEFINITIONS: file, TEST_OPENAI_KEY: 'sk-two' }
  const refusedFile =
    CREDENTIALS.replace('after_s: 60', 'after_s: 61').replace('policies:', '  - { name: late, secret_env: TEST_OPENAI_KEY }\npolicies:') +
    PROVIDERS.replace('max_parallel: 4', 'max_parallel: 5').replace(
      'target: big',
      'target: big }\n  - { name: other, target: big }\n  - { name: auto, target: big',
    )
  writeFileSync(file, refusedFile)
  await expect(world.coordinator(env)).rejects.toThrow(/aliases\[2\]: .*any model/)
  const coordinator = await world.coordinator({ HOLDFAST_DEFINITIONS: '' })
  expect(await world.get('/api/policies/thrifty')).toMatchObject({ tiers: { cloud: { after_s: 60 } } })
  expect(await world.get('/api/providers/openai')).toMatchObject({ max_parallel: 9 })
  expect(await world.get('/api/credentials/openai')).toMatchObject({ version: 1 })
  expect((await world.request('GET', '/api/credentials/late')).status).toBe(404)
  expect(await world.get('/api/models/aliases')).toMatchObject({ data: [{ name: 'default', target: 'big' }] })
  await coordinator.stop()
})

for (const [what, content, message] of [
  ['a word it does not know', 'polices: []', /holds "polices"/],
  ['a secret that is not in the environment', 'credentials: [{ name: x, secret_env: TEST_MISSING }]', /TEST_MISSING is not set/],
  [
    'a provider that the door refuses',
    'providers: [{ name: x, tier: cloud, kind: openai, base_url: nowhere }]',
    /providers\[0\]: base_url/,
  ],
  ['a policy that never opens', 'policies: [{ name: x, tiers: { gpu: never } }]', /policies\[0\]: .*never/],
  ['no YAML', 'a: [', /neither YAML nor JSON/],
] as const)
  test(`${what} stops the start and names its place`, async () => {
    writeFileSync(file, content)
    await expect(world.coordinator({ HOLDFAST_DEFINITIONS: file })).rejects.toThrow(message)
  })

test('a definition may be sent as YAML', async () => {
  const coordinator = await world.coordinator({ HOLDFAST_DEFINITIONS: '' })
  const send = (body: string): Promise<Response> => world.request('POST', '/api/policies', body, { 'content-type': 'application/yaml' })
  const made = await send('name: patient\ntiers:\n  gpu: at_once\n  cloud: { after_s: 5 }\n')
  expect([made.status, ((await made.json()) as { tiers: unknown }).tiers]).toEqual([
    201,
    { gpu: 'at_once', cli: 'never', cloud: { after_s: 5 } },
  ])
  const broken = await send('name: [')
  expect([broken.status, ((await broken.json()) as { error: { code: string } }).error.code]).toEqual([400, 'invalid_yaml'])
  await coordinator.stop()
})
