import type { AnswerDelta, FinishReason, TokenLogprob, ToolCallDelta } from './answer.ts'
import { ThoughtTurns } from './thinking.ts'
import { WholeCharacters } from './whole-characters.ts'
import { ContentTemplate } from './openai-wire-template.ts'
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
 * Reads what an upstream of the OpenAI dialect answers to one request: every chunk of a stream, or the one body of an
 * unstreamed answer, of chat completions or completions. An answer whose `end` is still null when the upstream has no more
 * to say was cut off. Members that are not known are left alone; other choices than the first do not concern this job.
 */
export class OpenAiReader {
  readonly #newCallId: () => string
  readonly #template = new ContentTemplate()
  readonly #turns = new ThoughtTurns()
  readonly #whole = new WholeCharacters()
  readonly #calls: Call[] = []
  #named = 0
  #finishReason: FinishReason | null = null
  #stopSequence: string | undefined
  /** As far as it was told. */
  usage: WireUsage | null = null
  /** The upstream has said its last word. */
  done = false

  /** `newCallId` names a call that the upstream gave no id. */
  constructor(newCallId: () => string = () => `call_${crypto.randomUUID().replaceAll('-', '')}`) {
    this.#newCallId = newCallId
  }

  /** Null until the upstream gave its reason to finish. Usage comes after that: ask when there is nothing left to read. */
  get end(): WireEnd | null {
    if (this.#finishReason === null) return null
    const stopSequence = this.#stopSequence
    return { finishReason: this.#finishReason, usage: this.usage, ...(stopSequence === undefined ? {} : { stopSequence }) }
  }

  /** The data of one event of a stream. Null: nothing for the answer. */
  readData(data: string): WirePiece | WireFailure | null {
    // What comes behind the last word is no part of the answer.
    if (this.done) return null
    const content = this.#template.contentOf(data)
    if (content !== undefined) {
      const text = this.#whole.of('text', content)
      this.#turns.speaks(text)
      return text === '' ? null : { kind: 'piece', text }
    }
    if (data === '[DONE]') {
      this.done = true
      return null
    }
    let chunk: unknown
    try {
      chunk = JSON.parse(data)
    } catch {
      return malformed('an event of its stream is not JSON')
    }
    const read = this.read(chunk)
    if (read?.kind === 'piece' && read.delta === undefined && this.#finishReason === null) this.#template.learn(data, read.text)
    return read
  }

  /** A chunk, or a whole body. */
  read(chunk: unknown): WirePiece | WireFailure | null {
    return understood(() => this.#read(chunk))
  }

  #read(chunk: unknown): WirePiece | WireFailure | null {
    if (!isJson(chunk)) throw new Malformed('it is not an object')
    if (chunk.error !== undefined && chunk.error !== null) return upstreamError(chunk.error)
    if (chunk.object === 'error') return upstreamError(chunk)
    if (isJson(chunk.usage)) this.usage = usageOf(chunk.usage) ?? this.usage
    const choice = (listIn(chunk, 'choices') ?? []).find((candidate) => isJson(candidate) && (candidate.index ?? 0) === 0)
    return isJson(choice) ? this.#choice(choice) : null
  }

  #choice(choice: Json): WirePiece | WireFailure | null {
    const said = objectIn(choice, 'delta') ?? objectIn(choice, 'message')
    const text = this.#whole.of('text', said === undefined ? (textIn(choice, 'text') ?? '') : contentIn(said))
    const delta = this.#delta(choice, said)
    this.#turns.speaks(text)
    const reason = textIn(choice, 'finish_reason')
    if (reason !== undefined && reason !== '') {
      const finishReason = finishReasonOf(reason)
      if (finishReason === undefined)
        return { ...upstreamError({ message: `it gave up with finish_reason "${reason.slice(0, 100)}"` }), retryable: true }
      if (this.#calls.some(({ place }) => place === null)) throw new Malformed('a tool call has no name')
      // Some servers say "stop" although the model stopped to have tools called.
      this.#finishReason = finishReason === 'stop' && this.#calls.length > 0 ? 'tool_calls' : finishReason
      const matched = choice.stop_reason ?? choice.matched_stop
      if (typeof matched === 'string') this.#stopSequence = matched
    }
    return text === '' && delta === undefined ? null : { kind: 'piece', text, ...(delta === undefined ? {} : { delta }) }
  }

  #delta(choice: Json, said: Json | undefined): AnswerDelta | undefined {
    const delta: AnswerDelta = {}
    if (said !== undefined) {
      const reasoning = this.#whole.of('reasoning', textIn(said, 'reasoning_content') ?? reasoningIn(said) ?? thinkingIn(said))
      if (reasoning !== '') {
        const turn = this.#turns.thinks(reasoning)
        if (turn !== undefined) delta.asides = [turn]
        delta.reasoning = reasoning
      }
      const refusal = textIn(said, 'refusal')
      if (refusal !== undefined && refusal !== '') delta.refusal = refusal
      const calls = listIn(said, 'tool_calls')
      const isWhole = choice.delta === undefined
      const touched = new Set<Call>()
      const grown = calls?.map((call) => this.#call(call, isWhole, touched)).filter((call) => call !== null) ?? []
      if (grown.length > 0) delta.toolCalls = grown
      const annotations = listIn(said, 'annotations')
      if (annotations !== undefined && annotations.length > 0) delta.annotations = shallow(annotations)
    }
    const logprobs = objectIn(choice, 'logprobs')
    const tokens = logprobs === undefined ? [] : logprobsOf(logprobs)
    if (tokens.length > 0) delta.logprobs = tokens
    return isEmpty(delta) ? undefined : delta
  }

  /** Null while the call has no name: what came of it until then is held. `isWhole`: it is no piece of one. */
  #call(said: unknown, isWhole: boolean, touched: Set<Call>): ToolCallDelta | null {
    if (!isJson(said)) throw new Malformed('a call of tool_calls is not an object')
    const { name, grown: written, kind } = calledIn(said)
    const index = countIn(said, 'index')
    const id = textIn(said, 'id') || undefined
    const known =
      isWhole && index === undefined
        ? undefined
        : this.#knownCall(index, { id, name, written: written ?? '', isCustom: kind.custom === true })
    // Two that are named in one breath, and told apart by nothing, are two.
    const isNext = known === undefined || (index === undefined && name !== undefined && touched.has(known))
    const call = isNext ? this.#newCall(index, id) : known
    touched.add(call)
    const grown = written === undefined ? undefined : this.#whole.of(`call ${this.#calls.indexOf(call)}`, written)
    if (index === undefined) call.written += grown ?? ''
    call.name ??= name
    if (call.place !== null) return { index: call.place, ...(grown === undefined ? {} : { arguments: grown }) }
    call.held = grown === undefined ? call.held : (call.held ?? '') + grown
    call.id ??= id
    if (name === undefined) return null
    call.place = this.#named++
    return {
      ...{ index: call.place, id: call.id ?? this.#newCallId(), name, ...kind },
      ...(call.held === undefined ? {} : { arguments: call.held }),
    }
  }

  #newCall(index: number | undefined, id: string | undefined): Call {
    if (this.#calls.length >= TOOL_CALLS_MAX) throw new Malformed(`it calls more than ${TOOL_CALLS_MAX} tools`)
    const call: Call = { index, id, name: undefined, place: null, held: undefined, written: '' }
    this.#calls.push(call)
    return call
  }

  /**
   * Which call a delta goes on with; undefined: it begins one. Some servers give every call the index 0, and then only ids and
   * names tell calls apart; others give every delta of one call another id, and no name; others know no index.
   */
  #knownCall(index: number | undefined, next: Named): Call | undefined {
    const { id } = next
    const isAlike = (call: Call): boolean => index === undefined || call.index === index
    const last = this.#calls.findLast(isAlike)
    const known = id === undefined ? last : this.#calls.findLast((call) => isAlike(call) && call.id === id)
    if (index === undefined && known !== undefined && beginsAnother(known, next)) return undefined
    return known ?? (index !== undefined && next.name === undefined ? last : undefined)
  }
}

/**
 * `index` and `id` are what the upstream calls it, `place` is its place among those that have a name; `held` came before that,
 * `written` is all of one without an index.
 */
type Call = {
  index: number | undefined
  id: string | undefined
  name: string | undefined
  place: number | null
  held: string | undefined
  written: string
}

type Named = { id: string | undefined; name: string | undefined; written: string; isCustom: boolean }

/** Some give all calls one id, or none, and some name a call in every piece of it: who is named again goes on until it is whole. */
function beginsAnother(known: Call, { id, name, written, isCustom }: Named): boolean {
  if (name === undefined || known.name === undefined) return false
  if (known.name !== name) return true
  // Without an id nothing else says that the same is meant.
  if (id === undefined && known.id === undefined && (isCustom || (written === '' && known.written === ''))) return true
  return !isCustom && written !== '' && known.written !== '' && isWhole(known.written)
}

function isWhole(json: string): boolean {
  // To look costs less than to parse what grows letter by letter.
  if (!/[}\]]\s*$/.test(json)) return false
  try {
    JSON.parse(json)
    return true
  } catch {
    return false
  }
}

