import { readFileSync } from 'node:fs'
import { SettingError } from '../proto/settings.ts'
import { Fault } from './core/fault.ts'

/**
 * The command line. Long-running commands load what they need when they are called, so that a worker's host needs
 * nothing of the coordinator's and the other way round. Exit status: 0 done, 1 refused or failed, 2 wrong usage.
 */
const COMMANDS: Record<string, Command> = {
  up: {
    help: 'Starts PostgreSQL, a coordinator and one local worker, and says how to talk to them.',
    example: 'npx holdfast up',
    run: alone(async () => {
      // Before anything is made that its worker could not serve.
      ;(await import('../worker/config.ts')).readWorkerConfig(process.env)
      await (await import('./up.ts')).runUp(process.env)
    }),
  },
  coordinator: {
    help: 'Runs a coordinator in the foreground until SIGTERM, with its own PostgreSQL unless DATABASE_URL names one.',
    example: 'HOLDFAST_HTTP_PORT=9000 npx holdfast coordinator',
    run: alone(async () => (await import('./main.ts')).runCoordinator(process.env, version())),
  },
  worker: {
    help: 'Runs a worker in the foreground until SIGTERM: dials the coordinators and serves its models.',
    example: 'HOLDFAST_COORDINATOR=gpu-head:8081 HOLDFAST_MODELS="qwen=/models/qwen.gguf?slots=4" npx holdfast worker',
    run: alone(async () => (await import('../worker/main.ts')).runWorker(process.env, version())),
  },
  jobs: asking(
    'Lists jobs, shows one, says why one went where it went, cancels one, or releases a parked one.',
    'npx holdfast jobs --status queued',
  ),
  batches: asking('Lists batches, shows one, or cancels one.', 'npx holdfast batches'),
  teams: asking(
    'Lists teams, shows one, makes, archives or gives one a new webhook secret.',
    'npx holdfast teams create research --weight 2 --max-parallel 8',
  ),
  keys: asking(
    'Lists keys, shows one, makes one for a team, a user or a worker, changes one by a JSON file, or revokes one.',
    'npx holdfast keys create --name web-app --team research',
  ),
  providers: asking(
    'Lists providers of every tier with state and reason, shows one, drains one, or sets up, activates or archives a cloud.',
    'npx holdfast providers create --from openai.json',
  ),
  policies: asking(
    'Lists policies of patience, shows one, makes one from a JSON file, or archives one.',
    'npx holdfast policies create --from thrifty.json',
  ),
  credentials: asking(
    'Lists credentials, makes, renames, rotates, revokes or archives one, or changes the master key; a secret is read from a file or, with "-", from standard input.',
    'printenv OPENAI_API_KEY | npx holdfast credentials create --name openai --from -',
  ),
  users: asking('Lists users, shows one, makes one from a JSON file, or archives one.', 'npx holdfast users create --from ann.json'),
  workers: asking(
    'Lists workers with their models, slots and state, shows one, drains one, cuts one off, puts one away, or invites a new one.',
    'npx holdfast workers drain gpu-7',
  ),
  models: asking('Lists the models that can be asked for, or shows who offers one.', 'npx holdfast models show tiny'),
  quotas: asking('Lists the limits of providers, policies, teams and keys, and what is used of them.', 'npx holdfast quotas'),
  events: asking('Lists what happened, newest first.', 'npx holdfast events --severity error'),
  health: asking('Says whether it is all right, and if not, why.', 'npx holdfast health'),
  migrate: {
    help: 'Brings the schema of the database in DATABASE_URL up to date and says which migrations it applied.',
    example: 'DATABASE_URL=postgres://holdfast@db/holdfast npx holdfast migrate',
    run: alone(async () => (await import('./migrate-command.ts')).runMigrate(process.env)),
  },
}

type Command = { help: string; example: string; run(args: string[]): Promise<void>; asks?: true }

/** Asks a running coordinator; how it is used stands beside what it asks. */
function asking(help: string, example: string): Command {
  return { help, example, run: async (args) => (await import('./client.ts')).runClient(args, process.env), asks: true }
}

/** Everything about it is a setting: a flag that was ignored would have been meant to change something. */
function alone(run: () => Promise<void>): Command['run'] {
  return async ([name, odd]) => {
    if (odd !== undefined)
      throw new UsageError(`holdfast ${name} takes no arguments, not "${odd}": its settings are environment variables.`)
    await run()
  }
}

function version(): string {
  return (JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as { version: string }).version
}

function usage(): string {
  const width = Math.max(...Object.keys(COMMANDS).map((name) => name.length))
  const lines = Object.entries(COMMANDS).map(([name, { help }]) => `  ${name.padEnd(width)}  ${help}`)
  return `holdfast ${version()}\n\nUsage: holdfast <command> [options]\n\n${lines.join('\n')}\n\nEvery command takes --help. Reading commands take --json.`
}

async function main(args: string[]): Promise<void> {
  const [name, ...rest] = args
  if (name === '--version') {
    console.log(version())
    return
  }
  if (name === undefined || name === '--help' || name === '-h' || name === 'help') {
    console.log(usage())
    process.exitCode = name === undefined ? 2 : 0
    return
  }
  const command = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined
  if (command === undefined) throw new UsageError(`There is no command "${name}".\n\n${usage()}`)
  if (rest.includes('--help') || rest.includes('-h')) {
    const ways = command.asks === true ? `${(await import('./client-commands.ts')).usageOf(name)}\n\n` : ''
    console.log(`holdfast ${name}: ${command.help}\n\n${ways}Example: ${command.example}`)
    return
  }
  await command.run([name, ...rest])
}

class UsageError extends Error {
  override readonly name = 'UsageError'
}

main(process.argv.slice(2)).then(
  // Timers of libraries must not keep a finished command alive.
  () => leave(),
  (error: unknown) => {
    // A person reads this: the sentence, not the stack; what nobody expected keeps its stack.
    const isUsage = (error as { name?: string }).name === 'UsageError'
    const expected = isUsage || error instanceof Fault || error instanceof SettingError
    console.error(
      `holdfast: ${expected ? (error as Error).message : error instanceof Error ? (error.stack ?? error.message) : String(error)}`,
    )
    leave(isUsage ? 2 : 1)
  },
)

/** A pipe takes 64 KiB at a time: what was said is all out before the end. */
function leave(code?: number): void {
  process.stdout.write('', () => process.stderr.write('', () => process.exit(code)))
}
