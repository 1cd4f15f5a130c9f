import { setImmediate as nextTurn } from 'node:timers/promises'

/** Of long work in one thread: after some milliseconds others have their turn. */
export class Turn {
  #beganMs = performance.now()

  get isOver(): boolean {
    return performance.now() - this.#beganMs > TURN_MS
  }

  async next(): Promise<void> {
    await nextTurn()
    this.#beganMs = performance.now()
  }
}

const TURN_MS = 10
