import type { ChatMessage, Content, ContentPart, ImagePart, ToolCall } from '../../proto/request.ts'
import { badRequest } from '../core/fault.ts'
import { type Body, isObject } from './body.ts'

/** Reads the conversation of a chat completion; `beyond` gathers what only a provider of the dialect itself can honour. */
export function readMessages(value: unknown, beyond: string[]): ChatMessage[] {
  if (!Array.isArray(value)) throw badRequest('invalid_messages', 'messages must be a list of messages.', 'messages')
  if (value.length === 0) throw badRequest('invalid_messages', 'messages must hold at least one message.', 'messages')
  if (value.length > MESSAGES_MAX)
    throw badRequest('invalid_messages', `messages may hold at most ${MESSAGES_MAX} messages, not ${value.length}.`, 'messages')
  const messages = value.map((item: unknown, index) => readMessage(item, `messages[${index}]`, beyond))
  checkCalls(messages, (index) => `messages[${index}]`)
  return messages
}

export const MESSAGES_MAX = 10_000
const CALLS_MAX = 128
const ID_LENGTH_MAX = 256

function readMessage(value: unknown, at: string, beyond: string[]): ChatMessage {
  if (!isObject(value)) throw badRequest('invalid_messages', `${at} must be an object with role and content.`, at)
  const role = readRole(value.role, `${at}.role`)
  for (const [name, member] of Object.entries(value)) {
    if (member === null || isEmptyList(member) || MEMBERS[role].has(name)) continue
    if (name === 'function_call')
      throw badRequest('unsupported_parameter', `${at}.function_call is the old way to say it; use tool_calls.`, `${at}.function_call`)
    if (BEYOND_MEMBERS.has(name)) beyond.push(`${at}.${name}`)
    else
      throw badRequest(
        'unsupported_parameter',
        `${at}.${name.slice(0, 100)} is not supported here, and ignoring it would change the answer.`,
        `${at}.${name.slice(0, 100)}`,
      )
  }
  if (role === 'assistant') return assistantMessage(value, at, beyond)
  const content = readContent(value.content, `${at}.content`, role, beyond)
  if (role !== 'tool') return { role, content }
  return { role, toolCallId: readId(value.tool_call_id, `${at}.tool_call_id`), content }
}

/** What the official clients send back with a message: what they parsed, which is theirs, and what is told to people of its text. */
const SENT_BACK = ['parsed', 'annotations']
const MEMBERS: Record<ChatMessage['role'], Set<string>> = {
  system: new Set(['role', 'content']),
  user: new Set(['role', 'content']),
  assistant: new Set(['role', 'content', 'tool_calls', 'reasoning_content', ...SENT_BACK]),
  tool: new Set(['role', 'content', 'tool_call_id']),
}
const BEYOND_MEMBERS = new Set(['name', 'audio', 'refusal'])

function readRole(value: unknown, at: string): ChatMessage['role'] {
  if (value === 'system' || value === 'user' || value === 'assistant' || value === 'tool') return value
  // The newer name of the same thing.
  if (value === 'developer') return 'system'
  if (value === 'function') throw badRequest('unsupported_parameter', `${at} "function" is the old way to say it; use "tool".`, at)
  throw badRequest('invalid_messages', `${at} must be system, developer, user, assistant or tool.`, at)
}

function assistantMessage(value: Body, at: string, beyond: string[]): ChatMessage {
  const toolCalls = readCalls(value.tool_calls, `${at}.tool_calls`, beyond)
  const silent = value.content === undefined || value.content === null
  const spoken =
    toolCalls.length > 0 || [value.tool_calls, value.audio, value.refusal].some((member) => member !== undefined && member !== null)
  const content = silent && spoken ? '' : readContent(value.content, `${at}.content`, 'assistant', beyond)
  const reasoning = value.reasoning_content
  if (reasoning !== undefined && reasoning !== null && typeof reasoning !== 'string')
    throw badRequest('invalid_type', `${at}.reasoning_content must be a text.`, `${at}.reasoning_content`)
  return {
    role: 'assistant',
    content,
    ...(typeof reasoning === 'string' && reasoning !== '' ? { reasoning } : {}),
    ...(toolCalls.length === 0 ? {} : { toolCalls }),
  }
}

function readCalls(value: unknown, at: string, beyond: string[]): ToolCall[] {
  if (value === undefined || value === null) return []
  if (!Array.isArray(value) || value.length > CALLS_MAX)
    throw badRequest('invalid_messages', `${at} must be a list of at most ${CALLS_MAX} calls.`, at)
  const calls: ToolCall[] = []
  for (const [index, item] of value.entries()) {
    const place = `${at}[${index}]`
    const type = isObject(item) && typeof item.type === 'string' ? item.type : 'function'
    if (type !== 'function') beyond.push(place)
    if (type === 'custom') calls.push(readCustomCall(item as Body, place))
    else if (type === 'function') calls.push(readCall(item, place))
  }
  return calls
}

function readCustomCall(item: Body, at: string): ToolCall {
  const { custom } = item
  if (!isObject(custom) || typeof custom.name !== 'string' || typeof custom.input !== 'string')
    throw badRequest('invalid_messages', `${at} must be {"id", "type": "custom", "custom": {"name", "input": a text}}.`, at)
  return { id: readId(item.id, `${at}.id`), name: custom.name, arguments: custom.input, custom: true }
}

