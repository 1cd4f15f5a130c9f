import { readFileSync } from 'node:fs'
import http from 'node:http'
import pg from 'pg'
import { descendants } from '../support/world.ts'

/** What the benches share: load over kept-alive connections, CPU and memory of process trees, and how tables look. */

export type Load = { requestsPerSecond: number; p50Ms: number; p99Ms: number; count: number }

/** Closed loop: each connection sends its next request when the last one is answered. */
export async function loadRequests(
  url: string,
  headers: Record<string, string>,
  body: string,
  connections: number,
  seconds: number,
): Promise<Load> {
  const tookMs: number[] = []
  const endMs = performance.now() + seconds * 1000
  const began = performance.now()
  await Promise.all(
    Array.from({ length: connections }, async () => {
      const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
      while (performance.now() < endMs) {
        const sent = performance.now()
        const status = await post(url, headers, body, agent)
        if (status !== 200) throw new Error(`answered ${status}`)
        tookMs.push(performance.now() - sent)
      }
      agent.destroy()
    }),
  )
  tookMs.sort((a, b) => a - b)
  return {
    requestsPerSecond: (tookMs.length * 1000) / (performance.now() - began),
    p50Ms: quantile(tookMs, 0.5),
    p99Ms: quantile(tookMs, 0.99),
    count: tookMs.length,
  }
}

function post(url: string, headers: Record<string, string>, body: string, agent: http.Agent): Promise<number> {
  return new Promise((resolve, reject) => {
    const request = http.request(
      url,
      { method: 'POST', agent, headers: { ...headers, 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) } },
      (response) => {
        response.on('data', () => {})
        response.on('end', () => resolve(response.statusCode ?? 0))
        response.on('error', reject)
      },
    )
    request.on('error', reject)
    request.end(body)
  })
}

export function quantile(sorted: number[], q: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))] ?? Number.NaN
}

/** CPU seconds so far of a process and everything below it. */
export function cpuSeconds(pids: number[], withDescendants = true): number {
  let ticks = 0
  for (const pid of withDescendants ? pids.flatMap((root) => [root, ...descendants(root)]) : pids) {
    try {
      const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? []
      // utime and stime.
      ticks += [11, 12].reduce((sum, index) => sum + Number(fields[index]), 0)
    } catch {
      // Ended meanwhile.
    }
  }
  return ticks / 100
}

/** The PostgreSQL of a coordinator: its children that are called so. */
export function postgresOf(coordinator: number): number[] {
  return descendants(coordinator).filter((pid) => {
    try {
      return readFileSync(`/proc/${pid}/comm`, 'utf8').startsWith('postgres')
    } catch {
      // Ended meanwhile.
      return false
    }
  })
}

export function peakRssMiB(pid: number): number {
  return Number(/^VmHWM:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1024
}

/** R1: single-row commits a second on one connection of the same PostgreSQL. */
export async function commitsPerSecond(socketDir: string, seconds: number): Promise<number> {
  const client = new pg.Client({ host: socketDir, user: 'holdfast', database: 'holdfast' })
  await client.connect()
  await client.query('create table if not exists bench_commits (id bigint generated always as identity primary key, note text)')
  const endMs = performance.now() + seconds * 1000
  let count = 0
  while (performance.now() < endMs) {
    await client.query({ name: 'commit', text: 'insert into bench_commits (note) values ($1)', values: ['x'] })
    count += 1
  }
  await client.query('drop table bench_commits')
  await client.end()
  return count / seconds
}

export function printTable(title: string, rows: Record<string, string | number>[]): void {
  const columns = Object.keys(rows[0] ?? {})
  console.log(`\n### ${title}\n\n| ${columns.join(' | ')} |\n|${columns.map(() => '---').join('|')}|`)
  for (const row of rows) console.log(`| ${columns.map((column) => show(row[column] ?? '')).join(' | ')} |`)
}

function show(value: string | number): string {
  if (typeof value === 'string') return value
  if (Math.abs(value) >= 1000) return Math.round(value).toLocaleString('en-US')
  return value.toPrecision(3)
}

/** With HOLDFAST_BENCH_PROFILE the coordinator leaves a CPU profile in that folder when it stops. */
export function profiled(): Record<string, string> {
  const dir = process.env.HOLDFAST_BENCH_PROFILE
  return dir === undefined ? {} : { NODE_OPTIONS: `--cpu-prof --cpu-prof-dir=${dir}` }
}
