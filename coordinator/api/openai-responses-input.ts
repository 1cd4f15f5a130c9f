import { type ChatMessage, type Content, type ContentPart, textOf } from '../../proto/request.ts'
import { joinedThinking, thinkingBlocks } from '../../proto/thinking.ts'
import { badRequest } from '../core/fault.ts'
import { type Body, isObject } from './body.ts'
import { joined, MESSAGES_MAX, readId, readImage } from './openai-messages.ts'

/** Reads `input` of a response: one text, or items, of which those of one turn of the assistant become one message. */
export function readInput(value: unknown): ChatMessage[] {
  if (typeof value === 'string') return [{ role: 'user', content: value }]
  if (!Array.isArray(value) || value.length === 0 || value.length > MESSAGES_MAX)
    throw badRequest('invalid_input', `input must be a text or a list of 1 to ${MESSAGES_MAX} items.`, 'input')
  const messages: ChatMessage[] = []
  for (const [index, item] of value.entries()) takeItem(messages, item, `input[${index}]`)
  return messages
}

type AssistantMessage = Extract<ChatMessage, { role: 'assistant' }>

function takeItem(messages: ChatMessage[], item: unknown, at: string): void {
  if (!isObject(item)) throw badRequest('invalid_input', `${at} must be an item, such as {"role", "content"}.`, at)
  switch (item.type ?? 'message') {
    case 'message':
      takeMessage(messages, item, at)
      break
    case 'function_call': {
      // `parsed_arguments` is added by the official clients to what they parsed, and says nothing new.
      refuseOthers(item, ['type', 'id', 'status', 'call_id', 'name', 'arguments', 'parsed_arguments', 'caller', 'async'], at)
      refuseCaller(item, at)
      if (item.async !== undefined && item.async !== null && item.async !== false)
        throw badRequest(
          'unsupported_parameter',
          `${at}.async may only be false: every call has its output before the next turn.`,
          `${at}.async`,
        )
      const { name, arguments: said } = item
      if (typeof name !== 'string' || typeof said !== 'string')
        throw badRequest('invalid_input', `${at} must have call_id, name and arguments, all texts.`, at)
      const turn = openTurn(messages, () => true)
      turn.toolCalls = [...(turn.toolCalls ?? []), { id: readId(item.call_id, `${at}.call_id`), name, arguments: said }]
      break
    }
    case 'function_call_output':
      // The name is that of the call that it answers.
      refuseOthers(item, ['type', 'id', 'status', 'call_id', 'output', 'name', 'caller'], at)
      refuseCaller(item, at)
      messages.push({
        role: 'tool',
        toolCallId: readId(item.call_id, `${at}.call_id`),
        content: readParts(item.output, `${at}.output`, true),
      })
      break
    case 'reasoning':
      takeReasoning(messages, item, at)
      break
    default:
      throw badRequest(
        'unsupported_parameter',
        `${at}.type must be message, function_call, function_call_output or reasoning; ignoring another would change the answer.`,
        `${at}.type`,
      )
  }
}

function takeMessage(messages: ChatMessage[], item: Body, at: string): void {
  refuseOthers(item, ['type', 'id', 'status', 'role', 'content', 'phase'], at)
  const { role, phase } = item
  // Whether it was said on the way or at the end: only the models that label their messages so know what to do with it.
  if (phase !== undefined && phase !== null && phase !== 'commentary' && phase !== 'final_answer')
    throw badRequest('out_of_range', `${at}.phase must be commentary or final_answer.`, `${at}.phase`)
  if (role === 'assistant') {
    // Its own reasoning comes before a message of the same turn, and calls that have no output yet.
    const turn = openTurn(messages, (open) => open.content === '' || open.toolCalls !== undefined)
    turn.content = textOf(turn.content) + textOf(readParts(item.content, `${at}.content`, false))
  } else if (role === 'user') messages.push({ role, content: readParts(item.content, `${at}.content`, true) })
  else if (role === 'system' || role === 'developer')
    messages.push({ role: 'system', content: readParts(item.content, `${at}.content`, false) })
  else throw badRequest('invalid_input', `${at}.role must be user, assistant, system or developer.`, `${at}.role`)
}

