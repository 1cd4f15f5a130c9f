import { once } from 'node:events'
import { createServer } from 'node:net'
import { openDataDir } from '../proto/data-dir.ts'
import { pino } from 'pino'
import { LogOutput } from '../proto/log-output.ts'
import { newId, takeIdsFrom } from './ids.ts'
import { type LinkServer, serveLink } from '../proto/link.ts'
import { afterStored } from './api/after-stored.ts'
import type { ApiParts } from './api/health.ts'
import { Keyring } from './api/auth.ts'
import { viewJob } from './api/jobs.ts'
import { buildServer } from './api/server.ts'
import { type CoordinatorConfig, readCoordinatorConfig } from './config.ts'
import type { EventRecord, EventType } from './core/event.ts'
import { Fault } from './core/fault.ts'
import type { JobId, WorkerId } from './core/job.ts'
import { Scheduler } from './core/scheduler.ts'
import { Adoption } from './engine/adoption.ts'
import { BatchCancels } from './engine/batch-cancels.ts'
import { Callbacks } from './engine/callbacks.ts'
import { Dispatcher } from './engine/dispatcher.ts'
import { EventFeed } from './engine/event-feed.ts'
import { Outbound } from './engine/outbound.ts'
import { ProviderLink } from './engine/provider-link.ts'
import { namesOf, Purses, type SpendLimits } from './engine/purses.ts'
import { Registry } from './engine/registry.ts'
import { Timers } from './engine/timers.ts'
import { CloudTier } from './tiers/cloud.ts'
import { Admission } from './admission.ts'
import { applyDefinitions } from './definitions.ts'
import { FleetFacts } from './fleet-facts.ts'
import { FleetLog } from './fleet-log.ts'
import { WorkerSessions } from './link.ts'
import { storedOffer } from './told.ts'
import { Metrics } from './metrics.ts'
import { quotaLeft } from './quota-left.ts'
import { secretFrom, sha256 } from './secrets.ts'
import { DatabaseClock } from './store/clock.ts'
import { Db, type DbOptions, isUnavailable, type Query, reach } from './store/db.ts'
import { EmbeddedPostgres } from './store/embedded.ts'
import { forgetOldKeys } from './store/idempotency.ts'
import { readRequest, recentServiceTimes } from './store/jobs.ts'
import { hasOtherCoordinator, Lease, type Loss } from './store/lease.ts'
import { newestEvent } from './store/events.ts'
import { Notices } from './store/notices.ts'
import { activeKeys, hasOtherBootstrapKey, saveBootstrapKey, spendKey, tiersByKey } from './store/keys.ts'
import { databaseId, ensurePartitions, migrate } from './store/migrate.ts'
import { type LimitInForce, limitsInForce, readSpending } from './store/spending.ts'
import { allTeams } from './store/teams.ts'
import { listWorkers, revokedWorkers, touchWorkers } from './store/workers.ts'
import { Writer } from './store/writer.ts'
import { MasterKey } from './master-key.ts'

/**
 * Runs a coordinator until it is told to stop, then drains: nothing new, running answers get the drain timeout, what is
 * left stays in PostgreSQL and goes on after the next start. The only file that puts the parts together.
 */
export async function runCoordinator(env: NodeJS.ProcessEnv, version: string): Promise<void> {
  const config = readCoordinatorConfig(env)
  const output = new LogOutput()
  const log = pino({ level: config.logLevel, base: { process: 'coordinator' } }, output)
  const closing: (() => Promise<void> | void)[] = []
  // Asked for before the start: a signal that comes meanwhile is kept, and the start is followed by the stop.
  const asked = stopRequested()
  try {
    const coordinator = await startThroughDeaths(config, version, log, closing)
    // Whoever started this may be gone.
    if (process.connected) process.send?.('ready', () => {})
    const loss = await Promise.race([
      asked.then((why) => ({ why, mayComeBack: false, drainMs: config.drainTimeoutMs })),
      // Its jobs are others' already: what it still started would be done, and paid, twice.
      coordinator.lost.then((lost) => ({ ...lost, drainMs: 0 })),
    ])
    log.info(`Stopping: ${loss.why}.`)
    await coordinator.drain(loss.drainMs)
    // Whoever watches over this process is to start it again.
    if (loss.mayComeBack) throw new Fault('lease_lost', `Stopped, because ${loss.why}. Started again it takes new work.`)
  } finally {
    await closeAll(closing, log)
    log.info('Stopped.')
    await output.drained()
  }
}

