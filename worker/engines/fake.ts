import { hash } from 'node:crypto'
import { ABILITIES, type Ability } from '../../proto/abilities.ts'
import type { FinishReason } from '../../proto/answer.ts'
import { FleetingMap } from '../../proto/fleeting-map.ts'
import { type GenerationRequest, textsOf } from '../../proto/request.ts'
import type { Engine, EngineState, Generation, GenerationSink, StateListener } from './engine.ts'
import { type Piece, type Script, scriptOf } from './fake/script.ts'
import { judgeOf, Reading, schemaMismatch, unsupportedSchema } from './llama/constraint.ts'
import { UnsupportedSchema } from './llama/schema-grammar.ts'
import { StopMatcher } from './text.ts'

/**
 * An engine without a model, for trying and measuring everything around one. Its answer is a pure function of model name,
 * request, seed and position (at temperature 0 the seed does not count, as for a real model, and neither does one that nobody asked for), one word per token, paced
 * like a real one. It plays whatever a request can ask for: reasoning, tool calls, documents of a schema, vectors. Words in the prompt bring on the faults a real one has: its process dies, it falls silent, it fails.
 */
export function openFakeEngine(options: FakeOptions, onState: StateListener): Engine {
  return new FakeEngine(options, onState)
}

export type FakeOptions = {
  name: string
  slots: number
  /** 0 = no limit. */
  contextTokens: number
  /** What it says that its file is. */
  sha256?: string
  /** Tokens a second per slot; 0 = as fast as possible. */
  rate: number
  firstTokenMs: number
  crashOn?: string
  stallOn?: string
  failOn?: string
  /** What it is to be unable of; a model is rarely able of everything. */
  without?: readonly Ability[]
}

class FakeEngine implements Engine {
  readonly #options: FakeOptions
  readonly #onState: StateListener
  readonly #abilities: readonly Ability[]
  readonly #sha256: string
  readonly #running = new FleetingMap<string, FakeGeneration>()
  #begun = 0
  #phase: EngineState['phase'] = 'ready'
  #detail = ''
  #restarts = 0
  #restart: NodeJS.Timeout | undefined

  constructor(options: FakeOptions, onState: StateListener) {
    this.#options = options
    this.#onState = onState
    const { name, sha256 = hash('sha256', `fake:${name}`), without = [] } = options
    this.#sha256 = sha256
    this.#abilities = ABILITIES.filter((ability) => !ability.endsWith('_dialect') && !without.includes(ability))
  }

  state(): EngineState {
    return {
      phase: this.#phase,
      detail: this.#detail,
      slots: this.#phase === 'ready' ? this.#options.slots : 0,
      contextTokens: this.#options.contextTokens,
      maxTokenBytes: 0,
      sha256: this.#sha256,
      sizeBytes: 0,
      restarts: this.#restarts,
      abilities: this.#abilities,
    }
  }

