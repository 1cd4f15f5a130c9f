/**
 * A running 32-bit FNV-1a hash of text, the same however the text was cut into pieces. It marks how far a reader has read
 * what: two texts of one job that differ before that place have different marks.
 */
export class TextMark {
  #hash = 0x811c_9dc5

  add(text: string): void {
    let hash = this.#hash
    for (let index = 0; index < text.length; index++) {
      const code = text.charCodeAt(index)
      hash = Math.imul(hash ^ (code & 0xff), 0x0100_0193)
      hash = Math.imul(hash ^ (code >>> 8), 0x0100_0193)
    }
    this.#hash = hash
  }

  get value(): string {
    return (this.#hash >>> 0).toString(36)
  }
}
