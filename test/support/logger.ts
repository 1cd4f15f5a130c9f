import { once } from 'node:events'
import { LogOutput } from '../../proto/log-output.ts'

/** Writes so many lines at once, says by its channel that it goes on, and ends when it is told to. */
const output = new LogOutput()
const end = once(process, 'message')
for (let line = 0; line < Number(process.argv[2]); line++) output.write(`line ${line} ${'x'.repeat(100)}\n`)
process.send?.('alive')
await end
await output.drained()
output.write('last\n')
await output.drained()
process.exit()
