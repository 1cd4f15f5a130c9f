import { rmSync } from 'node:fs'
import {
  type ChatHistoryItem,
  type ControlledEvaluateInputItem,
  getLlama,
  InsufficientMemoryError,
  type Llama,
  type LlamaContext,
  type LlamaContextSequence,
  LlamaGrammar,
  LlamaGrammarEvaluationState,
  LlamaLogLevel,
  type LlamaModel,
  LlamaText,
  resolveChatWrapper,
  type SequenceEvaluateOptions,
  SpecialTokensText,
  type Token,
  TokenBias,
} from 'node-llama-cpp'
import { textsOf } from '../../proto/request.ts'
import { expectedAbilities, generationAbilities } from './llama/abilities.ts'
import { thinks } from './llama/answer-plan.ts'
import { biasKeeper, latestTokens } from './llama/biases.ts'
import { ChatTemplate, type ChatWish } from './llama/chat-template.ts'
import { describedTools, type PlainMessage } from './llama/described-tools.ts'
import { flashAttention, mayHaveGpu, sizeOfModel, smallerContext } from './llama/fit.ts'
import { type PromptReader, type ReadyModel, takeIn } from './llama/intake.ts'
import { Lockstep } from './llama/lockstep.ts'
import { BATCH_TOKENS } from './llama/pace.ts'
import { PrefixStore } from './llama/prefixes.ts'
import type { FromProcess, LogLevel, ModelFacts, ModelSettings, ToProcess } from './llama/protocol.ts'
import { addProbabilities, takeSamplingTrouble } from './llama/native-probabilities.ts'
import { type Choice, type Drawn, type GrammarState, NoTokenLeft, type Sequence, type TokenSource } from './llama/sequence.ts'
import { Speculation } from './llama/speculation.ts'
import { CALL_FORMS } from './llama/tool-calls.ts'
import { isKnownToShorten, type VectorModel, VectorQueue } from './llama/vectors.ts'
import { bytesOfTokens, mostBytes } from './llama/vocabulary.ts'

/**
 * The process that holds one model, started by `llama.ts`: an out-of-memory abort of a GPU ends this process and not the
 * worker. It lives exactly as long as its worker wants it, and nothing of it stays when the worker is gone.
 */
const folders: string[] = []
// A Ctrl-C in a terminal reaches this process too; whether running answers may finish is the worker's decision.
process.on('SIGINT', () => {})
process.on('SIGTERM', () => {})
process.on('disconnect', vanish)
process.once('message', (message: ToProcess) => {
  if (message.kind === 'open') serve(message.settings).catch(giveUp)
})
process.on('message', (message: ToProcess) => {
  if (message.kind === 'ask') tell({ kind: 'alive' })
})

/** Ends at once, even while a batch is being computed on another thread: an orderly exit would wait for it or crash in it. */
function vanish(): void {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true })
  process.kill(process.pid, 'SIGKILL')
}

function giveUp(error: Error): void {
  tell({ kind: 'unloadable', message: error.message })
  process.disconnect()
}

function tell(message: FromProcess): void {
  process.send?.(message)
}

async function serve(settings: ModelSettings): Promise<void> {
  folders.push(settings.prefixFolder)
  if (settings.purpose !== 'generate') return serveVectors(await openVectorModel(settings, settings.purpose))
  const opened = await openModel(settings)
  const lockstep = new Lockstep({
    sequences: opened.sequences,
    prefixes: new PrefixStore(settings.prefixFolder, settings.prefixBytesMax),
    tell: (news) => tell({ kind: 'news', news }),
    warn: (message) => tell({ kind: 'log', level: 'warn', message }),
    now: () => performance.now(),
    speculation: opened.speculates ? new Speculation() : undefined,
  })
  process.on('message', (message: ToProcess) => {
    if (message.kind === 'start') start(message, opened, lockstep)
    else if (message.kind === 'cancel') lockstep.cancel(message.id)
  })
  tell({ kind: 'ready', model: opened.facts })
  await lockstep.run()
}

/** Only its messages keep it alive from here on. */
function serveVectors({ facts, model }: OpenedVectorModel): void {
  const queue = new VectorQueue(model, (news) => tell({ kind: 'news', news }))
  process.on('message', (message: ToProcess) => {
    if (message.kind === 'start') queue.start(message.id, message.request, message.continuation.length > 0)
    else if (message.kind === 'cancel') queue.cancel(message.id)
  })
  tell({ kind: 'ready', model: facts })
}

