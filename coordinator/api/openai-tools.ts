import type { GenerationRequest, JsonSchema, Tool } from '../../proto/request.ts'
import { badRequest } from '../core/fault.ts'
import { type Body, boolean, isObject } from './body.ts'
import { checkSchema, jsonBytes } from './schema-check.ts'

/** The functions a model may call and the shape its answer must have, as both endpoints of the dialect write them. */
export type Calling = Pick<GenerationRequest, 'tools' | 'toolChoice' | 'parallelToolCalls'>

/** `beyond` gathers what only a provider of the dialect itself can honour. */
export function readCalling(fields: Body, style: ToolStyle, beyond: string[]): Calling {
  const tools = readTools(fields.tools, style, beyond)
  const parallel = boolean(fields, 'parallel_tool_calls')
  const allowed = readAllowed(fields.tool_choice, tools, style)
  const choice = allowed?.mode ?? readChoice(fields.tool_choice, tools, style, beyond)
  if (tools.length === 0) return {}
  return {
    tools: allowed?.tools ?? tools,
    ...(choice === 'auto' ? {} : { toolChoice: choice }),
    ...(parallel === false ? { parallelToolCalls: false } : {}),
  }
}

/** chat/completions wraps a function in `function`; responses has its members beside `type`. */
export type ToolStyle = 'wrapped' | 'flat'

const TOOL_NAME = /^[\w-]{1,64}$/
const TOOLS_MAX = 128
const TOOLS_BYTES_MAX = 1024 * 1024
const DESCRIPTION_MAX = 16_384

function readTools(value: unknown, style: ToolStyle, beyond: string[]): Tool[] {
  if (value === undefined || value === null) return []
  if (!Array.isArray(value)) throw badRequest('invalid_tools', 'tools must be a list of tools.', 'tools')
  if (value.length > TOOLS_MAX)
    throw badRequest('invalid_tools', `tools may hold at most ${TOOLS_MAX} tools, not ${value.length}.`, 'tools')
  const bytes = jsonBytes(value, 'tools')
  if (bytes > TOOLS_BYTES_MAX)
    throw badRequest('invalid_tools', `tools have ${bytes} bytes; at most ${TOOLS_BYTES_MAX} are taken.`, 'tools')
  const tools: Tool[] = []
  for (const [index, item] of value.entries()) {
    const at = `tools[${index}]`
    if (!isObject(item) || typeof item.type !== 'string') throw badRequest('invalid_tools', `${at} must be an object with a type.`, at)
    if (item.type !== 'function') {
      beyond.push(at)
      continue
    }
    const tool = readTool(item, style, at)
    if (tools.some((other) => other.name === tool.name))
      throw badRequest('invalid_tools', `${at} has the name "${tool.name}", which another tool has too.`, `${at}${inner(style)}.name`)
    tools.push(tool)
  }
  return tools
}

function readTool(item: Body, style: ToolStyle, at: string): Tool {
  const place = at + inner(style)
  const said = style === 'wrapped' ? item.function : item
  if (!isObject(said)) throw badRequest('invalid_tools', `${place} must be an object with name, description and parameters.`, place)
  const known = style === 'wrapped' ? FUNCTION_MEMBERS : [...FUNCTION_MEMBERS, 'type']
  refuseOthers(said, known, place)
  if (style === 'wrapped') refuseOthers(item, ['type', 'function'], at)
  const { name, description, parameters, strict } = said
  if (typeof name !== 'string' || !TOOL_NAME.test(name))
    throw badRequest('invalid_tools', `${place}.name must be 1 to 64 letters, digits, _ or -.`, `${place}.name`)
  if (description !== undefined && description !== null && (typeof description !== 'string' || description.length > DESCRIPTION_MAX))
    throw badRequest(
      'invalid_tools',
      `${place}.description must be a text of at most ${DESCRIPTION_MAX} characters.`,
      `${place}.description`,
    )
  if (strict !== undefined && strict !== null && typeof strict !== 'boolean')
    throw badRequest('invalid_type', `${place}.strict must be true or false.`, `${place}.strict`)
  return {
    name,
    ...(typeof description === 'string' ? { description } : {}),
    ...(parameters === undefined || parameters === null ? {} : { parameters: objectSchema(parameters, `${place}.parameters`) }),
    ...(strict === true ? { strict } : {}),
  }
}

const FUNCTION_MEMBERS = ['name', 'description', 'parameters', 'strict']

function inner(style: ToolStyle): string {
  return style === 'wrapped' ? '.function' : ''
}

