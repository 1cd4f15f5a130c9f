import { openLlamaEngine } from '../../worker/engines/llama.ts'

/** A worker of nothing but an engine, to be killed; says so once the engine serves. */
const log = { info: () => {}, warn: () => {}, error: () => {} }
const engine = openLlamaEngine({ name: 'toy', path: process.argv[2]!, sha256: 'toy', slots: 2, contextTokens: 1024, log }, () => {
  if (engine.state().phase === 'ready') process.send?.('ready')
})