type OpenedVectorModel = { facts: ModelFacts; model: VectorModel }

type OpenedModel = ReadyModel & { sequences: readonly Sequence[]; speculates: boolean }

function start(message: Extract<ToProcess, { kind: 'start' }>, model: OpenedModel, lockstep: Lockstep): void {
  const taken = takeIn(message, model)
  if ('code' in taken) tell({ kind: 'news', news: [{ id: message.id, failed: taken }] })
  else lockstep.start(taken)
}

/** Below this a second thread costs more than it computes (the built-in model with 4 threads on 2 cores: 4 tokens/s instead of 2,500). */
const SINGLE_THREAD_BYTES = 50e6

const SLOTS_DEFAULT = 4
const CONTEXT_TOKENS_DEFAULT = 4096

async function openModel(settings: ModelSettings): Promise<OpenedModel> {
  const { llama, model, threads, sizeBytes } = await openFile(settings)
  const contextTokens = settings.contextTokens ?? Math.min(CONTEXT_TOKENS_DEFAULT, model.trainContextSize)
  const context = await createContext(model, { slots: settings.slots ?? SLOTS_DEFAULT, contextTokens }, threads)
  const bytes = tokenBytes(model)
  const slots = context.totalSequences
  const template = readTemplate(model)
  const traits = { callForm: template?.callForm ?? CALL_FORMS.tagged, reasoning: template?.reasoning }
  const marks = marksOf(model, [traits.callForm.open, traits.callForm.close, traits.reasoning?.open, traits.reasoning?.close])
  const tellsProbabilities = addProbabilities(llama, model, context)
  const sequences = Array.from({ length: slots }, () => context.getSequence())
  const speculates = settings.speculation !== undefined && sequences.every(({ needsCheckpoints }) => !needsCheckpoints)
  if (settings.speculation !== undefined && !speculates) tell({ kind: 'log', level: 'warn', message: CANNOT_SPECULATE })
  return {
    facts: {
      slots,
      contextTokens: Math.min(contextTokens, context.contextSize),
      maxTokenBytes: mostBytes(bytes),
      sizeBytes,
      detail: detailOf(llama, model, threads) + (speculates ? ', guessing by lookup' : ''),
      abilities: generationAbilities({ reasons: traits.reasoning !== undefined, tellsProbabilities }),
    },
    sequences: sequences.map((sequence, id) => new ModelSequence(id, sequence, model)),
    speculates,
    vocabulary: {
      bytesOf: (token) => bytes[token] ?? NO_BYTES,
      markOf: (token) => marks.get(token),
      endsGeneration: (token) => model.isEogToken(token as Token),
      size: bytes.length,
    },
    traits,
    read: promptReader(model, template),
    makeGrammar: (grammar) => new ModelGrammar(llama, model, grammar),
    tokensOf: (text) => model.tokenize(text, true),
  }
}

const CANNOT_SPECULATE =
  'speculation=lookup does nothing for this model: its state cannot forget single tokens, so that a wrong guess would cost more than a right one saves'

async function openFile(settings: ModelSettings): Promise<{ llama: Llama; model: LlamaModel; threads: number; sizeBytes: number }> {
  const sizeBytes = sizeOfModel(settings.path)
  const gpu = settings.gpuLayers === 0 || !mayHaveGpu() ? false : 'auto'
  const llama = await getLlama({
    gpu,
    build: 'never',
    progressLogs: false,
    maxThreads: 0,
    logLevel: LlamaLogLevel.warn,
    logger: logOfLlama,
  })
  if (gpu === 'auto' && llama.gpu === false) tell({ kind: 'log', level: 'warn', message: NO_GPU_FOUND })
  const threads = settings.threads ?? (sizeBytes < SINGLE_THREAD_BYTES ? 1 : llama.cpuMathCores)
  return { llama, model: await loadModel(llama, settings), threads, sizeBytes }
}

// Otherwise a library that an image lacks shows in nothing but the speed.
const NO_GPU_FOUND =
  'it runs on the CPU: this host may have a GPU, but llama.cpp can use none. Its driver, or the libraries of Vulkan or CUDA, are not found here; ' +
  'gpu_layers=0 says that this is meant'