/** Some write their own names for them large, and some say behind the dialect's which filter it was. */
function finishReasonOf(told: string): FinishReason | undefined {
  const reason = told.toLowerCase()
  return FINISH_REASONS.get(reason) ?? (reason.startsWith('content_filter') ? 'content_filter' : undefined)
}

/** The dialect's own reasons, and those of servers that keep their old names for them. */
const FINISH_REASONS = new Map<string, FinishReason>([
  ['stop', 'stop'],
  ['eos', 'stop'],
  ['eos_token', 'stop'],
  ['stop_sequence', 'stop'],
  ['end_turn', 'stop'],
  ['length', 'length'],
  ['max_tokens', 'length'],
  ['model_length', 'length'],
  ['max_length', 'length'],
  ['max_new_tokens', 'length'],
  ['max_output_tokens', 'length'],
  ['max_completion_tokens', 'length'],
  ['context_length', 'length'],
  ['model_context_window_exceeded', 'length'],
  ['tool_calls', 'tool_calls'],
  ['tool_use', 'tool_calls'],
  ['function_call', 'tool_calls'],
  ['safety', 'content_filter'],
  ['recitation', 'content_filter'],
  ['sensitive', 'content_filter'],
  ['prohibited_content', 'content_filter'],
  ['blocklist', 'content_filter'],
  ['spii', 'content_filter'],
  ['guardrail_intervened', 'content_filter'],
])

