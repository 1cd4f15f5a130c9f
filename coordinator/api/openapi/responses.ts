import { json, type Noun, sent } from './noun.ts'
import { EFFORTS, SAMPLING, WITHOUT_EFFECT } from './sampling.ts'
import { anything, body, either, flag, list, map, oneOf, orNull, ref, text, view, whole } from './schema.ts'

const RESPONSE = { id: 'The id of the response, resp_…' }

export const responses: Noun = {
  name: 'Responses',
  about: 'Responses of the OpenAI dialect. Each is a job; one goes on from another by its id.',
  routes: [
    {
      method: 'post',
      path: '/v1/responses',
      summary: 'Make a response',
      makesWork: true,
      repeatable: true,
      body: sent(
        body(
          {
            model: text(),
            input: either([text(), list(anything('A message, `function_call`, `function_call_output` or `reasoning`'), undefined, 10_000)]),
            instructions: text(undefined, 10_000_000),
            previous_response_id: text(undefined, 100),
            max_output_tokens: whole(undefined, 1, 10_000_000),
            stream: flag(),
            stream_options: body({ include_obfuscation: flag('Without effect') }),
            store: flag('True unless given'),
            background: flag('Answer at once, and let it go on; needs store'),
            metadata: map(text(undefined, 512), 'Up to 16 texts'),
            tools: list(anything('A function: `name`, `description`, `parameters`, `strict`'), undefined, 128),
            tool_choice: either([oneOf(['none', 'auto', 'required']), anything('A function by name')]),
            parallel_tool_calls: flag(),
            text: body({ format: anything('`text`, `json_object` or `json_schema`') }),
            reasoning: body({ effort: oneOf(EFFORTS), max_tokens: whole(undefined, 0, 10_000_000) }),
            truncation: { const: 'disabled' },
            include: list(oneOf(['message.output_text.logprobs', 'reasoning.encrypted_content'])),
            top_logprobs: whole(undefined, 0, 20),
            service_tier: oneOf(['auto', 'default'], 'Without effect'),
            ...SAMPLING,
            ...WITHOUT_EFFECT,
          },
          ['model', 'input'],
        ),
        { model: 'tiny', input: 'What is a queue for?' },
      ),
      answers: {
        200: { about: 'The response, or its events with `stream`', schema: ref('Response'), alsoAs: { 'text/event-stream': text() } },
      },
    },
    {
      method: 'get',
      path: '/v1/responses/{id}',
      summary: 'Read a stored response',
      params: RESPONSE,
      query: { stream: oneOf(['true', 'false'], 'From its beginning, as server-sent events') },
      answers: { 200: { about: 'The response, or its events', schema: ref('Response'), alsoAs: { 'text/event-stream': text() } } },
    },
    {
      method: 'post',
      path: '/v1/responses/{id}/cancel',
      summary: 'Cancel a response',
      params: RESPONSE,
      answers: { 200: json(ref('Response'), 'The response') },
    },
  ],
  schemas: {
    Response: view({
      id: text(),
      object: { const: 'response' },
      created_at: whole('Unix seconds'),
      status: oneOf(['queued', 'in_progress', 'completed', 'incomplete', 'failed', 'cancelled']),
      background: flag(),
      completed_at: orNull(whole()),
      error: orNull(view({ code: text(), message: text() })),
      incomplete_details: orNull(view({ reason: text() })),
      instructions: anything(),
      max_output_tokens: orNull(whole()),
      metadata: map(text()),
      model: text(),
      output: list(anything('A message, `reasoning` or `function_call`'), 'In the order in which they came to be'),
      parallel_tool_calls: flag(),
      previous_response_id: orNull(text()),
      reasoning: anything(),
      store: flag(),
      temperature: orNull({ type: 'number' }),
      text: view({ format: anything() }),
      tool_choice: anything(),
      tools: list(anything()),
      top_logprobs: whole(),
      top_p: orNull({ type: 'number' }),
      truncation: { const: 'disabled' },
      usage: orNull(
        view({
          input_tokens: whole(),
          input_tokens_details: view({ cached_tokens: whole() }),
          output_tokens: whole(),
          output_tokens_details: view({ reasoning_tokens: whole() }),
          total_tokens: whole(),
        }),
      ),
    }),
  },
}
