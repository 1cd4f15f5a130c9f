import { readCoordinatorConfig } from './config.ts'
import { Fault } from './core/fault.ts'
import { Db, reach } from './store/db.ts'
import { migrate } from './store/migrate.ts'

/** For those who want to migrate before they start the new version; a coordinator does it by itself. */
export async function runMigrate(env: NodeJS.ProcessEnv): Promise<void> {
  const { databaseUrl } = readCoordinatorConfig(env)
  if (databaseUrl === undefined)
    throw new Fault('no_database', 'Set DATABASE_URL. The embedded PostgreSQL is migrated by the coordinator when it starts.')
  const db = new Db({ url: databaseUrl })
  try {
    await reach(db)
    const applied = await migrate(db)
    console.log(applied.length === 0 ? 'The schema is up to date.' : `Applied migrations ${applied.join(', ')}.`)
  } finally {
    await db.close()
  }
}
