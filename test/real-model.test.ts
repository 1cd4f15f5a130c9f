import { existsSync } from 'node:fs'
import OpenAI from 'openai'
import { expect, test } from 'vitest'
import { chatStream } from './support/stream.ts'
import { ADMIN_KEY, descendants, World } from './support/world.ts'

/** With a real instruct model, where HOLDFAST_TEST_MODEL names its file; the suite does not depend on one. */
const model = process.env.HOLDFAST_TEST_MODEL

test.skipIf(model === undefined || !existsSync(model))(
  'a real model talks, is killed in mid-answer and goes on, every character once',
  async () => {
    await using world = await World.open()
    await world.coordinator()
    const worker = await world.worker('a', `real=${model}?slots=2&context=2048`)
    const client = new OpenAI({ baseURL: `${world.url}/v1`, apiKey: ADMIN_KEY, maxRetries: 0 })
    const answer = await client.chat.completions.create({
      model: 'real',
      temperature: 0,
      max_tokens: 40,
      messages: [{ role: 'user', content: 'What is the capital of France? Answer in one sentence.' }],
    })
    expect(answer.choices[0]?.message.content).toMatch(/Paris/)
    expect(answer.usage?.prompt_tokens).toBeGreaterThan(20)

    const story = chatStream(world, 'real', 'Write a long story about a lighthouse.', { max_tokens: 200 })
    await world.until('it streams', () => story.seen.deltas > 30)
    for (const pid of descendants(worker.pid)) process.kill(pid, 'SIGKILL')
    const seen = await story.done
    const job = await world.job(seen.job)
    expect([seen.error, seen.done, job.status, job.attempts.length]).toEqual([null, true, 'succeeded', 2])
    expect(job.output?.text).toBe(seen.text)
    expect(seen.usage?.completion_tokens).toBe(200)
  },
)
