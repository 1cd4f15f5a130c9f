-- Who may be in the fleet: workers that were cut off or put away, tokens that one worker may join with, clouds that take nothing new.

alter table workers
  -- From here on its identity is refused.
  add column revoked_at timestamptz,
  -- Put away by a person; one that comes back is there again.
  add column archived_at timestamptz,
  -- It said goodbye before it went, so that its absence is no alarm.
  add column drained boolean not null default false;

alter table keys
  add column single_use boolean not null default false,
  -- The worker that joined with it first; from then on it is that worker's own.
  add column spent_by uuid,
  add constraint invite_is_for_workers check (not single_use or kind = 'worker'),
  add constraint only_invites_are_spent check (spent_by is null or single_use);

alter table providers
  add column drained_at timestamptz,
  add column drained_by text,
  add constraint drained_by_somebody check ((drained_at is null) = (drained_by is null)),
  -- A credential may get another name.
  drop constraint providers_credential_fkey,
  add constraint providers_credential_fkey foreign key (credential) references credentials (name) on update cascade;
