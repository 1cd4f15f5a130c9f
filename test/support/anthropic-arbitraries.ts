import fc from 'fast-check'
import type { AnswerDelta, FinishReason } from '../../proto/answer.ts'
import type { ChatMessage, ContentPart, GenerationRequest, Reasoning, Tool, ToolCall } from '../../proto/request.ts'

/** By what an answer grows, one after the other, and how it ends. */
export type Growth = [text: string, delta: AnswerDelta | undefined][]
export type End = { finishReason: FinishReason; stopSequence: string | null }

/** Thinking, then text, then calls, each in pieces, as a provider sends them. */
export function growths(): fc.Arbitrary<{ growth: Growth; isTold: boolean[] }> {
  const signed = fc.tuple(
    fc.array(fc.string({ minLength: 1, maxLength: 5 }), { maxLength: 3 }),
    fc.base64String({ minLength: 4, maxLength: 8 }),
  )
  const unsigned = fc.tuple(fc.array(fc.string({ minLength: 1, maxLength: 5 }), { minLength: 1, maxLength: 3 }), fc.constant(''))
  const thoughts = fc.oneof(fc.array(signed, { maxLength: 3 }), fc.tuple(unsigned))
  const texts = fc.array(fc.string({ unit: 'grapheme', minLength: 1, maxLength: 6 }), { maxLength: 4 })
  const calls = fc.array(fc.tuple(fc.dictionary(fc.string({ maxLength: 4 }), fc.string({ maxLength: 4 }), { maxKeys: 2 }), fc.nat(6)), {
    maxLength: 3,
  })
  return fc
    .record({ thoughts, texts, calls, told: fc.array(fc.boolean(), { minLength: 30, maxLength: 30 }) })
    .map(({ thoughts, texts, calls, told }) => {
      const growth: Growth = []
      let offset = 0
      for (const [index, [pieces, signature]] of thoughts.entries()) {
        if (index > 0) growth.push(['', { reasoningSignature: ` @${offset}:` }])
        for (const reasoning of pieces) growth.push(['', { reasoning }])
        if (signature !== '') growth.push(['', { reasoningSignature: signature }])
        offset += pieces.join('').length
      }
      for (const text of texts) growth.push([text, undefined])
      for (const [index, [input, cut]] of calls.entries()) {
        const json = JSON.stringify(input)
        growth.push(['', { toolCalls: [{ index, id: `toolu_${index}`, name: 'f' }] }])
        for (const piece of [json.slice(0, cut), json.slice(cut)]) growth.push(['', { toolCalls: [{ index, arguments: piece }] }])
      }
      return { growth, isTold: growth.map((_, index) => told[index] ?? true) }
    })
}

export function ends(): fc.Arbitrary<End> {
  return fc.constantFrom<End>(
    { finishReason: 'stop', stopSequence: null },
    { finishReason: 'stop', stopSequence: 'END' },
    { finishReason: 'length', stopSequence: null },
    { finishReason: 'tool_calls', stopSequence: null },
    { finishReason: 'content_filter', stopSequence: null },
  )
}

