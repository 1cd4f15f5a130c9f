import assert from 'node:assert'
import vm from 'node:vm'
import { Ajv, type ValidateFunction } from 'ajv'
import { Ajv2020 } from 'ajv/dist/2020.js'
import type { GenerationRequest, JsonSchema, Tool } from '../../../proto/request.ts'
import type { GenerationFailure } from '../engine.ts'
import { GrammarWriter, quoted, UnsupportedSchema } from './schema-grammar.ts'
import type { CallForm } from './tool-calls.ts'

/** What an answer is held to while it is generated, and what its finished text is judged by. */
export type Constraint = {
  /** GBNF; absent: the model is free. */
  grammar?: string
  /** Why a finished text is not what was asked for; undefined: it is. Absent: any text is. */
  faultOf?: (text: string) => string | undefined
}

type Wish = Pick<GenerationRequest, 'format' | 'tools' | 'toolChoice' | 'parallelToolCalls'>

/** `reasons`: the model may have thought before. Throws `UnsupportedSchema` where a schema asks for what cannot be honoured. */
export function constraintOf(wish: Wish, form: CallForm, reasons: boolean, reading = new Reading()): Constraint {
  const before = reasons ? `${LEADING_SPACE} ` : ''
  const { format, tools = [], toolChoice = 'auto' } = wish
  if (mustCall(wish)) return { grammar: callGrammar(wish, form, before) }
  if (format === undefined) return {}
  const schema = format.kind === 'schema' ? format.schema : ANY_OBJECT
  const writer = new GrammarWriter()
  const text = `${before}${writer.value(schema)}`
  const mayCall = tools.length > 0 && toolChoice === 'auto'
  const root = mayCall ? `${text} | ${calls(writer, tools, { ...form, bare: false }, wish.parallelToolCalls !== false)}` : text
  return { grammar: writer.grammar(root), faultOf: judgeOf(schema, reading) }
}

export function mustCall({ tools = [], toolChoice = 'auto' }: Wish): boolean {
  return tools.length > 0 && toolChoice !== 'auto' && toolChoice !== 'none'
}

/** Refuses the request before anything is computed for it. */
export function unsupportedSchema(error: UnsupportedSchema): GenerationFailure {
  return { layer: 'ingress', code: 'unsupported_schema', message: error.message, retryable: false }
}

/** The answer ended by itself and is not what was asked for. Where another attempt would draw the same numbers it would end the same. */
export function schemaMismatch(fault: string, drawsAnew: boolean): GenerationFailure {
  const message = `the model's answer does not fit its schema: ${fault}`
  return { layer: 'model', code: 'schema_mismatch', message, retryable: drawsAnew }
}

/** OpenAI's JSON mode promises an object. */
const ANY_OBJECT: JsonSchema = { type: 'object' }

/** Templates of models that reason leave the line break after the reasoning to the model. */
const LEADING_SPACE = '[\\n]{0,2}'

function callGrammar({ tools = [], toolChoice, parallelToolCalls }: Wish, form: CallForm, before: string): string {
  const named = typeof toolChoice === 'object' ? tools.filter(({ name }) => name === toolChoice.name) : tools
  assert(named.length > 0, 'the function that must be called is one of the tools')
  const writer = new GrammarWriter()
  const several = parallelToolCalls !== false && typeof toolChoice !== 'object'
  return writer.grammar(`${before}${calls(writer, named, form, several)}`)
}

