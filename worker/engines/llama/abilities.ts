import { type Ability, SAMPLING_ABILITIES } from '../../../proto/abilities.ts'

/** What a GGUF file is served for: a context for one of these can do nothing of the others. */
export type Purpose = 'generate' | 'embed' | 'rank'

const GENERATION_ABILITIES: readonly Ability[] = [
  ...SAMPLING_ABILITIES,
  'tools',
  'tool_choice',
  'parallel_tool_calls',
  'json_object',
  'json_schema',
  'reasoning_none',
  'min_tokens',
  'logprobs',
]

/** Of a model that is loaded. Tools need no template that knows them: where it does not, they are described. */
export function generationAbilities({ reasons }: { reasons: boolean }): Ability[] {
  const abilities = [...GENERATION_ABILITIES]
  if (reasons) abilities.push('reasoning_effort', 'reasoning_max_tokens', 'reasoning_max_tokens_below_1024')
  return abilities
}

/** Of a model that is not loaded yet: what every model of its purpose has. */
export function expectedAbilities(purpose: Purpose): readonly Ability[] {
  if (purpose === 'embed') return ['embeddings']
  return purpose === 'rank' ? ['rerank'] : GENERATION_ABILITIES
}
