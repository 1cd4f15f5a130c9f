import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { JsonSchema } from '../proto/request.ts'
import { AnswerReader, callIds } from '../worker/engines/llama/answer-reader.ts'
import { ChatTemplate } from '../worker/engines/llama/chat-template.ts'
import { writeTinyModel } from '../worker/tiny-model.ts'
import { chat, complete, openTiny, type TinyEngine } from './support/tiny-engine.ts'

const MARKS = { open: '<think>', close: '</think>' }

function read(
  written: string,
  step: number,
  begun: boolean,
  stops: string[] = [],
): { reasoning: string; text: string; stopped: string | undefined } {
  const reader = new AnswerReader({ stops, reasoning: { ...MARKS, begun } })
  const bytes = Buffer.from(written)
  let [reasoning, text] = ['', '']
  const add = (released: ReturnType<AnswerReader['end']>): void => {
    text += released.text
    reasoning += released.delta?.reasoning ?? ''
  }
  for (let at = 0; at < bytes.length; at += step) add(reader.feed(bytes.subarray(at, at + step), true))
  add(reader.end())
  expect(reader.text).toBe(text)
  return { reasoning, text, stopped: reader.stopped }
}

test.each([
  ['with both marks', '<think>\nIt is late — so no.\n</think>\n\nNo.', false, 'It is late — so no.', 'No.'],
  ['begun by the prompt', 'It is late.\n\nVery.\n</think>\n\nNo.', true, 'It is late.\n\nVery.', 'No.'],
  ['empty', '<think>\n\n</think>\n\nNo.', false, '', 'No.'],
  ['without an end', '<think>It is < late', false, 'It is < late', ''],
  ['that is none', 'No <think> at all', false, '', 'No <think> at all'],
])('reasoning %s is parted from the answer, however it is cut', (_kind, written, begun, reasoning, text) => {
  for (const step of [1, 2, 5, 100]) expect(read(written, step, begun)).toMatchObject({ reasoning, text })
})

test('a stop string in a thought ends nothing', () => {
  expect(read('<think>END? no END</think>yes END never', 3, false, ['END'])).toEqual({
    reasoning: 'END? no END',
    text: 'yes ',
    stopped: 'END',
  })
})

test('ids of calls belong to the request and not to the attempt', () => {
  expect(callIds(7, [1, 2])(0)).toBe(callIds(7, [1, 2])(0))
  const ids = [callIds(7, [1, 2])(0), callIds(7, [1, 2])(1), callIds(8, [1, 2])(0), callIds(7, [1, 3])(0)]
  expect(new Set(ids).size).toBe(4)
})

const THINKING =
  "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% else %}{{ '<think>\n' }}{% endif %}{% endif %}"

test('a template is told whether to think, or shown a thought that is over', () => {
  const messages = [{ role: 'user', content: 'Why?' }] as const
  const rendered = (template: string, thinks?: boolean) => {
    const { parts, reasoningBegun } = new ChatTemplate(template, {}).render({ messages: [...messages], thinks })
    return [
      parts
        .map(({ text }) => text)
        .join('')
        .slice(-30),
      reasoningBegun,
    ]
  }
  expect(rendered(THINKING)).toEqual([expect.stringMatching(/assistant\n<think>\n$/), true])
  expect(rendered(THINKING, false)).toEqual([expect.stringMatching(/<think>\n\n<\/think>\n\n$/), false])
  const deaf = THINKING.replace(/enable_thinking is defined and enable_thinking is false/, 'false')
  expect(rendered(deaf, false)).toEqual([expect.stringMatching(/<think>\n\n<\/think>\n\n$/), false])
})

describe('a model that reasons', () => {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-thinker-'))
  const prompt = chat('What is the queue for?')
  let engine: TinyEngine

  beforeAll(async () => {
    const path = join(folder, 'thinker.gguf')
    writeTinyModel(path, THINKING)
    engine = await openTiny({ path })
  })

  afterAll(async () => {
    await engine.close()
    rmSync(folder, { recursive: true, force: true })
  })

  test('says so', () => {
    expect(engine.state().abilities).toEqual(expect.arrayContaining(['reasoning_effort', 'reasoning_max_tokens']))
  })

  test('thinks as long as it may and answers then', async () => {
    const { whole, end } = await complete(engine, prompt, { reasoning: { maxTokens: 12 }, maxTokens: 80 })
    expect(whole.reasoning).not.toBe('')
    expect(whole.text).not.toBe('')
    expect(whole.text).not.toContain('think>')
    // The end of the thought is dictated: its letters are tokens of this model.
    expect(end.reasoningTokens).toBeGreaterThanOrEqual(12)
    expect(end.reasoningTokens).toBeLessThan(12 + 16)
  })

  test('does not think when it is told not to', async () => {
    for (const reasoning of [{ effort: 'none' } as const, { maxTokens: 0 }]) {
      const { whole, end } = await complete(engine, prompt, { reasoning, maxTokens: 20 })
      expect([whole.reasoning, end.reasoningTokens]).toEqual(['', 0])
      expect(whole.text).not.toBe('')
    }
  })

  test('goes on from any token of thought, of its dictated end, and of the answer', async () => {
    const wish = { reasoning: { maxTokens: 6 }, maxTokens: 40 }
    const whole = await complete(engine, prompt, wish)
    for (let forced = 1; forced < whole.ids.length; forced += 3) {
      const rest = await complete(engine, prompt, { ...wish, continuation: whole.ids.slice(0, forced) })
      expect(rest.ids).toEqual(whole.ids.slice(forced))
      expect(whole.whole.reasoning.endsWith(rest.whole.reasoning)).toBe(true)
      expect(whole.text.endsWith(rest.text)).toBe(true)
      expect(rest.end.reasoningTokens).toBe(whole.end.reasoningTokens)
    }
  })

  test('thinks before JSON and not inside of it', async () => {
    const schema: JsonSchema = {
      type: 'object',
      properties: { fit: { enum: ['good', 'bad'] } },
      required: ['fit'],
      additionalProperties: false,
    }
    const format = { kind: 'schema', name: 'verdict', schema, strict: true } as const
    const { whole, end } = await complete(engine, prompt, { format, reasoning: { maxTokens: 10 } })
    expect(whole.reasoning).not.toBe('')
    expect(['good', 'bad']).toContain(JSON.parse(whole.text).fit)
    expect(end.reason).toBe('stop')
  })
})
