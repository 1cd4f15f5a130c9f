import { json, type Noun, sent } from './noun.ts'
import { body, either, flag, list, oneOf, ref, text, view, whole } from './schema.ts'

export const vectors: Noun = {
  name: 'Embeddings and rerank',
  about: 'Vectors of texts, and which documents answer a question.',
  routes: [
    {
      method: 'post',
      path: '/v1/embeddings',
      summary: 'Make vectors of texts',
      makesWork: true,
      repeatable: true,
      body: sent(
        body(
          {
            model: text(),
            input: either([text(), list(text(), undefined, 2_048)]),
            dimensions: whole(undefined, 1, 65_536),
            encoding_format: oneOf(['float', 'base64']),
            user: text('Without effect'),
          },
          ['model', 'input'],
        ),
        { model: 'vectors', input: ['a queue', 'a stack'] },
      ),
      answers: { 200: json(ref('Embeddings'), 'Vectors of length 1, in the order of the texts') },
    },
    {
      method: 'post',
      path: '/v1/rerank',
      summary: 'Rank documents by how well they answer a query',
      makesWork: true,
      repeatable: true,
      body: sent(
        body(
          {
            model: text(),
            query: text(undefined, 100_000),
            documents: list(either([text(), view({ text: text() })]), undefined, 2_048),
            top_n: whole(undefined, 1, 2_048),
            return_documents: flag(),
          },
          ['model', 'query', 'documents'],
        ),
        { model: 'ranks', query: 'what waits?', documents: ['a queue', 'a stack'] },
      ),
      answers: { 200: json(ref('Ranking'), 'Scores from 0 to 1, best first') },
    },
  ],
  schemas: {
    Embeddings: view({
      object: { const: 'list' },
      data: list(
        view({
          object: { const: 'embedding' },
          index: whole(),
          embedding: either([list({ type: 'number' }), text('Base64 of little-endian 32-bit floats')]),
        }),
      ),
      model: text(),
      usage: ref('PromptUsage'),
    }),
    Ranking: view({
      id: text(),
      object: { const: 'list' },
      model: text(),
      results: list(view({ index: whole(), relevance_score: { type: 'number' }, document: view({ text: text() }) }, ['document'])),
      usage: ref('PromptUsage'),
    }),
    PromptUsage: view({ prompt_tokens: whole(), total_tokens: whole() }),
  },
}
