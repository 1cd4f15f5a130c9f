/** What upstreams mean by a refusal, as far as only their words tell: 403 is given for the key and for a request alike. */

/** The model has no room for so many tokens. Clients know the case by the code `context_length_exceeded`. */
export function isTooLong(said: string): boolean {
  return TOO_LONG.test(said)
}

/** The key itself is no good. Where it only lacks a permission, others of its models and other requests are fine. */
export function isAboutKey(said: string): boolean {
  return ABOUT_KEY.test(said) && !ABOUT_REQUEST.test(said) && !isAgainstRules(said)
}

/** What was asked breaks the upstream's rules. */
export function isAgainstRules(said: string): boolean {
  return AGAINST_RULES.test(said)
}

const TOO_LONG = /context[ _](length|size|window)|maximum context|too many tokens|prompt is too long/i
const ABOUT_KEY = /\b(api[-_ ]?key|key|credential|token|authenti\w+|account|organi[sz]ation)\b/i
const ABOUT_REQUEST = /\bmodels?\b|permission|\bscopes?\b|not allowed|does not have access|region|country|territory/i
const AGAINST_RULES = /moderat|flagged|content[-_ ](policy|filter)|usage polic|safety|guardrail/i
