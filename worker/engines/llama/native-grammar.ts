import { type Llama, LlamaGrammar, LlamaGrammarEvaluationState, type LlamaModel } from 'node-llama-cpp'
import { opened, samplerDoor } from './native-context.ts'
import type { GrammarState } from './sequence.ts'

export class NativeGrammar implements GrammarState {
  readonly native: object
  readonly #llama: Llama

  constructor(llama: Llama, model: LlamaModel, grammar: string) {
    this.#llama = llama
    this.native = opened(new LlamaGrammarEvaluationState({ model, grammar: new LlamaGrammar(llama, { grammar }) }), '_state', [])
  }

  accept(token: number): void {
    samplerDoor(this.#llama).acceptGrammarEvaluationStateToken(this.native, token)
  }
}
