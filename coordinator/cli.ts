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
    run: async () => (await import('./up.ts')).runUp(process.env),
  },
  coordinator: {
    help: 'Runs a coordinator in the foreground until SIGTERM, with its own PostgreSQL unless DATABASE_URL names one.',
    example: 'HOLDFAST_HTTP_PORT=9000 npx holdfast coordinator',
    run: async () => (await import('./main.ts')).runCoordinator(process.env, version()),
  },
  worker: {
    help: 'Runs a worker in the foreground until SIGTERM: dials the coordinators and serves its models.',
    example: 'HOLDFAST_COORDINATOR=gpu-head:8081 HOLDFAST_MODELS="qwen=/models/qwen.gguf?slots=4" npx holdfast worker',
    run: async () => (await import('../worker/main.ts')).runWorker(process.env, version()),
  },
  jobs: reading(
    'Lists jobs, shows one, says why one went where it went, cancels one, or releases a parked one: jobs [<id> | decision <id> | cancel <id> | release <id>] [--status S] [--model M] [--limit N].',
    'npx holdfast jobs --status queued',
  ),
  batches: reading('Lists batches, shows one, or cancels one: batches [<id> | cancel <id>].', 'npx holdfast batches'),
  teams: reading(
    'Lists teams, shows one, makes, archives or gives one a new webhook secret: teams [<name> | create <name> [--weight W] [--max-parallel N] | archive <name> | rotate-secret <name>].',
    'npx holdfast teams create research --weight 2 --max-parallel 8',
  ),
  keys: reading(
    'Lists keys, shows one, makes one for a team, a user or a worker, or revokes one: keys [<id> | create --name N (--team T | --user EMAIL | --worker) [--expires-at TIME] | revoke <id>].',
    'npx holdfast keys create --name web-app --team research',
  ),
  providers: reading(
    'Lists providers of every tier with state and reason, shows one, or archives a cloud one: providers [<name> | archive <name> | create --from FILE].',
    'npx holdfast providers create --from openai.json',
  ),
  policies: reading(
    'Lists policies of patience, shows one, makes one from a JSON file, or archives one: policies [<name> | create --from FILE | archive <name>].',
    'npx holdfast policies create --from thrifty.json',
  ),
  credentials: reading(
    'Lists credentials, makes one, rotates or revokes one, or changes the master key; a secret is read from a file or, with "-", from standard input: credentials [<name> | create --name N --from FILE | rotate <name> --from FILE | revoke <name> | rotate-master-key].',
    'printenv OPENAI_API_KEY | npx holdfast credentials create --name openai --from -',
  ),
  users: reading(
    'Lists users, shows one, makes one from a JSON file, or archives one: users [<email> | create --from FILE | archive <email>].',
    'npx holdfast users create --from ann.json',
  ),
  workers: reading('Lists workers with their models, slots and state.', 'npx holdfast workers --json'),
  models: reading('Lists the models that can be asked for.', 'npx holdfast models'),
  events: reading(
    'Lists what happened, newest first: events [--job ID] [--type T] [--severity S] [--limit N].',
    'npx holdfast events --severity error',
  ),
  health: reading('Says whether it is all right, and if not, why.', 'npx holdfast health'),
  migrate: {
    help: 'Brings the schema of the database in DATABASE_URL up to date and says which migrations it applied.',
    example: 'DATABASE_URL=postgres://holdfast@db/holdfast npx holdfast migrate',
    run: async () => (await import('./migrate-command.ts')).runMigrate(process.env),
  },
}

type Command = { help: string; example: string; run(args: string[]): Promise<void> }

function reading(help: string, example: string): Command {
  return { help, example, run: async (args) => (await import('./client.ts')).runClient(args, process.env) }
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
  if (name === undefined || name === '--help' || name === 'help') {
    console.log(usage())
    process.exitCode = name === undefined ? 2 : 0
    return
  }
  const command = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined
  if (command === undefined) throw new UsageError(`There is no command "${name}".\n\n${usage()}`)
  if (rest.includes('--help')) {
    console.log(`holdfast ${name}: ${command.help}\n\nExample: ${command.example}`)
    return
  }
  await command.run([name, ...rest])
}

class UsageError extends Error {}

main(process.argv.slice(2)).then(
  // Timers of libraries must not keep a finished command alive.
  () => process.exit(),
  (error: unknown) => {
    // A person reads this: the sentence, not the stack; what nobody expected keeps its stack.
    const expected =
      error instanceof Fault ||
      error instanceof SettingError ||
      error instanceof UsageError ||
      (error as { name?: string }).name === 'UsageError'
    console.error(
      `holdfast: ${expected ? (error as Error).message : error instanceof Error ? (error.stack ?? error.message) : String(error)}`,
    )
    process.exit((error as { name?: string }).name === 'UsageError' || error instanceof UsageError ? 2 : 1)
  },
)
