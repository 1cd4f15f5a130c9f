import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { TextAssembler } from '../worker/engines/text.ts'

describe('text released while an answer grows', () => {
  test('is the whole text, however tokens cut its bytes', () => {
    fc.assert(
      fc.property(texts, cuts, (text, cuts) => {
        expect(released(pieces(bytes(text), cuts), []).join('')).toBe(text)
      }),
    )
  })

  test('ends before the same stop string, however tokens cut its bytes', () => {
    fc.assert(
      fc.property(texts, stops, cuts, cuts, (text, stops, some, others) => {
        expect(released(pieces(bytes(text), some), stops).join('')).toBe(released(pieces(bytes(text), others), stops).join(''))
      }),
    )
  })

  test('is what comes before the stop string that is complete first', () => {
    fc.assert(
      fc.property(texts, stops, cuts, (text, stops, cuts) => {
        expect(released(pieces(bytes(text), cuts), stops).join('')).toBe(untilFirstComplete(text, stops))
      }),
    )
  })

  test('never holds half a character', () => {
    fc.assert(
      fc.property(texts, stops, cuts, (text, stops, cuts) => {
        for (const piece of released(pieces(bytes(text), cuts), stops)) expect(piece.isWellFormed()).toBe(true)
      }),
    )
  })

  test('replaces invalid bytes as decoding all of them at once would', () => {
    fc.assert(
      fc.property(fc.uint8Array(), cuts, (invalid, cuts) => {
        expect(released(pieces(invalid, cuts), []).join('')).toBe(new TextDecoder('utf-8', { ignoreBOM: true }).decode(invalid))
      }),
    )
  })

  test('waits for the rest of a character and of what may be a stop string', () => {
    const assembler = new TextAssembler(['END'])
    expect(assembler.feed(bytes('é').slice(0, 1))).toBe('')
    expect(assembler.feed(bytes('é').slice(1))).toBe('é')
    expect(assembler.feed(bytes('tall EN'))).toBe('tall ')
    expect(assembler.feed(bytes('Dless'))).toBe('')
    expect(assembler.stopped).toBe(true)
    expect(assembler.end()).toBe('')
  })

  test('lets go at the end of what only looked like a stop string', () => {
    const assembler = new TextAssembler(['END'])
    expect(assembler.feed(bytes('tall EN'))).toBe('tall ')
    expect(assembler.end()).toBe('EN')
  })

  test('knows nothing of an empty stop string', () => {
    expect(released([bytes('abc')], ['']).join('')).toBe('abc')
  })
})

// A small alphabet makes stop strings likely to begin, to overlap and to be complete.
const letters = fc.constantFrom('a', 'b', ' ', 'é', '語', '🎉')
const texts = fc.string({ unit: letters, maxLength: 40 })
const stops = fc.array(fc.string({ unit: letters, minLength: 1, maxLength: 4 }), { maxLength: 4 })
const cuts = fc.array(fc.integer({ min: 1, max: 7 }), { minLength: 1, maxLength: 5 })

function bytes(text: string): Uint8Array {
  return new TextEncoder().encode(text)
}

/** The bytes in pieces of these lengths, over and over. */
function pieces(all: Uint8Array, lengths: readonly number[]): Uint8Array[] {
  const parts: Uint8Array[] = []
  for (let at = 0, turn = 0; at < all.length; turn++) {
    const length = lengths[turn % lengths.length]!
    parts.push(all.slice(at, at + length))
    at += length
  }
  return parts
}

function released(pieces: readonly Uint8Array[], stops: readonly string[]): string[] {
  const assembler = new TextAssembler(stops)
  return [...pieces.map((piece) => assembler.feed(piece)), assembler.end()]
}

/** The rule again, in the slowest and plainest way: look at the text one character at a time. */
function untilFirstComplete(text: string, stops: readonly string[]): string {
  let seen = ''
  for (const character of text) {
    seen += character
    const complete = stops.filter((stop) => seen.endsWith(stop)).sort((left, right) => right.length - left.length)[0]
    if (complete !== undefined) return seen.slice(0, -complete.length)
  }
  return text
}
