import { MESSAGE_MEMBERS, USAGE_MEMBERS } from '../../../proto/anthropic-wire-answer.ts'
import { json, type Noun, sent } from './noun.ts'
import { anything, body, either, flag, list, oneOf, orNull, real, ref, type Schema, text, view, whole } from './schema.ts'

const AS_TOLD = 'As a provider of the same dialect told it, where it did'
const SAME_DIALECT = 'Sent on as it came, to a provider of the same dialect only'

const PROMPT: Record<string, Schema> = {
  model: text(),
  messages: list(
    {
      type: 'object',
      properties: { role: oneOf(['user', 'assistant', 'system']), content: either([text(), list(anything('A block'), undefined, 10_000)]) },
      required: ['role', 'content'],
    },
    undefined,
    10_000,
  ),
  system: either([text(), list(anything('A block of text'))]),
  tools: list(anything('A tool: `name`, `description`, `input_schema`'), undefined, 128),
  tool_choice: anything(),
  thinking: anything('`enabled` with `budget_tokens` from 1,024, `disabled` or `adaptive`'),
  output_config: anything('`effort`, and `format` with a JSON Schema'),
  cache_control: anything('Kept for a provider of the same dialect'),
  speed: anything('Kept for a provider of the same dialect'),
  mcp_servers: anything(SAME_DIALECT),
  context_management: anything(`${SAME_DIALECT}, unless it only says that all thinking is to be kept`),
}

export const messages: Noun = {
  name: 'Messages',
  about: 'The Anthropic dialect. What it has no words for here goes to providers of the same dialect, or is refused by name.',
  routes: [
    {
      method: 'post',
      path: '/v1/messages',
      summary: 'Answer a conversation',
      makesWork: true,
      repeatable: true,
      headers: {
        'anthropic-beta': text('Names, separated by commas'),
        'anthropic-user-profile-id': text('Kept for a provider of the same dialect'),
        'anthropic-version': text('Taken and without effect'),
      },
      body: sent(
        body(
          {
            ...PROMPT,
            max_tokens: whole(undefined, 1, 10_000_000),
            stream: flag(),
            stop_sequences: list(text(undefined, 1_000), undefined, 16),
            temperature: real(undefined, 0, 1),
            top_p: real(undefined, 0, 1),
            top_k: whole(undefined, 0, 1_000_000),
            metadata: body({ user_id: orNull(text()) }),
            ...Object.fromEntries(
              ['service_tier', 'inference_geo', 'diagnostics'].map((name) => [name, anything('Kept for a provider of the same dialect')]),
            ),
            thread: orNull(body({ type: oneOf(['create']) })),
            container: anything(SAME_DIALECT),
            fallbacks: anything(SAME_DIALECT),
          },
          ['model', 'messages', 'max_tokens'],
        ),
        { model: 'tiny', max_tokens: 64, messages: [{ role: 'user', content: 'What is a queue for?' }] },
      ),
      answers: {
        200: { about: 'The message, or its events with `stream`', schema: ref('Message'), alsoAs: { 'text/event-stream': text() } },
      },
    },
    {
      method: 'post',
      path: '/v1/messages/count_tokens',
      summary: 'Estimate how many tokens a conversation has',
      body: sent(body(PROMPT, ['model', 'messages']), { model: 'tiny', messages: [{ role: 'user', content: 'What is a queue for?' }] }),
      answers: { 200: json(view({ input_tokens: whole(), estimated: { const: true } }), 'An estimate from bytes') },
    },
  ],
  schemas: {
    Message: view(
      {
        id: text(),
        type: { const: 'message' },
        role: { const: 'assistant' },
        model: text(),
        content: list(anything('A block: `thinking`, `text` or `tool_use`')),
        stop_reason: orNull(
          oneOf([
            ...['end_turn', 'max_tokens', 'stop_sequence', 'tool_use', 'pause_turn', 'refusal'],
            ...['compaction', 'model_context_window_exceeded'],
          ]),
        ),
        stop_sequence: orNull(text()),
        ...Object.fromEntries(MESSAGE_MEMBERS.map((name) => [name, anything(AS_TOLD)])),
        usage: view(
          {
            input_tokens: whole('Without the cached ones'),
            cache_creation_input_tokens: whole(),
            cache_read_input_tokens: whole(),
            output_tokens: whole(),
            output_tokens_details: orNull(view({ thinking_tokens: whole() })),
            ...Object.fromEntries(USAGE_MEMBERS.map((name) => [name, anything(AS_TOLD)])),
          },
          USAGE_MEMBERS,
        ),
      },
      MESSAGE_MEMBERS,
    ),
  },
}