/**
 * Our own PostgreSQL may die while we start, as it may at any other time: then the start is begun anew, and brings it back.
 * One that was given to us and cannot be reached is a setting to look at.
 */
async function startThroughDeaths(
  config: CoordinatorConfig,
  version: string,
  log: Log,
  closing: (() => Promise<void> | void)[],
): Promise<Coordinator> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await startCoordinator(config, version, log, closing)
    } catch (error) {
      const isAway = isUnavailable(error) || (error instanceof Fault && error.code === 'database_unavailable')
      if (!isAway || config.databaseUrl !== undefined || attempt >= START_ATTEMPTS_MAX) throw error
      log.warn(`PostgreSQL went away during the start (${error instanceof Error ? error.message : String(error)}); starting again.`)
      await closeAll(closing.splice(0), log)
    }
  }
}

/** The latest first. One that fails keeps none of the others open. */
async function closeAll(closing: readonly (() => Promise<void> | void)[], log: Log): Promise<void> {
  for (const close of closing.toReversed())
    try {
      await close()
    } catch (error) {
      log.error({ err: error }, 'A part could not be closed in order.')
    }
}

const START_ATTEMPTS_MAX = 5

type Log = pino.Logger
type AddEvent = (type: EventType, actor: string, details: Record<string, unknown>) => void
type Coordinator = { drain(timeoutMs: number): Promise<void>; lost: Promise<Loss> }

