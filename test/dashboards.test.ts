import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { addCloud, type Cloud } from './support/cloud.ts'
import { freePorts } from './support/ports.ts'
import { World } from './support/world.ts'

/** Board and alerts against a real Prometheus that scrapes a real coordinator, with the configuration that is shipped. */

const missing = ['prometheus', 'promtool'].filter((program) => spawnSync(program, ['--version']).error !== undefined)

// The only ones that may stay empty: no machine that runs this suite is sure to have a GPU.
const EMPTY_WITHOUT_GPU = ['Load of GPUs', 'Memory of GPUs']

describe.skipIf(missing.length > 0)(
  `a board over a running system (needs Prometheus; missing here: ${missing.join(', ') || 'nothing'})`,
  () => {
    let world: World
    let cloud: Cloud
    let prometheus: Prometheus

    beforeAll(async () => {
      world = await World.open()
      await world.coordinator({ HOLDFAST_HEARTBEAT_S: '0.5' })
      await world.worker('a', 'quick=fake:?slots=2&rate=500 slow=fake:?slots=1&rate=10')
      cloud = await addCloud(world, { limits: { requests_per_minute: 10_000 } })
      prometheus = await Prometheus.start(world)
    })

    afterAll(async () => {
      await prometheus?.stop()
      await world?.close()
    })

    test('every panel shows data, except those about GPUs', async () => {
      const leave = new AbortController()
      // One runs and two wait, for as long as the panels are looked at.
      const backlog = Array.from({ length: 3 }, () => chat(world, 'slow', 5_000, leave.signal).catch(() => 'left'))
      const empty = new Set(targets(board().panels).filter(({ panel }) => !EMPTY_WITHOUT_GPU.includes(panel.title)))
      expect(empty.size).toBeGreaterThan(30)
      await world.until(
        'data in every panel',
        async () => {
          // Rates and percentiles show what happened lately, so something has to happen while they are asked for: more than there
          // are slots, because the time to the next start is that of one that waited.
          await Promise.all([
            ...Array.from({ length: 4 }, () => chat(world, 'quick', 20)),
            chat(world, cloud.model, 20),
            world.request('GET', '/api/jobs', undefined, { authorization: 'Bearer wrong' }),
          ])
          for (const target of empty) if (await prometheus.hasData(target.expr)) empty.delete(target)
          if (empty.size > 0) throw new Error(`no data: ${[...empty].map(({ panel, refId }) => `${panel.title} ${refId}`).join(', ')}`)
          return true
        },
        90_000,
      )
      leave.abort()
      await Promise.all(backlog)
    })

    test('the queries about GPUs are understood, and the lists of workers and models to choose from are filled', async () => {
      for (const { panel, expr } of targets(board().panels)) if (EMPTY_WITHOUT_GPU.includes(panel.title)) await prometheus.hasData(expr)
      const choices = board().templating.list.flatMap(({ query }) => (typeof query === 'string' ? [] : [query.query]))
      expect(choices).toHaveLength(2)
      const offered: string[] = []
      for (const choice of choices) {
        const [, metric = '', label = ''] = /^label_values\((.+), (\w+)\)$/.exec(choice) ?? []
        const values = await world.until(`values of ${choice}`, async () => {
          const found = (await prometheus.get(`/api/v1/label/${label}/values?match[]=${encodeURIComponent(metric)}`)) as string[]
          return found.length > 0 && found
        })
        offered.push(...values)
      }
      expect(offered).toEqual(expect.arrayContaining(['a', 'quick', 'slow', cloud.model]))
    })

    test('every metric that the board and the alerts name is one of the coordinator', async () => {
      const told = await (await world.request('GET', '/metrics')).text()
      const known = new Set([...told.matchAll(/^# TYPE (\w+)/gm)].map(([, name]) => name))
      const exprs = [...targets(board().panels).map(({ expr }) => expr), ...rules().map(({ expr }) => expr)].join('\n')
      const named = [...new Set(exprs.match(/\bholdfast_\w+/g))].map((name) =>
        known.has(name) ? name : name.replace(/_(bucket|sum|count)$/, ''),
      )
      expect(named.length).toBeGreaterThan(20)
      expect(named.filter((name) => !known.has(name))).toEqual([])
      // Those that Node and prom-client count are many, and the board shows a few.
      const unseen = [...known].filter((name) => name?.startsWith('holdfast_') && !name.startsWith('holdfast_coordinator_'))
      expect(unseen.filter((name) => !named.includes(name ?? ''))).toEqual([])
    })

    test('Prometheus takes the alert rules and evaluates every one without an error', async () => {
      await world.until('every rule evaluated', async () => {
        const { groups } = (await prometheus.get('/api/v1/rules')) as {
          groups: { rules: { name: string; health: string; lastError?: string }[] }[]
        }
        const loaded = groups.flatMap((group) => group.rules)
        expect(loaded.map((rule) => rule.name)).toEqual(rules().map((rule) => rule.alert))
        expect(loaded.filter((rule) => rule.health === 'err')).toEqual([])
        return loaded.every((rule) => rule.health === 'ok')
      })
    })

    test('each alert fires when it should and not before: the unit tests of the rules pass', () => {
      const tests = 'holdfast.test.yml'
      const text = read(`dashboards/alerts/${tests}`)
      expect(rules().filter(({ alert }) => !text.includes(`alertname: ${alert}`))).toEqual([])
      execFileSync('promtool', ['test', 'rules', tests], { cwd: path.join(ROOT, 'dashboards/alerts'), stdio: 'pipe' })
    })
  },
)

test('each alert says what is wrong and links a section of the runbooks that exists', () => {
  expect(rules().length).toBeGreaterThan(5)
  for (const { alert, text } of rules()) {
    const [, file = '', section = ''] = /runbook_url: (\S+)#(\S+)/.exec(text) ?? []
    expect(read(file), alert).toMatch(new RegExp(`^## ${section}$`, 'm'))
    expect(text, alert).toMatch(/summary: .+\n +description: .+/)
  }
})

test('the board can be provisioned: its data source is a choice, its panels have ids of their own and do not overlap', () => {
  const { panels } = board()
  expect(new Set(panels.map((panel) => panel.id)).size).toBe(panels.length)
  const taken = new Set<string>()
  for (const { title, gridPos } of panels)
    for (let x = gridPos.x; x < gridPos.x + gridPos.w; x++)
      for (let y = gridPos.y; y < gridPos.y + gridPos.h; y++) {
        expect(x < 24 && !taken.has(`${x},${y}`), title).toBe(true)
        taken.add(`${x},${y}`)
      }
  for (const { datasource } of targets(panels)) expect(datasource).toEqual({ type: 'prometheus', uid: '${datasource}' })
  expect(board().templating.list[0]).toMatchObject({ name: 'datasource', type: 'datasource', query: 'prometheus' })
})

const ROOT = fileURLToPath(new URL('..', import.meta.url))

type Target = { refId: string; expr: string; datasource: unknown }
type Panel = { id: number; title: string; gridPos: { x: number; y: number; w: number; h: number }; targets?: Target[] }
type Board = { panels: Panel[]; templating: { list: { query: string | { query: string } }[] } }

function board(): Board {
  return JSON.parse(read('dashboards/grafana/holdfast.json')) as Board
}

function targets(panels: Panel[]): (Target & { panel: Panel })[] {
  return panels.flatMap((panel) => (panel.targets ?? []).map((target) => ({ ...target, panel })))
}

/** Name and text of every rule; cut by hand, because nothing else here needs a YAML parser. */
function rules(): { alert: string; expr: string; text: string }[] {
  return read('dashboards/alerts/holdfast.rules.yml')
    .split(/^ +- alert: /m)
    .slice(1)
    .map((text) => ({ alert: text.split('\n')[0] ?? '', expr: /^ +expr: ([^]*?)^ +(?:for|labels):/m.exec(text)?.[1] ?? '', text }))
}

async function chat(world: World, model: string, tokens: number, signal?: AbortSignal): Promise<void> {
  const response = await world.request(
    'POST',
    '/v1/chat/completions',
    { model, max_tokens: tokens, messages: [{ role: 'user', content: 'say something' }] },
    {},
    signal,
  )
  if (!response.ok) throw new Error(`${response.status} ${await response.text()}`)
  await response.text()
}

/** A real one, with the shipped configuration: only addresses, paths and the pace are others. */
class Prometheus {
  readonly #url: string
  readonly #child: ChildProcess
  readonly #ended: Promise<string>

  private constructor(config: string, dir: string, port: number) {
    this.#url = `http://127.0.0.1:${port}`
    const args = [`--config.file=${config}`, `--storage.tsdb.path=${dir}/data`, `--web.listen-address=127.0.0.1:${port}`]
    this.#child = spawn('prometheus', args, { cwd: dir, stdio: ['ignore', 'ignore', 'pipe'] })
    let said = ''
    this.#child.stderr?.on('data', (data: Buffer) => {
      said = (said + data.toString()).slice(-4_000)
    })
    this.#ended = new Promise((resolve) => this.#child.once('exit', () => resolve(said)))
  }

  static async start(world: World): Promise<Prometheus> {
    const dir = path.join(world.dir, 'prometheus')
    mkdirSync(dir)
    const changes: [string, string][] = [
      ['scrape_interval: 15s', 'scrape_interval: 250ms'],
      ['evaluation_interval: 15s', 'evaluation_interval: 500ms'],
      ['"coordinator:8080"', `"127.0.0.1:${world.httpPort}"`],
      ['/etc/prometheus/rules/', path.join(ROOT, 'dashboards/alerts/')],
    ]
    let config = read('deploy/prometheus/prometheus.yml')
    for (const [from, to] of changes) {
      expect(config).toContain(from)
      config = config.replace(from, to)
    }
    writeFileSync(path.join(dir, 'prometheus.yml'), config)
    const [port = 0] = await freePorts(1)
    const prometheus = new Prometheus(path.join(dir, 'prometheus.yml'), dir, port)
    const ready = world.until('Prometheus is ready', async () => (await fetch(`${prometheus.#url}/-/ready`)).ok)
    const ended = prometheus.#ended.then((said) => {
      throw new Error(`Prometheus ended: ${said}`)
    })
    await Promise.race([ready, ended])
    // Later its end is what `stop` waits for, and no news.
    ended.catch(() => {})
    return prometheus
  }

  async get(target: string): Promise<unknown> {
    const answer = (await (await fetch(this.#url + target)).json()) as { status: string; data: unknown; error?: string }
    if (answer.status !== 'success') throw new Error(`${target}: ${answer.error}`)
    return answer.data
  }

  /** As Grafana asks it, everything chosen; a percentile of nothing is NaN and no data. */
  async hasData(expr: string): Promise<boolean> {
    const query = expr.replaceAll('$__rate_interval', '10s').replaceAll(/\$(worker|model)\b/g, '.*')
    const { result } = (await this.get(`/api/v1/query?query=${encodeURIComponent(query)}`)) as { result: { value: [number, string] }[] }
    return result.some(({ value }) => value[1] !== 'NaN')
  }

  async stop(): Promise<void> {
    this.#child.kill('SIGTERM')
    await this.#ended
  }
}

function read(file: string): string {
  return readFileSync(path.join(ROOT, file), 'utf8')
}