function readCall(item: unknown, at: string): ToolCall {
  const called = isObject(item) ? item.function : undefined
  if (!isObject(item) || !isObject(called) || typeof called.name !== 'string' || typeof called.arguments !== 'string')
    throw badRequest('invalid_messages', `${at} must be {"id", "type": "function", "function": {"name", "arguments": a text}}.`, at)
  return { id: readId(item.id, `${at}.id`), name: called.name, arguments: called.arguments }
}

export function readId(value: unknown, at: string): string {
  if (typeof value !== 'string' || value === '' || value.length > ID_LENGTH_MAX)
    throw badRequest('invalid_messages', `${at} must be the id of a call, a text of 1 to ${ID_LENGTH_MAX} characters.`, at)
  return value
}

/** Every call has its result before the conversation goes on, and no result is without its call. */
export function checkCalls(messages: ChatMessage[], at: (index: number) => string, idName = 'tool_call_id'): void {
  let open = new Set<string>()
  for (const [index, message] of messages.entries()) {
    if (message.role === 'tool') {
      if (!open.delete(message.toolCallId))
        throw badRequest(
          'invalid_messages',
          `${at(index)}.${idName} "${message.toolCallId.slice(0, 100)}" names no open call of the assistant before it.`,
          `${at(index)}.${idName}`,
        )
      continue
    }
    refuseOpen(open, at(index))
    const ids = message.role === 'assistant' ? (message.toolCalls ?? []).map((call) => call.id) : []
    open = new Set(ids)
    if (open.size < ids.length) throw badRequest('invalid_messages', `${at(index)} has two calls of one id.`, at(index))
  }
  refuseOpen(open, at(messages.length - 1))
}

function refuseOpen(open: Set<string>, at: string): void {
  if (open.size === 0) return
  const ids = [...open].slice(0, 5).join(', ')
  throw badRequest('invalid_messages', `The results of the calls ${ids} are missing: each must follow before the conversation goes on.`, at)
}

function readContent(value: unknown, at: string, role: ChatMessage['role'], beyond: string[]): Content {
  if (typeof value === 'string') return value
  if (!Array.isArray(value)) throw badRequest('invalid_messages', `${at} must be text or a list of parts.`, at)
  if (value.length > MESSAGES_MAX) throw badRequest('invalid_messages', `${at} may hold at most ${MESSAGES_MAX} parts.`, at)
  return joined(value.flatMap((part: unknown, index) => readPart(part, `${at}[${index}]`, role, beyond) ?? []))
}

/** Text alone is one text: what is cut into parts means the same. */
export function joined(parts: ContentPart[]): Content {
  return parts.some((part) => part.kind === 'image') ? parts : parts.map((part) => (part.kind === 'text' ? part.text : '')).join('')
}

function readPart(part: unknown, at: string, role: ChatMessage['role'], beyond: string[]): ContentPart | undefined {
  if (!isObject(part)) throw wrongPart(at)
  if (part.type === 'text' && typeof part.text === 'string') return { kind: 'text', text: part.text }
  if (part.type === 'refusal' && role === 'assistant' && typeof part.refusal === 'string') return { kind: 'text', text: part.refusal }
  if (role !== 'user') throw badRequest('invalid_messages', `${at}: only messages of the user may hold other parts than text.`, at)
  if (part.type === 'image_url') {
    const image = part.image_url
    if (!isObject(image)) throw badRequest('invalid_image', `${at}.image_url must be {"url", "detail"}.`, `${at}.image_url`)
    return readImage(image.url, image.detail, `${at}.image_url`)
  }
  if (part.type !== 'input_audio' && part.type !== 'file') throw wrongPart(at)
  beyond.push(at)
  return undefined
}

function wrongPart(at: string): Error {
  return badRequest('invalid_messages', `${at} must be {"type": "text", "text": …} or {"type": "image_url", "image_url": {"url": …}}.`, at)
}

export function readImage(url: unknown, detail: unknown, at: string, name = 'url'): ImagePart {
  if (typeof url !== 'string' || !isImageUrl(url))
    throw badRequest(
      'invalid_image',
      `${at}.${name} must be https://… or data:image/png;base64,… (png, jpeg, gif or webp, at most ${IMAGE_BYTES_MAX / 1024 / 1024} MiB).`,
      `${at}.${name}`,
    )
  if (detail === undefined || detail === null) return { kind: 'image', url }
  const known = DETAILS.find((value) => value === detail)
  if (known === undefined) throw badRequest('invalid_image', `${at}.detail must be one of ${DETAILS.join(', ')}.`, `${at}.detail`)
  return { kind: 'image', url, detail: known }
}

const DETAILS = ['auto', 'low', 'high', 'original'] as const
const IMAGE_BYTES_MAX = 20 * 1024 * 1024
const URL_LENGTH_MAX = 8_192

function isImageUrl(url: string): boolean {
  if (url.startsWith('https://')) return url.length <= URL_LENGTH_MAX && URL.canParse(url)
  const [head = ''] = /^data:image\/(png|jpe?g|gif|webp);base64,/.exec(url) ?? []
  if (head === '' || url.length === head.length || url.length - head.length > (IMAGE_BYTES_MAX * 4) / 3 + 4) return false
  return /^[\w+/-]+={0,2}$/.test(url.slice(head.length))
}

function isEmptyList(value: unknown): boolean {
  return Array.isArray(value) && value.length === 0
}
