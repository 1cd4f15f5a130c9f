-- PostgreSQL reads the checks of a table anew for every statement that writes to it: the sixteen of jobs and events were up to
-- a third of what a small statement cost. What must never be, an end without its time or a time without its end, is one check
-- now, a short one. The rest is left to the one writer of typed records; test/support/sound.ts holds every database of the
-- suite against it.

do $$
declare
  redundant record;
begin
  for redundant in
    select conrelid::regclass as owner, conname as name
      from pg_constraint
      where contype = 'c'
        and (conrelid in ('jobs'::regclass, 'events'::regclass)
          or conrelid in (select inhrelid from pg_inherits where inhparent in ('jobs'::regclass, 'events'::regclass)))
      -- Those of the parents first: their partitions may have a copy of their own left.
      order by coninhcount
  loop
    execute format('alter table %s drop constraint if exists %I', redundant.owner, redundant.name);
  end loop;
end
$$;

alter table jobs add constraint status_is_true check ((finished_at is null) = (status in ('queued', 'running', 'parked')));

-- The same jobs and the parked ones, by a condition that costs next to nothing to evaluate.
drop index jobs_live;
create index jobs_live on jobs (id) where finished_at is null;
