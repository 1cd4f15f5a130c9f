import type { ChatMessage, Content, ContentPart, ToolCall } from '../../proto/request.ts'
import { joinedThinking, type ThinkingBlock } from '../../proto/thinking.ts'
import { badRequest } from '../core/fault.ts'
import type { MemberSorts, Untranslated } from './anthropic-untranslated.ts'
import { type Body, boolean, isObject } from './body.ts'
import { MESSAGES_MAX, readImage } from './openai-messages.ts'

/** Reads `messages` of the dialect, in which results of tools are blocks of the user, as messages of their own. */
export function readConversation(value: unknown, untranslated: Untranslated): ChatMessage[] {
  if (!Array.isArray(value)) throw invalid('messages', 'must be a list of messages')
  if (value.length === 0) throw invalid('messages', 'must hold at least one message')
  if (value.length > MESSAGES_MAX) throw invalid('messages', `may hold at most ${MESSAGES_MAX} messages, not ${value.length}`)
  const messages: ChatMessage[] = []
  const open = new OpenCalls()
  let last = ''
  for (const [index, item] of value.entries()) {
    const at = `messages[${index}]`
    if (!isObject(item)) throw invalid(at, 'must be an object with role and content')
    untranslated.sort(item, at, MESSAGE)
    const { role } = item
    if (role !== 'user' && role !== 'assistant' && role !== 'system') throw invalid(`${at}.role`, 'must be user, assistant or system')
    if (role === 'assistant' && messages.every((message) => message.role === 'system'))
      throw invalid(`${at}.role`, 'is assistant, but the first message must be the user’s')
    if (role !== last) open.turn(role, at)
    messages.push(...readMessage(role, item, at, open, untranslated))
    last = role
  }
  open.turn('end', 'the end of messages')
  // The model goes on in the middle of its own sentence: only the dialect itself promises that.
  if (last === 'assistant') untranslated.changes(`messages[${value.length - 1}].role`)
  return messages
}

const MESSAGE: MemberSorts = { read: new Set(['role', 'content']) }
const BLOCKS_MAX = 10_000
const ID_LENGTH_MAX = 256

/** `system` of the body: a text, or texts. */
export function readSystem(value: unknown, at: string, untranslated: Untranslated): string {
  if (typeof value === 'string') return value
  return blocksIn(value, at)
    .map((block, index) => {
      if (block.type !== 'text') throw invalid(`${at}[${index}]`, 'must be {"type": "text", "text": …}')
      return readText(block, `${at}[${index}]`, untranslated)
    })
    .join('\n\n')
}

function readMessage(role: ChatMessage['role'], item: Body, at: string, open: OpenCalls, untranslated: Untranslated): ChatMessage[] {
  const { content } = item
  if (role === 'system') {
    // Where it stands in the conversation may matter to a provider that knows such messages.
    untranslated.keep()
    return [{ role, content: readSystem(content, `${at}.content`, untranslated) }]
  }
  if (typeof content === 'string') return [role === 'user' ? { role, content } : { role: 'assistant', content }]
  const blocks = blocksIn(content, `${at}.content`)
  if (role === 'user') return readUser(blocks, `${at}.content`, open, untranslated)
  return [readAssistant(blocks, `${at}.content`, open, untranslated)]
}

function readUser(blocks: Body[], at: string, open: OpenCalls, untranslated: Untranslated): ChatMessage[] {
  const results: ChatMessage[] = []
  const parts: ContentPart[] = []
  for (const [index, block] of blocks.entries()) {
    const place = `${at}[${index}]`
    if (block.type === 'tool_result') {
      if (parts.length > 0) throw invalid(place, 'is a tool_result behind other blocks; results come first in their message')
      results.push(readResult(block, place, open, untranslated))
    } else {
      const part = readPart(block, place, untranslated)
      if (part !== undefined) parts.push(part)
    }
  }
  if (results.length > 0 && parts.length === 0) return results
  return [...results, { role: 'user', content: contentOf(parts) }]
}

function readResult(block: Body, at: string, open: OpenCalls, untranslated: Untranslated): ChatMessage {
  untranslated.sort(block, at, TOOL_RESULT)
  const toolCallId = readId(block.tool_use_id, `${at}.tool_use_id`)
  open.answer(toolCallId, `${at}.tool_use_id`)
  const isError = boolean(block, 'is_error')
  return {
    role: 'tool',
    toolCallId,
    content: readResultContent(block.content, `${at}.content`, untranslated),
    ...(isError === null ? {} : { isError }),
  }
}

