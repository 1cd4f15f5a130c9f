/** `npm run bench -- <name>`: one table of figures, as ratios against a peer or a limit measured in the same run. */
const BENCHES: Record<string, () => Promise<{ run(): Promise<void> }>> = {
  backlog: () => import('./backlog.ts'),
  dispatch: () => import('./dispatch.ts'),
  durable: () => import('./durable.ts'),
  engine: () => import('./engine.ts'),
  fairness: () => import('./fairness.ts'),
  gateway: () => import('./gateway.ts'),
  overhead: () => import('./overhead.ts'),
  prefix: () => import('./prefix.ts'),
  stream: () => import('./stream.ts'),
}

const load = BENCHES[process.argv[2] ?? '']
if (load === undefined) {
  console.error(`Usage: npm run bench -- ${Object.keys(BENCHES).join(' | ')}`)
  process.exit(2)
}
await (await load()).run()
process.exit(0)
