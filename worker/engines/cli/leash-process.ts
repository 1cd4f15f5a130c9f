import { clearJob } from './job-folder.ts'
import type { ToKeeper } from './leash.ts'

/** The process behind `leash.ts`. */
const held = new Set<string>()
// A Ctrl-C in a terminal, or a signal to all, is for the worker to act on: it drains, and closes the channel when it is done.
for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, () => {})
process.on('message', ({ kind, root }: ToKeeper) => {
  if (kind === 'hold') held.add(root)
  else held.delete(root)
})
process.once('disconnect', () => {
  Promise.all([...held].map(clearJob)).then(
    () => process.exit(0),
    () => process.exit(1),
  )
})