const TOOL_RESULT: MemberSorts = {
  read: new Set(['type', 'tool_use_id', 'content', 'is_error']),
  kept: new Set(['cache_control']),
  changing: new Set(['toolset_name']),
}

function readResultContent(content: unknown, at: string, untranslated: Untranslated): Content {
  if (content === undefined || content === null) return ''
  if (typeof content === 'string') return content
  return contentOf(blocksIn(content, at).flatMap((part, index) => readPart(part, `${at}[${index}]`, untranslated) ?? []))
}

/** Undefined: the block is of a kind that only the dialect itself knows. */
function readPart(block: Body, at: string, untranslated: Untranslated): ContentPart | undefined {
  if (block.type === 'text') return { kind: 'text', text: readText(block, at, untranslated) }
  if (block.type === 'image') return readImageBlock(block, at, untranslated)
  elsewhere(block, at, USER_ELSEWHERE, untranslated)
  return undefined
}

function readText(block: Body, at: string, untranslated: Untranslated): string {
  if (typeof block.text !== 'string') throw invalid(at, 'must be {"type": "text", "text": …}')
  const { citations } = block
  untranslated.sort(block, at, Array.isArray(citations) && citations.length === 0 ? TEXT_UNCITED : TEXT)
  return block.text
}

const TEXT: MemberSorts = { read: new Set(['type', 'text']), kept: new Set(['cache_control']), changing: new Set(['citations']) }
const TEXT_UNCITED: MemberSorts = { ...TEXT, read: new Set(['type', 'text', 'citations']) }

function readImageBlock(block: Body, at: string, untranslated: Untranslated): ContentPart | undefined {
  untranslated.sort(block, at, IMAGE)
  const { source } = block
  if (isObject(source) && source.type === 'url') return readImage(source.url, null, `${at}.source`)
  if (isObject(source) && source.type === 'base64') {
    const [type, data] = ['media_type', 'data'].map((name) => {
      if (typeof source[name] === 'string') return source[name]
      throw invalid(`${at}.source.${name}`, 'must be a text')
    })
    return readImage(`data:${type};base64,${data}`, null, `${at}.source`)
  }
  if (!isObject(source) || source.type !== 'file') throw invalid(`${at}.source`, 'must be of type base64 or url')
  untranslated.leaveOut(block, `${at}.source`)
  return undefined
}

const IMAGE: MemberSorts = {
  read: new Set(['type', 'source']),
  kept: new Set(['cache_control']),
  changing: new Set(['transformations']),
}

function readAssistant(blocks: Body[], at: string, open: OpenCalls, untranslated: Untranslated): ChatMessage {
  const thoughts: ThinkingBlock[] = []
  const parts: ContentPart[] = []
  const toolCalls: ToolCall[] = []
  for (const [index, block] of blocks.entries()) {
    const place = `${at}[${index}]`
    // Thinking, text and calls come in this order here; whoever mixed them gets them back as they were.
    if ((block.type !== 'tool_use' && toolCalls.length > 0) || (isThinking(block) && parts.length > 0)) untranslated.keep()
    if (isThinking(block)) thoughts.push(readThinking(block, place, untranslated))
    else if (block.type === 'text') parts.push({ kind: 'text', text: readText(block, place, untranslated) })
    else if (block.type === 'tool_use') toolCalls.push(readCall(block, place, open, untranslated))
    else elsewhere(block, place, ASSISTANT_ELSEWHERE, untranslated)
  }
  const { reasoning, signature } = joinedThinking(thoughts)
  return {
    role: 'assistant',
    content: contentOf(parts),
    ...(reasoning === '' ? {} : { reasoning }),
    ...(signature === '' ? {} : { reasoningSignature: signature }),
    ...(toolCalls.length === 0 ? {} : { toolCalls }),
  }
}

function isThinking(block: Body): boolean {
  return block.type === 'thinking' || block.type === 'redacted_thinking'
}

function readThinking(block: Body, at: string, untranslated: Untranslated): ThinkingBlock {
  if (block.type === 'redacted_thinking') {
    untranslated.sort(block, at, REDACTED)
    if (typeof block.data !== 'string') throw invalid(`${at}.data`, 'must be a text')
    // Sealed by the provider that thought it; for every other one a part of the conversation is missing.
    untranslated.changes(at)
    return { kind: 'redacted', data: block.data }
  }
  untranslated.sort(block, at, THINKING)
  const { thinking, signature } = block
  if (typeof thinking !== 'string' || typeof signature !== 'string')
    throw invalid(at, 'must be {"type": "thinking", "thinking": …, "signature": …}')
  if (signature.includes(' ')) throw invalid(`${at}.signature`, 'is not one that came with an answer')
  return { kind: 'thinking', thinking, signature }
}

