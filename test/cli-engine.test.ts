import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { hostname, tmpdir } from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, expect, test } from 'vitest'
import type { GenerationRequest } from '../proto/request.ts'
import { UNTOLD_TOKEN } from '../proto/wire.ts'
import { claude } from '../worker/engines/cli/claude.ts'
import { gemini } from '../worker/engines/cli/gemini.ts'
import { opencode } from '../worker/engines/cli/opencode.ts'
import { failureOf, retryTimeOf } from '../worker/engines/cli/failures.ts'
import { Quota } from '../worker/engines/quota.ts'
import { type CliKind, openCliEngine } from '../worker/engines/cli.ts'
import type { Engine, GenerationEnd, GenerationFailure } from '../worker/engines/engine.ts'
import { parseModels } from '../worker/models.ts'
import { ended, enqueue, readProvider, send, waitsFor } from './support/cloud.ts'
import { World } from './support/world.ts'

/** Real processes, which write what the real programs were seen to write. */

const SECRET = 'secret-value-0123456789'
process.env.SECRET_KEY = SECRET

const engines: Engine[] = []
afterEach(async () => {
  for (const engine of engines.splice(0)) await engine.close()
  expect(foldersOfJobs()).toEqual([])
})

const KINDS: CliKind[] = ['claude', 'codex', 'gemini', 'cursor', 'opencode']

for (const kind of [...KINDS, 'command'] as const) {
  test(`${kind}: text, usage and the end of an answer`, async () => {
    const engine = open(kind)
    const made = await generate(engine, ask('hello')).done
    expect(made.failure).toBeUndefined()
    expect(made.text).toBe('Hello from the stand-in.')
    const promptTokens = { claude: 19, cursor: 12, opencode: 12 }[kind as string] ?? 12
    expect(made.end).toMatchObject({ reason: 'stop', promptTokens, completionTokens: 7 })
    expect(new Set(made.ids)).toEqual(new Set([UNTOLD_TOKEN]))
    expect(engine.state()).toMatchObject({ phase: 'ready', slots: 1, tier: 'cli', startsOver: true, abilities: [] })
  })

  test(`${kind}: a used up limit is a failure with its time, and a quota; the engine stays ready`, async () => {
    const engine = open(kind)
    const { failure } = await generate(engine, ask('LIMIT')).done
    expect(failure).toMatchObject({ code: 'rate_limited', layer: 'provider', retryable: true })
    const inMs = { command: 60_000, claude: 3_600_000 }[kind as string] ?? 5_400_000
    expect(Math.abs((failure?.retryAtMs ?? 0) - Date.now() - inMs)).toBeLessThan(20_000)
    const { phase, slots, quota } = engine.state()
    expect([phase, slots]).toEqual(['ready', 1])
    expect(Math.abs((quota?.limitedUntilMs ?? 0) - Date.now() - inMs)).toBeLessThan(20_000)
    expect(quota?.remainingRatio).toBe(0)
    // Served again before the time: the limit is off.
    await generate(engine, ask('hello')).done
    expect(engine.state().quota?.limitedUntilMs ?? null).toBeNull()
  })

  test(`${kind}: without a login it fails once, says what to do, and offers no slots`, async () => {
    const engine = open(kind)
    const { failure } = await generate(engine, ask('AUTH')).done
    expect(failure).toMatchObject({ code: 'cli_not_authenticated', layer: 'provider', retryable: true })
    expect(failure?.message).toContain('option ')
    expect(engine.state()).toMatchObject({ phase: 'down', slots: 0, needsPerson: true })
    expect(engine.state().detail).toContain('not logged in')
  })
}

