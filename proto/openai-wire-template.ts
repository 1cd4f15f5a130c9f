/**
 * Chunks of one stream mostly differ in their content alone. Once one was read whole, what stands before and after its
 * content is remembered, and a chunk that begins and ends alike is read by cutting those off.
 */
export class ContentTemplate {
  #before = ''
  #after = ''
  /** How often something was learnt that helped with no later chunk. */
  #vain = 0

  /** Undefined when the chunk must be read whole. */
  contentOf(data: string): string | undefined {
    const before = this.#before
    const end = data.length - this.#after.length
    if (before === '' || end < before.length || data.slice(0, before.length) !== before || data.slice(end) !== this.#after) return undefined
    const content = data.slice(before.length, end)
    this.#vain = 0
    // A quotation mark that is not escaped would end the content earlier, so the rest would be other members.
    if (!content.includes('"') && !content.includes('\\')) return isPlain(content) ? content : undefined
    return unescaped(content)
  }

  /** The chunk was read whole and says no more than this content. */
  learn(data: string, content: string): void {
    if (this.#vain >= VAIN_MAX) return
    this.#vain += 1
    const begin = data.indexOf(KEY)
    const from = begin + KEY.length
    // The key must stand where a member does, and only once, or the content could be another member's.
    if (begin < 1 || !'{,'.includes(data[begin - 1] ?? '') || data.includes(KEY, from)) return
    const to = data.indexOf('"', from)
    if (data.slice(from, to) !== content) return
    this.#before = data.slice(0, from)
    this.#after = data.slice(to)
  }
}

const KEY = '"content":"'
/** An upstream that writes something new into every chunk cannot be learnt, and trying costs more than it saves. */
const VAIN_MAX = 8
/** A token is short; what is long is better parsed than matched. */
const LENGTH_MAX = 4_096

/** Undefined unless it is the inside of one JSON string. */
function unescaped(content: string): string | undefined {
  if (content.length > LENGTH_MAX || !ESCAPED.test(content)) return undefined
  return JSON.parse(`"${content}"`) as string
}

function isPlain(content: string): boolean {
  return !CONTROL.test(content)
}

// oxlint-disable-next-line no-control-regex -- JSON forbids them inside a string.
const CONTROL = /[\u0000-\u001f]/
// oxlint-disable-next-line no-control-regex -- as above.
const ESCAPED = /^(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*$/
