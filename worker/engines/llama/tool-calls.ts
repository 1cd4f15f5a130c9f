import type { ToolCallDelta } from '../../../proto/answer.ts'
import { heldBackLength } from '../text.ts'

/** How a model writes a call: what stands before it and after it, and the member that holds the arguments. */
export type CallForm = {
  /** What begins a call, or a list of them. */
  open: string
  /** What ends it; '' where the end of its JSON does. */
  close: string
  /** Calls stand in one JSON list after `open`. */
  list: boolean
  /** An answer that begins with the JSON of a call is one, also without `open`. */
  bare: boolean
  argumentsKey: 'arguments' | 'parameters'
}

/** Hermes and Qwen, Mistral, Llama 3. */
export const CALL_FORMS = {
  tagged: { open: '<tool_call>', close: '</tool_call>', list: false, bare: false, argumentsKey: 'arguments' },
  listed: { open: '[TOOL_CALLS]', close: '', list: true, bare: false, argumentsKey: 'arguments' },
  plain: { open: '<|python_tag|>', close: '', list: false, bare: true, argumentsKey: 'parameters' },
} as const satisfies Record<string, CallForm>

export type ReadCalls = { text: string; calls: ToolCallDelta[] }

/**
 * Reads calls out of what a model writes, while it writes:
 *
 *   text ──open──▶ between ──{──▶ call ──its last }──▶ between ──close, or what is no call──▶ text
 *
 * Text before a call stays text. What could begin a call is held back until it is known, and a call's arguments go out as
 * they come, letter by letter as the model wrote them.
 */
export class ToolCallParser {
  readonly #form: CallForm
  readonly #idOf: (index: number) => string
  readonly #names: ReadonlySet<string>
  readonly #must: boolean
  #announced = false
  /** The mark that opened, and what stood behind it, until a call does: text may speak of the mark. */
  #opened = ''
  #state: 'start' | 'text' | 'between' | 'call' = 'start'
  #held = ''
  #call: CallReader | undefined
  /** The call is one only if its JSON says so; the text is kept until then. */
  #doubtful = ''
  #begun = 0
  #ended = 0

  /** `names`: JSON that nothing announces is a call only if it names one of these. `must`: nothing but calls can come. */
  constructor(form: CallForm, idOf: (index: number) => string, names: ReadonlySet<string>, must = false) {
    this.#form = form
    this.#idOf = idOf
    this.#names = names
    this.#must = must
  }

  /** Calls that are complete. */
  get ended(): number {
    return this.#ended
  }

  get begun(): number {
    return this.#begun
  }

  feed(characters: string): ReadCalls {
    const read = this.#read(characters)
    // Marks and the white space around them are all that there can be; nobody asked for those.
    return this.#must ? { ...read, text: '' } : read
  }