async function startCoordinator(
  config: CoordinatorConfig,
  version: string,
  log: Log,
  closing: (() => Promise<void> | void)[],
): Promise<Coordinator> {
  openDataDir(config.dataDir)
  const { db, connection } = await openDatabase(config, log, closing)
  let reportLost: (loss: Loss) => void = () => {}
  const lost = new Promise<Loss>((resolve) => {
    reportLost = resolve
  })
  const coordinatorId = newId()
  const installation = secretFrom(undefined, config.dataDir, 'coordinator.id', '').value
  const lease = new Lease(
    db,
    { coordinator: coordinatorId, installation, leaseMs: config.deadAfterMs },
    { onLost: reportLost, onProblem: (text) => log.warn(text) },
  )
  await lease.lock()
  closing.push(() => lease.release())
  const applied = await migrate(db)
  if (applied.length > 0) log.info(`Migrated the database: ${applied.join(', ')}.`)
  db.watch()
  const clock = await DatabaseClock.start(db, (message) => log.warn(message))
  closing.push(() => clock.stop())
  takeIdsFrom(() => clock.now(), await newestEvent(db))
  await keepPartitions(db, clock, log, closing)

  const adminKey = secretFrom(config.adminKey, config.dataDir, 'admin.key', 'hf_admin_')
  // Asked before anything is taken over, and when it is written.
  const refuseOtherKey = async (query: Query): Promise<void> => {
    if ((await hasOtherCoordinator(query, installation)) && (await hasOtherBootstrapKey(query, sha256(adminKey.value))))
      throw otherSecrets(adminKey.file ?? 'HOLDFAST_ADMIN_KEY', config.deadAfterMs)
  }
  await refuseOtherKey((text, values) => db.query(text, values))
  const workerToken = sha256(secretFrom(config.workerToken, config.dataDir, 'worker.token', 'hf_worker_').value)

  const outbound = new Outbound(config.allowedCidrs)
  const masterKey = await MasterKey.open(config.masterKey, config.dataDir, db, (query) => hasOtherCoordinator(query, installation))
  const { vault, warning } = masterKey
  if (await masterKey.isStranger(db))
    log.warn(
      'The master key is another than that of the coordinators at work on this database (HOLDFAST_MASTER_KEY): no stored secret can be opened here, for clouds and callbacks, and none is stored while they are.',
    )
  if (warning !== null) log.warn(warning)

  const scheduler = new Scheduler(rulesFrom(config))
  let metrics: Metrics | undefined
  const writer = new Writer(db, {
    onFlush: (tookMs, rows) => metrics?.commit(tookMs, rows),
    onDropped: (error, what) => log.error({ err: error }, `PostgreSQL refused rows: ${what}`),
    stillOurs: () => lease.stillOurs(),
  })
  closing.push(() => closeWriter(writer, log))
  const feed = new EventFeed({ db, coordinator: coordinatorId, now: () => clock.now(), onProblem: (text) => log.warn(text) })
  db.onEvents = (events) => feed.take(events)
  db.onTrouble = (trouble) =>
    trouble === null
      ? log.info('PostgreSQL takes rows again.')
      : log.warn(`${trouble}. What has to be stored waits; nothing new is accepted.`)
  closing.push(() => feed.stop())
  const newEvent = (type: EventType, actor: string, details: Record<string, unknown>): EventRecord => ({
    id: newId(),
    atMs: clock.now(),
    type,
    actor,
    // What a person set up says in its details whom it concerns.
    team: typeof details.team === 'string' ? details.team : null,
    job: null,
    provider: typeof details.provider === 'string' ? details.provider : null,
    worker: null,
    traceId: null,
    details,
  })
  const addEvent: AddEvent = (type, actor, details) => writer.addEvent(newEvent(type, actor, details))

  const known = await listWorkers(db)
  const fleetLog = new FleetLog({ db, writer, scheduler, newEvent, log, known: known.map((worker) => worker.id) })
  const facts = new FleetFacts((worker, model, was) => fleetLog.modelChanged(worker, model, was))
  fleetLog.describe(
    (worker) => facts.find(worker),
    (worker) => facts.note(worker, { drained: true }),
  )
  metrics = new Metrics(
    scheduler,
    facts,
    () => clock.now(),
    (provider) => quotaLeft(provider, facts, purses, clock.now()),
  )
  const sessions = new WorkerSessions({
    coordinator: coordinatorId,
    heartbeatIntervalMs: config.heartbeatIntervalMs,
    deadAfterMs: config.deadAfterMs,
    isTaken: (name) => [...registry.providers].some((provider) => provider.name === name),
    refusal: (worker, token) => admission.refusal(worker, token),
    onHello: (worker, hello) => facts.hello(worker, hello, clock.now()),
    onHeartbeat: (worker, models, host) => facts.heartbeat(worker, models, host, clock.now()),
    onRefused: (name, why) => {
      log.warn(`Refused a worker${name === null ? '' : ` named "${name}"`}: ${why}`)
      addEvent('worker.refused', name === null ? 'worker' : `worker:${name.slice(0, 128)}`, { why })
    },
  })
  const counters = metrics
  let callbacks: Callbacks | undefined
  const cloud = new CloudTier({
    reports: {
      attemptGrew: (provider, growth) => dispatcher.attemptGrew(provider, growth),
      attemptFinished: (provider, end) => dispatcher.attemptFinished(provider, end),
      attemptCost: (provider, report, micros) => dispatcher.attemptCost(provider, report, micros),
      attemptFailed: (provider, report, error, hold) => dispatcher.attemptFailed(provider, report, error, hold),
      attemptRefused: (provider, report) => dispatcher.attemptRefused(provider, report),
      holdProvider: (provider, hold) => dispatcher.holdProvider(provider, hold),
    },
    reserve: (provider, job, micros) => {
      const names = pursesOf(provider, job)
      return purses.reserve(names, micros) ? (paid) => purses.settle(names, micros, paid) : null
    },
    now: () => clock.now(),
    log,
  })
  closing.push(() => cloud.close())
  const pursesOf = (provider: WorkerId, job: JobId): string[] => {
    const record = dispatcher.find(job)?.record
    if (record === undefined) return []
    return namesOf({
      ...record,
      policy: registry.policyOf(record.policy, record.team),
      provider: scheduler.findWorker(provider)?.name ?? null,
    })
  }
  const dispatcher = new Dispatcher(scheduler, writer, {
    coordinator: coordinatorId,
    now: () => clock.now(),
    link: new ProviderLink(sessions, cloud),
    readRequest: async (job) => {
      const text = await readRequest(db, job)
      if (text === undefined) throw new Fault('request_missing', `The prompt of job ${job} is not in the database.`)
      return text
    },
    newEvent,
    onStarted: (record) => counters.started(record),
    onDispatched: (ms) => counters.dispatched(ms),
    onFirstToken: (record) => counters.firstToken(record),
    onEnded: (record) => counters.ended(record),
    onPaid: (record, provider, micros) => counters.paid(record, provider, micros),
    onEndStored: (record) => callbacks?.jobEnded(record.id),
    onBreaker: (worker, model, untilMs, why) => fleetLog.breakerChanged(worker, model, untilMs, why),
    termsOf: (record) => registry.termsOf(record),
    policyOf: ({ policy, team }) => registry.policyOf(policy, team),
    onHeld: (worker, model, hold) => fleetLog.heldChanged(worker, model, hold),
    onStale: () => counters.staleReport(),
    onWorkerState: (worker, from, to) => fleetLog.stateChanged(worker, from, to),
    onWorkerReplaced: (worker) => {
      fleetLog.replaced(worker)
      facts.forget(worker)
    },
  })
  sessions.serve(dispatcher)
  const purses = new Purses({
    readSpending: (fromMs, untilMs) => readSpending(db, fromMs, untilMs),
    stored: () => writer.drained(),
    now: () => clock.now(),
    onThreshold: (purse, ratio, window) => {
      const [, kind, name] = /^(team|provider):(.*)$/s.exec(purse) ?? []
      const whose = { team: kind === 'team' ? (name ?? null) : null, provider: kind === 'provider' ? (name ?? null) : null }
      const event = newEvent('spend.threshold_reached', 'coordinator', { account: purse, ratio, window })
      writer.addEvent({ ...event, ...whose })
    },
    onEmpty: (purse, untilMs) => {
      dispatcher.setPurse(purse, untilMs)
    },
  })
  const registry = new Registry({ db, dispatcher, cloud, vault, isLimited: (purse) => purses.isLimited(purse) })

  for (const worker of known) {
    const { version, joinedMs, seenMs, drained, revokedMs } = worker
    facts.restore(worker.id, { version, joinedMs, heardMs: seenMs, drained, revokedMs })
    dispatcher.knowWorker(worker.id, worker.name, worker.models.map(storedOffer), worker.state === 'online' || worker.state === 'suspect')
  }
  let limitsKept: LimitInForce[] = []
  const keptOf = (wanted: LimitInForce['kind']): [string, SpendLimits][] =>
    limitsKept.filter(({ kind }) => kind === wanted).map(({ name, perDay, perMonth }) => [name, { perDay, perMonth }])
  const keyReadings = readings()
  const fleetReadings = readings()
  const reloadKeys = async (): Promise<void> => {
    const isNewest = keyReadings()
    const [keys, keyTiers, kept] = await Promise.all([activeKeys(db), tiersByKey(db), limitsInForce(db)])
    if (!isNewest()) return
    keyring.replace(keys)
    sessions.judge((token) => admission.admits(token))
    registry.setKeyTiers(keyTiers)
    limitsKept = kept
    purses.setLimits('key', new Map(keptOf('key')))
    judgeTerms()
  }
  let rulesInForce = ''
  const judgeTerms = (): void => {
    const rules = `${registry.rules} ${purses.limited.join()}`
    if (rules !== rulesInForce) dispatcher.judgeTerms()
    rulesInForce = rules
  }
  const reload = async (): Promise<void> => {
    await reloadKeys()
    const isNewest = fleetReadings()
    const [revoked, teams] = await Promise.all([revokedWorkers(db), allTeams(db)])
    if (isNewest()) {
      admission.setRevoked(revoked)
      for (const worker of revoked) sessions.cutOff(worker as WorkerId)
      for (const team of teams) dispatcher.setTeam(team)
      registry.setTeams(teams)
    }
    await registry.load()
    const limits = (perDay: number | null, perMonth: number | null): SpendLimits => ({ perDay, perMonth })
    const ofTeams = [...registry.teams].map((team): [string, SpendLimits] => [
      team.name,
      limits(team.spendMicrosPerDay, team.spendMicrosPerMonth),
    ])
    const ofPolicies = [...registry.policies].map(([name, policy]): [string, SpendLimits] => [name, limits(policy.spendMicrosPerDay, null)])
    purses.setLimits('team', new Map([...keptOf('team'), ...ofTeams]))
    purses.setLimits('policy', new Map([...keptOf('policy'), ...ofPolicies]))
    purses.setLimits(
      'provider',
      new Map(
        [...registry.providers].map(({ name, spendMicrosPerDay, spendMicrosPerMonth }) => [
          name,
          limits(spendMicrosPerDay, spendMicrosPerMonth),
        ]),
      ),
    )
    judgeTerms()
  }
  let refusedLogins = 0
  const keyring = new Keyring(
    () => clock.now(),
    () => {
      refusedLogins += 1
      counters.keyRefused()
    },
  )
  const admission = new Admission({
    bootstrap: workerToken,
    keyring,
    onInviteSpent: (key, worker) => void keepInvite(key, worker),
  })
  const keepInvite = async (key: string, worker: WorkerId): Promise<void> => {
    try {
      if ((await spendKey(db, key, worker)) === undefined) sessions.cutOff(worker)
      else addEvent('key.spent', `worker:${worker}`, { key, worker })
    } catch (error) {
      log.warn(`That an invite was used could not be written: ${error instanceof Error ? error.message : String(error)}`)
      sessions.cutOff(worker)
    }
  }
  await reload()
  await purses.load()
  for (const { model, meanMs } of await recentServiceTimes(db)) dispatcher.knowServiceTime(model, meanMs)
  await lease.begin(version)
  const coming = { rows: 0, batches: new Set<string>() }
  const adoption = new Adoption({ db, lease, dispatcher, comingBatches: coming.batches, log, addEvent })
  const batchCancels = new BatchCancels({
    ...{ db, dispatcher, coordinator: coordinatorId },
    stored: () => writer.drained(),
  })
  await adoption.adopt()

  // One row for a whole flood: wrong keys must not be a way to fill the disk.
  const loginTimer = setInterval(() => {
    if (refusedLogins > 0) addEvent('login.failed', 'http', { count: refusedLogins, in_seconds: LOGIN_REPORT_MS / 1000 })
    refusedLogins = 0
  }, LOGIN_REPORT_MS)
  closing.push(() => clearInterval(loginTimer))
  const touchTimer = setInterval(() => {
    const here = [...scheduler.workers].filter((worker) => worker.connected).map((worker) => worker.id)
    touchWorkers(db, here).catch((error: unknown) => log.warn(`When workers were last seen could not be written: ${String(error)}`))
  }, TOUCH_EVERY_MS)
  closing.push(() => clearInterval(touchTimer))
  await saveBootstrapKey(
    db,
    { id: newId(), teamId: newId(), hash: sha256(adminKey.value), lastFour: adminKey.value.slice(-4) },
    (type) => newEvent(type, 'coordinator', { name: 'admin', kind: 'bootstrap' }),
    refuseOtherKey,
  )
  await reload()

  const follow = async (): Promise<void> => {
    await reload()
    await batchCancels.carryOut()
  }
  const notices = new Notices({ db, coordinator: coordinatorId, changed: follow, onProblem: (text) => log.warn(text) })
  closing.push(() => notices.stop())
  const tellOthers = (): void => {
    notices
      .tell()
      .catch((error: unknown) => log.warn(`Other coordinators were not told of a change, and find it by themselves: ${String(error)}`))
  }
  /** What was changed by a request is so here when it is answered, and everywhere a moment later. */
  const andTell = (work: () => Promise<void>) => async (): Promise<void> => {
    try {
      await afterStored('What was asked for is stored', work)
    } finally {
      // Also where it could not be read here: what was asked for is stored.
      tellOthers()
    }
  }

  let draining = false
  const parts: ApiParts = {
    coordinator: coordinatorId,
    db,
    dispatcher,
    feed,
    scheduler,
    facts,
    keyring,
    metrics,
    vault,
    outbound,
    pendingKeys: new Map(),
    coming,
    queueLimit: config.queueLimit,
    version,
    now: () => clock.now(),
    notReady: () => (draining ? 'the coordinator is stopping' : db.trouble),
    newEvent,
    stored: () => writer.drained(),
    doubtOwned: () => adoption.doubt(),
    reloadKeys: andTell(reloadKeys),
    reload: andTell(reload),
    tellOthers,
    seal: (query, secret) => masterKey.seal(query, secret),
    rotateMasterKey: (given) => masterKey.rotate(db, given),
    fleet: {
      drain: (worker) => sessions.drain(worker),
      revoke: (worker) => {
        admission.revoke(worker)
        sessions.cutOff(worker)
      },
      forget: (worker) => {
        dispatcher.removeProvider(worker)
        facts.forget(worker)
      },
    },
    registry,
    purses,
    batchCancels,
    cloud,
    log: { error: (text) => log.error(text) },
  }
  const timers = await Timers.open({
    backend:
      config.redisUrl === undefined
        ? { kind: 'postgres', connection }
        : { kind: 'redis', url: config.redisUrl, database: await databaseId(db) },
    onProblem: (text) => log.warn(`Timers: ${text}`),
  })
  closing.push(() => timers.close())
  timers.sweep('idempotency keys', KEY_SWEEP_MS, () => forgetOldKeys(db))
  callbacks = new Callbacks({
    db,
    timers,
    outbound,
    vault,
    body: (job) => viewJob(parts, job as JobId),
    newEvent,
    addEvent: (event) => writer.addEvent(event),
    now: () => clock.now(),
    random: Math.random,
    onProblem: (text) => log.warn(text),
  })
  callbacks.start()
  closing.push(() => callbacks.stop())
  timers.sweep('spending', SPENDING_SWEEP_MS, () => purses.load())
  adoption.start(follow)
  closing.push(() => adoption.stop())
  dispatcher.start()
  closing.push(() => dispatcher.stop())
  const grpc = await listenForWorkers(config, (token) => admission.admits(token), sessions, closing)
  const app = buildServer(parts)
  if (config.definitions !== undefined) {
    const authorization = `Bearer ${adminKey.value}`
    const done = await applyDefinitions(config.definitions, process.env, async (method, url, body) => {
      const answer = await app.inject({ method, url, headers: { authorization }, ...(body === undefined ? {} : { payload: body }) })
      return { status: answer.statusCode, body: answer.json<Record<string, unknown>>() }
    })
    log.info(`As ${config.definitions} says: ${done.join(', ')}.`)
  }
  const url = await app.listen({ host: config.host, port: config.httpPort }).catch((cause: unknown) => {
    throw portFault(cause, 'HOLDFAST_HTTP_PORT', config.httpPort)
  })
  closing.push(() => app.close())
  addEvent('coordinator.started', 'coordinator', { version, coordinator: coordinatorId })
  log.info(
    { url, grpc: grpc.port },
    `Ready: HTTP at ${url}, workers at ${config.host}:${grpc.port}.${adminKey.file === null ? '' : ` Admin key in ${adminKey.file}.`}`,
  )

  return {
    lost,
    drain: async (timeoutMs) => {
      draining = true
      const endMs = Date.now() + timeoutMs
      // Whoever waits to hear that it was accepted hears it: it would ask again, and its job would run twice.
      const waiting = new Set([writer.accepted()])
      for (const accepted of waiting) void accepted.then(() => waiting.delete(accepted))
      while ((scheduler.runningCount > 0 || waiting.size > 0) && Date.now() < endMs) await new Promise((resolve) => setTimeout(resolve, 20))
      addEvent('coordinator.stopped', 'coordinator', { running: scheduler.runningCount, waiting: scheduler.waitingCount })
      cloud.breakOff()
      dispatcher.stop()
      await new Promise((resolve) => setTimeout(resolve, LAST_WORDS_MS))
    },
  }
}

