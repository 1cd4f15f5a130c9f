import type { GenerationRequest, Tool } from '../../proto/request.ts'
import { badRequest } from '../core/fault.ts'
import type { MemberSorts, Untranslated } from './anthropic-untranslated.ts'
import { type Body, boolean, isObject } from './body.ts'
import type { Calling } from './openai-tools.ts'
import { checkSchema } from './schema-check.ts'

/** The functions that the model may call, and how it is to choose among them. */
export function readTooling(fields: Body, untranslated: Untranslated): Calling {
  const tools = readTools(fields.tools, untranslated)
  const { tool_choice: choice } = fields
  if (choice === undefined || choice === null) return tools.length === 0 ? {} : { tools }
  if (!isObject(choice)) throw invalid('tool_choice', 'must be an object with a type')
  untranslated.sort(choice, 'tool_choice', choice.type === 'tool' ? CHOICE_OF_ONE : CHOICE)
  const isSingle = boolean(choice, 'disable_parallel_tool_use')
  const wanted = readChoice(choice, tools, untranslated)
  // Tools that only the dialect knows are chosen there.
  if (tools.length === 0) return {}
  return {
    tools,
    ...(wanted === 'auto' ? {} : { toolChoice: wanted }),
    ...(isSingle === true && wanted !== 'none' ? { parallelToolCalls: false } : {}),
  }
}

const CHOICE: MemberSorts = { read: new Set(['type', 'disable_parallel_tool_use']) }
const CHOICE_OF_ONE: MemberSorts = { read: new Set([...CHOICE.read, 'name']) }
const TOOL_NAME = /^[\w-]{1,128}$/
const TOOLS_MAX = 128
const TOOLS_BYTES_MAX = 1024 * 1024
const DESCRIPTION_MAX = 65_536

function readChoice(choice: Body, tools: Tool[], untranslated: Untranslated): NonNullable<GenerationRequest['toolChoice']> {
  if (choice.type === 'auto' || choice.type === 'none') return choice.type
  const isElsewhere = untranslated.changing.length > 0
  if (choice.type === 'any') {
    if (tools.length === 0 && !isElsewhere) throw invalid('tool_choice', 'needs tools to choose from')
    return 'required'
  }
  if (choice.type !== 'tool') throw invalid('tool_choice.type', 'must be auto, any, tool or none')
  const { name } = choice
  if (typeof name !== 'string') throw invalid('tool_choice.name', 'must name a tool')
  if (!tools.some((tool) => tool.name === name) && !isElsewhere)
    throw invalid('tool_choice.name', `"${name.slice(0, 128)}" is not among tools`)
  return { name }
}

function readTools(value: unknown, untranslated: Untranslated): Tool[] {
  if (value === undefined || value === null) return []
  if (!Array.isArray(value)) throw invalid('tools', 'must be a list of tools')
  if (value.length > TOOLS_MAX) throw invalid('tools', `may hold at most ${TOOLS_MAX} tools, not ${value.length}`)
  const bytes = Buffer.byteLength(JSON.stringify(value))
  if (bytes > TOOLS_BYTES_MAX) throw invalid('tools', `have ${bytes} bytes; at most ${TOOLS_BYTES_MAX} are taken`)
  const tools: Tool[] = []
  for (const [index, item] of value.entries()) {
    const at = `tools[${index}]`
    if (!isObject(item)) throw invalid(at, 'must be an object with name and input_schema')
    const { type } = item
    // Tools of the provider's own, each of a dated type, that run there or have their schema there.
    if (typeof type === 'string' && type !== 'custom') untranslated.leaveOut(item, at)
    else tools.push(readTool(item, at, tools, untranslated))
  }
  return tools
}

function readTool(item: Body, at: string, others: Tool[], untranslated: Untranslated): Tool {
  untranslated.sort(item, at, TOOL)
  const { name, description } = item
  if (typeof name !== 'string' || !TOOL_NAME.test(name)) throw invalid(`${at}.name`, 'must be 1 to 128 letters, digits, _ or -')
  if (others.some((other) => other.name === name)) throw invalid(`${at}.name`, `"${name}" is the name of another tool too`)
  if (description !== undefined && description !== null && (typeof description !== 'string' || description.length > DESCRIPTION_MAX))
    throw invalid(`${at}.description`, `must be a text of at most ${DESCRIPTION_MAX} characters`)
  const schema = checkSchema(item.input_schema, `${at}.input_schema`)
  if (isObject(schema) && schema.type !== 'object') throw invalid(`${at}.input_schema.type`, 'must be "object": input is passed by name')
  const strict = boolean(item, 'strict')
  return {
    name,
    ...(typeof description === 'string' ? { description } : {}),
    parameters: schema,
    ...(strict === true ? { strict } : {}),
  }
}

const TOOL: MemberSorts = {
  read: new Set(['type', 'name', 'description', 'input_schema', 'strict']),
  kept: new Set(['cache_control', 'eager_input_streaming']),
  changing: new Set(['allowed_callers', 'defer_loading', 'input_examples']),
}

function invalid(at: string, what: string): Error {
  return badRequest(at.startsWith('tool_choice') ? 'invalid_tool_choice' : 'invalid_tools', `${at} ${what}.`, at)
}