/** All that both can say, in the form in which the door writes it. */
export function requests(): fc.Arbitrary<Omit<GenerationRequest, 'seed'>> {
  // Nothing but white space is left out on the way.
  const text = fc.string({ unit: 'grapheme', minLength: 1, maxLength: 12 }).filter((said) => said.trim() !== '')
  const tools = fc.uniqueArray(
    fc.record(
      {
        name: fc.stringMatching(/^[a-z_]{1,8}$/),
        description: text,
        parameters: fc.constant({ type: 'object', properties: {} }),
        strict: fc.constant(true as const),
      },
      { requiredKeys: ['name', 'parameters'] },
    ),
    { minLength: 1, maxLength: 3, selector: (tool) => tool.name },
  )
  const optional = <T>(value: fc.Arbitrary<T>) => fc.option(value, { nil: undefined })
  return fc
    .record({
      system: optional(text),
      turns: fc.array(turnPair(text), { maxLength: 3 }),
      last: content(text),
      maxTokens: fc.integer({ min: 3_000, max: 9_000 }),
      stop: fc.uniqueArray(fc.string({ minLength: 1, maxLength: 5 }), { maxLength: 3 }),
      temperature: optional(fc.constantFrom(0, 0.5, 1)),
      topP: optional(fc.constantFrom(0.1, 1)),
      topK: optional(fc.nat(100)),
      tools: optional(tools),
      choice: fc.constantFrom('auto', 'none', 'required', 'first'),
      single: fc.boolean(),
      isShaped: fc.boolean(),
      reasoning: optional(
        fc.oneof(
          fc.record({ effort: fc.constantFrom('low', 'medium', 'xhigh') }),
          fc.constant<Reasoning>({ effort: 'high', effortIsDefault: true }),
          fc.record({ maxTokens: fc.constantFrom(0, 1_024, 2_000) }),
          fc.constant<Reasoning>({ effort: 'low', maxTokens: 1_024 }),
        ) as fc.Arbitrary<Reasoning>,
      ),
    })
    .map(({ system, turns, last, maxTokens, stop, temperature, topP, topK, tools, choice, single, isShaped, reasoning }) => {
      const messages: ChatMessage[] = system === undefined ? [] : [{ role: 'system', content: system }]
      messages.push(...turns.flat(), { role: 'user', content: last })
      return {
        prompt: { kind: 'chat', messages: messages },
        maxTokens,
        stop,
        sampling: {
          ...(temperature === undefined ? {} : { temperature }),
          ...(topP === undefined ? {} : { topP }),
          ...(topK === undefined ? {} : { topK }),
        },
        ...(tools === undefined ? {} : calling(tools, choice, single)),
        ...(isShaped ? { format: { kind: 'schema' as const, name: 'answer', schema: { type: 'object' }, strict: true } } : {}),
        ...(reasoning === undefined ? {} : { reasoning }),
      }
    })
}

function calling(tools: Tool[], choice: string, single: boolean): Partial<GenerationRequest> {
  const name = tools[0]?.name ?? ''
  return {
    tools,
    ...(choice === 'auto' ? {} : { toolChoice: choice === 'first' ? { name } : (choice as 'none' | 'required') }),
    ...(single && choice !== 'none' ? { parallelToolCalls: false } : {}),
  }
}

function content(text: fc.Arbitrary<string>): fc.Arbitrary<string | ContentPart[]> {
  const image = fc.constantFrom<ContentPart>(
    { kind: 'image', url: 'https://example.com/a.png' },
    { kind: 'image', url: 'data:image/png;base64,AAAA' },
  )
  const part = fc.oneof(
    image,
    text.map((text): ContentPart => ({ kind: 'text', text })),
  )
  return fc.oneof(
    text,
    fc.array(part, { minLength: 2, maxLength: 3 }),
    image.map((part) => [part]),
  )
}

/** What the user says, what the model says to it, and the results of what it called. */
function turnPair(text: fc.Arbitrary<string>): fc.Arbitrary<ChatMessage[]> {
  const results = fc.array(fc.record({ content: content(text), isError: fc.option(fc.boolean(), { nil: undefined }) }), { maxLength: 2 })
  const thought = fc.option(fc.record({ reasoning: text, signature: fc.base64String({ minLength: 4, maxLength: 8 }) }), { nil: undefined })
  return fc.record({ user: content(text), said: text, thought, results }).map(({ user, said, thought, results }) => {
    const toolCalls = results.map((_, index): ToolCall => ({ id: `call_${index}`, name: 'f', arguments: '{"a":1}' }))
    return [
      { role: 'user', content: user },
      {
        role: 'assistant',
        content: said,
        ...(thought === undefined ? {} : { reasoning: thought.reasoning, reasoningSignature: thought.signature }),
        ...(toolCalls.length === 0 ? {} : { toolCalls }),
      },
      ...results.map(
        ({ content, isError }, index): ChatMessage => ({
          role: 'tool',
          toolCallId: `call_${index}`,
          content,
          ...(isError === undefined ? {} : { isError }),
        }),
      ),
    ]
  })
}
