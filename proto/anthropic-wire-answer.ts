import type { Aside, FinishReason } from './answer.ts'
import { WholeCharacters } from './whole-characters.ts'
import { entryStart, redactedEntry, ThoughtTurns } from './thinking.ts'
import {
  asTold,
  countIn,
  isJson,
  type Json,
  listIn,
  Malformed,
  malformed,
  objectIn,
  shallow,
  textIn,
  TOOL_CALLS_MAX,
  understood,
  upstreamError,
  type WireEnd,
  type WireFailure,
  type WirePiece,
  type WireUsage,
} from './wire.ts'

/**
 * Reads what an upstream of the Anthropic dialect answers to one request: every event of a stream, or the one body of an
 * unstreamed answer. An answer whose `end` is still null when the upstream has no more to say was cut off. Events and
 * members that are not known are left alone.
 */
export class AnthropicReader {
  readonly #blocks = new Map<number, Block>()
  #calls = 0
  readonly #turns = new ThoughtTurns()
  readonly #whole = new WholeCharacters()
  #finishReason: FinishReason | null = null
  #stopSequence: string | undefined
  #reported: Json = {}
  /** As far as it was told. */
  usage: WireUsage | null = null
  #stopped = false

  /** The upstream has said its last word. */
  get done(): boolean {
    return this.#stopped
  }

