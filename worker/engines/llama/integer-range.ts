import type { JsonSchema } from '../../../proto/request.ts'

type Bounds = Exclude<JsonSchema, boolean>
type IntegerRange = { least: bigint; most: bigint }

/** The integers that a schema's bounds leave to an answer; undefined: it has no bounds. `least` above `most`: none is left. */
export function integerRange(schema: Bounds): IntegerRange | undefined {
  const least = [...within(schema.minimum, 1), ...beyond(schema.exclusiveMinimum, 1)]
  const most = [...within(schema.maximum, -1), ...beyond(schema.exclusiveMaximum, -1)]
  if (least.length + most.length === 0) return undefined
  const from = least.reduce((highest, bound) => (bound > highest ? bound : highest), -FURTHEST)
  const to = most.reduce((lowest, bound) => (bound < lowest ? bound : lowest), FURTHEST)
  return {
    least: least.length === 0 ? openEnd(to, -1n) : from,
    most: most.length === 0 ? openEnd(from, 1n) : to,
  }
}

/**
 * What matches exactly the integers of a range as JSON writes them: no zero before the first digit, no "-0". It is a
 * grammar's rule and, without its quotes and spaces, a regular expression.
 */
export function integersWithin({ least, most }: IntegerRange): string {
  const parts: string[] = []
  if (least < 0n) parts.push(`"-" ${naturals(most < 0n ? -most : 1n, -least)}`)
  if (most >= 0n) parts.push(naturals(least > 0n ? least : 0n, most))
  return either(parts)
}

/** As many digits as can be meant where nothing ends a side, and as a bound may have: a grammar grows with their square. */
const OPEN_END = 10n ** 16n - 1n
const FURTHEST = 10n ** 21n - 1n

function openEnd(other: bigint, sign: 1n | -1n): bigint {
  return sign * (sign * other > OPEN_END ? FURTHEST : OPEN_END)
}

/** The first integer that an inclusive bound lets through. What is no number is left to the validation of the schema. */
function within(bound: unknown, inwards: 1 | -1): bigint[] {
  return typeof bound === 'number' ? [exact(inwards === 1 ? Math.ceil(bound) : Math.floor(bound))] : []
}

function beyond(bound: unknown, inwards: 1 | -1): bigint[] {
  if (typeof bound !== 'number') return []
  // Where doubles have gaps, the integer beside the bound is read as the bound itself.
  const gap = Math.abs(bound) < 2 ** 53 ? 1 : Math.abs(bound) * Number.EPSILON
  return [exact((inwards === 1 ? Math.floor(bound) : Math.ceil(bound)) + inwards * gap)]
}

/** One past the furthest stands for all that is further away. */
function exact(integer: number): bigint {
  if (Math.abs(integer) <= Number(FURTHEST)) return BigInt(integer)
  return integer < 0 ? -FURTHEST - 1n : FURTHEST + 1n
}

function naturals(least: bigint, most: bigint): string {
  const [low, high] = [String(least), String(most)]
  if (low.length === high.length) return sameLength(low, high)
  // Numbers of digits that any number may have.
  const from = /^10*$/.test(low) ? low.length : low.length + 1
  const to = /^9+$/.test(high) ? high.length : high.length - 1
  const parts: string[] = []
  if (low.length < from) parts.push(sameLength(low, '9'.repeat(low.length)))
  if (from <= to) parts.push(`[1-9]${times(from - 1, to - 1)}`)
  if (to < high.length) parts.push(sameLength(`1${'0'.repeat(high.length - 1)}`, high))
  return either(parts)
}

/** Numbers of as many digits: after the first digit of a border comes what the border leaves, after a digit between anything. */
function sameLength(low: string, high: string): string {
  if (low === '') return ''
  const [lowFirst, lowRest, highFirst, highRest] = [Number(low[0]), low.slice(1), Number(high[0]), high.slice(1)]
  if (lowFirst === highFirst) return `"${lowFirst}" ${sameLength(lowRest, highRest)}`.trimEnd()
  const lowIsAny = /^0*$/.test(lowRest)
  const highIsAny = /^9*$/.test(highRest)
  const [from, to] = [lowIsAny ? lowFirst : lowFirst + 1, highIsAny ? highFirst : highFirst - 1]
  const parts: string[] = []
  if (!lowIsAny) parts.push(`"${lowFirst}" ${sameLength(lowRest, '9'.repeat(lowRest.length))}`)
  if (from <= to) parts.push(`[${from}-${to}]${times(lowRest.length, lowRest.length)}`)
  if (!highIsAny) parts.push(`"${highFirst}" ${sameLength('0'.repeat(highRest.length), highRest)}`)
  return either(parts)
}

function times(least: number, most: number): string {
  if (most === 0) return ''
  return ` [0-9]{${least === most ? least : `${least},${most}`}}`
}

function either(parts: readonly string[]): string {
  return parts.length === 1 ? parts[0]! : `(${parts.join(' | ')})`
}
