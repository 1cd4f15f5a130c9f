-- The ledger: what was asked, what became of it, and everything that happened on the way.
-- History is partitioned by day on the UUIDv7 id, whose first 48 bits are the time: the id alone finds the partition,
-- and old days are dropped whole.

create table teams (
  id uuid primary key,
  name text not null unique,
  created_at timestamptz not null default now()
);

create table keys (
  id uuid primary key,
  name text not null,
  kind text not null check (kind in ('bootstrap', 'personal', 'team', 'worker', 'intake')),
  team text not null references teams (name),
  -- SHA-256 of a random key. A slow hash would protect nothing here and make every request, and every flood, expensive.
  hash bytea not null unique check (length(hash) = 32),
  created_at timestamptz not null default now(),
  revoked_at timestamptz
);

create table workers (
  id uuid primary key,
  name text not null,
  state text not null check (state in ('online', 'suspect', 'draining', 'offline')),
  version text not null default '',
  models jsonb not null default '[]',
  host jsonb not null default '{}',
  joined_at timestamptz not null default now(),
  seen_at timestamptz not null default now(),
  -- Set when another machine took over the name; such a worker is history.
  replaced_at timestamptz
);
create unique index workers_name on workers (name) where replaced_at is null;

create table jobs (
  id uuid not null primary key,
  -- Grows with every change, so that a batch sent twice after a broken connection changes nothing the second time.
  version integer not null,
  status text not null check (status in ('queued', 'running', 'succeeded', 'failed', 'cancelled', 'parked')),
  type text not null check (type in ('chat', 'completion')),
  team text not null,
  model text not null,
  pinned_provider text,
  detached boolean not null,
  seed bigint not null,
  trace_id uuid not null,
  created_at timestamptz not null,
  started_at timestamptz,
  finished_at timestamptz,
  attempt integer not null default 0 check (attempt >= 0),
  attempt_started_at timestamptz,
  worker uuid,
  worker_name text,
  tier text check (tier in ('gpu', 'cli', 'cloud')),
  model_sha256 text,
  queue_ms integer,
  first_token_ms integer,
  prompt_tokens integer,
  completion_tokens integer,
  cached_tokens integer,
  cost_micros bigint not null default 0,
  finish_reason text,
  error json,
  constraint final_has_finish_time check ((status in ('succeeded', 'failed', 'cancelled')) = (finished_at is not null)),
  constraint running_has_worker check (status <> 'running' or (worker is not null and attempt > 0 and attempt_started_at is not null)),
  constraint failure_has_error check (status not in ('failed', 'parked') or error is not null)
) partition by range (id);
-- What a starting coordinator has to pick up; empty but for live work.
create index jobs_live on jobs (id) where status in ('queued', 'running');

-- Payloads stand beside the rows: a reader without the right to prompts never touches them.
create table job_requests (
  job uuid not null primary key,
  request json not null
) partition by range (job);

create table job_outputs (
  job uuid not null primary key,
  output json not null
) partition by range (job);

-- Text delivered by a running job, appended about once a second, removed when the job ends.
create table job_progress (
  job uuid not null,
  first_token integer not null,
  token_ids integer[] not null,
  text text not null,
  primary key (job, first_token)
);

-- Attempts that failed or were followed by another. The one that runs, and the one that brought the answer, stand in
-- their job's row: nearly every job has just that one.
create table attempts (
  job uuid not null,
  number integer not null check (number > 0),
  status text not null check (status in ('failed', 'lost', 'refused')),
  worker uuid,
  worker_name text,
  tier text,
  started_at timestamptz not null,
  finished_at timestamptz not null,
  tokens integer not null,
  error json,
  trace_id uuid not null,
  primary key (job, number)
) partition by range (job);

create table events (
  id uuid not null primary key,
  at timestamptz not null,
  severity text not null check (severity in ('debug', 'info', 'warning', 'error')),
  type text not null,
  actor text not null,
  team text,
  job uuid,
  run uuid,
  thread uuid,
  provider text,
  worker text,
  trace_id uuid,
  details json not null
) partition by range (id);
create index events_trace on events (trace_id) where trace_id is not null;

create table jobs_default partition of jobs default;
create table job_requests_default partition of job_requests default;
create table job_outputs_default partition of job_outputs default;
create table attempts_default partition of attempts default;
create table events_default partition of events default;
