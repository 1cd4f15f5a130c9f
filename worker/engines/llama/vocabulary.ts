/** The part of a GGUF file's tokenizer that says which bytes each token stands for. */
export type VocabularySource = { model: string; tokens: readonly string[]; types: readonly number[] | undefined }

/** Types of tokens in a GGUF vocabulary (llama.cpp's `llama_token_type`). */
const UNKNOWN = 2
const CONTROL = 3
const USER_DEFINED = 4
const BYTE = 6

/**
 * The bytes of every token, as llama.cpp's `llama_token_to_piece` gives them without special tokens. Detokenising token
 * by token through strings would lose characters whose bytes are spread over several tokens. Returns undefined for
 * tokenizers whose pieces are not known here.
 */
export function bytesOfTokens(source: VocabularySource): Uint8Array[] | undefined {
  const bytesOfPiece = PIECES[source.model]
  if (bytesOfPiece === undefined) return undefined
  return source.tokens.map((piece, id) => bytesOfToken(piece, source.types?.[id], bytesOfPiece))
}

export function mostBytes(bytesOfTokens: readonly Uint8Array[]): number {
  return bytesOfTokens.reduce((most, bytes) => Math.max(most, bytes.length), 0)
}

type BytesOfPiece = (piece: string, type: number | undefined) => Uint8Array

const encoder = new TextEncoder()

const PIECES: Record<string, BytesOfPiece> = { llama: sentencePiece, t5: sentencePiece, gpt2: byteLevelPiece }

function bytesOfToken(piece: string, type: number | undefined, bytesOfPiece: BytesOfPiece): Uint8Array {
  if (type === UNKNOWN || type === CONTROL) return new Uint8Array()
  if (type === USER_DEFINED) return encoder.encode(piece)
  return bytesOfPiece(piece, type)
}

/** SentencePiece writes a space as ▁ and a single byte as <0xHH>. */
function sentencePiece(piece: string, type: number | undefined): Uint8Array {
  if (type === BYTE) return Uint8Array.of(Number.parseInt(piece.slice(3, 5), 16))
  return encoder.encode(piece.replaceAll('▁', ' '))
}

/** GPT-2's vocabulary writes every byte as one printable character. */
function byteLevelPiece(piece: string): Uint8Array {
  const bytes = Array.from(piece, (character) => BYTE_OF_CHARACTER.get(character))
  return bytes.includes(undefined) ? encoder.encode(piece) : Uint8Array.from(bytes as number[])
}

/** GPT-2's own table: printable Latin-1 stands for itself, the other bytes for the characters from U+0100 on, in order. */
const BYTE_OF_CHARACTER = byteOfCharacter()

function byteOfCharacter(): Map<string, number> {
  const table = new Map<string, number>()
  let next = 0x100
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae
    table.set(String.fromCodePoint(printable ? byte : next++), byte)
  }
  return table
}
