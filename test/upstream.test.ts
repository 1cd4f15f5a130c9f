import Anthropic from '@anthropic-ai/sdk'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as pause } from 'node:timers/promises'
import OpenAI from 'openai'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { AnthropicReader } from '../proto/anthropic-wire-answer.ts'
import { Answer } from '../proto/answer.ts'
import { OpenAiReader } from '../proto/openai-wire-answer.ts'
import { openUpstream } from '../coordinator/tiers/upstream.ts'
import { refusalOf, refusalWithin, usedUpUntil } from '../coordinator/tiers/upstream-errors.ts'
import { redacted } from '../proto/redaction.ts'
import type { GenerationRequest } from '../proto/request.ts'
import { SseReader } from '../proto/sse.ts'
import type { WireFailure } from '../proto/wire.ts'
import { numbersOf } from '../proto/wire-numbers.ts'
import { Upstream } from './support/upstream.ts'
import { SIGNATURE } from './support/upstream-anthropic.ts'
import type { Play } from './support/upstream-play.ts'

/** The stand-in speaks as the real ones do: the official clients and our readers understand the same of it. */

let upstream: Upstream
let openai: OpenAI
let anthropic: Anthropic

beforeAll(async () => {
  upstream = await Upstream.open()
  openai = new OpenAI({ baseURL: `${upstream.url}/v1`, apiKey: 'k', maxRetries: 0 })
  anthropic = new Anthropic({ baseURL: upstream.url, apiKey: 'k', maxRetries: 0 })
})
afterAll(() => upstream.close())

const messages = [{ role: 'user' as const, content: 'hi' }]
const tools = [
  { id: 'call_1', name: 'weather', pieces: ['{"city":', '"Ulm"}'] },
  { id: 'call_2', name: 'time', pieces: ['{}'] },
]
const full: Play = { reasoning: ['Let me', ' see.'], text: ['I', ' look.'], toolCalls: tools }
const answer = {
  text: 'I look.',
  reasoning: 'Let me see.',
  tool_calls: [
    { id: 'call_1', name: 'weather', arguments: '{"city":"Ulm"}' },
    { id: 'call_2', name: 'time', arguments: '{}' },
  ],
}
const usage = { promptTokens: 11, completionTokens: 7, cachedTokens: 4, reasoningTokens: 2 }

test('what goes wrong in reading an answer ends its reading, and nothing else', async () => {
  upstream.plan({})
  const request = { prompt: { kind: 'chat', messages }, maxTokens: 9, stop: [], sampling: {} } as unknown as GenerationRequest
  const options = { stream: true, seedGiven: false, signal: new AbortController().signal }
  const answer = await openUpstream('openai', `${upstream.url}/v1`, 'k').ask(request, { upstream: 'm', abilities: null }, options)
  await expect(
    answer.read(() => {
      throw new RangeError('too much')
    }),
  ).rejects.toThrow('too much')
})

