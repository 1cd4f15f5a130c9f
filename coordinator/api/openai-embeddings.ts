import type { FastifyInstance } from 'fastify'
import { badRequest, Fault } from '../core/fault.ts'
import type { LiveJob } from '../engine/live-job.ts'
import { integer, objectBody } from './body.ts'
import type { ApiParts } from './health.ts'
import { Choices } from './openai-choices.ts'
import { sendAnswer } from './answer-headers.ts'
import { type ParsedRequest, readModel, readPassthrough } from './openai-request.ts'
import { answeringModel } from './job-view.ts'

/** `POST /v1/embeddings`: texts in, one vector of length 1 for each out, in their order. */
export function registerEmbeddings(app: FastifyInstance, parts: ApiParts): void {
  app.post('/v1/embeddings', async (request, reply) => {
    const { base64, ...parsed } = parseEmbeddingsRequest(request.body)
    const choices = await Choices.accept(parts, request, reply, { type: 'embedding', parsed, detached: false })
    await choices.succeeded()
    return sendAnswer(parts, request, reply, choices.first, embeddingsBody(choices.first, base64))
  })
}

export function parseEmbeddingsRequest(body: unknown): ParsedRequest & { base64: boolean } {
  const fields = objectBody(body)
  for (const [name, value] of Object.entries(fields))
    if (!MEMBERS.includes(name) && value !== null)
      throw badRequest('unknown_parameter', `Unknown parameter: ${name.slice(0, 100)}.`, name.slice(0, 100))
  const format = fields.encoding_format ?? 'float'
  if (format !== 'float' && format !== 'base64')
    throw badRequest('out_of_range', 'encoding_format must be float or base64.', 'encoding_format')
  const dimensions = integer(fields, 'dimensions', 1, DIMENSIONS_MAX)
  const inputs = readInputs(fields.input)
  const parsed = readOnly(readModel(fields), { kind: 'embed', inputs, ...(dimensions === null ? {} : { dimensions }) })
  Object.assign(parsed.generation, readPassthrough(fields, ['user']))
  return {
    ...parsed,
    base64: format === 'base64',
  }
}

/** A request that generates nothing. */
export function readOnly(model: string, prompt: ParsedRequest['generation']['prompt']): ParsedRequest {
  return { model, stream: false, includeUsage: false, generation: { prompt, stop: [], sampling: {} }, seed: null }
}

// `user` cannot change a vector.
const MEMBERS = ['model', 'input', 'dimensions', 'encoding_format', 'user']
const INPUTS_MAX = 2_048
const DIMENSIONS_MAX = 65_536

function readInputs(value: unknown): string[] {
  const list: unknown[] = Array.isArray(value) ? value : [value]
  if (list.some((item) => typeof item === 'number' || Array.isArray(item)))
    throw badRequest('unsupported_parameter', 'input as token ids is not supported: every model counts its own. Send texts.', 'input')
  if (list.length === 0 || list.length > INPUTS_MAX || list.some((item) => typeof item !== 'string' || item === ''))
    throw badRequest('invalid_input', `input must be a text that is not empty, or a list of 1 to ${INPUTS_MAX} such.`, 'input')
  return list as string[]
}

/** The answer's text is a list of vectors, each the base64 of its little-endian 32-bit floats. */
export function embeddingsBody({ record, text }: LiveJob, base64: boolean): Record<string, unknown> {
  const vectors = parseList<string>(record.id, text, 'string')
  const promptTokens = record.promptTokens ?? 0
  return {
    object: 'list',
    data: vectors.map((vector, index) => ({ object: 'embedding', index, embedding: base64 ? vector : floatsOf(vector) })),
    model: answeringModel(record),
    usage: { prompt_tokens: promptTokens, total_tokens: promptTokens },
  }
}

function floatsOf(vector: string): number[] {
  const bytes = Buffer.from(vector, 'base64')
  return Array.from({ length: bytes.length / 4 }, (_, place) => bytes.readFloatLE(place * 4))
}

/** What an engine wrote down as a list, of which nothing may be missing. */
export function parseList<T>(job: string, text: string, type: 'string' | 'number'): T[] {
  let list: unknown
  try {
    list = JSON.parse(text)
  } catch {
    list = undefined
  }
  if (!Array.isArray(list) || list.some((item) => typeof item !== type))
    throw new Fault('malformed_answer', 'The model answered something that is not the list it was asked for.', {
      status: 502,
      layer: 'model',
      job,
    })
  return list as T[]
}
