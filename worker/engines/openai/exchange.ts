import type { FinishReason } from '../../../proto/answer.ts'
import { OpenAiReader } from '../../../proto/openai-wire-answer.ts'
import { OPENAI_PATHS, openAiBody } from '../../../proto/openai-wire-request.ts'
import { type GenerationRequest, textsOf } from '../../../proto/request.ts'
import { SseReader } from '../../../proto/sse.ts'
import { isJson, type Json, UNTOLD_TOKEN, type WireFailure, type WirePiece } from '../../../proto/wire.ts'
import { numbersOf } from '../../../proto/wire-numbers.ts'
import type { Generation, GenerationFailure, GenerationSink } from '../engine.ts'
import { failureOfCall, failureOfStatus, failureOfWire } from './failures.ts'
import { bodyOf, callHttp, type HttpAnswer } from './http-call.ts'
import { parsed, type ServerFacts, type Upstream } from './server.ts'

/** The engine learns from every call how the server is, but not from one that was cancelled. */
export type ExchangeListener = { ended(end: ExchangeEnd): void }
export type ExchangeEnd = 'answered' | 'cancelled' | GenerationFailure

type Verdict = { finish: FinishReason } | { fail: GenerationFailure }

/** One request to the server and its answer. Cancelling closes the connection, by which the server knows. */
export class Exchange implements Generation {
  readonly #upstream: Upstream
  readonly #facts: ServerFacts
  readonly #request: GenerationRequest
  readonly #sink: GenerationSink
  readonly #listener: ExchangeListener
  readonly #abort = new AbortController()
  readonly #reader = new OpenAiReader()
  #verdict: Verdict | undefined
  #pieces = 0
  #bytes = 0
  /** Tokens of texts that were embedded or ranked, if the server tells. */
  #readTokens: number | null = null

  constructor(upstream: Upstream, facts: ServerFacts, request: GenerationRequest, sink: GenerationSink, listener: ExchangeListener) {
    this.#upstream = upstream
    this.#facts = facts
    this.#request = request
    this.#sink = sink
    this.#listener = listener
    setImmediate(() => void this.#run())
  }

  cancel(): void {
    this.#decide({ finish: 'cancelled' })
  }

  fail(failure: GenerationFailure): void {
    this.#decide({ fail: failure })
  }

  async #run(): Promise<void> {
    let answer: HttpAnswer | undefined
    try {
      if (this.#verdict === undefined) {
        answer = await this.#ask()
        await this.#read(answer)
      }
    } catch (error) {
      const { end } = this.#reader
      // Before the head there was no connection; after it there is one no more, which takes nothing from an answer that is whole.
      this.#decide(end !== null ? { finish: end.finishReason } : { fail: failureOfCall(this.#upstream, error, answer !== undefined) })
    }
    const verdict = this.#verdict ?? { fail: failureOfCall(this.#upstream, new Error('it ended before the end of its answer'), true) }
    this.#abort.abort()
    if ('fail' in verdict) this.#sink.failed(verdict.fail)
    else this.#finish(verdict.finish)
    this.#listener.ended('fail' in verdict ? verdict.fail : verdict.finish === 'cancelled' ? 'cancelled' : 'answered')
  }

  #ask(): Promise<HttpAnswer> {
    const { prompt } = this.#request
    const { baseUrl, key } = this.#upstream
    // Whether the caller chose the seed is not known here; sending one that Holdfast chose does no harm.
    const body = openAiBody(this.#request, this.#facts.model, this.#streams, { seedGiven: true, extended: true })
    return callHttp({
      method: 'POST',
      url: baseUrl + OPENAI_PATHS[prompt.kind],
      body: this.#facts.kind === 'llama-server' ? inWordsOfLlama(body) : body,
      signal: this.#abort.signal,
      ...(key === undefined ? {} : { key }),
    })
  }