test('a program gets an empty directory, its own home, and the variables that were listed and no others', async () => {
  process.env.HOLDFAST_TEST_SEED ??= '1'
  process.env.TZ = 'Asia/Kolkata'
  const engine = open('claude', { env: ['SECRET_KEY'] })
  const { cwd, files, env } = await factsOf(engine)
  expect(files).toEqual([])
  expect(Object.keys(env).sort()).toEqual([
    'CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK',
    'HOME',
    'LANG',
    'PATH',
    'SECRET_KEY',
    'TMPDIR',
    'TZ',
  ])
  expect(env.TZ).toBe('Asia/Kolkata')
  expect(env.HOME).toBe(cwd)
  expect(env.SECRET_KEY).toBe(SECRET)
  expect(existsSync(cwd)).toBe(false)
  expect(existsSync(env.TMPDIR ?? '')).toBe(false)
  const configured = await factsOf(open('claude', { home: '/nonexistent/home' }))
  expect(configured.env.HOME).toBe('/nonexistent/home')
  expect(configured.env.SECRET_KEY).toBeUndefined()
})

test('a prompt names no file of the host and gives no command to the program, and reads as it was written', async () => {
  const written = '/FACTS @/etc/passwd and @"~/.ssh/id" of me@example.com'
  for (const kind of KINDS) {
    const { encoded, prompt } = await factsOf(open(kind), { prompt: { kind: 'chat', messages: [{ role: 'user', content: written }] } })
    const taken = decodeURIComponent(encoded)
    expect(taken, kind).not.toMatch(/^\s*\/|@[^\u034f]/)
    expect(taken.replaceAll('\u034f', '')).toBe(written)
    // What the model repeats of it is as it was.
    expect(prompt).toBe(written)
  }
  const plain = await factsOf(open('command'), { prompt: { kind: 'chat', messages: [{ role: 'user', content: written }] } })
  expect(decodeURIComponent(plain.encoded)).toBe(written)
})

test('tools are off by default, by the means of each program, and on when allowed', async () => {
  const off = Object.fromEntries(await Promise.all(KINDS.map(async (kind) => [kind, await factsOf(open(kind))] as const)))
  expect(pairs(off.claude?.args)).toContain('--tools=')
  expect(off.codex?.args).toContain('features.shell_tool=false')
  expect(pairs(off.codex?.args)).toContain('--sandbox=read-only')
  expect(pairs(off.gemini?.args).some((pair) => pair.startsWith('--policy=/'))).toBe(true)
  expect(pairs(off.cursor?.args)).toContain('--mode=ask')
  expect(off.cursor?.files).toContain('.cursor/cli.json')
  expect(off.opencode?.env.OPENCODE_PERMISSION).toBe('{"*":"deny"}')
  const some = await factsOf(open('claude', { tools: ['Read', 'Grep'] }))
  expect(pairs(some.args)).toContain('--allowedTools=Read,Grep')
  expect((await factsOf(open('gemini', { tools: 'on' }))).args).not.toContain('--policy')
})

test('a conversation becomes one text, with the system prompt apart where the program takes one', async () => {
  const messages: GenerationRequest['prompt'] = {
    kind: 'chat',
    messages: [
      { role: 'system', content: 'Be brief. SECRET PLAN' },
      { role: 'user', content: 'FACTS please; $(touch x) `y` "z"' },
      { role: 'assistant', content: 'Which?' },
      { role: 'user', content: [{ kind: 'text', text: 'All.' }] },
    ],
  }
  const told = await factsOf(open('claude'), { prompt: messages })
  expect(told.prompt).toBe(
    'User: FACTS please; $(touch x) `y` "z"\n\nAssistant: Which?\n\nUser: All.\n\nWrite the next message of the assistant, and nothing else.',
  )
  expect(told.args.join(' ')).not.toContain('SECRET PLAN')
  expect(told.args).toContain('--system-prompt-file')
  expect((await factsOf(open('opencode'), { prompt: messages })).prompt).toContain('Instructions for this conversation:\nBe brief.')
})

test('cancelling ends the whole tree, a grandchild in a session of its own that is deaf to SIGTERM too', async () => {
  const engine = open('claude')
  const running = generate(engine, ask('GRANDCHILD'))
  const pid = await running.until((text) => /pid (\d+);/.exec(text)?.[1])
  expect(isAlive(Number(pid))).toBe(true)
  running.cancel()
  running.cancel()
  expect((await running.done).end?.reason).toBe('cancelled')
  expect(isAlive(Number(pid))).toBe(false)
})

