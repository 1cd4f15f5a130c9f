import { randomUUID } from 'node:crypto'
import { existsSync } from 'node:fs'
import path from 'node:path'
import { pino } from 'pino'
import { LogOutput } from '../proto/log-output.ts'
import type { ReadyModel } from '../proto/ready-model.ts'
import { secretIn, SettingError } from '../proto/settings.ts'
import { readWorkerConfig, type WorkerConfig } from './config.ts'
import { HostTelemetry } from './host.ts'
import { claimIdentity } from './identity.ts'
import { CoordinatorLink } from './link.ts'
import { openModel } from './models.ts'
import { Slots } from './slots.ts'

/**
 * Runs a worker until it is told to stop, then drains: nothing new, what runs gets the drain timeout to finish, what is
 * left goes back to the coordinator, which continues it elsewhere. Resolves when every process is gone.
 */
export async function runWorker(env: NodeJS.ProcessEnv, version: string): Promise<void> {
  const config = readWorkerConfig(env)
  const output = new LogOutput()
  const logger = pino({ level: config.logLevel, base: { process: 'worker', worker: config.name } }, output)
  const log = {
    info: (text: string) => logger.info(text),
    warn: (text: string) => logger.warn(text),
    error: (text: string) => logger.error(text),
    debug: (text: string) => logger.debug(text),
  }
  const id = claimIdentity(config.dataDir)
  const token = tokenOf(config)
  const host = new HostTelemetry(log.warn)
  const slots = new Slots()
  const links: CoordinatorLink[] = []
  const tellWhenReady = readyTeller(slots, () => links.some((link) => link.connected))
  const changed = (): void => {
    for (const link of links) link.report()
    tellWhenReady()
  }
  let opened = false
  // To hash a large model takes minutes. What is being opened ends with this process.
  const stopped = stopRequest(() => (opened ? drain() : process.exit(0)))
  for (const spec of config.models) slots.add(await openModel(spec, config.dataDir, log, changed))
  opened = true
  host.start()

  const facts = {
    id,
    name: config.name,
    session: randomUUID(),
    version,
    log,
    models: () => slots.models(),
    host: () => host.latest(),
    onDrain: stopped.request,
    onConnected: tellWhenReady,
    // Of two addresses of one coordinator the second takes over: what the first holds was not named in the greeting.
    onWelcomed: (link: CoordinatorLink, coordinator: string) => {
      for (const other of links) if (other !== link && !other.connected && other.coordinator === coordinator) other.abandon()
    },
    giveUp: (key: string) => {
      for (const link of links) {
        const attempt = link.giveUp(key)
        if (attempt !== undefined) return attempt
      }
      return undefined
    },
  }
  for (const address of config.coordinators) links.push(new CoordinatorLink(address, token, slots, facts))
  for (const link of links) link.open()
  log.info(
    `Worker "${config.name}" serves ${config.models.map((model) => model.name).join(', ')}; dialling ${config.coordinators.join(', ')}.`,
  )

  const drain = async (): Promise<void> => {
    log.info(`Draining: ${slots.busy} running.`)
    slots.draining = true
    for (const link of links) link.drain()
    const handBack = setTimeout(() => {
      for (const link of links) link.handBack()
    }, config.drainTimeoutMs)
    // After handing back a moment remains for the coordinator to say that it has it.
    const giveUp = new Promise((resolve) => setTimeout(resolve, config.drainTimeoutMs + HAND_BACK_MS).unref())
    await Promise.race([allQuiet(links), giveUp])
    clearTimeout(handBack)
    await Promise.all(links.map((link) => link.close()))
    host.stop()
    await slots.close()
    log.info('Stopped.')
    await output.drained()
  }
  await stopped.done
}

const HAND_BACK_MS = 1_500

/** What one session holds, another may be asked for while it waits. */
async function allQuiet(links: readonly CoordinatorLink[]): Promise<void> {
  while (!links.every((link) => link.isQuiet)) await Promise.all(links.map((link) => link.quiet()))
}

/** Tells the process that started this one, once, that no model is on its way any more: which are served, and why the others are not. */
function readyTeller(slots: Slots, connected: () => boolean): () => void {
  let told = false
  return () => {
    const models = slots.models()
    if (told || !connected() || models.some(({ state }) => state === 'loading')) return
    told = true
    const ready: ReadyModel[] = models.map(({ name, state, detail, abilities }) => ({
      name: name ?? '',
      isServed: state === 'ready',
      why: detail ?? '',
      writes: abilities?.length === 0 || abilities?.some((ability) => ability !== 'embeddings' && ability !== 'rerank') === true,
    }))
    if (process.connected) process.send?.(ready, () => {})
  }
}

/** SIGTERM and SIGINT ask once; `up` and a terminal's Ctrl-C may both deliver the same wish. */
function stopRequest(drain: () => Promise<void>): { request: () => void; done: Promise<void> } {
  let requested = false
  let resolve: () => void = () => {}
  let reject: (error: unknown) => void = () => {}
  const done = new Promise<void>((yes, no) => {
    resolve = yes
    reject = no
  })
  const request = (): void => {
    if (requested) return
    requested = true
    drain().then(resolve, reject)
  }
  for (const signal of ['SIGTERM', 'SIGINT', 'disconnect'] as const) process.on(signal, request)
  // The one that started this one may have died before anybody listened.
  if (process.send !== undefined && !process.connected) request()
  return { request, done }
}

/** The setting, or the file that a coordinator on the same data directory made. */
function tokenOf(config: WorkerConfig): string {
  if (config.token !== undefined) return config.token
  const file = path.join(config.dataDir, 'worker.token')
  if (existsSync(file)) return secretIn(file)
  throw new SettingError('HOLDFAST_WORKER_TOKEN', `must be the token the coordinator uses: there is none in ${file} either.`)
}
