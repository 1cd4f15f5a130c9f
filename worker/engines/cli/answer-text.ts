import type { AnswerDelta } from '../../../proto/answer.ts'
import type { GenerationRequest } from '../../../proto/request.ts'
import { ThoughtTurns } from '../../../proto/thinking.ts'
import { WholeCharacters } from '../../../proto/whole-characters.ts'
import { TextAssembler } from '../text.ts'

/**
 * The answer of a program as far as it has come, held to what the request allows. These programs stream text, not
 * tokens, and honour neither a limit nor stop strings, so both are kept here. A token is taken for four bytes, the usual
 * rule for English; the true count is known at the end, if the program tells it, and too late to cut by.
 */
export class AnswerText {
  readonly #request: GenerationRequest
  readonly #assembler: TextAssembler
  readonly #budgetBytes: number
  #text = ''
  #bytes = 0
  #reasoningBytes = 0
  readonly #turns = new ThoughtTurns()
  readonly #whole = new WholeCharacters()
  #over = false

  constructor(request: GenerationRequest) {
    this.#request = request
    this.#assembler = new TextAssembler(request.stop)
    this.#budgetBytes = (request.maxTokens ?? Number.POSITIVE_INFINITY) * BYTES_PER_TOKEN
  }

  /** Why it is over, if it is. */
  get end(): 'stop' | 'length' | undefined {
    if (this.#assembler.stopped) return 'stop'
    return this.#over ? 'length' : undefined
  }

  /** Anything of an answer at all. */
  get begun(): boolean {
    return this.#bytes > 0
  }

  get tokens(): number {
    return tokensOf(this.#bytes)
  }

  get reasoningTokens(): number {
    return tokensOf(this.#reasoningBytes)
  }

  /** What of the text may be shown now. */
  add(text: string): string {
    const fits = this.#cut(this.#whole.of('text', text))
    this.#text += fits
    const shown = this.#assembler.feed(Buffer.from(fits))
    this.#turns.speaks(shown)
    return shown
  }

  addReasoning(text: string): AnswerDelta {
    const fits = this.#cut(this.#whole.of('reasoning', text))
    this.#reasoningBytes += Buffer.byteLength(fits)
    const turn = this.#turns.thinks(fits)
    return { ...(turn && { asides: [turn] }), reasoning: fits }
  }

  /** What was held back, now that nothing more comes. */
  rest(): string {
    return this.#assembler.end()
  }

  /** The stop string that was complete first, as the assembler judges. */
  get stopSequence(): string | undefined {
    if (!this.#assembler.stopped) return undefined
    const ends = this.#request.stop
      .map((stop) => ({ stop, end: stop === '' ? -1 : this.#text.indexOf(stop) + stop.length, found: this.#text.includes(stop) }))
      .filter(({ end, found }) => found && end > 0)
    return ends.sort((one, other) => one.end - other.end || other.stop.length - one.stop.length)[0]?.stop
  }

  #cut(text: string): string {
    const bytes = Buffer.from(text)
    const room = this.#budgetBytes - this.#bytes
    this.#bytes += Math.min(bytes.length, room)
    if (bytes.length <= room) return text
    this.#over = true
    // A character that the border goes through is left out.
    return new TextDecoder().decode(bytes.subarray(0, room), { stream: true })
  }
}

const BYTES_PER_TOKEN = 4

export function tokensOf(bytes: number): number {
  return Math.ceil(bytes / BYTES_PER_TOKEN)
}