/** A batch of its own for every input: models that look at a text from both ends cannot read it in parts. */
async function openVectorModel(settings: ModelSettings, purpose: 'embed' | 'rank'): Promise<OpenedVectorModel> {
  const { llama, model, threads, sizeBytes } = await openFile(settings)
  const contextTokens = settings.contextTokens ?? Math.min(CONTEXT_TOKENS_DEFAULT, model.trainContextSize)
  const sizes = { contextSize: contextTokens, batchSize: contextTokens, threads }
  const vectors = purpose === 'embed' ? await embeddingModel(model, sizes, settings) : await rankingModel(model, sizes)
  return {
    facts: {
      slots: settings.slots ?? SLOTS_DEFAULT,
      contextTokens: vectors.contextTokens,
      maxTokenBytes: 0,
      sizeBytes,
      detail: detailOf(llama, model, threads),
      abilities: [...expectedAbilities(purpose)],
    },
    model: vectors,
  }
}

type VectorSizes = { contextSize: number; batchSize: number; threads: number }

async function embeddingModel(model: LlamaModel, sizes: VectorSizes, settings: ModelSettings): Promise<VectorModel> {
  const context = await model.createEmbeddingContext(sizes)
  const { general } = model.fileInfo.metadata
  return {
    purpose: 'embed',
    contextTokens: sizes.contextSize,
    dimensions: model.embeddingVectorSize,
    shortens: settings.matryoshka ?? isKnownToShorten(`${general.name ?? ''} ${general.basename ?? ''}`),
    lengthOf: (text) => context.calculateInputLength(text),
    embed: async (text) => (await context.getEmbeddingFor(text)).vector,
  }
}

async function rankingModel(model: LlamaModel, sizes: VectorSizes): Promise<VectorModel> {
  const context = await model.createRankingContext(sizes)
  return {
    purpose: 'rank',
    contextTokens: Math.min(sizes.contextSize, context.contextSize),
    dimensions: 0,
    shortens: false,
    lengthOf: (query, document) => context.calculateInputLength(query, document),
    rank: (query, document) => context.rank(query, document),
  }
}

async function loadModel(llama: Llama, { path, gpuLayers, slots, contextTokens }: ModelSettings): Promise<LlamaModel> {
  const cells = contextTokens === undefined ? undefined : contextTokens * (slots ?? SLOTS_DEFAULT)
  const fitting = cells === undefined ? ('auto' as const) : { fitContext: { contextSize: cells } }
  try {
    return await llama.loadModel({ modelPath: path, gpuLayers: gpuLayers ?? fitting, onLoadProgress: loadingReporter() })
  } catch (error) {
    if (error instanceof InsufficientMemoryError)
      throw new Error(
        `there is not enough memory for the model ${path} (${error.message}): free some, or choose a smaller quantisation or fewer GPU layers`,
        {
          cause: error,
        },
      )
    throw new Error(`${path} cannot be loaded as a GGUF model (${(error as Error).message}): check the file, it may be cut short`, {
      cause: error,
    })
  }
}

function loadingReporter(): (progress: number) => void {
  let told = 0
  let toldMs = performance.now()
  let seen = 0
  return (progress) => {
    const percent = Math.floor(progress * 100)
    // A large file on a slow disk gets on all the same.
    const isSlow = progress > seen && performance.now() - toldMs > LOADING_TOLD_EVERY_MS
    seen = progress
    if (percent < told + 10 && !isSlow) return
    told = percent
    toldMs = performance.now()
    tell({ kind: 'loading', percent })
  }
}

const LOADING_TOLD_EVERY_MS = 30_000

/** Where memory is short the model gets fewer slots, and then a smaller context, rather than none. */
async function createContext(model: LlamaModel, wish: { slots: number; contextTokens: number }, threads: number): Promise<LlamaContext> {
  try {
    return await model.createContext({
      sequences: wish.slots,
      contextSize: wish.contextTokens,
      batchSize: BATCH_TOKENS,
      threads,
      flashAttention: flashAttention(model.llama.gpu === false, model.fileInfo.architectureMetadata),
      swaFullCache: true,
      failedCreationRemedy: false,
    })
  } catch (error) {
    const less = smallerContext(wish)
    if (!isShortOfMemory(error)) throw error
    if (less === undefined)
      throw new Error(
        `not even ${wish.slots} slot of ${wish.contextTokens} tokens fits into memory: ${(error as Error).message}; set slots= or context= lower, or gpu_layers=`,
        { cause: error },
      )
    const message = `memory is short for ${wish.slots} slots of ${wish.contextTokens} tokens: trying ${less.slots} of ${less.contextTokens}`
    tell({ kind: 'log', level: 'warn', message })
    return createContext(model, less, threads)
  }
}

