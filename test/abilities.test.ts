import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { isAble } from '../coordinator/core/routing.ts'
import { ABILITIES, type Ability, fitting, needsOf, withPlain } from '../proto/abilities.ts'
import { ANTHROPIC_ABILITIES } from '../proto/anthropic-wire-request.ts'
import type { GenerationRequest, Prompt } from '../proto/request.ts'
import { writeTinyModel } from '../worker/tiny-model.ts'
import { chat, complete, openTiny, type TinyEngine, type Wish } from './support/tiny-engine.ts'

/** Every ability on every kind of model of the local engine: seen in what comes out, or not claimed. */

const folder = mkdtempSync(join(tmpdir(), 'holdfast-abilities-'))
const opened: TinyEngine[] = []

afterAll(async () => {
  await Promise.all(opened.map((engine) => engine.close()))
  rmSync(folder, { recursive: true, force: true })
})

const THINKING =
  "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}" +
  "{{ '<|im_start|>assistant\n<think>\n' }}{# ends with </think> #}"

const PROMPT = chat('What is the queue for?')
const HOT = { temperature: 1.5, topK: 0, topP: 1, minP: 0 }
const TOOL = { name: 'weather', parameters: { type: 'object', properties: { city: { enum: ['Bern'] } }, required: ['city'] } }
const FLAG = { type: 'object', properties: { ok: { type: 'boolean' } }, required: ['ok'], additionalProperties: false }

type Check = { prompt?: Prompt; wish?: Wish; seen: (engine: TinyEngine, ask: () => ReturnType<typeof complete>) => Promise<void> }

/** Another answer than without the parameter. */
function differs(wish: Wish, plain: Wish = {}): Check {
  return {
    wish: { ...plain, ...wish, sampling: { ...plain.sampling, ...wish.sampling } },
    seen: async (engine, ask) => expect((await ask()).ids).not.toEqual((await complete(engine, PROMPT, plain)).ids),
  }
}

