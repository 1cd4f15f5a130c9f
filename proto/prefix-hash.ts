import { type GenerationRequest, textOf } from './request.ts'

/**
 * Names of a conversation's growing prefixes, shortest first: after its first message, after its second, and so on. Worker
 * and coordinator make them alike, so that its next turn finds the worker that holds this one.
 */
export function prefixesOf(prompt: GenerationRequest['prompt']): string[] {
  if (prompt.kind !== 'chat') return []
  const hashes: string[] = []
  const hash = new PrefixHash()
  for (const { role, content } of prompt.messages.slice(0, PREFIX_MESSAGES_MAX)) {
    hash.add(role)
    hash.add(textOf(content))
    hashes.push(hash.value)
  }
  return hashes
}

const PREFIX_MESSAGES_MAX = 64

/**
 * A running 64-bit hash of text (two 32-bit multiply-and-mix lanes). It names prefixes of conversations for placement only:
 * a collision sends one request to a worker without its prefix, so speed counts and secrecy does not.
 */
class PrefixHash {
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
