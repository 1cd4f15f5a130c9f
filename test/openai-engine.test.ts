import { setTimeout } from 'node:timers/promises'
import { afterEach, expect, test } from 'vitest'
import { isUntold } from '../coordinator/engine/worker-link.ts'
import { Answer } from '../proto/answer.ts'
import type { GenerationRequest } from '../proto/request.ts'
import { UNTOLD_TOKEN } from '../proto/wire.ts'
import type { Engine, EngineState, GenerationEnd, GenerationFailure } from '../worker/engines/engine.ts'
import { Login } from '../worker/engines/login.ts'
import { openOpenAiEngine } from '../worker/engines/openai.ts'
import { parseModels } from '../worker/models.ts'
import { NEVER, OpenAiServer } from './support/openai-server.ts'
import { World } from './support/world.ts'

const opened: { engine: Engine; changed: () => void }[] = []
afterEach(async () => {
  for (const { engine } of opened.splice(0)) await engine.close()
})

test('an answer is streamed, with its usage, in pieces without tokens', async () => {
  await using server = await OpenAiServer.open()
  const engine = await ready(server)
  const made = await generate(engine, ask('hello THINK', { tools: [{ name: 'f' }] })).done
  expect(made.failure).toBeUndefined()
  expect(made.answer.toJSON()).toMatchObject({
    text: 'Hello from upstream.',
    reasoning: 'Hm.',
    tool_calls: [{ id: 'c1', name: 'f', arguments: '{}' }],
  })
  expect(made.end).toMatchObject({ reason: 'tool_calls', promptTokens: 11, completionTokens: 3, cachedTokens: 5 })
  expect(made.ids).toEqual(Array(5).fill(UNTOLD_TOKEN))
  // By which a coordinator that knows nothing else of it knows that nobody goes on from there.
  expect([isUntold('gpu', made.ids), isUntold('gpu', [0, 1]), isUntold('gpu', [])]).toEqual([true, false, false])
  expect(server.bodies[0]).toMatchObject({ model: 'up', stream: true, stream_options: { include_usage: true }, seed: 7 })
})

test('parameters arrive under the names that the server knows', async () => {
  await using server = await OpenAiServer.open()
  const request = ask('hi', {
    maxTokens: 9,
    minTokens: 2,
    stop: ['x'],
    sampling: { temperature: 0.5, topK: 3, minP: 0.1, repeatPenalty: 1.1 },
  })
  await generate(await ready(server), request).done
  expect(server.bodies[0]).toMatchObject({
    max_tokens: 9,
    min_tokens: 2,
    stop: ['x'],
    temperature: 0.5,
    top_k: 3,
    min_p: 0.1,
    repetition_penalty: 1.1,
  })
  server.models = [{ id: 'up', owned_by: 'llamacpp' }]
  const llama = await ready(server)
  await generate(llama, request).done
  expect(server.bodies[1]).toMatchObject({ repeat_penalty: 1.1 })
  expect(server.bodies[1]).not.toHaveProperty('repetition_penalty')
  expect(llama.state().abilities).not.toContain('min_tokens')
  await generate(llama, ask('hi', { tools: [{ name: 'f' }, { name: 'g' }], toolChoice: { name: 'g' } })).done
  expect(server.bodies[2]).toMatchObject({ tools: [{ function: { name: 'g' } }], tool_choice: 'required' })
})

test('a raw text goes to completions', async () => {
  await using server = await OpenAiServer.open()
  const made = await generate(await ready(server), ask('', { prompt: { kind: 'text', text: 'Once' } })).done
  expect(made.answer.text).toBe('Hello from upstream.')
  expect(server.bodies[0]).toMatchObject({ prompt: 'Once' })
})

