import {
  type CoordinatorEnd,
  type FromCoordinator,
  PROTOCOL_MAJOR,
  PROTOCOL_MINOR,
  refusals,
  refuse,
  type StartMessage,
  STARTS_SINCE_MINOR,
  type ToldByWorker,
  type ToldHello,
  type ToldHost,
  type ToldModel,
} from '../proto/link.ts'
import { storable } from '../proto/wire.ts'
import type { JobId, WorkerId } from './core/job.ts'
import type { Dispatcher } from './engine/dispatcher.ts'
import type { WorkerLink } from './engine/worker-link.ts'
import { finishReason, holdOf, keptHello, keptHost, keptModels, layer, offerOf, problemWith, readDeltas, words } from './told.ts'

/**
 * The coordinator's end of every worker session: greets, checks what comes in, and hands it to the dispatcher. A worker
 * that speaks another protocol or garbage is refused with a status and a sentence, and touches nothing.
 */
export class WorkerSessions implements WorkerLink {
  readonly #sessions = new Map<WorkerId, Session>()
  readonly #options: SessionOptions
  /** What was told of whom was refused last, by name. */
  readonly #refused = new Map<string, { why: string; atMs: number }>()
  #dispatcher: Dispatcher | undefined

  constructor(options: SessionOptions) {
    this.#options = options
  }

  /** The dispatcher and its link need each other; this closes the circle before the first session. */
  serve(dispatcher: Dispatcher): void {
    this.#dispatcher = dispatcher
  }

