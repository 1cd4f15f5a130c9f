/**
 * Turns the bytes of tokens into text that may be shown: never half a character, never a stop string or its beginning.
 * What it releases depends only on the bytes, not on how tokens cut them:
 *
 *   bytes ──decoder──▶ characters ──held back while they could begin a stop string──▶ released
 *                                 └─a stop string is complete─▶ `stopped`, the text before it is the end
 */
export class TextAssembler {
  readonly #decoder = new TextDecoder('utf-8', { ignoreBOM: true })
  readonly #stops: StopMatcher

  constructor(stops: readonly string[]) {
    this.#stops = new StopMatcher(stops)
  }

  /** A stop string has matched; nothing more will be released. */
  get stopped(): boolean {
    return this.#stops.matched !== undefined
  }

  /** The one that did. */
  get stoppedBy(): string | undefined {
    return this.#stops.matched
  }

  /** Takes the bytes of the next token and returns the text they release. Not armed: stop strings do not end it yet. */
  feed(bytes: Uint8Array, armed = true): string {
    if (this.stopped) return ''
    return this.#stops.feed(this.#decoder.decode(bytes, { stream: true }), armed)
  }

  /** No more bytes will come: a character cut short becomes U+FFFD, and what only looked like a stop string is released. */
  end(): string {
    if (this.stopped) return ''
    return this.#stops.feed(this.#decoder.decode()) + this.#stops.end()
  }
}

/** Holds characters back while they could begin a stop string, and for ever once one is complete. */
export class StopMatcher {
  readonly #stops: readonly string[]
  #held = ''
  #matched: string | undefined

  constructor(stops: readonly string[]) {
    this.#stops = stops.filter((stop) => stop !== '')
  }

  /** The stop string that matched. */
  get matched(): string | undefined {
    return this.#matched
  }

  /** Takes characters and returns those that may be shown. While it is not armed, complete stop strings are text like any other. */
  feed(characters: string, armed = true): string {
    if (characters === '' || this.#matched !== undefined) return ''
    const text = this.#held + characters
    const match = armed ? earliestMatch(text, this.#stops) : undefined
    this.#matched = match?.stop
    const releasable = match?.start ?? text.length - heldBackLength(text, this.#stops)
    this.#held = match === undefined ? text.slice(releasable) : ''
    return text.slice(0, releasable)
  }

  /** No more characters will come: what only looked like a stop string is released. */
  end(): string {
    const rest = this.#held
    this.#held = ''
    return rest
  }
}

type Match = { stop: string; start: number; end: number }

/**
 * Where the answer ends: before the stop string that is complete first, as if characters came one by one. Judging by
 * where matches begin instead would make the text depend on how many characters a token happens to bring.
 */
function earliestMatch(text: string, stops: readonly string[]): Match | undefined {
  let best: Match | undefined
  for (const stop of stops) {
    const start = text.indexOf(stop)
    if (start === -1) continue
    const end = start + stop.length
    if (best === undefined || end < best.end || (end === best.end && start < best.start)) best = { stop, start, end }
  }
  return best
}

/** Length of the longest end of the text that begins one of these. */
export function heldBackLength(text: string, stops: readonly string[]): number {
  let longest = 0
  for (const stop of stops) {
    for (let length = Math.min(stop.length - 1, text.length); length > longest; length--) {
      if (text.endsWith(stop.slice(0, length))) longest = length
    }
  }
  return longest
}