/** Absent: no model of the local engine has it. */
const CHECKS: Partial<Record<Ability, Check>> = {
  completions: {
    prompt: { kind: 'text', text: 'The queue' },
    wish: { maxTokens: 5 },
    seen: async (_engine, ask) => expect((await ask()).ids).toHaveLength(5),
  },
  embeddings: {
    prompt: { kind: 'embed', inputs: ['a', 'b'] },
    seen: async (_engine, ask) => expect(JSON.parse((await ask()).text)).toHaveLength(2),
  },
  tools: {
    wish: { tools: [TOOL], maxTokens: 1 },
    seen: async (engine, ask) => {
      const plain = await complete(engine, PROMPT, { maxTokens: 1 })
      expect((await ask()).end.promptTokens).toBeGreaterThan(plain.end.promptTokens)
    },
  },
  tool_choice: {
    wish: { tools: [TOOL], toolChoice: { name: 'weather' }, reasoning: { maxTokens: 0 } },
    seen: async (_engine, ask) =>
      expect(await ask()).toMatchObject({ end: { reason: 'tool_calls' }, whole: { toolCalls: [{ name: 'weather' }] } }),
  },
  parallel_tool_calls: {
    wish: { tools: [TOOL], toolChoice: 'required', parallelToolCalls: false },
    seen: async (_engine, ask) => expect((await ask()).whole.toolCalls).toHaveLength(1),
  },
  json_object: {
    wish: { format: { kind: 'json' }, maxTokens: 40, reasoning: { maxTokens: 0 } },
    seen: async (_engine, ask) => expect((await ask()).text).toMatch(/^\s*\{/),
  },
  json_schema: {
    wish: { format: { kind: 'schema', name: 'flag', schema: FLAG, strict: true }, sampling: HOT },
    seen: async (_engine, ask) => expect(typeof JSON.parse((await ask()).text).ok).toBe('boolean'),
  },
  logprobs: {
    wish: { logprobs: 3, maxTokens: 4, reasoning: { maxTokens: 0 } },
    seen: async (_engine, ask) => expect((await ask()).whole.logprobs.map((one) => one.top_logprobs.length)).toEqual([3, 3, 3, 3]),
  },
  reasoning_effort: {
    wish: { reasoning: { effort: 'minimal' }, maxTokens: 400 },
    seen: async (_engine, ask) => expect((await ask()).text).not.toBe(''),
  },
  reasoning_max_tokens: {
    wish: { reasoning: { maxTokens: 4 }, maxTokens: 60 },
    seen: async (_engine, ask) => expect((await ask()).text).not.toBe(''),
  },
  reasoning_none: {
    wish: { reasoning: { effort: 'none' }, maxTokens: 20 },
    seen: async (engine, ask) => {
      const reasons = engine.state().abilities.includes('reasoning_effort')
      expect((await complete(engine, PROMPT, { maxTokens: 20 })).whole.reasoning !== '').toBe(reasons)
      expect((await ask()).whole.reasoning).toBe('')
    },
  },
  reasoning_max_tokens_below_1024: {
    wish: { reasoning: { maxTokens: 4 }, maxTokens: 60 },
    seen: async (_engine, ask) => expect((await ask()).text).not.toBe(''),
  },
  temperature: differs({ sampling: { temperature: 0 }, maxTokens: 60 }, { sampling: HOT, maxTokens: 60 }),
  temperature_above_1: differs({ sampling: { temperature: 2 }, maxTokens: 60 }, { sampling: { ...HOT, temperature: 0.1 }, maxTokens: 60 }),
  top_p: differs({ sampling: { topP: 0.01 }, maxTokens: 60 }, { sampling: HOT, maxTokens: 60 }),
  min_tokens: {
    wish: { minTokens: 400, maxTokens: 700 },
    seen: async (_engine, ask) => expect((await ask()).ids.length).toBeGreaterThanOrEqual(400),
  },
  seed: differs({ seed: 77, maxTokens: 60 }, { seed: 78, sampling: HOT, maxTokens: 60 }),
  top_k: differs({ sampling: { topK: 1 }, maxTokens: 60 }, { sampling: HOT, maxTokens: 60 }),
  min_p: differs({ sampling: { minP: 1 }, maxTokens: 60 }, { sampling: HOT, maxTokens: 60 }),
  repeat_penalty: differs({ sampling: { repeatPenalty: 1.8 }, maxTokens: 200 }, { sampling: { temperature: 0 }, maxTokens: 200 }),
  frequency_penalty: differs({ sampling: { frequencyPenalty: 2 }, maxTokens: 200 }, { sampling: { temperature: 0 }, maxTokens: 200 }),
  presence_penalty: differs({ sampling: { presencePenalty: 2 }, maxTokens: 200 }, { sampling: { temperature: 0 }, maxTokens: 200 }),
  logit_bias: differs({ sampling: { logitBias: { 300: 100 } }, maxTokens: 3 }, { sampling: { temperature: 0 }, maxTokens: 3 }),
}

const KINDS: [kind: string, open: () => Promise<TinyEngine>, lacks: readonly Ability[]][] = [
  [
    'that generates',
    () => openTiny(),
    ['embeddings', 'rerank', 'reasoning_effort', 'reasoning_max_tokens', 'reasoning_max_tokens_below_1024'],
  ],
  ['that reasons', openThinker, ['embeddings', 'rerank']],
  ['that embeds', () => openTiny({ purpose: 'embed' }), ABILITIES.filter((ability) => ability !== 'embeddings')],
]

async function openThinker(): Promise<TinyEngine> {
  const path = join(folder, 'thinker.gguf')
  writeTinyModel(path, THINKING)
  return openTiny({ path })
}

test('a model of which it was written down what it can before sampling had names has it all the same', () => {
  expect(withPlain(['tools'])).toEqual(['tools', 'temperature', 'temperature_above_1', 'top_p'])
  expect(withPlain(['tools'], ANTHROPIC_ABILITIES)).toEqual(['tools', 'temperature', 'top_p'])
  expect(withPlain(['top_p', 'tools'])).toEqual(['top_p', 'tools'])
  expect(withPlain(['reasoning_max_tokens'])).toContain('reasoning_max_tokens_below_1024')
  expect(withPlain(['reasoning_max_tokens'], ANTHROPIC_ABILITIES)).not.toContain('reasoning_max_tokens_below_1024')
})

describe.each(KINDS)('a model %s', (_kind, open, lacks) => {
  let engine: Promise<TinyEngine> | undefined

  async function theEngine(): Promise<TinyEngine> {
    engine ??= open().then((one) => (opened.push(one), one))
    return engine
  }

  test.each(ABILITIES)('honours %s, or does not claim it', async (ability) => {
    const model = await theEngine()
    const check = CHECKS[ability]
    const claimed = model.state().abilities.includes(ability)
    expect(claimed).toBe(check !== undefined && !lacks.includes(ability))
    if (!claimed || check === undefined) return
    const { prompt = PROMPT, wish = {} } = check
    const request: GenerationRequest = { prompt, stop: [], sampling: {}, seed: 1, ...wish }
    expect(needsOf(request, wish.seed !== undefined)).toContain(ability)
    await check.seen(model, () => complete(model, prompt, wish))
  })
})

test('not to think is what a model that never thinks does anyway, and what can be told how much to think can be told', () => {
  for (const reasoning of [{ maxTokens: 0 }, { effort: 'none' }] as const) {
    const request = { prompt: PROMPT, stop: [], sampling: {}, reasoning }
    const needs = needsOf(request, false)
    expect(needs).toEqual(['reasoning_none'])
    for (const has of ['reasoning_none', 'reasoning_effort', 'reasoning_max_tokens']) expect(isAble(needs, [has])).toBe(true)
    expect(isAble(needs, ['tools'])).toBe(false)
    expect(fitting(request, ['reasoning_none']).reasoning).toBeUndefined()
    expect(fitting(request, ['reasoning_effort', 'reasoning_max_tokens'])).toEqual(request)
    // In the words that it knows.
    expect(fitting(request, ['reasoning_effort']).reasoning).toEqual({ effort: 'none', maxTokens: 0 })
  }
})
