import { spawn } from 'node:child_process'
import { readdirSync } from 'node:fs'

/**
 * What every stand-in for a command-line agent does: reads its prompt, and answers in the format of the program it
 * stands in for. Words in the prompt bring on the faults.
 */
export type Format = {
  /** The lines of a whole answer whose text comes in these pieces. */
  answer(pieces: string[]): unknown[]
  /** The beginning of an answer that goes on. */
  begin(text: string): unknown[]
  limit: { lines: unknown[]; exit: number }
  auth: { lines: unknown[]; exit: number }
}

export async function play(format: Format): Promise<void> {
  let prompt = ''
  for await (const part of process.stdin.setEncoding('utf8')) prompt += String(part)
  if (prompt.includes('GARBAGE')) process.stdout.write(`this is {not JSON\n${process.env.SECRET_KEY ?? ''} at all\n`)
  else if (prompt.includes('EXIT3')) die(3, `cannot go on with key ${process.env.SECRET_KEY ?? ''}\n`)
  else if (prompt.includes('SILENT')) process.exitCode = 0
  else if (prompt.includes('LIMIT')) end(format.limit)
  else if (prompt.includes('AUTH')) end(format.auth)
  else if (prompt.includes('GRANDCHILD')) hang(format.begin(`pid ${stubbornGrandchild()};`))
  else if (prompt.includes('HANG')) hang(format.begin('so '))
  else if (prompt.includes('FACTS')) say(format.answer([JSON.stringify(facts(prompt))]))
  else say(format.answer(['Hello ', 'from the ', 'stand-in.']))
}

function say(lines: unknown[]): void {
  for (const line of lines) process.stdout.write(`${typeof line === 'string' ? line : JSON.stringify(line)}\n`)
}

function die(code: number, words: string): void {
  process.stderr.write(words)
  process.exitCode = code
}

function end({ lines, exit }: { lines: unknown[]; exit: number }): void {
  say(lines)
  process.exitCode = exit
}

function hang(lines: unknown[]): void {
  say(lines)
  process.on('SIGTERM', () => {})
  setInterval(() => {}, 60_000)
}

/** In a session of its own, deaf to SIGTERM, and soon without a parent: the middle process ends at once. */
function stubbornGrandchild(): number {
  const deaf = "process.on('SIGTERM', () => {}); setInterval(() => {}, 60000)"
  const child = spawn(process.execPath, ['-e', deaf], { detached: true, stdio: 'ignore' })
  child.unref()
  return child.pid ?? 0
}

function facts(prompt: string): unknown {
  return {
    env: process.env,
    cwd: process.cwd(),
    files: readdirSync('.', { recursive: true }),
    args: process.argv.slice(2),
    prompt,
    encoded: encodeURIComponent(prompt),
  }
}