describe('OpenAI', () => {
  test('streams text that its client and our reader understand alike', async () => {
    let text = ''
    for await (const chunk of await openai.chat.completions.create({ model: 'm', messages, stream: true }))
      text += chunk.choices[0]?.delta.content ?? ''
    expect(text).toBe('Hello from upstream.')
    expect(await read('openai', {})).toMatchObject({ answer: { text }, end: { finishReason: 'stop', usage: { completionTokens: 5 } } })
    expect((await openai.chat.completions.create({ model: 'm', messages, max_tokens: 2 })).choices[0]).toMatchObject({
      finish_reason: 'length',
      message: { content: 'Hello from' },
    })
  })

  test('thinks and calls tools, streamed and not', async () => {
    const expected = { answer, end: { finishReason: 'tool_calls', usage }, failure: null }
    expect(await read('openai', full)).toEqual(expected)
    expect(await read('openai', full, false)).toEqual(expected)
    upstream.plan(full)
    const runner = await openai.chat.completions.stream({ model: 'm', messages }).finalChatCompletion()
    expect(runner.choices[0]?.message.tool_calls).toMatchObject([
      { id: 'call_1', function: { arguments: '{"city":"Ulm"}' } },
      { id: 'call_2' },
    ])
  })

  test('completes, embeds and lists models', async () => {
    expect((await openai.completions.create({ model: 'm', prompt: 'x' })).choices[0]?.text).toBe('Hello from upstream.')
    const { data } = await openai.embeddings.create({ model: 'm', input: ['a', 'bcd'], encoding_format: 'float' })
    expect(data.map(({ embedding }) => embedding)).toEqual([
      [1, 0],
      [3, 1],
    ])
    expect((await openai.models.list()).data.map(({ id }) => id)).toEqual(['small', 'large'])
  })

  test('refuses in its own words, and tells its quota', async () => {
    upstream.plan({ refuse: { status: 429, retryAfterS: 7 }, quota: { requestsLeft: 0, tokensLeft: 12, resetsInS: 61 } })
    const limited = await openai.chat.completions
      .create({ model: 'm', messages })
      .catch((error: unknown) => error as InstanceType<typeof OpenAI.APIError>)
    expect(limited).toBeInstanceOf(OpenAI.RateLimitError)
    const { headers } = limited as InstanceType<typeof OpenAI.APIError>
    expect([headers?.get('retry-after'), headers?.get('x-ratelimit-reset-requests')]).toEqual(['7', '1m1s'])
    for (const [status, kind] of [
      [401, OpenAI.AuthenticationError],
      [403, OpenAI.PermissionDeniedError],
      [500, OpenAI.InternalServerError],
    ] as const) {
      upstream.plan({ refuse: { status } })
      await expect(openai.chat.completions.create({ model: 'm', messages })).rejects.toBeInstanceOf(kind)
    }
  })
})

describe('Anthropic', () => {
  test('streams text that its client and our reader understand alike', async () => {
    const final = await anthropic.messages.stream({ model: 'm', max_tokens: 100, messages }).finalMessage()
    expect(final).toMatchObject({
      content: [{ type: 'text', text: 'Hello from upstream.' }],
      stop_reason: 'end_turn',
      usage: { output_tokens: 5 },
    })
    expect(await read('anthropic', {})).toMatchObject({ answer: { text: 'Hello from upstream.' }, end: { finishReason: 'stop' } })
    expect(await anthropic.messages.create({ model: 'm', max_tokens: 2, messages })).toMatchObject({ stop_reason: 'max_tokens' })
  })

  test('thinks and calls tools, streamed and not', async () => {
    const expected = { answer: { ...answer, reasoning_signature: SIGNATURE }, end: { finishReason: 'tool_calls', usage }, failure: null }
    expect(await read('anthropic', full)).toEqual(expected)
    expect(await read('anthropic', full, false)).toEqual(expected)
    upstream.plan(full)
    const final = await anthropic.messages.stream({ model: 'm', max_tokens: 100, messages }).finalMessage()
    expect(final.content).toMatchObject([
      { type: 'thinking', thinking: 'Let me see.', signature: SIGNATURE },
      { type: 'text', text: 'I look.' },
      { type: 'tool_use', id: 'call_1', input: { city: 'Ulm' } },
      { type: 'tool_use', id: 'call_2', input: {} },
    ])
  })

  test('counts tokens and lists models', async () => {
    expect(await anthropic.messages.countTokens({ model: 'm', messages })).toEqual({ input_tokens: 11 })
    expect((await anthropic.models.list()).data.map(({ id }) => id)).toEqual(['small', 'large'])
  })

  test('gets the body and the betas of a caller that speaks its dialect', async () => {
    const body = { model: 'mine', max_tokens: 5, messages, container: 'c' }
    const prompt = { kind: 'chat' as const, messages }
    const request: GenerationRequest = {
      prompt,
      stop: [],
      sampling: {},
      seed: 1,
      verbatim: { dialect: 'anthropic', body, betas: ['a-1', 'b-2'] },
    }
    const cloud = openUpstream('anthropic', `${upstream.url}/v1`, 'secret')
    const before = upstream.calls.length
    await cloud.ask(
      request,
      { upstream: 'large', abilities: null },
      { stream: false, seedGiven: false, signal: AbortSignal.timeout(10_000) },
    )
    expect(await upstream.call(before)).toMatchObject({
      body: { ...body, model: 'large', stream: false },
      headers: { 'anthropic-beta': 'a-1,b-2', authorization: 'Bearer secret' },
    })
    const keyless = openUpstream('anthropic', upstream.url, null)
    await keyless.ask(
      request,
      { upstream: 'large', abilities: null },
      { stream: false, seedGiven: false, signal: AbortSignal.timeout(10_000) },
    )
    const { headers } = await upstream.call(before + 1)
    expect([headers.authorization, headers['x-api-key']]).toEqual([undefined, undefined])
  })

  test('refuses in its own words, and tells its quota', async () => {
    upstream.plan({ refuse: { status: 529 }, quota: { requestsLeft: 3, tokensLeft: 0, resetsInS: 60 } })
    const asked = anthropic.messages.create({ model: 'm', max_tokens: 9, messages })
    const overloaded = await asked.catch((error: unknown) => error as InstanceType<typeof Anthropic.APIError>)
    expect(overloaded).toMatchObject({ status: 529, type: 'overloaded_error' })
    const reset = (overloaded as InstanceType<typeof Anthropic.APIError>).headers?.get('anthropic-ratelimit-tokens-reset') ?? ''
    expect(Date.parse(reset)).toBeGreaterThan(Date.now())
  })
})