  get #streams(): boolean {
    return this.#request.prompt.kind === 'chat' || this.#request.prompt.kind === 'text'
  }

  async #read(answer: HttpAnswer): Promise<void> {
    const status = answer.statusCode ?? 0
    if (status !== 200) {
      const text = (await bodyOf(answer, ERROR_BYTES_MAX)) ?? ''
      this.#decide({ fail: failureOfStatus(this.#upstream, status, text, answer.headers['retry-after'], Date.now()) })
      return
    }
    this.#sink.accepted(this.#promptTokens, 0)
    if (answer.headers['content-type']?.includes('text/event-stream') === true) await this.#readStream(answer)
    else await this.#readWhole(answer)
  }

  async #readStream(answer: HttpAnswer): Promise<void> {
    const events = new SseReader()
    for await (const bytes of answer as AsyncIterable<Buffer>) {
      this.#bytes += bytes.length
      if (this.#bytes > ANSWER_BYTES_MAX) this.#tooLarge()
      for (const event of events.push(bytes)) this.#take(event.kind === 'event' ? this.#reader.readData(event.data) : event)
      // Leaving the loop closes the connection.
      if (this.#verdict !== undefined || this.#reader.done) break
    }
    const { end } = this.#reader
    if (end !== null) this.#decide({ finish: end.finishReason })
  }

  /** Of a server that does not stream, or a kind of request that has no stream. */
  async #readWhole(answer: HttpAnswer): Promise<void> {
    const text = await bodyOf(answer, ANSWER_BYTES_MAX)
    if (text === undefined) return this.#tooLarge()
    const body = parsed(text)
    if (this.#streams) {
      this.#take(this.#reader.read(body))
      if (this.#reader.end !== null) this.#decide({ finish: this.#reader.end.finishReason })
      return
    }
    const read = numbersOf(body, this.#request.prompt)
    if (read.kind === 'failure') return this.#take(read)
    this.#readTokens = read.promptTokens
    this.#take({ kind: 'piece', text: read.text })
    this.#decide({ finish: 'stop' })
  }

  #take(read: WirePiece | WireFailure | null): void {
    if (read === null || this.#verdict !== undefined) return
    if (read.kind === 'failure') this.#decide({ fail: failureOfWire(this.#upstream, read, Date.now()) })
    else {
      this.#pieces += 1
      this.#sink.tokens([UNTOLD_TOKEN], read.text, read.delta)
    }
  }

  #tooLarge(): void {
    const message = `The answer of ${this.#upstream.baseUrl} is longer than ${ANSWER_BYTES_MAX} bytes.`
    this.#decide({ fail: { layer: 'provider', code: 'upstream_answer_too_large', message, retryable: false } })
  }

  /** The first verdict counts, and nothing is read after it. */
  #decide(verdict: Verdict): void {
    if (this.#verdict !== undefined) return
    this.#verdict = verdict
    if (!('finish' in verdict) || verdict.finish === 'cancelled') this.#abort.abort()
  }

  #finish(reason: FinishReason): void {
    const { stopSequence, usage } = this.#reader.end ?? { usage: null }
    this.#sink.finished({
      reason,
      text: '',
      // Where the server tells no usage, four bytes of the prompt and one piece of the answer are taken for a token.
      promptTokens: usage?.promptTokens ?? this.#readTokens ?? this.#promptTokens,
      completionTokens: usage?.completionTokens ?? (this.#streams ? this.#pieces : 0),
      cachedTokens: usage?.cachedTokens ?? 0,
      ...(stopSequence === undefined ? {} : { stopSequence }),
      ...(usage?.reasoningTokens ? { reasoningTokens: usage.reasoningTokens } : {}),
    })
  }

  get #promptTokens(): number {
    return Math.ceil(textsOf(this.#request.prompt).reduce((sum, text) => sum + Buffer.byteLength(text), 0) / 4)
  }
}

const ERROR_BYTES_MAX = 64 * 1024
const ANSWER_BYTES_MAX = 256 * 1024 * 1024

/**
 * llama-server has its own name for one parameter and would leave the usual one out in silence, and it can be told to call
 * a tool, but not which: so it is offered that one only.
 */
function inWordsOfLlama({ repetition_penalty: penalty, tool_choice: choice, tools, ...rest }: Json): Json {
  const named = isJson(choice) && isJson(choice.function) ? choice.function.name : undefined
  const isNamed = (tool: unknown): boolean => isJson(tool) && isJson(tool.function) && tool.function.name === named
  return {
    ...rest,
    ...(penalty === undefined ? {} : { repeat_penalty: penalty }),
    ...(tools === undefined ? {} : { tools: named === undefined || !Array.isArray(tools) ? tools : tools.filter(isNamed) }),
    ...(choice === undefined ? {} : { tool_choice: named === undefined ? choice : 'required' }),
  }
}
