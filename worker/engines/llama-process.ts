import { existsSync, rmSync, statSync } from 'node:fs'
import {
  type ChatHistoryItem,
  type ChatWrapper,
  getLlama,
  InsufficientMemoryError,
  JinjaTemplateChatWrapper,
  type Llama,
  type LlamaContext,
  type LlamaContextSequence,
  LlamaLogLevel,
  type LlamaModel,
  resolveChatWrapper,
  type SequenceEvaluateOptions,
  type Token,
  TokenBias,
} from 'node-llama-cpp'
import { type ChatMessage, type GenerationRequest, textOf, textsOf } from '../../proto/request.ts'
import type { GenerationFailure } from './engine.ts'
import { Generation, type Vocabulary } from './llama/generation.ts'
import { Lockstep } from './llama/lockstep.ts'
import { BATCH_TOKENS } from './llama/pace.ts'
import { PrefixStore } from './llama/prefixes.ts'
import type { FromProcess, LogLevel, ModelSettings, ToProcess } from './llama/protocol.ts'
import type { Choice, Sequence, TokenSource } from './llama/sequence.ts'
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
  const opened = await openModel(settings)
  const lockstep = new Lockstep({
    sequences: opened.sequences,
    prefixes: new PrefixStore(settings.prefixFolder, settings.prefixBytesMax),
    tell: (news) => tell({ kind: 'news', news }),
    warn: (message) => tell({ kind: 'log', level: 'warn', message }),
    now: () => performance.now(),
  })
  process.on('message', (message: ToProcess) => {
    if (message.kind === 'start') start(message, opened, lockstep)
    else if (message.kind === 'cancel') lockstep.cancel(message.id)
  })
  tell({ kind: 'ready', model: opened.facts })
  await lockstep.run()
}

type OpenedModel = {
  facts: Extract<FromProcess, { kind: 'ready' }>['model']
  sequences: readonly Sequence[]
  vocabulary: Vocabulary
  /** The tokens of a prompt; throws where the model's chat template refuses the messages. */
  tokensOf: (prompt: GenerationRequest['prompt']) => number[]
}

function start(message: Extract<ToProcess, { kind: 'start' }>, model: OpenedModel, lockstep: Lockstep): void {
  const { id, request, continuation } = message
  const { facts, vocabulary } = model
  const refuse = (failed: GenerationFailure): void => tell({ kind: 'news', news: [{ id, failed }] })
  const fewest = Math.ceil(promptBytes(request.prompt) / facts.maxTokenBytes)
  // Cutting a book into tokens takes seconds in which nobody's next token would come.
  if (fewest >= facts.contextTokens) return refuse(tooLong(`at least ${fewest}`, facts.contextTokens))
  const prompt = tokensOrFailure(request.prompt, model)
  if ('code' in prompt) return refuse(prompt)
  if (prompt.length >= facts.contextTokens) return refuse(tooLong(`${prompt.length}`, facts.contextTokens))
  lockstep.start(new Generation(id, prompt, continuation, request, facts.contextTokens, vocabulary))
}

function promptBytes(prompt: GenerationRequest['prompt']): number {
  return textsOf(prompt).reduce((bytes, text) => bytes + Buffer.byteLength(text), 0)
}

function tooLong(promptTokens: string, contextTokens: number): GenerationFailure {
  const message =
    `the prompt has ${promptTokens} tokens and the model's context holds ${contextTokens}, the answer included: ` +
    'shorten the prompt or serve the model with a larger context'
  return { layer: 'ingress', code: 'context_length_exceeded', message, retryable: false }
}

function tokensOrFailure(prompt: GenerationRequest['prompt'], model: OpenedModel): number[] | GenerationFailure {
  try {
    const tokens = model.tokensOf(prompt)
    if (tokens.length > 0) return tokens
    return { layer: 'ingress', code: 'empty_prompt', message: 'the prompt has no tokens: send some text', retryable: false }
  } catch (error) {
    const message = `the model's chat template refuses these messages: ${(error as Error).message}`
    return { layer: 'ingress', code: 'chat_template_refused', message, retryable: false }
  }
}

/** Below this a second thread costs more than it computes (the built-in model with 4 threads on 2 cores: 4 tokens/s instead of 2,500). */
const SINGLE_THREAD_BYTES = 50e6

const SLOTS_DEFAULT = 4
const CONTEXT_TOKENS_DEFAULT = 4096

