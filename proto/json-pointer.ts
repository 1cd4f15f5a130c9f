/** A step of a JSON pointer in a `$ref`, as the name that it stands for; a % that begins no escape is a % itself. */
export function nameOfStep(step: string): string {
  return decoded(step).replaceAll('~1', '/').replaceAll('~0', '~')
}

function decoded(step: string): string {
  try {
    return decodeURIComponent(step)
  } catch {
    return step
  }
}
