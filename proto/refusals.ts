/** What upstreams mean by a refusal, as far as only their words tell: 403 is given for the key and for a request alike. */

/** The model has no room for so many tokens. Clients know the case by the code `context_length_exceeded`. */
export function isTooLong(said: string): boolean {
  return TOO_LONG.test(said)
}

/** The key was refused, as the status says, or the words where the status means other things too. */
export function isKeyRefused(status: number | undefined, said: string): boolean {
  return status === 401 || (status === 403 && isAboutKey(said)) || (status === 400 && INVALID_KEY.test(ownWords(said)))
}

/** Nobody has paid for more, or a limit on what may be paid is reached: neither the key nor the request is to blame. */
export function isUnpaid(status: number | undefined, said: string): boolean {
  return status === 402 || ((status === undefined || status === 400 || status === 403) && UNPAID.test(ownWords(said)))
}

/** A gateway repeats what was refused to itself: where that is about a key or a bill, it is one of the gateway's, behind one of its models. */
export function isOfGateway(said: string): boolean {
  return OF_ANOTHER.test(said.replace(OURS, ''))
}

/** Without what was put before them. What else stands there may be the caller's words, which a server repeats. */
function ownWords(said: string): string {
  return said.replace(OURS, '').replace(GATEWAYS, '').replace(BODY, '')
}

/** When such a limit begins anew (Unix ms), where it is said: "You will regain access on 2026-04-01 at 00:00 UTC." */
export function regainedAt(said: string): number | null {
  const [, day, time = '00:00'] = /regain access on (\d{4}-\d{2}-\d{2})(?: at (\d{2}:\d{2}) UTC)?/i.exec(said) ?? []
  const atMs = Date.parse(`${day}T${time}Z`)
  return Number.isFinite(atMs) ? atMs : null
}

/** The key itself is no good. Where it only lacks a permission, others of its models and other requests are fine. */
function isAboutKey(said: string): boolean {
  return ABOUT_KEY.test(said) && !ABOUT_REQUEST.test(said) && !isAgainstRules(said)
}

/** What was asked breaks the upstream's rules. */
export function isAgainstRules(said: string): boolean {
  return AGAINST_RULES.test(said)
}

const TOO_LONG =
  /context[ _](length|size|window|limit)|maximum (context|prompt length|input length is)|exceeds the maximum number of (input )?tokens|input token count is \d|too many tokens|prompt is too long|input is too long for/i
const OURS = /^(?:\S+ answers with status \d{3}: )?(?:The upstream failed: )?(?:API Error: )?(?:\d{3} )?/
// By the names of their errors, with those of the servers behind them: "litellm.BadRequestError: GeminiException BadRequestError - ".
const GATEWAYS = /^(?:Error code: \d{3} - |[\w.-]+ error: |[\w.]*(?:Error|Exception)(?:: | - | ))*/
// Whoever speaks for itself names nobody.
const OF_ANOTHER =
  /^(?:litellm\.|\w+Exception(?: \w+)? - |[\w.]+Error: \w+(?:Exception|Error)\b|Error code: \d{3} - |(?:openai|azure|anthropic|bedrock|gemini|google|vertex\w*|mistral|cohere|groq|together|deepseek|openrouter|xai|fireworks)[\w.-]* error: )/i
const BODY = /^\[?(?:b?['"]?\{.*?["']message["']:\s?["'])?/s
const INVALID_KEY = /^api[_ ]key[_ ](not valid|not found|expired|invalid)/i
const UNPAID =
  /^(your credit balance is too low|credit balance is too low|you have reached your specified [\w ]*usage limits|key limit exceeded)/i
const ABOUT_KEY = /\b(api[-_ ]?key|key|credential|token|authenti\w+|account|organi[sz]ation)\b/i
const ABOUT_REQUEST = /\bmodels?\b|permission|\bscopes?\b|not allowed|does not have access|region|country|territory/i
const AGAINST_RULES = /moderat|flagged|content[-_ ](policy|filter)|usage polic|safety|guardrail/i
