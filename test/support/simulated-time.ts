/**
 * Virtual time, chance and processes. While a scenario runs, in one synchronous stretch, Node's timers, clock and
 * `Math.random` are these: the product's own code arms its own timers, and a whole minute passes in milliseconds.
 *
 * Every timer belongs to the process that armed it. What falls due in a frozen process is late, in order; what falls due
 * in a dead one never happens.
 */
export class VirtualTime {
  nowMs = 0
  readonly chance: Chance
  #order = 0
  #running: SimulatedProcess | null = null
  readonly #queue: Moment[] = []

  constructor(seed: number) {
    this.chance = new Chance(seed)
  }

  /** Who runs at the moment. */
  get running(): SimulatedProcess | null {
    return this.#running
  }

  /** In a process, or outside of all of them when it is null. */
  after(ms: number, run: () => void, process: SimulatedProcess | null = this.#running, everyMs = 0): Moment {
    const moment = { atMs: this.nowMs + Math.max(0, ms), order: this.#order++, run, process, everyMs, cancelled: false }
    this.#push(moment)
    return moment
  }

  /** Runs as the process, so that timers armed meanwhile are its own. */
  as(process: SimulatedProcess | null, run: () => void): void {
    const before = this.#running
    this.#running = process
    run()
    this.#running = before
  }

  runUntil(endMs: number, isOver: () => boolean = () => false): void {
    for (let next = this.#queue[0]; next !== undefined && next.atMs <= endMs; next = this.#queue[0]) {
      this.#pop()
      this.nowMs = next.atMs
      this.run(next)
      if (isOver()) return
    }
    this.nowMs = endMs
  }

  run(moment: Moment): void {
    const { process } = moment
    if (moment.cancelled || process?.alive === false) return
    if (process?.frozen === true) {
      process.late.push(moment)
      return
    }
    this.as(process, moment.run)
    if (moment.everyMs === 0) return
    moment.atMs = this.nowMs + moment.everyMs
    moment.order = this.#order++
    this.#push(moment)
  }

  /** Puts virtual time in the place of Node's for as long as `run` takes. */
  inPlaceOfNode(run: () => void): void {
    const real = { setTimeout, setInterval, setImmediate, clearTimeout, clearInterval }
    const { random } = Math
    const now = performance.now.bind(performance)
    const clear = (moment?: Moment): void => {
      if (moment !== undefined) moment.cancelled = true
    }
    const virtual = {
      setTimeout: (call: () => void, ms = 0) => this.after(ms, call),
      setInterval: (call: () => void, ms: number) => this.after(ms, call, this.#running, ms),
      setImmediate: (call: () => void) => this.after(0, call),
      clearTimeout: clear,
      clearInterval: clear,
    }
    try {
      Object.assign(globalThis, virtual)
      Math.random = () => this.chance.next()
      performance.now = () => this.nowMs
      run()
    } finally {
      Object.assign(globalThis, real)
      Math.random = random
      performance.now = now
    }
  }

  #push(moment: Moment): void {
    const queue = this.#queue
    let index = queue.push(moment) - 1
    while (index > 0) {
      const parent = (index - 1) >>> 1
      if (!isBefore(moment, queue[parent] as Moment)) break
      queue[index] = queue[parent] as Moment
      index = parent
    }
    queue[index] = moment
  }

  #pop(): void {
    const queue = this.#queue
    const last = queue.pop()
    if (last === undefined || queue.length === 0) return
    let index = 0
    for (let child = 1; child < queue.length; child = 2 * index + 1) {
      if (child + 1 < queue.length && isBefore(queue[child + 1] as Moment, queue[child] as Moment)) child += 1
      if (!isBefore(queue[child] as Moment, last)) break
      queue[index] = queue[child] as Moment
      index = child
    }
    queue[index] = last
  }
}

function isBefore(a: Moment, b: Moment): boolean {
  return a.atMs === b.atMs ? a.order < b.order : a.atMs < b.atMs
}

type Moment = { atMs: number; order: number; run: () => void; process: SimulatedProcess | null; everyMs: number; cancelled: boolean }

export class SimulatedProcess {
  alive = true
  frozen = false
  late: Moment[] = []
  readonly #time: VirtualTime

  constructor(time: VirtualTime) {
    this.#time = time
  }

  run(work: () => void): void {
    this.#time.as(this, work)
  }

  thaw(): void {
    this.frozen = false
    const late = this.late
    this.late = []
    for (const moment of late) this.#time.run(moment)
  }
}

/** Chance from a seed: sfc32, which passes every known test of randomness and costs next to nothing. */
export class Chance {
  #a: number
  #b = 0x9e37_79b9
  #c = 0x243f_6a88
  #counter = 1

  constructor(seed: number) {
    this.#a = seed | 0
    for (let i = 0; i < 12; i++) this.next()
  }

  /** From 0 up to 1. */
  next(): number {
    const sum = (this.#a + this.#b + this.#counter++) | 0
    this.#a = this.#b ^ (this.#b >>> 9)
    this.#b = (this.#c + (this.#c << 3)) | 0
    this.#c = (((this.#c << 21) | (this.#c >>> 11)) + sum) | 0
    return (sum >>> 0) / 0x1_0000_0000
  }

  maybe(probability: number): boolean {
    return this.next() < probability
  }

  /** A whole number, both ends included. */
  between(low: number, high: number): number {
    return low + Math.floor(this.next() * (high - low + 1))
  }

  pick<T>(items: readonly T[]): T {
    return items[Math.floor(this.next() * items.length)] as T
  }
}
