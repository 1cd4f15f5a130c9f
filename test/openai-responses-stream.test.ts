import { EventEmitter } from 'node:events'
import type { ServerResponse } from 'node:http'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { RecentCuts } from '../coordinator/api/openai-responses-cuts.ts'
import { ResponseStream } from '../coordinator/api/openai-responses-stream.ts'
import { type ResponseRequest, responseView } from '../coordinator/api/openai-responses-view.ts'
import type { JobRecord } from '../coordinator/core/job.ts'
import type { Dispatcher } from '../coordinator/engine/dispatcher.ts'
import { LiveJob } from '../coordinator/engine/live-job.ts'
import type { AnswerDelta } from '../proto/answer.ts'
import { SseReader } from '../proto/sse.ts'
import { entryStart, ThoughtTurns } from '../proto/thinking.ts'

/** However an answer goes on behind its calls, its stream, its response and what is read of it later are the same. */

test('what was told as done is what the response holds, in its place, and what is read later', () => {
  fc.assert(
    fc.property(fc.array(steps(), { maxLength: 8 }), fc.boolean(), fc.infiniteStream(fc.nat(3)), (made, showSignature, told) => {
      const { events, live, request } = streamed(made, showSignature, told)
      const items: Item[] = []
      const done: Item[] = []
      for (const event of events) {
        const { type, output_index: at = -1, content_index: part = -1 } = event
        if (type === 'response.output_item.added') {
          expect([at, done.length]).toEqual([items.length, items.length])
          items.push({ ...event.item, content: [] })
        } else if (type === 'response.content_part.added') expect(items[at]?.content?.push({ ...event.part })).toBe(part + 1)
        else if (type.endsWith('.delta')) {
          expect([at, done.length]).toEqual([items.length - 1, at])
          if (part < 0) (items[at] as Item).arguments += event.delta
          else grow(items[at]?.content?.[part], event.delta)
        } else if (type === 'response.output_item.done') done[at] = event.item
      }
      const { output } = events.at(-1)?.response ?? {}
      expect(done).toEqual(output)
      expect(items.map(textsOf)).toEqual(done.map(textsOf))
      const stored = LiveJob.ended(live.record, JSON.parse(JSON.stringify(live.output())) as object)
      expect(responseView(stored, request).output).toEqual(output)
    }),
    { numRuns: 500 },
  )
})

test('a thought that is only proven is told where proofs are asked for', () => {
  const output = (made: Step[], showSignature = true): unknown => streamed(made, showSignature, [].values()).events.at(-1)?.response?.output
  const proof = { kind: 'thought', pieces: [], signature: 'c2ln' } as const
  const said = { kind: 'text', text: 'x' } as const
  const reasoning = { type: 'reasoning', content: [], encrypted_content: 'c2ln' }
  expect(output([proof, said])).toMatchObject([reasoning, { type: 'message' }])
  expect(output([proof])).toMatchObject([reasoning, { type: 'message' }])
  expect(output([proof, said], false)).toMatchObject([{ type: 'message' }])
})

type Step =
  | { kind: 'text'; text: string }
  | { kind: 'thought'; pieces: readonly string[]; signature: string }
  | { kind: 'call'; pieces: readonly string[] }

function steps(): fc.Arbitrary<Step> {
  const text = fc.string({ minLength: 1, maxLength: 4 })
  const thought = fc.record({
    kind: fc.constant('thought' as const),
    pieces: fc.array(text, { maxLength: 2 }),
    signature: fc.base64String({ maxLength: 8 }),
  })
  return fc.oneof(
    fc.record({ kind: fc.constant('text' as const), text }),
    thought.filter(({ pieces, signature }) => pieces.length > 0 || signature !== ''),
    fc.record({ kind: fc.constant('call' as const), pieces: fc.constantFrom(['{}'], ['{"a"', ':1}']) }),
  )
}

/** By what the answer grows, as an engine tells it. */
function growthOf(made: Step[]): [text: string, delta: AnswerDelta[]][] {
  const turns = new ThoughtTurns()
  let calls = 0
  return made.flatMap((step): [string, AnswerDelta[]][] => {
    if (step.kind === 'text') {
      turns.speaks(step.text)
      return [[step.text, []]]
    }
    if (step.kind === 'call') {
      const index = calls++
      const begun: AnswerDelta = { toolCalls: [{ index, id: `c${index}`, name: 'f' }] }
      return [begun, ...step.pieces.map((piece) => ({ toolCalls: [{ index, arguments: piece }] }))].map((delta) => ['', [delta]])
    }
    const { pieces, signature } = step
    const start = signature === '' ? '' : entryStart(turns.passed.reasoning, turns.passed.signature > 0)
    const deltas: AnswerDelta[] = [
      ...(start === '' ? [] : [{ reasoningSignature: start }]),
      ...pieces.map((reasoning) => ({ reasoning })),
      ...(signature === '' ? [] : [{ reasoningSignature: signature }]),
    ]
    return deltas.map((delta) => {
      const turn = turns.thinks(delta.reasoning ?? '', delta.reasoningSignature)
      return ['', [{ ...delta, ...(turn && { asides: [turn] }) }]]
    })
  })
}

/** `together`: how many growths more the stream hears of at once. */
function streamed(
  made: Step[],
  showSignature: boolean,
  together: Iterator<number>,
): { events: Event[]; live: LiveJob; request: ResponseRequest } {
  const live = new LiveJob({ id: 'j', model: 'm', status: 'running', promptTokens: null } as unknown as JobRecord, null)
  const request = {
    prompt: { kind: 'chat', messages: [] },
    sampling: {},
    stop: [],
    response: { showSignature },
  } as unknown as ResponseRequest
  const written: string[] = []
  const response = Object.assign(new EventEmitter(), {
    writeHead: () => {},
    write: (text: string) => written.push(text) > 0,
    end: (text: string) => written.push(text),
  }) as unknown as ServerResponse
  const dispatcher = { announceWaiting: () => {} } as unknown as Dispatcher
  new ResponseStream(dispatcher, live, request, response, { cuts: new RecentCuts() }).open({})
  const growth = growthOf(made)
  while (growth.length > 0) {
    const some = growth.splice(0, 1 + (together.next().value ?? 0))
    live.append(
      [],
      some.map(([text]) => text).join(''),
      some.flatMap(([, deltas]) => deltas),
    )
  }
  Object.assign(live.record, { status: 'succeeded', finishReason: 'stop' })
  live.ended()
  const found = new SseReader().push(Buffer.from(written.join('')))
  return { events: found.flatMap((event) => (event.kind === 'event' ? [JSON.parse(event.data) as Event] : [])), live, request }
}

type Part = { text?: string }
type Item = { type: string; content?: Part[]; arguments?: string }
type Event = {
  type: string
  output_index?: number
  content_index?: number
  item: Item
  part: Part
  delta: string
  response?: { output: Item[] }
}

function grow(part: Part | undefined, delta: string): void {
  if (part !== undefined) part.text += delta
}

function textsOf({ type, content = [], arguments: written }: Item): unknown {
  return [type, written, content.map(({ text }) => text)]
}