test('closing the engine ends what runs as retryable', async () => {
  const engine = open('codex')
  const running = generate(engine, ask('GRANDCHILD'))
  const pid = await running.until((text) => /pid (\d+);/.exec(text)?.[1])
  await engine.close()
  expect((await running.done).failure).toMatchObject({ code: 'engine_closed', retryable: true })
  expect(isAlive(Number(pid))).toBe(false)
})

test('max_tokens and stop cut the answer and end the program', async () => {
  const cut = await generate(open('claude'), ask('hello', { maxTokens: 5 })).done
  // Five tokens are twenty bytes, thirteen of which went into the reasoning.
  expect([cut.reasoning, cut.text, cut.end?.reason]).toEqual(['Let me think.', 'Hello f', 'length'])
  expect(cut.end?.completionTokens).toBe(5)
  const stopped = await generate(open('gemini'), ask('hello', { stop: ['the stand', 'nowhere'] })).done
  expect([stopped.text, stopped.end?.reason, stopped.end?.stopSequence]).toEqual(['Hello from ', 'stop', 'the stand'])
})

test('garbage, a bad exit and silence are failures with the last words, and no secret in them', async () => {
  const engine = open('codex', { env: ['SECRET_KEY'] })
  const garbage = (await generate(engine, ask('GARBAGE')).done).failure
  expect(garbage).toMatchObject({ code: 'cli_bad_output', layer: 'provider', retryable: true })
  expect(garbage?.message).toContain('this is {not JSON | [SECRET_KEY] at all')
  const exit = (await generate(engine, ask('EXIT3')).done).failure
  expect(exit).toMatchObject({ code: 'cli_failed', retryable: true, providerStatus: 3 })
  expect(exit?.message).toContain('exited with code 3: cannot go on with key [SECRET_KEY]')
  expect((await generate(engine, ask('SILENT')).done).failure).toMatchObject({ code: 'cli_no_answer', retryable: true })
  expect((await generate(engine, ask('hello')).done).text).toBe('Hello from the stand-in.')
})

test('what it cannot honour is refused before anything is started', async () => {
  const engine = open('claude')
  for (const [sampling, parameter] of [
    [{ temperature: 0 }, 'temperature'],
    [{ topP: 0.5 }, 'top_p'],
  ] as const) {
    const running = generate(engine, ask('hello', { sampling }))
    const { failure } = await running.done
    expect(failure).toMatchObject({ layer: 'ingress', code: 'unsupported_parameter', retryable: false })
    expect(failure?.message).toContain(parameter)
    expect(running.accepted).toBe(false)
  }
})

test('a program that is not there, or a variable that is not set, leaves the engine down and says which option to change', () => {
  const missing = open('claude', { command: ['no-such-program'] })
  expect(missing.state()).toMatchObject({ phase: 'down', slots: 0 })
  expect(missing.state().detail).toMatch(/no program "no-such-program".*option command=/)
  expect(open('claude', { env: ['NOT_SET_ANYWHERE'] }).state().detail).toContain('env names NOT_SET_ANYWHERE')
})

test('a program that breaks off and begins another answer has failed: two texts are never mixed', () => {
  const event = (inner: object) => ({ type: 'stream_event', event: inner, parent_tool_use_id: null })
  const start = (id: string) => event({ type: 'message_start', message: { id } })
  const delta = event({ type: 'content_block_delta', index: 0, delta: { type: 'text_delta', text: 'Paris is' } })
  const whole = (id: string) => ({ type: 'assistant', message: { id, content: [{ type: 'text', text: 'Paris is the capital.' }] } })
  const kinds = (...lines: object[]): string[] => {
    const reader = claude.reader()
    return lines.flatMap((line) => reader.read(line, 0)).map(({ kind }) => kind)
  }
  expect(kinds(start('1'), delta, whole('2'))).toEqual(['text', 'failed'])
  expect(kinds(start('1'), delta, start('2'))).toEqual(['text', 'failed'])
  expect(kinds(start('1'), delta, whole('1'), event({ type: 'message_delta', delta: {} }), start('2'), delta)).toEqual(['text', 'text'])
  expect(kinds(start('1'), delta, event({ type: 'message_stop' }), whole('2'))).toEqual(['text', 'text'])
})