/** Of what is read now and then, and whenever it was changed: told apart, so that a slow reading does not undo a later one. */
function readings(): () => () => boolean {
  let begun = 0
  let applied = 0
  return () => {
    const mine = ++begun
    return () => {
      if (mine < applied) return false
      applied = mine
      return true
    }
  }
}

const LOGIN_REPORT_MS = 10_000
const TOUCH_EVERY_MS = 600_000
const SPENDING_SWEEP_MS = 300_000
const KEY_SWEEP_MS = 3_600_000
// Also because a host that slept does not count the hours: looking costs twenty small queries.
const PARTITION_CHECK_MS = 600_000
const WRITER_CLOSE_MS = 5_000
/** For what callers are told at the end to leave. */
const LAST_WORDS_MS = 100

function rulesFrom(config: CoordinatorConfig): ConstructorParameters<typeof Scheduler>[0] {
  return {
    suspectAfterMs: Math.round((config.deadAfterMs * 2) / 3),
    deadAfterMs: config.deadAfterMs,
    // A worker whose network blinked redials within 0.1 s. Longer than a second, and a killed one would be missed late.
    returnGraceMs: 800,
    recoveryGraceMs: 5_000,
    firstTokenTimeoutMs: config.firstTokenTimeoutMs,
    nextTokenTimeoutMs: config.nextTokenTimeoutMs,
    attemptsMax: 3,
    retryBackoffMs: 1_000,
    refusalPauseMs: 500,
    breakerFailures: 5,
    breakerOpenMs: 5_000,
    breakerMaxMs: 60_000,
  }
}

