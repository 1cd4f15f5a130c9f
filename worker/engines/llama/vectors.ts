import type { GenerationRequest } from '../../../proto/request.ts'
import type { GenerationEnd, GenerationFailure } from '../engine.ts'
import type { GenerationNews } from './protocol.ts'

/** A model that turns texts into vectors, or pairs of a query and a document into scores. */
export type VectorModel = {
  contextTokens: number
  /** Length of its vectors; 0 where it makes scores. */
  dimensions: number
  /** It was trained so that the beginning of a vector is a vector too. */
  shortens: boolean
} & (
  | { purpose: 'embed'; lengthOf: (text: string) => number; embed: (text: string) => Promise<readonly number[]> }
  | { purpose: 'rank'; lengthOf: (query: string, document: string) => number; rank: (query: string, document: string) => Promise<number> }
)

/**
 * Answers requests of many inputs one input at a time, in turns, so that a long list does not keep a short one waiting.
 * The whole answer is one piece of text, told with its end: a list of vectors as base64 of little-endian 32-bit
 * floats, or of scores from 0 to 1, in the order of the inputs.
 */
export class VectorQueue {
  readonly #model: VectorModel
  readonly #tell: (news: GenerationNews[]) => void
  readonly #jobs: VectorJob[] = []
  #running = false

  constructor(model: VectorModel, tell: (news: GenerationNews[]) => void) {
    this.#model = model
    this.#tell = tell
  }

  /** `told`: the answer was delivered by an attempt before this one, which only its end was missing from. */
  start(id: number, { prompt }: GenerationRequest, told: boolean): void {
    const failed = this.#refusal(prompt)
    if (failed !== undefined) return this.#tell([{ id, failed }])
    this.#jobs.push({
      id,
      prompt: prompt as VectorPrompt,
      told,
      next: 0,
      promptTokens: 0,
      results: [],
      cancelled: false,
      progressMs: performance.now(),
    })
    if (!this.#running) void this.#run()
  }

  cancel(id: number): void {
    const place = this.#jobs.findIndex((one) => one.id === id)
    const job = this.#jobs[place]
    if (job === undefined) return
    job.cancelled = true
    // The first is being computed; the others would give their slots back only when their turn comes.
    if (place === 0) return
    this.#jobs.splice(place, 1)
    this.#end(job, { finished: finishedAs('cancelled', job.promptTokens) })
  }

  #refusal(prompt: GenerationRequest['prompt']): GenerationFailure | undefined {
    const { purpose, dimensions, shortens } = this.#model
    if (prompt.kind !== purpose) {
      const does = purpose === 'embed' ? 'makes embeddings' : 'ranks documents'
      return ingress('wrong_kind_of_model', `this model ${does} and nothing else: name another one for this request`)
    }
    if (prompt.kind !== 'embed' || prompt.dimensions === undefined || prompt.dimensions === dimensions) return undefined
    if (prompt.dimensions > dimensions || prompt.dimensions < 1)
      return ingress(
        'unsupported_dimensions',
        `dimensions is ${prompt.dimensions} and the model's vectors have ${dimensions}: ask for fewer`,
      )
    if (shortens) return undefined
    const message =
      `dimensions is ${prompt.dimensions}, but the model's vectors of ${dimensions} are not known to mean anything when cut: ` +
      'leave dimensions out, or serve the model with matryoshka=true if it was trained for that'
    return ingress('unsupported_dimensions', message)
  }

  async #run(): Promise<void> {
    this.#running = true
    for (let job = this.#jobs[0]; job !== undefined; job = this.#jobs[0]) {
      await this.#advance(job)
      // The others' turn.
      this.#jobs.shift()
      if (!this.#hasEnded(job)) this.#jobs.push(job)
    }
    this.#running = false
  }

  #hasEnded(job: VectorJob): boolean {
    return job.next === Number.POSITIVE_INFINITY
  }

  async #advance(job: VectorJob): Promise<void> {
    if (job.cancelled) return this.#end(job, { finished: finishedAs('cancelled', job.promptTokens) })
    try {
      const failed = await this.#compute(job)
      // The others' turns come first: whoever left would hold a slot for as long as they take.
      if (job.cancelled) this.#end(job, { finished: finishedAs('cancelled', job.promptTokens) })
      else if (failed !== undefined) this.#end(job, { failed })
      else if (job.next === inputsOf(job.prompt).length) this.#finish(job)
      else this.#tellProgress(job)
    } catch (error) {
      const message = `the model could not compute input ${job.next}: ${(error as Error).message}`
      this.#end(job, { failed: { layer: 'model', code: 'computation_failed', message, retryable: true } })
    }
  }

  /** A long list that gets on is no stall: how many of its inputs are done stands for how far a prompt is. */
  #tellProgress(job: VectorJob): void {
    const nowMs = performance.now()
    if (nowMs - job.progressMs < PROGRESS_EVERY_MS) return
    job.progressMs = nowMs
    this.#tell([{ id: job.id, prefilled: { processed: job.next, total: inputsOf(job.prompt).length } }])
  }

  async #compute(job: VectorJob): Promise<GenerationFailure | undefined> {
    const { prompt } = job
    const model = this.#model
    const input = inputsOf(prompt)[job.next] ?? ''
    const bytes = Buffer.byteLength(input) + (prompt.kind === 'rank' ? Buffer.byteLength(prompt.query) : 0)
    // Cutting a book into tokens takes seconds in which nobody is answered.
    if (bytes > model.contextTokens * TOKEN_BYTES_MAX) {
      const message = `input ${job.next} has ${bytes} bytes and the model's context holds ${model.contextTokens} tokens: shorten it`
      return ingress('context_length_exceeded', message)
    }
    const tokens = prompt.kind === 'rank' && model.purpose === 'rank' ? model.lengthOf(prompt.query, input) : lengthOf(model, input)
    if (tokens === 0) return ingress('empty_prompt', `input ${job.next} has no tokens: send some text`)
    if (tokens >= model.contextTokens) {
      const message = `input ${job.next} has ${tokens} tokens and the model's context holds fewer than ${model.contextTokens}: shorten it, or serve the model with a larger context`
      return ingress('context_length_exceeded', message)
    }
    job.promptTokens += tokens
    if (prompt.kind === 'rank' && model.purpose === 'rank') job.results.push(await model.rank(prompt.query, input))
    else if (prompt.kind === 'embed' && model.purpose === 'embed')
      job.results.push(base64(normalised((await model.embed(input)).slice(0, prompt.dimensions ?? model.dimensions))))
    job.next += 1
    return undefined
  }

  #finish(job: VectorJob): void {
    const news: Omit<GenerationNews, 'id'> = { finished: finishedAs('stop', job.promptTokens) }
    news.accepted = { promptTokens: job.promptTokens, cachedTokens: 0 }
    if (!job.told) news.tokens = { ids: [0], text: JSON.stringify(job.results) }
    this.#end(job, news)
  }

  #end(job: VectorJob, news: Omit<GenerationNews, 'id'>): void {
    job.next = Number.POSITIVE_INFINITY
    this.#tell([{ id: job.id, ...news }])
  }
}

