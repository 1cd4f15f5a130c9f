import type { Db } from '../../coordinator/store/db.ts'

/** What holds of every job and every event, whatever happened: one sentence for each row of which it does not. */
export async function unsoundRows(db: Db): Promise<string[]> {
  const jobs = await db.query(`select id, status, ${FAULTS_OF_A_JOB} as fault from jobs where ${FAULTS_OF_A_JOB} is not null`)
  const events = await db.query(
    `select id, type, severity from events where severity not in ('debug', 'info', 'warning', 'error') or type !~ '^[a-z_]+\\.[a-z_]+$'`,
  )
  return [
    ...jobs.map(({ id, status, fault }) => `job ${String(id)}, ${String(status)}: ${String(fault)}`),
    ...events.map(({ id, type, severity }) => `event ${String(id)}: ${String(type)} is ${String(severity)}`),
  ]
}

const FAULTS_OF_A_JOB = `case
  when status not in ('queued', 'running', 'parked', 'succeeded', 'failed', 'cancelled') then 'no such status'
  when status = 'running' and (worker is null or attempt_started_at is null) then 'it runs nowhere'
  when status in ('failed', 'parked') and error is null then 'nobody says why'
  when type not in ('chat', 'completion', 'embedding', 'rerank') then 'no such type'
  when tier not in ('gpu', 'cli', 'cloud') or pinned_tier not in ('gpu', 'cli', 'cloud') then 'no such tier'
  when priority not in ('interactive', 'normal', 'batch') then 'no such priority'
  when attempt < 0 or cost < 0 or max_wait_ms <= 0 or max_run_ms <= 0 then 'a number that cannot be'
  when row_key is not null and batch is null then 'a row of no batch'
end`
