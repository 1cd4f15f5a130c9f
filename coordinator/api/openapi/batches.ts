import { json, type Noun, PAGED } from './noun.ts'
import { body, either, ID, list, orNull, pageOf, ref, text, TIME, view, whole } from './schema.ts'

export const batches: Noun = {
  name: 'Batches',
  about: 'Many jobs under one id: up to 100,000 rows in, as JSON or as JSON lines, and their results out as JSON lines.',
  routes: [
    {
      method: 'post',
      path: '/api/batches',
      summary: 'Accept a batch, whole or not at all',
      makesWork: true,
      repeatable: true,
      query: { model: text('Of every row that names none') },
      body: {
        schema: either([
          body({ model: text(undefined, 200), rows: list(ref('BatchRow'), undefined, 100_000) }, ['rows']),
          list(ref('BatchRow')),
        ]),
        example: { model: 'tiny', rows: [{ row_key: 'first', messages: [{ role: 'user', content: 'What is a queue for?' }] }] },
        alsoAs: { 'application/x-ndjson': text('A row a line') },
      },
      answers: { 202: json(ref('Batch'), 'The batch, accepted') },
    },
    {
      method: 'get',
      path: '/api/batches',
      summary: 'List batches, newest first',
      query: PAGED,
      answers: { 200: json(pageOf(ref('Batch')), 'A page of batches') },
    },
    {
      method: 'get',
      path: '/api/batches/{id}',
      summary: 'Read a batch',
      params: { id: 'The id of the batch' },
      answers: { 200: json(ref('Batch'), 'The batch') },
    },
    {
      method: 'get',
      path: '/api/batches/{id}/results',
      summary: 'Read the rows that have ended',
      params: { id: 'The id of the batch' },
      answers: {
        200: {
          about: 'A row a line: `row_key`, `job`, `status`, `output`, `usage`, `error`',
          type: 'application/x-ndjson',
          schema: text(),
        },
      },
    },
    {
      method: 'post',
      path: '/api/batches/{id}/cancel',
      summary: 'Cancel what has not ended of a batch',
      params: { id: 'The id of the batch' },
      answers: { 200: json(ref('Batch'), 'The batch') },
    },
  ],
  schemas: {
    BatchRow: {
      type: 'object',
      description: 'The body of a chat completion or, with `prompt`, of a completion, with a key of its own; not streamed',
      properties: { row_key: text(undefined, 256) },
      required: ['row_key'],
    },
    Batch: view({
      id: ID,
      team: text(),
      status: { enum: ['running', 'completed', 'cancelling', 'cancelled'] },
      rows: whole(),
      counts: view({
        total: whole(),
        queued: whole(),
        running: whole(),
        succeeded: whole(),
        failed: whole(),
        cancelled: whole(),
        parked: whole(),
      }),
      created_at: TIME,
      finished_at: orNull(TIME),
      cancelled_at: orNull(TIME),
      results_url: text(),
    }),
  },
}