function isEmpty(value: object): boolean {
  for (const _ in value) return false
  return true
}

/** A text, or a list of parts of which only texts are the answer's. */
function contentIn(said: Json): string {
  if (!Array.isArray(said.content)) return textIn(said, 'content') ?? ''
  let text = ''
  for (const part of said.content) if (isJson(part) && part.type === 'text') text += textIn(part, 'text') ?? ''
  return text
}

/** Under this name some servers send objects that say how they thought; only a text is the thinking itself. */
function reasoningIn(said: Json): string | undefined {
  return typeof said.reasoning === 'string' ? said.reasoning : undefined
}

/** Parts of the content that are thoughts: each a text, or a list of texts, as Mistral has it. */
function thinkingIn({ content }: Json): string {
  if (!Array.isArray(content)) return ''
  let thinking = ''
  for (const part of content) {
    if (!isJson(part) || part.type !== 'thinking') continue
    for (const thought of [part.thinking].flat())
      thinking += typeof thought === 'string' ? thought : isJson(thought) ? (textIn(thought, 'text') ?? '') : ''
  }
  return thinking
}

/** A function with arguments, or a custom tool with an input. */
function calledIn(call: Json): { name: string | undefined; grown: string | undefined; kind: { custom?: true } } {
  const custom = objectIn(call, 'custom')
  if (custom !== undefined) return { name: textIn(custom, 'name') || undefined, grown: textIn(custom, 'input'), kind: { custom: true } }
  const called = objectIn(call, 'function') ?? {}
  const grown = called.arguments
  return {
    name: textIn(called, 'name') || undefined,
    // A server that parses them itself hands over an object.
    grown: isJson(grown) ? JSON.stringify(grown) : textIn(called, 'arguments'),
    kind: {},
  }
}

