import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { writeTinyModel } from '../../worker/tiny-model.ts'
import { type Contender, type ContenderSettings, openEngine, openFreeRunning, openLlamaServer, wallClock } from './engine-contenders.ts'

/**
 * The worker's engine beside free-running `sequence.evaluate`, and beside llama-server where
 * HOLDFAST_BENCH_LLAMA_SERVER names one, in the same run; on the built-in model and on the one HOLDFAST_TEST_MODEL names.
 * Of the built-in model, whose answers take less than a second, every case is measured several times and the median shown.
 */
export async function run(): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-bench-'))
  const tiny = join(folder, 'tiny.gguf')
  writeTinyModel(tiny)
  const real = process.env.HOLDFAST_TEST_MODEL
  const rows = await rowsOf('built-in', { model: tiny, slots: 32, contextTokens: 2048, threads: 1 }, { answerTokens: 256, rounds: 9 })
  if (real !== undefined && existsSync(real))
    rows.push(
      ...(await rowsOf(
        'real',
        { model: real, slots: 32, contextTokens: 2048, threads: availableParallelism() },
        { answerTokens: 64, rounds: 1 },
      )),
    )
  rmSync(folder, { recursive: true })
  console.log(table(rows))
}

type Row = { model: string; case: string; what: string; unit: string; better: 'more' | 'less'; figures: Map<string, number[]> }

const STREAM_COUNTS = [1, 4, 8, 16, 32]
const PROMPT_TOKENS = 50
const NEWCOMER_TOKENS = 1500
const COMMON_TOKENS = 1000

async function rowsOf(
  model: string,
  settings: ContenderSettings,
  { answerTokens, rounds }: { answerTokens: number; rounds: number },
): Promise<Row[]> {
  const rows: Row[] = []
  const all = await Promise.all(contenders().map((open) => open(settings)))
  // One after the other in every case, so that a machine whose speed changes changes it for all.
  for (const contender of all) await warmUp(contender, settings.slots)
  const chosen = new RegExp(process.env.HOLDFAST_BENCH_CASES ?? '')
  for (const [name, measure] of Object.entries(casesOf(answerTokens)))
    for (let round = 0; round < rounds && chosen.test(name); round += 1)
      for (const contender of all) await measure(contender, await calibratedPrompts(contender), noteIn(rows, model, contender))
  for (const contender of all) await contender.close()
  return rows
}

/** Touches the memory of every slot and of the largest batch once: the first touch is slow on virtual machines. */
async function warmUp(contender: Contender, slots: number): Promise<void> {
  const streams = Array.from({ length: slots }, (_, slot) => new Stream(contender, words(slot === 0 ? 300 : 8), 4, slot))
  await Promise.all(streams.map(({ ended }) => ended))
}

/** HOLDFAST_BENCH_CASES, a regular expression, chooses among their names. */
type Case = (contender: Contender, prompts: Prompts, note: Note) => Promise<void>

function casesOf(answerTokens: number): Record<string, Case> {
  const cases: Record<string, Case> = {}
  for (const count of STREAM_COUNTS)
    cases[`streams-${count}`] = (contender, prompts, note) => measureStreams(contender, count, answerTokens, prompts, note)
  const scattered: Case = (contender, prompts, note) => measureScattered(contender, answerTokens, prompts, note)
  // `gone` comes last: llama-server says at once that it dropped the client and goes on computing its prompt for seconds.
  return { ...cases, scattered, newcomer: measureNewcomer, common: measureCommonPrompt, gone: measureClientGone }
}

function noteIn(rows: Row[], model: string, contender: Contender): Note {
  return (name, what, unit, better, figure) => {
    const row = rows.find((row) => row.case === name && row.what === what) ?? { model, case: name, what, unit, better, figures: new Map() }
    if (!rows.includes(row)) rows.push(row)
    row.figures.set(contender.name, [...(row.figures.get(contender.name) ?? []), figure])
    console.error(`${model} · ${name} · ${what} · ${contender.name}: ${figure.toFixed(2)} ${unit}`)
  }
}

