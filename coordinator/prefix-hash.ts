/**
 * A running 64-bit hash of text (two 32-bit multiply-and-mix lanes). It names prefixes of conversations for placement only:
 * a collision sends one request to a worker without its prefix, so speed counts and secrecy does not.
 */
export class PrefixHash {
  #high = 0x9e37_79b9
  #low = 0x85eb_ca6b

  add(text: string): void {
    let high = this.#high ^ text.length
    let low = this.#low
    for (let index = 0; index < text.length; index++) {
      const code = text.charCodeAt(index)
      high = Math.imul(high ^ code, 0x9e37_79b1)
      low = Math.imul(low ^ code, 0x5f35_6495)
    }
    this.#high = Math.imul(high ^ (high >>> 16), 0x85eb_ca6b) ^ (low >>> 13)
    this.#low = Math.imul(low ^ (low >>> 13), 0xc2b2_ae35) ^ (high >>> 16)
  }

  get value(): string {
    return (this.#high >>> 0).toString(36) + (this.#low >>> 0).toString(36)
  }
}
