import { type ChildProcess, spawn } from 'node:child_process'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type { ReadyModel } from '../proto/ready-model.ts'
import { readCoordinatorConfig } from './config.ts'
import { Fault } from './core/fault.ts'

/**
 * `npm start`: a coordinator and one worker as child processes, their output told to a person, until SIGTERM or Ctrl-C.
 * Both children also stop when this process dies, because the channel to it closes.
 */
export async function runUp(env: NodeJS.ProcessEnv): Promise<void> {
  const config = readCoordinatorConfig(env)
  // A reader that left, or a full disk behind it, ends nothing here.
  process.stdout.on('error', () => {})
  console.log(`Starting Holdfast in ${config.dataDir}.`)
  const children = new Map<string, ChildProcess>()
  let stopping = false
  const stop = (): void => {
    if (stopping) return
    stopping = true
    for (const child of children.values()) child.kill('SIGTERM')
    // A frozen process hears no wish.
    setTimeout(() => {
      for (const [name, child] of children) {
        console.log(`The ${name} does not stop: it is ended.`)
        child.kill('SIGKILL')
      }
    }, config.drainTimeoutMs + STOP_LATE_MS).unref()
  }
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, stop)
  const watch = stopWithNpm(env, stop)

  const ended = new Promise<string | null>((resolve) => {
    const launch = (name: string): void => {
      const child = startChild(name, {
        ...env,
        HOLDFAST_COORDINATOR: env.HOLDFAST_COORDINATOR?.trim() || `${reachable(config.host)}:${config.grpcPort}`,
      })
      children.set(name, child)
      // There is no process at the limit of processes or open files.
      child.once('error', (error) => {
        if (child.pid !== undefined) return
        children.delete(name)
        resolve(`The ${name} could not be started (${error.message}).`)
        stop()
      })
      child.once('exit', (code, signal) => {
        if (!children.delete(name)) return
        // One that was drained has done as it was told, and who drained it may want the coordinator for other workers.
        if (!stopping && name === 'worker' && code === 0)
          console.log('The local worker was drained and has ended; the coordinator serves on. Start anew to have a worker again.')
        // One without the other serves nobody: what ends by itself ends both, and says so.
        else if (!stopping) {
          resolve(`The ${name} ended (${signal ?? `exit status ${code}`}).`)
          stop()
        }
        if (children.size === 0) resolve(null)
      })
      // Each says itself that it is ready: at the coordinator's address another one may be listening, and before the worker
      // serves its models the line we print would not work.
      child.once('message', (told) => {
        if (stopping) return
        if (name === 'coordinator') launch('worker')
        else announce(config, told as ReadyModel[])
      })
    }
    launch('coordinator')
  })
  const why = await ended
  clearInterval(watch)
  await Promise.all([...children.values()].map((child) => new Promise((resolve) => child.once('exit', resolve))))
  if (why !== null) throw new Fault('ended', why)
  console.log('Stopped.')
}

/** npm that is told to stop, alone, goes without a word to what it started: only its absence tells. */
function stopWithNpm(env: NodeJS.ProcessEnv, stop: () => void): NodeJS.Timeout | undefined {
  if (env.npm_lifecycle_event === undefined) return undefined
  const npm = process.ppid
  return setInterval(() => {
    if (process.ppid !== npm) stop()
  }, PARENT_LOOK_MS)
}

const PARENT_LOOK_MS = 250
// Beyond the drain the coordinator waits for its last rows, and PostgreSQL for its own.
const STOP_LATE_MS = 15_000

/** Where a door bound to this address can be knocked at from the same host. */
function reachable(host: string): string {
  if (host === '0.0.0.0' || host === '::') return '127.0.0.1'
  return host.includes(':') ? `[${host}]` : host
}

function startChild(name: string, env: NodeJS.ProcessEnv): ChildProcess {
  const cli = fileURLToPath(new URL('cli.ts', import.meta.url))
  const child = spawn(process.execPath, [...process.execArgv, cli, name], { env, stdio: ['ignore', 'pipe', 'pipe', 'ipc'] })
  for (const stream of [child.stdout, child.stderr])
    if (stream != null) createInterface({ input: stream }).on('line', (line) => console.log(`[${name}] ${readable(line)}`))
  return child
}

/** The message of a log line; anything else as it is. */
function readable(line: string): string {
  if (!line.startsWith('{')) return line
  try {
    const { msg, level } = JSON.parse(line) as { msg?: string; level?: number }
    return `${(level ?? 30) >= 40 ? 'WARNING: ' : ''}${msg ?? line}`
  } catch {
    // Cut short by a crash: still worth reading.
    return line
  }
}

function announce(config: ReturnType<typeof readCoordinatorConfig>, models: ReadyModel[]): void {
  const url = `http://${reachable(config.host)}:${config.httpPort}`
  const keyFile = path.join(config.dataDir, 'admin.key')
  const fromSetting = config.adminKey !== undefined
  const isToy = (process.env.HOLDFAST_MODELS ?? '').trim() === ''
  const down = models.filter(({ isServed }) => !isServed)
  const { name: model = 'tiny' } = models.find(({ isServed, writes }) => isServed && writes) ?? models.find(({ writes }) => writes) ?? {}
  const key = fromSetting ? '$HOLDFAST_ADMIN_KEY' : `$(cat '${keyFile}')`
  const body = JSON.stringify({ model, messages: [{ role: 'user', content: 'Tell me about the queue.' }] })
  for (const { name, why } of down) console.log(`WARNING: Model "${name}" is not served yet: ${why}.`)
  console.log(`
Holdfast is ready at ${url}
The admin key ${fromSetting ? 'is the one in HOLDFAST_ADMIN_KEY' : `lies in ${keyFile}`}
Try it:

  curl ${url}/v1/chat/completions -H "authorization: Bearer ${key}" -H 'content-type: application/json' -d '${body}'
${isToy ? TOY : ''}
Ctrl-C stops everything.
`)
}

const TOY = `
The built-in model "tiny" is a toy that tries the plumbing. To serve a real one:

  HOLDFAST_MODELS="qwen=/path/to/model.gguf?slots=4" npm start
`
