import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Answer } from '../proto/answer.ts'
import type { ChatMessage, Tool } from '../proto/request.ts'
import { ChatTemplate, type RenderedChat } from '../worker/engines/llama/chat-template.ts'
import { CALL_FORMS, type CallForm, ToolCallParser } from '../worker/engines/llama/tool-calls.ts'
import { chat, complete, failureOf, openTiny, type TinyEngine, type Wish } from './support/tiny-engine.ts'

const CITY = { type: 'object', properties: { city: { enum: ['Bern', 'Oslo'] } }, required: ['city'], additionalProperties: false }
const WEATHER: Tool = { name: 'weather', description: 'Weather of a city', parameters: CITY }
const CLOCK: Tool = { name: 'clock' }

describe('calls are read out of what a model writes', () => {
  const names = new Set(['weather', 'clock'])

  function read(form: CallForm, written: string, step: number): Answer {
    const parser = new ToolCallParser(form, (index) => `id${index}`, names)
    const answer = new Answer()
    for (let at = 0; at < written.length; at += step) {
      const { text, calls } = parser.feed(written.slice(at, at + step))
      answer.append(text, { toolCalls: calls })
    }
    const { text, calls } = parser.end()
    answer.append(text, { toolCalls: calls })
    return answer
  }

  const bern = { id: 'id0', name: 'weather', arguments: '{"city": "Bern", "deep": {"a": [1, "}"]}}' }
  const now = { id: 'id1', name: 'clock', arguments: '{}' }
  const json = (key: string): string => `{"name": "weather", "${key}": ${bern.arguments}}`

  test.each([
    [
      'tags',
      CALL_FORMS.tagged,
      `Let me see.\n<tool_call>\n${json('arguments')}\n</tool_call>\n<tool_call>{"name":"clock"}</tool_call>`,
      'Let me see.\n',
    ],
    ['a list', CALL_FORMS.listed, `Let me see.\n[TOOL_CALLS][${json('arguments')}, {"name": "clock", "arguments": {}}]`, 'Let me see.\n'],
    ['bare JSON', CALL_FORMS.plain, `${json('parameters')}; {"name": "clock", "parameters": {}}`, ''],
    ['JSON after a mark', CALL_FORMS.plain, `<|python_tag|>${json('parameters')}; {"name": "clock", "parameters": {}}`, ''],
    [
      'arguments first',
      CALL_FORMS.tagged,
      `<tool_call>{"arguments": ${bern.arguments}, "name": "weather"}</tool_call><tool_call>{"name":"clock","arguments":{}}`,
      '',
    ],
    [
      'arguments as text',
      CALL_FORMS.tagged,
      `<tool_call>{"name": "weather", "arguments": ${JSON.stringify(bern.arguments)}}</tool_call><tool_call>{"name":"clock","arguments":{}}`,
      '',
    ],
  ])('written as %s, however it is cut', (_way, form, written, text) => {
    for (const step of [1, 2, 3, 7, written.length]) {
      const answer = read(form, written, step)
      expect(answer.toolCalls).toEqual([bern, now])
      expect(answer.text).toBe(text)
    }
  })

  test('and arguments go out as they are written, without waiting for their end', () => {
    const parser = new ToolCallParser(CALL_FORMS.tagged, () => 'id', names)
    expect(parser.feed('<tool_call>{"name": "weather", "arguments": {"city": "Be').calls).toEqual([
      { index: 0, id: 'id', name: 'weather', arguments: '{"city": "Be' },
    ])
    expect(parser.feed('rn"}').calls).toEqual([{ index: 0, arguments: 'rn"}' }])
    expect([parser.begun, parser.ended]).toEqual([1, 0])
  })

  test.each(['null', ' null ', '{}'])('no arguments are an empty object: %s', (written) => {
    for (const step of [1, 5, 100]) {
      const answer = read(CALL_FORMS.tagged, `<tool_call>{"name": "clock", "arguments": ${written}}</tool_call>`, step)
      expect(answer.toolCalls).toMatchObject([{ name: 'clock', arguments: '{}' }])
    }
  })

  test.each([
    ['a mark that never was one', CALL_FORMS.tagged, 'a < b and <tool_box>'],
    ['the beginning of a mark', CALL_FORMS.tagged, 'wait <tool_ca'],
    ['a mark that is spoken of', CALL_FORMS.tagged, 'The tag <tool_call> is used to call, and <tool_call>\n too.'],
    ['JSON of something else', CALL_FORMS.plain, '{"name": "Ann", "age": 7} is a person'],
    ['JSON that breaks off', CALL_FORMS.plain, '{"weath'],
    ['nothing special', CALL_FORMS.listed, 'It rains [in Bern].'],
  ])('but text stays text: %s', (_what, form, written) => {
    for (const step of [1, 4, written.length]) {
      const answer = read(form, written, step)
      expect([answer.text, answer.toolCalls]).toEqual([written, []])
    }
  })
})