  /** Null until the upstream gave its reason to stop, of which all that follows is its last word. */
  get end(): WireEnd | null {
    if (this.#finishReason === null) return null
    const stopSequence = this.#stopSequence
    return { finishReason: this.#finishReason, usage: this.usage, ...(stopSequence === undefined ? {} : { stopSequence }) }
  }

  /** The data of one event of a stream. Null: nothing for the answer. */
  readData(data: string): WirePiece | WireFailure | null {
    // What comes behind the last word is no part of the answer.
    if (this.#stopped) return null
    let event: unknown
    try {
      event = JSON.parse(data)
    } catch {
      return malformed('an event of its stream is not JSON')
    }
    return this.read(event)
  }

  /** An event, or a whole message. */
  read(event: unknown): WirePiece | WireFailure | null {
    return understood(() => this.#read(event))
  }

  #read(event: unknown): WirePiece | WireFailure | null {
    if (!isJson(event)) throw new Malformed('it is not an object')
    switch (event.type) {
      case 'content_block_delta':
        return this.#delta(indexIn(event), objectIn(event, 'delta') ?? {})
      case 'content_block_start':
        return this.#start(indexIn(event), objectIn(event, 'content_block') ?? {})
      case 'content_block_stop':
        return this.#close(indexIn(event))
      case 'message_start':
        this.#count(objectIn(event, 'message') ?? {})
        return null
      case 'message_delta':
        this.#count(event)
        return this.#finish({ ...event, ...objectIn(event, 'delta') })
      case 'message_stop':
        this.#stopped = true
        return null
      case 'message':
        return this.#message(event)
      case 'error':
        return upstreamError(event.error)
      default:
        return null
    }
  }

  #delta(index: number, delta: Json): WirePiece | null {
    switch (delta.type) {
      case 'text_delta':
        return this.#text(textIn(delta, 'text') ?? '')
      case 'citations_delta':
        this.#blocks.get(index)?.citations.push(shallow(delta.citation))
        return null
      case 'thinking_delta':
        return this.#thought(textIn(delta, 'thinking') ?? '')
      case 'signature_delta':
        return this.#signature(textIn(delta, 'signature') ?? '')
      case 'input_json_delta':
        return this.#input(index, textIn(delta, 'partial_json') ?? '')
      case 'compaction_delta': {
        // It comes whole, and null where it failed.
        const { type: _, ...members } = delta
        Object.assign(this.#blocks.get(index)?.foreign ?? {}, shallow(members))
        return null
      }
      default:
        return null
    }
  }

  #start(index: number, content: Json): WirePiece | null {
    if (this.#blocks.size >= BLOCKS_MAX) throw new Malformed(`it has more than ${BLOCKS_MAX} blocks`)
    const block: Block = { call: null, isSilent: true, givenInput: '{}', citations: [], foreign: null, foreignInput: '' }
    this.#blocks.set(index, block)
    switch (content.type) {
      case 'text': {
        for (const citation of shallow(listIn(content, 'citations') ?? [])) block.citations.push(citation)
        const begun = this.#turns.passed.text > 0 ? this.#aside({ kind: 'text-block' }) : null
        return joined(begun, this.#text(textIn(content, 'text') ?? ''))
      }
      case 'thinking': {
        const entry = this.#signature(this.#entryStart())
        const thought = this.#thought(textIn(content, 'thinking') ?? '')
        return joined(joined(entry, thought), this.#signature(textIn(content, 'signature') ?? ''))
      }
      case 'redacted_thinking':
        return this.#signature(this.#entryStart() + redactedEntry(textIn(content, 'data') ?? ''))
      case 'tool_use':
        return this.#call(block, content)
      default:
        block.foreign = shallow(content)
        return null
    }
  }

  #call(block: Block, content: Json): WirePiece {
    if (this.#calls >= TOOL_CALLS_MAX) throw new Malformed(`it calls more than ${TOOL_CALLS_MAX} tools`)
    const id = textIn(content, 'id')
    const name = textIn(content, 'name')
    if (id === undefined || name === undefined) throw new Malformed('a tool_use block has no id or no name')
    block.call = this.#calls++
    block.givenInput = JSON.stringify(shallow(objectIn(content, 'input') ?? {}))
    return { kind: 'piece', text: '', delta: { toolCalls: [{ index: block.call, id, name }] } }
  }

  #input(index: number, written: string): WirePiece | null {
    const block = this.#blocks.get(index)
    const grown = this.#whole.of(`input ${index}`, written)
    if (block === undefined || grown === '') return null
    block.isSilent = false
    if (block.foreign !== null) block.foreignInput += grown
    return block.call === null ? null : { kind: 'piece', text: '', delta: { toolCalls: [{ index: block.call, arguments: grown }] } }
  }

  #close(index: number): WirePiece | null {
    const block = this.#blocks.get(index)
    if (block === undefined) return null
    if (block.citations.length > 0) return this.#aside({ kind: 'citations', citations: block.citations })
    if (block.foreign !== null) return this.#aside({ kind: 'block', block: wholeBlock(block.foreign, block.foreignInput) })
    // A call that was given its input at once, or none at all, has arguments nevertheless.
    return block.call !== null && block.isSilent ? this.#input(index, block.givenInput) : null
  }

  #aside(aside: WithoutPlace<Aside>): WirePiece {
    return { kind: 'piece', text: '', delta: { asides: [{ at: this.#turns.passed.text, ...aside }] } }
  }

  #text(said: string): WirePiece | null {
    const text = this.#whole.of('text', said)
    this.#turns.speaks(text)
    return text === '' ? null : { kind: 'piece', text }
  }

  #thought(thought: string): WirePiece | null {
    const thinking = this.#whole.of('thinking', thought)
    const turn = this.#turns.thinks(thinking)
    return thinking === '' ? null : { kind: 'piece', text: '', delta: { ...(turn && { asides: [turn] }), reasoning: thinking } }
  }

  #signature(signature: string): WirePiece | null {
    const turn = this.#turns.thinks('', signature)
    return signature === '' ? null : { kind: 'piece', text: '', delta: { ...(turn && { asides: [turn] }), reasoningSignature: signature } }
  }

  #entryStart(): string {
    const { reasoning, signature } = this.#turns.passed
    return entryStart(reasoning, signature > 0)
  }

  #message(message: Json): WirePiece | WireFailure | null {
    let whole: WirePiece | null = null
    for (const [index, block] of (listIn(message, 'content') ?? []).entries()) {
      if (!isJson(block)) throw new Malformed('a block of its content is not an object')
      whole = joined(joined(whole, this.#start(index, block)), this.#close(index))
    }
    this.#count(message)
    const finished = this.#finish(message)
    this.#stopped = true
    return finished?.kind === 'failure' ? finished : joined(whole, finished)
  }

  #finish(said: Json): WirePiece | WireFailure | null {
    const reason = textIn(said, 'stop_reason')
    if (reason === undefined) return null
    const finishReason = FINISH_REASONS.get(reason)
    if (finishReason === undefined) return upstreamError({ message: `it stopped with stop_reason "${reason.slice(0, 100)}"` })
    this.#finishReason = finishReason
    this.#stopSequence = textIn(said, 'stop_sequence')
    const message = told(said, MESSAGE_MEMBERS)
    const usage = told(this.#reported, USAGE_MEMBERS)
    if (this.usage?.cacheWriteTokens === undefined) delete usage.cache_creation
    const stopReason = OTHER_REASONS.has(reason) ? { stopReason: reason } : {}
    if (Object.keys({ ...message, ...usage, ...stopReason }).length === 0) return null
    return this.#aside({ kind: 'end', ...stopReason, message, usage })
  }

  /** Each report holds totals; a count that a later one leaves out stays. */
  #count(holder: Json): void {
    if (!isJson(holder.usage)) return
    const reported = { ...this.#reported, ...Object.fromEntries(Object.entries(holder.usage).filter(([, value]) => value !== null)) }
    const usage = asTold(() => usageOf(reported))
    if (usage === null) return
    this.#reported = reported
    this.usage = usage
  }
}

type WithoutPlace<T> = T extends unknown ? Omit<T, 'at'> : never

/** `foreign` is the content of a block that the normal form has no words for. */
type Block = {
  call: number | null
  isSilent: boolean
  givenInput: string
  citations: unknown[]
  foreign: Json | null
  foreignInput: string
}

const BLOCKS_MAX = 10_000

const FINISH_REASONS = new Map<string, FinishReason>([
  ['end_turn', 'stop'],
  ['stop_sequence', 'stop'],
  ['max_tokens', 'length'],
  ['model_context_window_exceeded', 'length'],
  ['tool_use', 'tool_calls'],
  ['refusal', 'content_filter'],
  ['pause_turn', 'stop'],
  ['compaction', 'stop'],
])

/** Those that the normal form does not tell from others. */
const OTHER_REASONS = new Set(['pause_turn', 'compaction', 'model_context_window_exceeded'])

/** What of a message and of its usage has no words in the normal form: what a later request refers to, and what was paid for. */
export const MESSAGE_MEMBERS = ['container', 'stop_details', 'context_management']
export const USAGE_MEMBERS = ['server_tool_use', 'cache_creation', 'iterations']

function told(holder: Json, members: string[]): Json {
  return shallow(Object.fromEntries(members.filter((name) => (holder[name] ?? null) !== null).map((name) => [name, holder[name]])))
}

function wholeBlock(content: Json, input: string): Json {
  if (input === '') return content
  let read: unknown
  try {
    read = JSON.parse(input)
  } catch {
    throw new Malformed('the input of a block is not JSON')
  }
  return { ...content, input: shallow(read) }
}

function joined(first: WirePiece | null, second: WirePiece | null): WirePiece | null {
  if (first === null || second === null) return first ?? second
  const { delta: before = {} } = first
  const { delta: after = {} } = second
  const delta = { ...before, ...after }
  const reasoning = (before.reasoning ?? '') + (after.reasoning ?? '')
  const reasoningSignature = (before.reasoningSignature ?? '') + (after.reasoningSignature ?? '')
  if (reasoning !== '') delta.reasoning = reasoning
  if (reasoningSignature !== '') delta.reasoningSignature = reasoningSignature
  if (before.toolCalls !== undefined && after.toolCalls !== undefined) delta.toolCalls = [...before.toolCalls, ...after.toolCalls]
  if (before.asides !== undefined && after.asides !== undefined) delta.asides = [...before.asides, ...after.asides]
  const text = first.text + second.text
  return Object.keys(delta).length === 0 ? { kind: 'piece', text } : { kind: 'piece', text, delta }
}

function indexIn(event: Json): number {
  const index = countIn(event, 'index')
  if (index === undefined) throw new Malformed('an event of a block does not say of which')
  return index
}

function usageOf(reported: Json): WireUsage | null {
  const input = countIn(reported, 'input_tokens')
  const output = countIn(reported, 'output_tokens')
  if (input === undefined && output === undefined) return null
  const cached = countIn(reported, 'cache_read_input_tokens') ?? 0
  const written = countIn(reported, 'cache_creation_input_tokens') ?? 0
  return {
    promptTokens: (input ?? 0) + cached + written,
    completionTokens: output ?? 0,
    cachedTokens: cached,
    reasoningTokens: countIn(objectIn(reported, 'output_tokens_details') ?? {}, 'thinking_tokens') ?? null,
    ...(written === 0 ? {} : { cacheWriteTokens: written }),
    ...besideIn(reported),
  }
}

/** Compactions are told by themselves, and not counted among the others. */
function besideIn(reported: Json): Pick<WireUsage, 'beside'> {
  const compactions = (listIn(reported, 'iterations') ?? []).filter(isJson).filter(({ type }) => type === 'compaction')
  if (compactions.length === 0) return {}
  const sum = (name: string): number => compactions.reduce((all, iteration) => all + (countIn(iteration, name) ?? 0), 0)
  const cachedTokens = sum('cache_read_input_tokens')
  const promptTokens = sum('input_tokens') + sum('cache_creation_input_tokens') + cachedTokens
  return { beside: { promptTokens, completionTokens: sum('output_tokens'), cachedTokens } }
}