function contenders(): ((settings: ContenderSettings) => Promise<Contender>)[] {
  const server = process.env.HOLDFAST_BENCH_LLAMA_SERVER
  return [
    openEngine,
    openFreeRunning,
    ...(server === undefined ? [] : [(settings: ContenderSettings) => openLlamaServer(server, settings)]),
  ]
}

type Note = (name: string, what: string, unit: string, better: Row['better'], figure: number) => void

/** A prompt of about so many tokens; every one is different from its first word on. */
type Prompts = (tokens: number) => string

async function measureStreams(contender: Contender, count: number, answerTokens: number, prompts: Prompts, note: Note): Promise<void> {
  const startedAt = wallClock()
  const streams = Array.from({ length: count }, (_, slot) => new Stream(contender, prompts(PROMPT_TOKENS), answerTokens, slot))
  await Promise.all(streams.map(({ ended }) => ended))
  const name = `${count} ${count === 1 ? 'stream' : 'streams'}`
  const gaps = streams.flatMap((stream) => stream.gapsMs())
  note(name, 'speed', 'tokens/s', 'more', tokensPerSecond(streams, startedAt))
  note(
    name,
    'first token, median',
    'ms',
    'less',
    quantile(
      streams.map((stream) => stream.firstTokenMs()),
      0.5,
    ),
  )
  note(name, 'gap between tokens, median', 'ms', 'less', quantile(gaps, 0.5))
  note(name, 'gap between tokens, 99 %', 'ms', 'less', quantile(gaps, 0.99))
}

/** Sixteen streams of which every other one leaves: the other eight sit in slots 0, 2, 4 … */
async function measureScattered(contender: Contender, answerTokens: number, prompts: Prompts, note: Note): Promise<void> {
  const streams = Array.from({ length: 16 }, (_, slot) => new Stream(contender, prompts(PROMPT_TOKENS), 2 * answerTokens, slot))
  await Promise.all(streams.map((stream) => stream.reaches(8)))
  const leaving = streams.filter((_, slot) => slot % 2 === 1)
  for (const stream of leaving) stream.cancel()
  await Promise.all(leaving.map(({ ended }) => ended))
  const staying = streams.filter((stream) => !leaving.includes(stream))
  const startedAt = wallClock()
  const before = staying.reduce((sum, { times }) => sum + times.length, 0)
  await Promise.all(staying.map(({ ended }) => ended))
  const after = staying.reduce((sum, { times }) => sum + times.length, 0)
  note('8 streams in scattered slots', 'speed', 'tokens/s', 'more', ((after - before) / (wallClock() - startedAt)) * 1000)
}

async function measureNewcomer(contender: Contender, prompts: Prompts, note: Note): Promise<void> {
  const busy = Array.from({ length: 15 }, (_, slot) => new Stream(contender, prompts(PROMPT_TOKENS), 400, slot))
  await Promise.all(busy.map((stream) => stream.reaches(4)))
  const newcomer = new Stream(contender, prompts(NEWCOMER_TOKENS), 4, 15)
  await newcomer.ended
  for (const stream of busy) stream.cancel()
  await Promise.all(busy.map(({ ended }) => ended))
  const name = `newcomer of ${NEWCOMER_TOKENS} beside 15`
  note(name, 'its first token', 'ms', 'less', newcomer.firstTokenMs())
  note(
    name,
    "the others' longest gap",
    'ms',
    'less',
    Math.max(...busy.map((stream) => stream.longestGapMs(newcomer.startedAt, newcomer.times[0]!))),
  )
}

async function measureClientGone(contender: Contender, prompts: Prompts, note: Note): Promise<void> {
  const stream = new Stream(contender, prompts(NEWCOMER_TOKENS), 4, 0)
  await new Promise((resolve) => setTimeout(resolve, 30))
  const goneAt = wallClock()
  stream.cancel()
  await stream.ended
  note(`client of ${NEWCOMER_TOKENS} tokens gone in prefill`, 'slot free after', 'ms', 'less', stream.endedAt - goneAt)
}