function calls(writer: GrammarWriter, tools: readonly Tool[], form: CallForm, several: boolean): string {
  const call = writer.rule(tools.map((tool) => oneCall(writer, tool, form)).join(' | '))
  const { open, close } = form
  if (form.list) return `${quoted(`${open}[`)} ${call}${several ? ` ("," " "? ${call})*` : ''} "]"`
  if (close === '') return `${quoted(open)}${form.bare ? '?' : ''} ${call}${several ? ` (";" " "? ${call})*` : ''}`
  const wrapped = writer.rule(`${quoted(open)} "\\n"? ${call} "\\n"? ${quoted(close)}`)
  return several ? `${wrapped} ("\\n"? ${wrapped})*` : wrapped
}

function oneCall(writer: GrammarWriter, { name, parameters }: Tool, { argumentsKey }: CallForm): string {
  const value = writer.value(parameters === undefined || parameters === true ? ANY_OBJECT : parameters)
  return `"{" ${quoted('"name"')} ":" " "? ${quoted(JSON.stringify(name))} "," " "? ${quoted(JSON.stringify(argumentsKey))} ":" " "? ${value} "}"`
}

/** Why a call's arguments are not what its tool promised to be given; only tools that are strict are judged. */
export function callJudge(tools: readonly Tool[], reading: Reading): ((name: string, given: string) => string | undefined) | undefined {
  const judges = new Map<string, NonNullable<Constraint['faultOf']>>()
  for (const { name, parameters, strict } of tools) {
    if (strict !== true || parameters === undefined) continue
    // Refuses what cannot be judged either.
    new GrammarWriter().value(parameters)
    judges.set(name, judgeOf(parameters, reading))
  }
  if (judges.size === 0) return undefined
  return (name, given) => {
    const fault = judges.get(name)?.(given)
    return fault === undefined ? undefined : `the arguments for ${name}: ${fault}`
  }
}

/** Throws `UnsupportedSchema` where nothing can be judged by it. */
export function judgeOf(schema: JsonSchema, reading: Reading): NonNullable<Constraint['faultOf']> {
  const validate = validatorOf(schema, reading)
  return (text) => {
    let value: unknown
    try {
      value = JSON.parse(text)
      if (withinLimit(JUDGING_MS_MAX, () => validate(value))) return undefined
    } catch (error) {
      return error instanceof TooLong ? 'it takes too long to be judged by' : (error as Error).message
    }
    const [first] = validate.errors ?? []
    return `${first?.instancePath || 'the value'} ${first?.message ?? 'is not valid'}`
  }
}

/**
 * Everybody's next token waits meanwhile, and a schema may be made to take for ever: by a pattern, or by alternatives within
 * alternatives. Throws where it took too long.
 */
function withinLimit<T>(timeout: number, act: () => T): T {
  LIMITED.act = act
  try {
    return CALL.runInContext(LIMITED, { timeout }) as T
  } catch (error) {
    throw (error as NodeJS.ErrnoException).code === 'ERR_SCRIPT_EXECUTION_TIMEOUT' ? new TooLong() : error
  } finally {
    LIMITED.act = undefined
  }
}

const LIMITED: vm.Context = vm.createContext({ act: undefined })
const CALL = new vm.Script('act()')
/** The time in which all schemas of one request have to be read. */
export class Reading {
  #leftMs = READING_MS_MAX
  #early: Ajv | undefined
  #late: Ajv2020 | undefined

  compile(schema: JsonSchema, early: boolean): ValidateFunction {
    const beganMs = performance.now()
    try {
      return withinLimit(Math.max(1, Math.round(this.#leftMs)), () => {
        // The schema of its draft is most of the work: it is compiled once.
        const ajv = early ? (this.#early ??= new Ajv(AJV)) : (this.#late ??= new Ajv2020(AJV))
        const validate = ajv.compile(schema)
        // Two may have the same $id.
        ajv.removeSchema()
        return validate
      })
    } finally {
      this.#leftMs -= performance.now() - beganMs
    }
  }
}

const AJV = { strict: false, validateFormats: false, logger: false } as const

class TooLong extends Error {}
// A busy host takes a while for the largest schema that is honest.
const READING_MS_MAX = 3_000
const JUDGING_MS_MAX = 1_000

/** A schema for an earlier draft says so, or writes its tuples in the earlier way. */
function validatorOf(schema: JsonSchema, reading: Reading): ValidateFunction {
  const { $schema, ...rest } = typeof schema === 'object' ? schema : { $schema: undefined }
  const early = /draft-0[4-7]/.test(String($schema)) || /"items":\[/.test(JSON.stringify(schema))
  try {
    return reading.compile(typeof schema === 'object' ? rest : schema, early)
  } catch (error) {
    if (error instanceof TooLong) throw new UnsupportedSchema('schema', 'takes too long to be read: use a smaller schema, or fewer of them')
    throw new UnsupportedSchema('schema', `is not a valid JSON Schema: ${(error as Error).message.slice(0, 300)}`)
  }
}
