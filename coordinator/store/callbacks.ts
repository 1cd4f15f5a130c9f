import type { Db, Query } from './db.ts'
import { milliseconds, millisecondsOrNull, number, numberOrNull, text, textOrNull } from './rows.ts'

/**
 * The messages owed to callers:
 *
 *   waiting ── job ended ──▶ pending ── 2xx ──▶ delivered
 *      ▲                      │  ▲ │
 *      └─ job released again ─┘  └─┘ tried: due later ── last try, or nobody to send to ──▶ failed
 *
 * `attempts` counts the tries and is the version of the row: whoever takes or settles a try names the one it knows, so
 * of two coordinators only one has it.
 */

/** `url`: where it goes, which who is to take turns needs to know. */
export type DueCallback = { id: string; version: number; url: string }

/** One try, held by whoever took it until its claim runs out. */
export type CallbackTry = { id: string; job: string; team: string; url: string; traceId: string; attempts: number }

export type CallbackRecord = {
  id: string
  url: string
  state: 'waiting' | 'pending' | 'delivered' | 'failed'
  attempts: number
  dueMs: number | null
  lastStatus: number | null
  lastError: string | null
  createdMs: number
  deliveredMs: number | null
}

/** What a try that did not deliver brought: a status when the receiver answered, and what to tell people. */
export type Failure = { status: number | null; error: string }

/** Of the jobs given, or of all. Without jobs it looks at everything that waits, which is for a sweep to do. */
export async function makeDueWhereJobsEnded(db: Db, jobs: string[] | null = null): Promise<DueCallback[]> {
  const rows = await db.query(
    `update callbacks set state = 'pending', due_at = now()
      where state = 'waiting' and ($1::uuid[] is null or job = any($1))
        and exists (select from jobs
                     where jobs.id = callbacks.job and jobs.status in ('succeeded', 'failed', 'cancelled', 'parked'))
      returning id, attempts, url`,
    [jobs],
  )
  return rows.map(dueCallback)
}

/**
 * A parked job that somebody acts on ends once more, and its caller is told of that by a message of its own; what was still
 * to be told of the parking is not told any more. False when nobody asked to be told.
 */
export async function oweAgain(query: Query, job: string, id: string): Promise<boolean> {
  await query(
    `update callbacks set state = 'failed', due_at = null, last_error = 'The job was released or cancelled before this was told.'
      where job = $1 and state in ('waiting', 'pending')`,
    [job],
  )
  const rows = await query(
    `insert into callbacks (id, job, team, url, trace_id)
     select $2, job, team, url, trace_id from callbacks where job = $1 order by id limit 1 returning id`,
    [job, id],
  )
  return rows.length > 0
}

/** Which of the jobs have a caller to be told of their end. */
export async function waitingCallbacks(db: Db, jobs: string[]): Promise<Set<string>> {
  const rows = await db.query(`select job from callbacks where state = 'waiting' and job = any($1)`, [jobs])
  return new Set(rows.map((row) => text(row.job)))
}

/** The longest due of every receiver before the next of any. */
export async function findDue(db: Db, limit: number, ofOneReceiver: number): Promise<DueCallback[]> {
  const rows = await db.query(
    `select id, attempts, url from (
       select id, attempts, url, due_at, row_number() over (partition by lower(substring(url from '://([^/?#]+)')) order by due_at) as place
         from callbacks where state = 'pending' and due_at <= now()) as due
      where place <= $2 order by place, due_at limit $1`,
    [limit, ofOneReceiver],
  )
  return rows.map(dueCallback)
}

/** Undefined when it is not as it was any more. */
export async function findCallback(db: Db, id: string, version: number): Promise<DueCallback | undefined> {
  const row = await db.maybeOne(`select id, attempts, url from callbacks where id = $1 and attempts = $2 and state = 'pending'`, [
    id,
    version,
  ])
  return row === undefined ? undefined : dueCallback(row)
}

/** Undefined when another has taken it or it is not due. A taker that dies leaves it due again when the claim ends. */
export async function takeDue(db: Db, due: Pick<DueCallback, 'id' | 'version'>, claimMs: number): Promise<CallbackTry | undefined> {
  const row = await db.maybeOne(
    `update callbacks set attempts = attempts + 1, due_at = now() + $3 * interval '1 ms'
      where id = $1 and state = 'pending' and attempts = $2 and due_at <= now()
      returning id, job, team, url, trace_id, attempts`,
    [due.id, due.version, claimMs],
  )
  if (row === undefined) return undefined
  return {
    id: text(row.id),
    job: text(row.job),
    team: text(row.team),
    url: text(row.url),
    traceId: text(row.trace_id),
    attempts: number(row.attempts),
  }
}

export async function settleDelivered(db: Db, tried: CallbackTry, status: number): Promise<void> {
  await db.query(
    `update callbacks set state = 'delivered', delivered_at = now(), due_at = null, last_status = $3, last_error = null
      where id = $1 and state = 'pending' and attempts = $2`,
    [tried.id, tried.attempts, status],
  )
}

/** Answers when the next try is due, or undefined when this try is no longer the latest. */
export async function settleRetry(db: Db, tried: CallbackTry, failure: Failure, delayMs: number): Promise<number | undefined> {
  const row = await db.maybeOne(
    `update callbacks set due_at = now() + $5 * interval '1 ms', last_status = $3, last_error = $4
      where id = $1 and state = 'pending' and attempts = $2
      returning due_at`,
    [tried.id, tried.attempts, failure.status, failure.error, delayMs],
  )
  return row === undefined ? undefined : milliseconds(row.due_at)
}

/** True when it was this try that ended it, so that its event is written once. */
export async function settleFailed(db: Db, tried: CallbackTry, failure: Failure): Promise<boolean> {
  const rows = await db.query(
    `update callbacks set state = 'failed', due_at = null, last_status = $3, last_error = $4
      where id = $1 and state = 'pending' and attempts = $2
      returning id`,
    [tried.id, tried.attempts, failure.status, failure.error],
  )
  return rows.length > 0
}

/** For a parked job that was released before its message went out: it is not ended after all. */
export async function settleUntilEnd(db: Db, tried: CallbackTry): Promise<void> {
  await db.query(
    `update callbacks set state = 'waiting', due_at = null, attempts = 0 where id = $1 and state = 'pending' and attempts = $2`,
    [tried.id, tried.attempts],
  )
}

export async function listOf(db: Db, job: string): Promise<CallbackRecord[]> {
  const rows = await db.query('select * from callbacks where job = $1 order by id', [job])
  return rows.map((row) => ({
    id: text(row.id),
    url: text(row.url),
    state: text(row.state) as CallbackRecord['state'],
    attempts: number(row.attempts),
    dueMs: millisecondsOrNull(row.due_at),
    lastStatus: numberOrNull(row.last_status),
    lastError: textOrNull(row.last_error),
    createdMs: milliseconds(row.created_at),
    deliveredMs: millisecondsOrNull(row.delivered_at),
  }))
}

/** The team's signing secret as the vault sealed it. */
export async function findWebhookSecret(db: Db, team: string): Promise<Buffer | undefined> {
  const row = await db.maybeOne('select webhook_secret from teams where name = $1', [team])
  return Buffer.isBuffer(row?.webhook_secret) ? row.webhook_secret : undefined
}

function dueCallback(row: Record<string, unknown>): DueCallback {
  return { id: text(row.id), version: number(row.attempts), url: text(row.url) }
}