async function openDatabase(
  config: CoordinatorConfig,
  log: Log,
  closing: (() => Promise<void> | void)[],
): Promise<{ db: Db; connection: DbOptions }> {
  if (config.databaseUrl !== undefined) {
    const connection = { url: config.databaseUrl }
    const db = new Db(connection)
    closing.push(() => db.close())
    await reach(db)
    return { db, connection }
  }
  log.info(`Starting the embedded PostgreSQL in ${config.dataDir}.`)
  const embedded = await EmbeddedPostgres.start(config.dataDir, {
    info: (text) => log.info(text),
    warn: (text) => log.warn(text),
    error: (text) => log.error(text),
    debug: (text) => log.debug(text),
  })
  closing.push(() => embedded.stop())
  const connection = { socketDir: embedded.socketDir }
  const db = new Db(connection)
  closing.push(() => db.close())
  return { db, connection }
}

async function keepPartitions(db: Db, clock: DatabaseClock, log: Log, closing: (() => Promise<void> | void)[]): Promise<void> {
  await ensurePartitions(db, clock.now())
  const timer = setInterval(() => {
    ensurePartitions(db, clock.now()).catch((error: unknown) =>
      log.error({ err: error }, 'The partitions of the coming days could not be made; trying again soon.'),
    )
  }, PARTITION_CHECK_MS)
  closing.push(() => clearInterval(timer))
}

