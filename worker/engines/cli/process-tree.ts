import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { setTimeout as pause } from 'node:timers/promises'

/**
 * Everything that came of one program. A child may leave the group, make a session of its own and lose its parent, so a
 * process belongs to the tree when its group or session is the program's, when its parent belongs, or when it carries the
 * mark: a variable of its environment that only this job has. Without /proc only the group can be found.
 */
export type ProcessTree = { pid: number | undefined; mark: string }

/** Ends all of it: asks, and after the grace forces. False when something could not be ended. */
export async function endTree(tree: ProcessTree, graceMs: number): Promise<boolean> {
  signal(tree, 'SIGTERM')
  if (await isGone(tree, graceMs)) return true
  // A process that forks while it is looked for can be missed once; nothing outruns SIGKILL for long.
  for (const endMs = performance.now() + FORCE_WITHIN_MS; performance.now() < endMs; ) {
    signal(tree, 'SIGKILL')
    if (await isGone(tree, LOOK_EVERY_MS)) return true
  }
  return false
}

function isTreeGone(tree: ProcessTree): boolean {
  return groupIsGone(tree.pid) && membersOf(tree).length === 0
}

// Only a process that hangs in the kernel withstands SIGKILL, and for that one nobody should wait for ever.
const FORCE_WITHIN_MS = 5_000
const LOOK_EVERY_MS = 20

async function isGone(tree: ProcessTree, withinMs: number): Promise<boolean> {
  const endMs = performance.now() + withinMs
  while (!isTreeGone(tree)) {
    if (performance.now() >= endMs) return false
    await pause(LOOK_EVERY_MS)
  }
  return true
}

function signal(tree: ProcessTree, name: NodeJS.Signals): void {
  const members = membersOf(tree)
  if (tree.pid !== undefined && !groupIsGone(tree.pid)) send(-tree.pid, name)
  for (const pid of members) send(pid, name)
}

function send(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name)
  } catch (error) {
    // It ended by itself meanwhile, or became another user's, whom we cannot reach.
    if (!['ESRCH', 'EPERM'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error
  }
}

/** Where there is no /proc, or only zombies are left of the group. */
function groupIsGone(pid: number | undefined): boolean {
  if (pid === undefined || existsSync('/proc/self/stat')) return true
  try {
    process.kill(-pid, 0)
    return false
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ESRCH'
  }
}

type Seen = { pid: number; parent: number; group: number; session: number }

function membersOf({ pid, mark }: ProcessTree): number[] {
  const all = processes()
  const members = new Set<number>()
  for (const seen of all) {
    const ours = pid !== undefined && (seen.pid === pid || seen.group === pid || seen.session === pid)
    if (ours || carries(seen.pid, mark)) members.add(seen.pid)
  }
  for (let before = -1; before !== members.size; ) {
    before = members.size
    for (const seen of all) if (members.has(seen.parent)) members.add(seen.pid)
  }
  return [...members]
}

/** All that live; a zombie does nothing any more and waits for its parent. */
function processes(): Seen[] {
  if (!existsSync('/proc/self/stat')) return []
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      const text = contentOf(`/proc/${name}/stat`)
      // The name of the program stands in parentheses and may hold anything.
      const [state, parent, group, session] = text.slice(text.lastIndexOf(')') + 2).split(' ')
      if (state === undefined || state === '' || state === 'Z' || state === 'X') return []
      return [{ pid: Number(name), parent: Number(parent), group: Number(group), session: Number(session) }]
    })
}

function carries(pid: number, mark: string): boolean {
  return `\0${contentOf(`/proc/${pid}/environ`)}`.includes(`\0${mark}\0`)
}

/** Empty for a process that ended meanwhile, or is another user's and thus not ours. */
function contentOf(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return ''
  }
}
