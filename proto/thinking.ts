/**
 * The Anthropic dialect thinks in blocks, each with a signature of its own, and wants them back as they were; an answer here
 * has one text of reasoning and one signature, and both only grow. So the signature holds one entry for each block, parted
 * by spaces, which no signature contains. An entry says where in the reasoning its block begins, unless that is the start:
 *
 *   c2lnbmF0dXJl @120:c2Vjb25k @240:redacted:ZW5jcnlwdGVk
 *
 * A redacted block is all entry and no text.
 */
export type ThinkingBlock = { kind: 'thinking'; thinking: string; signature: string } | { kind: 'redacted'; data: string }

/** What is appended to the signature when a block that begins at `offset` of the reasoning gets its own. */
export function signatureEntry(signature: string, offset: number, isFirst: boolean): string {
  return isFirst && offset === 0 ? signature : `${isFirst ? '' : ' '}@${offset}:${signature}`
}

export function redactedEntry(data: string, offset: number, isFirst: boolean): string {
  return signatureEntry(REDACTED + data, offset, isFirst)
}

/** The blocks in order. One without a signature is one that the provider did not sign, or has not yet. */
export function thinkingBlocks(reasoning: string, signature: string): ThinkingBlock[] {
  const entries = signature === '' ? [] : signature.split(' ').map(entryOf)
  const blocks: ThinkingBlock[] = []
  const first = entries[0]?.offset ?? reasoning.length
  if (first > 0) blocks.push({ kind: 'thinking', thinking: reasoning.slice(0, first), signature: '' })
  for (const [index, { offset, signature }] of entries.entries()) {
    const end = entries[index + 1]?.offset ?? reasoning.length
    const isRedacted = signature.startsWith(REDACTED)
    if (isRedacted) blocks.push({ kind: 'redacted', data: signature.slice(REDACTED.length) })
    if (!isRedacted) blocks.push({ kind: 'thinking', thinking: reasoning.slice(offset, end), signature })
    else if (end > offset) blocks.push({ kind: 'thinking', thinking: reasoning.slice(offset, end), signature: '' })
  }
  return blocks
}

/** The reverse: a reasoning and a signature that hold these blocks. */
export function joinedThinking(blocks: ThinkingBlock[]): { reasoning: string; signature: string } {
  let reasoning = ''
  let signature = ''
  for (const block of blocks) {
    const isFirst = signature === ''
    if (block.kind === 'redacted') signature += redactedEntry(block.data, reasoning.length, isFirst)
    else if (block.signature !== '') signature += signatureEntry(block.signature, reasoning.length, isFirst)
    if (block.kind === 'thinking') reasoning += block.thinking
  }
  return { reasoning, signature }
}

const REDACTED = 'redacted:'

function entryOf(entry: string): { offset: number; signature: string } {
  const [whole, offset] = /^@(\d{1,9}):/.exec(entry) ?? []
  return whole === undefined ? { offset: 0, signature: entry } : { offset: Number(offset), signature: entry.slice(whole.length) }
}
