/**
 * Who may spend how much in a day or a month (UTC), and what they have spent. A call's estimated price is set aside when it
 * starts and replaced by the true one when it ends, so many calls at once cannot pass a limit that each alone respects.
 * What was paid stands in the rows of payments; this is their sum.
 */
export class Purses {
  readonly #parts: PursesParts
  readonly #limits = new Map<string, SpendLimits>()
  readonly #spent = new Map<string, { dayMicros: number; monthMicros: number }>()
  readonly #reserved = new Map<string, number>()
  readonly #told = new Map<string, number>()
  /** The highest share of a limit that was told of, by account and window. */
  readonly #thresholds = new Map<string, number>()
  #day = 0
  #isPrimed = false
  /** What was paid since a reading of the rows began, which it does not hold. */
  #meanwhile: { purse: string; micros: number; atMs: number }[] | undefined

  constructor(parts: PursesParts) {
    this.#parts = parts
  }

  /** Sums up what was paid this month, for every coordinator. */
  async load(): Promise<void> {
    const parts = this.#parts
    const untilMs = parts.now()
    this.#meanwhile = []
    // What was paid before the cut is in the rows, or on its way to them.
    await parts.stored()
    const dayMs = startOfDay(untilMs)
    const month = await parts.readSpending(startOfMonth(untilMs), untilMs)
    const day = await parts.readSpending(dayMs, untilMs)
    this.#turnDay()
    this.#spent.clear()
    for (const paid of month) for (const purse of namesOf(paid)) this.#add(purse, 0, paid.micros, untilMs)
    for (const paid of day) for (const purse of namesOf(paid)) this.#add(purse, paid.micros, 0, untilMs)
    for (const { purse, micros, atMs } of this.#meanwhile) this.#add(purse, micros, micros, atMs)
    this.#meanwhile = undefined
    // What was reached before this process began was told by the one before it.
    if (!this.#isPrimed) for (const purse of this.#limits.keys()) this.#warn(purse, false)
    this.#isPrimed = true
    this.judgeAll()
  }

  setLimits(kind: 'team' | 'policy' | 'key' | 'provider', limits: Map<string, SpendLimits>): void {
    for (const purse of this.#limits.keys())
      if (purse.startsWith(`${kind}:`) && !limits.has(purse.slice(kind.length + 1))) this.#limits.delete(purse)
    for (const [name, limit] of limits)
      if (limit.perDay !== null || limit.perMonth !== null) this.#limits.set(`${kind}:${name}`, limit)
      else this.#limits.delete(`${kind}:${name}`)
    this.judgeAll()
  }

  isLimited(purse: string): boolean {
    return this.#limits.has(purse)
  }

  get limited(): string[] {
    return [...this.#limits.keys()]
  }

  /** False when one of them has nothing left: the call must not be made. */
  reserve(purses: readonly string[], micros: number): boolean {
    this.#turnDay()
    if (purses.some((purse) => this.#emptyUntil(purse) !== null)) {
      for (const purse of purses) this.#judge(purse)
      return false
    }
    for (const purse of purses) this.#reserved.set(purse, (this.#reserved.get(purse) ?? 0) + micros)
    for (const purse of purses) this.#judge(purse)
    return true
  }

  settle(purses: readonly string[], reservedMicros: number, paidMicros: number): void {
    this.#turnDay()
    for (const purse of purses) {
      this.#reserved.set(purse, Math.max(0, (this.#reserved.get(purse) ?? 0) - reservedMicros))
      this.#add(purse, paidMicros, paidMicros, this.#parts.now())
      this.#meanwhile?.push({ purse, micros: paidMicros, atMs: this.#parts.now() })
      this.#warn(purse, true)
      this.#judge(purse)
    }
  }

  /** What is left of the tighter limit, 0 to 1; null without limits. */
  remaining(purse: string): number | null {
    const { dayMicros, monthMicros, perDay, perMonth } = this.view(purse)
    if (perDay === null && perMonth === null) return null
    const left = (limit: number | null, used: number): number => (limit === null ? 1 : limit === 0 ? 0 : Math.max(0, 1 - used / limit))
    return Math.min(left(perDay, dayMicros), left(perMonth, monthMicros))
  }

  /** What was spent today and this month, and of how much. */
  view(purse: string): { dayMicros: number; monthMicros: number } & SpendLimits {
    this.#turnDay()
    const { dayMicros = 0, monthMicros = 0 } = this.#spent.get(purse) ?? {}
    const { perDay = null, perMonth = null } = this.#limits.get(purse) ?? {}
    return { dayMicros, monthMicros, perDay, perMonth }
  }

  /** Also when a day or a month begins, which fills every purse. */
  judgeAll(): void {
    this.#turnDay()
    for (const purse of new Set([...this.#limits.keys(), ...this.#told.keys()])) this.#judge(purse)
  }

  /** The first call of a new day must find full purses, whoever looks first. */
  #turnDay(): void {
    const nowMs = this.#parts.now()
    const dayMs = startOfDay(nowMs)
    if (this.#day !== 0 && dayMs > this.#day) {
      const newMonth = startOfMonth(nowMs) > this.#day
      for (const spent of this.#spent.values()) {
        spent.dayMicros = 0
        if (newMonth) spent.monthMicros = 0
      }
      for (const name of this.#thresholds.keys()) if (name.endsWith(' day') || newMonth) this.#thresholds.delete(name)
    }
    this.#day = Math.max(this.#day, dayMs)
  }

  /** Says once per window that so much of a limit is spent. */
  #warn(purse: string, isNews: boolean): void {
    const limit = this.#limits.get(purse)
    const spent = this.#spent.get(purse)
    if (limit === undefined || spent === undefined) return
    for (const [window, most, micros] of [
      ['day', limit.perDay, spent.dayMicros],
      ['month', limit.perMonth, spent.monthMicros],
    ] as const) {
      if (most === null || most === 0) continue
      const reached = THRESHOLDS.findLast((ratio) => micros >= ratio * most) ?? 0
      const name = `${purse} ${window}`
      const before = this.#thresholds.get(name) ?? 0
      this.#thresholds.set(name, reached)
      if (!isNews) continue
      for (const ratio of THRESHOLDS) if (ratio > before && ratio <= reached) this.#parts.onThreshold(purse, ratio, window)
    }
  }

  #judge(purse: string): void {
    const untilMs = this.#emptyUntil(purse)
    if ((this.#told.get(purse) ?? null) === untilMs) return
    if (untilMs === null) this.#told.delete(purse)
    else this.#told.set(purse, untilMs)
    this.#parts.onEmpty(purse, untilMs)
  }

  #emptyUntil(purse: string): number | null {
    const limit = this.#limits.get(purse)
    if (limit === undefined) return null
    const nowMs = this.#parts.now()
    const { dayMicros = 0, monthMicros = 0 } = this.#spent.get(purse) ?? {}
    const reserved = this.#reserved.get(purse) ?? 0
    if (limit.perMonth !== null && monthMicros + reserved >= limit.perMonth) return startOfNextMonth(nowMs)
    if (limit.perDay !== null && dayMicros + reserved >= limit.perDay) return startOfDay(nowMs) + DAY_MS
    return null
  }

  /** Paid at a time that may be of a day, or a month, which is over by now. */
  #add(purse: string, paidToday: number, paidThisMonth: number, atMs: number): void {
    const dayMicros = atMs < this.#day ? 0 : paidToday
    const monthMicros = atMs < startOfMonth(this.#day) ? 0 : paidThisMonth
    const spent = this.#spent.get(purse)
    if (spent === undefined) this.#spent.set(purse, { dayMicros, monthMicros })
    else {
      spent.dayMicros += dayMicros
      spent.monthMicros += monthMicros
    }
  }
}

export type SpendLimits = { perDay: number | null; perMonth: number | null }

/** All accounts that a paid call is booked on, limited or not. */
export function namesOf(job: { team: string; policy: string | null; key: string | null; provider: string | null }): string[] {
  const names = [`team:${job.team}`]
  if (job.policy !== null) names.push(`policy:${job.policy}`)
  if (job.key !== null) names.push(`key:${job.key}`)
  if (job.provider !== null) names.push(`provider:${job.provider}`)
  return names
}

type Paid = { team: string; policy: string | null; key: string | null; provider: string; micros: number }

type PursesParts = {
  /** From one time until before another. */
  readSpending(fromMs: number, untilMs: number): Promise<Paid[]>
  /** Resolves when all that was paid so far is in the rows. */
  stored(): Promise<void>
  now(): number
  /** So much of what the account may spend in a window is spent. */
  onThreshold(purse: string, ratio: number, window: 'day' | 'month'): void
  /** `untilMs` null: there is money again. */
  onEmpty(purse: string, untilMs: number | null): void
}

const THRESHOLDS = [0.5, 0.8, 0.95, 1]
const DAY_MS = 86_400_000

function startOfDay(ms: number): number {
  return Math.floor(ms / DAY_MS) * DAY_MS
}

function startOfMonth(ms: number): number {
  const date = new Date(ms)
  return Date.UTC(date.getUTCFullYear(), date.getUTCMonth(), 1)
}

function startOfNextMonth(ms: number): number {
  const date = new Date(ms)
  return Date.UTC(date.getUTCFullYear(), date.getUTCMonth() + 1, 1)
}