const THINKING: MemberSorts = { read: new Set(['type', 'thinking', 'signature']) }
const REDACTED: MemberSorts = { read: new Set(['type', 'data']) }

function readCall(block: Body, at: string, open: OpenCalls, untranslated: Untranslated): ToolCall {
  const isDirect = isObject(block.caller) && block.caller.type === 'direct'
  untranslated.sort(block, at, isDirect ? DIRECT_CALL : CALL)
  const { name, input } = block
  const id = readId(block.id, `${at}.id`)
  if (typeof name !== 'string' || name === '' || !isObject(input))
    throw invalid(at, 'must be {"type": "tool_use", "id": …, "name": …, "input": an object}')
  open.call(id, `${at}.id`)
  return { id, name, arguments: JSON.stringify(input) }
}

const CALL: MemberSorts = {
  read: new Set(['type', 'id', 'name', 'input']),
  kept: new Set(['cache_control']),
  changing: new Set(['caller', 'toolset_name']),
}
const DIRECT_CALL: MemberSorts = { ...CALL, read: new Set([...CALL.read, 'caller']) }

const SERVER_RESULTS = [
  'web_search_tool_result',
  'web_fetch_tool_result',
  'code_execution_tool_result',
  'bash_code_execution_tool_result',
  'text_editor_code_execution_tool_result',
  'tool_search_tool_result',
  'mcp_tool_result',
  'advisor_tool_result',
]
const USER_ELSEWHERE = new Set([
  ...['document', 'search_result', 'container_upload', 'tool_reference', 'browser_state', 'tool_addition', 'tool_removal'],
  ...SERVER_RESULTS,
])
const ASSISTANT_ELSEWHERE = new Set([
  ...['server_tool_use', 'mcp_tool_use', 'mcp_tool_listing', 'container_upload', 'compaction', 'fallback'],
  ...['tool_addition', 'tool_removal'],
  ...SERVER_RESULTS,
])

function elsewhere(block: Body, at: string, known: Set<string>, untranslated: Untranslated): void {
  if (typeof block.type !== 'string' || !known.has(block.type))
    throw invalid(`${at}.type`, `${JSON.stringify(block.type ?? null).slice(0, 60)} is not known here`)
  untranslated.leaveOut(block, at)
}

/** Every call has its result in the next message of the user, and no result is without its call. */
class OpenCalls {
  #called = new Set<string>()

  call(id: string, at: string): void {
    if (this.#called.has(id)) throw invalid(at, `names a second call "${id.slice(0, 100)}"`)
    this.#called.add(id)
  }

  answer(id: string, at: string): void {
    if (!this.#called.delete(id))
      throw invalid(at, `"${id.slice(0, 100)}" names no open call: every tool_result needs its tool_use in the message before`)
  }

  turn(role: string, at: string): void {
    if (role !== 'user' && this.#called.size > 0)
      throw invalid(
        at.split('.')[0] ?? at,
        `comes before the results of the calls ${[...this.#called].slice(0, 5).join(', ')}: send a tool_result for each`,
      )
  }
}

function contentOf(parts: ContentPart[]): Content {
  const [first] = parts
  if (first === undefined) return ''
  return parts.length === 1 && first.kind === 'text' ? first.text : parts
}

function blocksIn(value: unknown, at: string): Body[] {
  if (!Array.isArray(value)) throw invalid(at, 'must be a text or a list of blocks')
  if (value.length > BLOCKS_MAX) throw invalid(at, `may hold at most ${BLOCKS_MAX} blocks`)
  return value.map((block: unknown, index) => {
    if (!isObject(block)) throw invalid(`${at}[${index}]`, 'must be an object with a type')
    return block
  })
}

function readId(value: unknown, at: string): string {
  if (typeof value !== 'string' || value === '' || value.length > ID_LENGTH_MAX)
    throw invalid(at, `must be the id of a call, a text of 1 to ${ID_LENGTH_MAX} characters`)
  return value
}

function invalid(at: string, what: string): Error {
  return badRequest('invalid_messages', `${at} ${what}.`, at)
}
