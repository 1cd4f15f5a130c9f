import { type ChatMessage, type Tool, textOf } from '../../../proto/request.ts'

/** A message as templates know it that have never heard of tools. */
export type PlainMessage = { role: 'system' | 'user' | 'assistant'; content: string; reasoning?: string }

/**
 * Tools for models whose template does not know them: described in the system message, called by `<tool_call>` tags, answered
 * in a turn of the user. It is the way of writing that most models have seen.
 */
export function describedTools(messages: readonly ChatMessage[], tools: readonly Tool[] | undefined): PlainMessage[] {
  const plain: PlainMessage[] = []
  if (tools !== undefined && tools.length > 0) {
    const system = messages[0]?.role === 'system' ? `${textOf(messages[0].content)}\n\n` : ''
    plain.push({ role: 'system', content: system + description(tools) })
  }
  let answers: PlainMessage | undefined
  for (const message of messages.slice(plain.length > 0 && messages[0]?.role === 'system' ? 1 : 0)) {
    if (message.role !== 'tool') {
      plain.push(plainMessage(message))
      answers = undefined
      continue
    }
    const answer = `<tool_response>\n${textOf(message.content)}\n</tool_response>`
    // Results of one turn stand together: many templates want turns to alternate.
    if (answers === undefined) plain.push((answers = { role: 'user', content: answer }))
    else answers.content += `\n${answer}`
  }
  return plain
}

function plainMessage(message: Exclude<ChatMessage, { role: 'tool' }>): PlainMessage {
  const content = textOf(message.content)
  if (message.role !== 'assistant') return { role: message.role, content }
  const calls = (message.toolCalls ?? []).map(
    ({ name, arguments: given }) =>
      `<tool_call>\n{"name": ${JSON.stringify(name)}, "arguments": ${given === '' ? '{}' : given}}\n</tool_call>`,
  )
  const said = [content, ...calls].filter((part) => part !== '').join('\n')
  return { role: 'assistant', content: said, ...(message.reasoning === undefined ? {} : { reasoning: message.reasoning }) }
}

function description(tools: readonly Tool[]): string {
  const listed = tools.map(({ name, description: purpose, parameters }) =>
    JSON.stringify({ name, ...(purpose === undefined ? {} : { description: purpose }), parameters: parameters ?? { type: 'object' } }),
  )
  return `You can call these functions:\n${listed.join('\n')}\n\nTo call one, write nothing but\n<tool_call>\n{"name": "its name", "arguments": {its arguments}}\n</tool_call>\nand wait: what it returns comes in the next message.`
}