test.each([
  ['stop', 'ended'],
  ['length', 'ended'],
  ['content-filter', 'ended'],
  ['tool-calls', undefined],
  ['unknown', undefined],
  ['other', 'failed'],
  ['error', 'failed'],
])('a step of OpenCode that ends with %s is %s', (reason, kind) => {
  const part = { reason, tokens: { input: 1, output: 1 } }
  expect(opencode.reader().read({ type: 'step_finish', part }, 0).at(-1)?.kind).toBe(kind)
})

test('what Gemini says of its failure, and what it thought, is told', () => {
  const reader = gemini.reader()
  expect(reader.read({ type: 'error', severity: 'error', message: 'Response stopped due to safety reasons.' }, 0)).toEqual([])
  expect(reader.read({ type: 'result', status: 'error' }, 0)).toMatchObject([
    { kind: 'failed', trouble: { message: 'Response stopped due to safety reasons.' } },
  ])
  const stats = { total_tokens: 5_000, input_tokens: 1_000, output_tokens: 200 }
  expect(gemini.reader().read({ type: 'result', status: 'success', stats }, 0)[0]).toMatchObject({
    kind: 'usage',
    promptTokens: 1_000,
    completionTokens: 4_000,
    reasoningTokens: 3_800,
  })
})

test('Gemini does not ask again in the midst of an answer', () => {
  const { workFiles = {} } = gemini.launch({ prompt: { text: 'x' }, tools: 'off', filesDir: '/f' })
  expect(JSON.parse(workFiles['.gemini/settings.json'] ?? '')).toEqual({ general: { maxAttempts: 1, retryFetchErrors: false } })
  // The home of somebody is theirs to change.
  const home = mkdtempSync(path.join(tmpdir(), 'holdfast-home-'))
  expect(gemini.adviceFor?.(home)).toContain(home)
  mkdirSync(path.join(home, '.gemini'))
  writeFileSync(path.join(home, '.gemini', 'settings.json'), '{"general": {"maxAttempts": 1}}')
  expect(gemini.adviceFor?.(home)).toBeUndefined()
  rmSync(home, { recursive: true })
})

test('the windows of a subscription become the quota: the tightest one', async () => {
  const codex = open('codex')
  await generate(codex, ask('hello')).done
  expect(codex.state().quota).toEqual({ limitedUntilMs: null, remainingRatio: 0.25 })
  const claude = open('claude')
  await generate(claude, ask('hello')).done
  expect(claude.state().quota?.remainingRatio).toBeCloseTo(0.08)
})

test('reasoning is kept apart from text', async () => {
  for (const kind of ['claude', 'codex', 'cursor'] as const)
    expect((await generate(open(kind), ask('hello')).done).reasoning).toBe('Let me think.')
})

test('a limit that is said to be over already, or to last for ages, is looked at again in a minute', () => {
  const now = Date.UTC(2026, 10, 21)
  const blame = { name: 'cl', login: 'Log in.' }
  const retryAt = (retryAtMs: number) => failureOf({ message: 'usage limit', status: 429, retryAtMs }, blame, now).retryAtMs
  expect([now - 2_000, now, 1e19, -5].map(retryAt)).toEqual([60_000, 60_000, 60_000, 60_000].map((ms) => now + ms))
  expect(retryAt(now + 5_000)).toBe(now + 5_000)
})

test('what was asked before a limit was told says nothing about it, and neither does what was cancelled', async () => {
  const quota = new Quota()
  quota.limitUntil(60_000, 10_000)
  quota.served(9_999)
  expect(quota.state(20_000)?.limitedUntilMs).toBe(60_000)
  quota.served(10_000)
  expect(quota.state(20_000)).toBeUndefined()
  const engine = open('gemini', { slots: 2 })
  const hangs = generate(engine, ask('HANG'))
  await hangs.until((text) => text !== '')
  await generate(engine, ask('LIMIT')).done
  const { quota: limited } = engine.state()
  hangs.cancel()
  await hangs.done
  const late = generate(engine, ask('HANG'))
  await late.until((text) => text !== '')
  late.cancel()
  await late.done
  expect([limited?.limitedUntilMs, engine.state().quota]).toEqual([expect.any(Number), limited])
})