  #read(characters: string): ReadCalls {
    const read: ReadCalls = { text: '', calls: [] }
    let rest = this.#held + characters
    this.#held = ''
    while (rest !== '') {
      const before = rest
      if (this.#state === 'start') rest = this.#start(rest)
      else if (this.#state === 'text') rest = this.#text(rest, read)
      else if (this.#state === 'between') rest = this.#between(rest, read)
      else rest = this.#inCall(rest, read)
      if (rest === before && this.#held === rest) break
    }
    return read
  }

  /** Nothing more will come: what only looked like a call is text after all, unless it was one that was cut. */
  end(): ReadCalls {
    const held = this.#held
    this.#held = ''
    if (this.#must) return { text: '', calls: [] }
    if (this.#state === 'call') {
      const doubtful = this.#doubtful
      this.#doubtful = ''
      return { text: this.#call?.known === true ? '' : doubtful + held, calls: [] }
    }
    return { text: this.#state === 'between' ? '' : held, calls: [] }
  }

  #hold(rest: string): string {
    this.#held = rest
    return rest
  }

  /** An answer may begin with a call that nothing announces. */
  #start(rest: string): string {
    if (!this.#form.bare) {
      this.#state = 'text'
      return rest
    }
    const visible = rest.trimStart()
    if (visible === '') return this.#hold(rest)
    this.#state = visible.startsWith('{') ? 'between' : 'text'
    return visible.startsWith('{') ? visible : rest
  }

  #text(rest: string, read: ReadCalls): string {
    const { open } = this.#form
    const at = rest.indexOf(open)
    if (at >= 0) {
      read.text += rest.slice(0, at)
      this.#state = 'between'
      this.#announced = true
      this.#opened = open
      return rest.slice(at + open.length)
    }
    const releasable = rest.length - heldBackLength(rest, [open])
    read.text += rest.slice(0, releasable)
    return releasable === rest.length ? '' : this.#hold(rest.slice(releasable))
  }

  #between(rest: string, read: ReadCalls): string {
    const { close, open } = this.#form
    const visible = rest.trimStart()
    if (visible === '') return this.#hold(rest)
    if (visible.startsWith('{')) {
      this.#opened = ''
      this.#state = 'call'
      this.#call = new CallReader(this.#form.argumentsKey, (name) => this.#announced || this.#names.has(name))
      return visible
    }
    for (const mark of [close, open]) {
      if (mark === '') continue
      if (visible.startsWith(mark)) {
        this.#opened = ''
        return visible.slice(mark.length)
      }
      if (mark.startsWith(visible)) return this.#hold(rest)
    }
    if (/^[[\],;]/.test(visible)) {
      this.#opened = ''
      return visible.slice(1)
    }
    this.#state = 'text'
    if (this.#opened === '') return visible
    read.text += this.#opened
    this.#opened = ''
    return rest
  }

  #inCall(rest: string, read: ReadCalls): string {
    const call = this.#call!
    const { taken, grown } = call.feed(rest)
    if (!call.known) this.#doubtful += rest.slice(0, taken)
    if (call.known && !call.told) {
      call.told = true
      this.#doubtful = ''
      read.calls.push({ index: this.#begun, id: this.#idOf(this.#begun), name: call.name, arguments: grown })
      this.#begun += 1
    } else if (call.known && grown !== '') read.calls.push({ index: this.#begun - 1, arguments: grown })
    if (!call.complete) return ''
    if (call.known) {
      this.#ended += 1
      this.#state = 'between'
    } else {
      // JSON, but of something else.
      read.text += this.#doubtful
      this.#doubtful = ''
      this.#state = 'text'
    }
    return rest.slice(taken)
  }
}

/** Reads one JSON object `{"name": …, "arguments": {…}}` letter by letter; members in any order, others left out. */
class CallReader {
  name = ''
  /** Its name is complete, so it is a call. */
  known = false
  /** The first of it went out. */
  told = false
  complete = false
  readonly #isCall: (name: string) => boolean
  readonly #argumentsKeys: readonly string[]
  #depth = 0
  #inText = false
  #escaped = false
  #text = ''
  #key = ''
  #expectsValue = false
  /** Arguments that came before the name. */
  #early = ''
  #argumentsSeen = false
  /** Arguments as JSON text in a JSON text, decoded at its end. */
  #wrapped = ''

  constructor(argumentsKey: CallForm['argumentsKey'], isCall: (name: string) => boolean) {
    this.#isCall = isCall
    // Models mix the two up; nothing else in a call has these names.
    this.#argumentsKeys = argumentsKey === 'arguments' ? ['arguments', 'parameters'] : ['parameters', 'arguments']
  }

  /** How many characters belong to it, and what they add to its arguments. */
  feed(characters: string): { taken: number; grown: string } {
    let grown = ''
    let taken = 0
    for (const character of characters) {
      taken += character.length
      grown += this.#take(character)
      if (this.complete) break
    }
    if (!this.known) {
      this.#early += grown
      return { taken, grown: '' }
    }
    const all = this.#early + grown
    this.#early = ''
    return { taken, grown: this.complete && !this.#argumentsSeen ? `${all}{}` : all }
  }

  #take(character: string): string {
    const wasInText = this.#inText
    if (wasInText) this.#takeInText(character)
    else if (character === '"') this.#beginText()
    else if (character === '{' || character === '[') this.#depth += 1
    else if (character === '}' || character === ']') {
      this.#depth -= 1
      this.complete = this.#depth === 0
    }
    return this.#argumentsOf(character, wasInText)
  }

  #beginText(): void {
    this.#inText = true
    this.#text = ''
  }

  #takeInText(character: string): void {
    if (this.#escaped) this.#escaped = false
    else if (character === '\\') this.#escaped = true
    else if (character === '"') {
      this.#inText = false
      this.#endText()
      return
    }
    if (this.#depth === 1) this.#text += character
  }

  #endText(): void {
    if (this.#depth !== 1) return
    if (!this.#expectsValue) this.#key = decoded(this.#text)
    else if (this.#key === 'name') {
      this.name = decoded(this.#text)
      this.known = this.#isCall(this.name)
    } else if (this.#argumentsKeys.includes(this.#key)) this.#wrapped = decoded(this.#text)
  }

  /** What this character adds to the arguments. Called after the state moved over it. */
  #argumentsOf(character: string, wasInText: boolean): string {
    const betweenMembers = this.#depth === 1 && !wasInText && !this.#inText
    if (betweenMembers && character === ':' && !this.#expectsValue) {
      this.#expectsValue = true
      return ''
    }
    const closesMember = betweenMembers && character === ','
    const isArgument = this.#expectsValue && this.#argumentsKeys.includes(this.#key) && !closesMember && !this.complete
    if (closesMember || this.complete) this.#expectsValue = false
    if (!isArgument) return ''
    if (this.#wrapped !== '') {
      const wrapped = this.#wrapped
      this.#wrapped = ''
      this.#argumentsSeen = true
      return wrapped
    }
    const inWrapping = this.#depth === 1 && (wasInText || this.#inText)
    const space = betweenMembers && /\s/.test(character)
    // `null` for no arguments.
    const isNull = betweenMembers && !this.#argumentsSeen && /[nul]/.test(character)
    if (inWrapping || space || isNull) return ''
    this.#argumentsSeen = true
    return character
  }
}

function decoded(text: string): string {
  try {
    return JSON.parse(`"${text}"`) as string
  } catch {
    // A broken escape is passed on as the model wrote it.
    return text
  }
}
