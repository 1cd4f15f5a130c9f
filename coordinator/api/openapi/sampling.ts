import { anything, map, real, type Schema, text, whole } from './schema.ts'

/** Parameters of the OpenAI dialect that several of its endpoints take. Any of them may be null, which is as good as absent. */
export const SAMPLING: Record<string, Schema> = {
  temperature: real(undefined, 0, 2),
  top_p: real(undefined, 0, 1),
  top_k: whole(undefined, 0, 1_000_000),
  min_p: real(undefined, 0, 1),
  min_tokens: whole(undefined, 0, 10_000_000),
  seed: whole('Counts modulo 2^32'),
  stop: {
    anyOf: [text(undefined, 1_000), { type: 'array', items: text(undefined, 1_000), maxItems: 16 }],
    description: 'Texts that end the answer',
  },
  frequency_penalty: real(undefined, -2, 2),
  presence_penalty: real(undefined, -2, 2),
  repeat_penalty: real(undefined, 0.01, 10),
  logit_bias: map(real(undefined, -100, 100), 'By token id, up to 10,000'),
}

/** Taken, without effect on the answer, and sent on to a cloud of the dialect. */
export const WITHOUT_EFFECT: Record<string, Schema> = {
  user: text(),
  safety_identifier: text(),
  prompt_cache_key: text(),
  prompt_cache_retention: text(),
  prompt_cache_options: map(anything()),
}

export const EFFORTS = ['none', 'minimal', 'low', 'medium', 'high', 'xhigh', 'max']