  generate(_key: string, request: GenerationRequest, continuation: readonly number[], sink: GenerationSink): Generation {
    const name = String(this.#begun++)
    const generation = new FakeGeneration(this.#options, request, continuation, sink, () => this.#running.delete(name))
    this.#running.set(name, generation)
    const judges = judgesFor(request)
    const prompt = promptText(request)
    // A real engine answers later too: the caller has its handle before the first word.
    setImmediate(() => {
      if (says(prompt, this.#options.crashOn)) this.#crash()
      else if (says(prompt, this.#options.failOn))
        generation.fail({ layer: 'model', code: 'generation_failed', message: 'The fake engine was told to fail.', retryable: false })
      else if (judges instanceof UnsupportedSchema) generation.fail(unsupportedSchema(judges))
      else generation.begin(says(prompt, this.#options.stallOn), judges)
    })
    return generation
  }

  async close(): Promise<void> {
    clearTimeout(this.#restart)
    this.#phase = 'down'
    this.#failAll('engine_closed', 'The engine was closed.')
  }

  #crash(): void {
    if (this.#phase !== 'ready') return
    this.#phase = 'down'
    this.#restarts += 1
    const delayMs = Math.min(5_000, 250 * 2 ** Math.min(this.#restarts - 1, 5))
    this.#detail = `restarts in ${delayMs} ms: the fake process died`
    this.#failAll('model_process_died', 'The process of the model died.')
    this.#onState()
    this.#restart = setTimeout(() => {
      this.#phase = 'ready'
      this.#detail = ''
      this.#onState()
    }, delayMs)
  }

  #failAll(code: string, message: string): void {
    for (const generation of [...this.#running.values()]) generation.fail({ layer: 'model', code, message, retryable: true })
  }
}

class FakeGeneration implements Generation {
  readonly #options: FakeOptions
  readonly #sink: GenerationSink
  readonly #onEnd: () => void
  readonly #minTokens: number
  readonly #stops: StopMatcher
  readonly #promptTokens: number
  readonly #limit: number
  readonly #script: Script
  #position = 0
  #firstDueMs = 0
  #forced: number
  #judges = NO_JUDGES
  #ended = false
  #timer: NodeJS.Timeout | undefined
  #turn: NodeJS.Immediate | undefined

  constructor(options: FakeOptions, request: GenerationRequest, continuation: readonly number[], sink: GenerationSink, onEnd: () => void) {
    this.#options = options
    this.#sink = sink
    this.#onEnd = onEnd
    this.#forced = continuation.length
    this.#minTokens = request.minTokens ?? 0
    this.#stops = new StopMatcher(request.stop)
    this.#promptTokens = countWords(promptText(request))
    this.#script = scriptOf(options.name, request)
    const { length, reasoningTokens } = this.#script
    // Words would go on for ever; whatever has an end of its own comes to it.
    const enough = Number.isFinite(length) ? length : reasoningTokens + Math.max(DEFAULT_TOKENS, request.minTokens ?? 0)
    this.#limit = Math.min(
      request.maxTokens ?? enough,
      options.contextTokens === 0 ? Number.POSITIVE_INFINITY : options.contextTokens - this.#promptTokens,
    )
  }

  begin(stalled: boolean, judges: Judges): void {
    if (this.#ended) return
    this.#judges = judges
    const { contextTokens } = this.#options
    if (contextTokens > 0 && this.#promptTokens >= contextTokens) {
      this.fail({
        layer: 'ingress',
        code: 'context_length_exceeded',
        message: `The prompt has ${this.#promptTokens} tokens, the context of the model ${contextTokens}.`,
        retryable: false,
      })
      return
    }
    this.#sink.accepted(this.#promptTokens, 0)
    if (stalled) return
    while (this.#position < this.#forced && this.#stops.matched === undefined) this.#next()
    this.#firstDueMs = performance.now() + this.#options.firstTokenMs
    this.#prefill()
  }

  /** Passes the time before the first token in steps, as a model that computes a long prompt in shares. */
  #prefill(): void {
    const { firstTokenMs } = this.#options
    const leftMs = this.#firstDueMs - performance.now()
    const stepMs = Math.max(PREFILL_STEP_MS_MIN, firstTokenMs / PREFILL_STEPS)
    if (leftMs <= stepMs) {
      this.#later(leftMs)
      return
    }
    this.#timer = setTimeout(() => {
      const passed = 1 - (this.#firstDueMs - performance.now()) / firstTokenMs
      this.#sink.prefilled?.(Math.floor(this.#promptTokens * Math.min(1, passed)), this.#promptTokens)
      this.#prefill()
    }, stepMs)
  }

  cancel(): void {
    if (!this.#ended) setImmediate(() => this.#end('cancelled'))
  }

  fail(failure: Parameters<GenerationSink['failed']>[0]): void {
    if (this.#ended) return
    this.#close()
    this.#sink.failed(failure)
  }

  #later(ms: number): void {
    if (ms < 1) this.#turn = setImmediate(() => this.#produce())
    else this.#timer = setTimeout(() => this.#produce(), ms)
  }

  #produce(): void {
    if (this.#ended) return
    const { rate } = this.#options
    const passedMs = performance.now() - this.#firstDueMs
    const due = rate === 0 ? this.#position + BURST : this.#forced + 1 + Math.floor((passedMs * rate) / 1000)
    if (this.#script.plain) this.#releaseWords(due)
    else this.#releasePieces(due)
    if (this.#stops.matched !== undefined) this.#end('stop')
    else if (this.#position >= this.#script.length) this.#end(this.#script.ending)
    else if (this.#position >= this.#limit) this.#end('length')
    else this.#later(rate === 0 ? 0 : Math.max(1, ((this.#position - this.#forced) * 1000) / rate - passedMs))
  }

  #releaseWords(due: number): void {
    const ids: number[] = []
    let text = ''
    while (this.#mayGoOn(due)) {
      ids.push(this.#position)
      text += this.#next().text
    }
    if (ids.length > 0) this.#sink.tokens(ids, text)
  }

  /** One token a call, so that what it releases stands with it. */
  #releasePieces(due: number): void {
    while (this.#mayGoOn(due)) {
      const id = this.#position
      const { text, delta } = this.#next()
      this.#sink.tokens([id], text, delta)
    }
  }

  #mayGoOn(due: number): boolean {
    return this.#position < Math.min(due, this.#limit, this.#script.length) && this.#stops.matched === undefined
  }

  #next(): Piece {
    const piece = this.#script.piece(this.#position)
    this.#position += 1
    return piece.text === '' ? piece : { ...piece, text: this.#stops.feed(piece.text, this.#position > this.#minTokens) }
  }

  #end(reason: FinishReason): void {
    if (this.#ended) return
    const fault = this.#faultOf(reason)
    // It would say the same again.
    if (fault !== undefined) return this.fail(schemaMismatch(fault, false))
    this.#close()
    this.#sink.finished({
      reason,
      text: this.#stops.end(),
      promptTokens: this.#promptTokens,
      completionTokens: this.#script.says ? Math.max(this.#position, this.#forced) : 0,
      cachedTokens: 0,
      reasoningTokens: Math.min(this.#position, this.#script.reasoningTokens),
      ...this.#matchedStop(),
    })
  }

  #faultOf(reason: FinishReason): string | undefined {
    if (this.#judges.size === 0 || this.#stops.matched !== undefined) return undefined
    const pieces = Array.from({ length: this.#position }, (_, position) => this.#script.piece(position))
    if (reason === 'stop') return this.#judges.get(null)?.(pieces.map(({ text }) => text).join(''))
    if (reason !== 'tool_calls') return undefined
    const calls: { name: string; given: string }[] = []
    for (const { index, name, arguments: given } of pieces.flatMap(({ delta }) => delta?.toolCalls ?? [])) {
      const call = (calls[index] ??= { name: name ?? '', given: '' })
      call.given += given ?? ''
    }
    for (const { name, given } of calls) {
      const fault = this.#judges.get(name)?.(given)
      if (fault !== undefined) return `the arguments for ${name}: ${fault}`
    }
    return undefined
  }

  /** The stop string that was complete first. */
  #matchedStop(): { stopSequence?: string } {
    const stopSequence = this.#stops.matched
    return stopSequence === undefined ? {} : { stopSequence }
  }

  #close(): void {
    this.#ended = true
    clearTimeout(this.#timer)
    clearImmediate(this.#turn)
    this.#onEnd()
  }
}

/** What is wrong with the arguments of a call of that name; with the text, by null. */
type Judges = Map<string | null, (text: string) => string | undefined>

/** As of a real model: a schema that cannot be judged by is refused, and only tools that are strict are judged. */
function judgesFor({ format, tools = [] }: GenerationRequest): Judges | UnsupportedSchema {
  if (format === undefined && tools.length === 0) return NO_JUDGES
  const judges: Judges = new Map()
  const reading = new Reading()
  try {
    if (format?.kind === 'schema') judges.set(null, judgeOf(format.schema, reading))
    for (const { name, parameters, strict } of tools)
      if (strict === true && parameters !== undefined) judges.set(name, judgeOf(parameters, reading))
    return judges
  } catch (error) {
    if (error instanceof UnsupportedSchema) return error
    throw error
  }
}

const NO_JUDGES: Judges = new Map()
const DEFAULT_TOKENS = 16
const PREFILL_STEPS = 4
const PREFILL_STEP_MS_MIN = 250
// Tokens of one turn of the event loop at full speed: enough to be fast, few enough that 64 streams take turns.
const BURST = 16

function promptText(request: GenerationRequest): string {
  return textsOf(request.prompt).join('\n')
}

function countWords(text: string): number {
  return Math.max(1, text.match(/\S+/g)?.length ?? 0)
}

function says(prompt: string, word: string | undefined): boolean {
  return word !== undefined && word !== '' && prompt.includes(word)
}
