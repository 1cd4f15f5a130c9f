import { json, type Noun, sent } from './noun.ts'
import { body, flag, list, orNull, ref, type Schema, text, view, whole } from './schema.ts'

export const files: Noun = {
  name: 'Files and batches of the OpenAI dialect',
  about: 'Rows as a file, run within a day, and their results as a file.',
  routes: [
    {
      method: 'post',
      path: '/v1/files',
      summary: 'Keep a file of rows',
      repeatable: true,
      body: {
        type: 'multipart/form-data',
        schema: body({ purpose: { const: 'batch' }, file: { type: 'string', contentMediaType: 'application/octet-stream' } }, [
          'purpose',
          'file',
        ]),
      },
      answers: { 200: json(ref('File'), 'The file') },
    },
    {
      method: 'get',
      path: '/v1/files',
      summary: 'List files',
      query: {
        limit: { type: 'integer', minimum: 1, maximum: 200, default: 50 },
        after: text('The id of the last file seen'),
        purpose: text(),
        order: { enum: ['asc', 'desc'], default: 'desc' },
      },
      answers: { 200: json(ref('Files'), 'A page of files') },
    },
    {
      method: 'get',
      path: '/v1/files/{id}',
      summary: 'Read what a file is',
      params: { id: 'file-…' },
      answers: { 200: json(ref('File'), 'The file') },
    },
    {
      method: 'get',
      path: '/v1/files/{id}/content',
      summary: 'Read a file',
      params: { id: 'file-…' },
      answers: {
        200: {
          about: 'What was kept, or the results as JSON lines',
          type: 'application/octet-stream',
          schema: text(),
          alsoAs: { 'application/jsonl': text() },
        },
      },
    },
    {
      method: 'delete',
      path: '/v1/files/{id}',
      summary: 'Delete a file',
      params: { id: 'file-…' },
      answers: { 200: json(view({ id: text(), object: { const: 'file' }, deleted: { const: true } }), 'It is gone') },
    },
    {
      method: 'post',
      path: '/v1/batches',
      summary: 'Run the rows of a file',
      makesWork: true,
      repeatable: true,
      body: sent(
        body(
          {
            input_file_id: text(undefined, 100),
            endpoint: { enum: ['/v1/chat/completions', '/v1/completions', '/v1/embeddings'] },
            completion_window: { const: '24h' },
            metadata: { type: 'object', additionalProperties: text(undefined, 512), maxProperties: 16 },
          },
          ['input_file_id', 'endpoint', 'completion_window'],
        ),
        { input_file_id: 'file-…', endpoint: '/v1/chat/completions', completion_window: '24h' },
      ),
      answers: { 200: json(ref('OpenAiBatch'), 'The batch') },
    },
    {
      method: 'get',
      path: '/v1/batches',
      summary: 'List batches, newest first',
      query: { limit: { type: 'integer', minimum: 1, maximum: 200, default: 20 }, after: text('The id of the last batch seen') },
      answers: { 200: json(ref('OpenAiBatches'), 'A page of batches') },
    },
    {
      method: 'get',
      path: '/v1/batches/{id}',
      summary: 'Read a batch',
      params: { id: 'batch_…' },
      answers: { 200: json(ref('OpenAiBatch'), 'The batch') },
    },
    {
      method: 'post',
      path: '/v1/batches/{id}/cancel',
      summary: 'Cancel what has not ended of a batch',
      params: { id: 'batch_…' },
      answers: { 200: json(ref('OpenAiBatch'), 'The batch') },
    },
  ],
  schemas: {
    File: view({
      id: text(),
      object: { const: 'file' },
      created_at: whole('Unix seconds'),
      status: text(),
      bytes: whole(),
      filename: text(),
      purpose: text(),
    }),
    Files: listOf('File'),
    OpenAiBatch: view({
      id: text(),
      object: { const: 'batch' },
      endpoint: orNull(text()),
      errors: { type: 'null' },
      input_file_id: orNull(text()),
      completion_window: { const: '24h' },
      status: { enum: ['in_progress', 'completed', 'cancelling', 'cancelled'] },
      output_file_id: orNull(text()),
      error_file_id: orNull(text()),
      created_at: whole(),
      in_progress_at: whole(),
      expires_at: whole(),
      completed_at: orNull(whole()),
      cancelled_at: orNull(whole()),
      request_counts: view({ total: whole(), completed: whole(), failed: whole() }),
      metadata: orNull({ type: 'object' }),
    }),
    OpenAiBatches: listOf('OpenAiBatch'),
  },
}

function listOf(name: string): Schema {
  return view({ object: { const: 'list' }, data: list(ref(name)), first_id: orNull(text()), last_id: orNull(text()), has_more: flag() })
}
