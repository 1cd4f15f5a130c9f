/**
 * A promise that tells its listeners at once. Node's own tell theirs in a turn of the event loop, and in virtual time there
 * is only one turn. An error that a listener makes itself, rather than passes on, is a bug and goes straight up.
 */
export class Soon<T> {
  #outcome: { value: T } | { reason: unknown } | undefined
  readonly #listeners: (() => void)[] = []

  // oxlint-disable-next-line unicorn/no-thenable -- standing in for a promise is what it is for
  then<R>(onValue: (value: T) => R, onReason?: (reason: unknown) => R): Soon<R> {
    const next = new Soon<R>()
    this.#listen(() => {
      const outcome = this.#outcome
      if (outcome === undefined) return
      if ('value' in outcome) next.resolve(onValue(outcome.value))
      else if (onReason === undefined) next.reject(outcome.reason)
      else next.#settleBy(onReason, outcome.reason)
    })
    return next
  }

  catch<R>(onReason: (reason: unknown) => R): Soon<T | R> {
    return this.then<T | R>((value) => value, onReason)
  }

  resolve(value: T): void {
    this.#settle({ value })
  }

  reject(reason: unknown): void {
    this.#settle({ reason })
  }

  asPromise(): Promise<T> {
    return this as unknown as Promise<T>
  }

  #settleBy(onReason: (reason: unknown) => T, reason: unknown): void {
    let value: T
    try {
      value = onReason(reason)
    } catch (error) {
      if (error !== reason) throw error
      this.reject(reason)
      return
    }
    this.resolve(value)
  }

  #listen(listener: () => void): void {
    if (this.#outcome === undefined) this.#listeners.push(listener)
    else listener()
  }

  #settle(outcome: { value: T } | { reason: unknown }): void {
    if (this.#outcome !== undefined) return
    this.#outcome = outcome
    for (const listener of this.#listeners.splice(0)) listener()
  }
}
