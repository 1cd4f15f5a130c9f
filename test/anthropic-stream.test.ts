import type { ServerResponse } from 'node:http'
import { Writable } from 'node:stream'
import { expect, test } from 'vitest'
import { AnthropicStream } from '../coordinator/api/anthropic-stream.ts'
import type { Dispatcher } from '../coordinator/engine/dispatcher.ts'
import { LiveJob } from '../coordinator/engine/live-job.ts'
import { type NewJob, newRecord } from '../coordinator/engine/new-job.ts'
import { OpenAiReader } from '../proto/openai-wire-answer.ts'

test('what is thought between texts is one block each time, however it arrives', async () => {
  let told = ''
  const response = new Writable({
    write: (chunk: Buffer, _encoding, done) => {
      told += chunk.toString()
      done()
    },
  })
  const head = { writeHead: () => response, setHeader: () => response, flushHeaders: () => {} }
  const job = { id: '01920000-0000-7000-8000-000000000000', type: 'chat', needs: [], model: 'm' }
  const record = newRecord(job as unknown as NewJob, Date.now(), 'c')
  record.status = 'running'
  const live = new LiveJob(record, null)
  const dispatcher = { announceWaiting: () => {} } as unknown as Dispatcher
  const raw = Object.assign(response, head) as unknown as ServerResponse
  new AnthropicStream(dispatcher, live, raw, { headers: {}, requestId: 'r' }).open()
  const reader = new OpenAiReader(() => 'c')
  const thought = ['first ', 'thought'].map((text) => ({ reasoning_content: text }))
  const again = ['sec', 'ond ', 'thought'].map((text) => ({ reasoning_content: text }))
  for (const delta of [...thought, { content: 'Hello' }, ...again, { content: ' World' }]) {
    const piece = reader.readData(JSON.stringify({ choices: [{ index: 0, delta }] }))
    if (piece !== null && 'text' in piece) live.append([0], piece.text, piece.delta === undefined ? [] : [piece.delta])
  }
  record.status = 'succeeded'
  record.finishReason = 'stop'
  live.ended()
  const began = told.match(/"content_block":\{"type":"(\w+)"/g) ?? []
  expect(began.map((block) => /"type":"(\w+)"/.exec(block)?.[1])).toEqual(['thinking', 'text', 'thinking', 'text'])
})
