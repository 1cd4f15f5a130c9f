import { rmSync } from 'node:fs'
import {
  type ChatHistoryItem,
  getLlama,
  InsufficientMemoryError,
  type Llama,
  type LlamaContext,
  LlamaLogLevel,
  type LlamaModel,
  LlamaText,
  resolveChatWrapper,
  SpecialTokensText,
  type Token,
} from 'node-llama-cpp'
import { textsOf } from '../../proto/request.ts'
import { expectedAbilities, generationAbilities } from './llama/abilities.ts'
import { thinks } from './llama/answer-plan.ts'
import { ChatTemplate, type ChatWish } from './llama/chat-template.ts'
import { describedTools, type PlainMessage } from './llama/described-tools.ts'
import { flashAttention, mayHaveGpu, sizeOfModel, smallerContext } from './llama/fit.ts'
import { type PromptReader, type ReadyModel, takeIn } from './llama/intake.ts'
import { Lockstep } from './llama/lockstep.ts'
import { BATCH_TOKENS } from './llama/pace.ts'
import { PrefixStore } from './llama/prefixes.ts'
import type { FromProcess, LogLevel, ModelFacts, ModelSettings, ToProcess } from './llama/protocol.ts'
import { NativeContext } from './llama/native-context.ts'
import { NativeGrammar } from './llama/native-grammar.ts'
import { NativeSequence, type SequenceModel } from './llama/native-sequence.ts'
import type { Sequence } from './llama/sequence.ts'
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
  const native = new NativeContext(llama, model, context)
  const endsGeneration = (token: number): boolean => model.isEogToken(token as Token)
  const sequenceModel: SequenceModel = { endsGeneration, endTokens: endTokensOf(model) }
  const sequences = Array.from({ length: slots }, (_, id) => new NativeSequence(id, context.getSequence(), native, sequenceModel))
  const speculates = settings.speculation !== undefined && sequences.every(({ cutsAnywhere }) => cutsAnywhere)
  if (settings.speculation !== undefined && !speculates) tell({ kind: 'log', level: 'warn', message: CANNOT_SPECULATE })
  return {
    facts: {
      slots,
      contextTokens: Math.min(contextTokens, context.contextSize),
      maxTokenBytes: mostBytes(bytes),
      sizeBytes,
      detail: detailOf(llama, model, threads) + (speculates ? ', guessing by lookup' : ''),
      abilities: generationAbilities({ reasons: traits.reasoning !== undefined }),
    },
    sequences,
    speculates,
    vocabulary: {
      bytesOf: (token) => bytes[token] ?? NO_BYTES,
      markOf: (token) => marks.get(token),
      endsGeneration,
      size: bytes.length,
    },
    traits,
    read: promptReader(model, template),
    makeGrammar: (grammar) => new NativeGrammar(llama, model, grammar),
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

/** Looked up when first needed: asking about every token of a large vocabulary takes a tenth of a second. */
function endTokensOf(model: LlamaModel): () => readonly number[] {
  let tokens: number[] | undefined
  return () => {
    const count = model.fileInfo.metadata.tokenizer.ggml.tokens.length
    tokens ??= Array.from({ length: count }, (_, id) => id).filter((id) => model.isEogToken(id as Token))
    return tokens
  }
}
