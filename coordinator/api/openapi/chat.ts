import { type Answer, type Noun, sent } from './noun.ts'
import { EFFORTS, SAMPLING, WITHOUT_EFFECT } from './sampling.ts'
import { anything, body, either, flag, list, map, oneOf, orNull, ref, type Schema, text, view, whole } from './schema.ts'

const TOKENS = (about?: string): Schema => whole(about, 1, 10_000_000)

const COMMON: Record<string, Schema> = {
  model: text('A model of GET /v1/models, an alias, or `auto`'),
  stream: flag('Answer as server-sent events'),
  stream_options: body({ include_usage: flag(), include_obfuscation: flag('Without effect') }),
  n: whole('How many answers; each is a job', 1, 16),
  max_tokens: TOKENS(),
  ...SAMPLING,
  ...WITHOUT_EFFECT,
  metadata: anything('Without effect on the answer'),
  store: anything('Without effect on the answer'),
  service_tier: text('`auto` and `default` have no effect'),
}

const CHAT: Record<string, Schema> = {
  ...COMMON,
  messages: list(ref('ChatMessage'), undefined, 10_000),
  max_completion_tokens: TOKENS(),
  tools: list(ref('ChatTool'), undefined, 128),
  tool_choice: either([oneOf(['none', 'auto', 'required']), anything('A function by name, or `allowed_tools`')]),
  parallel_tool_calls: flag(),
  response_format: anything('`{"type": "text"}`, `json_object`, or `json_schema` with a schema of up to 128 KiB'),
  logprobs: flag(),
  top_logprobs: whole('With logprobs', 0, 20),
  reasoning_effort: oneOf(EFFORTS),
  reasoning_max_tokens: whole("Holdfast's own; 0: none", 0, 10_000_000),
  modalities: { const: ['text'] },
  ...Object.fromEntries(
    ['prediction', 'verbosity', 'web_search_options'].map((name) => [
      name,
      anything('Sent on as it came, to a provider of the same dialect only'),
    ]),
  ),
}

const COMPLETION: Record<string, Schema> = {
  ...COMMON,
  prompt: either([text(), { type: 'array', items: text(), minItems: 1, maxItems: 1 }], 'One text'),
  max_tokens: TOKENS('16 unless given'),
  logprobs: whole(undefined, 0, 20),
  best_of: { const: 1 },
  echo: { const: false },
  suffix: { const: '' },
}

/** As a job: not streamed in the answer, and with an address to call back. */
function asJob(properties: Record<string, Schema>, required: string[]): Schema {
  const { stream: _stream, stream_options: _options, ...rest } = properties
  return body({ ...rest, callback_url: text('Is told the end of the job, signed as Standard Webhooks', 2_000) }, required)
}

function answers(schema: Schema): Record<number, Answer> {
  return { 200: { about: 'The answer, or its events with `stream`', schema, alsoAs: { 'text/event-stream': text() } } }
}

export const chat: Noun = {
  name: 'Chat and completions',
  about: 'The OpenAI dialect. Whatever would change the answer is honoured, or refused with a 400 that names it.',
  routes: [
    {
      method: 'post',
      path: '/v1/chat/completions',
      summary: 'Answer a chat',
      makesWork: true,
      repeatable: true,
      body: sent(body(CHAT, ['model', 'messages']), { model: 'tiny', messages: [{ role: 'user', content: 'What is a queue for?' }] }),
      answers: answers(ref('ChatCompletion')),
    },
    {
      method: 'post',
      path: '/v1/completions',
      summary: 'Go on with a text',
      makesWork: true,
      repeatable: true,
      body: sent(body(COMPLETION, ['model', 'prompt']), { model: 'tiny', prompt: 'A queue is', max_tokens: 32 }),
      answers: answers(ref('Completion')),
    },
  ],
  schemas: {
    ChatCompletionJob: asJob(CHAT, ['model', 'messages']),
    CompletionJob: asJob(COMPLETION, ['model', 'prompt']),
    ChatMessage: {
      type: 'object',
      properties: {
        role: oneOf(['system', 'developer', 'user', 'assistant', 'tool']),
        content: either([text(), list(anything('A part: `text`, or of a user `image_url`')), { type: 'null' }]),
        name: text(),
        tool_calls: list(ref('ChatToolCall')),
        tool_call_id: text('Of a tool: the call that it answers'),
        reasoning_content: text('Of an assistant'),
      },
      required: ['role'],
    },
    ChatTool: {
      type: 'object',
      properties: {
        type: text('`function`; others go to a provider of the same dialect only'),
        function: {
          type: 'object',
          properties: { name: text(), description: text(), parameters: anything('A JSON Schema'), strict: flag() },
        },
      },
      required: ['type'],
    },
    ChatToolCall: either([
      view({ id: text(), type: { const: 'function' }, function: view({ name: text(), arguments: text('JSON') }) }),
      view({ id: text(), type: { const: 'custom' }, custom: view({ name: text(), input: text() }) }),
    ]),
    ChatCompletion: view({
      id: text(),
      object: { const: 'chat.completion' },
      created: whole('Unix seconds'),
      model: text(),
      choices: list(
        view({
          index: whole(),
          message: view(
            {
              role: { const: 'assistant' },
              content: orNull(text()),
              refusal: orNull(text()),
              reasoning_content: text(),
              annotations: list(anything('Of the text, as its provider made them')),
              tool_calls: list(ref('ChatToolCall')),
            },
            ['reasoning_content', 'annotations', 'tool_calls'],
          ),
          logprobs: orNull(anything()),
          finish_reason: orNull(text()),
        }),
      ),
      usage: orNull(ref('JobUsage')),
    }),
    Completion: view({
      id: text(),
      object: { const: 'text_completion' },
      created: whole('Unix seconds'),
      model: text(),
      choices: list(view({ index: whole(), text: text(), logprobs: orNull(map(anything())), finish_reason: orNull(text()) })),
      usage: orNull(ref('JobUsage')),
    }),
  },
}