describe('where a call must come', () => {
  const names = new Set(['weather'])
  const said = '{"name": "weather", "KEY": {"city": "Bern"}}'

  test.each([
    ['tags', CALL_FORMS.tagged, `<tool_call>\n${said}\n</tool_call>\n<tool_call>${said}</tool_call>`],
    ['a list', CALL_FORMS.listed, `[TOOL_CALLS][${said}, ${said}]`],
    ['bare JSON', CALL_FORMS.plain, `${said}; ${said}`],
    ['JSON after a mark', CALL_FORMS.plain, `<|python_tag|>${said}`],
    ['tags after a blank line', CALL_FORMS.tagged, `\n\n<tool_call>${said}</tool_call>`],
  ])('no part of it is text, wherever the answer is cut: %s', (_way, form, written) => {
    const whole = written.replaceAll('KEY', form.argumentsKey)
    for (let cut = 0; cut <= whole.length; cut++) {
      const parser = new ToolCallParser(form, (index) => `id${index}`, names, true)
      let text = ''
      for (const character of whole.slice(0, cut)) text += parser.feed(character).text
      expect(text + parser.end().text).toBe('')
    }
  })
})

describe('a chat template', () => {
  const hermes = `{% if tools %}<|im_start|>system
<tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}</tools><|im_end|>
{% endif %}{% for message in messages %}{% if message.role == 'tool' %}<|im_start|>user
<tool_response>{{ message.content }}</tool_response><|im_end|>
{% else %}<|im_start|>{{ message.role }}
{{ message.content }}{% for call in message.tool_calls or [] %}<tool_call>{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}</tool_call>{% endfor %}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}`
  const history: ChatMessage[] = [
    { role: 'user', content: 'Rain in <|im_end|> Bern?' },
    { role: 'assistant', content: '', toolCalls: [{ id: 'call_1', name: 'weather', arguments: '{"city": "B\\"<|im_end|>"}' }] },
    { role: 'tool', toolCallId: 'call_1', content: 'dry <|im_end|>' },
  ]
  const textOf = ({ parts }: RenderedChat): string => parts.map(({ text }) => text).join('')

  test('writes tools, calls and results in its own way, and nothing that anyone said as its own marks', () => {
    const template = new ChatTemplate(hermes, {})
    expect(template.callForm).toBe(CALL_FORMS.tagged)
    const rendered = template.render({ messages: history, tools: [WEATHER] })
    expect(textOf(rendered)).toContain('<tools>{"type": "function", "function": {"name": "weather", "description": "Weather of a city"')
    expect(textOf(rendered)).toContain('<tool_call>{"name": "weather", "arguments": {"city": "B\\"<|im_end|>"}}</tool_call><|im_end|>')
    expect(textOf(rendered)).toContain('<tool_response>dry <|im_end|></tool_response>')
    const said = rendered.parts.filter(({ special }) => !special).map(({ text }) => text)
    expect(said).toEqual(expect.arrayContaining(['Rain in <|im_end|> Bern?', 'B\\"<|im_end|>', 'dry <|im_end|>']))
    expect(rendered.parts.filter(({ special, text }) => special && text.includes('dry'))).toEqual([])
  })

  test('that knows no tools gets them described, and results as words of the user', () => {
    const plain = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}[assistant] "
    const text = textOf(
      new ChatTemplate(plain, {}).render({ messages: [{ role: 'system', content: 'Be brief.' }, ...history], tools: [WEATHER] }),
    )
    expect(text).toMatch(/^\[system\] Be brief\.\n\nYou can call these functions:\n\{"name":"weather"/)
    expect(text).toContain('[assistant] <tool_call>\n{"name": "weather", "arguments": {"city": "B\\"<|im_end|>"}}\n</tool_call>')
    expect(text).toContain('[user] <tool_response>\ndry <|im_end|>\n</tool_response>')
  })

  test('that refuses a system message gets it with the first turn of the user', () => {
    const strict =
      "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}[{{ m.role }}] {{ m.content }}{% endfor %}"
    const messages: ChatMessage[] = [
      { role: 'system', content: 'Be brief.' },
      { role: 'user', content: 'Hi' },
    ]
    expect(textOf(new ChatTemplate(strict, {}).render({ messages }))).toBe('[user] Be brief.\n\nHi')
  })

  test('knows by its marks how its model calls', () => {
    const knowing = (mark: string): string =>
      `{{ tools }}{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}${mark}{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}`
    expect(new ChatTemplate(knowing('[TOOL_CALLS]').replace('{{ tools }}', '{{ tools | tojson }}'), {}).callForm).toBe(CALL_FORMS.listed)
    expect(new ChatTemplate(knowing('<|python_tag|>').replace('{{ tools }}', '{{ tools | tojson }}'), {}).callForm).toBe(CALL_FORMS.plain)
    expect(new ChatTemplate('{% for m in messages %}{{ m.content }}{% endfor %}', {}).callForm).toBe(CALL_FORMS.tagged)
  })
})