/** As it was estimated before, or, without more words, as llama.cpp found when it tried. */
function isShortOfMemory(error: unknown): boolean {
  return error instanceof InsufficientMemoryError || (error instanceof Error && error.message === 'Failed to create context')
}

function detailOf(llama: Llama, model: LlamaModel, threads: number): string {
  if (llama.gpu === false) return `on ${threads} CPU ${threads === 1 ? 'thread' : 'threads'}`
  return `on ${llama.gpu}, ${model.gpuLayers} layers in GPU memory`
}

function logOfLlama(level: LlamaLogLevel, message: string): void {
  tell({ kind: 'log', level: LOG_LEVELS[level] ?? 'debug', message: message.trim() })
}

/** llama.cpp warns about many things that are as they should be; nothing it can go on after is news for an operator. */
const LOG_LEVELS: Partial<Record<LlamaLogLevel, LogLevel>> = { fatal: 'error', error: 'warn', warn: 'debug' }

const NO_BYTES = new Uint8Array()

function tokenBytes(model: LlamaModel): Uint8Array[] {
  const { model: kind, tokens, token_type: types } = model.fileInfo.metadata.tokenizer.ggml
  const known = bytesOfTokens({ model: kind, tokens, types })
  if (known !== undefined) return known
  tell({ kind: 'log', level: 'warn', message: `the tokenizer "${kind}" is not known: characters that span tokens may come out as �` })
  return tokens.map((_, id) => Buffer.from(model.detokenize([id as Token])))
}

/** Tokens without a text of their own that are marks of how the model writes. */
function marksOf(model: LlamaModel, marks: readonly (string | undefined)[]): Map<number, Uint8Array> {
  const { tokens } = model.fileInfo.metadata.tokenizer.ggml
  const ids = marks.filter((mark) => mark !== undefined && mark !== '').map((mark) => [tokens.indexOf(mark!), mark!] as const)
  return new Map(ids.filter(([id]) => id >= 0).map(([id, mark]) => [id, Buffer.from(mark)]))
}

function readTemplate(model: LlamaModel): ChatTemplate | undefined {
  const template = model.fileInfo.metadata.tokenizer.chat_template
  if (template === undefined || template.trim() === '') return undefined
  const { tokens } = model.fileInfo.metadata.tokenizer.ggml
  const { bos, eos, eot } = model.tokens
  const textOfToken = (token: Token | null): string => (token === null ? '' : (tokens[token] ?? ''))
  try {
    return new ChatTemplate(template, { bos_token: textOfToken(bos), eos_token: textOfToken(eos), eot_token: textOfToken(eot) })
  } catch (error) {
    const message = `the model's chat template is not understood, a built-in one is used: ${(error as Error).message}`
    tell({ kind: 'log', level: 'warn', message })
    return undefined
  }
}

/** Reads prompts as the model's own chat template writes them. What users write is text: it never becomes a special token. */
function promptReader(model: LlamaModel, template: ChatTemplate | undefined): PromptReader {
  const chat = template === undefined ? builtinChat(model) : templateChat(template, model)
  return (request) => {
    const { prompt } = request
    // A raw prompt is written by someone who writes the template too, so special tokens in it are meant.
    const read =
      prompt.kind === 'chat'
        ? chat({ messages: prompt.messages, tools: request.toolChoice === 'none' ? undefined : request.tools, thinks: thinks(request) })
        : { tokens: model.tokenize(textsOf(prompt).join(''), true), reasoningBegun: false }
    const { bos, shouldPrependBosToken } = model.tokens
    const prepended = bos !== null && shouldPrependBosToken && read.tokens[0] !== bos
    return prepended ? { ...read, tokens: [bos, ...read.tokens] } : read
  }
}

type ChatReader = (wish: ChatWish) => { tokens: Token[]; reasoningBegun: boolean }