async function openModel(settings: ModelSettings): Promise<OpenedModel> {
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
  const threads = settings.threads ?? (sizeBytes < SINGLE_THREAD_BYTES ? 1 : llama.cpuMathCores)
  const model = await loadModel(llama, settings)
  const contextTokens = settings.contextTokens ?? Math.min(CONTEXT_TOKENS_DEFAULT, model.trainContextSize)
  const context = await createContext(model, { slots: settings.slots ?? SLOTS_DEFAULT, contextTokens }, threads)
  const bytes = tokenBytes(model)
  const slots = context.totalSequences
  return {
    facts: {
      slots,
      contextTokens: Math.min(contextTokens, context.contextSize),
      maxTokenBytes: mostBytes(bytes),
      sizeBytes,
      detail: detailOf(llama, model, threads),
    },
    sequences: Array.from({ length: slots }, (_, id) => new ModelSequence(id, context.getSequence(), model)),
    vocabulary: { bytesOf: (token) => bytes[token] ?? NO_BYTES, endsGeneration: (token) => model.isEogToken(token as Token) },
    tokensOf: promptReader(model),
  }
}

/** Trying a GPU that is not there takes a second of every start, and of every restart after a crash. */
function mayHaveGpu(): boolean {
  return process.platform !== 'linux' || GPU_DEVICES.some((device) => existsSync(device))
}

/** NVIDIA, AMD's compute driver, any graphics driver (Vulkan), and Windows' subsystem for Linux. */
const GPU_DEVICES = ['/dev/nvidiactl', '/dev/kfd', '/dev/dri', '/dev/dxg']

function sizeOfModel(path: string): number {
  const size = statSync(path, { throwIfNoEntry: false })?.size
  if (size === undefined) throw new Error(`there is no model file ${path}: put it there, or correct the model's path`)
  return size
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
  return (progress) => {
    const percent = Math.floor(progress * 100)
    if (percent < told + 10) return
    told = percent
    tell({ kind: 'loading', percent })
  }
}

/** Where memory is short the model gets fewer slots, and then a smaller context, rather than none. */
async function createContext(model: LlamaModel, wish: { slots: number; contextTokens: number }, threads: number): Promise<LlamaContext> {
  try {
    return await model.createContext({
      sequences: wish.slots,
      contextSize: wish.contextTokens,
      batchSize: BATCH_TOKENS,
      threads,
      swaFullCache: true,
      failedCreationRemedy: false,
    })
  } catch (error) {
    const less = smallerContext(wish)
    if (!(error instanceof InsufficientMemoryError) || less === undefined) throw error
    const message = `memory is short for ${wish.slots} slots of ${wish.contextTokens} tokens: trying ${less.slots} of ${less.contextTokens}`
    tell({ kind: 'log', level: 'warn', message })
    return createContext(model, less, threads)
  }
}

const CONTEXT_TOKENS_MIN = 512

