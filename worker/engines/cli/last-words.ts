/** The end of what a program wrote for people, without the secrets that it was given. */
export class LastWords {
  readonly #secrets: ReadonlyMap<string, string>
  #words = ''

  constructor(secrets: ReadonlyMap<string, string>) {
    this.#secrets = secrets
  }

  add(text: string): void {
    // Cut after the secrets are out: half of one could not be recognised.
    this.#words = this.redact(this.#words + text).slice(-LENGTH_MAX)
  }

  /** The last lines that say anything. */
  get text(): string {
    const lines = this.redact(this.#words).split('\n')
    return lines
      .map((line) => line.trim())
      .filter((line) => line !== '')
      .slice(-LINES_MAX)
      .join(' | ')
  }

  redact(text: string): string {
    let clean = text
    for (const [name, value] of this.#secrets) clean = clean.replaceAll(value, `[${name}]`)
    return clean
  }
}

const LENGTH_MAX = 4_000
const LINES_MAX = 5
