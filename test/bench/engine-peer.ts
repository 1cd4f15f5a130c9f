import { getLlama, type LlamaContextSequence, LlamaLogLevel, type LlamaModel } from 'node-llama-cpp'
import type { ContenderSettings } from './engine-contenders.ts'

/** The free-running contender of the `engine` bench: its own process, because it needs node-llama-cpp as the product does. */
export type PeerOrder = { kind: 'start'; id: number; prompt: string; maxTokens: number; slot: number } | { kind: 'cancel'; id: number }

/** A token, or with `end` (the prompt's tokens) the end of a stream; `at` was taken when it happened. */
export type PeerNews = { id: number; at: number; end?: number }

const { model: modelPath, slots, contextTokens, threads } = JSON.parse(process.argv[2]!) as ContenderSettings
const llama = await getLlama({ gpu: false, build: 'never', maxThreads: 0, logLevel: LlamaLogLevel.error })
const model = await llama.loadModel({ modelPath })
const context = await model.createContext({ sequences: slots, contextSize: contextTokens, threads })
const sequences = Array.from({ length: slots }, () => context.getSequence())
/** Cleared when a stream ends and not when the next begins: waiting for the context's lock beside running streams can take for ever. */
const cleared = sequences.map(() => Promise.resolve())
const cancelled = new Set<number>()
let news: PeerNews[] = []

// News is gathered for a while: a message a token would slow the contender down more than it is slow.
setInterval(() => {
  if (news.length > 0) process.send?.(news)
  news = []
}, 5)
process.on('disconnect', () => process.exit())
process.on('message', (order: PeerOrder) => {
  if (order.kind === 'cancel') cancelled.add(order.id)
  else cleared[order.slot] = cleared[order.slot]!.then(() => generate(order, sequences[order.slot]!, model))
})
process.send?.([])

async function generate(
  { id, prompt, maxTokens }: Extract<PeerOrder, { kind: 'start' }>,
  sequence: LlamaContextSequence,
  model: LlamaModel,
): Promise<void> {
  const tokens = [...(model.tokens.shouldPrependBosToken ? [model.tokens.bos!] : []), ...model.tokenize(prompt, true)]
  let count = 0
  for await (const _ of sequence.evaluate(tokens, { temperature: 0 })) {
    if (cancelled.has(id)) break
    news.push({ id, at: performance.timeOrigin + performance.now() })
    if (++count === maxTokens) break
  }
  news.push({ id, at: performance.timeOrigin + performance.now(), end: tokens.length })
  await sequence.clearHistory()
}