  open(end: CoordinatorEnd, token?: string): void {
    let session: Session | undefined
    end.on('data', (told: ToldByWorker) => {
      if (session !== undefined) {
        if (this.#sessions.get(session.worker) === session) this.#hear(session, told)
        return
      }
      session = this.#greet(end, told, token)
    })
    const closed = (): void => {
      if (session === undefined || this.#sessions.get(session.worker) !== session) return
      this.#sessions.delete(session.worker)
      this.#dispatcher?.workerDisconnected(session.worker)
    }
    end.on('error', closed)
    end.on('cancelled', closed)
    end.on('end', () => {
      end.end()
      closed()
    })
  }

  closeAll(): void {
    for (const { end } of this.#sessions.values()) end.end()
  }

  start: WorkerLink['start'] = (worker, { job, attempt, model, request, continuation }) => {
    const session = this.#sessions.get(worker)
    if (session === undefined) return
    const start = { job, attempt, model, request, continuation }
    session.started += 1
    if (session.started === 1) setImmediate(() => this.#endTurn(session))
    // Alone it leaves at once, before the writer's statement is made; of many, a message costs more than what is in it.
    if (session.started === 1 && !session.startsMany) {
      session.end.write({ start })
      return
    }
    session.starts.push(start)
    if (session.starts.length >= STARTS_MAX || request.length > LARGE_REQUEST) sendStarts(session)
  }

  #endTurn(session: Session): void {
    session.startsMany = session.started > 1
    session.started = 0
    if (this.#sessions.get(session.worker) === session) sendStarts(session)
  }

  cancel: WorkerLink['cancel'] = (worker, job, attempt) => {
    this.#write(worker, { cancel: { job, attempt } })
  }

  resume: WorkerLink['resume'] = (worker, job, attempt, first) => {
    this.#write(worker, { resume: { job, attempt, first } })
  }

  /** Behind what was started before: it may be about that. */
  #write(worker: WorkerId, message: FromCoordinator): void {
    const session = this.#sessions.get(worker)
    if (session === undefined) return
    sendStarts(session)
    session.end.write(message)
  }

  acknowledge: WorkerLink['acknowledge'] = (worker, job, attempt) => {
    const session = this.#sessions.get(worker)
    if (session === undefined) return
    session.acknowledged.push({ job, attempt })
    if (session.acknowledged.length > 1) return
    // Nobody waits for it: the worker keeps a few answers for a moment longer, and one message tells of some dozens.
    setTimeout(() => {
      if (this.#sessions.get(worker) === session) session.end.write({ acknowledge: { attempts: session.acknowledged.splice(0) } })
    }, ACKNOWLEDGE_MS)
  }

  /** Keys have changed: whose token is not in force any more is not listened to. */
  judge(admits: (token: string) => boolean): void {
    for (const { worker, token } of [...this.#sessions.values()]) if (token !== undefined && !admits(token)) this.cutOff(worker)
  }

  drop: WorkerLink['drop'] = (worker) => {
    const session = this.#sessions.get(worker)
    if (session === undefined) return
    this.#sessions.delete(worker)
    session.end.end()
  }

  /** Asks it to finish what it runs and go; false when it is not connected. */
  drain(worker: WorkerId): boolean {
    if (!this.#sessions.has(worker)) return false
    this.#write(worker, { drain: {} })
    // What comes from here on goes elsewhere; it would say so itself in a moment.
    this.#dispatcher?.workerDraining(worker)
    return true
  }

  /** It is not listened to any more; what it ran goes on elsewhere. */
  cutOff(worker: WorkerId): void {
    if (!this.#sessions.has(worker)) return
    this.drop(worker)
    this.#dispatcher?.workerDisconnected(worker)
  }

  #greet(end: CoordinatorEnd, told: ToldByWorker, token: string | undefined): Session | undefined {
    if (told.hello === null || told.hello === undefined) {
      this.#refuse(end, refusals.garbage, 'The first message of a session must be Hello.', null)
      return undefined
    }
    const problem = problemWith(told.hello)
    const hello = keptHello(told.hello)
    if (problem !== undefined) {
      this.#refuse(end, hello.protocolMajor === PROTOCOL_MAJOR ? refusals.garbage : refusals.protocol, problem, hello.name)
      return undefined
    }
    const worker = hello.worker as WorkerId
    const unwanted = this.#options.refusal?.(worker, token)
    if (unwanted !== undefined) {
      this.#refuse(end, refusals.unwanted, unwanted, hello.name)
      return undefined
    }
    const namesake = [...this.#sessions.values()].find((other) => other.name === hello.name && other.worker !== worker)
    if (namesake !== undefined) {
      this.#refuse(
        end,
        refusals.nameTaken,
        `Another worker named "${hello.name}" is connected: set HOLDFAST_WORKER_NAME to a name of its own.`,
        hello.name,
      )
      return undefined
    }
    if (this.#options.isTaken?.(hello.name) === true) {
      this.#refuse(
        end,
        refusals.nameTaken,
        `A cloud provider is named "${hello.name}", and requests are pinned to providers by name: set HOLDFAST_WORKER_NAME to another.`,
        hello.name,
      )
      return undefined
    }
    const present = this.#sessions.get(worker)
    if (present?.displaced.has(hello.session) === true) {
      this.#refuse(
        end,
        refusals.identityTaken,
        `Two processes have this worker's identity, this one and the one that is connected as "${present.name}": a data folder was copied. Give one of them its own HOLDFAST_DATA_DIR, or delete worker.id in it.`,
        hello.name,
      )
      return undefined
    }
    // The same process, by another of its addresses: each would push the other out, and end what that one runs.
    if (present?.process === hello.session && present.link !== hello.link) {
      this.#refuse(
        end,
        refusals.secondAddress,
        'This worker is connected already, by another of its addresses: HOLDFAST_COORDINATOR needs one of them. This one is tried again in case the other fails.',
        hello.name,
      )
      return undefined
    }
    // The same identity again: the old stream is half open, or its process is frozen. The newcomer is the one that speaks.
    present?.end.end()
    const session: Session = {
      worker,
      process: hello.session,
      link: hello.link,
      displaced: displacedBy(hello.session, present),
      name: hello.name,
      token,
      end,
      outputsTaken: 0,
      acknowledged: [],
      started: 0,
      startsMany: false,
      starts: [],
      takesStarts: hello.protocolMinor >= STARTS_SINCE_MINOR,
    }
    this.#sessions.set(worker, session)
    end.write({
      welcome: {
        protocolMajor: PROTOCOL_MAJOR,
        protocolMinor: PROTOCOL_MINOR,
        coordinator: this.#options.coordinator,
        heartbeatIntervalMs: this.#options.heartbeatIntervalMs,
        deadAfterMs: this.#options.deadAfterMs,
      },
    })
    const held = hello.held.map(({ job, attempt }) => ({ job: job as JobId, attempt }))
    this.#dispatcher?.workerConnected(worker, hello.name, hello.models.map(offerOf), held, hello.draining)
    this.#options.onHello(worker, hello)
    return session
  }

  #refuse(end: CoordinatorEnd, code: number, why: string, name: string | null): void {
    refuse(end, code, why)
    // It dials again every few seconds.
    const nowMs = performance.now()
    const said = this.#refused.get(name ?? '')
    if (said?.why === why && nowMs - said.atMs < SAY_AGAIN_MS) return
    if (this.#refused.size >= REFUSED_MAX) this.#refused.clear()
    this.#refused.set(name ?? '', { why, atMs: nowMs })
    this.#options.onRefused(name, why)
  }

  #takeOutput(session: Session, dispatcher: Dispatcher, output: NonNullable<ToldByWorker['output']>): void {
    const { worker } = session
    for (const chunk of output.chunks)
      dispatcher.attemptGrew(worker, {
        ...chunk,
        promptTokens: storable(chunk.promptTokens),
        cachedTokens: storable(chunk.cachedTokens),
        job: chunk.job as JobId,
        ...(chunk.delta === '' ? {} : { deltas: readDeltas(chunk.delta) }),
      })
    for (const end of output.finished)
      dispatcher.attemptFinished(worker, {
        ...end,
        promptTokens: storable(end.promptTokens),
        completionTokens: storable(end.completionTokens),
        cachedTokens: storable(end.cachedTokens),
        job: end.job as JobId,
        finishReason: finishReason(end.finishReason),
        stopSequence: end.stopSequence === '' ? null : end.stopSequence,
        reasoningTokens: end.reasoningTokens === 0 ? null : end.reasoningTokens,
        ...(end.delta === '' ? {} : { deltas: readDeltas(end.delta) }),
      })
    for (const { job, attempt, code, message, retryable, ...told } of output.failed) {
      const status = told.providerStatus === 0 ? {} : { providerStatus: told.providerStatus }
      const error = { code: words(code, 64), message: words(message, 2_000), layer: layer(told.layer), retryable, ...status }
      dispatcher.attemptFailed(worker, { job: job as JobId, attempt }, error, holdOf(error, told.retryAtMs))
    }
    session.outputsTaken += 1
    if (session.outputsTaken % RECEIPT_EVERY === 0) session.end.write({ received: { outputs: session.outputsTaken } })
  }

  #hear(session: Session, told: ToldByWorker): void {
    const { worker } = session
    const dispatcher = this.#dispatcher
    if (dispatcher === undefined) return
    switch (told.message) {
      case 'output':
        if (told.output) this.#takeOutput(session, dispatcher, told.output)
        break
      case 'refused':
        if (told.refused) {
          const { job, attempt, reason } = told.refused
          dispatcher.attemptRefused(worker, { job: job as JobId, attempt, reason: words(reason, 200) })
        }
        break
      case 'heartbeat':
        if (told.heartbeat) {
          const models = keptModels(told.heartbeat.models)
          this.#options.onHeartbeat(worker, models, keptHost(told.heartbeat.host))
          dispatcher.workerReported(worker, models.map(offerOf))
        }
        break
      case 'draining':
        dispatcher.workerDraining(worker)
        break
      default:
        // A message of a newer minor version: it may be ignored, that is what minor means.
        break
    }
  }
}

export type SessionOptions = {
  coordinator: string
  heartbeatIntervalMs: number
  deadAfterMs: number
  onHello(worker: WorkerId, hello: ToldHello): void
  onHeartbeat(worker: WorkerId, models: ToldModel[], host: ToldHost | null): void
  onRefused(name: string | null, why: string): void
  /** Why the worker may not be here, or not with this token; undefined: it may. */
  refusal?(worker: WorkerId, token: string | undefined): string | undefined
  /** Whether a provider that is no worker has the name. */
  isTaken?(name: string): boolean
}

type Session = {
  worker: WorkerId
  name: string
  /** What it came with. */
  token: string | undefined
  /** Hello.session: tells a process that dials again from another one. */
  process: string
  /** Hello.link: by which of its addresses it dialled. */
  link: string
  /** Processes whose place it has taken: one that has ended does not come back, so one that does was no predecessor. */
  displaced: ReadonlySet<string>
  end: CoordinatorEnd
  outputsTaken: number
  acknowledged: { job: JobId; attempt: number }[]
  /** In this turn of the event loop. */
  started: number
  /** The last turn in which it was given anything gave it more than one. */
  startsMany: boolean
  /** Of what this turn has started, what has not left: it leaves in one message. */
  starts: StartMessage[]
  takesStarts: boolean
}

function displacedBy(newcomer: string, present: Session | undefined): ReadonlySet<string> {
  if (present === undefined) return new Set()
  if (present.process === newcomer) return present.displaced
  return new Set([...present.displaced, present.process].slice(-DISPLACED_MAX))
}

const SAY_AGAIN_MS = 600_000
const REFUSED_MAX = 1_000

// As many hosts as one copied folder is worth telling apart.
const DISPLACED_MAX = 100

function sendStarts({ starts, takesStarts, end }: Session): void {
  if (starts.length === 0) return
  const attempts = starts.splice(0)
  if (takesStarts) end.write({ starts: { attempts } })
  else for (const start of attempts) end.write({ start })
}

// The worker keeps at most 256 output messages on the way (worker/link.ts); receipts come well before that.
const RECEIPT_EVERY = 32
const ACKNOWLEDGE_MS = 10
// A message holds 64 MiB (proto/link.ts) and a request half of that.
const STARTS_MAX = 64
const LARGE_REQUEST = 65_536