function smallerContext({
  slots,
  contextTokens,
}: {
  slots: number
  contextTokens: number
}): { slots: number; contextTokens: number } | undefined {
  if (slots > 1) return { slots: Math.ceil(slots / 2), contextTokens }
  if (contextTokens > CONTEXT_TOKENS_MIN) return { slots, contextTokens: Math.max(CONTEXT_TOKENS_MIN, Math.floor(contextTokens / 2)) }
  return undefined
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

/** Reads prompts as the model's own chat template writes them. What users write is text: it never becomes a special token. */
function promptReader(model: LlamaModel): (prompt: GenerationRequest['prompt']) => number[] {
  const chat = chatReader(model)
  return (prompt) => {
    // A raw prompt is written by someone who writes the template too, so special tokens in it are meant.
    const tokens = prompt.kind === 'chat' ? chat(prompt.messages) : model.tokenize(textsOf(prompt).join(''), true)
    const { bos, shouldPrependBosToken } = model.tokens
    return bos !== null && shouldPrependBosToken && tokens[0] !== bos ? [bos, ...tokens] : tokens
  }
}

function chatReader(model: LlamaModel): (messages: readonly ChatMessage[]) => Token[] {
  const template = model.fileInfo.metadata.tokenizer.chat_template
  if (template !== undefined && template.trim() !== '') {
    try {
      const wrapper = templateWrapper(template, model)
      return (messages) => tokensOfHistory(wrapper, messages.map(historyItem), model)
    } catch (error) {
      const message = `the model's chat template is not understood, a built-in one is used: ${(error as Error).message}`
      tell({ kind: 'log', level: 'warn', message })
    }
  }
  const wrapper = resolveChatWrapper(model, { warningLogs: false, noJinja: true })
  return (messages) => tokensOfHistory(wrapper, [...messages.map(historyItem), { type: 'model', response: [] }], model)
}

function templateWrapper(template: string, model: LlamaModel): ChatWrapper {
  return new JinjaTemplateChatWrapper({
    template,
    tokenizer: model.tokenizer,
    joinAdjacentMessagesOfTheSameType: false,
    trimLeadingWhitespaceInResponses: false,
    functionCallMessageTemplate: 'noJinja',
    additionalRenderParameters: { add_generation_prompt: true },
  })
}

function historyItem({ role, content }: ChatMessage): ChatHistoryItem {
  const text = textOf(content)
  return role === 'assistant' ? { type: 'model', response: [text] } : { type: role === 'system' ? 'system' : 'user', text }
}

function tokensOfHistory(wrapper: ChatWrapper, chatHistory: ChatHistoryItem[], model: LlamaModel): Token[] {
  return wrapper.generateContextState({ chatHistory }).contextText.tokenize(model.tokenizer)
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
    const generated = this.#sequence.evaluate(tokens as Token[], evaluateOptions(choice, this.#model))
    return {
      next: async () => {
        const { value, done } = await generated.next()
        return done === true ? undefined : value
      },
      close: async () => {
        await generated.return()
      },
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
    // The risk is a file of another model; these files are this process's own, in a folder nobody else can write to.
    await this.#sequence.loadStateFromFile(file, { acceptRisk: true })
  }
}

/** How many of the latest tokens `repeatPenalty` looks at, the prompt's included, as in llama.cpp. */
const REPEAT_PENALTY_TOKENS = 64

/** What the caller leaves open is chosen as llama.cpp's own programs choose it. */
function evaluateOptions(choice: Choice, model: LlamaModel): SequenceEvaluateOptions {
  const { temperature = 0.8, topK = 40, topP = 0.95, minP = 0.05, repeatPenalty = 1 } = choice.sampling
  const bias = biasOf(choice, model)
  return {
    temperature,
    topK,
    topP,
    minP,
    seed: choice.seed,
    ...(bias === undefined ? {} : { tokenBias: bias }),
    ...(repeatPenalty === 1 ? {} : { repeatPenalty: { penalty: repeatPenalty, punishTokens: () => latestTokens(choice) as Token[] } }),
  }
}

function latestTokens({ prompt, answer }: Choice): number[] {
  const fromAnswer = answer.slice(-REPEAT_PENALTY_TOKENS)
  const fromPrompt = fromAnswer.length < REPEAT_PENALTY_TOKENS ? prompt.slice(fromAnswer.length - REPEAT_PENALTY_TOKENS) : []
  return [...fromPrompt, ...fromAnswer]
}

/**
 * The caller's biases, and the frequency and presence penalties as OpenAI means them: over the whole answer so far and
 * not over the prompt. llama.cpp's own penalties have one window for all three, so these two are written as biases.
 */
function biasOf({ sampling, answer }: Choice, model: LlamaModel): (() => TokenBias) | undefined {
  const { frequencyPenalty = 0, presencePenalty = 0, logitBias = {} } = sampling
  const fixed = new Map(Object.entries(logitBias).map(([token, logit]) => [Number(token), logit]))
  const penalises = frequencyPenalty !== 0 || presencePenalty !== 0
  if (fixed.size === 0 && !penalises) return undefined
  const bias = TokenBias.for(model)
  for (const [token, logit] of fixed) setBias(bias, token, logit, model)
  if (!penalises) return () => bias
  const counts = new Map<number, number>()
  let counted = 0
  return () => {
    for (; counted < answer.length; counted++) {
      const token = answer[counted]!
      const count = (counts.get(token) ?? 0) + 1
      counts.set(token, count)
      setBias(bias, token, (fixed.get(token) ?? 0) - count * frequencyPenalty - presencePenalty, model)
    }
    return bias
  }
}

/**
 * `TokenBias.set` quietly leaves out tokens that end the answer, and a caller who bans them (the way to ask for a longer
 * answer) would be ignored; its own table takes them.
 */
function setBias(bias: TokenBias, token: number, logit: number, model: LlamaModel): void {
  if (!model.isEogToken(token as Token)) {
    bias.set(token as Token, { logit })
    return
  }
  const table: unknown = Reflect.get(bias, '_biases')
  if (!(table instanceof Map)) throw new Error('node-llama-cpp keeps its token biases elsewhere now: end-of-text cannot be biased')
  table.set(token, logit)
}
