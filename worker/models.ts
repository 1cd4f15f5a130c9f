import { createHash } from 'node:crypto'
import { createReadStream, existsSync, mkdirSync, statSync } from 'node:fs'
import path from 'node:path'
import type { Ability } from '../proto/abilities.ts'
import type { Engine, StateListener } from './engines/engine.ts'
import { openFakeEngine } from './engines/fake.ts'
import { openCliEngine } from './engines/cli.ts'
import { openOpenAiEngine } from './engines/openai.ts'
import {
  abilities,
  type CliSpec,
  type OpenAiSpec,
  once,
  parseCliSpec,
  parseOpenAiSpec,
  seconds,
  unknownOption,
  whole,
  wrong,
} from './model-specs.ts'

/** One entry of HOLDFAST_MODELS: `name=source[?option=value&…]`. */
export type ModelSpec = {
  name: string
  source:
    | { kind: 'builtin' }
    | { kind: 'file'; path: string }
    | { kind: 'fake' }
    | { kind: 'cli'; cli: CliSpec }
    | { kind: 'openai'; openai: OpenAiSpec }
  slots?: number
  contextTokens?: number
  threads?: number
  gpuLayers?: number
  speculation?: 'lookup'
  sha256?: string
  /** Absent: it generates text. `embedding=true` and `rerank=true` in HOLDFAST_MODELS. */
  purpose?: 'embed' | 'rank'
  /** Vectors may be cut short to the dimensions that a request names; absent: judged by the model's name. */
  matryoshka?: boolean
  /** How long it may be silent; absent: as long as the coordinator says. */
  firstTokenTimeoutMs?: number
  nextTokenTimeoutMs?: number
  fake: { rate: number; firstTokenMs: number; crashOn?: string; stallOn?: string; failOn?: string; without?: Ability[] }
}

export function parseModels(text: string): ModelSpec[] {
  const specs = text
    .split(/\s+/)
    .filter((part) => part !== '')
    .map(parseModel)
  const twice = specs.find((spec, index) => specs.findIndex((other) => other.name === spec.name) !== index)
  if (twice !== undefined) throw wrong(`names "${twice.name}" twice.`)
  if (specs.some(({ name }) => name === 'auto')) throw wrong('names a model "auto", by which callers mean any model: give it another name.')
  return specs
}

export type OpenedModel = { name: string; kind: string; engine: Engine; firstTokenTimeoutMs?: number; nextTokenTimeoutMs?: number }

type ModelLog = Record<'info' | 'warn' | 'error' | 'debug', (text: string) => void>

/** Resolves when the engine exists; it may still be loading. A file that is missing or altered throws. */
export async function openModel(spec: ModelSpec, dataDir: string, log: ModelLog, onState: StateListener): Promise<OpenedModel> {
  const { firstTokenTimeoutMs, nextTokenTimeoutMs } = spec
  return { ...(await openEngine(spec, dataDir, log, onState)), ...given({ firstTokenTimeoutMs, nextTokenTimeoutMs }) }
}

async function openEngine(spec: ModelSpec, dataDir: string, log: ModelLog, onState: StateListener): Promise<OpenedModel> {
  if (spec.source.kind === 'fake') return { name: spec.name, kind: 'fake', engine: openFakeEngine(fakeOptions(spec), onState) }
  if (spec.source.kind === 'cli')
    return { name: spec.name, kind: 'cli', engine: openCliEngine({ name: spec.name, log, ...spec.source.cli }, onState) }
  if (spec.source.kind === 'openai')
    return { name: spec.name, kind: 'openai', engine: openOpenAiEngine({ name: spec.name, log, ...spec.source.openai }, onState) }
  const file = spec.source.kind === 'builtin' ? await builtinModel(dataDir, log) : spec.source.path
  if (!existsSync(file)) throw wrong(`names a file for "${spec.name}" that does not exist: ${file}`)
  const identify = identifier(file, log, ({ sha256 }) => {
    if (spec.sha256 !== undefined && spec.sha256.toLowerCase() !== sha256)
      throw wrong(`names ${file} for "${spec.name}", which has SHA-256 ${sha256}, not ${spec.sha256}. It is damaged or another file.`)
  })
  const sha256 = await identify()
  // Only hosts that serve a real model need node-llama-cpp installed.
  const { openLlamaEngine } = await import('./engines/llama.ts')
  const { slots, contextTokens, threads, gpuLayers, speculation, purpose, matryoshka } = spec
  const options = {
    name: spec.name,
    path: file,
    sha256,
    identify,
    log,
    ...given({ slots, contextTokens, threads, gpuLayers, speculation, purpose, matryoshka }),
  }
  return { name: spec.name, kind: 'llama', engine: openLlamaEngine(options, onState) }
}