const PROGRESS_EVERY_MS = 250
// Far beyond what a token stands for in any text.
const TOKEN_BYTES_MAX = 256

type VectorPrompt = Extract<GenerationRequest['prompt'], { kind: 'embed' | 'rank' }>

type VectorJob = {
  id: number
  prompt: VectorPrompt
  told: boolean
  /** When its progress was told last. */
  progressMs: number
  /** The next input; infinite when the job has ended. */
  next: number
  promptTokens: number
  results: (string | number)[]
  cancelled: boolean
}

function inputsOf(prompt: VectorPrompt): readonly string[] {
  return prompt.kind === 'embed' ? prompt.inputs : prompt.documents
}

function lengthOf(model: VectorModel, input: string): number {
  return model.purpose === 'embed' ? model.lengthOf(input) : 0
}

function finishedAs(reason: 'stop' | 'cancelled', promptTokens: number): GenerationEnd {
  return { reason, text: '', promptTokens, completionTokens: 0, cachedTokens: 0 }
}

function ingress(code: string, message: string): GenerationFailure {
  return { layer: 'ingress', code, message, retryable: false }
}

/** As long as 1, so that the product of two vectors is their likeness. */
function normalised(vector: readonly number[]): readonly number[] {
  const length = Math.hypot(...vector)
  return length === 0 ? vector : vector.map((value) => value / length)
}

function base64(vector: readonly number[]): string {
  const bytes = Buffer.alloc(vector.length * 4)
  for (const [place, value] of vector.entries()) bytes.writeFloatLE(value, place * 4)
  return bytes.toString('base64')
}

/** Families that were trained for vectors of several lengths, by the name in their file. */
const SHORTENING =
  /qwen3[- ]?embedding|embedding[- ]?gemma|nomic[- ]embed[- ]text[- ]v(1\.5|2)|mxbai[- ]embed[- ]large|snowflake[- ]arctic[- ]embed.*(v1\.5|v2)|jina[- ]embeddings[- ]v[345]/i

export function isKnownToShorten(name: string): boolean {
  return SHORTENING.test(name)
}
