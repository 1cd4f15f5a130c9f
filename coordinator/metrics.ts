import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import type { JobRecord } from './core/job.ts'
import { AUTO } from './core/routing.ts'
import type { Scheduler } from './core/scheduler.ts'
import { stateOf } from './core/provider-state.ts'
import type { FleetWorker } from './core/fleet.ts'
import type { FleetFacts } from './fleet-facts.ts'

/**
 * The only door to prom-client. Gauges of the fleet and the queue are read from the scheduler when Prometheus asks;
 * only what happens once is counted: not while somebody waits for an answer, but some hundred at a time a moment later. Labels are names of
 * small sets, never ids of jobs.
 */
export class Metrics {
  readonly #registry = new Registry()
  readonly #finished = this.#counter('jobs_finished_total', 'Ends of jobs. One that was parked and released ends once more.', [
    'status',
    'model',
    'tier',
  ])
  readonly #tokens = this.#counter('tokens_total', 'Tokens of succeeded jobs, prompt (in) and answer (out).', ['direction', 'model'])
  readonly #cost = this.#counter('cost_micros_total', 'Paid for jobs that ended, in millionths of a dollar.', ['provider', 'model', 'team'])
  readonly #stale = this.#counter('stale_reports_total', 'Reports of workers about attempts nobody listens to any more.', [])
  readonly #refusedKeys = this.#counter('keys_refused_total', 'Requests with a missing or wrong key.', [])
  readonly #queueWait = this.#histogram('queue_wait_seconds', 'From acceptance to the first attempt.', ['model', 'priority'], WAIT_BUCKETS)
  readonly #firstToken = this.#histogram(
    'time_to_first_token_seconds',
    'From acceptance to the first token.',
    ['model', 'tier'],
    WAIT_BUCKETS,
  )
  readonly #interToken = this.#histogram(
    'inter_token_seconds',
    'Mean gap between the tokens of one answer.',
    ['model', 'tier'],
    FAST_BUCKETS,
  )
  readonly #overhead = this.#histogram(
    'coordinator_overhead_seconds',
    'What the coordinator adds to an unstreamed answer.',
    [],
    FAST_BUCKETS,
  )
  readonly #dispatch = this.#histogram(
    'dispatch_seconds',
    'From a report that frees a slot to the start of the next job in it.',
    [],
    DISPATCH_BUCKETS,
  )
  readonly #commit = this.#histogram('database_commit_seconds', 'One batch of the writer, from sending to durable.', [], FAST_BUCKETS)
  readonly #rows = this.#counter('database_rows_written_total', 'Rows written by the writer.', [])
  #uncounted: (() => void)[] = []

  constructor(scheduler: Scheduler, facts: FleetFacts, now: () => number, quotaLeft: (provider: FleetWorker) => number | null) {
    collectDefaultMetrics({ register: this.#registry, prefix: 'holdfast_coordinator_' })
    this.#fleetGauges(scheduler, facts, now)
    this.#queueGauges(scheduler, now)
    this.#providerGauges(scheduler, facts, now, quotaLeft)
  }

  get contentType(): string {
    return this.#registry.contentType
  }

  text(): Promise<string> {
    this.#countAll()
    return this.#registry.metrics()
  }

  /** A tenth of what a request costs here is its share of these counts, and half of that when they are made together. */
  #soon(count: () => void): void {
    if (this.#uncounted.push(count) === 1) setTimeout(() => this.#countAll(), COUNT_MS).unref()
  }

  #countAll(): void {
    const counts = this.#uncounted
    this.#uncounted = []
    for (const count of counts) count()
  }

  started(record: JobRecord): void {
    const labels = { model: modelOf(record), priority: record.priority }
    const seconds = (record.queueMs ?? 0) / 1000
    this.#soon(() => this.#queueWait.observe(labels, seconds))
  }

  firstToken(record: JobRecord): void {
    const labels = { model: modelOf(record), tier: record.tier ?? 'none' }
    const seconds = (record.firstTokenMs ?? 0) / 1000
    this.#soon(() => this.#firstToken.observe(labels, seconds))
  }

  paid(record: JobRecord, provider: string, micros: number): void {
    this.#cost.inc({ provider, model: record.servedModel ?? record.model, team: record.team }, micros)
  }

  ended(record: JobRecord): void {
    const { status, completionTokens, promptTokens, firstTokenMs, createdMs, finishedMs } = record
    const model = modelOf(record)
    const tier = record.tier ?? 'none'
    this.#soon(() => {
      this.#finished.inc({ status, model, tier })
      if (status !== 'succeeded') return
      const completion = completionTokens ?? 0
      this.#tokens.inc({ direction: 'in', model }, promptTokens ?? 0)
      this.#tokens.inc({ direction: 'out', model }, completion)
      // Of one whose first token came before a restart the time of it may not be known.
      if (firstTokenMs === null) return
      const generationMs = (finishedMs ?? 0) - createdMs - firstTokenMs
      if (completion > 1) this.#interToken.observe({ model, tier }, Math.max(0, generationMs) / 1000 / (completion - 1))
    })
  }

  overhead(ms: number): void {
    this.#soon(() => this.#overhead.observe(ms / 1000))
  }

  commit(ms: number, rows: number): void {
    this.#soon(() => {
      this.#commit.observe(ms / 1000)
      this.#rows.inc(rows)
    })
  }

  dispatched(ms: number): void {
    this.#soon(() => this.#dispatch.observe(ms / 1000))
  }

  staleReport(): void {
    this.#stale.inc()
  }

  keyRefused(): void {
    this.#refusedKeys.inc()
  }

  #queueGauges(scheduler: Scheduler, now: () => number): void {
    this.#gauge('jobs_waiting', 'Jobs that wait, by why.', ['model', 'reason'], (gauge) => {
      for (const { model, reason, count } of scheduler.waitingByReason(now())) gauge.inc({ model, reason }, count)
    })
    this.#gauge('jobs_running', 'Attempts that hold a slot.', ['model', 'tier'], (gauge) => {
      for (const provider of scheduler.providers)
        for (const [model, { offer }] of provider.models) gauge.inc({ model, tier: offer.tier ?? 'gpu' }, provider.busy(model))
    })
  }

  #providerGauges(scheduler: Scheduler, facts: FleetFacts, now: () => number, quotaLeft: (provider: FleetWorker) => number | null): void {
    this.#gauge('provider_state', '1 for the state that the provider is in.', ['provider', 'tier', 'state'], (gauge) => {
      for (const provider of scheduler.providers) {
        if (facts.isRetired(provider, now())) continue
        const [first] = provider.models.values()
        const { state } = stateOf(provider, now())
        gauge.set({ provider: provider.name, tier: first?.offer.tier ?? (provider.cloud === null ? 'gpu' : 'cloud'), state }, 1)
      }
    })
    this.#gauge(
      'provider_quota_remaining_ratio',
      'What is left of the tightest limit: of a minute, money or a window.',
      ['provider'],
      (gauge) => {
        for (const provider of scheduler.providers) {
          const ratio = quotaLeft(provider)
          if (ratio !== null) gauge.set({ provider: provider.name }, ratio)
        }
      },
    )
  }

  #fleetGauges(scheduler: Scheduler, facts: FleetFacts, now: () => number): void {
    // One that is gone for good is no news: an alert about it would fire for ever.
    const expected = (): FleetWorker[] => [...scheduler.workers].filter((worker) => !facts.isRetired(worker, now()))
    this.#gauge('worker_up', '1 while the worker is heard and may be given work, whatever its models are.', ['worker'], (gauge) => {
      for (const worker of expected()) gauge.set({ worker: worker.name }, worker.state === 'online' ? 1 : 0)
    })
    this.#gauge('worker_heartbeat_age_seconds', 'Since the worker was last heard.', ['worker'], (gauge) => {
      for (const worker of expected()) gauge.set({ worker: worker.name }, Math.max(0, now() - facts.heardMs(worker)) / 1000)
    })
    this.#gauge(
      'worker_slots',
      'Slots of a model on a worker: free are those that may be given work now.',
      ['worker', 'model', 'state'],
      (gauge) => {
        for (const worker of expected())
          for (const model of worker.models.keys()) {
            gauge.set({ worker: worker.name, model, state: 'busy' }, worker.busy(model))
            gauge.set({ worker: worker.name, model, state: 'free' }, worker.state === 'online' ? worker.free(model, now()) : 0)
          }
      },
    )
    this.#gauge(
      'model_up',
      '1 while a model on a connected worker is ready, and no login of it on trial.',
      ['worker', 'model'],
      (gauge) => {
        for (const worker of scheduler.workers)
          if (worker.connected)
            for (const { name: model, state, needsPerson } of facts.find(worker.id)?.models ?? [])
              gauge.set({ worker: worker.name, model }, state === 'ready' && !needsPerson ? 1 : 0)
      },
    )
    this.#gauge('model_tokens_per_second', 'Generated by a model on a worker, last heartbeat interval.', ['worker', 'model'], (gauge) => {
      for (const worker of scheduler.workers)
        if (worker.connected)
          for (const model of facts.find(worker.id)?.models ?? [])
            gauge.set({ worker: worker.name, model: model.name }, model.tokensPerSecond)
    })
    this.#gauge(
      'model_restarts',
      'Times the process of a model was started again since its worker started.',
      ['worker', 'model'],
      (gauge) => {
        for (const worker of expected())
          for (const model of facts.find(worker.id)?.models ?? []) gauge.set({ worker: worker.name, model: model.name }, model.restarts)
      },
    )
    this.#gpuGauge('gpu_utilization_ratio', 'Load of a GPU.', scheduler, facts, (gpu) => gpu.utilizationRatio)
    this.#gpuGauge('gpu_memory_used_bytes', 'Memory in use on a GPU.', scheduler, facts, (gpu) => gpu.memoryUsedBytes)
    this.#gpuGauge('gpu_memory_bytes', 'Memory of a GPU.', scheduler, facts, (gpu) => gpu.memoryBytes)
    this.#gauge('worker_memory_used_bytes', 'Memory in use on the host.', ['worker'], (gauge) => {
      for (const worker of scheduler.workers)
        if (worker.connected) gauge.set({ worker: worker.name }, facts.find(worker.id)?.host?.memoryUsedBytes ?? 0)
    })
    this.#gauge('worker_cpu_ratio', 'Load of the host.', ['worker'], (gauge) => {
      for (const worker of scheduler.workers)
        if (worker.connected) gauge.set({ worker: worker.name }, facts.find(worker.id)?.host?.cpuRatio ?? 0)
    })
  }

  #gpuGauge(name: string, help: string, scheduler: Scheduler, facts: FleetFacts, value: (gpu: GpuFacts) => number): void {
    this.#gauge(name, help, ['worker', 'gpu'], (gauge) => {
      for (const worker of scheduler.workers)
        if (worker.connected)
          for (const [index, gpu] of (facts.find(worker.id)?.host?.gpus ?? []).entries())
            gauge.set({ worker: worker.name, gpu: String(index) }, value(gpu))
    })
  }

  #gauge(name: string, help: string, labelNames: string[], collect: (gauge: Gauge) => void): void {
    const gauge: Gauge = new Gauge({
      name: `holdfast_${name}`,
      help,
      labelNames,
      registers: [this.#registry],
      collect: () => {
        gauge.reset()
        collect(gauge)
      },
    })
  }

  #counter(name: string, help: string, labelNames: string[]): Counter {
    return new Counter({ name: `holdfast_${name}`, help, labelNames, registers: [this.#registry] })
  }

  #histogram(name: string, help: string, labelNames: string[], buckets: number[]): Histogram {
    return new Histogram({ name: `holdfast_${name}`, help, labelNames, buckets, registers: [this.#registry] })
  }
}

type GpuFacts = NonNullable<NonNullable<ReturnType<FleetFacts['find']>>['host']>['gpus'][number]

const COUNT_MS = 100
const WAIT_BUCKETS = [0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800]
const DISPATCH_BUCKETS = [0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.02, 0.1]
const FAST_BUCKETS = [0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2]

/** Who leaves the choice to Holdfast is counted for what it was, once that is known. */
function modelOf({ model, servedModel }: JobRecord): string {
  return model === AUTO ? (servedModel ?? AUTO) : model
}
