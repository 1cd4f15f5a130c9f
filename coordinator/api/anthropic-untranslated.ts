import { badRequest } from '../core/fault.ts'
import type { Body } from './body.ts'

/**
 * What a body of the Anthropic dialect says beyond the normal form. If there is anything, a provider of the dialect gets the
 * very body; if it changes the answer, no other provider will do.
 */
export class Untranslated {
  /** Parameters that change the answer. */
  readonly changing: string[] = []
  isEmpty = true

  /** Of a member that does not change the answer: where a prompt is cached, who pays how much for speed. */
  keep(): void {
    this.isEmpty = false
  }

  changes(param: string): void {
    this.isEmpty = false
    this.changing.push(param)
  }

  /** Sorts the members of an object that are not null; one that nobody knows is refused. */
  sort(fields: Body, at: string, sorts: MemberSorts): void {
    for (const name in fields) {
      if (fields[name] === null || sorts.read.has(name)) continue
      const param = at === '' ? name : `${at}.${name}`
      if (sorts.kept?.has(name) === true) this.keep()
      else if (sorts.changing?.has(name) === true) this.changes(param)
      else throw badRequest('unknown_parameter', `Unknown parameter: ${param.slice(0, 200)}.`, param.slice(0, 200))
    }
  }
}

export type MemberSorts = { read: ReadonlySet<string>; kept?: ReadonlySet<string>; changing?: ReadonlySet<string> }
