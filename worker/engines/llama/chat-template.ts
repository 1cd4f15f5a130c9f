import { Template } from '@huggingface/jinja'
import { type ChatMessage, joinedTurns, textOf, type Tool } from '../../../proto/request.ts'
import { describedTools, type PlainMessage } from './described-tools.ts'
import { CALL_FORMS, type CallForm } from './tool-calls.ts'
import { type PromptPart, Veil } from './veil.ts'

export type ChatWish = {
  messages: readonly ChatMessage[]
  tools?: readonly Tool[] | undefined
  /** Absent: as the template has it. */
  thinks?: boolean | undefined
}

export type ReasoningMarks = { open: string; close: string }

export type RenderedChat = { parts: PromptPart[] /** The prompt ends inside of the reasoning. */; reasoningBegun: boolean }

/**
 * A model's own chat template: writes conversations as the model has learned to read them, and says by what it contains
 * how the model writes calls and reasoning.
 */
export class ChatTemplate {
  readonly callForm: CallForm
  /** Undefined: the model does not reason, as far as its template knows. */
  readonly reasoning: ReasoningMarks | undefined
  readonly #template: Template
  readonly #special: Record<string, string>
  readonly #systemRole: boolean
  /** How the template wants a call's arguments; undefined: it does not know tools, they are described. */
  readonly #arguments: 'object' | 'text' | undefined

  /** Throws where the template cannot be understood. `special`: the texts of `bos_token` and its like. */
  constructor(template: string, special: Record<string, string>) {
    this.#template = new Template(template)
    this.#special = special
    this.reasoning = template.includes('</think>') ? { open: '<think>', close: '</think>' } : undefined
    this.#systemRole = this.#renders([{ role: 'system', content: NEEDLE }, PROBE_QUESTION], {})
    if (!this.#renders([{ role: 'user', content: NEEDLE }], {})) throw new Error('it does not show what users say')
    const form = callFormOf(template)
    this.#arguments = form === undefined ? undefined : this.#wayOfArguments(form)
    this.callForm = this.#arguments === undefined ? CALL_FORMS.tagged : form!
  }

  render({ messages: said, tools, thinks }: ChatWish): RenderedChat {
    const messages = joinedTurns(said)
    const veil = new Veil(JSON.stringify([messages, tools]))
    const shown = this.#arguments === undefined ? this.#plain(describedTools(messages, tools), veil) : this.#native(messages, veil)
    const variables = {
      ...(this.#arguments === undefined || tools === undefined ? {} : { tools: tools.map((tool) => templateTool(tool, veil)) }),
      ...(thinks === undefined ? {} : { enable_thinking: thinks, thinking: thinks }),
    }
    let text = this.#render(shown, variables)
    const last = shown.at(-1)
    // A conversation that ends with the assistant's words is to be gone on with.
    const goesOn = last?.role === 'assistant' && last.tool_calls === undefined
    const end = goesOn ? veil.endOf(last.content, text) : -1
    if (end >= 0) text = text.slice(0, end)
    else if (thinks === false) text = this.#withoutThought(text)
    return { parts: veil.reveal(text), reasoningBegun: end < 0 && this.#isThinking(text) }
  }

  #isThinking(text: string): boolean {
    return this.reasoning !== undefined && text.trimEnd().endsWith(this.reasoning.open)
  }

  /** Where the template itself cannot be told: a thought that is over before it began. */
  #withoutThought(text: string): string {
    if (this.reasoning === undefined || text.trimEnd().endsWith(this.reasoning.close)) return text
    const { open, close } = this.reasoning
    return this.#isThinking(text) ? `${text.trimEnd()}\n\n${close}\n\n` : `${text}${open}\n\n${close}\n\n`
  }

  #render(messages: readonly TemplateMessage[], variables: Record<string, unknown>): string {
    return this.#template.render({ ...this.#special, ...variables, messages, add_generation_prompt: true })
  }

