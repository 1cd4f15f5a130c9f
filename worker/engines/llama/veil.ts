import { randomBytes } from 'node:crypto'

/** A run of a prompt: the template's own text, in which special tokens are meant, or what somebody wrote, in which they are not. */
export type PromptPart = { text: string; special: boolean }

/**
 * Stands in for what people and models wrote while a template is rendered, so that the two can be told apart afterwards:
 * a user who writes a special token has written text.
 */
export class Veil {
  readonly #mark: string
  readonly #hidden: string[] = []

  /** `all`: everything that will be hidden or rendered beside it; the stand-ins must not occur in it. */
  constructor(all: string) {
    // By chance: numbers in turn could all be in the text, which would be searched for each.
    let mark: string
    do mark = `veil${randomBytes(8).toString('hex')}x`
    while (all.includes(mark))
    this.#mark = mark
  }

  /** The stand-in for a text. Its quotation mark shows later how many times a template turned it into JSON. */
  hide(text: string): string {
    return text === '' ? '' : `${this.#mark}${this.#hidden.push(text) - 1}z"`
  }

  /** Hides all texts in a JSON value. */
  hideIn(value: unknown): unknown {
    if (typeof value === 'string') return this.hide(value)
    if (Array.isArray(value)) return value.map((one) => this.hideIn(one))
    if (typeof value !== 'object' || value === null) return value
    return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, this.hideIn(one)]))
  }

  /** Where the stand-in ends for the last time; -1: nowhere. */
  endOf(hidden: string, rendered: string): number {
    const at = hidden === '' ? -1 : rendered.lastIndexOf(hidden)
    return at < 0 ? -1 : at + hidden.length
  }

  reveal(rendered: string): PromptPart[] {
    const parts: PromptPart[] = []
    let from = 0
    for (const match of rendered.matchAll(new RegExp(`${this.#mark}(\\d+)z(\\\\*)"`, 'g'))) {
      if (match.index > from) parts.push({ text: rendered.slice(from, match.index), special: true })
      parts.push({ text: asJson(this.#hidden[Number(match[1])] ?? '', match[2]!.length), special: false })
      from = match.index + match[0].length
    }
    if (from < rendered.length) parts.push({ text: rendered.slice(from), special: true })
    return parts
  }
}

/** One backslash: written as JSON once; three: JSON within JSON. */
function asJson(text: string, backslashes: number): string {
  let written = text
  for (let left = backslashes; left > 0; left = (left - 1) / 2) written = JSON.stringify(written).slice(1, -1)
  return written
}