async function listenForWorkers(
  config: CoordinatorConfig,
  admit: (token: string | undefined) => boolean,
  sessions: WorkerSessions,
  closing: (() => Promise<void> | void)[],
): Promise<LinkServer> {
  const host = config.host.includes(':') ? `[${config.host}]` : config.host
  const server = await serveLink(`${host}:${config.grpcPort}`, admit, (end, token) => sessions.open(end, token)).catch(
    async (cause: unknown) => {
      // grpc-js does not say why, so it is asked again of whoever knows.
      throw portFault((await bindError(config.host, config.grpcPort)) ?? cause, 'HOLDFAST_GRPC_PORT', config.grpcPort)
    },
  )
  closing.push(async () => {
    sessions.closeAll()
    await server.close()
  })
  return server
}

async function bindError(host: string, port: number): Promise<Error | undefined> {
  const probe = createServer().listen(port, host)
  try {
    await once(probe, 'listening')
  } catch (error) {
    return error as Error
  }
  probe.close()
  return undefined
}

function otherSecrets(where: string, leaseMs: number): Fault {
  return new Fault(
    'other_secrets',
    `Another coordinator serves this database with another admin key than that of ${where}, which would put its own out of force. Coordinators of one database share their secrets: give each the same HOLDFAST_ADMIN_KEY, HOLDFAST_WORKER_TOKEN and HOLDFAST_MASTER_KEY. To change one, stop them all first; one that has just died counts for ${leaseMs / 1000} s.`,
  )
}

