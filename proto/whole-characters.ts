/**
 * Some servers cut their texts between the two halves of a character beyond U+FFFF. A half is no text: on its way through
 * protobuf and PostgreSQL it would become U+FFFD, so it waits for the other one. What never gets its other half is left out.
 */
export class WholeCharacters {
  readonly #halves = new Map<string, string>()

  /** What of the text of a channel may go on. */
  of(channel: string, text: string): string {
    if (text === '') return ''
    const half = this.#halves.size === 0 ? undefined : this.#halves.get(channel)
    const whole = half === undefined ? text : half + text
    if (half !== undefined) this.#halves.delete(channel)
    const last = whole.charCodeAt(whole.length - 1)
    if (last < HIGH_FIRST || last > HIGH_LAST) return whole
    this.#halves.set(channel, whole.slice(-1))
    return whole.slice(0, -1)
  }
}

const HIGH_FIRST = 0xd800
const HIGH_LAST = 0xdbff
