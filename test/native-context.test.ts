import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { NativeContext } from '../worker/engines/llama/native-context.ts'
import { NoTokenLeft } from '../worker/engines/llama/sequence.ts'

/** Stands for node-llama-cpp's objects, as far as they are looked into; notes what was asked of them, in order. */
function nativeParts({ decode, sample }: { decode: () => Promise<void>; sample: (place: number) => Promise<unknown> }) {
  const asked: string[] = []
  let places = 0
  class AddonSampler {
    static acceptGrammarEvaluationStateToken(): void {}
    applyConfig(): void {}
    dispose(): void {}
  }
  const context = {
    initBatch: (tokens: number) => {
      places = 0
      asked.push(`batch of ${tokens}`)
    },
    addToBatch: (sequence: number, position: number, tokens: Uint32Array, drawn: Uint32Array) => {
      asked.push(`${sequence} at ${position}: ${[...tokens].join(' ')}, drawn behind ${[...drawn].join(' ')}`)
      const first = places
      places += tokens.length
      return drawn.map((index) => first + index)
    },
    decodeBatch: () => {
      asked.push('computed')
      return decode()
    },
    sampleToken: (place: number) => {
      asked.push(`drawn behind ${place}`)
      return sample(place)
    },
  }
  const parts = [{ _bindings: { AddonSampler } }, { _model: {} }, { _ctx: context }] as unknown as ConstructorParameters<
    typeof NativeContext
  >
  return { asked, context, parts, draw: { sampler: new AddonSampler(), wantsProbabilities: false } }
}

describe('a context', () => {
  beforeEach(() => {
    vi.stubEnv('UV_THREADPOOL_SIZE', '1')
  })

  afterEach(() => {
    vi.unstubAllEnvs()
  })

  test('makes one batch of what is asked for in one turn, and has its draws queued before it is computed', async () => {
    const computed = Promise.withResolvers<void>()
    const { asked, parts, draw } = nativeParts({ decode: () => computed.promise, sample: async (place) => 100 + place })
    const native = new NativeContext(...parts)
    const answers = [native.compute(0, 7, [1], [draw]), native.compute(1, 0, [2, 3, 4], []), native.compute(2, 5, [5, 6, 7], [draw, draw])]
    await Promise.resolve()
    expect(asked).toEqual([
      'batch of 7',
      '0 at 7: 1, drawn behind 0',
      '1 at 0: 2 3 4, drawn behind ',
      '2 at 5: 5 6 7, drawn behind 1 2',
      'computed',
      'drawn behind 0',
      'drawn behind 5',
      'drawn behind 6',
    ])
    computed.resolve()
    expect(await Promise.all(answers)).toEqual([[{ token: 100 }], [], [{ token: 105 }, { token: 106 }]])
  })

  test('fails all of a batch that cannot be computed, once its draws are over, and goes on', async () => {
    const drawn = Promise.withResolvers<number>()
    let works = false
    const decode = async (): Promise<void> => (works ? undefined : Promise.reject(new Error('Eval has failed')))
    const { parts, draw } = nativeParts({ decode, sample: () => drawn.promise })
    const native = new NativeContext(...parts)
    const over: string[] = []
    const answers = [native.compute(0, 0, [1], [draw]), native.compute(1, 0, [2], [draw])]
    const outcomes = answers.map((answer) => answer.catch((error: Error) => over.push(error.message)))
    // A rejection that nobody listens to yet would end the process here.
    await new Promise((resolve) => setImmediate(resolve))
    expect(over).toEqual([])
    drawn.resolve(-1)
    await Promise.all(outcomes)
    expect(over).toEqual(['Eval has failed', 'Eval has failed'])
    works = true
    expect(await native.compute(0, 0, [1], [])).toEqual([])
  })

  test('fails a draw alone, and says which ones had nothing to choose from', async () => {
    const errors = ['Failed to accept token in sampler: empty stack', 'the tensors are gone']
    const sample = async (place: number): Promise<number> => (place < 2 ? Promise.reject(new Error(errors[place])) : place === 2 ? -1 : 9)
    const { parts, draw } = nativeParts({ decode: async () => {}, sample })
    const native = new NativeContext(...parts)
    const answers = [0, 1, 2, 3].map((sequence) => native.compute(sequence, 0, [1], [draw]))
    await expect(answers[0]).rejects.toThrow(NoTokenLeft)
    await expect(answers[1]).rejects.toThrow('the tensors are gone')
    await expect(answers[2]).rejects.toThrow(NoTokenLeft)
    expect(await answers[3]).toEqual([{ token: 9 }])
  })

  test('is not opened where the library is another one, or where its calls could overtake one another', () => {
    const { parts, context } = nativeParts({ decode: async () => {}, sample: async () => 0 })
    Reflect.deleteProperty(context, 'decodeBatch')
    expect(() => new NativeContext(...parts)).toThrow(/_ctx\.decodeBatch elsewhere now: install the version/)
    vi.stubEnv('UV_THREADPOOL_SIZE', '4')
    expect(() => new NativeContext(...parts)).toThrow(/UV_THREADPOOL_SIZE=1/)
  })
})
