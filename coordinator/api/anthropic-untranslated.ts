import { badRequest } from '../core/fault.ts'
import { type Body, isObject } from './body.ts'

/**
 * What a body of the Anthropic dialect says beyond the normal form. If there is anything, a provider of the dialect gets the
 * very body; if it changes the answer, no other provider will do.
 */
export class Untranslated {
  /** Parameters that change the answer. */
  readonly changing: string[] = []
  isEmpty = true
  /** About how many tokens the model reads in what the normal form leaves out. */
  tokens = 0

  /** Of a member that does not change the answer: where a prompt is cached, who pays how much for speed. */
  keep(): void {
    this.isEmpty = false
  }

  changes(param: string): void {
    this.isEmpty = false
    this.changing.push(param)
  }

  /** A block, or a tool, that only the dialect itself knows. */
  leaveOut(what: Body, param: string): void {
    this.changes(param)
    let sealed = 0
    const text = JSON.stringify(what, function (this: Body, name: string, value: unknown) {
      if (name !== 'data' || this.type !== 'base64' || typeof value !== 'string') return value
      sealed += value.length
      return ''
    })
    const { source } = what
    const isAway = isObject(source) && (source.type === 'url' || source.type === 'file')
    this.tokens += Math.ceil(Buffer.byteLength(text) / BYTES_PER_TOKEN + sealed / SEALED_PER_TOKEN) + (isAway ? AWAY_TOKENS : 0)
  }

  /** Sorts the members of an object that are not null; one that nobody knows is refused. */
  sort(fields: Body, at: string, sorts: MemberSorts): void {
    for (const name in fields) {
      if (fields[name] === null || sorts.read.has(name)) continue
      const param = at === '' ? name : `${at}.${name}`
      if (name === 'cache_control') refuseOddCache(fields[name], param)
      if (sorts.kept?.has(name) === true) this.keep()
      else if (sorts.changing?.has(name) === true) this.changes(param)
      else throw badRequest('unknown_parameter', `Unknown parameter: ${param.slice(0, 200)}.`, param.slice(0, 200))
    }
  }
}

/** The one kind there is, for one of two times. */
function refuseOddCache(value: unknown, param: string): void {
  const { type, ttl = '5m' } = isObject(value) ? value : {}
  if (type !== 'ephemeral' || (ttl !== '5m' && ttl !== '1h'))
    throw badRequest('out_of_range', `${param} must be {"type": "ephemeral"}, with a ttl of "5m" or "1h" if any.`, param)
}

const BYTES_PER_TOKEN = 4
// A page of a PDF is about 100 kB and 2,000 tokens.
const SEALED_PER_TOKEN = 67
const AWAY_TOKENS = 1_600

export type MemberSorts = { read: ReadonlySet<string>; kept?: ReadonlySet<string>; changing?: ReadonlySet<string> }
