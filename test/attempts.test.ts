import fc from 'fast-check'
import { expect, test } from 'vitest'
import { Attempt } from '../worker/attempts.ts'

const END = { reason: 'stop' as const, text: '!', promptTokens: 3, completionTokens: 5, cachedTokens: 0 }

test('however output is gathered into chunks, and wherever it is sent again from, the text is the same', () => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.integer({ min: 1, max: 4 }), fc.string({ maxLength: 3 }), fc.boolean()), { maxLength: 40 }),
      fc.nat(5),
      (steps, forced) => {
        const attempt = new Attempt('job', 1, 'm', forced)
        let whole = ''
        let received = ''
        const boundaries: [tokens: number, text: string][] = [[forced, '']]
        let next = forced
        let made = 0
        const take = (): void => {
          const chunk = attempt.takeChunk()
          if (chunk === undefined) return
          expect(chunk.first).toBe(next)
          received += chunk.text
          next += chunk.tokenIds?.length ?? 0
          boundaries.push([next, received])
        }
        for (const [count, text, send] of steps) {
          attempt.add(
            Array.from({ length: count }, () => made++),
            text,
          )
          whole += text
          if (send) take()
        }
        expect(attempt.takeEnd()).toBeUndefined()
        attempt.finish(END)
        take()
        expect(received).toBe(whole)
        expect(attempt.takeEnd()).toMatchObject({ finished: { tokens: next, text: '!' } })
        expect(attempt.hasMore).toBe(false)
        for (const [from, before] of boundaries) {
          attempt.rewind(from)
          const again = attempt.takeChunk()
          expect(before + (again?.text ?? '')).toBe(whole)
          if (again !== undefined) expect(again.first).toBe(from)
          expect(attempt.takeEnd()).toBeDefined()
        }
      },
    ),
    { numRuns: 300 },
  )
})

test('the end waits for the text before it', () => {
  const attempt = new Attempt('job', 1, 'm', 0)
  attempt.add([1], 'a')
  attempt.finish(END)
  expect(attempt.takeEnd()).toBeUndefined()
  attempt.takeChunk()
  expect(attempt.takeEnd()).toBeDefined()
  expect(attempt.takeEnd()).toBeUndefined()
})

test('only the first end counts', () => {
  const attempt = new Attempt('job', 1, 'm', 0)
  attempt.fail({ layer: 'provider', code: 'worker_draining', message: 'x', retryable: true })
  attempt.finish(END)
  expect(attempt.takeEnd()).toHaveProperty('failed')
})

test('no piece is larger than a message holds, whatever the tokens released', () => {
  const attempt = new Attempt('job', 1, 'm', 0)
  for (let token = 0; token < 100; token++)
    attempt.add([token], 'x'.repeat(100_000), { kind: 'thought', text: 'y'.repeat(100_000) } as never)
  let text = ''
  let deltas = 0
  for (let chunk = attempt.takeChunk(); chunk !== undefined; chunk = attempt.takeChunk()) {
    expect((chunk.text ?? '').length + (chunk.delta ?? '').length).toBeLessThan(2 * 1024 * 1024)
    text += chunk.text ?? ''
    deltas += (JSON.parse(chunk.delta ?? '[]') as unknown[]).length
  }
  expect([text.length, deltas]).toEqual([10_000_000, 100])
})

test('an answer that no message could hold fails, and says what to do', () => {
  const attempt = new Attempt('job', 1, 'm', 0)
  attempt.finish({ ...END, text: 'x'.repeat(50 * 1024 * 1024) })
  expect(attempt.takeEnd()).toMatchObject({ failed: { code: 'answer_too_large', retryable: false } })
  const vectors = new Attempt('job', 1, 'm', 0)
  vectors.add([0], 'x'.repeat(50 * 1024 * 1024))
  vectors.finish(END)
  expect([vectors.takeChunk(), vectors.takeEnd()]).toMatchObject([undefined, { failed: { code: 'answer_too_large' } }])
  const thought = new Attempt('job', 1, 'm', 0)
  thought.add([0], '', { reasoning: 'x'.repeat(50 * 1024 * 1024) })
  expect([thought.takeChunk(), thought.takeEnd()]).toMatchObject([undefined, { failed: { code: 'answer_too_large' } }])
})
