import { decimal } from '../../proto/settings.ts'
import type { ChatMessage, Content, ContentPart } from '../../proto/request.ts'
import { badRequest, notFound } from '../core/fault.ts'
import type { Body } from './body.ts'
import { reasoningPart, type ResponseRequest, textPart } from './openai-responses-view.ts'
import { readOneOf } from './paging.ts'

/** What a response was made from, as items: its whole conversation without its instructions. Newest first unless asked. */
export function inputItems(job: string, request: ResponseRequest, query: { order?: string; limit?: string; after?: string }): Body {
  const { prompt, response } = request
  const said = prompt.kind === 'chat' ? prompt.messages.slice(response.instructed ? 1 : 0) : []
  const items = said.flatMap((message, index) => itemsOf(message, `${job}_${index}`))
  if (readOneOf('order', query.order, ['asc', 'desc']) !== 'asc') items.reverse()
  const first = query.after === undefined ? 0 : placeBehind(items, query.after)
  const limit = readItemLimit(query.limit)
  const data = items.slice(first, first + limit)
  return {
    object: 'list',
    data,
    first_id: data[0]?.id ?? null,
    last_id: data.at(-1)?.id ?? null,
    has_more: items.length > first + limit,
  }
}

function placeBehind(items: Body[], after: string): number {
  const place = items.findIndex((item) => item.id === after)
  if (place === -1) throw notFound(`There is no input item ${after.slice(0, 100)}.`)
  return place + 1
}

function readItemLimit(value: string | undefined): number {
  const limit = value === undefined ? 20 : decimal(value)
  if (!Number.isInteger(limit) || limit < 1 || limit > ITEMS_MAX)
    throw badRequest('out_of_range', `limit must be a whole number from 1 to ${ITEMS_MAX}.`, 'limit')
  return limit
}

// As the dialect has it.
const ITEMS_MAX = 100

/** The reverse of openai-responses-input.ts: one message of the assistant is as many items as it has parts. */
function itemsOf(message: ChatMessage, id: string): Body[] {
  if (message.role === 'tool')
    return [
      {
        id: `fco_${id}`,
        type: 'function_call_output',
        status: 'completed',
        call_id: message.toolCallId,
        output: outputOf(message.content),
      },
    ]
  if (message.role !== 'assistant')
    return [{ id: `msg_${id}`, type: 'message', status: 'completed', role: message.role, content: partsOf(message.content) }]
  const { content, reasoning = '', reasoningSignature = '', toolCalls = [] } = message
  const text = typeof content === 'string' ? content : content.map((part) => (part.kind === 'text' ? part.text : '')).join('')
  const proof = reasoningSignature === '' ? {} : { encrypted_content: reasoningSignature }
  return [
    ...(reasoning === '' && reasoningSignature === ''
      ? []
      : [{ id: `rs_${id}`, type: 'reasoning', summary: [], content: reasoning === '' ? [] : [reasoningPart(reasoning)], ...proof }]),
    ...(text === '' ? [] : [{ id: `msg_${id}`, type: 'message', status: 'completed', role: 'assistant', content: [textPart(text, [])] }]),
    ...toolCalls.map(({ id: call_id, name, arguments: given }, index) => ({
      ...{ id: `fc_${id}_${index}`, type: 'function_call', status: 'completed' },
      ...{ call_id, name, arguments: given },
    })),
  ]
}

function outputOf(content: Content): unknown {
  return typeof content === 'string' ? content : partsOf(content)
}

function partsOf(content: Content): Body[] {
  return (typeof content === 'string' ? [{ kind: 'text', text: content } as ContentPart] : content).map((part) =>
    part.kind === 'text'
      ? { type: 'input_text', text: part.text }
      : { type: 'input_image', image_url: part.url, detail: part.detail ?? 'auto', file_id: null },
  )
}