function portFault(cause: unknown, setting: string, port: number): Fault {
  const said = cause instanceof Error ? cause.message : String(cause)
  if (/EADDRINUSE|address already in use/i.test(said))
    return new Fault('port_taken', `Port ${port} is taken: another Holdfast may be running. Stop it, or set ${setting} to a free port.`, {
      cause,
    })
  return new Fault('port_unusable', `Port ${port} cannot be used (${said}). Change ${setting} or HOLDFAST_HOST.`, { cause })
}

/** What was answered is durable already; what is left are ends that a worker would hand over again. */
async function closeWriter(writer: Writer, log: Log): Promise<void> {
  const late = new Promise<'late'>((resolve) => setTimeout(() => resolve('late'), WRITER_CLOSE_MS).unref())
  if ((await Promise.race([writer.close(), late])) === 'late')
    log.warn('PostgreSQL did not take the last rows in time; the next start takes those jobs up again.')
}

/** SIGTERM and SIGINT ask once; `up` and a terminal's Ctrl-C may both deliver the same wish. */
function stopRequested(): Promise<string> {
  return new Promise((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => resolve(signal))
    process.on('disconnect', () => resolve('its parent process is gone'))
    if (process.send !== undefined && !process.connected) resolve('its parent process is gone')
  })
}
