import { openFakeEngine } from '../../worker/engines/fake.ts'
import type { Caller } from './plan.ts'

/** What an undisturbed engine answers this caller; null for the toy, whose text is only compared with itself. */
export async function expectedText(caller: Caller): Promise<string | null> {
  if (caller.model === 'tiny') return null
  let text = ''
  return await new Promise((resolve, reject) => {
    engine.generate(
      '',
      {
        prompt: { kind: 'chat', messages: [{ role: 'user', content: caller.content }] },
        maxTokens: caller.maxTokens,
        stop: [],
        sampling: caller.seed === null ? { temperature: 0 } : {},
        seed: caller.seed ?? 0,
      },
      [],
      {
        accepted: () => {},
        tokens: (_ids, more) => {
          text += more
        },
        finished: (end) => resolve(text + end.text),
        failed: ({ message }) => reject(new Error(message)),
      },
    )
  })
}

// The name counts: it is part of what the text is made from.
const engine = openFakeEngine({ name: 'fake', slots: 1, contextTokens: 0, rate: 0, firstTokenMs: 0 }, () => {})