test('embeddings are of length 1 and in order, scores too', async () => {
  await using server = await OpenAiServer.open()
  const engine = await ready(server, { having: ['embeddings', 'rerank'] })
  expect(engine.state().abilities).toEqual(expect.arrayContaining(['embeddings', 'rerank']))
  const vectors = await generate(engine, ask('', { prompt: { kind: 'embed', inputs: ['a', 'b'] } })).done
  const list = (JSON.parse(vectors.answer.text) as string[]).map((vector) => Buffer.from(vector, 'base64'))
  expect(list.map((bytes) => [bytes.readFloatLE(0), bytes.readFloatLE(4)].map((value) => value.toFixed(3)))).toEqual([
    ['0.600', '0.800'],
    ['0.351', '0.936'],
  ])
  expect(vectors.end).toMatchObject({ reason: 'stop', promptTokens: 4, completionTokens: 0 })
  const scores = await generate(engine, ask('', { prompt: { kind: 'rank', query: 'q', documents: ['a', 'b', 'c'] } })).done
  expect(JSON.parse(scores.answer.text)).toEqual([0, 0.5, 1])
})

test('what the server says of itself counts unless an option says otherwise', async () => {
  await using server = await OpenAiServer.open([{ id: 'a/model', owned_by: 'vllm', max_model_len: 8192 }])
  server.pages['/metrics'] = 'vllm:scheduler_info{max_num_seqs="48"} 1.0\n'
  expect((await ready(server)).state()).toMatchObject({ slots: 48, contextTokens: 8192, startsOver: true })
  expect((await ready(server, { slots: 3, contextTokens: 100 })).state()).toMatchObject({ slots: 3, contextTokens: 100 })
  server.models = [{ id: 'm', owned_by: 'llamacpp' }]
  server.pages['/props'] = { total_slots: 5, default_generation_settings: { n_ctx: 1024 } }
  expect((await ready(server)).state()).toMatchObject({ slots: 5, contextTokens: 1024 })
  expect((await ready(server)).state().abilities).toContain('tools')
  server.pages['/props'] = { chat_template_caps: { supports_tools: false, supports_tool_calls: false }, modalities: { vision: true } }
  const seeing = (await ready(server)).state().abilities
  expect(seeing).toContain('images')
  for (const ability of ['tools', 'tool_choice', 'parallel_tool_calls']) expect(seeing).not.toContain(ability)
  server.models = [{ id: 'llama3:latest', owned_by: 'library' }]
  const ollama = await ready(server, { model: 'llama3', without: ['tools'] })
  expect(ollama.state().slots).toBe(8)
  expect(ollama.state().abilities).not.toContain('top_k')
  expect(ollama.state().abilities).not.toContain('tools')
})

test('a server too busy to say more of itself keeps what it said before', async () => {
  await using server = await OpenAiServer.open([{ id: 'm', owned_by: 'llamacpp' }])
  server.pages['/props'] = { total_slots: 5, default_generation_settings: { n_ctx: 1024 }, modalities: { vision: true } }
  const engine = await ready(server)
  server.pages['/props'] = NEVER
  const asked = server.gets.length
  // A failure makes it ask.
  await generate(engine, ask('BROKEN')).done
  await expect.poll(() => server.gets.slice(asked)).toContain('/props')
  await setTimeout(2_200)
  expect(engine.state()).toMatchObject({ phase: 'ready', slots: 5, contextTokens: 1024 })
  expect(engine.state().abilities).toContain('images')
})

