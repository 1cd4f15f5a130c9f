import { writeWhole } from '../proto/whole-file.ts'
import { encodeGguf, type GgufValue } from './tiny-model/gguf.ts'
import { buildNetwork } from './tiny-model/network.ts'
import { FEED_FORWARD, HEAD_SIZE, HEADS, KEY_VALUE_HEADS, ROPE_BASE, WIDTH } from './tiny-model/shape.ts'
import { BEGIN, buildVocabulary, TURN_END, UNKNOWN, type Vocabulary } from './tiny-model/vocabulary.ts'

/**
 * Writes the built-in toy model, a GGUF file of under a megabyte that any llama.cpp reads: to try the plumbing with, not
 * to talk to. It knows one story by heart and opens it by what the prompt is about. The bytes are the same on
 * every host, so that workers on different hosts can continue each other's answers.
 */
export function writeTinyModel(path: string, chatTemplate = CHAT_TEMPLATE): void {
  writeWhole(path, encodeTinyModel(chatTemplate), 0o644)
}

/** Another template makes another model of it, for trying what templates bring about. */
export function encodeTinyModel(chatTemplate = CHAT_TEMPLATE): Buffer {
  const vocabulary = buildVocabulary()
  return encodeGguf({ metadata: metadataOf(vocabulary, chatTemplate), tensors: buildNetwork(vocabulary) })
}

const CONTEXT_TOKENS = 8192

const CHAT_TEMPLATE =
  "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"

function metadataOf(vocabulary: Vocabulary, chatTemplate: string): Record<string, GgufValue> {
  return {
    'general.architecture': string('llama'),
    'general.name': string('Holdfast toy'),
    'general.license': string('apache-2.0'),
    'general.alignment': uint32(32),
    'general.file_type': uint32(0),
    'llama.context_length': uint32(CONTEXT_TOKENS),
    'llama.embedding_length': uint32(WIDTH),
    'llama.block_count': uint32(1),
    'llama.feed_forward_length': uint32(FEED_FORWARD),
    'llama.attention.head_count': uint32(HEADS),
    'llama.attention.head_count_kv': uint32(KEY_VALUE_HEADS),
    'llama.attention.key_length': uint32(HEAD_SIZE),
    'llama.attention.value_length': uint32(HEAD_SIZE),
    'llama.attention.layer_norm_rms_epsilon': { kind: 'float32', value: 1e-5 },
    'llama.rope.dimension_count': uint32(HEAD_SIZE),
    'llama.rope.freq_base': { kind: 'float32', value: ROPE_BASE },
    'llama.vocab_size': uint32(vocabulary.pieces.length),
    ...tokenizerMetadata(vocabulary),
    'tokenizer.chat_template': string(chatTemplate),
  }
}

/** Every network over the toy's vocabulary says this of it. */
export function tokenizerMetadata({ pieces, types, scores, idOf }: Vocabulary): Record<string, GgufValue> {
  return {
    'tokenizer.ggml.model': string('llama'),
    'tokenizer.ggml.tokens': { kind: 'strings', value: pieces },
    'tokenizer.ggml.scores': { kind: 'float32s', value: scores },
    'tokenizer.ggml.token_type': { kind: 'int32s', value: types },
    'tokenizer.ggml.bos_token_id': uint32(idOf(BEGIN)),
    'tokenizer.ggml.eos_token_id': uint32(idOf(TURN_END)),
    'tokenizer.ggml.unknown_token_id': uint32(idOf(UNKNOWN)),
    'tokenizer.ggml.add_bos_token': { kind: 'bool', value: true },
    'tokenizer.ggml.add_eos_token': { kind: 'bool', value: false },
    'tokenizer.ggml.add_space_prefix': { kind: 'bool', value: true },
  }
}

function string(value: string): GgufValue {
  return { kind: 'string', value }
}

function uint32(value: number): GgufValue {
  return { kind: 'uint32', value }
}
