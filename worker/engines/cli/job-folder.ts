import { chmodSync, lstatSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { hostname, tmpdir } from 'node:os'
import path from 'node:path'
import { endTree } from './process-tree.ts'

/**
 * The private folder (mode 0700) of one job, gone with it:
 *
 *   work/   where the program runs, and its home unless the operator names one; empty at the start
 *   tmp/    its temporary files: some leave whole prompts there when they fail
 *   files/  what the adapter gives it to read
 */
export class JobFolder {
  readonly root: string
  readonly work: string
  readonly tmp: string
  readonly files: string

  constructor() {
    this.root = mkdtempSync(path.join(tmpdir(), `${PREFIX}${process.pid}-`))
    this.work = path.join(this.root, 'work')
    this.tmp = path.join(this.root, 'tmp')
    this.files = path.join(this.root, 'files')
    for (const folder of [this.work, this.tmp, this.files]) mkdirSync(folder)
  }

  write(folder: string, files: Record<string, string>): void {
    for (const [name, content] of Object.entries(files)) {
      const file = path.join(folder, name)
      mkdirSync(path.dirname(file), { recursive: true })
      writeFileSync(file, content)
    }
  }

  remove(): void {
    removeTree(this.root)
  }
}

/** Tools leave folders that nobody may write to, such as a cache of Go's modules. */
function removeTree(root: string): void {
  try {
    rmSync(root, { recursive: true, force: true, maxRetries: 5 })
  } catch {
    makeWritable(root)
    rmSync(root, { recursive: true, force: true, maxRetries: 5 })
  }
}

function makeWritable(folder: string): void {
  // Where a link leads to is somebody else's.
  if (!lstatSync(folder).isDirectory()) return
  chmodSync(folder, 0o700)
  for (const name of readdirSync(folder)) makeWritable(path.join(folder, name))
}

const PREFIX = `holdfast-cli-${hostname()}-`

/** By this the processes of a job are found, wherever they went. */
export function markOf(tmp: string): string {
  return `TMPDIR=${tmp}`
}

/** Ends the jobs of workers that were killed, and removes what they left. `onProblem`: of one that cannot be removed. */
export async function clearLeftovers(onProblem: (error: Error) => void): Promise<void> {
  const base = tmpdir()
  for (const name of readdirSync(base)) {
    const owner = name.startsWith(PREFIX) ? Number.parseInt(name.slice(PREFIX.length), 10) : undefined
    // In a container every worker has the same number; this one has no jobs yet.
    if (owner === undefined || (owner !== process.pid && isAlive(owner))) continue
    await clearJob(path.join(base, name)).catch(onProblem)
  }
}

/** Ends what is left of a job whose worker is gone, and removes its folder. */
export async function clearJob(root: string): Promise<void> {
  await endTree({ pid: undefined, mark: markOf(path.join(root, 'tmp')) }, 0)
  removeTree(root)
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}