function parseModel(text: string): ModelSpec {
  const match = /^([^=\s]{1,200})=([^?\s]+)(?:\?(\S*))?$/.exec(text)
  const [, name, source, query] = match ?? []
  if (name === undefined || source === undefined) throw wrong(`holds "${text}", which is not name=source[?option=value&…].`)
  const options = once(name, new URLSearchParams(query ?? ''))
  const fake = { rate: 0, firstTokenMs: 0 }
  const limits = silenceLimits(name, options)
  if (source.startsWith('cli:')) return { name, source: { kind: 'cli', cli: parseCliSpec(name, source, options) }, ...limits, fake }
  if (source.startsWith('openai:'))
    return { name, source: { kind: 'openai', openai: parseOpenAiSpec(name, source, options) }, ...limits, fake }
  const spec: ModelSpec = { name, source: parseSource(name, source), ...limits, fake }
  for (const [option, value] of options) setOption(spec, option, value)
  if (spec.speculation !== undefined && spec.purpose !== undefined)
    throw wrong(`gives "${name}" speculation, and a model that is served for vectors or scores writes nothing that could be guessed.`)
  if (spec.matryoshka !== undefined && spec.purpose !== 'embed')
    throw wrong(`gives "${name}" matryoshka, which is about vectors: add embedding=true, or leave it out.`)
  return spec
}

/** Takes what every kind of model has out of its options. */
function silenceLimits(name: string, options: URLSearchParams): Pick<ModelSpec, 'firstTokenTimeoutMs' | 'nextTokenTimeoutMs'> {
  const limits: ReturnType<typeof silenceLimits> = {}
  for (const [option, member] of [
    ['first_token_timeout_s', 'firstTokenTimeoutMs'],
    ['next_token_timeout_s', 'nextTokenTimeoutMs'],
  ] as const) {
    const value = options.get(option)
    if (value === null) continue
    options.delete(option)
    limits[member] = seconds(name, option, value) * 1_000
  }
  return limits
}

function parseSource(name: string, source: string): ModelSpec['source'] {
  if (source === 'builtin:tiny') return { kind: 'builtin' }
  if (source === 'fake:') return { kind: 'fake' }
  if (/^[a-z][a-z0-9+.-]*:/i.test(source))
    throw wrong(
      `gives "${name}" the source "${source}", which this version cannot load. It knows builtin:tiny, fake:, cli:, openai: and paths of GGUF files.`,
    )
  if (!source.endsWith('.gguf')) throw wrong(`gives "${name}" the path "${source}", which does not end in .gguf.`)
  return { kind: 'file', path: path.resolve(source) }
}

