/** A value in a GGUF header, by the type it is written as. */
export type GgufValue =
  | { kind: 'uint32'; value: number }
  | { kind: 'float32'; value: number }
  | { kind: 'bool'; value: boolean }
  | { kind: 'string'; value: string }
  | { kind: 'int32s'; value: readonly number[] }
  | { kind: 'float32s'; value: readonly number[] }
  | { kind: 'strings'; value: readonly string[] }

/** `dimensions` begin with the fastest one: a matrix of 3 rows and 5 columns is [5, 3]. */
export type GgufTensor = { name: string; dimensions: readonly number[]; values: Float32Array }

export type GgufFile = { metadata: Readonly<Record<string, GgufValue>>; tensors: readonly GgufTensor[] }

/** The bytes of a GGUF file, version 3, little endian (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). */
export function encodeGguf({ metadata, tensors }: GgufFile): Buffer {
  const entries = Object.entries(metadata)
  const head = [Buffer.from('GGUF'), uint32(3), uint64(tensors.length), uint64(entries.length)]
  for (const [key, value] of entries) head.push(text(key), ...valueWithType(value))
  let offset = 0
  for (const tensor of tensors) {
    head.push(...tensorInfo(tensor, offset))
    offset += aligned(tensor.values.byteLength)
  }
  return Buffer.concat([padded(Buffer.concat(head)), ...tensors.map(({ values }) => padded(littleEndian(values)))])
}

/** Where tensors begin, counted from the end of the header. */
const ALIGNMENT = 32

const TYPE = { uint32: 4, int32: 5, float32: 6, bool: 7, string: 8, array: 9 } as const

const TENSOR_OF_FLOAT32 = 0

function valueWithType(value: GgufValue): Buffer[] {
  if (value.kind === 'uint32') return [uint32(TYPE.uint32), uint32(value.value)]
  if (value.kind === 'float32') return [uint32(TYPE.float32), float32(value.value)]
  if (value.kind === 'bool') return [uint32(TYPE.bool), Buffer.of(value.value ? 1 : 0)]
  if (value.kind === 'string') return [uint32(TYPE.string), text(value.value)]
  if (value.kind === 'int32s') return array(TYPE.int32, value.value.map(int32))
  if (value.kind === 'float32s') return array(TYPE.float32, value.value.map(float32))
  return array(TYPE.string, value.value.map(text))
}

function array(elementType: number, elements: readonly Buffer[]): Buffer[] {
  return [uint32(TYPE.array), uint32(elementType), uint64(elements.length), ...elements]
}

function tensorInfo({ name, dimensions }: GgufTensor, offset: number): Buffer[] {
  return [text(name), uint32(dimensions.length), ...dimensions.map(uint64), uint32(TENSOR_OF_FLOAT32), uint64(offset)]
}

function aligned(length: number): number {
  return Math.ceil(length / ALIGNMENT) * ALIGNMENT
}

function padded(bytes: Buffer): Buffer {
  return Buffer.concat([bytes], aligned(bytes.length))
}

function littleEndian(values: Float32Array): Buffer {
  const bytes = Buffer.alloc(values.byteLength)
  for (const [index, value] of values.entries()) bytes.writeFloatLE(value, index * 4)
  return bytes
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(value)
  return bytes
}

function int32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeInt32LE(value)
  return bytes
}

function float32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeFloatLE(value)
  return bytes
}

function uint64(value: number): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(BigInt(value))
  return bytes
}

function text(value: string): Buffer {
  const bytes = Buffer.from(value)
  return Buffer.concat([uint64(bytes.length), bytes])
}
