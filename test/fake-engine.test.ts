import { expect, test } from 'vitest'
import type { GenerationRequest } from '../proto/request.ts'
import type { Engine, GenerationEnd, GenerationFailure } from '../worker/engines/engine.ts'
import { openFakeEngine } from '../worker/engines/fake.ts'

/** The fake must be as good as a real one where the coordinator's tests lean on it. */

const options = { name: 'f', slots: 2, contextTokens: 0, rate: 0, firstTokenMs: 0 }

test('its text is a pure function of prompt and position: continued anywhere it is the same', async () => {
  const engine = openFakeEngine(options, () => {})
  const whole = await generate(engine, ask('hello', { maxTokens: 50 }))
  for (const cut of [1, 7, 31, 49, 50]) {
    const rest = await generate(engine, ask('hello', { maxTokens: 50 }), whole.ids.slice(0, cut))
    const before = whole.words.slice(0, cut).join(' ')
    expect(before + rest.text).toBe(whole.text)
    expect(rest.end).toMatchObject({ reason: 'length', completionTokens: 50 })
  }
  expect((await generate(engine, ask('other', { maxTokens: 50 }))).text).not.toBe(whole.text)
  await engine.close()
})

test('a stop string that crosses the cut of a continuation is still found', async () => {
  const engine = openFakeEngine(options, () => {})
  const whole = await generate(engine, ask('hello', { maxTokens: 20 }))
  const stop = `${whole.words[9]} ${whole.words[10]}`
  const stopped = await generate(engine, ask('hello', { maxTokens: 20, stop: [stop] }))
  expect(stopped.end?.reason).toBe('stop')
  for (const cut of [8, 9, 10]) {
    const rest = await generate(engine, ask('hello', { maxTokens: 20, stop: [stop] }), whole.ids.slice(0, cut))
    expect(rest.end?.reason).toBe('stop')
    expect(whole.text.startsWith(stopped.text)).toBe(true)
    expect(stopped.text.endsWith(rest.text)).toBe(true)
  }
  await engine.close()
})

test('the seed counts, but not at temperature 0', async () => {
  const engine = openFakeEngine(options, () => {})
  const text = async (seed: number, temperature: number) => (await generate(engine, { ...ask('x'), seed, sampling: { temperature } })).text
  expect(await text(1, 1)).not.toBe(await text(2, 1))
  expect(await text(1, 0)).toBe(await text(2, 0))
  await engine.close()
})

test('a crash fails everything that runs, offers no slots, and comes back', async () => {
  let states = 0
  let back: () => void = () => {}
  const returned = new Promise<void>((resolve) => {
    back = resolve
  })
  const engine = openFakeEngine({ ...options, rate: 50, crashOn: 'CRASH' }, () => {
    states += 1
    if (engine.state().phase === 'ready') back()
  })
  const bystander = generate(engine, ask('innocent', { maxTokens: 1_000 }))
  const culprit = await generate(engine, ask('CRASH'))
  expect(culprit.failure).toMatchObject({ code: 'model_process_died', retryable: true })
  expect((await bystander).failure).toMatchObject({ code: 'model_process_died' })
  expect(engine.state()).toMatchObject({ phase: 'down', slots: 0, restarts: 1 })
  await returned
  expect([engine.state().slots, states]).toEqual([2, 2])
  await engine.close()
})

test('it stalls until cancelled, and fails when told to', async () => {
  const engine = openFakeEngine({ ...options, stallOn: 'STALL', failOn: 'FAIL' }, () => {})
  let generation: { cancel(): void } | undefined
  const stalled = new Promise<GenerationEnd>((resolve, reject) => {
    generation = engine.generate('k', ask('STALL'), [], {
      accepted: () => setImmediate(() => generation?.cancel()),
      tokens: reject,
      finished: resolve,
      failed: reject,
    })
  })
  expect((await stalled).reason).toBe('cancelled')
  expect((await generate(engine, ask('FAIL'))).failure).toMatchObject({ code: 'generation_failed', retryable: false })
  await engine.close()
})

function ask(content: string, extra: Partial<GenerationRequest> = {}): GenerationRequest {
  return { prompt: { kind: 'chat', messages: [{ role: 'user', content }] }, stop: [], sampling: { temperature: 0 }, seed: 1, ...extra }
}

type Generated = { ids: number[]; text: string; words: string[]; end?: GenerationEnd; failure?: GenerationFailure }

function generate(engine: Engine, request: GenerationRequest, continuation: number[] = []): Promise<Generated> {
  const made: Generated = { ids: [], text: '', words: [] }
  return new Promise((resolve) => {
    const done = (text: string): void => {
      made.text += text
      made.words = made.text.split(' ')
      resolve(made)
    }
    engine.generate('key', request, continuation, {
      accepted: () => {},
      tokens: (ids, text) => {
        made.ids.push(...ids)
        made.text += text
      },
      finished: (end) => {
        made.end = end
        done(end.text)
      },
      failed: (failure) => {
        made.failure = failure
        done('')
      },
    })
  })
}