function setOption(spec: ModelSpec, option: string, value: string): void {
  const fake = spec.source.kind === 'fake'
  // llama.cpp has no more sequences in one context.
  if (option === 'slots') spec.slots = whole(spec.name, option, value, 1, fake ? 4_096 : 256)
  else if (option === 'context') spec.contextTokens = whole(spec.name, option, value, 16, 10_000_000)
  else if (option === 'threads') spec.threads = whole(spec.name, option, value, 1, 1_024)
  else if (option === 'gpu_layers') spec.gpuLayers = whole(spec.name, option, value, 0, 10_000)
  else if (option === 'sha256' && /^[0-9a-f]{64}$/i.test(value)) spec.sha256 = value
  else if (option === 'embedding' && !fake && value === 'true') spec.purpose = onePurpose(spec, 'embed')
  else if (option === 'rerank' && !fake && value === 'true') spec.purpose = onePurpose(spec, 'rank')
  else if (option === 'matryoshka' && !fake && /^(true|false)$/.test(value)) spec.matryoshka = value === 'true'
  else if (option === 'speculation' && !fake) spec.speculation = speculation(spec.name, value)
  else if (option === 'rate' && fake) spec.fake.rate = whole(spec.name, option, value, 0, 1_000_000)
  else if (option === 'first_token_ms' && fake) spec.fake.firstTokenMs = whole(spec.name, option, value, 0, 3_600_000)
  else if (option === 'crash_on' && fake) spec.fake.crashOn = value
  else if (option === 'stall_on' && fake) spec.fake.stallOn = value
  else if (option === 'fail_on' && fake) spec.fake.failOn = value
  else if (option === 'without' && fake) spec.fake.without = abilities(spec.name, option, value)
  else throw unknownOption(spec.name, option, value)
}

function speculation(name: string, value: string): 'lookup' {
  if (value !== 'lookup') throw wrong(`gives "${name}" speculation=${value}, and the one way to guess is lookup.`)
  return value
}

function onePurpose(spec: ModelSpec, purpose: 'embed' | 'rank'): 'embed' | 'rank' {
  if (spec.purpose !== undefined && spec.purpose !== purpose)
    throw wrong(`gives "${spec.name}" both embedding and rerank: a model is served for one of them; name it twice for both.`)
  return purpose
}

function fakeOptions(spec: ModelSpec): Parameters<typeof openFakeEngine>[0] {
  return {
    name: spec.name,
    slots: spec.slots ?? 4,
    contextTokens: spec.contextTokens ?? 0,
    ...given({ sha256: spec.sha256?.toLowerCase() }),
    ...spec.fake,
  }
}

function given<T extends Record<string, unknown>>(options: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>
  }
}

async function builtinModel(dataDir: string, log: ModelLog): Promise<string> {
  const file = path.join(dataDir, 'models', 'tiny.gguf')
  if (!existsSync(file)) {
    log.info(
      'Making the built-in model "tiny": a toy of a megabyte to try the plumbing with, not to talk to. For a real one set HOLDFAST_MODELS, for example HOLDFAST_MODELS=qwen=/models/qwen.gguf?slots=4',
    )
    mkdirSync(path.dirname(file), { recursive: true })
    const { writeTinyModel } = await import('./tiny-model.ts')
    writeTinyModel(file)
  }
  return file
}

/** Tells the file's SHA-256, and reads it again only when the file has changed. `check` throws where it is the wrong one. */
function identifier(file: string, log: ModelLog, check: (found: { sha256: string }) => void): () => Promise<string> {
  let known: { sha256: string; change: string } | undefined
  return async () => {
    const { dev, ino, size, mtimeMs } = statSync(file)
    const change = [dev, ino, size, mtimeMs].join()
    if (known?.change !== change) known = { sha256: await hashOf(file, log), change }
    check(known)
    return known.sha256
  }
}

/** What a continued answer relies on: the same bytes on both workers. */
async function hashOf(file: string, log: ModelLog): Promise<string> {
  const size = statSync(file).size
  if (size > LARGE_BYTES) log.info(`Hashing ${file} (${Math.round(size / 1e6)} MB).`)
  const hash = createHash('sha256')
  for await (const part of createReadStream(file, { highWaterMark: 1 << 20 })) hash.update(part as Buffer)
  return hash.digest('hex')
}

const LARGE_BYTES = 500_000_000
