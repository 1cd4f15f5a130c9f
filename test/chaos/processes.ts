import { readdirSync, readFileSync, readlinkSync } from 'node:fs'

/**
 * Every living process of a world, whoever its parent is by now: they work in the world's folder or name it in their
 * environment. PostgreSQL and the engines of models get an environment of their own, but keep the folder.
 */
export function processesOf(dir: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => pid !== process.pid && (look(() => readlinkSync(`/proc/${pid}/cwd`)).startsWith(dir) || environOf(pid).includes(dir)))
    .filter((pid) => !/^State:\s+Z/m.test(look(() => readFileSync(`/proc/${pid}/status`, 'utf8'))))
}

export function commandOf(pid: number): string {
  return look(() => readFileSync(`/proc/${pid}/cmdline`, 'utf8')).replaceAll('\0', ' ')
}

export function parentOf(pid: number): number {
  return Number(/^PPid:\s+(\d+)/m.exec(look(() => readFileSync(`/proc/${pid}/status`, 'utf8')))?.[1])
}

function environOf(pid: number): string {
  return look(() => readFileSync(`/proc/${pid}/environ`, 'utf8'))
}

function look(read: () => string): string {
  try {
    return read()
  } catch {
    // Gone while we looked, or not ours to look at.
    return ''
  }
}
