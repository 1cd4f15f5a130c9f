-- Providers that the coordinator calls itself, what they are paid with, and who may spend how much where.

-- Sealed with the master key; never read back.
create table credentials (
  id uuid primary key,
  name text not null unique,
  sealed bytea not null,
  -- Grows with every rotation: a provider that was parked for its credential tries again with a new one.
  version integer not null default 1,
  created_at timestamptz not null default now(),
  rotated_at timestamptz,
  revoked_at timestamptz
);

create table providers (
  id uuid primary key,
  name text not null,
  tier text not null check (tier in ('cloud')),
  kind text not null check (kind in ('openai', 'anthropic')),
  base_url text not null,
  credential text references credentials (name),
  -- Null: whatever the provider lists.
  models json,
  max_parallel integer not null check (max_parallel > 0),
  requests_per_minute integer check (requests_per_minute > 0),
  tokens_per_minute integer check (tokens_per_minute > 0),
  spend_micros_per_day bigint check (spend_micros_per_day >= 0),
  spend_micros_per_month bigint check (spend_micros_per_month >= 0),
  first_token_timeout_ms integer check (first_token_timeout_ms > 0),
  next_token_timeout_ms integer check (next_token_timeout_ms > 0),
  version integer not null default 1,
  created_at timestamptz not null default now(),
  archived_at timestamptz
);
create unique index providers_name on providers (name) where archived_at is null;

create table policies (
  id uuid primary key,
  name text not null,
  -- Per tier: a number of milliseconds, "when_offline" or "never".
  tiers json not null,
  spend_micros_per_day bigint check (spend_micros_per_day >= 0),
  created_at timestamptz not null default now(),
  archived_at timestamptz
);
create unique index policies_name on policies (name) where archived_at is null;

-- Another name for a model. One that leads to another alias is followed; a circle is refused when it is made.
create table model_aliases (
  name text primary key,
  target text not null check (target <> name),
  created_at timestamptz not null default now()
);

create table users (
  id uuid primary key,
  email text not null,
  name text not null,
  role text not null check (role in ('owner', 'admin', 'operator', 'approver', 'member', 'viewer')),
  teams text[] not null default '{}',
  created_at timestamptz not null default now(),
  archived_at timestamptz
);
create unique index users_email on users (lower(email)) where archived_at is null;

alter table teams
  add column policy text,
  add column spend_micros_per_day bigint check (spend_micros_per_day >= 0),
  add column spend_micros_per_month bigint check (spend_micros_per_month >= 0);

alter table keys
  alter column team drop not null,
  add column owner uuid references users (id),
  -- Null: all.
  add column scopes text[],
  add column models text[],
  add column tiers text[],
  add column requests_per_minute integer check (requests_per_minute > 0),
  add column spend_micros_per_day bigint check (spend_micros_per_day >= 0),
  add constraint team_or_owner check (team is not null or owner is not null or kind = 'worker');

alter table jobs
  -- Who asked: a key's spending is the sum of its jobs'.
  add column key uuid;
-- What was paid, by time: sums of a day or a month read nothing else.
create index jobs_paid on jobs (id) where cost_micros > 0;
