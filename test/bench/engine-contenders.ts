import { type ChildProcess, fork, spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { openLlamaEngine } from '../../worker/engines/llama.ts'
import type { PeerNews, PeerOrder } from './engine-peer.ts'

/** Something that serves streams of one model; times are of `Date`'s clock in milliseconds, with fractions. */
export interface Contender {
  readonly name: string
  /** `key` is the slot where the contender lets its caller choose one. */
  start(prompt: string, maxTokens: number, slot: number, heard: Heard): { cancel(): void }
  close(): Promise<void>
}

export type Heard = { token: (at: number) => void; end: (at: number, promptTokens: number) => void }

export type ContenderSettings = { model: string; slots: number; contextTokens: number; threads: number }

export function wallClock(): number {
  return performance.timeOrigin + performance.now()
}

export async function openEngine({ model, ...sizes }: ContenderSettings): Promise<Contender> {
  const log = { info: () => {}, warn: (message: string) => console.error(message), error: (message: string) => console.error(message) }
  let changed: () => void = () => {}
  const engine = openLlamaEngine({ name: 'bench', path: model, sha256: '', ...sizes, log }, () => changed())
  while (engine.state().phase !== 'ready') await new Promise<void>((resolve) => (changed = resolve))
  return {
    name: 'holdfast',
    start: (text, maxTokens, _slot, heard) =>
      engine.generate('bench', { prompt: { kind: 'text', text }, maxTokens, stop: [], sampling: { temperature: 0 }, seed: 1 }, [], {
        accepted: () => {},
        tokens: (ids) => ids.forEach(() => heard.token(wallClock())),
        finished: ({ promptTokens }) => heard.end(wallClock(), promptTokens),
        failed: ({ message }) => {
          throw new Error(message)
        },
      }),
    close: () => engine.close(),
  }
}

/** node-llama-cpp as its documentation uses it: one generator a stream, each running freely. */
export async function openFreeRunning(settings: ContenderSettings): Promise<Contender> {
  const child = fork(fileURLToPath(new URL('engine-peer.ts', import.meta.url)), [JSON.stringify(settings)], { execArgv: [] })
  const streams = new Map<number, Heard>()
  await once(child, 'message')
  child.on('message', (news: PeerNews[]) => {
    for (const { id, at, end } of news) {
      if (end === undefined) streams.get(id)?.token(at)
      else streams.get(id)?.end(at, end)
    }
  })
  let nextId = 0
  const order = (message: PeerOrder): void => void child.send(message)
  return {
    name: 'evaluate',
    start: (prompt, maxTokens, slot, heard) => {
      const id = nextId++
      streams.set(id, heard)
      order({ kind: 'start', id, prompt, maxTokens, slot })
      return { cancel: () => order({ kind: 'cancel', id }) }
    },
    close: () => killed(child),
  }
}

/** llama.cpp's own server, from the binary that HOLDFAST_BENCH_LLAMA_SERVER names. */
export async function openLlamaServer(binary: string, { model, slots, contextTokens, threads }: ContenderSettings): Promise<Contender> {
  const port = 18_000 + Math.floor(Math.random() * 10_000)
  const sizes = ['-np', slots, '-c', slots * contextTokens, '-t', threads, '--port', port].map(String)
  const child = spawn(binary, ['-m', model, '--no-webui', '--no-kv-unified', ...sizes], { stdio: 'ignore' })
  const url = `http://127.0.0.1:${port}`
  while (!(await isHealthy(url))) {
    if (child.exitCode !== null) throw new Error(`${binary} exited with code ${child.exitCode}`)
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  return {
    name: 'llama-server',
    start: (prompt, maxTokens, slot, heard) => {
      const abort = new AbortController()
      // A cancelled request rejects; when its slot is free cannot be seen from here.
      streamCompletion(url, { prompt, n_predict: maxTokens, id_slot: slot, temperature: 0, stream: true }, heard, abort.signal).catch(() =>
        heard.end(wallClock(), 0),
      )
      return { cancel: () => abort.abort() }
    },
    close: () => killed(child),
  }
}

async function isHealthy(url: string): Promise<boolean> {
  return fetch(`${url}/health`).then(
    ({ ok }) => ok,
    () => false,
  )
}

async function streamCompletion(url: string, body: object, heard: Heard, signal: AbortSignal): Promise<void> {
  const { body: stream } = await fetch(`${url}/completion`, { method: 'POST', body: JSON.stringify(body), signal })
  const decoder = new TextDecoder()
  let pending = ''
  for await (const bytes of stream!) {
    const lines = (pending + decoder.decode(bytes, { stream: true })).split('\n')
    pending = lines.pop()!
    for (const line of lines) hearEvent(line, heard)
  }
}

function hearEvent(line: string, heard: Heard): void {
  if (!line.startsWith('data: ')) return
  const event = JSON.parse(line.slice('data: '.length)) as { stop: boolean; tokens: number[]; tokens_evaluated: number }
  for (const _ of event.tokens ?? []) heard.token(wallClock())
  if (event.stop) heard.end(wallClock(), event.tokens_evaluated)
}

async function killed(child: ChildProcess): Promise<void> {
  const exited = once(child, 'exit')
  child.kill('SIGKILL')
  await exited
}
