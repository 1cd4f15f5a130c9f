-- The queue: who owns a live job, how it waits, what it belongs to, and what is owed to its caller afterwards.

-- A coordinator's right to its jobs. One row per process; whoever finds a lease expired deletes the row and takes its jobs.
create table coordinators (
  id uuid primary key,
  -- Kept in the data directory: a process that starts again from there takes over its predecessor's jobs at once.
  installation text not null,
  version text not null,
  started_at timestamptz not null default now(),
  lease_until timestamptz not null
);

alter table teams
  add column weight double precision not null default 1 check (weight > 0),
  add column max_parallel integer check (max_parallel > 0),
  -- Signs callbacks; encrypted with the master key.
  add column webhook_secret bytea,
  add column archived_at timestamptz;

alter table keys
  add column expires_at timestamptz,
  add column last_four text not null default '';

alter table jobs
  -- The coordinators row that runs it. Null on an ended job that nobody owns, or on one that waits to be adopted.
  add column owner uuid,
  add column priority text not null default 'normal' check (priority in ('interactive', 'normal', 'batch')),
  add column max_wait_ms bigint check (max_wait_ms > 0),
  add column max_run_ms bigint check (max_run_ms > 0),
  -- Estimated tokens, prompt and answer: what fair sharing charges until the answer is there.
  add column cost integer not null default 0 check (cost >= 0),
  -- Attempts in a row that brought nothing, and all that failed; they outlive the coordinator's memory.
  add column strikes integer not null default 0,
  add column failures integer not null default 0,
  add column batch uuid,
  add column row_key text,
  add constraint row_key_needs_batch check (row_key is null or batch is not null);
create index jobs_batch on jobs (batch, id) where batch is not null;

-- A POST repeated with the same key is the same job or batch. The hash is of method, path and body.
create table idempotency_keys (
  team text not null,
  key text not null,
  request_hash bytea not null check (length(request_hash) = 32),
  job uuid,
  batch uuid,
  file uuid,
  created_at timestamptz not null default now(),
  primary key (team, key),
  constraint names_one_thing check (num_nonnulls(job, batch, file) = 1)
);
create index idempotency_keys_age on idempotency_keys (created_at);

create table files (
  id uuid primary key,
  team text not null,
  name text not null,
  purpose text not null,
  bytes bigint not null,
  content bytea not null,
  created_at timestamptz not null default now()
);
create index files_team on files (team, id);

create table batches (
  id uuid primary key,
  team text not null,
  rows integer not null check (rows > 0),
  -- The OpenAI dialect's view of a batch; null on one that came by /api/batches.
  endpoint text,
  input_file uuid,
  metadata json,
  trace_id uuid not null,
  created_at timestamptz not null default now(),
  cancelled_at timestamptz
);
create index batches_team on batches (team, id);

-- One signed message that is owed to a caller. `waiting` until its job has ended.
create table callbacks (
  id uuid primary key,
  job uuid not null,
  team text not null,
  url text not null,
  trace_id uuid not null,
  state text not null default 'waiting' check (state in ('waiting', 'pending', 'delivered', 'failed')),
  attempts integer not null default 0,
  -- When the next try is due; a wake-up that is lost is found by the sweep over this.
  due_at timestamptz,
  last_status integer,
  last_error text,
  created_at timestamptz not null default now(),
  delivered_at timestamptz,
  constraint pending_is_due check ((state = 'pending') = (due_at is not null)),
  constraint delivered_has_time check ((state = 'delivered') = (delivered_at is not null))
);
create index callbacks_due on callbacks (due_at) where state = 'pending';
create index callbacks_waiting on callbacks (job) where state = 'waiting';
create index callbacks_job on callbacks (job);