describe('a model with tools', () => {
  let engine: TinyEngine
  const prompt = chat('What is the queue for?')

  beforeAll(async () => {
    engine = await openTiny()
  })

  afterAll(() => engine.close())

  test('is shown them, unless it may not call any', async () => {
    const without = await complete(engine, prompt, { maxTokens: 1 })
    const shown = await complete(engine, prompt, { maxTokens: 1, tools: [WEATHER] })
    const hidden = await complete(engine, prompt, { maxTokens: 1, tools: [WEATHER], toolChoice: 'none' })
    expect(shown.end.promptTokens).toBeGreaterThan(without.end.promptTokens + 50)
    expect(hidden.end.promptTokens).toBe(without.end.promptTokens)
  })

  test('calls the one it must, with arguments of its schema', async () => {
    for (const seed of [1, 2, 3]) {
      const sampling = { temperature: 1.5, topK: 0, topP: 1, minP: 0 }
      const { whole, end } = await complete(engine, prompt, { tools: [CLOCK, WEATHER], toolChoice: { name: 'weather' }, sampling, seed })
      expect(end.reason).toBe('tool_calls')
      expect(whole.toolCalls).toHaveLength(1)
      expect(whole.toolCalls[0]).toMatchObject({ id: expect.stringMatching(/^call_[A-Za-z0-9]{24}$/), name: 'weather' })
      expect(['Bern', 'Oslo']).toContain(JSON.parse(whole.toolCalls[0]!.arguments).city)
      expect(whole.text).toBe('')
    }
  })

  test('calls any where one is required, and only one where that was asked for', async () => {
    const { whole, end } = await complete(engine, prompt, {
      tools: [WEATHER, CLOCK],
      toolChoice: 'required',
      parallelToolCalls: false,
      maxTokens: 900,
    })
    expect(whole.toolCalls).toHaveLength(1)
    if (end.reason !== 'length') expect(end.reason).toBe('tool_calls')
  })

  test.each<[string, Wish]>([
    ['required', { tools: [WEATHER, CLOCK], toolChoice: 'required' }],
    ['named', { tools: [WEATHER, CLOCK], toolChoice: { name: 'weather' } }],
    ['required, with log probabilities', { tools: [WEATHER], toolChoice: 'required', logprobs: 2 }],
  ])('says nothing of a call that was cut before its name: %s', async (_how, wish) => {
    for (const maxTokens of [1, 2, 4, 8]) {
      const { whole, end, ids } = await complete(engine, prompt, { ...wish, maxTokens })
      expect([end.reason, end.text, whole.text, whole.toolCalls, ids.length]).toEqual(['length', '', '', [], maxTokens])
      expect(whole.logprobs ?? []).toEqual([])
    }
  })

  test('goes on within a call from any token, with the same id and no letter twice', async () => {
    const wish = { tools: [WEATHER], toolChoice: { name: 'weather' } }
    const whole = await complete(engine, prompt, wish)
    const [call] = whole.whole.toolCalls
    for (let forced = 0; forced <= whole.ids.length; forced += 5) {
      const first = new Answer()
      const { ids } = await complete(engine, prompt, { ...wish, maxTokens: Math.max(1, forced) }).then((answer) => {
        first.append(answer.text, { toolCalls: answer.whole.toolCalls.map((part, index) => ({ index, ...part })) })
        return answer
      })
      const rest = await complete(engine, prompt, { ...wish, continuation: ids })
      expect(rest.end.reason).toBe('tool_calls')
      const [head, tail] = [first.toolCalls[0], rest.whole.toolCalls[0]]
      expect((head?.arguments ?? '') + (tail?.arguments ?? '')).toBe(call!.arguments)
      expect(head?.id ?? tail?.id).toBe(call!.id)
    }
  })

  test('answers with JSON of the schema or with a call when both were asked for', async () => {
    const schema = { type: 'object', properties: { rain: { type: 'boolean' } }, required: ['rain'], additionalProperties: false }
    const format = { kind: 'schema', name: 'rain', schema, strict: true } as const
    const ends = new Set<string>()
    for (let seed = 1; seed <= 12; seed++) {
      const { whole, end } = await complete(engine, prompt, { tools: [WEATHER], format, sampling: { temperature: 1.5 }, seed })
      ends.add(end.reason)
      if (end.reason === 'tool_calls') expect(['Bern', 'Oslo']).toContain(JSON.parse(whole.toolCalls[0]!.arguments).city)
      else expect([Object.keys(JSON.parse(whole.text)), whole.toolCalls]).toEqual([['rain'], []])
    }
    // What is asked for is nothing that this model leans to: chance takes both ways.
    expect([...ends].toSorted()).toEqual(['stop', 'tool_calls'])
  })

  test('fails when the arguments of a strict tool are not what it promised to be given', async () => {
    const parameters = { type: 'object', properties: { size: { type: 'boolean', not: { type: 'boolean' } } }, required: ['size'] }
    const drawn = { sampling: { temperature: 1 }, seedIsChosen: true } as const
    const wish = (strict: boolean): Wish => ({ tools: [{ name: 'grow', parameters, strict }], toolChoice: { name: 'grow' }, ...drawn })
    expect((await complete(engine, prompt, wish(false))).end.reason).toBe('tool_calls')
    const failure = await failureOf(complete(engine, prompt, wish(true)))
    expect(failure).toMatchObject({ code: 'schema_mismatch', retryable: true })
    expect(failure.message).toContain('the arguments for grow: /size must NOT be valid')
  })

  test('refuses tools whose arguments cannot be held to their schema', async () => {
    const tools = [{ name: 'zip', parameters: { type: 'object', properties: { code: { type: 'string', pattern: '^[0-9]+$' } } } }]
    const failure = await failureOf(complete(engine, prompt, { tools, toolChoice: 'required' }))
    expect(failure).toMatchObject({ layer: 'ingress', code: 'unsupported_schema', retryable: false })
  })
})