function templateChat(template: ChatTemplate, model: LlamaModel): ChatReader {
  return (wish) => {
    const { parts, reasoningBegun } = template.render(wish)
    const text = LlamaText(parts.map((part) => (part.special ? new SpecialTokensText(part.text) : part.text)))
    return { tokens: text.tokenize(model.tokenizer), reasoningBegun }
  }
}

function builtinChat(model: LlamaModel): ChatReader {
  const wrapper = resolveChatWrapper(model, { warningLogs: false, noJinja: true })
  return ({ messages, tools }) => {
    const chatHistory = [...describedTools(messages, tools).map(historyItem), { type: 'model' as const, response: [] }]
    return { tokens: wrapper.generateContextState({ chatHistory }).contextText.tokenize(model.tokenizer), reasoningBegun: false }
  }
}

function historyItem({ role, content }: PlainMessage): ChatHistoryItem {
  return role === 'assistant' ? { type: 'model', response: [content] } : { type: role, text: content }
}

class ModelGrammar implements GrammarState {
  readonly state: LlamaGrammarEvaluationState
  readonly #llama: Llama

  constructor(llama: Llama, model: LlamaModel, grammar: string) {
    this.#llama = llama
    this.state = new LlamaGrammarEvaluationState({ model, grammar: new LlamaGrammar(llama, { grammar }) })
  }

