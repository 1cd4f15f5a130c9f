import { FREE } from './free-terms.ts'
import { Fault } from '../../coordinator/core/fault.ts'
import type { JobId, JobRecord, WorkerId } from '../../coordinator/core/job.ts'
import type { Effect } from '../../coordinator/core/effects.ts'
import type { Input, SchedulerRules, TeamRules } from '../../coordinator/core/inputs.ts'
import { Scheduler } from '../../coordinator/core/scheduler.ts'
import { Dispatcher } from '../../coordinator/engine/dispatcher.ts'
import type { WorkerLink } from '../../coordinator/engine/worker-link.ts'
import { WorkerSessions } from '../../coordinator/link.ts'
import { offerOf } from '../../coordinator/told.ts'
import type { Writer } from '../../coordinator/store/writer.ts'
import { type SimulatedDatabase, SimulatedWriter } from './simulated-database.ts'
import { SimulatedJudge } from './simulated-judge.ts'
import type { SimulatedNetwork } from './simulated-network.ts'
import { Soon } from './simulated-promise.ts'
import { SimulatedProcess, type VirtualTime } from './simulated-time.ts'
import { RULES } from './simulation.ts'

// A third of the product's times, so that a scenario of a minute holds many deaths.
const HASTY_RULES: SchedulerRules = {
  ...RULES,
  suspectAfterMs: 4_000,
  deadAfterMs: 6_000,
  recoveryGraceMs: 2_500,
  firstTokenTimeoutMs: 7_000,
  nextTokenTimeoutMs: 5_000,
  breakerFailures: 3,
  breakerOpenMs: 2_000,
  breakerMaxMs: 6_000,
}

export type CoordinatorParts = {
  time: VirtualTime
  network: SimulatedNetwork
  database: SimulatedDatabase
  teams: readonly TeamRules[]
  /** How far the clock is ahead of virtual time. */
  clockAheadMs: () => number
  onDecided: (input: Input, effects: Effect[]) => void
}

/** One life of a coordinator: the real scheduler, dispatcher and sessions, put together as coordinator/main.ts does. */
export class SimulatedCoordinator {
  readonly process: SimulatedProcess
  readonly dispatcher: Dispatcher
  readonly scheduler: Scheduler
  readonly judge: SimulatedJudge
  readonly writer: SimulatedWriter
  readonly #parts: CoordinatorParts
  readonly #sessions: WorkerSessions
  readonly #id: string
  stopping = false