test('an account that nobody has paid for is over its quota', () => {
  const said = (message: string, status?: number) =>
    failureOf({ message, ...(status === undefined ? {} : { status }) }, { name: 'cl', login: 'Log in.' }, 0)
  expect(said('Credit balance is too low')).toMatchObject({ code: 'rate_limited', retryAtMs: 60_000 })
  expect(said('API Error: 400 Your credit balance is too low', 400)).toMatchObject({ code: 'rate_limited' })
  expect(said('API key not valid', 400)).toMatchObject({ code: 'cli_not_authenticated' })
})

test('times of limits are understood as the programs word them', () => {
  const now = Date.UTC(2026, 10, 21, 14, 59)
  const at = (message: string) => retryTimeOf(message, now)
  expect(at('Claude AI usage limit reached|1795276800')).toBe(1_795_276_800_000)
  // Clock times have no seconds: the end of their minute is meant.
  const minute = 60_000
  expect(at('You have hit your session limit · resets 3:59pm (UTC)')).toBe(Date.UTC(2026, 10, 21, 15, 59) + minute)
  expect(at('resets 2pm (UTC)')).toBe(Date.UTC(2026, 10, 22, 14) + minute)
  expect(at('resets 2:57pm (UTC)')).toBe(now + minute)
  expect(at('resets Nov 24, 3pm (UTC)')).toBe(Date.UTC(2026, 10, 24, 15) + minute)
  expect(at('resets Jan 2, 3pm (UTC)')).toBeUndefined()
  // Behind UTC by five hours, and ahead by five and a half.
  expect(at('resets 3pm (America/New_York)')).toBe(Date.UTC(2026, 10, 21, 20) + minute)
  expect(at('resets 8am (America/New_York)')).toBe(Date.UTC(2026, 10, 22, 13) + minute)
  expect(at('resets Nov 22, 1am (Asia/Kolkata)')).toBe(Date.UTC(2026, 10, 21, 19, 30) + minute)
  expect(at('resets Nov 24, 3pm (Nowhere/Land)')).toBe(new Date(2026, 10, 24, 15).getTime() + minute)
  expect(at('You will regain access on 2026-12-01 at 00:00 UTC.')).toBe(Date.UTC(2026, 11, 1))
  expect(at('or try again at Nov 24th, 2026 3:59 PM.')).toBe(new Date(2026, 10, 24, 15, 59).getTime() + minute)
  expect(at('Please retry in 36.5s.')).toBe(now + 36_500)
  expect(at('Your quota will reset after 18h31m10s.')).toBe(now + ((18 * 60 + 31) * 60 + 10) * 1000)
  expect(at('try again in 3 days 4 hours 5 minutes.')).toBe(now + ((3 * 24 + 4) * 60 + 5) * 60_000)
  expect(at('something else went wrong in 2 places')).toBeUndefined()
})

