import type { Mutant } from './list.ts'

/** Planted in what the doors tell beside answers: progress, events, tags, the description. */
export const DOOR_MUTANTS: Mutant[] = [
  {
    bug: 'doors: a prompt that gets on is a stall',
    file: 'coordinator/engine/live-job.ts',
    find: 'follower.prefilled?.(this.prefill)\n    return true',
    replace: 'follower.prefilled?.(this.prefill)\n    return false',
    tests: ['prefill'],
  },
  {
    bug: 'doors: progress of a prompt is told behind the first token',
    file: 'worker/attempts.ts',
    find: 'if (this.#tokenIds.length > 0) return\n    this.#promptTokens',
    replace: 'this.#promptTokens',
    tests: ['prefill'],
  },
  {
    bug: 'doors: a team hears the events of others',
    file: 'coordinator/api/event-stream.ts',
    find: 'follow.team === null || follow.team === team',
    replace: 'true',
    tests: ['event-stream'],
  },
  {
    bug: 'doors: a transaction does not tell its events',
    file: 'coordinator/store/events.ts',
    find: '  query.events?.push(event)\n',
    replace: '',
    tests: ['event-stream'],
  },
  {
    bug: 'doors: who has no room is forgotten',
    file: 'coordinator/api/event-stream.ts',
    find: 'onRoom: () => void this.#catchUp()',
    replace: 'onRoom: () => {}',
    tests: ['event-stream'],
  },
  {
    bug: 'doors: nobody looks for the events of other coordinators',
    file: 'coordinator/engine/event-feed.ts',
    find: ', setInterval(() => void this.#look(), LOOK_EVERY_MS)]',
    replace: ']',
    tests: ['event-stream'],
  },
  {
    bug: 'doors: a tag is held by whoever sends any',
    file: 'coordinator/api/etags.ts',
    find: 'opaque(one) === opaque(tag)',
    replace: 'opaque(one) !== ""',
    tests: ['etags'],
  },
  {
    bug: 'doors: a name may hold a NUL',
    file: 'coordinator/api/well-formed.ts',
    find: "!text.includes('\\u0000') && text",
    replace: 'text',
    tests: ['bad-input'],
  },
  {
    bug: 'doors: a body may be nested as deep as it likes',
    file: 'coordinator/api/well-formed.ts',
    find: '  if (levels === 0) return true\n',
    replace: '',
    tests: ['bad-input'],
  },
  {
    bug: 'doors: a body may trickle for ever',
    file: 'coordinator/api/server.ts',
    find: 'requestTimeout: REQUEST_TIMEOUT_MS',
    replace: 'requestTimeout: 0',
    tests: ['slow-callers'],
  },
]