function takeReasoning(messages: ChatMessage[], item: Body, at: string): void {
  refuseOthers(item, ['type', 'id', 'status', 'summary', 'content', 'encrypted_content'], at)
  const written = textsOf(item.content, 'reasoning_text', `${at}.content`)
  const reasoning = written === '' ? textsOf(item.summary, 'summary_text', `${at}.summary`) : written
  const proof = item.encrypted_content
  if (proof !== undefined && proof !== null && typeof proof !== 'string')
    throw badRequest('invalid_type', `${at}.encrypted_content must be a text.`, `${at}.encrypted_content`)
  // A thought of which nothing is told begins no turn of its own.
  if (reasoning === '' && (proof ?? '') === '' && messages.at(-1)?.role === 'assistant') return
  const turn = openTurn(messages, (open) => open.toolCalls !== undefined)
  const before = { reasoning: turn.reasoning ?? '', signature: turn.reasoningSignature ?? '' }
  const signature = proof ?? ''
  const isFirst = before.reasoning === '' && before.signature === ''
  const thoughts = isFirst ? { reasoning, signature } : joinedThinking(thinkingBlocks(reasoning, signature), before)
  if (thoughts.reasoning !== '') turn.reasoning = thoughts.reasoning
  if (thoughts.signature !== '') turn.reasoningSignature = thoughts.signature
}

function textsOf(value: unknown, type: string, at: string): string {
  if (value === undefined || value === null) return ''
  if (!Array.isArray(value)) throw badRequest('invalid_input', `${at} must be a list of {"type": "${type}", "text"}.`, at)
  return value
    .map((part: unknown) => {
      if (isObject(part) && part.type === type && typeof part.text === 'string') return part.text
      throw badRequest('invalid_input', `${at} must be a list of {"type": "${type}", "text"}.`, at)
    })
    .join('')
}

/** The assistant's message that the items before belong to, if it may take more; else a new one. */
function openTurn(messages: ChatMessage[], mayTakeMore: (open: AssistantMessage) => boolean): AssistantMessage {
  const last = messages.at(-1)
  if (last?.role === 'assistant' && mayTakeMore(last)) return last
  const turn: AssistantMessage = { role: 'assistant', content: '' }
  messages.push(turn)
  return turn
}

function readParts(value: unknown, at: string, images: boolean): Content {
  if (typeof value === 'string') return value
  if (!Array.isArray(value) || value.length > MESSAGES_MAX)
    throw badRequest('invalid_input', `${at} must be a text or a list of parts.`, at)
  return joined(value.map((part: unknown, index) => readPart(part, `${at}[${index}]`, images)))
}

function readPart(part: unknown, at: string, images: boolean): ContentPart {
  const type = isObject(part) ? part.type : undefined
  if (isObject(part) && (type === 'input_text' || type === 'output_text') && typeof part.text === 'string')
    return { kind: 'text', text: part.text }
  if (isObject(part) && type === 'refusal' && typeof part.refusal === 'string') return { kind: 'text', text: part.refusal }
  if (isObject(part) && type === 'input_image' && images) {
    if (part.file_id !== undefined && part.file_id !== null)
      throw badRequest('unsupported_parameter', `${at}.file_id: send the image as image_url, files hold batches only.`, `${at}.file_id`)
    return readImage(part.image_url, part.detail, at, 'image_url')
  }
  if (type === 'input_file' || type === 'input_audio')
    throw badRequest('unsupported_parameter', `${at}: ${type} is not supported here, and ignoring it would change the answer.`, at)
  throw badRequest(
    'invalid_input',
    `${at} must be {"type": "input_text", "text": …}${images ? ' or {"type": "input_image", "image_url": …}' : ''}.`,
    at,
  )
}

/** Code that runs at the provider may call too, and is not known here. */
function refuseCaller({ caller }: Body, at: string): void {
  if (caller === undefined || caller === null || (isObject(caller) && caller.type === 'direct')) return
  throw badRequest('unsupported_parameter', `${at}.caller may only be {"type": "direct"}.`, `${at}.caller`)
}

function refuseOthers(item: Body, known: readonly string[], at: string): void {
  for (const [name, value] of Object.entries(item))
    if (!known.includes(name) && value !== null)
      throw badRequest('unknown_parameter', `Unknown parameter: ${at}.${name.slice(0, 100)}.`, `${at}.${name.slice(0, 100)}`)
}