test('a model that is not there, or not named among several, leaves it down and says what to write', async () => {
  await using server = await OpenAiServer.open([{ id: 'a' }, { id: 'b' }])
  expect((await settled(open(server.baseUrl))).detail).toMatch(/serves 2 models; say which by openai:.*#name: a, b/)
  expect((await settled(open(server.baseUrl, { model: 'c' }))).detail).toMatch(/serves no model "c"; it has a, b/)
  expect((await settled(open(server.baseUrl, { model: 'b' }))).phase).toBe('ready')
  // Who calls it by its own name need not say so twice.
  const named = await ready(server, { name: 'b' })
  await generate(named, ask('hello')).done
  expect(server.bodies.at(-1)).toMatchObject({ model: 'b' })
})

test('a key comes from the worker and goes to the server, and into no message', async () => {
  await using server = await OpenAiServer.open()
  server.key = 'sk-the-key-of-the-server'
  expect((await settled(open(server.baseUrl))).detail).toMatch(/refuses the key.*key_env=NAME/)
  process.env.UPSTREAM_KEY = server.key
  const engine = await ready(server, { keyEnv: 'UPSTREAM_KEY' })
  expect((await generate(engine, ask('hello')).done).answer.text).toBe('Hello from upstream.')
  server.key = 'another'
  const { failure } = await generate(engine, ask('hello')).done
  expect(failure).toMatchObject({ code: 'upstream_not_authenticated', layer: 'provider', providerStatus: 401, retryable: true })
  expect(failure?.message).not.toContain('sk-the-key')
  expect(engine.state()).toMatchObject({ phase: 'down', needsPerson: true })
  expect(open(server.baseUrl, { keyEnv: 'NOT_SET_ANYWHERE' }).state()).toMatchObject({ phase: 'down', slots: 0 })
})

test('a server that lists its models to anybody and refuses every job is left alone for a while', async () => {
  await using server = await OpenAiServer.open()
  const engine = await ready(server)
  expect((await generate(engine, ask('WRONG KEY')).done).failure).toMatchObject({ code: 'upstream_not_authenticated', retryable: true })
  expect(engine.state()).toMatchObject({ phase: 'down', slots: 0, needsPerson: true })
  // Longer than it takes to ask a server anew that was only gone.
  await setTimeout(1_500)
  expect(engine.state()).toMatchObject({ phase: 'down', slots: 0 })
  const other = await ready(server)
  expect((await generate(other, ask('NOT THIS MODEL')).done).failure).toMatchObject({ code: 'upstream_forbids', retryable: false })
  expect(other.state()).toMatchObject({ phase: 'ready' })
})

test('a login that was refused is tried by one job after half a minute, then after twice as long, and again by all when it works', () => {
  const login = new Login()
  expect([login.refused(0), login.refused(1_000), login.waitMs(29_000), login.isOnTrial]).toEqual([30_000, 29_000, 1_000, true])
  expect([login.waitMs(30_000), login.refused(30_000), login.refused(90_000)]).toEqual([0, 60_000, 120_000])
  for (let nowMs = 300_000; nowMs < 40_000_000; nowMs += 1_000_000) login.refused(nowMs)
  expect(login.refused(50_000_000)).toBe(600_000)
  // One that had begun before says nothing of what is now.
  login.served(49_999_999)
  expect(login.isOnTrial).toBe(true)
  login.served(50_000_000)
  expect([login.isOnTrial, login.refused(60_000_000)]).toEqual([false, 30_000])
})

test('cancelling closes the connection, and the server sees it', async () => {
  await using server = await OpenAiServer.open()
  const running = generate(await ready(server), ask('HANG'))
  await running.until((text) => text === 'Hello from upstream.')
  running.cancel()
  running.cancel()
  expect((await running.done).end).toMatchObject({ reason: 'cancelled', completionTokens: 3 })
  await server.until(() => server.closed === 1)
})

test('failures say whose fault they are and whether trying again helps', async () => {
  await using server = await OpenAiServer.open()
  const engine = await ready(server)
  const failureOf = async (word: string): Promise<GenerationFailure | undefined> => (await generate(engine, ask(word)).done).failure
  const refused = await failureOf('REFUSE')
  expect(refused).toMatchObject({ layer: 'ingress', code: 'upstream_refused', retryable: false, providerStatus: 400 })
  expect(refused?.message).toContain('top_k must be friendly')
  const busy = await failureOf('BUSY')
  expect(busy).toMatchObject({ layer: 'provider', code: 'rate_limited', retryable: true, providerStatus: 429 })
  expect(Math.abs((busy?.retryAtMs ?? 0) - Date.now() - 30_000)).toBeLessThan(10_000)
  const unwell = await failureOf('UNWELL')
  expect(unwell).toMatchObject({ layer: 'provider', code: 'upstream_unwell', retryable: true, providerStatus: 503 })
  expect(Math.abs((unwell?.retryAtMs ?? 0) - Date.now() - 20_000)).toBeLessThan(10_000)
  // What says nothing of when may be the request's doing, and counts against it.
  expect(await failureOf('TOO LONG A TIME')).toMatchObject({ code: 'upstream_error', retryable: true, providerStatus: 502 })
  expect(await failureOf('UNPAID')).toMatchObject({ code: 'rate_limited', retryable: true, providerStatus: 402 })
  expect(await failureOf('BROKEN')).toMatchObject({ layer: 'provider', code: 'upstream_error', retryable: true, providerStatus: 500 })
  expect(await failureOf('FAULT')).toMatchObject({ layer: 'provider', code: 'upstream_error', retryable: true, providerStatus: 500 })
  expect(await failureOf('MUCH')).toMatchObject({ code: 'rate_limited', providerStatus: 429, retryAtMs: expect.any(Number) as number })
  expect(await failureOf('CUT')).toMatchObject({ layer: 'provider', code: 'upstream_cut', retryable: true })
  expect(await failureOf('ENDLESS')).toMatchObject({ layer: 'provider', code: 'upstream_cut', retryable: true })
  expect((await generate(engine, ask('hello')).done).end?.reason).toBe('stop')
  // All was said.
  expect((await generate(engine, ask('RESET')).done).end?.reason).toBe('stop')
})

test('a limit is known until it ends, or until an answer comes that was asked for behind it', async () => {
  await using server = await OpenAiServer.open()
  const engine = await ready(server)
  const before = generate(engine, ask('HANG'))
  await before.until((text) => text !== '')
  const other = generate(engine, ask('SLOW'))
  await generate(engine, ask('BUSY')).done
  const untilMs = engine.state().quota?.limitedUntilMs ?? 0
  expect(Math.abs(untilMs - Date.now() - 30_000)).toBeLessThan(10_000)
  before.cancel()
  await before.done
  server.release()
  expect((await other.done).end?.reason).toBe('stop')
  expect(engine.state().quota).toEqual({ limitedUntilMs: untilMs, remainingRatio: 0 })
  await setTimeout(2)
  await generate(engine, ask('hello')).done
  expect(engine.state().quota).toBeUndefined()
})

test('a server that is gone offers no slots, and offers them again when it is back', async () => {
  const server = await OpenAiServer.open()
  const engine = await ready(server)
  const { port } = server
  await server[Symbol.asyncDispose]()
  expect((await generate(engine, ask('hello')).done).failure).toMatchObject({ code: 'upstream_unreachable', retryable: true })
  expect(engine.state()).toMatchObject({ phase: 'down', slots: 0 })
  expect((await generate(engine, ask('hello')).done).failure).toMatchObject({ code: 'model_not_ready', retryable: true })
  await using back = await OpenAiServer.open(undefined, port)
  await until(engine, (state) => state.phase === 'ready')
  expect((await generate(engine, ask('hello')).done).answer.text).toBe('Hello from upstream.')
  expect(back.bodies).toHaveLength(1)
})

test('closing the engine ends what runs as retryable', async () => {
  await using server = await OpenAiServer.open()
  const engine = await ready(server)
  const running = generate(engine, ask('HANG'))
  await running.until((text) => text !== '')
  await engine.close()
  expect((await running.done).failure).toMatchObject({ code: 'engine_closed', retryable: true })
})

test('options are parsed, and what is wrong is named', () => {
  expect(
    parseModels(
      'x=openai:http://gpu:8000/v1/#org/model?slots=4&images=true&reasoning=true&key_env=A_KEY&without=tools&first_token_timeout_s=2.5',
    )[0]?.source,
  ).toEqual({
    kind: 'openai',
    openai: {
      baseUrl: 'http://gpu:8000/v1',
      model: 'org/model',
      slots: 4,
      keyEnv: 'A_KEY',
      having: ['images', 'reasoning_effort'],
      without: ['tools'],
    },
  })
  for (const [wrong, named] of [
    ['openai:gpu:8000', /openai:http:\/\/host:port\/v1#upstream-model/],
    ['openai:http://gpu/v1#50%', /HOLDFAST_MODELS.*"50%"|HOLDFAST_MODELS.*#50%/],
    ['openai:http://user:key@gpu/v1', /a key goes into key_env/],
    ['openai:http://gpu/v1?images=maybe', /images=maybe, which is neither/],
    ['openai:http://gpu/v1?without=magic', /abilities are/],
    ['openai:http://gpu/v1?key_env=HOLDFAST_ADMIN_KEY', /HOLDFAST_ADMIN_KEY is Holdfast's own/],
    ['openai:http://gpu/v1?key_env=A,B', /names more than 1/],
    ['openai:http://gpu/v1?threads=2', /option "threads=2"/],
    ['openai:http://gpu/v1?next_token_timeout_s=0', /next_token_timeout_s=0, which is no number of seconds/],
  ] as const)
    expect(() => parseModels(`x=${wrong}`)).toThrow(named)
})

test('a worker serves one through the API', async () => {
  await using server = await OpenAiServer.open()
  await using world = await World.open()
  await world.coordinator()
  await world.worker('w', `x=openai:${server.baseUrl}#up?slots=2`)
  const ask = (content: string) => world.request('POST', '/v1/chat/completions', { model: 'x', messages: [{ role: 'user', content }] })
  const body = (await (await ask('hello')).json()) as { choices: unknown[]; usage: unknown }
  expect(body.choices[0]).toMatchObject({ message: { content: 'Hello from upstream.' }, finish_reason: 'stop' })
  expect(body.usage).toMatchObject({ prompt_tokens: 11, completion_tokens: 3 })
  const refused = await ask('REFUSE')
  expect(refused.status).toBe(400)
  expect(await refused.text()).toContain('top_k must be friendly')
})

type Options = Parameters<typeof openOpenAiEngine>[0]

function open(baseUrl: string, extra: Partial<Options> = {}): Engine {
  const one = { changed: (): void => {} }
  const log = { info: () => {}, warn: () => {} }
  const engine = openOpenAiEngine({ name: 'x', baseUrl, having: [], without: [], log, ...extra }, () => one.changed())
  opened.push(Object.assign(one, { engine }))
  return engine
}

function until(engine: Engine, condition: (state: EngineState) => boolean): Promise<EngineState> {
  const one = opened.find((candidate) => candidate.engine === engine)
  return new Promise((resolve) => {
    const look = (): void => {
      if (condition(engine.state())) resolve(engine.state())
    }
    if (one !== undefined) one.changed = look
    look()
  })
}

function settled(engine: Engine): Promise<EngineState> {
  return until(engine, (state) => state.phase !== 'loading')
}

async function ready(server: OpenAiServer, extra: Partial<Options> = {}): Promise<Engine> {
  const engine = open(server.baseUrl, extra)
  expect(await settled(engine)).toMatchObject({ phase: 'ready' })
  return engine
}

function ask(content: string, extra: Partial<GenerationRequest> = {}): GenerationRequest {
  return { prompt: { kind: 'chat', messages: [{ role: 'user', content }] }, stop: [], sampling: {}, seed: 7, ...extra }
}

type Made = { ids: number[]; answer: Answer; end?: GenerationEnd; failure?: GenerationFailure }

class Running {
  readonly done: Promise<Made>
  cancel: () => void = () => {}
  readonly #made: Made = { ids: [], answer: new Answer() }
  #look: () => void = () => {}

  constructor(engine: Engine, request: GenerationRequest) {
    this.done = new Promise((resolve) => {
      const generation = engine.generate('key', request, [], {
        accepted: () => {},
        tokens: (ids, text, delta) => {
          this.#made.ids.push(...ids)
          this.#made.answer.append(text, delta)
          this.#look()
        },
        finished: (end) => resolve(Object.assign(this.#made, { end })),
        failed: (failure) => resolve(Object.assign(this.#made, { failure })),
      })
      this.cancel = () => generation.cancel()
    })
  }

  until(found: (text: string) => boolean): Promise<void> {
    return new Promise((resolve) => {
      this.#look = () => {
        if (found(this.#made.answer.text)) resolve()
      }
      this.#look()
    })
  }
}

function generate(engine: Engine, request: GenerationRequest): Running {
  return new Running(engine, request)
}
