import type { GgufTensor } from './gguf.ts'
import { OPENINGS } from './corpus.ts'
import { trainReadout } from './readout.ts'
import { ALWAYS, CODE_SIZE, FEED_FORWARD, HEAD_SIZE, HEADS, KEY_VALUE_HEADS, ROPE_BASE, TOPIC, WIDTH } from './shape.ts'
import type { Vocabulary } from './vocabulary.ts'

/**
 * A llama network of one layer, most of it set by hand. What flows through it is four parts, all but the first one a head:
 *
 *   [ code of this token, marks ] [ code of the token before ] [ code of the one before that ] [ codes of topic words ]
 *
 * Attention fills the last three: two heads look one and two tokens back, by rotary positions alone, and one looks at
 * topic words anywhere. The readout is trained on the corpus to name the next word from the three codes.
 */
export function buildNetwork(vocabulary: Vocabulary): GgufTensor[] {
  const codes = buildCodes(vocabulary.pieces.length)
  return [
    { name: 'token_embd.weight', dimensions: [WIDTH, codes.length], values: embedding(codes, topicIds(vocabulary)) },
    { name: 'blk.0.attn_norm.weight', dimensions: [WIDTH], values: ones(WIDTH) },
    projection('blk.0.attn_q.weight', queries()),
    projection('blk.0.attn_k.weight', keys()),
    projection('blk.0.attn_v.weight', values()),
    projection('blk.0.attn_output.weight', outputs()),
    { name: 'blk.0.ffn_norm.weight', dimensions: [WIDTH], values: ones(WIDTH) },
    { name: 'blk.0.ffn_gate.weight', dimensions: [WIDTH, FEED_FORWARD], values: new Float32Array(WIDTH * FEED_FORWARD) },
    { name: 'blk.0.ffn_up.weight', dimensions: [WIDTH, FEED_FORWARD], values: new Float32Array(WIDTH * FEED_FORWARD) },
    { name: 'blk.0.ffn_down.weight', dimensions: [FEED_FORWARD, WIDTH], values: new Float32Array(WIDTH * FEED_FORWARD) },
    { name: 'output_norm.weight', dimensions: [WIDTH], values: ones(WIDTH) },
    { name: 'output.weight', dimensions: [WIDTH, codes.length], values: readout(vocabulary, codes) },
  ]
}

/** Heads, in the order of the parts they fill. */
const BACK_ONE = 0
const BACK_TWO = 1
const ABOUT = 2

/** Every token's code: signs by chance, as long as 1, so that the codes of two tokens have little in common. */
function buildCodes(tokens: number): Float64Array[] {
  const draw = xorshift(0x2545f491)
  const part = 1 / Math.sqrt(CODE_SIZE)
  return Array.from({ length: tokens }, () => Float64Array.from({ length: CODE_SIZE }, () => ((draw() & 0x4000) === 0 ? part : -part)))
}

/** Marsaglia's 32-bit generator: whole numbers only, so that every machine makes the same file. */
function xorshift(seed: number): () => number {
  let state = seed
  return () => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return state >>> 0
  }
}

function topicIds({ idOf }: Vocabulary): Set<number> {
  return new Set(Object.keys(OPENINGS).map((topic) => idOf(`▁${topic}`)))
}

function embedding(codes: readonly Float64Array[], topics: ReadonlySet<number>): Float32Array {
  const rows = new Float32Array(codes.length * WIDTH)
  for (const [token, code] of codes.entries()) {
    rows.set(code, token * WIDTH)
    rows[token * WIDTH + ALWAYS] = 1
    rows[token * WIDTH + TOPIC] = topics.has(token) ? 1 : -1
  }
  return rows
}

/** What normalising multiplies a token by: code, mark and mark each have the square 1. */
const NORMALISED = Math.sqrt(WIDTH / 3)

/** Rotary pairs of a head from the fastest on; the fast ones tell neighbours apart, the slow ones far tokens. */
const POSITION_PAIRS = 7
const POSITION_SHARPNESS = 12
const TOPIC_SHARPNESS = 6
/** The slowest pair hardly turns within the context, so that a topic counts wherever it stands. */
const TOPIC_PAIR = HEAD_SIZE / 2 - 1

/** A query turned back by the angle of d tokens meets the key of the token d earlier best. */
function queries(): Float64Array[] {
  const rows = zeroRows(HEADS * HEAD_SIZE, WIDTH)
  for (const [head, distance] of [[BACK_ONE, 1] as const, [BACK_TWO, 2] as const])
    for (let pair = 0; pair < POSITION_PAIRS; pair++) {
      const angle = distance * ROPE_BASE ** ((-2 * pair) / HEAD_SIZE)
      rows[head * HEAD_SIZE + 2 * pair]![ALWAYS] = rounded((POSITION_SHARPNESS / NORMALISED) * Math.cos(angle))
      rows[head * HEAD_SIZE + 2 * pair + 1]![ALWAYS] = rounded((-POSITION_SHARPNESS / NORMALISED) * Math.sin(angle))
    }
  rows[ABOUT * HEAD_SIZE + 2 * TOPIC_PAIR]![ALWAYS] = TOPIC_SHARPNESS / NORMALISED
  return rows
}

/** Of the keys that all heads share, each query looks at the pairs that it is about. */
function keys(): Float64Array[] {
  const rows = zeroRows(KEY_VALUE_HEADS * HEAD_SIZE, WIDTH)
  for (let pair = 0; pair < POSITION_PAIRS; pair++) rows[2 * pair]![ALWAYS] = POSITION_SHARPNESS / NORMALISED
  rows[2 * TOPIC_PAIR]![TOPIC] = TOPIC_SHARPNESS / NORMALISED
  return rows
}

function values(): Float64Array[] {
  const rows = zeroRows(KEY_VALUE_HEADS * HEAD_SIZE, WIDTH)
  for (let part = 0; part < CODE_SIZE; part++) rows[part]![part] = 1 / NORMALISED
  return rows
}

/** Each head writes into a part of its own, behind that of the token itself. */
function outputs(): Float64Array[] {
  const rows = zeroRows(WIDTH, HEADS * HEAD_SIZE)
  for (const head of [BACK_ONE, BACK_TWO, ABOUT])
    for (let part = 0; part < CODE_SIZE; part++) rows[(head + 1) * HEAD_SIZE + part]![head * HEAD_SIZE + part] = 1
  return rows
}

/** Sines may differ in their last digit between engines; the file must not. */
function rounded(value: number): number {
  return Math.round(value * 2 ** 16) / 2 ** 16
}

/** Before the readout, five to six parts have the square 1: this token's three, two codes, and some topic. */
const NORMALISED_AT_END = Math.sqrt(WIDTH / 5.3)

/** The readout learns in large steps and ends up surer than it need be; chance would hardly ever matter. */
const SOFTNESS = 0.5

function readout(vocabulary: Vocabulary, codes: readonly Float64Array[]): Float32Array {
  const rows = new Float32Array(codes.length * WIDTH)
  for (const [token, weights] of trainReadout(vocabulary, codes).entries())
    for (const [index, weight] of weights.entries()) rows[token * WIDTH + index] = rounded((weight * SOFTNESS) / NORMALISED_AT_END)
  return rows
}

function zeroRows(count: number, length: number): Float64Array[] {
  return Array.from({ length: count }, () => new Float64Array(length))
}

function projection(name: string, rows: readonly Float64Array[]): GgufTensor {
  return { name, dimensions: [rows[0]!.length, rows.length], values: Float32Array.from(rows.flatMap((row) => [...row])) }
}

function ones(length: number): Float32Array {
  return new Float32Array(length).fill(1)
}