  constructor(parts: CoordinatorParts, life: number) {
    const { database, time } = parts
    this.#parts = parts
    this.#id = `coordinator-${life}`
    this.process = new SimulatedProcess(time)
    this.writer = new SimulatedWriter(database, time)
    this.judge = new SimulatedJudge(HASTY_RULES)
    this.scheduler = new WatchedScheduler(HASTY_RULES, this.judge, parts.onDecided)
    this.judge.watch(this.scheduler)
    this.#sessions = new WorkerSessions({
      coordinator: this.#id,
      heartbeatIntervalMs: 1_500,
      deadAfterMs: HASTY_RULES.deadAfterMs,
      onHello: (worker, hello) => database.workers.set(worker, { name: hello.name, offers: hello.models.map(offerOf) }),
      onHeartbeat: () => {},
      onRefused: () => {},
    })
    let events = 0
    this.dispatcher = new Dispatcher(this.scheduler, this.writer as unknown as Writer, {
      coordinator: this.#id,
      now: () => this.now(),
      link: this.#watchedLink(),
      readRequest: (job) => this.#readRequest(job),
      newEvent: (type, actor, details) => {
        const id = `${this.#id}-${++events}`
        return { id, atMs: this.now(), type, actor, team: null, job: null, provider: null, worker: null, traceId: null, details }
      },
      policyOf: () => null,
      termsOf: () => FREE.terms,
      onHeld: () => {},
      onStarted: () => {},
      onDispatched: () => {},
      onFirstToken: () => {},
      onEnded: () => {},
      onEndStored: () => {},
      onPaid: () => {},
      onStale: () => {},
      onBreaker: () => {},
      onWorkerState: () => {},
      onWorkerReplaced: (worker) => database.workers.delete(worker),
    })
    this.#sessions.serve(this.dispatcher)
    this.process.run(() => this.#start())
  }

  get canAnswer(): boolean {
    return !this.process.frozen && !this.stopping
  }

  now(): number {
    return EPOCH_MS + this.#parts.time.nowMs + this.#parts.clockAheadMs()
  }

  /** kill -9. */
  crash(): void {
    this.process.alive = false
    this.writer.crash()
    this.#parts.network.coordinatorDied()
  }

  /** SIGTERM with no time to drain: sessions close, nothing is decided any more, what was decided is written. */
  stop(onStopped: () => void): void {
    this.stopping = true
    this.process.run(() => {
      this.#sessions.closeAll()
      this.#parts.network.coordinatorDied()
      this.dispatcher.stop()
      const end = (): void => {
        if (!this.writer.idle) {
          setTimeout(end, 10)
          return
        }
        this.crash()
        onStopped()
      }
      setTimeout(end, 10)
    })
  }

  #start(): void {
    const { database, network, teams } = this.#parts
    for (const [worker, { name, offers }] of database.workers) this.dispatcher.knowWorker(worker, name, offers)
    for (const record of this.#adopt()) this.dispatcher.recover(record, database.readProgress(record.id), false)
    for (const team of teams) this.dispatcher.setTeam(team)
    this.dispatcher.start()
    network.listen(this.process, (end) => this.#sessions.open(end))
  }

  /** As adoptJobs of store/jobs.ts: the living rows are this coordinator's now. */
  #adopt(): JobRecord[] {
    const { jobs } = this.#parts.database
    const living = [...jobs.values()].filter(({ status }) => status === 'queued' || status === 'running')
    const adopted = living.map((row) => ({ ...row, owner: this.#id, version: row.version + 1 }))
    for (const row of adopted) jobs.set(row.id, { ...row })
    return adopted
  }

  #readRequest(job: JobId): Promise<string> {
    const { database, time } = this.#parts
    const answer = new Soon<string>()
    time.after(time.chance.between(1, 5), () => {
      if (database.down) answer.reject(new Fault('database_unavailable', 'PostgreSQL is away.', { retryable: true }))
      else answer.resolve(database.requests.get(job) ?? '')
    })
    return answer.asPromise()
  }

  /** The link, with a look at what is acknowledged: only what PostgreSQL holds may be forgotten by the worker. */
  #watchedLink(): WorkerLink {
    const { start, cancel, resume, acknowledge, drop } = this.#sessions
    return {
      start,
      cancel,
      drop,
      resume: (worker, job, attempt, first) => {
        this.judge.link.askedAgain(job, attempt, first)
        resume(worker, job, attempt, first)
      },
      acknowledge: (worker: WorkerId, job: JobId, attempt: number) => {
        this.judge.link.acknowledged(worker, job, attempt, this.#parts.database.jobs.get(job))
        acknowledge(worker, job, attempt)
      },
    }
  }
}

class WatchedScheduler extends Scheduler {
  readonly #judge: SimulatedJudge
  readonly #onDecided: CoordinatorParts['onDecided']

  constructor(rules: SchedulerRules, judge: SimulatedJudge, onDecided: CoordinatorParts['onDecided']) {
    super(rules)
    this.#judge = judge
    this.#onDecided = onDecided
  }

  override apply(nowMs: number, input: Input): Effect[] {
    const effects = super.apply(nowMs, input)
    this.#onDecided(input, effects)
    this.#judge.judge(nowMs, input, effects)
    return effects
  }
}

const EPOCH_MS = 1_800_000_000_000