  #renders(messages: readonly TemplateMessage[], variables: Record<string, unknown>): boolean {
    try {
      return this.#render(messages, variables).includes(NEEDLE)
    } catch {
      // A template refuses what it does not know by failing.
      return false
    }
  }

  /** Tries how calls and their results can be shown. */
  #wayOfArguments(form: CallForm): 'object' | 'text' | undefined {
    const tools = [{ type: 'function', function: { name: NEEDLE, description: 'probe', parameters: { type: 'object', properties: {} } } }]
    if (!this.#renders([PROBE_QUESTION], { tools })) return undefined
    const call = (given: unknown): TemplateMessage => ({
      role: 'assistant',
      content: '',
      tool_calls: [{ type: 'function', id: callId('probe', form), function: { name: 'probe', arguments: given } }],
    })
    const result = (content: string): TemplateMessage => ({ role: 'tool', content, name: 'probe', tool_call_id: callId('probe', form) })
    if (
      !this.#renders([PROBE_QUESTION, call({ probe: 'x' }), result(NEEDLE)], {}) &&
      !this.#renders([PROBE_QUESTION, call('{}'), result(NEEDLE)], {})
    )
      return undefined
    if (this.#renders([PROBE_QUESTION, call({ probe: NEEDLE }), result('x')], {})) return 'object'
    return this.#renders([PROBE_QUESTION, call(`{"probe":"${NEEDLE}"}`), result('x')], {}) ? 'text' : undefined
  }

  #native(messages: readonly ChatMessage[], veil: Veil): TemplateMessage[] {
    const names = new Map<string, string>()
    const shown: TemplateMessage[] = []
    for (const message of messages) {
      const content = veil.hide(textOf(message.content))
      if (message.role === 'tool') {
        const name = names.get(message.toolCallId) ?? ''
        shown.push({ role: 'tool', content, name, tool_call_id: callId(message.toolCallId, this.callForm) })
      } else if (message.role === 'assistant') {
        for (const call of message.toolCalls ?? []) names.set(call.id, call.name)
        const calls = message.toolCalls?.map(({ id, name, arguments: given }) => ({
          type: 'function',
          id: callId(id, this.callForm),
          function: { name, arguments: this.#argumentsOf(given, veil) },
        }))
        shown.push({
          role: 'assistant',
          content,
          ...(message.reasoning === undefined ? {} : { reasoning_content: veil.hide(message.reasoning) }),
          ...(calls === undefined || calls.length === 0 ? {} : { tool_calls: calls }),
        })
      } else shown.push({ role: message.role, content })
    }
    return this.#systemRole ? shown : foldedSystem(shown)
  }

  #argumentsOf(given: string, veil: Veil): unknown {
    if (this.#arguments === 'object') {
      try {
        return veil.hideIn(JSON.parse(given === '' ? '{}' : given))
      } catch {
        // What a model wrote need not be JSON; the template shows it as text.
      }
    }
    return veil.hide(given)
  }

  #plain(messages: readonly PlainMessage[], veil: Veil): TemplateMessage[] {
    const shown = messages.map(({ role, content, reasoning }) => ({
      role,
      content: veil.hide(content),
      ...(reasoning === undefined ? {} : { reasoning_content: veil.hide(reasoning) }),
    }))
    return this.#systemRole ? shown : foldedSystem(shown)
  }
}

type TemplateMessage = {
  role: string
  content: string
  reasoning_content?: string
  name?: string
  tool_call_id?: string
  tool_calls?: { type: string; id: string; function: { name: string; arguments: unknown } }[]
}

const NEEDLE = 'haystack-needle'
const PROBE_QUESTION: TemplateMessage = { role: 'user', content: 'probe' }

/** By the marks a template contains; undefined: it knows no tools, or writes calls in a way that is not read here. */
function callFormOf(template: string): CallForm | undefined {
  if (!/\btools\b/.test(template)) return undefined
  if (template.includes('<tool_call>')) return template.includes('<function=') ? undefined : CALL_FORMS.tagged
  if (template.includes('[TOOL_CALLS]')) return template.includes('[ARGS]') ? undefined : CALL_FORMS.listed
  return template.includes('<|python_tag|>') || /"parameters\\?"/.test(template) ? CALL_FORMS.plain : undefined
}

/** Mistral's templates refuse ids that are not nine letters and digits. */
function callId(id: string, form: CallForm): string {
  return form.list
    ? id
        .replaceAll(/[^A-Za-z0-9]/g, '')
        .slice(-9)
        .padStart(9, '0')
    : id
}

/** For templates without a role for it, what the system says opens the user's turn. */
function foldedSystem(messages: readonly TemplateMessage[]): TemplateMessage[] {
  const folded: TemplateMessage[] = []
  let system = ''
  for (const message of messages) {
    if (message.role === 'system') system += `${message.content}\n\n`
    else if (message.role === 'user' && system !== '') {
      folded.push({ ...message, content: system + message.content })
      system = ''
    } else folded.push(message)
  }
  return system === '' ? folded : [...folded, { role: 'user', content: system.trimEnd() }]
}

function templateTool({ name, description, parameters }: Tool, veil: Veil): unknown {
  const shown = {
    name,
    ...(description === undefined ? {} : { description: veil.hide(description) }),
    parameters: veil.hideIn(parameters ?? { type: 'object', properties: {} }),
  }
  return { type: 'function', function: shown }
}
