import type { FastifyInstance } from 'fastify'
import { badRequest } from '../core/fault.ts'
import type { LiveJob } from '../engine/live-job.ts'
import { boolean, fieldsOf, integer, isObject, prose, required } from './body.ts'
import type { ApiParts } from './health.ts'
import { Choices } from './openai-choices.ts'
import { parseList, readOnly } from './openai-embeddings.ts'
import { sendAnswer } from './answer-headers.ts'
import { type ParsedRequest, readModel } from './openai-request.ts'
import { answeringModel } from './job-view.ts'

/** `POST /v1/rerank`, as Cohere and Jina have it: which of the documents answer the query, best first. */
export function registerRerank(app: FastifyInstance, parts: ApiParts): void {
  app.post('/v1/rerank', async (request, reply) => {
    const { topN, documents, ...parsed } = parseRerankRequest(request.body)
    const choices = await Choices.accept(parts, request, reply, { type: 'rerank', parsed, detached: false })
    await choices.succeeded()
    return sendAnswer(parts, request, reply, choices.first, rankingBody(choices.first, topN, documents))
  })
}

type Ranking = ParsedRequest & { topN: number; documents: string[] | undefined }

function parseRerankRequest(body: unknown): Ranking {
  const fields = fieldsOf(body, ['model', 'query', 'documents', 'top_n', 'return_documents'])
  const documents = readDocuments(fields.documents)
  const query = required(prose(fields, 'query', QUERY_LENGTH_MAX), 'query')
  return {
    ...readOnly(readModel(fields), { kind: 'rank', query, documents }),
    topN: integer(fields, 'top_n', 1, DOCUMENTS_MAX) ?? documents.length,
    documents: boolean(fields, 'return_documents') === true ? documents : undefined,
  }
}

const QUERY_LENGTH_MAX = 100_000
const DOCUMENTS_MAX = 2_048

function readDocuments(value: unknown): string[] {
  if (!Array.isArray(value) || value.length === 0 || value.length > DOCUMENTS_MAX)
    throw badRequest('invalid_documents', `documents must be a list of 1 to ${DOCUMENTS_MAX} texts.`, 'documents')
  return value.map((item: unknown, index) => {
    const said = isObject(item) ? item.text : item
    if (typeof said !== 'string' || said === '')
      throw badRequest('invalid_documents', `documents[${index}] must be a text that is not empty, or {"text": …}.`, `documents[${index}]`)
    return said
  })
}

/** The answer's text is a list of scores in the order of the documents. Equal ones keep that order. */
export function rankingBody({ record, text: scores }: LiveJob, topN?: number, documents?: string[]): Record<string, unknown> {
  const results = parseList<number>(record.id, scores, 'number')
    .map((score, index) => ({
      index,
      relevance_score: score,
      ...(documents === undefined ? {} : { document: { text: documents[index] } }),
    }))
    .sort((one, other) => other.relevance_score - one.relevance_score)
  const promptTokens = record.promptTokens ?? 0
  return {
    id: `rerank-${record.id}`,
    object: 'list',
    model: answeringModel(record),
    results: results.slice(0, topN),
    usage: { prompt_tokens: promptTokens, total_tokens: promptTokens },
  }
}
