import { readdirSync, readFileSync, statSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { MUTANTS } from './mutants/list.ts'

/** The rooms and doors of ARCHITECTURE.md, held to the imports as they are. */

const root = fileURLToPath(new URL('..', import.meta.url))
const sources = ['coordinator', 'worker', 'proto']
  .flatMap((room) => filesBelow(room))
  .filter((file) => file.endsWith('.ts') && !file.includes('proto/generated/'))

/** Room → what it may import besides itself. The first that fits a file is its room. */
const MAY_IMPORT: [room: RegExp, allowed: RegExp][] = [
  [/^proto\//, /^proto\//],
  [/^worker\//, /^(worker|proto)\//],
  [/^coordinator\/core\//, /^(coordinator\/core\/|proto\/fleeting-map\.ts)/],
  [/^coordinator\/store\//, /^coordinator\/(core|store)\//],
  [/^coordinator\/tiers\//, /^(coordinator\/(core|tiers)|proto)\//],
  [/^coordinator\/engine\//, /^(coordinator\/(core|store|engine|tiers)|proto)\//],
  [/^coordinator\/api\//, /^(coordinator\/|proto\/)/],
  [/^coordinator\/cli\.ts$/, /^(coordinator\/|proto\/|worker\/(main|config)\.ts$)/],
  [/^coordinator\//, /^(coordinator|proto)\//],
]

/** Dependency → the only files that may import it. */
const DOORS: [dependency: RegExp, files: RegExp][] = [
  [/^pg$/, /^coordinator\/store\/(db|embedded)\.ts$/],
  [/^@grpc\//, /^proto\/(link\.ts|generated\/)/],
  [/^node-llama-cpp$/, /^worker\/engines\/(llama-process|llama\/native-\w+)\.ts$/],
  [/^@huggingface\/jinja$/, /^worker\/engines\/llama\/chat-template\.ts$/],
  [/^prom-client$/, /^coordinator\/metrics\.ts$/],
  [/^systeminformation$/, /^worker\/host\.ts$/],
  [/^fastify$/, /^coordinator\/api\//],
  [/^bullmq$/, /^coordinator\/engine\/timers\.ts$/],
  [/^ipaddr\.js$/, /^coordinator\/engine\/outbound\.ts$/],
  [/^(openai|@anthropic-ai\/sdk)$/, /^coordinator\/tiers\/upstream(-errors)?\.ts$/],
  [/^undici$/, /^coordinator\/tiers\/upstream-http\.ts$/],
  [/^standardwebhooks$/, /^coordinator\/engine\/callbacks\.ts$/],
]

test('every import stays in its room or goes through an open door', () => {
  const broken: string[] = []
  for (const file of sources) {
    const allowed = MAY_IMPORT.find(([room]) => room.test(file))?.[1]
    for (const imported of importsOf(file)) {
      if (imported.startsWith('.')) {
        const target = path.normalize(path.join(path.dirname(file), imported))
        if (allowed === undefined || !allowed.test(target)) broken.push(`${file} imports ${target}`)
      } else {
        const door = DOORS.find(([dependency]) => dependency.test(imported))
        if (door !== undefined && !door[1].test(file)) broken.push(`${file} imports ${imported}`)
      }
    }
  }
  expect(broken).toEqual([])
})

test('the core is pure: no clock, chance, timer, file or process', () => {
  const impure =
    /\b(Date\.now|new Date\(|crypto\b|Math\.random|performance\.|process\.|setTimeout|setInterval|setImmediate|console\.|fetch\()|from 'node:(?!assert)/
  expect(sources.filter((file) => file.startsWith('coordinator/core/') && impure.test(read(file)))).toEqual([])
})

test('SQL stands in the store and nowhere else', () => {
  const folder = 'coordinator/store/migrations'
  const migrations = readdirSync(path.join(root, folder)).map((name) => read(path.join(folder, name)))
  const tables = migrations.flatMap((sql) => [...sql.matchAll(/^create table (\w+)/gm)].map((match) => match[1] ?? ''))
  expect(tables).toEqual(expect.arrayContaining(['jobs', 'events', 'payments']))
  const table = `(${tables.join('|')})\\b`
  const sql = new RegExp(
    `\\b(select\\b[^'"\`]*\\bfrom|join|insert\\s+into|delete\\s+from)\\s+${table}|\\bupdate\\s+${table}\\s+\\w*\\s*set\\b`,
    'i',
  )
  const outside = sources.filter((file) => !file.startsWith('coordinator/store/'))
  expect(outside.filter((file) => sql.test(read(file)))).toEqual([])
  expect(outside.filter((file) => /\b(query|maybeOne)\(\s*['"`]/.test(read(file)))).toEqual([])
})

test('only main constructs: nobody else makes the scheduler, the dispatcher, the writer or the database', () => {
  const makers = sources.filter((file) => /new (Scheduler|Dispatcher|Writer|Db|WorkerSessions)\(/.test(read(file)))
  expect(makers).toEqual(['coordinator/main.ts', 'coordinator/migrate-command.ts'])
})

test('no drawer for everything, no unfinished sentence, no file that outgrew its name', () => {
  expect(sources.filter((file) => /(^|\/)(utils?|common|helpers?|misc|index)\.ts$/.test(file))).toEqual([])
  expect(sources.filter((file) => /\b(TODO|FIXME|XXX|HACK)\b/.test(read(file)))).toEqual([])
  expect(sources.filter((file) => read(file).split('\n').length > LINES_MAX)).toEqual([])
})

test('every migration is numbered without a gap', () => {
  const numbers = readdirSync(path.join(root, 'coordinator/store/migrations'))
    .sort()
    .map((name) => Number(name.slice(0, 4)))
  expect(numbers).toEqual(numbers.map((_, index) => index + 1))
})

test('the top level holds the rooms, the root documents and configuration, and nothing else', () => {
  const folders = readdirSync(root).filter(
    (name) => statSync(path.join(root, name)).isDirectory() && !name.startsWith('.') && name !== 'node_modules' && name !== 'coverage',
  )
  expect(folders.sort()).toEqual(['coordinator', 'dashboards', 'deploy', 'proto', 'test', 'worker'])
})

test('every row of the failure table names a test that exists', () => {
  const table = readFileSync(path.join(root, 'ARCHITECTURE.md'), 'utf8').split('## Failure table')[1]?.split('\n## ')[0] ?? ''
  const rows = table.split('\n').filter((line) => line.startsWith('| ') && !line.startsWith('| dies') && !line.startsWith('|---'))
  expect(rows.length).toBeGreaterThan(7)
  for (const row of rows) {
    const [, file = '', name = ''] = /`(test\/[\w.-]+\.test\.ts)`: (.+?) \|\s*$/.exec(row) ?? []
    expect(read(file), row).toContain(name)
  }
})

test('every planted bug has its one line to be planted in', () => {
  const lost = MUTANTS.filter(({ file, find }) => read(file).split(find).length !== 2)
  expect(lost.map(({ bug }) => bug)).toEqual([])
})

// The dispatcher is the one loop and is read as one; everything else stays well below.
const LINES_MAX = 720

function importsOf(file: string): string[] {
  return [...read(file).matchAll(/(?:from|import)\s*\(?\s*'([^']+)'/g)].map((match) => match[1] ?? '')
}

function read(file: string): string {
  return readFileSync(path.join(root, file), 'utf8')
}

function filesBelow(folder: string): string[] {
  return readdirSync(path.join(root, folder), { recursive: true, encoding: 'utf8' })
    .map((name) => path.join(folder, name))
    .filter((name) => statSync(path.join(root, name)).isFile())
    .sort()
}