const NOW = Date.UTC(2026, 10, 21)

test.each([
  [{ 'x-ratelimit-remaining-requests': '0', 'x-ratelimit-reset-requests': '12' }, NOW + 12_000],
  [{ 'x-ratelimit-remaining-tokens': '0', 'x-ratelimit-reset-tokens': '1m2.5s' }, NOW + 62_500],
  [{ 'x-ratelimit-remaining': '0', 'x-ratelimit-reset': String(NOW + 7_000) }, NOW + 7_000],
  [{ 'x-ratelimit-remaining': '0', 'x-ratelimit-reset': String((NOW + 8_000) / 1000) }, NOW + 8_000],
  [{ 'x-ratelimit-remaining': '0', 'x-ratelimit-reset': '0.5' }, NOW + 500],
  [{ 'x-ratelimit-remaining': '1', 'x-ratelimit-reset': '30' }, null],
  [{ 'x-ratelimit-remaining': '', 'x-ratelimit-reset': '30' }, null],
  [{ 'x-ratelimit-remaining': '0' }, null],
])('limits in the headers %o are used up until %s', (headers, untilMs) => {
  expect(usedUpUntil(new Headers(headers), NOW)).toBe(untilMs)
})

test.each([
  [{ 'retry-after-ms': '1e300' }, NOW + 32 * 86_400_000],
  [{ 'retry-after-ms': '2500' }, NOW + 2_500],
  [{ 'retry-after': '9e12' }, NOW + 32 * 86_400_000],
  [{ 'retry-after': '3' }, NOW + 3_000],
  [{ 'retry-after': '0' }, 'untold'],
  [{ 'retry-after': '-5' }, 'untold'],
  [{ 'retry-after': new Date(NOW - 60_000).toUTCString() }, 'untold'],
  [{ 'retry-after': 'soon' }, 'untold'],
  [{ 'x-ratelimit-remaining-requests': '0', 'x-ratelimit-reset-requests': '0s' }, 'untold'],
  [{ 'x-ratelimit-remaining-requests': '0', 'x-ratelimit-reset-requests': '6m0s' }, NOW + 360_000],
  [{ 'anthropic-ratelimit-requests-remaining': '0', 'anthropic-ratelimit-requests-reset': new Date(NOW - 1_000).toISOString() }, 'untold'],
])('a 429 with %j leaves its provider alone until %s', (headers, untilMs) => {
  const cause = OpenAI.APIError.generate(429, { error: { message: 'slow down' } }, 'slow down', new Headers(headers))
  expect(refusalOf(cause, NOW).hold).toMatchObject({ state: 'cooling_down', untilMs })
})

