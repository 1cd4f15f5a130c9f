import { readEvents } from '../support/sse.ts'
import { World } from '../support/world.ts'
import { printTable } from './measure.ts'

/**
 * Time to first token over four real workers with the built-in model. Conversations are sent as chats, whose prefixes the
 * coordinator sees and places by, and as one raw prompt, which it can only place on the least busy worker.
 */
export async function run(): Promise<void> {
  await using world = await World.open()
  await world.coordinator()
  for (let index = 0; index < WORKERS; index++) await world.worker(`w${index}`, 'tiny=builtin:tiny?slots=4&context=4096&threads=1')
  // Once for nothing: the first prompts of a process pay for its caches.
  await converse(world, 'chat', 900)
  const rows: Record<string, string | number>[] = []
  const figure = async (what: string, one: () => Promise<number[]>, other: () => Promise<number[]>, target: string): Promise<void> => {
    const [placed, leastBusy] = [[] as number[], [] as number[]]
    for (let round = 0; round < ROUNDS; round++) {
      placed.push(...(await one()))
      leastBusy.push(...(await other()))
    }
    const ratio = mean(leastBusy) / mean(placed)
    rows.push({ what, 'placed by prefix, mean ms': mean(placed), 'least busy, mean ms': mean(leastBusy), 'times better': ratio, target })
  }
  let seed = 0
  await figure(
    'turns of conversations',
    () => converse(world, 'chat', (seed += 1)),
    () => converse(world, 'text', (seed += 1)),
    '≥ 2',
  )
  await figure(
    'random prompts',
    () => random(world, 'chat', (seed += 1)),
    () => random(world, 'text', (seed += 1)),
    '≥ 0.95',
  )
  printTable(`prefix: time to first token, ${WORKERS} workers, ${CONVERSATIONS} conversations of ${TURNS} turns`, rows)
}

const WORKERS = 4
const CONVERSATIONS = 8
const TURNS = 8
// People read an answer before they write the next turn: the fleet is not saturated, and who is least busy changes.
const THINK_MS = 400
const ROUNDS = 2

type Form = 'chat' | 'text'
type Message = { role: 'system' | 'user' | 'assistant'; content: string }

/** Turn after turn in every conversation at once; the first turns, which nobody can have cached, do not count. */
async function converse(world: World, form: Form, seed: number): Promise<number[]> {
  const firstTokenMs: number[] = []
  await Promise.all(
    Array.from({ length: CONVERSATIONS }, async (_, conversation) => {
      const messages: Message[] = [{ role: 'system', content: words(`s${seed}c${conversation}`, 200) }]
      for (let turn = 0; turn < TURNS; turn++) {
        messages.push({ role: 'user', content: words(`s${seed}c${conversation}t${turn}`, 40) })
        const { ms, text } = await ask(world, form, messages)
        if (turn > 0) firstTokenMs.push(ms)
        messages.push({ role: 'assistant', content: text })
        await think(seed, conversation, turn)
      }
    }),
  )
  return firstTokenMs
}

async function random(world: World, form: Form, seed: number): Promise<number[]> {
  const firstTokenMs: number[] = []
  await Promise.all(
    Array.from({ length: CONVERSATIONS }, async (_, caller) => {
      for (let index = 0; index < TURNS; index++) {
        firstTokenMs.push((await ask(world, form, [{ role: 'user', content: words(`r${seed}c${caller}i${index}`, 300) }])).ms)
        await think(seed, caller, index)
      }
    }),
  )
  return firstTokenMs
}

async function ask(world: World, form: Form, messages: Message[]): Promise<{ ms: number; text: string }> {
  const began = performance.now()
  const options = { model: 'tiny', max_tokens: 12, temperature: 0, stream: true }
  const response =
    form === 'chat'
      ? await world.request('POST', '/v1/chat/completions', { ...options, messages })
      : await world.request('POST', '/v1/completions', {
          ...options,
          prompt: messages.map(({ role, content }) => `${role}: ${content}\n`).join(''),
        })
  if (!response.ok || response.body === null) throw new Error(`answered ${response.status}: ${await response.text()}`)
  let ms = 0
  let text = ''
  for await (const event of readEvents(response.body)) {
    if (event.data === undefined || event.data === '[DONE]') continue
    const choice = (JSON.parse(event.data) as { choices: { text?: string; delta?: { content?: string } }[] }).choices[0]
    const part = choice?.text ?? choice?.delta?.content ?? ''
    if (part === '') continue
    if (ms === 0) ms = performance.now() - began
    text += part
  }
  return { ms, text }
}

function think(...place: number[]): Promise<void> {
  const chance = place.reduce((sum, part) => (sum * 7_919 + part + 13) % 1_009, 1) / 1_009
  return new Promise((resolve) => setTimeout(resolve, THINK_MS * (0.5 + chance)))
}

/** Words that no other seed has in this order. */
function words(seed: string, count: number): string {
  let chance = seed.split('').reduce((sum, letter) => (sum * 31 + letter.charCodeAt(0)) % 2_147_483_647, 11)
  return Array.from({ length: count }, () => {
    chance = (chance * 48_271) % 2_147_483_647
    return WORDS[chance % WORDS.length]
  }).join(' ')
}

const WORDS = 'the house a river stone green runs under light and slow morning over hill walks into open water bright road'.split(' ')

function mean(values: number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length
}
