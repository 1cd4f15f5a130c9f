import { EmbeddedPostgres } from '../../coordinator/store/embedded.ts'

/** Run by template.ts as a process of its own: where that runs, packages cannot be looked up. */
const quiet = { info: () => {}, warn: () => {}, error: () => {}, debug: () => {} }
const postgres = await EmbeddedPostgres.start(process.argv[2] ?? '', quiet)
await postgres.stop()
