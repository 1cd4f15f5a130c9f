import type { Answer, Aside, Place, Stretch } from './answer.ts'

/**
 * The Anthropic dialect thinks in blocks, each with a signature of its own, and wants them back as they were; an answer here
 * has one text of reasoning and one signature, and both only grow. So the signature holds one entry for each block, parted
 * by spaces, which no signature contains. An entry begins with the place in the reasoning where its block begins, unless
 * that is the start, and is there as soon as its block is:
 *
 *   c2lnbmF0dXJl @120:c2Vjb25k @240:redacted:ZW5jcnlwdGVk
 *
 * A redacted block is all entry and no text.
 */
export type ThinkingBlock = { kind: 'thinking'; thinking: string; signature: string } | { kind: 'redacted'; data: string }

/** What a block that begins now appends to the signature, before its own. */
export function entryStart(reasoningChars: number, hasSignature: boolean): string {
  if (reasoningChars === 0 && !hasSignature) return ''
  return `${hasSignature ? ' ' : ''}@${reasoningChars}:`
}

/** In the place of a signature. */
export function redactedEntry(data: string): string {
  return REDACTED + data
}

/**
 * The blocks in order. One without a signature is one that the provider did not sign, or has not yet. A part of a reasoning
 * comes with the characters that lie `before` it.
 */
export function thinkingBlocks(reasoning: string, signature: string, before = 0): ThinkingBlock[] {
  const entries =
    signature === ''
      ? []
      : signature
          .trimStart()
          .split(' ')
          .map((entry) => entryOf(entry, before))
  const blocks: ThinkingBlock[] = []
  const first = entries[0]?.offset ?? reasoning.length
  if (first > 0) blocks.push({ kind: 'thinking', thinking: reasoning.slice(0, first), signature: '' })
  for (const [index, { offset, signature }] of entries.entries()) {
    const end = entries[index + 1]?.offset ?? reasoning.length
    const isRedacted = signature.startsWith(REDACTED)
    if (isRedacted) blocks.push({ kind: 'redacted', data: signature.slice(REDACTED.length) })
    if (!isRedacted || end > offset)
      blocks.push({ kind: 'thinking', thinking: reasoning.slice(offset, end), signature: isRedacted ? '' : signature })
  }
  return blocks
}

/** The blocks of one stretch of an answer. */
export function thoughtsOf({ reasoning, reasoningSignature }: Answer, { from, to }: Stretch): ThinkingBlock[] {
  const signature = reasoningSignature.slice(from.signature, to.signature)
  return thinkingBlocks(reasoning.slice(from.reasoning, to.reasoning), signature, from.reasoning)
}

/** Follows an answer as it comes and finds where its provider thinks again after it has spoken. */
export class ThoughtTurns {
  readonly #passed: Place = { text: 0, reasoning: 0, signature: 0 }
  #spokeAt = 0

  /** What has come so far. */
  get passed(): Readonly<Place> {
    return this.#passed
  }

  speaks(text: string): void {
    this.#passed.text += text.length
  }

  /** What has to be noted before this reasoning or signature is added; undefined where no thought begins. */
  thinks(reasoning: string, signature = ''): Aside | undefined {
    const { text, ...thought } = this.#passed
    this.#passed.reasoning += reasoning.length
    this.#passed.signature += signature.length
    if (reasoning.length + signature.length === 0 || text === this.#spokeAt) return undefined
    this.#spokeAt = text
    return { at: text, kind: 'thought', ...thought }
  }
}

/** The reverse: a reasoning and a signature that hold these blocks, behind those that came before. */
export function joinedThinking(
  blocks: ThinkingBlock[],
  before = { reasoning: '', signature: '' },
): { reasoning: string; signature: string } {
  let { reasoning, signature } = before
  for (const block of blocks) {
    signature += entryStart(reasoning.length, signature !== '')
    signature += block.kind === 'redacted' ? redactedEntry(block.data) : block.signature
    if (block.kind === 'thinking') reasoning += block.thinking
  }
  return { reasoning, signature }
}

const REDACTED = 'redacted:'

function entryOf(entry: string, before: number): { offset: number; signature: string } {
  const [whole, offset] = /^@(\d{1,9}):/.exec(entry) ?? []
  return whole === undefined
    ? { offset: 0, signature: entry }
    : { offset: Math.max(0, Number(offset) - before), signature: entry.slice(whole.length) }
}