test.each([
  [
    400,
    'You have reached your specified API usage limits. You will regain access on 2026-12-01 at 00:00 UTC.',
    'over_quota',
    Date.UTC(2026, 11, 1),
  ],
  [400, 'You have reached your specified workspace API usage limits.', 'over_quota', NOW + 900_000],
  [400, 'Your credit balance is too low to access the Anthropic API.', 'over_quota', NOW + 900_000],
  [402, 'Pay first', 'over_quota', NOW + 900_000],
  [403, 'Key limit exceeded (total limit). Manage it using https://openrouter.ai/settings/keys', 'over_quota', NOW + 900_000],
  [403, 'This API key was disabled', 'parked', null],
  [400, 'API key not valid. Please pass a valid API key.', 'parked', null],
  [400, 'max_tokens is too large', undefined, undefined],
  // What the caller wrote is repeated.
  [400, "Invalid schema for function 'check_api_key_expired'", undefined, undefined],
  [400, 'messages[0].content: "API key not valid" is too odd', undefined, undefined],
  [403, 'Flagged by moderation: "key limit exceeded"', undefined, undefined],
  [503, 'overloaded', 'cooling_down', 'untold'],
] as const)('%i %s leaves the provider %s until %s, as a status and in an answer', (status, message, state, untilMs) => {
  const cause = OpenAI.APIError.generate(status, { error: { message } }, message, new Headers())
  const within = refusalWithin(new OpenAiReader().read({ error: { message, code: status } }) as WireFailure, NOW)
  for (const { error, hold } of [refusalOf(cause, NOW), within]) {
    expect([hold?.state, hold?.untilMs]).toEqual([state, untilMs])
    expect(error.message).toContain(message)
  }
})

test.each([
  [400, 'litellm.BadRequestError: AnthropicException - {"error":{"message":"Your credit balance is too low"}}'],
  [400, 'litellm.BadRequestError: GeminiException BadRequestError - {"error": {"message": "API key not valid. Please pass one"}}'],
  [400, 'litellm.BadRequestError: Vertex_aiException BadRequestError - [{"error":{"message":"API key expired"}}]'],
  [401, 'litellm.AuthenticationError: OpenAIException - Incorrect API key provided'],
  [400, "Error code: 400 - {'error': {'message': 'Your credit balance is too low'}}"],
  [400, 'anthropic error: Your credit balance is too low'],
])('%i %s is about an account behind a gateway, which keeps the others of its models', (status, message) => {
  const refusal = refusalOf(OpenAI.APIError.generate(status, { error: { message } }, message, new Headers()), NOW)
  expect(refusal).toEqual({ error: expect.objectContaining({ code: 'provider_lacks_model', retryable: true }) as unknown })
})

test.each([
  [401, 'Error: Invalid API key'],
  [401, 'Authentication error: invalid key'],
  [401, 'AuthenticationError: no such key'],
  [402, 'Billing error: pay first'],
])('%i %s is about us', (status, message) => {
  expect(refusalOf(OpenAI.APIError.generate(status, { error: { message } }, message, new Headers()), NOW).hold?.untilMs).not.toBe('untold')
  expect(refusalOf(OpenAI.APIError.generate(status, { error: { message } }, message, new Headers()), NOW).hold).toBeDefined()
})

test.each([
  [{ type: 'authentication_error', message: 'invalid x-api-key' }, 'provider_credential_refused', 'parked'],
  [{ type: 'insufficient_quota', message: 'You exceeded your current quota' }, 'provider_over_quota', 'over_quota'],
  [{ type: 'billing_error', message: 'Your card was refused' }, 'provider_over_quota', 'over_quota'],
  [{ type: 'overloaded_error', message: 'Overloaded' }, 'provider_rate_limited', 'cooling_down'],
  [{ type: 'api_error', message: 'Internal server error' }, 'provider_failed', undefined],
  [{ type: 'invalid_request_error', message: 'no' }, 'provider_refused_request', undefined],
  [{ message: 'who knows' }, 'upstream_error', undefined],
])('the error %j in an answer is %s and leaves the provider %s', (error, code, state) => {
  const refusal = refusalWithin(new AnthropicReader().read({ type: 'error', error }) as WireFailure, NOW)
  expect([refusal.error.code, refusal.hold?.state]).toEqual([code, state])
})

