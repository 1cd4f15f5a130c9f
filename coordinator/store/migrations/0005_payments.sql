-- What calls to clouds have cost: one row per attempt that cost something, whatever became of its job. A job may be paid for
-- on another day than it was made on, and more than one provider may be paid for it.

create table payments (
  job uuid not null,
  attempt integer not null,
  -- When it became known; limits of a day and a month are about this.
  at timestamptz not null,
  provider text not null,
  team text not null,
  policy text,
  key uuid,
  micros bigint not null check (micros > 0),
  primary key (job, attempt)
);
create index payments_at on payments (at);

-- What was paid so far was booked on the provider that ended the job.
insert into payments (job, attempt, at, provider, team, policy, key, micros)
  select id, attempt, coalesce(finished_at, created_at), coalesce(worker_name, ''), team, policy, key, cost_micros
    from jobs where cost_micros > 0;
drop index jobs_paid;

-- A price that nobody set used to be stored as one of nothing.
update providers set models = (
  select json_agg(
    case when (model->>'inputMicros')::bigint = 0 and (model->>'outputMicros')::bigint = 0
      then (model::jsonb || '{"inputMicros": null, "outputMicros": null}')::json
      else model
    end)
    from json_array_elements(models) as model)
  where models is not null;