test('options are parsed, and what is wrong is named', () => {
  const [spec] = parseModels(
    'x=cli:claude?slots=3&model=sonnet&tools=Read,Grep&env=A_KEY,B_KEY&home=/home/bot&command=["/opt/claude","--x"]',
  )
  expect(spec?.source).toEqual({
    kind: 'cli',
    cli: {
      kind: 'claude',
      slots: 3,
      contextTokens: 0,
      command: ['/opt/claude', '--x'],
      model: 'sonnet',
      tools: ['Read', 'Grep'],
      home: '/home/bot',
      env: ['A_KEY', 'B_KEY'],
      description: { format: 'text' },
    },
  })
  expect(parseModels('x=cli:command?command=my+tool&format=jsonl&text=/a')[0]?.source).toMatchObject({
    cli: { command: ['my', 'tool'], description: { format: 'jsonl', text: '/a' } },
  })
  for (const [wrong, named] of [
    ['cli:clod', /cli:claude, cli:codex, cli:gemini, cli:cursor, cli:opencode, cli:command/],
    ['cli:claude?env=HOLDFAST_WORKER_TOKEN', /HOLDFAST_WORKER_TOKEN is Holdfast's own/],
    ['cli:codex?tools=Read', /tools=Read/],
    ['cli:claude?model=--danger', /model=--danger/],
    ['cli:command', /without the option command/],
    ['cli:command?command=x&format=jsonl', /without text=/],
    ['cli:command?command=x&text=/a', /need format=jsonl/],
    ['cli:claude?threads=2', /option "threads=2"/],
    ['cli:claude?home=here', /not an absolute path/],
  ] as const)
    expect(() => parseModels(`x=${wrong}`)).toThrow(named)
})

test('a worker serves one through the API', async () => {
  await using world = await World.open()
  await world.coordinator()
  const command = encodeURIComponent(JSON.stringify([process.execPath, standIn('claude')]))
  await world.worker('w', `x=cli:claude?command=${command}&slots=2`)
  const response = await world.request('POST', '/v1/chat/completions', { model: 'x', messages: [{ role: 'user', content: 'hello' }] })
  const body = (await response.json()) as { choices: { message: { content: string }; finish_reason: string }[]; usage: unknown }
  expect(body.choices[0]).toMatchObject({ message: { content: 'Hello from the stand-in.' }, finish_reason: 'stop' })
  expect(body.usage).toMatchObject({ prompt_tokens: 19, completion_tokens: 7 })
  const refused = await world.request('POST', '/v1/chat/completions', {
    model: 'x',
    messages: [{ role: 'user', content: 'hello' }],
    temperature: 0.5,
  })
  expect(refused.status).toBe(400)
  expect(await refused.text()).toContain('temperature')
})

test('a job whose answer is to be chosen in a certain way goes to no program, and waits where only others could take it', async () => {
  await using world = await World.open()
  await world.coordinator()
  const command = encodeURIComponent(JSON.stringify([process.execPath, standIn('claude')]))
  await world.worker('w', `x=cli:claude?command=${command}`)
  const busy = await world.worker('local', 'x=fake:?slots=1&stall_on=STALL')
  await send(world, 'POST', '/api/policies', { name: 'both', tiers: { gpu: 'at_once', cli: 'at_once' } })
  const both = { 'x-holdfast-policy': 'both' }
  const hog = await enqueue(world, 'x', both, { messages: [{ role: 'user', content: 'STALL' }] })
  const chosen = [await enqueue(world, 'x', both, { temperature: 0.5 }), await enqueue(world, 'x', both, { top_p: 0.5 })]
  expect(await ended(world, await enqueue(world, 'x', both))).toMatchObject({ status: 'succeeded', provider: 'w' })
  for (const id of chosen) await waitsFor(world, id, 'all_slots_busy')
  await send(world, 'POST', `/api/jobs/${hog}/cancel`, {})
  for (const id of chosen) expect(await ended(world, id)).toMatchObject({ status: 'succeeded', provider: 'local' })
  await busy.stop()
})

test('a job whose program is not logged in is not blamed: it waits for a person, or goes elsewhere', async () => {
  await using world = await World.open()
  await world.coordinator()
  const command = encodeURIComponent(JSON.stringify([process.execPath, standIn('claude')]))
  await world.worker('w', `x=cli:claude?command=${command}&slots=2`)
  const ids = [await enqueue(world, 'x', {}, AUTH), await enqueue(world, 'x', {}, AUTH)]
  for (const id of ids) expect((await waitsFor(world, id, 'paused')).waiting?.detail).toContain('not logged in')
  expect(await readProvider(world, 'w')).toMatchObject({ state: 'parked', reason: expect.stringContaining('not logged in') as string })
  await world.worker('other', 'x=fake:')
  for (const id of ids) {
    const job = await ended(world, id)
    expect(job).toMatchObject({ status: 'succeeded', provider: 'other' })
    expect(job.attempts.filter(({ error }) => error?.code === 'cli_not_authenticated').length).toBeLessThanOrEqual(1)
  }
})

const AUTH = { messages: [{ role: 'user', content: 'AUTH' }] }

test('kill -9 of the worker takes the programs of its jobs with it, and their folders', async () => {
  await using world = await World.open()
  await world.coordinator()
  const command = encodeURIComponent(JSON.stringify([process.execPath, standIn('claude')]))
  const worker = await world.worker('w', `x=cli:claude?command=${command}`)
  const body = { model: 'x', messages: [{ role: 'user', content: 'GRANDCHILD' }], stream: true }
  const response = await world.request('POST', '/v1/chat/completions', body)
  let said = ''
  for await (const part of response.body ?? []) {
    said += Buffer.from(part).toString()
    if (/pid \d+;/.test(said)) break
  }
  const pid = Number(/pid (\d+);/.exec(said)?.[1])
  const folders = (): string[] => foldersOfJobs(worker.pid)
  expect([isAlive(pid), folders().length]).toEqual([true, 1])
  worker.kill('SIGKILL')
  await world.until('its grandchild is gone', () => !isAlive(pid))
  await world.until('its folder is gone', () => folders().length === 0)
})

function standIn(kind: CliKind): string {
  return fileURLToPath(new URL(`support/cli/${kind === 'command' ? 'described' : kind}.ts`, import.meta.url))
}

function open(kind: CliKind, extra: Partial<Parameters<typeof openCliEngine>[0]> = {}): Engine {
  const description =
    kind === 'command'
      ? { format: 'jsonl' as const, text: '/out/a~1b', promptTokens: '/used/in', completionTokens: '/used/out' }
      : { format: 'text' as const }
  // That it is down is in its state, which the tests read.
  const warn = (message: string): void => {
    if (!message.startsWith('model x is down: ')) expect.fail(message)
  }
  const command = [process.execPath, standIn(kind)]
  const engine = openCliEngine(
    { name: 'x', kind, slots: 1, contextTokens: 0, command, tools: 'off', env: [], description, log: { warn }, ...extra },
    () => {},
  )
  engines.push(engine)
  return engine
}

function ask(content: string, extra: Partial<GenerationRequest> = {}): GenerationRequest {
  return { prompt: { kind: 'chat', messages: [{ role: 'user', content }] }, stop: [], sampling: {}, seed: 1, ...extra }
}

type Made = { ids: number[]; text: string; reasoning: string; end?: GenerationEnd; failure?: GenerationFailure }

class Running {
  readonly done: Promise<Made>
  accepted = false
  cancel: () => void = () => {}
  readonly #made: Made = { ids: [], text: '', reasoning: '' }
  #look: () => void = () => {}

  constructor(engine: Engine, request: GenerationRequest) {
    this.done = new Promise((resolve) => {
      const ends = (end: Partial<Made>, rest: string): void => {
        Object.assign(this.#made, end)
        this.#made.text += rest
        resolve(this.#made)
      }
      const generation = engine.generate('key', request, [], {
        accepted: () => (this.accepted = true),
        tokens: (ids, text, delta) => {
          this.#made.ids.push(...ids)
          this.#made.text += text
          this.#made.reasoning += delta?.reasoning ?? ''
          this.#look()
        },
        finished: (end) => ends({ end }, end.text),
        failed: (failure) => ends({ failure }, ''),
      })
      this.cancel = () => generation.cancel()
    })
  }

  until<T>(found: (text: string) => T | undefined): Promise<T> {
    return new Promise((resolve) => {
      this.#look = () => {
        const value = found(this.#made.text)
        if (value !== undefined) resolve(value)
      }
      this.#look()
    })
  }
}

function generate(engine: Engine, request: GenerationRequest): Running {
  return new Running(engine, request)
}

type Facts = { env: Record<string, string>; cwd: string; files: string[]; args: string[]; prompt: string; encoded: string }

async function factsOf(engine: Engine, extra: Partial<GenerationRequest> = {}): Promise<Facts> {
  const made = await generate(engine, ask('FACTS', extra)).done
  expect(made.failure).toBeUndefined()
  return JSON.parse(made.text) as Facts
}

function pairs(args: string[] = []): string[] {
  return args.slice(1).map((value, index) => `${args[index]}=${value}`)
}

function foldersOfJobs(worker = process.pid): string[] {
  return readdirSync(tmpdir()).filter((name) => name.startsWith(`holdfast-cli-${hostname()}-${worker}-`))
}

/** A zombie has ended: it only waits for whoever inherited it. */
function isAlive(pid: number): boolean {
  try {
    return !/\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
  } catch {
    return false
  }
}
