/**
 * The text without the secret, or the beginning of it that a bound on lengths has left. Of a short secret only the whole is
 * looked for: its beginning may be a word.
 */
export function redacted(text: string, secret: string, name: string): string {
  if (secret === '') return text
  const start = secret.slice(0, START_LENGTH)
  let shown = ''
  let from = 0
  for (let at = text.indexOf(start); at >= 0; at = text.indexOf(start, from)) {
    let length = start.length
    while (length < secret.length && text[at + length] === secret[length]) length += 1
    shown += text.slice(from, at) + name
    from = at + length
  }
  return shown + text.slice(from)
}

const START_LENGTH = 12
