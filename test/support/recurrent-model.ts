import { writeFileSync } from 'node:fs'
import { encodeGguf, type GgufTensor, type GgufValue } from '../../worker/tiny-model/gguf.ts'
import { tokenizerMetadata } from '../../worker/tiny-model.ts'
import { buildVocabulary } from '../../worker/tiny-model/vocabulary.ts'

const WIDTH = 32
const INNER = 2 * WIDTH
const CONVOLUTION = 4
const STATE = 8
const RANK = 2
const BLOCKS = 2

/** A small Mamba network with weights by chance: its words mean nothing, and its state forgets no single token. */
export function writeRecurrentModel(path: string): void {
  const vocabulary = buildVocabulary()
  const text = (value: string): GgufValue => ({ kind: 'string', value })
  const count = (value: number): GgufValue => ({ kind: 'uint32', value })
  const metadata: Record<string, GgufValue> = {
    'general.architecture': text('mamba'),
    'mamba.context_length': count(16_384),
    'mamba.embedding_length': count(WIDTH),
    'mamba.feed_forward_length': count(0),
    'mamba.attention.head_count': count(0),
    'mamba.block_count': count(BLOCKS),
    'mamba.ssm.conv_kernel': count(CONVOLUTION),
    'mamba.ssm.inner_size': count(INNER),
    'mamba.ssm.state_size': count(STATE),
    'mamba.ssm.time_step_rank': count(RANK),
    'mamba.attention.layer_norm_rms_epsilon': { kind: 'float32', value: 1e-5 },
    ...tokenizerMetadata(vocabulary),
  }
  writeFileSync(path, encodeGguf({ metadata, tensors: tensors(vocabulary.pieces.length) }))
}

function tensors(tokens: number): GgufTensor[] {
  let state = 0x1234567
  const draw = (): number => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) / 2 ** 31 - 1
  }
  const matrix = (name: string, dimensions: number[], scale: number): GgufTensor => ({
    name,
    dimensions,
    values: Float32Array.from({ length: dimensions.reduce((product, size) => product * size, 1) }, () => draw() * scale),
  })
  const level = (name: string, dimensions: number[], value: number): GgufTensor => ({
    ...matrix(name, dimensions, 0),
    values: new Float32Array(dimensions.reduce((product, size) => product * size, 1)).fill(value),
  })
  const blocks = Array.from({ length: BLOCKS }, (_, block) => [
    level(`blk.${block}.attn_norm.weight`, [WIDTH], 1),
    matrix(`blk.${block}.ssm_in.weight`, [WIDTH, 2 * INNER], 0.5),
    matrix(`blk.${block}.ssm_conv1d.weight`, [CONVOLUTION, INNER], 0.7),
    matrix(`blk.${block}.ssm_conv1d.bias`, [INNER], 0.1),
    matrix(`blk.${block}.ssm_x.weight`, [INNER, RANK + 2 * STATE], 0.5),
    matrix(`blk.${block}.ssm_dt.weight`, [RANK, INNER], 0.5),
    matrix(`blk.${block}.ssm_dt.bias`, [INNER], 0.1),
    level(`blk.${block}.ssm_a`, [STATE, INNER], -0.3),
    level(`blk.${block}.ssm_d`, [INNER], 1),
    matrix(`blk.${block}.ssm_out.weight`, [INNER, WIDTH], 0.5),
  ])
  return [
    matrix('token_embd.weight', [WIDTH, tokens], 1),
    ...blocks.flat(),
    level('output_norm.weight', [WIDTH], 1),
    matrix('output.weight', [WIDTH, tokens], 0.6),
  ]
}