/** Arguments are passed by name, so only an object will do. */
function objectSchema(schema: unknown, at: string): JsonSchema {
  const checked = checkSchema(schema, at) as Body
  if (checked.type !== undefined && checked.type !== 'object')
    throw badRequest('invalid_schema', `${at} must have the type "object": arguments are passed by name.`, at)
  return checked
}

/** A choice among some of the tools, of which the others are not offered; undefined: it is another choice. */
function readAllowed(value: unknown, tools: Tool[], style: ToolStyle): { mode: 'auto' | 'required'; tools: Tool[] } | undefined {
  if (!isObject(value) || value.type !== 'allowed_tools') return undefined
  const at = style === 'wrapped' ? 'tool_choice.allowed_tools' : 'tool_choice'
  const said = style === 'wrapped' ? value.allowed_tools : value
  const { mode, tools: listed } = isObject(said) ? said : {}
  if ((mode !== 'auto' && mode !== 'required') || !Array.isArray(listed) || listed.length === 0)
    throw badRequest('invalid_tool_choice', `${at} must have the mode auto or required, and tools.`, at)
  const names = new Set<string>()
  for (const item of listed) {
    if (!isObject(item) || item.type !== 'function') return undefined
    names.add(nameOfFunction(item, tools, style))
  }
  return { mode, tools: tools.filter((tool) => names.has(tool.name)) }
}

function readChoice(value: unknown, tools: Tool[], style: ToolStyle, beyond: string[]): Exclude<Calling['toolChoice'], undefined> {
  if (value === undefined || value === null || value === 'auto' || value === 'none') return value ?? 'auto'
  if (isObject(value) && typeof value.type === 'string' && value.type !== 'function') {
    beyond.push('tool_choice')
    return 'auto'
  }
  // Tools that are somebody else's to know can be chosen there only.
  if (value === 'required') {
    if (tools.length === 0 && beyond.length === 0)
      throw badRequest('invalid_tool_choice', 'tool_choice "required" needs tools to choose from.', 'tool_choice')
    return value
  }
  return { name: nameOfFunction(value, tools, style) }
}

function nameOfFunction(value: unknown, tools: Tool[], style: ToolStyle): string {
  const said = isObject(value) && style === 'wrapped' ? value.function : value
  const name = isObject(said) ? said.name : undefined
  if (typeof name !== 'string')
    throw badRequest('invalid_tool_choice', 'tool_choice must be auto, none, required, or name a function of tools.', 'tool_choice')
  if (!tools.some((tool) => tool.name === name))
    throw badRequest('invalid_tool_choice', `tool_choice names "${name.slice(0, 64)}", which is not among tools.`, 'tool_choice')
  return name
}

/** `place` is the parameter that holds the format. */
export function readFormat(value: unknown, place: string, style: ToolStyle): GenerationRequest['format'] {
  if (value === undefined || value === null) return undefined
  const type = isObject(value) ? value.type : undefined
  if (!isObject(value) || (type !== 'text' && type !== 'json_object' && type !== 'json_schema'))
    throw badRequest('invalid_response_format', `${place}.type must be text, json_object or json_schema.`, `${place}.type`)
  if (type !== 'json_schema') {
    refuseOthers(value, ['type'], place)
    return type === 'text' ? undefined : { kind: 'json' }
  }
  const at = style === 'wrapped' ? `${place}.json_schema` : place
  const said = style === 'wrapped' ? value.json_schema : value
  if (!isObject(said)) throw badRequest('invalid_response_format', `${at} must be an object with name and schema.`, at)
  refuseOthers(said, ['name', 'description', 'schema', 'strict', ...(style === 'flat' ? ['type'] : [])], at)
  const { name, description, strict } = said
  if (typeof name !== 'string' || !TOOL_NAME.test(name))
    throw badRequest('invalid_response_format', `${at}.name must be 1 to 64 letters, digits, _ or -.`, `${at}.name`)
  const schema = checkSchema(said.schema, `${at}.schema`) as Body
  // What the caller says about the whole document belongs to its schema; there is no other place for it.
  const described = typeof description === 'string' && schema.description === undefined ? { description, ...schema } : schema
  return { kind: 'schema', name, schema: described, strict: strict === true }
}

function refuseOthers(fields: Body, known: readonly string[], at: string): void {
  for (const [name, value] of Object.entries(fields))
    if (!known.includes(name) && value !== null)
      throw badRequest('unknown_parameter', `Unknown parameter: ${at}.${name.slice(0, 100)}.`, `${at}.${name.slice(0, 100)}`)
}
