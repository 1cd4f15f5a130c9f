/**
 * Turns the bytes of tokens into text that may be shown: never half a character, never a stop string or its beginning.
 * What it releases depends only on the bytes, not on how tokens cut them:
 *
 *   bytes ──decoder──▶ characters ──held back while they could begin a stop string──▶ released
 *                                 └─a stop string is complete─▶ `stopped`, the text before it is the end
 */
export class TextAssembler {
  readonly #decoder = new TextDecoder('utf-8', { ignoreBOM: true })
  readonly #stops: readonly string[]
  #held = ''
  #stopped = false

  constructor(stops: readonly string[]) {
    this.#stops = stops.filter((stop) => stop !== '')
  }

  /** A stop string has matched; nothing more will be released. */
  get stopped(): boolean {
    return this.#stopped
  }

  /** Takes the bytes of the next token and returns the text they release. */
  feed(bytes: Uint8Array): string {
    if (this.#stopped) return ''
    return this.#take(this.#decoder.decode(bytes, { stream: true }))
  }

  /** No more bytes will come: a character cut short becomes U+FFFD, and what only looked like a stop string is released. */
  end(): string {
    if (this.#stopped) return ''
    const released = this.#take(this.#decoder.decode())
    if (this.#stopped) return released
    const rest = this.#held
    this.#held = ''
    return released + rest
  }

  #take(characters: string): string {
    if (characters === '') return ''
    const text = this.#held + characters
    const match = earliestMatch(text, this.#stops)
    this.#stopped = match !== undefined
    const releasable = match ?? text.length - heldBackLength(text, this.#stops)
    this.#held = match === undefined ? text.slice(releasable) : ''
    return text.slice(0, releasable)
  }
}

/**
 * Where the answer ends: before the stop string that is complete first, as if characters came one by one. Judging by
 * where matches begin instead would make the text depend on how many characters a token happens to bring.
 */
function earliestMatch(text: string, stops: readonly string[]): number | undefined {
  let best: { start: number; end: number } | undefined
  for (const stop of stops) {
    const start = text.indexOf(stop)
    if (start === -1) continue
    const end = start + stop.length
    if (best === undefined || end < best.end || (end === best.end && start < best.start)) best = { start, end }
  }
  return best?.start
}

/** Length of the longest end of the text that begins a stop string. */
function heldBackLength(text: string, stops: readonly string[]): number {
  let longest = 0
  for (const stop of stops) {
    for (let length = Math.min(stop.length - 1, text.length); length > longest; length--) {
      if (text.endsWith(stop.slice(0, length))) longest = length
    }
  }
  return longest
}