test('a credential that is refused in the midst of an answer is that of somebody behind a gateway', () => {
  const failed = new OpenAiReader().read({ error: { message: 'No auth for Foo', code: 401 } }) as WireFailure
  expect(refusalWithin(failed, NOW, false)).toMatchObject({ badCredential: true, hold: { state: 'parked' } })
  expect(refusalWithin(failed, NOW, true).hold).toMatchObject({ state: 'cooling_down', untilMs: 'untold' })
  expect(refusalWithin(failed, NOW, true).badCredential).toBeUndefined()
})

test('a kept connection that breaks when it is used again is replaced at once, and a new one that breaks is told', async () => {
  let asked = 0
  let broken = 0
  let isBroken = false
  const used = new WeakMap<object, number>()
  const server = createServer((request, response) => {
    asked += 1
    const times = (used.get(request.socket) ?? 0) + 1
    used.set(request.socket, times)
    if (isBroken || (times > 1 && broken++ % 2 === 0)) request.socket.destroy()
    else if (times > 1) request.socket.resetAndDestroy()
    else response.writeHead(200, { 'content-type': 'application/json' }).end('{"choices":[]}')
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  const request: GenerationRequest = { prompt: { kind: 'chat', messages }, stop: [], sampling: {}, seed: 1 }
  const cloud = openUpstream('openai', `http://127.0.0.1:${port}/v1`, 'k')
  const options = { stream: false, seedGiven: false, signal: AbortSignal.timeout(20_000) }
  const askOnce = async (): Promise<unknown> => (await cloud.ask(request, { upstream: 'm', abilities: null }, options)).json()
  for (let times = 1; times <= 8; times++) expect(await askOnce()).toEqual({ choices: [] })
  expect(broken).toBeGreaterThan(2)
  expect(asked).toBe(8 + broken)
  server.closeAllConnections()
  isBroken = true
  asked = 0
  await expect(askOnce()).rejects.toThrow(OpenAI.APIConnectionError)
  expect(asked).toBe(1)
  server.close()
})

test.each(['after an announcement', 'in the midst of its head', 'after a while'])(
  'a kept connection whose request was heard and that breaks %s is told, and the request not sent again',
  async (when) => {
    let asked = 0
    const sockets = new Set<object>()
    const server = createServer((request, response) => {
      asked += 1
      sockets.add(request.socket)
      const { socket } = request
      const breaks = (): void => void socket.resetAndDestroy()
      if (asked === 1) response.writeHead(200, { 'content-type': 'application/json' }).end('{"choices":[]}')
      else if (when === 'after an announcement') socket.write('HTTP/1.1 100 Continue\r\n\r\n', () => void setTimeout(breaks, 50))
      else if (when === 'in the midst of its head') socket.write('HTTP/1.1 200 OK\r\ncontent-', () => void setTimeout(breaks, 50))
      else setTimeout(breaks, 1_200)
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const { port } = server.address() as AddressInfo
    const cloud = openUpstream('openai', `http://127.0.0.1:${port}/v1`, 'k')
    const request: GenerationRequest = { prompt: { kind: 'chat', messages }, stop: [], sampling: {}, seed: 1 }
    const options = { stream: false, seedGiven: false, signal: AbortSignal.timeout(20_000) }
    const askOnce = async (): Promise<unknown> => (await cloud.ask(request, { upstream: 'm', abilities: null }, options)).json()
    expect(await askOnce()).toEqual({ choices: [] })
    await pause(50)
    await expect(askOnce()).rejects.toThrow(OpenAI.APIConnectionError)
    expect([asked, sockets.size]).toEqual([2, 1])
    server.closeAllConnections()
    server.close()
  },
)

test('a list of one error, as Google answers, is read as that error', async () => {
  const message = 'API key not valid. Please pass a valid API key.'
  const told = JSON.stringify([{ error: { code: 400, message, status: 'INVALID_ARGUMENT' } }])
  const server = createServer((_request, response) => void response.writeHead(400, { 'content-type': 'application/json' }).end(told))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  const request: GenerationRequest = { prompt: { kind: 'chat', messages }, stop: [], sampling: {}, seed: 1 }
  const options = { stream: true, seedGiven: false, signal: AbortSignal.timeout(10_000) }
  const refused = openUpstream('openai', `http://127.0.0.1:${port}/v1`, 'k').ask(request, { upstream: 'm', abilities: null }, options)
  const cause: unknown = await refused.catch((error: unknown) => error)
  expect(refusalOf(cause, NOW)).toMatchObject({ badCredential: true, error: { message: expect.stringContaining(message) as string } })
  server.closeAllConnections()
  server.close()
})

test.each([
  [
    400,
    { object: 'error', message: "This model's maximum context length is 4096 tokens", code: 400 },
    'context_length_exceeded',
    'is 4096',
  ],
  [422, { detail: [{ loc: ['body', 'tools'], msg: 'Field required' }] }, 'provider_refused_request', 'Field required'],
  [403, { message: 'Your API key is blocked' }, 'provider_credential_refused', 'Your API key is blocked'],
  [404, { detail: 'Model not found' }, 'provider_lacks_model', '404 Model not found'],
  [400, { error: 'no such tool' }, 'provider_refused_request', '400 no such tool'],
])('a server that refuses with %s %j is understood as %s', async (status, told, code, words) => {
  const body = JSON.stringify(told)
  const server = createServer((_request, response) => void response.writeHead(status, { 'content-type': 'application/json' }).end(body))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  const request: GenerationRequest = { prompt: { kind: 'chat', messages }, stop: [], sampling: {}, seed: 1 }
  const options = { stream: true, seedGiven: false, signal: AbortSignal.timeout(10_000) }
  const refused = openUpstream('openai', `http://127.0.0.1:${port}/v1`, 'k').ask(request, { upstream: 'm', abilities: null }, options)
  const { error } = refusalOf(await refused.catch((cause: unknown) => cause), NOW)
  expect([error.code, error.message]).toEqual([code, expect.stringContaining(words)])
  server.closeAllConnections()
  server.close()
})

test.each([
  'input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000, decrease input length',
  'The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).',
  "This model's maximum prompt length is 131072 but the request contains 140000 tokens.",
  'Input is too long for requested model.',
  'Unable to submit request because the input token count is 1109440 but the model only supports up to 1048576.',
])('%s is about the context', (message) => {
  const refused = OpenAI.APIError.generate(400, { error: { message } }, message, new Headers())
  expect(refusalOf(refused, NOW).error).toMatchObject({ code: 'context_length_exceeded', layer: 'ingress' })
})

test.each(['max_tokens is too large: the maximum number of tokens to generate is 4096', "Invalid 'user': input is too long"])(
  '%s is not about the context',
  (message) => {
    const refused = OpenAI.APIError.generate(400, { error: { message } }, message, new Headers())
    expect(refusalOf(refused, NOW).error).toMatchObject({ code: 'provider_refused_request' })
  },
)

test('vectors are of length 1, as numbers or as base64, and scores between 0 and 1', () => {
  const base64 = Buffer.from(Float32Array.from([0, 2]).buffer).toString('base64')
  const read = numbersOf({ data: [{ embedding: [3, 4] }, { embedding: base64 }] }, { kind: 'embed', inputs: ['a', 'b'] })
  const vectors = (JSON.parse((read as { text: string }).text) as string[]).map((vector) => Buffer.from(vector, 'base64'))
  expect(vectors.map((bytes) => [bytes.readFloatLE(0), bytes.readFloatLE(4)].map((value) => value.toFixed(3)))).toEqual([
    ['0.600', '0.800'],
    ['0.000', '1.000'],
  ])
  const ranked = (scores: object[]) => numbersOf({ results: scores }, { kind: 'rank', query: 'q', documents: scores.map(() => 'd') })
  expect(
    ranked([
      { index: 1, relevance_score: 0.5 },
      { index: 0, score: 1 },
    ]),
  ).toMatchObject({ text: '[1,0.5]' })
  // What a model itself says has no bounds; its order stays.
  expect(ranked([{ score: 0.9 }, { score: 1.0000001 }, { score: -0.0001 }])).toMatchObject({ text: '[0.9,1,0]' })
  const [low = 0, middle, high = 0] = JSON.parse((ranked([{ score: -8 }, { score: 0 }, { score: 3 }]) as { text: string }).text) as number[]
  expect([low > 0 && low < 0.01, middle, high > 0.9 && high < 1]).toEqual([true, 0.5, true])
  for (const results of [
    [
      { index: 0, score: 1 },
      { index: 0, score: 1 },
    ],
    [{ index: 5, score: 1 }],
    [{ score: 'x' }],
    [{ index: -1, score: 1 }],
  ])
    expect(ranked(results).kind).toBe('failure')
  expect(numbersOf({ error: { code: 429, message: 'slow' } }, { kind: 'embed', inputs: ['a'] })).toMatchObject({ providerStatus: 429 })
})

test('a secret that a bound on lengths has cut is not shown either', () => {
  const secret = 'sk-cloud-secret-1'
  expect(redacted(`a ${secret} b ${secret.slice(0, 14)}`, secret, '[secret]')).toBe('a [secret] b [secret]')
  expect(redacted(`${secret}${secret}x`, secret, '[secret]')).toBe('[secret][secret]x')
  expect(redacted('sk-cloud is a word', secret, '[secret]')).toBe('sk-cloud is a word')
  expect(redacted('key abc and ab', 'abc', '[secret]')).toBe('key [secret] and ab')
})

test.each([
  [
    [
      [1, 2],
      [3, 4],
    ],
    undefined,
    true,
  ],
  [
    [
      [1e300, 1],
      [3, 4],
    ],
    undefined,
    false,
  ],
  [['AAA=', 'AAAA'], undefined, false],
  [[[1, 2], [3]], undefined, false],
  [
    [
      [1, 2, 3],
      [1, 2, 3],
    ],
    2,
    false,
  ],
  [
    [
      [1, 2],
      [3, 4],
    ],
    2,
    true,
  ],
])('vectors %j of %s dimensions are taken: %s', (embeddings, dimensions, taken) => {
  const prompt = { kind: 'embed' as const, inputs: ['a', 'b'], ...(dimensions === undefined ? {} : { dimensions }) }
  const data = embeddings.map((embedding, index) => ({ index, embedding }))
  const read = numbersOf({ data }, prompt)
  expect(read.kind === 'numbers').toBe(taken)
  // A server that knows one length only will not learn another.
  if (dimensions === 2 && !taken)
    expect(refusalWithin(read as WireFailure, NOW)).toEqual({
      error: expect.objectContaining({ code: 'unsupported_dimensions', retryable: false, layer: 'ingress' }) as unknown,
    })
})

test('a redirect is told and not followed: a credential goes nowhere else', async () => {
  const asked: string[] = []
  const server = createServer((request, response) => {
    asked.push(request.url ?? '')
    response.writeHead(307, { location: 'https://elsewhere.example/v1' }).end('moved')
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  const request: GenerationRequest = { prompt: { kind: 'chat', messages }, stop: [], sampling: {}, seed: 1 }
  for (const dialect of ['openai', 'anthropic'] as const) {
    const options = { stream: true, seedGiven: false, signal: AbortSignal.timeout(10_000) }
    const refused = openUpstream(dialect, `http://127.0.0.1:${port}/v1`, 'secret').ask(request, { upstream: 'm', abilities: null }, options)
    const cause: unknown = await refused.catch((error: unknown) => error)
    expect(refusalOf(cause, 0).error).toMatchObject({
      code: 'provider_unreachable',
      message: expect.stringContaining('https://elsewhere.example/v1') as string,
    })
  }
  expect(asked).toEqual(['/v1/chat/completions', '/v1/messages'])
  server.closeAllConnections()
  server.close()
})

describe.each(['openai', 'anthropic'] as const)('a fault of %s', (dialect) => {
  test('that cuts the stream leaves what was said, without an end', async () => {
    expect(await read(dialect, { cutAfter: 2 })).toMatchObject({ answer: { text: 'Hello from' }, end: null, failure: null })
    // All was said, but not that this was all.
    expect(await read(dialect, { cutAfter: 5 })).toMatchObject({
      answer: { text: 'Hello from upstream.' },
      end: null,
    })
    await expect(read(dialect, { cutAfter: 0 }, false)).rejects.toThrow()
  })

  test('in the middle of the stream is a failure', async () => {
    expect(await read(dialect, { failAfter: 1 })).toMatchObject({
      answer: { text: 'Hello' },
      end: null,
      failure: { code: 'upstream_error', retryable: true },
    })
    expect(await read(dialect, { garbleAfter: 1 })).toMatchObject({ failure: { code: 'upstream_malformed' } })
  })

  test('that stalls shows that the caller hung up', async () => {
    const controller = new AbortController()
    const before = upstream.calls.length
    upstream.plan({ stallAfter: 1 })
    const asked = ask(dialect, true, controller.signal)
    const call = await upstream.call(before)
    const response = await asked
    const reading = response.text().catch(() => 'aborted')
    controller.abort()
    await call.closed
    expect(call.closedEarly).toBe(true)
    expect(await reading).toBe('aborted')
  })

  test('in its usage is told or left out', async () => {
    expect((await read(dialect, { usage: 'missing' })).end).toMatchObject({ usage: null })
    expect((await read(dialect, { usage: 'wrong' })).end).toMatchObject({ usage: { promptTokens: 0, completionTokens: 0 } })
  })

  test('is none where a caller listens to the end', async () => {
    const before = upstream.calls.length
    await read(dialect, { paceMs: 1 })
    const call = await upstream.call(before)
    await call.closed
    expect(call).toMatchObject({ closedEarly: false, method: 'POST', headers: { 'x-api-key': 'k' }, body: { model: 'm', stream: true } })
  })
})

function ask(dialect: 'openai' | 'anthropic', stream: boolean, signal?: AbortSignal): Promise<Response> {
  return fetch(upstream.url + (dialect === 'openai' ? '/v1/chat/completions' : '/v1/messages'), {
    method: 'POST',
    headers: { 'content-type': 'application/json', 'x-api-key': 'k' },
    body: JSON.stringify({ model: 'm', max_tokens: 100, messages, stream, ...(stream ? { stream_options: { include_usage: true } } : {}) }),
    ...(signal === undefined ? {} : { signal }),
  })
}

/** What our own reader makes of one call that plays so. */
async function read(dialect: 'openai' | 'anthropic', play: Play, isStream = true) {
  upstream.plan(play)
  const response = await ask(dialect, isStream)
  const reader = dialect === 'openai' ? new OpenAiReader() : new AnthropicReader()
  const answer = new Answer()
  let failure: WireFailure | null = null
  const take = (piece: ReturnType<typeof reader.read>): void => {
    if (piece?.kind === 'failure') failure ??= piece
    else if (piece !== null && failure === null) answer.append(piece.text, piece.delta)
  }
  if (!isStream) take(reader.read(await response.json()))
  else {
    const sse = new SseReader()
    try {
      for await (const bytes of response.body as ReadableStream<Uint8Array>)
        for (const event of sse.push(bytes)) take(event.kind === 'failure' ? event : reader.readData(event.data))
    } catch {
      // Cut: what was read until then counts.
    }
  }
  return { answer: answer.toJSON(), end: reader.end, failure: failure as WireFailure | null }
}