function usageOf(usage: Json): WireUsage | null {
  return asTold(() => {
    const promptTokens = countIn(usage, 'prompt_tokens')
    const completionTokens = countIn(usage, 'completion_tokens')
    if (promptTokens === undefined && completionTokens === undefined) return null
    const prompt = objectIn(usage, 'prompt_tokens_details') ?? {}
    const written = countIn(prompt, 'cache_write_tokens') ?? 0
    const cachedTokens = countIn(prompt, 'cached_tokens') ?? 0
    const reasoningTokens = countIn(objectIn(usage, 'completion_tokens_details') ?? {}, 'reasoning_tokens') ?? null
    const told = { promptTokens: promptTokens ?? 0, completionTokens: completionTokens ?? 0 }
    return {
      ...told,
      ...(promptTokens === undefined
        ? {}
        : { completionTokens: told.completionTokens + thoughtBeside(usage, told, cachedTokens + written, reasoningTokens) }),
      cachedTokens,
      reasoningTokens,
      ...(written === 0 ? {} : { cacheWriteTokens: written }),
    }
  })
}

/** Some count the thinking, which is paid for like the rest, in the total alone. */
function thoughtBeside(
  usage: Json,
  told: { promptTokens: number; completionTokens: number },
  cached: number,
  reasoning: number | null,
): number {
  const total = asTold(() => countIn(usage, 'total_tokens')) ?? 0
  // What is in none of the two may be the cache's as well.
  const besideBoth = total - told.promptTokens - told.completionTokens - (cached > told.promptTokens ? cached : 0)
  return Math.max(0, Math.min(besideBoth, reasoning ?? besideBoth))
}

/** Of chat completions, which list an object for each token, or of completions, which list each property. */
function logprobsOf(logprobs: Json): TokenLogprob[] {
  const content = listIn(logprobs, 'content')
  if (content !== undefined)
    return content.map((entry) => {
      if (!isJson(entry)) throw new Malformed('an entry of logprobs is not an object')
      return { ...logprobOf(entry), top_logprobs: (listIn(entry, 'top_logprobs') ?? []).filter(isJson).map(logprobOf) }
    })
  const chosen = listIn(logprobs, 'token_logprobs') ?? []
  const alternatives = listIn(logprobs, 'top_logprobs') ?? []
  return (listIn(logprobs, 'tokens') ?? []).map((token, position) => ({
    ...logprobOf({ token, logprob: chosen[position] }),
    top_logprobs: Object.entries(isJson(alternatives[position]) ? alternatives[position] : {}).map(([token, logprob]) =>
      logprobOf({ token, logprob }),
    ),
  }))
}

function logprobOf(entry: Json): Omit<TokenLogprob, 'top_logprobs'> {
  const { token, logprob, bytes } = entry
  if (typeof token !== 'string') throw new Malformed('a token of logprobs is not a text')
  return {
    token,
    // The first token of a prompt has none, and JSON has no word for minus infinity.
    logprob: typeof logprob === 'number' ? logprob : LEAST_LOGPROB,
    bytes: Array.isArray(bytes) && bytes.every((byte) => typeof byte === 'number') ? bytes : null,
  }
}

const LEAST_LOGPROB = -9999
