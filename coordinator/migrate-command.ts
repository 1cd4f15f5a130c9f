import { readCoordinatorConfig } from './config.ts'
import { Fault } from './core/fault.ts'
import { Db } from './store/db.ts'
import { migrate } from './store/migrate.ts'

/** For those who want to migrate before they start the new version; a coordinator does it by itself. */
export async function runMigrate(env: NodeJS.ProcessEnv): Promise<void> {
  const { databaseUrl } = readCoordinatorConfig(env)
  if (databaseUrl === undefined)
    throw new Fault('no_database', 'Set DATABASE_URL. The embedded PostgreSQL is migrated by the coordinator when it starts.')
  const db = new Db({ url: databaseUrl })
  const applied = await migrate(db)
  await db.close()
  console.log(applied.length === 0 ? 'The schema is up to date.' : `Applied migrations ${applied.join(', ')}.`)
}
