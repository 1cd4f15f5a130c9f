import { randomInt } from 'node:crypto'
import { all } from './all.ts'
import { commandOf, readOptions, USAGE } from './options.ts'
import { peers } from './peers.ts'

/** `npm run chaos`: real processes are killed while callers come and go, and every answer is judged character by character. */
const options = readOptionsOrNull()
if (options === null) process.exit(2)
const sound = await (options.mode === 'all' ? all(options) : peers(options))
console.log(`\n${sound ? 'Nothing is broken' : 'Something is broken'}. To repeat: ${commandOf(options)}`)
process.exit(sound ? 0 : 1)

function readOptionsOrNull(): ReturnType<typeof readOptions> | null {
  try {
    return readOptions(process.argv.slice(2), () => randomInt(1, 2 ** 31))
  } catch (error) {
    console.error(`${error instanceof Error ? error.message : String(error)}\n${USAGE}`)
    return null
  }
}