async function measureCommonPrompt(contender: Contender, prompts: Prompts, note: Note): Promise<void> {
  const common = prompts(COMMON_TOKENS)
  const startedAt = wallClock()
  const streams = Array.from({ length: 4 }, (_, slot) => new Stream(contender, `${common} ${prompts(16)}`, 32, slot))
  await Promise.all(streams.map(({ ended }) => ended))
  const name = `4 cold slots, ${COMMON_TOKENS} tokens in common`
  note(name, 'speed', 'tokens/s', 'more', tokensPerSecond(streams, startedAt))
  note(name, 'first token, last of all', 'ms', 'less', Math.max(...streams.map((stream) => stream.firstTokenMs())))
}

/** One stream and when its tokens came. */
class Stream {
  readonly startedAt = wallClock()
  readonly times: number[] = []
  readonly ended: Promise<void>
  endedAt = 0
  promptTokens = 0
  readonly cancel: () => void
  readonly #waiting: { tokens: number; resolve: () => void }[] = []

  constructor(contender: Contender, prompt: string, maxTokens: number, slot: number) {
    const end = Promise.withResolvers<void>()
    this.ended = end.promise
    const generation = contender.start(prompt, maxTokens, slot, {
      token: (at) => {
        this.times.push(at)
        for (const { tokens, resolve } of this.#waiting) if (this.times.length >= tokens) resolve()
      },
      end: (at, promptTokens) => {
        this.endedAt = at
        this.promptTokens = promptTokens
        for (const { resolve } of this.#waiting) resolve()
        end.resolve()
      },
    })
    this.cancel = () => generation.cancel()
  }

  reaches(tokens: number): Promise<void> {
    return new Promise((resolve) => this.#waiting.push({ tokens, resolve }))
  }

  firstTokenMs(): number {
    return this.times[0]! - this.startedAt
  }

  gapsMs(): number[] {
    return this.times.slice(1).map((time, index) => time - this.times[index]!)
  }

  /** The longest wait for a token that touches this stretch of time. */
  longestGapMs(from: number, to: number): number {
    return Math.max(0, ...this.gapsMs().filter((_, index) => this.times[index + 1]! >= from && this.times[index]! <= to))
  }
}

function tokensPerSecond(streams: readonly Stream[], startedAt: number): number {
  const tokens = streams.reduce((sum, { times }) => sum + times.length, 0)
  return (tokens / (Math.max(...streams.map(({ endedAt }) => endedAt)) - startedAt)) * 1000
}

function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((left, right) => left - right)
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN
}

const WORDS =
  'a worker reads the prompt and writes one token after another while the queue holds what cannot run yet in every slot of model'.split(' ')

/** Words by chance, as many as make so many tokens with this model's vocabulary. */
async function calibratedPrompts(contender: Contender): Promise<Prompts> {
  const probe = new Stream(contender, words(200), 1, 0)
  await probe.ended
  const tokensPerWord = probe.promptTokens / 200
  return (tokens) => words(Math.max(1, Math.round(tokens / tokensPerWord)))
}

function words(count: number): string {
  return Array.from({ length: count }, () => WORDS[Math.floor(Math.random() * WORDS.length)]).join(' ')
}

function table(rows: readonly Row[]): string {
  const peers = [...new Set(rows.flatMap(({ figures }) => [...figures.keys()]))].filter((name) => name !== 'holdfast')
  const head = ['model', 'case', 'figure', 'unit', 'holdfast', ...peers.flatMap((peer) => [peer, `× ${peer}`])]
  const lines = rows.map(({ model, case: name, what, unit, better, figures }) => {
    const ours = quantile(figures.get('holdfast') ?? [], 0.5)
    const beside = peers.flatMap((peer) => {
      const theirs = quantile(figures.get(peer) ?? [], 0.5)
      return [shown(theirs), (better === 'more' ? ours / theirs : theirs / ours).toFixed(2)]
    })
    return [model, name, what, unit, shown(ours), ...beside]
  })
  return [head, head.map(() => '---'), ...lines].map((cells) => `| ${cells.join(' | ')} |`).join('\n')
}

function shown(figure: number): string {
  return figure < 10 ? figure.toFixed(2) : figure.toFixed(0)
}

if (import.meta.main) await run()
