import { once } from 'node:events'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type CoordinatorEnd, type LinkServer, serveLink } from '../proto/link.ts'
import type { GenerationRequest } from '../proto/request.ts'
import type { Engine, GenerationSink } from '../worker/engines/engine.ts'
import { CoordinatorLink } from '../worker/link.ts'
import { drawsAnew, requestOfAttempt } from '../worker/seeds.ts'
import { Slots } from '../worker/slots.ts'

const REQUEST: GenerationRequest = { prompt: { kind: 'text', text: 'x' }, stop: [], sampling: {}, seed: 42 }
const CHOSEN: GenerationRequest = { ...REQUEST, seedIsChosen: true }

describe('the seed of an attempt', () => {
  const seeds = (request: GenerationRequest, forcedTokens: number): number[] =>
    [1, 2, 3, 4, 5].map((attempt) => requestOfAttempt(request, attempt, forcedTokens).seed)

  test('that begins the answer anew is another one each time, where Holdfast chose it', () => {
    expect(seeds(CHOSEN, 0)[0]).toBe(42)
    expect(new Set(seeds(CHOSEN, 0)).size).toBe(5)
    expect(seeds(CHOSEN, 0)).toEqual(seeds(CHOSEN, 0))
    for (const seed of seeds(CHOSEN, 0)) expect(seed).toBe(seed >>> 0)
  })

  test('is the caller’s own where the caller gave it, and the first one where the answer goes on', () => {
    expect(seeds(REQUEST, 0)).toEqual([42, 42, 42, 42, 42])
    expect(seeds(CHOSEN, 7)).toEqual([42, 42, 42, 42, 42])
  })

  test('can change the answer only where chance has a say', () => {
    expect(drawsAnew(CHOSEN)).toBe(true)
    expect(drawsAnew({ ...CHOSEN, sampling: { temperature: 0.7 } })).toBe(true)
    expect(drawsAnew({ ...CHOSEN, sampling: { temperature: 0 } })).toBe(false)
    expect(drawsAnew(REQUEST)).toBe(false)
  })
})

describe('a worker that is given an attempt', () => {
  const heard: number[] = []
  let server: LinkServer
  let link: CoordinatorLink
  let coordinator: CoordinatorEnd

  beforeAll(async () => {
    const session = Promise.withResolvers<CoordinatorEnd>()
    server = await serveLink(
      '127.0.0.1:0',
      () => true,
      (end) => session.resolve(end),
    )
    const slots = new Slots()
    slots.add({ name: 'm', kind: 'fake', engine: echo(heard) })
    link = new CoordinatorLink(`127.0.0.1:${server.port}`, 'token', slots, {
      id: 'worker',
      name: 'worker',
      session: 'session',
      version: '0',
      log: { info: () => {}, warn: () => {} },
      models: () => [],
      host: () => ({}),
      onDrain: () => {},
      onConnected: () => {},
      onWelcomed: () => {},
      giveUp: () => undefined,
    })
    link.open()
    coordinator = await session.promise
    coordinator.write({ welcome: { heartbeatIntervalMs: 60_000 } })
  })

  afterAll(async () => {
    coordinator.end()
    await link.close()
    await server.close()
  })

  test('hands the engine the seed of that attempt', async () => {
    const attempts = [
      { job: 'a', attempt: 1, request: CHOSEN, continuation: [] },
      { job: 'a', attempt: 2, request: CHOSEN, continuation: [] },
      { job: 'b', attempt: 2, request: CHOSEN, continuation: [5] },
      { job: 'c', attempt: 2, request: REQUEST, continuation: [] },
    ]
    for (const { request, ...start } of attempts) coordinator.write({ start: { ...start, model: 'm', request: JSON.stringify(request) } })
    while (heard.length < attempts.length) await once(coordinator, 'data')
    expect(heard).toEqual([42, requestOfAttempt(CHOSEN, 2, 0).seed, 42, 42])
    expect(heard[1]).not.toBe(42)
  })

  test('goes when its last word was heard', async () => {
    let heardAll = false
    coordinator.on('end', () => {
      setTimeout(() => {
        heardAll = true
        coordinator.end()
      }, 100)
    })
    await link.close()
    expect(heardAll).toBe(true)
  })
})

/** An engine that notes the seeds it is given and ends at once. */
function echo(heard: number[]): Engine {
  const state = { phase: 'ready', detail: '', slots: 8, contextTokens: 0, maxTokenBytes: 0, sha256: '', sizeBytes: 0, restarts: 0 } as const
  return {
    state: () => ({ ...state, abilities: [] }),
    generate: (_key, { seed }, _continuation, sink: GenerationSink) => {
      heard.push(seed)
      sink.finished({ reason: 'stop', text: '', promptTokens: 1, completionTokens: 0, cachedTokens: 0 })
      return { cancel: () => {} }
    },
    close: async () => {},
  }
}