  /** node-llama-cpp moves a state on only over tokens that it chose itself; forced ones need its native door. */
  accept(token: number): void {
    const sampler: unknown = Reflect.get(Reflect.get(this.#llama, '_bindings') as object, 'AddonSampler')
    const accept: unknown = Reflect.get(sampler as object, 'acceptGrammarEvaluationStateToken')
    if (typeof accept !== 'function') throw new Error('node-llama-cpp moves grammars on elsewhere now: this answer cannot be continued')
    accept.call(sampler, Reflect.get(this.state, '_state'), token)
  }
}

/** How node-llama-cpp says that nothing was chosen, whatever the reason. */
function noChoice(error: unknown): never {
  if (!(error instanceof Error) || error.message !== NO_CHOICE) throw error
  const trouble = takeSamplingTrouble()
  throw trouble === undefined ? new NoTokenLeft() : new Error(trouble)
}

const NO_CHOICE = 'Failed to sample next token'

const AT_ITS_END: Drawn = { chosen: [], ended: true }

/** Of the tokens drawn behind a token and its guess, those behind what came true. */
function asFarAsTrue(guess: readonly number[], drawn: readonly number[], endsAnswer: (token: number) => boolean): Drawn {
  const chosen: { token: number }[] = []
  for (const [index, token] of drawn.entries()) {
    if (endsAnswer(token)) return { chosen, ended: true }
    chosen.push({ token })
    if (guess[index] !== token) break
  }
  return { chosen, ended: false }
}

class ModelSequence implements Sequence {
  readonly id: number
  readonly #sequence: LlamaContextSequence
  readonly #model: LlamaModel

  constructor(id: number, sequence: LlamaContextSequence, model: LlamaModel) {
    this.id = id
    this.#sequence = sequence
    this.#model = model
  }

  held(): readonly number[] {
    return this.#sequence.contextTokens
  }

  async prefill(tokens: readonly number[]): Promise<void> {
    await this.#sequence.evaluateWithoutGeneratingNewTokens(tokens as Token[])
  }

  decode(tokens: readonly number[], choice: Choice): TokenSource {
    const options = evaluateOptions(choice, this.#model)
    if (choice.wantsProbabilities) return this.#decodeWithProbabilities(tokens, options)
    if (choice.seedAt !== undefined) return this.#decodeGuessing(tokens, { ...choice, seedAt: choice.seedAt }, options)
    const generated = this.#sequence.evaluate(tokens as Token[], options)
    return {
      next: async () => {
        const { value, done } = await generated.next().catch(noChoice)
        return done === true ? AT_ITS_END : { chosen: [{ token: value }], ended: false }
      },
      close: async () => {
        await generated.return()
      },
    }
  }

  #decodeWithProbabilities(tokens: readonly number[], options: SequenceEvaluateOptions): TokenSource {
    const generated = this.#sequence.evaluateWithMetadata(tokens as Token[], { probabilities: true }, options)
    return {
      next: async () => {
        const { value, done } = await generated.next().catch(noChoice)
        return done === true ? AT_ITS_END : { chosen: [value], ended: false }
      },
      close: async () => {
        await generated.return()
      },
    }
  }

  /** Computes the guess with the token before it, draws a token behind each, and forgets what was guessed wrong. */
  #decodeGuessing(
    tokens: readonly number[],
    { answer, seedAt }: Choice & Required<Pick<Choice, 'seedAt'>>,
    { temperature, topK, topP, minP }: SequenceEvaluateOptions,
  ): TokenSource {
    const sampling = { temperature, topK, topP, minP } as { temperature: number; topK: number; topP: number; minP: number }
    let pending = tokens
    return {
      next: async (guess) => {
        const place = answer.length
        const drawn = (token: number, index: number): ControlledEvaluateInputItem => [
          token as Token,
          { generateNext: { token: true, options: { ...sampling, seed: seedAt(place + index) } } },
        ]
        const before = pending.slice(0, -1) as Token[]
        const sure = this.#sequence.nextTokenIndex + pending.length
        const input = [...before, ...[pending.at(-1)!, ...guess].map(drawn)]
        const outputs = await this.#sequence.controlledEvaluate(input).catch(noChoice)
        const { chosen, ended } = asFarAsTrue(
          guess,
          outputs.slice(before.length).map((output) => output?.next.token ?? noChoice(new Error(NO_CHOICE))),
          (token) => this.#model.isEogToken(token as Token),
        )
        await this.keep(sure + Math.max(0, chosen.length - 1))
        pending = chosen.slice(-1).map(({ token }) => token)
        return { chosen, ended }
      },
      close: async () => {},
    }
  }

  async keep(length: number): Promise<void> {
    const held = this.#sequence.nextTokenIndex
    if (length < held) await this.#sequence.eraseContextTokenRanges([{ start: length, end: held }])
  }

  async save(file: string): Promise<number> {
    const { fileSize } = await this.#sequence.saveStateToFile(file)
    return fileSize
  }

  async load(file: string): Promise<void> {
    // A load that fails forgets what the sequence held, and llama.cpp does not: every later answer in this slot would fail.
    await this.keep(0)
    // The risk is a file of another model; these files are this process's own, in a folder nobody else can write to.
    await this.#sequence.loadStateFromFile(file, { acceptRisk: true })
  }
}

/** What the caller leaves open is chosen as llama.cpp's own programs choose it. */
function evaluateOptions(choice: Choice, model: LlamaModel): SequenceEvaluateOptions {
  const { temperature = 0.8, topK = 40, topP = 0.95, minP = 0.05, repeatPenalty = 1 } = choice.sampling
  const bias = TokenBias.for(model)
  const keepBias = biasKeeper(choice, tableOf(bias), () => endTokens(model))
  const { grammar } = choice
  return {
    temperature,
    topK,
    topP,
    minP,
    seed: choice.seed,
    ...(keepBias === undefined ? {} : { tokenBias: () => (keepBias(), bias) }),
    ...(grammar === undefined ? {} : { grammarEvaluationState: () => (grammar() as ModelGrammar | undefined)?.state }),
    ...(repeatPenalty === 1 ? {} : { repeatPenalty: { penalty: repeatPenalty, punishTokens: () => latestTokens(choice) as Token[] } }),
  }
}

/** `TokenBias.set` quietly leaves out tokens that end the answer, which callers and `minTokens` mean; its own table takes them. */
function tableOf(bias: TokenBias): Map<number, number> {
  const table: unknown = Reflect.get(bias, '_biases')
  if (!(table instanceof Map)) throw new Error('node-llama-cpp keeps its token biases elsewhere now: tokens cannot be biased')
  return table as Map<number, number>
}

const endTokensOf = new WeakMap<LlamaModel, number[]>()

/** Looked up when first needed: asking about every token of a large vocabulary takes a tenth of a second. */
function endTokens(model: LlamaModel): number[] {
  let tokens = endTokensOf.get(model)
  if (tokens === undefined) {
    const count = model.fileInfo.metadata.tokenizer.ggml.tokens.length
    tokens = Array.from({ length: count }, (_, id) => id).filter((id) => model.isEogToken(id as Token))
    endTokensOf.set(model, tokens)
  }
  return tokens
}
